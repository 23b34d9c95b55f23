"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

from ..contract import dtype_name
from ..errors import DataError
from ._checks import check_arrays, check_floating, narrow, widen
from ._dispatch import Op

__all__ = ["attention"]


def causal_mask(xp: Any, length: int, source: int, like: Any) -> Any:
    """Return True where a query may look: at its own place and before."""
    ones = xp.ones((length, source), dtype=like)
    return xp.astype(xp.tril(ones), xp.bool)


def _attention(xp: Any, q: Any, k: Any, v: Any, mask: Any = None, *, causal: bool, scale: float) -> Any:
    """Return the result and the weights, which the gradient needs."""
    s = xp.multiply(widen(xp, xp.matmul(q, xp.matrix_transpose(k))), scale)
    allowed = causal_mask(xp, s.shape[-2], s.shape[-1], s.dtype) if causal else None
    if mask is not None and dtype_name(mask.dtype) == "bool":
        allowed = mask if allowed is None else xp.logical_and(allowed, mask)
    elif mask is not None:
        s = xp.add(s, widen(xp, mask))
    if allowed is not None:
        s = xp.where(allowed, s, xp.full_like(s, -math.inf))
    largest = xp.max(s, axis=-1, keepdims=True)
    if mask is not None:  # a query may have nothing to look at: its result is 0
        largest = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    e = xp.exp(xp.subtract(s, largest))
    total = xp.sum(e, axis=-1, keepdims=True)
    if mask is not None:
        total = xp.where(xp.equal(total, 0), xp.ones_like(total), total)
    p = xp.divide(e, total)
    return xp.matmul(narrow(xp, p, v.dtype), v), p


def _attention_rule(
    xp: Any,
    g: Any,
    p: Any,
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    needs: Any,
    causal: bool,
    scale: float,
) -> Any:
    for_v = xp.matmul(xp.matrix_transpose(narrow(xp, p, g.dtype)), g) if needs[2] else None
    if not (needs[0] or needs[1] or (len(needs) > 3 and needs[3])):
        return None, None, for_v, None
    for_p = widen(xp, xp.matmul(g, xp.matrix_transpose(v)))
    inner = xp.sum(xp.multiply(for_p, p), axis=-1, keepdims=True)
    for_s = xp.multiply(xp.subtract(for_p, inner), p)
    scaled = narrow(xp, xp.multiply(for_s, scale), q.dtype)
    return (
        xp.matmul(scaled, k) if needs[0] else None,
        xp.matmul(xp.matrix_transpose(scaled), q) if needs[1] else None,
        for_v,
        for_s if len(needs) > 3 and needs[3] else None,
    )


_attention_op = Op("attention", _attention, _attention_rule, saves=True)


def attention(q: Any, k: Any, v: Any, /, *, mask: Any = None, causal: bool = False, scale: float | None = None) -> Any:
    """Return, for each query, the mean of values weighted by softmax(scale q·k).

    Parameters
    ----------
    q : array of shape (..., heads, length, head_dim)
        Queries, real floating.
    k : array of shape (..., heads, source, head_dim)
        Keys.
    v : array of shape (..., heads, source, value_dim)
        Values.
    mask : array broadcastable to (..., heads, length, source), optional
        Boolean: True where a query may look. Floating: added to the logarithms of the weights; differentiated.
    causal : bool, default: False
        Whether query i may look at keys 0 to i only; combines with `mask`.
    scale : float, optional
        1 / √head_dim if it is not given.

    Returns
    -------
    array of shape (..., heads, length, value_dim)
        Of the dtype of `q`; 0 for a query that may look nowhere. Half precision is summed in float32.

    Raises
    ------
    DataError
        If the shapes do not fit.
    DTypeError
        If `q` is not real floating.
    ArrayTypeError
        If an argument is no array.

    References
    ----------
    A. Vaswani et al., "Attention is all you need", arXiv:1706.03762, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> x = np.ones((1, 3, 4), np.float32)
    >>> ops.attention(x, x, x, causal=True).shape
    (1, 3, 4)
    """
    check_floating("attention", q, "q")
    try:
        fits = min(q.ndim, k.ndim, v.ndim) >= 2 and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
        adds = mask is not None and dtype_name(mask.dtype) != "bool"
    except AttributeError:
        check_arrays("attention", k=k, v=v, mask=mask)
        raise
    if not fits:
        raise DataError(
            "attention takes q (..., length, head_dim), k (..., source, head_dim) and v (..., source, value_dim), "
            f"got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    if mask is None:
        return _attention_op(q, k, v, causal=causal, scale=scale)
    if adds:
        check_floating("attention", mask, "a mask that is boolean or")
    return _attention_op(q, k, v, mask, causal=causal, scale=scale)
