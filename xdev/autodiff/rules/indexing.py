"""Indexing: gathering elements, and its transpose, which adds each cotangent where its element came from.

Basic indices (integers, slices) meet no element twice: their transpose writes into a view. Any other index is
turned into the positions of the gathered elements, by indexing the numbers 0, 1, 2… in its place, and cotangents
of equal positions are summed.
"""

from __future__ import annotations

import math
from typing import Any

from ...device import Device
from ...errors import DeviceError
from ...registry import backend_of, find_backend
from ..array import unwrap

__all__ = ["FRESH", "GENERAL", "INTERNAL", "is_basic"]


def is_basic(key: Any) -> bool:
    """Return whether an index meets each element at most once, by its kind."""
    if type(key) is tuple:
        return all(is_basic(part) for part in key)
    if key is None or key is Ellipsis or type(key) in (int, slice, list):
        return type(key) is not list
    return getattr(key, "shape", ()) == () and "int" in str(getattr(key, "dtype", "int")) and type(key) is not bool


# -- what the standard has no name for, on the framework's own arrays -------------------------------------------


def _setitem(xp: Any, x: Any, value: Any, key: Any) -> Any:
    x = xp.asarray(x, copy=True)
    if hasattr(value, "dtype") and value.dtype != x.dtype:
        value = xp.astype(value, x.dtype)
    x[key] = value
    return x


def _put(xp: Any, g: Any, key: Any, shape: tuple[int, ...]) -> Any:
    """Return zeros of that shape with `g` at a basic index."""
    x = xp.zeros(shape, dtype=g.dtype)
    if type(key) is tuple and None in key:  # a new axis may not be assigned to everywhere
        slices = sum(type(part) is slice for part in key)
        axes, axis = [], 0
        for part in key:
            if part is None:
                axes.append(axis)
            axis += g.ndim - slices - key.count(None) if part is Ellipsis else type(part) is slice or part is None
        key, g = tuple(part for part in key if part is not None), xp.squeeze(g, axis=tuple(axes))
    elif key is None:
        key, g = (), g[0, ...]
    x[key] = g
    return x


def _scatter(xp: Any, g: Any, places: Any, size: int) -> Any:
    """Return the array of `size` rows whose row k is the sum of the rows of `g` with `places == k`.

    Without a kernel of the backend: rows are brought into the order of their places, equal places are summed by
    doubling, and each row of the result gathers its sum; only functions of the standard, no writes.
    """
    backend = find_backend(g)
    summed = NotImplemented if backend is None else backend.scatter_add(g, places, size)
    if summed is not NotImplemented:
        return summed
    n = g.shape[0]
    if n == 0 or size == 0:
        return xp.zeros((size, *g.shape[1:]), dtype=g.dtype)
    places = xp.where(places < 0, places + size, places)
    order = xp.argsort(places, stable=True)
    places = xp.take(places, order, axis=0)
    rows = xp.take(g, order, axis=0)
    ones = (1,) * (g.ndim - 1)
    step = 1
    while step < n:
        same = xp.astype(xp.equal(places[step:], places[:-step]), rows.dtype)
        ahead = xp.multiply(rows[step:, ...], xp.reshape(same, (n - step, *ones)))
        rows = xp.concat([xp.add(rows[:-step, ...], ahead), rows[n - step :, ...]], axis=0)
        step *= 2
    wanted = xp.arange(size, dtype=places.dtype)
    first = xp.searchsorted(places, wanted)
    first = xp.where(first < n, first, xp.zeros_like(first))
    found = xp.astype(xp.equal(xp.take(places, first, axis=0), wanted), rows.dtype)
    return xp.multiply(xp.take(rows, first, axis=0), xp.reshape(found, (size, *ones)))


def _to_device(xp: Any, x: Any, where: Any, *, stream: Any = None) -> Any:
    backend = backend_of(x)
    if isinstance(where, Device):
        info = where.info if where.backend is backend else None
    else:
        info = next((info for info in backend.devices() if where in (info.native, info.handle)), None)
    if info is None:
        raise DeviceError(
            f"x.to_device({where!r}): arrays under differentiation stay in their framework, {backend.name}; "
            "move them before, with xdev.to_device"
        )
    return backend.place(x, info, None)


