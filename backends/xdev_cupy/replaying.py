"""What recording and replaying CuPy functions needs: where arrays lie in memory, and calls that make no new memory.

Requirements: nothing here reads a value on the host, but `same`, which checks a plan once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat.cupy as standard
import cupy
import numpy as np

from . import functions

__all__ = ["KIT"]

_current = cupy.cuda.runtime.getDevice


class Kit:
    """The hooks of `Backend.replay`, for CuPy."""

    functions = functions
    arrays = (cupy.ndarray,)
    scalars = (np.generic,)
    """What comes from the host with arrays: the words of a generator."""
    counts = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
    """Whether counts of references say who holds an array."""
    copied = 0
    """Bytes up to which outputs are copied to the caller: none, each copy would be a launch."""
    writing = frozenset({"copyto"})
    """Functions that write into their first argument."""

    def where(self, arrays: Sequence[Any]) -> Any:
        """Return what a plan belongs to beside layouts: devices, and the stream on which its memory is used again."""
        return (_current(), cupy.cuda.get_current_stream().ptr, *[x.data.device_id for x in arrays])

    def holders(self, x: Any) -> int:
        """Return how many refer to an array, or to its memory without it."""
        return sys.getrefcount(x) + sys.getrefcount(x.data) + sys.getrefcount(x.data.mem)

    def sample(self, x: Any) -> int:
        """Return what an array is told from others by: its place, since to compare values would wait for the device."""
        return int(x.data.ptr)

    def root(self, x: Any) -> Any:
        """Return the array that owns the memory of `x`."""
        while isinstance(x.base, cupy.ndarray):
            x = x.base
        return x

    def address(self, x: Any) -> int:
        """Return where the first element is."""
        return int(x.data.ptr)

    def nbytes(self, x: Any) -> int:
        """Return the bytes of an array."""
        return int(x.nbytes)

    def alone(self, x: Any) -> Any:
        """Return the same memory as an array that is a view of no other."""
        return cupy.ndarray(x.shape, x.dtype, x.data, x.strides)

    def view(self, root: Any, offset: int, shape: Any, strides: Any, dtype: Any) -> Any:
        """Return an array at an offset in bytes of the memory of another."""
        if offset == 0 and root.shape == shape and root.strides == strides and root.dtype == dtype:
            return root
        return cupy.ndarray(shape, dtype, root.data + offset, strides)

    def array(self, x: Any) -> Any:
        """Return a scalar of NumPy as an array on the device."""
        return x if isinstance(x, cupy.ndarray) else cupy.asarray(x)

    def like(self, x: Any) -> None:
        """Return no memory for an argument: to launch a copy takes longer than to bind another array."""
        return

    def empty(self, shape: Any, dtype: Any) -> Any:
        """Return new memory in C order."""
        return cupy.empty(shape, dtype)

    def copy(self, x: Any) -> Any:
        """Return a copy in the order of `x`."""
        return x.copy(order="K")

    def arena(self, nbytes: int) -> Any:
        """Return bytes on the current device."""
        return cupy.empty(max(nbytes, 1), np.uint8)

    def trim(self) -> None:
        """Free nothing: what CuPy's pool keeps is any other array's."""

    def same(self, a: Any, b: Any) -> bool:
        """Return whether two arrays are equal bit for bit, compared on the device."""
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        bits = [cupy.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b)]
        equal, read = cupy.array_equal(*bits), np.empty((), np.bool_)
        # Not by a method, which ledgers and budgets of transfers watch: this is no crossing of the user's.
        cupy.cuda.get_current_stream().synchronize()
        equal.data.copy_to_host(read.ctypes.data, 1)
        return bool(read)

    def into(self, name: str, function: Any, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return a call that writes its result into memory that is there: function, args and kwargs; None if none."""
        if getattr(function, "nin", None) == len(args) and not kwargs:
            return function, (*args, result), {}
        form = _INTO[name](result, *args, **kwargs) if name in _INTO else None
        return None if form is None else (*form, {})


