"""The benchmarks run, with tiny sizes, and say what they should; no figure is asserted."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MLP = ["--sizes", "4", "6", "3", "--batch", "5"]
QUICK = ["--rounds", "2", "--passes", "1", "--seconds", "0"]
RUNS = {
    "train_step": [*QUICK, *MLP, "--frameworks", "numpy", "--loop-steps", "2"],
    "dispatch": [*QUICK, "--frameworks", "numpy", "strict", "--import-rounds", "1"],
    "random": [*QUICK, "--size", "1000", "--frameworks", "numpy"],
    "transfer": [*QUICK, "--sizes", "1024", "--counts", "1", "3"],
    "autodiff": [*QUICK, *MLP, "--links", "3", "--frameworks", "numpy"],
}


@pytest.fixture
def load(monkeypatch):
    """Import a module of the benchmarks for the length of a test."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("_harness", "_report"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module


@pytest.fixture
def harness(load):
    return load("_harness")


@pytest.fixture
def report(load):
    return load("_report")


def test_every_script_is_run_here():
    assert {path.stem for path in BENCHMARKS.glob("[a-z]*.py")} == set(RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("script", RUNS)
def test_script_runs(script, tmp_path):
    pytest.importorskip("autograd")
    path = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{script}.py", *RUNS[script], "--json", path],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert found["tables"]
    for table in found["tables"]:
        assert table["title"] in done.stdout
        assert table["reference"] in [row["case"] for row in table["rows"]]
        for row in table["rows"]:
            assert row["ratio"] > 0
            assert row["quartiles"][0] <= row["ratio"] <= row["quartiles"][1]


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_train_step_runs_on(framework, tmp_path):
    for module in (framework, *(["optax"] if framework == "jax" else [])):
        pytest.importorskip(module)
    path = tmp_path / "found.json"
    command = [
        sys.executable, BENCHMARKS / "train_step.py", *QUICK, *MLP, "--frameworks", framework, "--loop-steps", "0",
        "--json", path,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    cases = [row["case"] for row in json.loads(path.read_text())["tables"][0]["rows"]]
    assert cases == [f"{framework}: hand-written", f"{framework}: xdev"]


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
