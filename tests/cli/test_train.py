"""`xdev train digits`: one loop on every backend, whose numbers agree, and what it refuses."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import xdev
from xdev import registry
from xdev.cli import app, job
from xdev.cli.digits import load
from xdev.cli.progress import LINES, progress
from xdev.errors import BackendUnavailable

pytest.importorskip("sklearn")

BACKENDS = ("numpy", "torch", "jax", "strict", "cupy")
ACCURACY = 0.97
RUN_KEYS = {
    "device",
    "final_train_loss",
    "test_accuracy",
    "steps_per_second",
    "to_device_bytes",
    "to_host_bytes",
    "seconds",
}


def invoke(*arguments):
    return CliRunner().invoke(app, ["train", "digits", *map(str, arguments)])


def train(out, *arguments):
    """Run the job with --json and return (its object, its records)."""
    result = invoke("--out", out, "--json", *arguments)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    lines = (out / Path(content["folder"]).name / "metrics.jsonl").read_text().splitlines()
    return content, [json.loads(line) for line in lines]


def usable():
    found = []
    for name in BACKENDS:
        try:
            xdev.device(name)
        except BackendUnavailable:
            continue
        found.append(name)
    return found


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The job as it is by default, on one device of each backend."""
    return train(tmp_path_factory.mktemp("single"), "--device", ",".join(usable()), "--name", "run")


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    """A short run in float64."""
    out = tmp_path_factory.mktemp("double")
    return train(out, "--device", ",".join(usable()), "--dtype", "float64", "--epochs", 4)


# -- the numbers -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_backend_learns_the_digits(single):
    runs = single[0]["runs"]
    assert [run["device"].partition(":")[0] for run in runs] == usable()
    assert {run["device"]: run["test_accuracy"] for run in runs if run["test_accuracy"] < ACCURACY} == {}


@pytest.mark.slow
def test_final_losses_agree_in_float32(single):
    losses = [run["final_train_loss"] for run in single[0]["runs"]]
    assert max(losses) - min(losses) <= max(1e-3, 0.01 * min(losses))


def test_final_losses_agree_in_float64(double):
    losses = [run["final_train_loss"] for run in double[0]["runs"]]
    assert max(losses) - min(losses) <= 1e-6 * min(losses)


def test_every_epoch_agrees_in_float64(double):
    # With other batches or another order the epochs' losses would differ in the third digit.
    by_device = {}
    for record in double[1]:
        by_device.setdefault(record["device"], []).append(record["loss"])
    first, *others = by_device.values()
    assert len(first) == 4
    for losses in others:
        np.testing.assert_allclose(losses, first, rtol=1e-9)


def test_batches_are_the_same_everywhere(device):
    x, y = load()[:2]
    order = {"batch_size": 128, "shuffle": True, "seed": 3}
    here = xdev.data.Loader((x, y.astype(np.int32)), device=device, **order)
    there = xdev.data.Loader((x, y.astype(np.int32)), device="numpy", **order)
    for epoch in range(2):
        for batch, expected in zip(here, there, strict=True):
            for array, wanted in zip(xdev.to_numpy(batch), expected, strict=True):
                assert array.tobytes() == wanted.tobytes(), epoch


