"""What recording and replaying NumPy functions needs: where arrays lie in memory, and calls that make no new memory."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from . import functions
from .buffers import COUNTS, trim

__all__ = ["KIT"]


class Kit:
    """The hooks of `Backend.replay`, for NumPy."""

    functions = functions
    arrays = (np.ndarray,)
    scalars = (np.generic,)
    counts = COUNTS
    """Whether counts of references say who holds an array."""
    copied = 2048
    """Bytes up to which outputs are copied to the caller, which takes no time on the host."""
    writing = frozenset({"copyto", "put", "shift_rows"})
    """Functions that write into their first argument."""

    def where(self, arrays: Any) -> Any:
        """Return what a plan belongs to beside the layouts of its arguments: nothing, on the host."""
        return

    def holders(self, x: Any) -> int:
        """Return how many refer to an array; its views do."""
        return sys.getrefcount(x)

    def sample(self, x: Any) -> bytes:
        """Return some elements of an array, by which it is told from others."""
        return bytes(x.flat[:: max(1, x.size // 256)].tobytes())

    def root(self, x: Any) -> Any:
        """Return the array that owns the memory of `x`."""
        while type(x.base) is np.ndarray:
            x = x.base
        return x

    def address(self, x: Any) -> int:
        """Return where the first element is."""
        return int(x.__array_interface__["data"][0])

    def nbytes(self, x: Any) -> int:
        """Return the bytes of an array."""
        return int(x.nbytes)

    def alone(self, x: Any) -> Any:
        """Return the same memory as an array that is a view of no other."""
        try:
            return np.asarray(memoryview(x)) if x.dtype.kind in "biufc" else self._other(x)
        except (BufferError, ValueError):
            return self._other(x)

    def _other(self, x: Any) -> Any:
        return np.asarray(_Memory(x)).view(x.dtype)

    def view(self, root: Any, offset: int, shape: Any, strides: Any, dtype: Any) -> Any:
        """Return an array at an offset in bytes of the memory of another."""
        if offset == 0 and root.shape == shape and root.strides == strides and root.dtype == dtype:
            return root
        if root.flags.c_contiguous and offset >= 0 and 0 not in shape:
            return np.ndarray(shape, dtype, root, offset, strides)
        interface = dict(root.__array_interface__)
        interface.update(
            shape=shape,
            strides=strides,
            typestr=dtype.str,
            descr=dtype.descr,
            data=(self.address(root) + offset, False),
        )
        return np.asarray(_Memory(root, interface)).view(dtype)

    def array(self, x: Any) -> Any:
        """Return a scalar as an array without axes."""
        return np.asarray(x)

    def like(self, x: Any) -> Any:
        """Return new memory for an array of that shape, strides and dtype, or None if it is not in C order."""
        return np.empty_like(x, order="C", subok=False) if x.flags.c_contiguous else None

    def empty(self, shape: Any, dtype: Any) -> Any:
        """Return new memory in C order."""
        return np.empty(shape, dtype)

    def copy(self, x: Any) -> Any:
        """Return a copy in the order of `x`."""
        return np.array(x, copy=True, order="K")

    def arena(self, nbytes: int) -> Any:
        """Return bytes that begin at a line of the cache."""
        raw = np.empty(nbytes + 64, np.uint8)
        start = -self.address(raw) % 64
        return raw[start : start + nbytes]

    def trim(self) -> None:
        """Free memory that eager calls would use again."""
        trim()

    def same(self, a: Any, b: Any) -> bool:
        """Return whether two arrays are equal bit for bit."""
        return a.shape == b.shape and a.dtype == b.dtype and bool(a.tobytes() == b.tobytes())

    def into(self, name: str, function: Any, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return a call that writes its result into memory that is there: function, args and kwargs; None if none."""
        if getattr(function, "nin", None) == len(args) and not kwargs:
            args = _operands(args, result.dtype)
            return (function, args, {"out": result}) if name in KEYWORD else (function, (*args, result), {})
        form = _INTO[name](result, *args, **kwargs) if name in _INTO else None
        return None if form is None else (*form, {})


KEYWORD = frozenset({"maximum", "minimum"})
"""Elementwise functions that want what they write into by keyword."""


def _operands(args: tuple[Any, ...], dtype: Any) -> tuple[Any, ...]:
    """Return operands of an elementwise function, Python numbers as arrays: they cost a promotion in each call."""
    if dtype.kind != "f" or dtype.itemsize < 4 or not any(hasattr(a, "dtype") for a in args):
        return args
    if any(hasattr(a, "dtype") and a.dtype != dtype for a in args):
        return args
    return tuple(np.asarray(a, dtype) if type(a) in (int, float) and _fits(a, dtype) else a for a in args)


class _Memory:
    """Memory of an array by its interface."""

    def __init__(self, x: Any, interface: dict[str, Any] | None = None) -> None:
        self._kept = x
        self.__array_interface__ = x.__array_interface__ if interface is None else interface


def _fits(a: float, dtype: Any) -> bool:
    return not math.isfinite(a) or abs(a) <= float(np.finfo(dtype).max)


def _reduction(function: Any, axis: Any) -> Any:
    def form(
        result: Any, x: Any, /, axis: Any = axis, dtype: Any = None, out: Any = None, keepdims: Any = False, **rest: Any
    ) -> Any:
        return None if rest else (function.reduce, (x, axis, dtype, result, keepdims))

    return form


def _copied(result: Any, x: Any, /, **kwargs: Any) -> Any:
    if not kwargs.get("copy") or not hasattr(x, "dtype"):
        return None
    # To name a casting takes longer than to copy a few elements.
    return np.copyto, (result, x) if x.dtype == result.dtype else (result, x, "unsafe")


def _matmul(result: Any, a: Any, b: Any, /, **kwargs: Any) -> Any:
    return None if kwargs else (np.matmul, (a, b, result))


def _filled(value: Any, like: bool = False) -> Any:
    def form(result: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
        fixed = like or all(type(n) is int for n in (shape if type(shape) is tuple else (shape,)))
        return (np.copyto, (result, value)) if fixed else None

    return form


def _joined(function: Any) -> Any:
    def form(result: Any, arrays: Any, /, axis: Any = 0) -> Any:
        if axis is None or any(x.dtype != result.dtype for x in arrays):
            return None
        return function, (arrays, axis, result)

    return form


def _reshaped(result: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return _copy_flat, (result, x)


def _copy_flat(result: Any, x: Any) -> None:
    np.copyto(result.reshape(x.shape), x)


def _numbers(result: Any, function: Any, *args: Any) -> Any:
    return _fill, (result, function, args)


def _fill(result: Any, function: Any, args: Any) -> None:
    result[...] = function(*args)


def _cast(result: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return np.copyto, (result, x, "unsafe")


_INTO: dict[str, Any] = {
    "add.reduce": _reduction(np.add, 0),
    "asarray": _copied,
    "astype": _cast,
    "cast_": _cast,
    "concat": _joined(np.concatenate),
    "matmul": _matmul,
    "max": _reduction(np.maximum, None),
    "maximum.reduce": _reduction(np.maximum, 0),
    "min": _reduction(np.minimum, None),
    "numbers": _numbers,
    "ones": _filled(1),
    "ones_like": _filled(1, like=True),
    "prod": _reduction(np.multiply, None),
    "reshape": _reshaped,
    "stack": _joined(np.stack),
    "sum": _reduction(np.add, None),
    "zeros": _filled(0),
    "zeros_like": _filled(0, like=True),
}

KIT = Kit()
