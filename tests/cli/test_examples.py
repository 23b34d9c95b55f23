"""The examples run as they stand, and the README shows the first of them with what it prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import xdev
from xdev.errors import BackendUnavailable

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(name, *arguments):
    """Run an example in a process of its own and return what it prints."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(name):
    try:
        xdev.device(name)
    except BackendUnavailable as error:
        pytest.skip(str(error))


def test_every_example_is_tested():
    text = Path(__file__).read_text(encoding="utf-8")
    assert not [path.name for path in EXAMPLES.glob("*.py") if f'run("{path.name}"' not in text]


def test_two_backends():
    needs("torch")
    lines = run("two_backends.py").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["numpy", "torch"]
    for line in lines:
        loss, right = map(float, re.fullmatch(r"\w+:\w+:0: loss ([\d.]+), ([\d.]+)% right", line).groups())
        assert loss < 0.2
        assert right > 95


def test_the_readme_shows_two_backends():
    code = (EXAMPLES / "two_backends.py").read_text(encoding="utf-8")
    body = code.partition('"""\n\n')[2].replace("  # fmt: skip", "")
    assert body in (ROOT / "README.md").read_text(encoding="utf-8")


def test_digits():
    pytest.importorskip("sklearn")
    (line,) = run("digits.py", "numpy").splitlines()
    accuracy = re.match(r"numpy:cpu:0: ([\d.]+)% right; initialise", line)[1]
    assert float(accuracy) > 95


def test_cupy_gradients():
    needs("cupy")
    first, *matrix = run("cupy_gradients.py").splitlines()
    assert first.startswith("cupy:")
    assert len(matrix) == 3