# -- forms -------------------------------------------------------------------------------------------------------


def _elementwise(function: Any) -> Callable[..., Any]:
    def form(result: Any, *args: Any, **kwargs: Any) -> Any:
        return None if kwargs or len(args) != function.nin else (function, (*args, result))

    return form


def _reduction(method: str) -> Callable[..., Any]:
    def form(result: Any, x: Any, /, axis: Any = None, dtype: Any = None, keepdims: Any = False, **rest: Any) -> Any:
        return (
            None if rest else (_reduce, (method, result, x, axis, {} if dtype is None else {"dtype": dtype}, keepdims))
        )

    return form


def _reduce(method: str, result: Any, x: Any, axis: Any, dtype: dict[str, Any], keepdims: bool) -> None:
    getattr(x, method)(axis=axis, out=result, keepdims=keepdims, **dtype)


def _matmul(result: Any, a: Any, b: Any, /, **rest: Any) -> Any:
    return None if rest or a.dtype != b.dtype else (_multiply_matrices, (result, a, b))


def _multiply_matrices(result: Any, a: Any, b: Any) -> None:
    cupy.matmul(a, b, out=result)


def _joined(function: Any) -> Callable[..., Any]:
    def form(result: Any, arrays: Any, /, axis: Any = 0, **rest: Any) -> Any:
        if rest or axis is None or any(x.dtype != result.dtype for x in arrays):
            return None
        return _join, (function, result, arrays, axis)

    return form


def _join(function: Any, result: Any, arrays: Any, axis: int) -> None:
    function(arrays, axis=axis, out=result)


def _taken(result: Any, x: Any, indices: Any, /, axis: Any = None, **rest: Any) -> Any:
    return None if rest else (_take, (result, x, indices, axis))


def _take(result: Any, x: Any, indices: Any, axis: Any) -> None:
    x.take(indices, axis=axis, out=result)


def _selected(result: Any, *args: Any, **kwargs: Any) -> Any:
    # Numbers have no type that a kernel could go by.
    fits = len(args) == 3 and not kwargs and all(hasattr(x, "dtype") for x in args)
    return (functions.select, (*args, result)) if fits else None


def _copied(result: Any, x: Any, /, dtype: Any = None, **kwargs: Any) -> Any:
    return (cupy.copyto, (result, x, "unsafe")) if kwargs.get("copy") and hasattr(x, "shape") else None


def _cast(result: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return cupy.copyto, (result, x, "unsafe")


def _reshaped(result: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return _copy_flat, (result, x)


def _copy_flat(result: Any, x: Any) -> None:
    cupy.copyto(result.reshape(x.shape), x)


def _filled(value: Any, like: bool = False) -> Callable[..., Any]:
    def form(result: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
        fixed = like or all(type(n) is int for n in (shape if type(shape) is tuple else (shape,)))
        return (_fill, (result, value)) if fixed else None

    return form


def _filled_like(result: Any, x: Any, /, fill_value: Any, **kwargs: Any) -> Any:
    return None if hasattr(fill_value, "dtype") else (_fill, (result, fill_value))


def _fill(result: Any, value: Any) -> None:
    result.fill(value)


_INTO: dict[str, Callable[..., Any]] = {
    **{name: _elementwise(f) for name in dir(standard) if isinstance(f := getattr(standard, name), cupy.ufunc)},
    **{name: _reduction(name) for name in ("all", "any", "max", "mean", "min", "prod", "sum")},
    "array": _copied,
    "asarray": _copied,
    "astype": _cast,
    "cast": _cast,
    "cast_": _cast,
    "concat": _joined(cupy.concatenate),
    "full_like": _filled_like,
    "matmul": _matmul,
    "ones": _filled(1),
    "ones_like": _filled(1, like=True),
    "reshape": _reshaped,
    "stack": _joined(cupy.stack),
    "take": _taken,
    "where": _selected,
    "zeros": _filled(0),
    "zeros_like": _filled(0, like=True),
}
KIT = Kit()
