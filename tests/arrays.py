"""Arrays for tests: every dtype and layout that each framework can have, made and read without xdev.

Requirements: what xdev says of an array is never used to say what the array should be. Values are small enough
that every dtype holds them exactly, so lists of numbers compare them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import xdev
from xdev.contract import dtype_name
from xdev.device import device_of_array, native_of

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
COMPLEX = ("complex64", "complex128")
FLOATS = ("float16", "bfloat16", "float32", "float64", *COMPLEX)
DTYPES = ("bool", *INTEGERS, *FLOATS)
SHAPE = (4, 6)

DEVICES = (
    "numpy:cpu:0", "torch:cpu:0", "jax:cpu:0", "jax:cpu:1", "strict:cpu:0", "strict:device1:0",
    "cupy:cuda:0", "cupy:cuda:1",
)  # fmt: skip
"""The devices between which everything is moved; those that this machine has not are left out."""

LACKS = {
    "numpy": {"bfloat16"},
    "torch": set(),
    "jax": {"float64", "complex128", "int64", "uint64"},  # without x64
    "strict": {"float16", "bfloat16"},
    "cupy": set(),
}
"""The dtypes that no array of a framework has; on NumPy one has it from ml_dtypes, and it does not arrive there."""


# -- values ------------------------------------------------------------------------------------------


def host_dtype(dtype):
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def host_values(dtype, shape=SHAPE):
    """Numbers that every dtype holds exactly, some negative where there is a sign."""
    wanted = host_dtype(dtype)
    numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 13
    if not dtype.startswith("u") and dtype != "bool":
        numbers = numbers - 6
    values = numbers.astype(wanted)
    return values * wanted.type(1 + 2j) if wanted.kind == "c" else values


# -- arrays of a framework, made and read by its own functions -----------------------------------------


def _numpy(values, device):
    memory = np.empty(values.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64  # as JAX needs it to share, whatever the allocator does
    made = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    made[...] = values
    return made


def _torch(values, device):
    import torch

    if values.dtype == ml_dtypes.bfloat16:
        return torch.tensor(values.astype(np.float32), dtype=torch.bfloat16, device=device.native)
    return torch.tensor(values, device=device.native)


def _jax(values, device):
    import jax

    return jax.device_put(values.copy(), device.native).block_until_ready()


def _strict(values, device):
    import array_api_strict

    return array_api_strict.asarray(values.copy(), device=device.native)


def _cupy(values, device):
    import cupy

    with cupy.cuda.Device(device.index):
        return cupy.array(values)


_MAKERS = {"numpy": _numpy, "torch": _torch, "jax": _jax, "strict": _strict, "cupy": _cupy}


def make(device, values):
    """An array of the device's framework with these values, in memory of its own."""
    return _MAKERS[device.backend.name](values, device)


def numbers(x):
    """The values of an array as (nested) lists of Python's numbers."""
    framework = type(x).__module__.partition(".")[0]
    if framework == "array_api_strict":
        return np.from_dlpack(x).tolist()
    if framework == "cupy":
        with x.device:
            return x.get().tolist()
    return x.tolist()


def write(x, device, value=77):
    """Fill an array in place with what `host_values` has not (False for bools); False if it is immutable."""
    framework = device.backend.name
    if framework == "jax" or isinstance(x, np.generic) or (framework == "numpy" and not x.flags.writeable):
        return False
    with no_grad(framework), device.scope():
        x[...] = False if dtype_name(x.dtype) == "bool" else value
    return True


def no_grad(framework):
    if framework != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def read(x):
    """Pull an array to the host by the contract alone."""
    backend, native = native_of(x)
    return backend.to_host(native)


def on(x):
    return device_of_array(*native_of(x))


def same_bits(a, b):
    assert dtype_name(a.dtype) == dtype_name(b.dtype)
    assert tuple(a.shape) == tuple(b.shape)
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def put(values, device):
    """The values on a device by the contract alone, or skip if it holds no such dtype."""
    import pytest

    if not device.backend.holds(dtype_name(values.dtype), device.info):
        pytest.skip(f"{device} holds no {dtype_name(values.dtype)}")
    return device.backend.place(values, device.info, True)


