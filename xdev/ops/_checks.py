"""What ops refuse: dtypes, shapes and labels out of range, each told by name; and how half precision is widened."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ..autodiff import TracedArray
from ..contract import dtype_name
from ..device import device_of_array, native_of
from ..errors import ArrayTypeError, DataError, DTypeError, a
from ..ledger import active, muted

__all__ = [
    "check_arrays",
    "check_floating",
    "check_indices",
    "check_integer",
    "check_same_shape",
    "is_integer",
    "is_wide",
    "narrow",
    "refuse_empty",
    "widen",
]


def is_wide(x: Any) -> bool:
    """Return whether sums in the dtype of `x` keep their precision."""
    return dtype_name(x.dtype) in ("float32", "float64")


def widen(xp: Any, x: Any) -> Any:
    """Return `x` in float32 if it is of half precision."""
    return x if is_wide(x) else xp.astype(x, xp.float32)


def narrow(xp: Any, y: Any, dtype: Any) -> Any:
    """Return `y` in a dtype."""
    return y if y.dtype == dtype else xp.astype(y, dtype)


def is_integer(n: Any) -> bool:
    """Return whether a number is an integer of Python or NumPy; True and False are none."""
    return type(n) is int or isinstance(n, np.integer)


def check_floating(op: str, x: Any, what: str = "") -> None:
    """Refuse what is no real floating array."""
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        raise ArrayTypeError(f"{op} takes arrays, got {a(type(x).__name__)}; xdev.asarray(x) makes one")
    if "float" not in dtype_name(dtype):
        raise DTypeError(
            f"{op} takes {what or 'an array'} of a real floating dtype, got {dtype_name(dtype)}; cast with xp.astype"
        )


def check_arrays(op: str, **arguments: Any) -> None:
    """Refuse arguments that are no arrays; called where an attribute of an array was missed."""
    for name, x in arguments.items():
        if x is not None and not (hasattr(x, "shape") and hasattr(x, "dtype")):
            raise ArrayTypeError(f"{op} takes {name} as an array, got {a(type(x).__name__)}; xdev.asarray(x) makes one")


def check_integer(op: str, x: Any, what: str) -> None:
    """Refuse what is no integer array."""
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        raise ArrayTypeError(f"{op} takes {what} as an array, got {a(type(x).__name__)}; xdev.asarray(x) makes one")
    if "int" not in dtype_name(dtype):
        raise DTypeError(
            f"{op} takes {what} of an integer dtype, got {dtype_name(dtype)}; cast {what} with xp.astype(…, xp.int32)"
        )


def check_same_shape(op: str, a: Any, b: Any, names: tuple[str, str]) -> None:
    """Refuse two arrays that would broadcast."""
    for x, name in ((a, names[0]), (b, names[1])):
        check_floating(op, x, name)
    if tuple(a.shape) != tuple(b.shape):
        raise DataError(
            f"{op} takes {names[0]} and {names[1]} of one shape, got {tuple(a.shape)} and {tuple(b.shape)}; "
            "reshape one of them (nothing is broadcast here)"
        )
    if 0 in a.shape:
        refuse_empty(op, " and ".join(names), a.shape)


def refuse_empty(op: str, what: str, shape: Any) -> NoReturn:
    """Raise for a mean over nothing, which some frameworks warn of and none can compute."""
    raise DataError(f"{op} of no positions has no mean: {what} have shape {tuple(shape)}; leave empty batches out")


def check_indices(indices: Any, n: int, what: str) -> bool:
    """Refuse integers outside [0, n) where the host can read them; return whether it could.

    On an accelerator, reading would wait for it, and under compilation there are no values yet.
    """
    owned = native_of(indices)
    if owned is None:
        return False
    backend, native = owned
    recorded = indices.xp.below.kernels if type(indices) is TracedArray else None
    in_range = (recorded or backend.kernels).get("in_range")
    if in_range is not None and (recorded or not active()) and in_range(native, n):
        return True
    device = device_of_array(backend, native)
    if device is None or device.kind != "cpu":
        return False
    if not active():
        host = backend.to_host(native)
    else:
        with muted():  # it is the CPU's own memory: nothing crosses
            host = backend.to_host(native)
    if host.size and (host.min() < 0 or host.max() >= n):
        wrong = np.argwhere((host < 0) | (host >= n))[0]
        index = tuple(int(i) for i in wrong)
        raise DataError(f"{what} must be in [0, {n}), got {int(host[index])} at index {index}")
    return True