def test_the_second_run_is_bit_identical(tmp_path, device):
    for name in ("first", "second"):
        train(tmp_path, "--device", device, "--epochs", 2, "--name", name, "--seed", 5)
    stem = job.file_stem(device)
    first, second = ((tmp_path / name / f"{stem}.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


def test_another_seed_is_another_run(tmp_path):
    losses = {train(tmp_path, "--device", "numpy", "--epochs", 1, "--seed", seed)[1][0]["loss"] for seed in (0, 1)}
    assert len(losses) == 2


def test_the_split_is_fixed_and_covers_every_digit():
    data = load()
    assert len(data.x_train) == 1437
    assert len(data.x_test) == 360
    rows = np.concatenate([data.x_train, data.x_test])
    assert rows.dtype == np.float32
    assert (rows.min(), rows.max()) == (0, 1)
    from sklearn.datasets import load_digits

    pixels = load_digits().data.astype(np.float32) / 16
    assert sorted(map(bytes, rows)) == sorted(map(bytes, pixels))


# -- what it reports ---------------------------------------------------------------------------------


def test_json_has_what_was_promised(double):
    content, records = double
    assert {"runs", "skipped"} <= set(content)
    for run in content["runs"]:
        assert set(run) >= RUN_KEYS
        assert set(run["seconds"]) == {"initialise", "move", "train", "bring_back"}
        assert all(seconds >= 0 for seconds in run["seconds"].values())
        assert run["steps_per_second"] > 0
        assert run["first_step_seconds"] > 0
    assert [(r["epoch"], r["step"]) for r in records[:4]] == [(1, 12), (2, 24), (3, 36), (4, 48)]


def test_bytes_are_those_of_data_model_and_results(double):
    weights = 8 * sum((rows + 1) * columns for rows, columns in zip(job.SIZES, job.SIZES[1:], strict=False))
    pixels = 8 * 1437 * 64
    for run in double[0]["runs"]:
        if run["device"].startswith("numpy"):
            assert (run["to_device_bytes"], run["to_host_bytes"]) == (0, 0)
        else:
            assert run["to_device_bytes"] > weights + pixels
            assert weights < run["to_host_bytes"] < weights + 4096  # the losses of 48 steps come back, too


def test_the_folder_holds_models_and_curves(double):
    folder = Path(double[0]["folder"])
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    for run in double[0]["runs"]:
        like = xdev.nn.MLP(job.SIZES, rng=xdev.random.Generator(1, "numpy"), dtype="float64")
        model = xdev.load(folder / run["model"], like=like)
        x, y = load()[2:]
        accuracy = (xdev.predict(model, x).argmax(axis=1) == y).mean()
        assert accuracy == pytest.approx(run["test_accuracy"], abs=0.01)


def test_the_table_has_a_line_for_each_device(tmp_path):
    result = invoke("--device", "numpy", "--epochs", 1, "--out", tmp_path)
    assert result.exit_code == 0
    assert "numpy:cpu:0  epoch 1/1" in result.stdout
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("numpy:cpu:0") and "epoch" not in line)
    assert len(line.split()) == 11
    assert result.stderr == ""


def test_standard_output_is_json_alone(tmp_path):
    code = "import sys; from xdev.cli import main; sys.argv[0] = 'xdev'; main()"
    command = [sys.executable, "-W", "error", "-c", code, "train", "digits", "--json", "--device", "numpy"]
    done = subprocess.run(
        [*command, "--epochs", "1", "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"][0]["device"] == "numpy:cpu:0"
    assert "epoch 1/1" in done.stderr


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere():
    seen = {}
    for terminal in (True, False):
        out = io.StringIO()
        screen = Console(file=out, force_terminal=terminal, width=80)
        with progress(screen, 40) as report, report.device("numpy:cpu:0") as show:
            for epoch in range(1, 41):
                show(epoch, 1 / epoch)
        seen[terminal] = out.getvalue()
    assert "━" in seen[True]
    assert "40/40" in seen[True]
    assert len(seen[False].splitlines()) == LINES
    assert seen[False].splitlines()[-1] == "numpy:cpu:0  epoch 40/40  loss 0.0250"


# -- what cannot be done -----------------------------------------------------------------------------


def nothing_is_trained(monkeypatch):
    def refuse(*_):
        raise AssertionError("training began")

    monkeypatch.setattr(job, "train_on", refuse)


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    nothing_is_trained(monkeypatch)
    (tmp_path / "file").write_text("in the way")
    result = invoke("--device", "numpy", "--out", tmp_path / "file" / "runs")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: cannot write to ")
    assert "--out" in result.stderr
    assert "Traceback" not in result.output


def test_no_run_is_overwritten(tmp_path, monkeypatch):
    nothing_is_trained(monkeypatch)
    (tmp_path / "mine").mkdir()
    result = invoke("--device", "numpy", "--out", tmp_path, "--name", "mine")
    assert result.exit_code == 2
    assert "is there already" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--device", "numpie"], 2, "did you mean 'numpy'?"),
        (["--device", "numpy:7"], 2, "is no device of this machine"),
        (["--device", ","], 2, "--device is empty"),
        (["--device", "numpy", "--device", "numpie"], 2, "did you mean 'numpy'?"),
        (["--device", "all", "--device", "numpie"], 2, "did you mean 'numpy'?"),
        (["--name", "../up"], 2, "is not the name of a folder"),
        (["--batch-size", "5000"], 2, "--batch-size 5000 is more than the 1437 digits to train on"),
        (["--epochs", "0"], 2, "--epochs"),
        (["--dtype", "float16"], 2, "float16"),
    ],
)
def test_errors_are_one_block_without_traceback(tmp_path, arguments, code, text):
    device = [] if "--device" in arguments else ["--device", "numpy"]
    result = invoke("--out", tmp_path, *device, *arguments)
    assert result.exit_code == code
    assert text in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.fixture
