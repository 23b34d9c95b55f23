"""Products of matrices and vectors."""

from __future__ import annotations

import math
from typing import Any

from ..record import Pullback

__all__ = ["DEFINED", "ELEMENTWISE", "GENERAL"]


def _matmul_a(xp: Any, g: Any, y: Any, a: Any, b: Any, /) -> Any:
    if b.ndim == 1:
        g = xp.expand_dims(g, axis=-1)
        return xp.multiply(g, b)  # the engine sums over batch axes
    if a.ndim == 1:
        return xp.getitem_(xp.matmul(b, xp.expand_dims(g, axis=-1)), (..., 0))
    return xp.matmul(g, xp.matrix_transpose(b))


def _matmul_b(xp: Any, g: Any, y: Any, a: Any, b: Any, /) -> Any:
    if a.ndim == 1 and b.ndim == 1:
        return xp.multiply(a, g)
    if b.ndim == 1:
        return xp.getitem_(xp.matmul(xp.matrix_transpose(a), xp.expand_dims(g, axis=-1)), (..., 0))
    if a.ndim == 1:
        return xp.multiply(xp.expand_dims(a, axis=-1), xp.expand_dims(g, axis=-2))
    if b.ndim == 2 and a.ndim > 2:  # one product over all batches, instead of many to be summed
        rows = xp.reshape(a, (-1, a.shape[-1]))
        return xp.matmul(xp.matrix_transpose(rows), xp.reshape(g, (-1, g.shape[-1])))
    return xp.matmul(xp.matrix_transpose(a), g)


def _contracted(a: Any, b: Any, axes: Any) -> tuple[list[int], list[int]]:
    if isinstance(axes, int):
        return list(range(a.ndim - axes, a.ndim)), list(range(axes))
    return [k % a.ndim for k in axes[0]], [k % b.ndim for k in axes[1]]


def _tensordot(xp: Any, a: Any, b: Any, /, *, axes: Any = 2) -> Any:
    """Contract as one matrix product."""
    over_a, over_b = _contracted(a, b, axes)
    free_a = [k for k in range(a.ndim) if k not in over_a]
    free_b = [k for k in range(b.ndim) if k not in over_b]
    inner = math.prod(a.shape[k] for k in over_a)
    shape_a, shape_b = [a.shape[k] for k in free_a], [b.shape[k] for k in free_b]
    left = xp.reshape(xp.permute_dims(a, (*free_a, *over_a)), (math.prod(shape_a), inner))
    right = xp.reshape(xp.permute_dims(b, (*over_b, *free_b)), (inner, math.prod(shape_b)))
    return xp.reshape(xp.matmul(left, right), (*shape_a, *shape_b))


def _vecdot(xp: Any, a: Any, b: Any, /, *, axis: int = -1) -> Any:
    """Sum conj(a) b; with a negative axis, which counts from the end after broadcasting too."""
    if xp.isdtype(a.dtype, "complex floating"):
        a = xp.conj(a)
    return xp.sum(xp.multiply(a, b), axis=axis)


def _diagonal(xp: Any, x: Any, /, *, offset: int = 0) -> Any:
    rows, columns = x.shape[-2:]
    length = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    start = offset if offset >= 0 else -offset * columns
    places = xp.add(xp.multiply(xp.below.arange(length), columns + 1), start)
    return xp.take(xp.reshape(x, (*x.shape[:-2], rows * columns)), places, axis=-1)


def _trace(xp: Any, x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    return xp.sum(_diagonal(xp, x, offset=offset), axis=-1, dtype=dtype)


def _cross(xp: Any, a: Any, b: Any, /, *, axis: int = -1) -> Any:
    """Return a[1] b[2] - a[2] b[1] and its two rotations."""
    a1, a2, b1, b2 = (xp.roll(x, -k, axis=axis) for x in (a, b) for k in (1, 2))
    return xp.subtract(xp.multiply(a1, b2), xp.multiply(a2, b1))


ELEMENTWISE: dict[str, Any] = {"matmul": (Pullback(_matmul_a), Pullback(_matmul_b))}
GENERAL: dict[str, Any] = {"matrix_transpose": (lambda xp, g, y, x: xp.matrix_transpose(g),)}
DEFINED: dict[str, Any] = {
    "tensordot": _tensordot,
    "vecdot": _vecdot,
    "linalg.matmul": lambda xp, a, b, /: xp.matmul(a, b),
    "linalg.matrix_transpose": lambda xp, x, /: xp.matrix_transpose(x),
    "linalg.tensordot": _tensordot,
    "linalg.vecdot": _vecdot,
    "linalg.outer": lambda xp, a, b, /: xp.multiply(xp.expand_dims(a, axis=1), xp.expand_dims(b, axis=0)),
    "linalg.diagonal": _diagonal,
    "linalg.trace": _trace,
    "linalg.cross": _cross,
}
