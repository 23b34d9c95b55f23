"""The benchmarks run, with tiny sizes, and say what they should; no figure is asserted."""

import importlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MLP = ["--sizes", "4", "6", "3", "--batch", "5"]
GPT = ["--gpt", "1", "2", "8", "4", "2", "5"]
QUICK = ["--rounds", "2", "--passes", "1", "--seconds", "0"]
RUNS = {
    "train_step": [*QUICK, *MLP, *GPT, "--frameworks", "numpy", "--loop-steps", "2"],
    "dispatch": [*QUICK, "--frameworks", "numpy", "strict", "--import-rounds", "1"],
    "random": [*QUICK, "--size", "1000", "--frameworks", "numpy"],
    "transfer": [*QUICK, "--sizes", "1024", "--counts", "1", "3", "--together"],
    "autodiff": [*QUICK, *MLP, *GPT, "--links", "3", "--frameworks", "numpy"],
    "scaling": [*QUICK, "--leaves", "1", "3", "--operations", "2", "6", "--frameworks", "numpy"],
    "soak": ["--steps", "300", "--warm-up", "150", "--devices", "numpy:cpu"],
    "memory": [*GPT, "--processes", "1", "--cases", "xdev on numpy", "xdev.jit on numpy"],
}
FRAMEWORKS = {"torch": ["torch"], "jax": ["jax", "optax"]}
LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its memory")