def _add_to(xp: Any, x: Any, y: Any) -> Any:
    """Return x + y, in the memory of `x` if it is an array that can be written."""
    x += y
    return x


INTERNAL: dict[str, Any] = {
    "add_to_": _add_to,
    "cast_": lambda xp, x, dtype: xp.astype(x, dtype),
    "getitem_": lambda xp, x, key: x[key],
    "put_": _put,
    "scatter_": _scatter,
    "setitem_": _setitem,
    "to_device_": _to_device,
}

# -- rules -------------------------------------------------------------------------------------------------------


def _getitem_x(xp: Any, g: Any, y: Any, x: Any, key: Any) -> Any:
    if is_basic(key):
        return xp.put_(g, key, x.shape)
    rows = _rows(key, x)
    if rows is not None:
        flat = xp.reshape(g, (-1, *x.shape[1:]))
        return xp.scatter_(flat, xp.below.reshape(rows, (-1,)), x.shape[0])
    return _scatter_positions(xp, g, x, lambda numbers: xp.below.getitem_(numbers, key))


def _rows(key: Any, x: Any) -> Any:
    """Return the array of an index that is one array of integers for the first axis, else None."""
    if type(key) is tuple and len(key) == 1:
        key = key[0]
    return key if hasattr(key, "dtype") and "int" in str(key.dtype) and math.prod(x.shape[1:]) else None


def _scatter_positions(xp: Any, g: Any, x: Any, gather: Any) -> Any:
    numbers = xp.below.reshape(xp.below.arange(math.prod(x.shape)), x.shape)
    places = xp.below.reshape(gather(numbers), (-1,))
    return xp.reshape(xp.scatter_(xp.reshape(g, (-1,)), places, math.prod(x.shape)), x.shape)


def _setitem_value(xp: Any, g: Any, y: Any, x: Any, value: Any, key: Any) -> Any:
    """Of values that went to one place, the one that stayed gets the cotangent."""
    g = xp.getitem_(g, key)
    if value.ndim > g.ndim:  # leading axes of length 1, which assignment allows
        g = xp.reshape(g, (1,) * (value.ndim - g.ndim) + g.shape)
    if is_basic(key) or "bool" in str(getattr(key, "dtype", "")):
        return g
    below = xp.below
    numbers = below.reshape(below.arange(math.prod(g.shape)), g.shape)
    board = below.setitem_(below.zeros(x.shape, dtype=numbers.dtype), numbers, key)
    return xp.where(below.equal(below.getitem_(board, key), numbers), g, xp.zeros_like(g))


def _take(xp: Any, g: Any, y: Any, x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    axis = 0 if axis is None else axis % x.ndim
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    if indices.ndim == 0:
        g = xp.expand_dims(g, axis=axis)
    g = xp.moveaxis(g, axis, 0) if axis else g
    rows = xp.scatter_(
        xp.reshape(g, (math.prod(indices.shape), *rest)), xp.below.reshape(indices, (-1,)), x.shape[axis]
    )
    return xp.moveaxis(rows, 0, axis) if axis else rows


def _take_along_axis(xp: Any, g: Any, y: Any, x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    shape = list(
        xp.broadcast_shapes(x.shape[:axis] + x.shape[axis:][1:], indices.shape[:axis] + indices.shape[axis:][1:])
    )
    shape.insert(axis % x.ndim, x.shape[axis])
    wide = xp.below.broadcast_to(unwrap(x), tuple(shape))
    return _scatter_positions(xp, g, wide, lambda numbers: xp.below.take_along_axis(numbers, indices, axis=axis))


GENERAL: dict[str, Any] = {
    "getitem_": (_getitem_x,),
    "put_": (lambda xp, gg, y, g, key, shape: xp.getitem_(gg, key),),
    "scatter_": (lambda xp, gg, y, g, places, size: xp.take(gg, places, axis=0),),
    "setitem_": (lambda xp, g, y, x, value, key: xp.setitem_(g, 0.0, key), _setitem_value),
    "take": (_take,),
    "take_along_axis": (_take_along_axis,),
    "to_device_": (lambda xp, g, y, x, device, *, stream=None: xp.to_device_(g, x.device),),
}
FRESH = ("take", "take_along_axis")
