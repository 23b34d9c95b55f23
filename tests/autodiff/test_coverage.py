"""Every function of the standard has its place among the rules, and the table of derivatives says what happens."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import array_api_strict
import pytest

from xdev import autodiff
from xdev.autodiff import TracedArray
from xdev.autodiff.rules import CONSTANT, CREATION, DEFINED, ELEMENTWISE, GENERAL, PLAIN

from .. import standard
from ..cases import CASES
from ..coverage import COMPLETE, FLAT, FRAMEWORKS, REASONS, ROWS, VALUES, cell

spec = importlib.util.spec_from_file_location(
    "coverage_table", Path(__file__).parents[2] / "docs" / "coverage_table.py"
)
coverage_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage_table)
PAGE = coverage_table.cells_of(coverage_table.PAGE.read_text(encoding="utf-8"))
WRITE_AGAIN = "run `python docs/coverage_table.py`"

NAMES = [name for names in ROWS.values() for name in names]
FUNCTIONS = [name for names in standard.FUNCTIONS.values() for name in names]
TOLD = ("__array_namespace_info__",)
"""Functions that the traced namespace passes on as they are."""


def test_the_list_of_names_has_those_of_strict():
    strict = {
        *(name for name in array_api_strict.__all__ if "flags" not in name.lower()),
        *(f"linalg.{name}" for name in array_api_strict.linalg.__all__),
        *(f"fft.{name}" for name in array_api_strict.fft.__all__),
    } - {"Device", "linalg", "fft", "__array_api_version__", "__version__"}
    ours = {*FUNCTIONS, *standard.CONSTANTS, *standard.DTYPES}
    assert strict <= ours
    assert ours - strict == {"linalg.eig", "linalg.eigvals"}
    assert array_api_strict.__array_api_version__ == standard.REVISION


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in TOLD])
def test_every_function_is_in_one_table(name):
    homes = [table for table in (ELEMENTWISE, GENERAL, DEFINED, CONSTANT, PLAIN, CREATION) if name in table]
    assert len(homes) == 1, f"{name} is in {len(homes)} tables"
    assert name in autodiff.covered_names()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_tried(name):
    assert (name in CASES) or (name in FLAT) + (name in VALUES) == 1
    assert not (name in FLAT and name in autodiff.differentiable_names())


@pytest.mark.parametrize("name", [*standard.ATTRIBUTES, *standard.METHODS, *standard.OPERATORS, *standard.REFLECTED])
def test_traced_arrays_have_every_attribute_and_operator(name):
    if name in {"__dlpack__", "__dlpack_device__"}:
        assert not hasattr(TracedArray, name)  # the memory of a traced array is not given away
    else:
        assert hasattr(TracedArray, name)


@pytest.mark.parametrize("name", standard.LEFT)
def test_operators_in_place_are_tried(name):
    assert not hasattr(TracedArray, f"__i{name[2:]}")  # Python then rebinds the name to the result
    assert (name in CASES) != (name in FLAT)  # whose calls have an in-place form each


def test_the_page_has_every_name():
    assert set(PAGE) == {(name, heading) for name in NAMES for heading in FRAMEWORKS.values()}


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_that_is_not_complete_has_a_reason(name):
    for framework, heading in FRAMEWORKS.items():
        assert (PAGE[name, heading] not in COMPLETE) == ((name, framework) in REASONS)


@pytest.mark.xdev_backends(scoped=False)
def test_the_page_says_what_happens(device):
    most = 1 if device.backend.name == "jax" else None  # which compiles every call
    expected = {}
    for name in NAMES:
        page = PAGE[name, FRAMEWORKS[device.backend.name]]
        found = cell(name, device, most if page in COMPLETE else None)
        if found != page:
            expected[name] = (page, found)
    assert not expected, f"{WRITE_AGAIN}: {expected}"