def broken():
    """Register a backend that is installed but unusable."""

    class Broken(type(xdev.backend("numpy"))):
        name = "broken"
        framework = "no_such_framework"
        is_host = False
        error = BackendUnavailable("Broken finds no driver; install one")

        def devices(self):
            raise self.error

    xdev.register(Broken)
    yield Broken
    registry.unregister("broken")


@pytest.mark.parametrize("device", ["numpy,broken", "all"])
def test_an_unusable_backend_is_a_line_with_its_reason(tmp_path, monkeypatch, broken, device):
    monkeypatch.setenv("XDEV_BACKENDS", "numpy,broken")
    result = invoke("--device", device, "--epochs", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("broken"))
    assert line.split(maxsplit=1)[1] == "skipped: Broken finds no driver; install one"
    content, _ = train(tmp_path, "--device", device, "--epochs", 1, "--name", "second")
    assert content["skipped"] == [
        {"backend": "broken", "device": "broken", "reason": "Broken finds no driver; install one"}
    ]


# -- which devices -----------------------------------------------------------------------------------


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """Return a function that runs the command and gives the devices it would train on, and what it skips."""
    monkeypatch.setenv("XDEV_BACKENDS", "numpy,strict")
    pytest.importorskip("array_api_strict")

    def refuse(where, *_):
        raise BackendUnavailable(f"asked for {where}")

    monkeypatch.setattr(job, "train_on", refuse)

    def run(*arguments):
        result = invoke("--out", tmp_path, "--json", *arguments)
        assert result.exit_code == 1, result.output
        return [entry["device"] for entry in json.loads(result.stdout)["skipped"]]

    return run


ALL = ["numpy:cpu:0", "strict:cpu:0", "strict:device1:0", "strict:device2:0"]


@pytest.mark.parametrize(
    ("arguments", "devices"),
    [
        ([], ALL),
        (["--device", "all"], ALL),
        (["--device", "strict,numpy"], ["strict:cpu:0", "numpy:cpu:0"]),
        (["--device", "strict", "--device", "numpy"], ["strict:cpu:0", "numpy:cpu:0"]),
        (["--device", "numpy", "--device", "strict:device1,numpy"], ["numpy:cpu:0", "strict:device1:0"]),
        (["--device", "strict", "--device", "all"], ALL),
        (["--device", "all,strict"], ALL),
    ],
)
def test_devices_are_those_asked_for_in_their_order(chosen, monkeypatch, arguments, devices):
    assert chosen(*arguments) == devices
    if arguments:
        monkeypatch.setenv("XDEV_DEVICE", "strict:device2")
        assert chosen(*arguments) == devices