# -- layouts -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """A way in which an array may lie in memory.

    Attributes
    ----------
    view : callable
        (array, its framework's name) to an array of that layout on the same memory, where it can be had.
    expected : callable
        The same on NumPy's values.
    frameworks : tuple of str
        Those that have such arrays.
    dtypes : tuple of str
        Those of the arrays.
    base : callable, optional
        From the dtype of the array to that of the memory beneath it.
    """

    view: Callable[[Any, str], Any]
    expected: Callable[[np.ndarray], np.ndarray]
    frameworks: tuple[str, ...] = ("numpy", "torch", "jax", "strict", "cupy")
    dtypes: tuple[str, ...] = DTYPES
    base: Callable[[str], str] = str


def _indexed(*key, **options):
    return Layout(lambda x, framework: x[key], lambda x: x[key], **options)


def _transpose(x, framework):
    return x.T


def _broadcast(x, framework):
    first = x[:1, :]
    if framework == "numpy":
        return np.broadcast_to(first, (3, 6))
    if framework == "torch":
        return first.expand(3, 6)
    if framework == "strict":
        import array_api_strict

        return array_api_strict.broadcast_to(first, (3, 6))
    if framework == "cupy":
        import cupy

        with x.device:
            return cupy.broadcast_to(first, (3, 6))
    import jax.numpy

    return jax.numpy.broadcast_to(first, (3, 6))


def _read_only(x, framework):
    x = x[:]
    x.flags.writeable = False
    return x


def _requires_grad(x, framework):
    return x.view(x.shape).detach().requires_grad_()


def _non_native(x, framework):
    other = x.dtype.newbyteorder()
    x[...] = x.byteswap()  # the same numbers in the other order, in the same memory
    return x.view(other)


_WIDE = tuple(dtype for dtype in DTYPES if host_dtype(dtype).itemsize > 1 and dtype != "bfloat16")

LAYOUTS = {
    "C order": _indexed(...),
    "Fortran order": Layout(_transpose, np.transpose),
    "strided slice": _indexed(slice(None, None, 2), slice(1, None, 2)),
    "negative stride": _indexed(
        slice(None, None, -1), slice(None, None, -2), frameworks=("numpy", "jax", "strict", "cupy")
    ),
    "a row": _indexed(1, slice(None)),
    "0-d": _indexed(1, 2, ..., frameworks=("numpy", "torch", "jax", "strict", "cupy")),
    "empty": _indexed(slice(0), slice(None)),
    "broadcast": Layout(_broadcast, lambda x: np.broadcast_to(x[:1], (3, 6))),
    "read-only": Layout(_read_only, np.array, frameworks=("numpy",)),
    "requires grad": Layout(_requires_grad, np.array, frameworks=("torch",), dtypes=FLOATS),
    "conj view": Layout(lambda x, _: x.conj(), np.conj, frameworks=("torch",), dtypes=COMPLEX),
    "neg view": Layout(
        lambda x, _: x.conj().imag,
        lambda x: x.conj().imag,
        frameworks=("torch",),
        dtypes=("float32", "float64"),
        base={"float32": "complex64", "float64": "complex128"}.__getitem__,
    ),
    "non-native endian": Layout(_non_native, np.array, frameworks=("numpy",), dtypes=_WIDE),
}


@dataclass(frozen=True)
class Case:
    """An array of a dtype and layout: the memory beneath it, the array, and its values made independently."""

    base: Any
    x: Any
    expected: np.ndarray


def case(device, dtype, layout) -> Case | None:
    """An array of that dtype and layout on the device; None where there is none such."""
    framework, how = device.backend.name, LAYOUTS[layout]
    lacks = LACKS[framework] - ({"bfloat16"} if framework == "numpy" else set())
    if framework not in how.frameworks or dtype not in how.dtypes or dtype in lacks:
        return None
    values = host_values(how.base(dtype))
    base = make(device, values)
    with device.scope():
        x = how.view(base, framework)
    return Case(base, x, np.array(how.expected(values)))


def devices() -> list[Any]:
    """Those of `DEVICES` that this machine has."""
    found = []
    for spec in DEVICES:
        with contextlib.suppress(xdev.BackendError, xdev.DeviceError):
            found.append(xdev.device(spec))
    return found
