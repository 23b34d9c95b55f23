"""What is made of bools, complex and Python's own numbers; `test_namespace` has the pairs of integers and floats."""

import contextlib
import itertools

import numpy as np
import pytest

import xdev
from xdev.contract import dtype_name

BACKENDS = ("numpy", "cupy", "strict", "torch", "jax")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64")
FLOATS = ("bfloat16", "float16", "float32", "float64")
COMPLEX = ("complex64", "complex128")
FREE = ("numpy", "cupy")
"""Those that find a dtype which holds both."""
HALF = np.sqrt(0.5)


def name_of(x):
    return dtype_name(x.dtype)


def with_complex(backend, other, wide):
    if other in FLOATS:
        return "complex128" if other == "float64" else wide
    if backend in FREE and int(other.strip("uint")) > 16:
        return "complex128"
    return wide


@pytest.mark.parametrize(
    ("a", "b"),
    [*(("bool", other) for other in INTEGERS + FLOATS + COMPLEX), *itertools.product(INTEGERS + FLOATS, COMPLEX)],
)
def test_promotion_of_bools_and_complex_numbers(device, xp, a, b):
    name = device.backend.name
    if name not in BACKENDS:
        pytest.skip("a backend of others")
    with xdev.precision("float64"):
        if not all(device.backend.holds(each, device.info) for each in (a, b)):
            pytest.skip(f"{device} does not hold both")
        x, y = (xp.ones(1, dtype=device.backend.dtype(each)) for each in (a, b))
        if name == "strict" and a not in FLOATS:
            for pair in ((x, y), (y, x)):
                with pytest.raises(TypeError):
                    xp.result_type(*pair)
            return
        if name == "torch" and a in ("bool", *INTEGERS) and {a, b} & {"uint16", "uint32", "uint64"}:
            with pytest.raises(RuntimeError, match="not supported"):
                xp.result_type(x, y)
            return
        expected = b if a == "bool" else with_complex(name, a, b)
        assert name_of(x + y) == name_of(y + x) == dtype_name(xp.result_type(x, y)) == expected


def with_float(backend, dtype, wide):
    """Return what is made of an array and a Python float; `wide` says whether JAX has 64 bits."""
    if dtype in FLOATS + COMPLEX:
        return dtype
    return "float64" if backend in FREE or (backend == "jax" and wide) else "float32"


@pytest.mark.parametrize("wide", [True, False], ids=["in a block of float64", "outside"])
@pytest.mark.parametrize("dtype", INTEGERS + FLOATS + COMPLEX)
def test_python_numbers_leave_the_dtype_of_floats(device, xp, dtype, wide):
    name = device.backend.name
    if name not in BACKENDS:
        pytest.skip("a backend of others")
    with xdev.precision("float64") if wide else contextlib.nullcontext():
        if not device.backend.holds(dtype, device.info):
            pytest.skip(f"{device} does not hold it")
        x = xp.ones(1, dtype=device.backend.dtype(dtype))
        assert name_of(x * 2) == name_of(2 * x) == dtype
        if name == "strict" and dtype in INTEGERS:
            with pytest.raises(TypeError):
                x * 1.5
            return
        if name == "cupy" and dtype == "bfloat16":
            assert name_of(x * 1.5) == "float32"  # ml_dtypes knows bfloat16 as no floating dtype
            return
        if name == "torch" and dtype in ("uint16", "uint32", "uint64"):
            assert name_of(x * 1.5) == "float32"
            return
        assert name_of(x * 1.5) == name_of(1.5 * x) == with_float(name, dtype, wide)
        if dtype in FLOATS:
            assert name_of(x * float(HALF)) == dtype


def test_a_numpy_scalar_of_float64_promotes_where_numpy_decides(device, xp):
    with xdev.precision("float64"):
        x = xp.ones(1, dtype=xp.float32)
        expected = {"numpy": "float64", "cupy": "float64", "jax": "float64", "torch": "float32"}
        if device.backend.name not in expected:
            pytest.skip("it takes no NumPy scalars")
        assert name_of(x * HALF) == expected[device.backend.name]