def test_the_device_of_the_environment_is_the_default(chosen, monkeypatch):
    monkeypatch.setenv("XDEV_DEVICE", "strict:device1")
    assert chosen() == ["strict:device1:0"]
    monkeypatch.setenv("XDEV_DEVICE", "")
    assert chosen() == ALL


def test_a_wrong_device_in_the_environment_says_where_it_came_from(tmp_path, monkeypatch):
    nothing_is_trained(monkeypatch)
    monkeypatch.setenv("XDEV_DEVICE", "numpie")
    result = invoke("--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: XDEV_DEVICE=numpie: 'numpie' begins with 'numpie'")


def test_an_unusable_device_in_the_environment_is_a_line_with_its_reason(tmp_path, monkeypatch, broken):
    monkeypatch.setenv("XDEV_DEVICE", "broken")
    result = invoke("--out", tmp_path, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["skipped"] == [
        {
            "backend": "broken",
            "device": "broken",
            "reason": "XDEV_DEVICE=broken: Broken finds no driver; install one",
        }
    ]


def test_the_help_says_what_the_default_is():
    text = " ".join(invoke("--help").stdout.replace("│", " ").split())
    assert "may be given several times" in text
    assert "By default the one that XDEV_DEVICE names, else all." in text


def test_with_nothing_usable_the_job_fails_and_says_so(tmp_path, broken):
    result = invoke("--device", "broken", "--json", "--out", tmp_path / "runs")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["runs"] == []
    assert "no device could be used" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_device_without_float64_is_skipped(tmp_path):
    pytest.importorskip("array_api_strict")
    content, _ = train(tmp_path, "--device", "numpy,strict:no_float64", "--dtype", "float64", "--epochs", 1)
    assert [run["device"] for run in content["runs"]] == ["numpy:cpu:0"]
    (skipped,) = content["skipped"]
    assert "cannot hold float64" in skipped["reason"]


def test_a_loss_that_is_no_number_is_a_line_with_its_reason(tmp_path):
    result = invoke("--device", "numpy", "--lr", "1e30", "--epochs", 2, "--out", tmp_path, "--json")
    content = json.loads(result.stdout)
    assert result.exit_code == 1
    assert content["runs"] == []
    assert re.fullmatch(
        r"the loss became (nan|inf) at step \d+ \(seen at step 12\); choose a smaller --lr",
        content["skipped"][0]["reason"],
    )


def test_one_failing_framework_does_not_take_the_others_down(tmp_path, monkeypatch):
    pytest.importorskip("array_api_strict")
    whole = job._train_on

    def fail_on_strict(where, *rest):
        if where.backend == "strict":
            raise RuntimeError("no kernel image is available")
        return whole(where, *rest)

    monkeypatch.setattr(job, "_train_on", fail_on_strict)
    result = invoke("--device", "strict,numpy", "--epochs", 1, "--out", tmp_path, "--name", "run", "--json")
    content = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [run["device"] for run in content["runs"]] == ["numpy:cpu:0"]
    assert content["skipped"][0]["reason"].startswith("RuntimeError: no kernel image is available")
    assert "fail_on_strict" in (tmp_path / "run" / "strict-cpu-0-error.txt").read_text()


def test_without_matplotlib_the_run_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = invoke("--device", "numpy", "--epochs", 1, "--out", tmp_path, "--name", "run")
    assert result.exit_code == 0
    assert "pip install 'xdev-array[plot]'" in " ".join(result.stdout.split())
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"metrics.jsonl", "numpy-cpu-0.safetensors"}


def test_without_scikit_learn_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = invoke("--device", "numpy", "--out", tmp_path)
    assert result.exit_code == 1
    assert "pip install 'xdev-array[examples]'" in " ".join(result.stderr.split())