@pytest.fixture
def load(monkeypatch):
    """Import a module of the benchmarks for the length of a test."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    for path in BENCHMARKS.glob("*.py"):  # some have names of the standard library's modules
        if path.stem != "random":
            monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return importlib.import_module


@pytest.fixture
def harness(load):
    return load("_harness")


@pytest.fixture
def report(load):
    return load("_report")


def test_every_script_is_run_here():
    assert {path.stem for path in BENCHMARKS.glob("[a-z]*.py")} == set(RUNS)


def test_transfers_can_be_timed_in_processes_of_their_own(load):
    """Here all run in one: in nearly thirty, importing torch and JAX would be all that takes time."""
    transfer = load("transfer")
    builds = [f for name, f in vars(transfer).items() if name.startswith("build_")]
    assert len(builds) == 5
    keys = [*transfer.COPIED, *transfer.SHARED, *transfer.TREE_PAIRS.items()]
    assert pickle.loads(pickle.dumps((builds, keys))) == (builds, keys)


def run(script, *options, path):
    """Run a script in a process of its own; return what it wrote and what it printed."""
    command = [sys.executable, BENCHMARKS / f"{script}.py", *options, "--json", path]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", [pytest.param(name, marks=[LINUX] * (name == "memory")) for name in RUNS])
def test_script_runs(script, tmp_path):
    pytest.importorskip("autograd")
    found, said = run(script, *RUNS[script], path=tmp_path / "found.json")
    assert found["tables"] or found["figures"]
    for table in found["tables"]:
        assert table["title"] in said
        assert table["reference"] in [row["case"] for row in table["rows"]]
        for row in table["rows"]:
            assert row["ratio"] > 0
            assert row["quartiles"][0] <= row["ratio"] <= row["quartiles"][1]
    for table in found["figures"]:
        assert table["title"] in said
        assert table["rows"]


def needs(framework):
    for module in FRAMEWORKS[framework]:
        pytest.importorskip(module)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_train_step_runs_on(framework, tmp_path):
    needs(framework)
    options = [*QUICK, *MLP, *GPT, "--frameworks", framework, "--loop-steps", "0"]
    found, _ = run("train_step", *options, path=tmp_path / "found.json")
    for title in (f"MLP within {framework}", f"GPT within {framework}"):
        (table,) = [table for table in found["tables"] if table["title"] == title]
        assert [row["case"] for row in table["rows"]] == [f"{framework}: hand-written", f"{framework}: xdev"]


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_scaling_runs_on(framework, tmp_path):
    needs(framework)
    options = [*QUICK, "--leaves", "1", "3", "--operations", "2", "6", "--frameworks", framework]
    found, _ = run("scaling", *options, path=tmp_path / "found.json")
    for table in found["figures"]:
        assert [row["step"] for row in table["rows"]] == [f"{framework}: {x}" for x in ("by hand", "xdev", "overhead")]
        assert table["rows"][-1]["slope"]


@pytest.mark.slow
def test_all_frameworks_get_one_gradient_of_the_gpt(load):
    pytest.importorskip("autograd")
    frameworks = ["numpy", *(name for name in ("torch", "jax") if importlib.util.find_spec(name))]
    autodiff, gpt = load("autodiff"), load("_gpt")
    tasks = [autodiff.Task(name, "gpt", (), 0, 0, gpt.Shape(1, 2, 8, 4, 2, 5)) for name in frameworks]
    evidence = {case.name: case.evidence for task in tasks for case in autodiff.build(task)}
    assert {"hand-derived", "hand-derived, new arrays", "xdev on numpy", "xdev.jit on numpy"} <= set(evidence)
    assert load("_harness").check_equal(evidence, 1e-4) < 1e-4


def test_hand_derived_gradient_of_the_gpt_where_scores_are_large(load):
    gpt, by_hand = load("_gpt"), load("_gpt_numpy")
    shape = gpt.Shape(2, 2, 8, 4, 2, 5)
    params = gpt.initial_params(shape)
    for block in params["blocks"]:
        block["qkv"][0][...] *= 12  # beyond the bound within which the row maximum is left out
    tokens, labels = gpt.examples(shape)
    net = by_hand.HandDerived(params, shape)
    loss, expected = by_hand.fresh_gradient(params, tokens, labels, shape)
    assert net.gradient(tokens, labels) == pytest.approx(loss, rel=1e-5)
    for found, right in zip(gpt.leaves(net.tree_grads), gpt.leaves(expected), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-4 * np.abs(right).max())


@pytest.mark.slow
def test_steps_leave_nothing_behind(tmp_path):
    found, _ = run("soak", *RUNS["soak"], path=tmp_path / "found.json")
    assert [row["verdict"] for row in found["figures"][0]["rows"]] == ["flat", "flat"]


def test_soak_tells_growth_from_none(load):
    soak = load("soak")
    before = soak.Level(10 * soak.MEMORY, 1000, 1000)
    assert soak.Level(11 * soak.MEMORY, 1000, 1000).grown(before).flat
    assert not soak.Level(11 * soak.MEMORY + 1, 1000, 1000).grown(before).flat
    assert not soak.Level(0, 1000 + soak.OBJECTS + 1, 1000).grown(before).flat
    assert not soak.Level(0, 1000, 1000 + soak.BLOCKS + 1).grown(before).flat


def test_line_through_overheads(load):
    intercept, slope = load("scaling").line([1, 10, 100], [3.0, 21.0, 201.0], [1, 1, 10])
    assert (intercept, slope) == (pytest.approx(1), pytest.approx(2))


def test_harness_interleaves_and_rotates(harness):
    order = []
    cases = [harness.Case(name, lambda name=name: order.append(name)) for name in "ab"]
    group = harness.Cases(cases, harness.Plan(passes=2, seconds=0))
    group.round(0)  # chooses the repeats
    order.clear()
    medians = group.round(1)
    # Each sample is one run to warm up and one that is timed.
    assert "".join(order) == "bbaaaabb"
    assert set(medians) == {"a", "b"}


def test_harness_waits_before_the_clock_stops(harness):
    events = []
    now = iter(range(100))

    def clock():
        events.append("clock")
        return next(now)

    case = harness.Case(
        "a", lambda: events.append("run"), lambda result: events.append("wait"), lambda: events.append("restart")
    )
    harness.sample(case, 2, clock)
    assert events == ["restart", "run", "wait", "clock", "run", "run", "wait", "clock"]


def test_ratios_are_taken_round_by_round(report):
    # Twice as slow in each round, although the rounds differ by a factor of a thousand.
    ratio = report.Ratio.of([2.0, 2000.0, 20.0], [1.0, 1000.0, 10.0])
    assert (ratio.low, ratio.middle, ratio.high) == (2.0, 2.0, 2.0)


def test_different_losses_are_refused(harness):
    assert harness.check_equal({"a": [1.0], "b": [1.001]}, 0.01) == pytest.approx(0.001)
    with pytest.raises(ValueError, match=r"b computes something else than a: number 0 is 1\.1, not 1\.0"):
        harness.check_equal({"a": [1.0], "b": [1.1]}, 0.01)
    with pytest.raises(ValueError, match="nothing was timed"):
        harness.check_equal({"a": [1.0], "b": [float("nan")]}, 0.01)


def test_two_cases_of_one_name_are_refused(harness):
    with pytest.raises(ValueError, match="two cases of one name"):
        harness.Cases([harness.Case("a", int), harness.Case("a", int)], harness.Plan())


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (1.5e-3, "1.5 ms"), (12e-6, "12 µs"), (0.4e-6, "400 ns")]
)
def test_durations_are_readable(report, seconds, text):
    assert report.readable(seconds) == text


def test_emulated_devices_are_left_out(report, monkeypatch):
    import xdev

    class Info:
        def __init__(self, name):
            self.name = name

    class Fake:
        def __init__(self, name):
            self.info = Info(name)

        def __str__(self):
            return self.info.name

    monkeypatch.setattr(xdev, "devices", lambda: [Fake("CPU"), Fake("CuPy CPU emulation")])
    assert report.real_devices() == ["CPU"]
