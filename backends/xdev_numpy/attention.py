"""Attention on NumPy.

As in T. Dao et al., "FlashAttention", arXiv:2205.14135, the sums of rows divide the results, not the weights, and
backward takes its row sums from the results: both are smaller than the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .rows import constants, is_wide, widened

__all__ = ["attention", "attention_backward", "attention_forward"]

Array = Any


def _like(f: Any, x: Array, width: int, *others: Array) -> dict[str, Array]:
    """Return `out=` for a result of the shape of `x` but its last axis, in the order in which `x` lies in memory.

    Heads that are views of one matrix are then views of one matrix again, and joining them copies nothing.
    """
    if any(other.shape[:-2] != x.shape[:-2] or other.dtype != x.dtype for other in others):
        return {}
    shape = (*x.shape[:-1], width)
    order = sorted(range(x.ndim), key=lambda k: -x.strides[k])
    made = f.empty(tuple(shape[k] for k in order), x.dtype)
    return {"out": made.transpose([order.index(k) for k in range(x.ndim)])}


def _product(f: Any, a: Array, b: Array) -> Array:
    """Return the products of matrices, in memory that is used again."""
    if a.shape[:-2] != b.shape[:-2] or a.dtype != b.dtype:
        return f.matmul(a, b)
    return f.matmul(a, b, out=f.empty((*a.shape[:-1], b.shape[-1]), a.dtype))


def _row_sums(f: Any, x: Array) -> Array:
    return f.matmul(x, constants(x.shape[-1], 1.0, x.dtype))[..., None]


def _added(f: Any, s: Array, mask: Array, causal: bool) -> Array:
    """Return what is added to the scores, or None."""
    added = f.triu(f.full(s.shape[-2:], -np.inf, s.dtype), 1) if causal else None
    if mask is None:
        return added
    bias = f.cast(f.where(mask, 0.0, -np.inf) if mask.dtype == np.bool_ else mask, s.dtype)
    return bias if added is None else f.add(bias, added)


def attention_forward(f: Any, q: Array, k: Array, v: Array, mask: Array = None, *, causal: bool, scale: float) -> Any:
    """Return the result, and what backward needs."""
    scaled = f.multiply(q, scale, **_like(f, q, q.shape[-1]))
    s = widened(f, _product(f, scaled, np.swapaxes(k, -1, -2)))
    added = _added(f, s, mask, causal)
    if added is not None and np.broadcast_shapes(s.shape, added.shape) != s.shape:
        s = f.add(s, f.zeros(added.shape, s.dtype))
    f.shift_rows(s, added, mask is None)
    f.exp(s, out=s)
    inverse = _row_sums(f, s)
    if mask is not None:  # a query may have nothing to look at: its result is 0
        f.copyto(inverse, 1.0, where=f.equal(inverse, 0))
    f.reciprocal(inverse, out=inverse)
    if s.dtype != v.dtype or not is_wide(v):
        f.multiply(s, inverse, out=s)
        return f.matmul(f.cast(s, v.dtype), v), (s, None, scaled, None)
    y = f.matmul(s, v, **_like(f, q, v.shape[-1], v, s))
    f.multiply(y, inverse, out=y)
    return y, (s, inverse, scaled, y)


def attention(f: Any, q: Array, k: Array, v: Array, mask: Array = None, *, causal: bool, scale: float) -> Array:
    """Return the result."""
    return attention_forward(f, q, k, v, mask, causal=causal, scale=scale)[0]


def attention_backward(
    f: Any,
    g: Array,
    saved: Any,
    q: Array,
    k: Array,
    v: Array,
    mask: Array = None,
    *,
    needs: Any,
    causal: bool,
    scale: float,
) -> Any:
    """Return the cotangents."""
    e, inverse, scaled, y = saved
    if inverse is not None:
        g = f.multiply(g, inverse, **_like(f, g, g.shape[-1], y))
    for_v = f.matmul(np.swapaxes(f.cast(e, g.dtype), -1, -2), g, **_like(f, v, v.shape[-1], g, e)) if needs[2] else None
    for_s = widened(f, _product(f, g, np.swapaxes(v, -1, -2)))
    inner = _row_sums(f, f.multiply(for_s, e) if y is None else f.multiply(g, y, **_like(f, g, g.shape[-1], y)))
    f.subtract(for_s, inner, out=for_s)
    f.multiply(for_s, e, out=for_s)
    small = f.cast(for_s, q.dtype)
    for_q = for_k = None
    if needs[0]:
        for_q = f.matmul(small, k, **_like(f, q, q.shape[-1], k, small))
        f.multiply(for_q, scale, out=for_q)
    if needs[1]:
        for_k = f.matmul(np.swapaxes(small, -1, -2), scaled, **_like(f, k, k.shape[-1], scaled, small))
    return for_q, for_k, for_v, for_s if len(needs) > 3 and needs[3] else None
