"""Reductions and scans."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["DEFINED", "FRESH", "GENERAL", "expand", "reduced_size"]


def _axes(x: Any, axis: Any) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(x.ndim))
    return tuple(k % x.ndim for k in (axis if isinstance(axis, tuple) else (axis,)))


def reduced_size(x: Any, axis: Any) -> int:
    """Return the number of elements that one result is made of."""
    return math.prod(x.shape[k] for k in _axes(x, axis))


def expand(xp: Any, g: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    """Return a reduced array with the reduced axes as axes of length 1."""
    if keepdims or x.ndim == 0:
        return g
    axes = _axes(x, axis)
    return xp.reshape(g, tuple(1 if k in axes else n for k, n in enumerate(x.shape)))


def _sum(xp: Any, g: Any, y: Any, x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    return xp.broadcast_to(expand(xp, g, x, axis, keepdims), x.shape)


def _mean(xp: Any, g: Any, y: Any, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    g = xp.multiply(g, 1.0 / max(reduced_size(x, axis), 1))
    return xp.broadcast_to(expand(xp, g, x, axis, keepdims), x.shape)


def _extreme(xp: Any, g: Any, y: Any, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """Equal extremes share the cotangent equally."""
    axes = _axes(x, axis)
    chosen = xp.astype(xp.equal(x, expand(xp, y, x, axis, keepdims)), x.dtype)
    share = xp.divide(chosen, xp.sum(chosen, axis=axes, keepdims=True)) if axes else chosen
    return xp.multiply(share, expand(xp, g, x, axis, keepdims))


def _var(
    xp: Any, g: Any, y: Any, x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False
) -> Any:
    count = reduced_size(x, axis) - correction
    g = xp.multiply(expand(xp, g, x, axis, keepdims), 2.0 / count if count else math.inf)
    return xp.multiply(xp.subtract(x, xp.mean(x, axis=axis, keepdims=True)), g)


def _slice(axis: int, start: int | None, stop: int | None) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, slice(start, stop), ...)


def _before(xp: Any, products: Any, axis: int) -> Any:
    """Return, for each place, the product of all elements before it."""
    first = xp.ones_like(xp.getitem_(products, _slice(axis, 0, 1)))
    return xp.concat([first, xp.getitem_(products, _slice(axis, 0, -1))], axis=axis)


def _prod(xp: Any, g: Any, y: Any, x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """Multiply all other elements, which is right where some are 0."""
    axes = _axes(x, axis)
    if not axes:
        return g
    g = expand(xp, g, x, axis, keepdims)
    order = (*(k for k in range(x.ndim) if k not in axes), *axes)
    moved = xp.permute_dims(x, order)
    rows = xp.reshape(moved, (*moved.shape[: x.ndim - len(axes)], math.prod(x.shape[k] for k in axes)))
    last = rows.ndim - 1
    if rows.shape[last] == 0:
        return xp.zeros_like(x)
    before = _before(xp, xp.cumulative_prod(rows, axis=last), last)
    after = xp.flip(_before(xp, xp.cumulative_prod(xp.flip(rows, axis=last), axis=last), last), axis=last)
    others = xp.reshape(xp.multiply(before, after), moved.shape)
    return xp.multiply(xp.permute_dims(others, tuple(order.index(k) for k in range(x.ndim))), g)


def _single_axis(x: Any, axis: int | None) -> int:
    return 0 if axis is None else axis % x.ndim


def _reverse_sum(xp: Any, g: Any, axis: int) -> Any:
    return xp.flip(xp.cumulative_sum(xp.flip(g, axis=axis), axis=axis), axis=axis)


def _cumulative_sum(
    xp: Any, g: Any, y: Any, x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Any:
    axis = _single_axis(x, axis)
    if include_initial:
        g = xp.getitem_(g, _slice(axis, 1, None))
    return _reverse_sum(xp, g, axis)


def _cumulative_prod(
    xp: Any, g: Any, y: Any, x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Any:
    """Solve h[i] = g[i] + x[i+1] h[i+1] by doubling: no division, so zeros do no harm."""
    axis = _single_axis(x, axis)
    n = x.shape[axis]
    if n == 0:
        return xp.zeros_like(x)
    if include_initial:
        g = xp.getitem_(g, _slice(axis, 1, None))
        before = xp.getitem_(y, _slice(axis, 0, -1))
    else:
        before = _before(xp, y, axis)
    x = xp.astype(x, y.dtype)

    def ahead(z: Any, step: int) -> Any:
        rest = xp.getitem_(z, _slice(axis, step, None))
        return xp.concat([rest, xp.zeros_like(xp.getitem_(z, _slice(axis, 0, step)))], axis=axis)

    h, factor, step = g, ahead(x, 1), 1
    while step < n:
        h = xp.add(h, xp.multiply(factor, ahead(h, step)))
        factor = xp.multiply(factor, ahead(factor, step))
        step *= 2
    return xp.multiply(before, h)


GENERAL: dict[str, Any] = {
    "sum": (_sum,),
    "mean": (_mean,),
    "max": (_extreme,),
    "min": (_extreme,),
    "prod": (_prod,),
    "var": (_var,),
    "cumulative_sum": (_cumulative_sum,),
    "cumulative_prod": (_cumulative_prod,),
}
FRESH = ("max", "min", "var", "cumulative_prod")
DEFINED: dict[str, Any] = {"std": lambda xp, x, /, **how: xp.sqrt(xp.var(x, **how))}
