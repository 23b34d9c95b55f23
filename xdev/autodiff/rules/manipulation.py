"""Functions that move, repeat, join, choose and sort elements; most are views, and so are their cotangents."""

from __future__ import annotations

import math
from typing import Any

from ..array import unwrap

__all__ = ["DEFINED", "GENERAL"]


def _back(xp: Any, g: Any, y: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Undo a change of shape."""
    return xp.reshape(g, x.shape)


def _astype(xp: Any, x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    x = x if device is None else x.to_device(device)
    if xp.isdtype(dtype, ("real floating", "complex floating")):
        return xp.cast_(x, dtype) if copy or x.dtype != dtype else x
    return xp.constant(xp.below.astype(unwrap(x), dtype))


def _permute_dims(xp: Any, g: Any, y: Any, x: Any, /, axes: tuple[int, ...]) -> Any:
    axes = tuple(k % x.ndim for k in axes)
    return xp.permute_dims(g, tuple(axes.index(k) for k in range(x.ndim)))


def _roll(xp: Any, g: Any, y: Any, x: Any, /, shift: Any, *, axis: Any = None) -> Any:
    back = tuple(-k for k in shift) if isinstance(shift, tuple) else -shift
    return xp.roll(g, back, axis=axis)


def _pieces(xp: Any, g: Any, arrays: Any, axis: int) -> list[Any]:
    pieces, start = [], 0
    for x in arrays:
        stop = start + x.shape[axis]
        pieces.append(xp.getitem_(g, (*(slice(None),) * axis, slice(start, stop), ...)))
        start = stop
    return pieces


def _concat(xp: Any, g: Any, y: Any, arrays: Any, /, *, axis: int | None = 0) -> list[Any]:
    if axis is not None:
        return _pieces(xp, g, arrays, axis % g.ndim)
    pieces, start = [], 0
    for x in arrays:
        stop = start + math.prod(x.shape)
        pieces.append(xp.reshape(xp.getitem_(g, slice(start, stop)), x.shape))
        start = stop
    return pieces


def _stack(xp: Any, g: Any, y: Any, arrays: Any, /, *, axis: int = 0) -> list[Any]:
    before = (slice(None),) * (axis % g.ndim)
    return [xp.getitem_(g, (*before, k, ...)) for k in range(len(arrays))]


def _tile(xp: Any, g: Any, y: Any, x: Any, repetitions: Any, /) -> Any:
    repetitions = (1,) * (x.ndim - len(repetitions)) + tuple(repetitions)
    shape = (1,) * (len(repetitions) - x.ndim) + x.shape
    split = [n for pair in zip(repetitions, shape, strict=True) for n in pair]
    g = xp.sum(xp.reshape(g, tuple(split)), axis=tuple(range(0, len(split), 2)))
    return xp.reshape(g, x.shape)


def _repeat(xp: Any, g: Any, y: Any, x: Any, repeats: Any, /, *, axis: int | None = None) -> Any:
    if axis is None:
        axis, shape = 0, (math.prod(x.shape),)
    else:
        axis, shape = axis % x.ndim, x.shape
    n = shape[axis]
    if isinstance(repeats, int):
        g = xp.reshape(g, (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
        return xp.reshape(xp.sum(g, axis=axis + 1), x.shape)
    places = xp.repeat(xp.arange(n), repeats)
    rows = xp.scatter_(xp.moveaxis(g, axis, 0), places, n)
    return xp.reshape(xp.moveaxis(rows, 0, axis), x.shape)


def _diff(xp: Any, x: Any, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Any:
    axis = axis % x.ndim
    parts = [part for part in (prepend, x, append) if part is not None]
    x = xp.concat(parts, axis=axis) if len(parts) > 1 else x
    before = (slice(None),) * axis
    for _ in range(min(n, x.shape[axis])):
        x = xp.subtract(xp.getitem_(x, (*before, slice(1, None), ...)), xp.getitem_(x, (*before, slice(None, -1), ...)))
    return x


def _broadcast_arrays(xp: Any, *arrays: Any) -> Any:
    shape = xp.broadcast_shapes(*(x.shape for x in arrays))
    return tuple(xp.broadcast_to(x, shape) for x in arrays)


def _meshgrid(xp: Any, *arrays: Any, indexing: str = "xy") -> Any:
    swap = indexing == "xy" and len(arrays) > 1
    grid = []
    for k, x in enumerate(arrays):
        place = 1 - k if swap and k < 2 else k
        shape = tuple(x.size if d == place else 1 for d in range(len(arrays)))
        grid.append(xp.reshape(x, shape))
    return _broadcast_arrays(xp, *grid)


def _where(chosen: bool) -> Any:
    def rule(xp: Any, g: Any, y: Any, condition: Any, a: Any, b: Any, /) -> Any:
        zero = xp.zeros_like(g)
        return xp.where(condition, g, zero) if chosen else xp.where(condition, zero, g)

    return rule


def _sort(xp: Any, g: Any, y: Any, x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """Send each element's cotangent back to where the element came from."""
    order = xp.argsort(x, axis=axis, descending=descending, stable=stable)
    back = xp.argsort(order, axis=axis)
    return xp.take_along_axis(g, back, axis=axis)


# The engine sums over broadcast axes and casts, so the cotangents of `broadcast_to` and `cast_` are `g` itself.
GENERAL: dict[str, Any] = {
    "cast_": (lambda xp, g, y, x, dtype: g,),
    "broadcast_to": (lambda xp, g, y, x, /, shape: g,),
    "concat": (_concat,),
    "expand_dims": (_back,),
    "flip": (lambda xp, g, y, x, /, *, axis=None: xp.flip(g, axis=axis),),
    "moveaxis": (lambda xp, g, y, x, a, b, /: xp.moveaxis(g, b, a),),
    "permute_dims": (_permute_dims,),
    "repeat": (_repeat,),
    "reshape": (_back,),
    "roll": (_roll,),
    "sort": (_sort,),
    "squeeze": (_back,),
    "stack": (_stack,),
    "tile": (_tile,),
    "tril": (lambda xp, g, y, x, /, *, k=0: xp.tril(g, k=k),),
    "triu": (lambda xp, g, y, x, /, *, k=0: xp.triu(g, k=k),),
    "unstack": (lambda xp, g, y, x, /, *, axis=0: xp.stack(g, axis=axis),),
    "where": (None, _where(True), _where(False)),
}
DEFINED: dict[str, Any] = {
    "astype": _astype,
    "broadcast_arrays": _broadcast_arrays,
    "diff": _diff,
    "meshgrid": _meshgrid,
}
