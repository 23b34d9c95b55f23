"""Fast paths for `xdev.ops` and its gradients: fewer passes over memory, and fewer arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .buffers import empty

__all__ = ["KERNELS"]

Array = Any
_BOOL = np.dtype(bool)


@functools.lru_cache(maxsize=64)
def _kept_vector(n: int, value: float, dtype: Any) -> Array:
    made = np.full(n, value, dtype)
    made.flags.writeable = False
    return made


def _vector(n: int, value: float, dtype: Any) -> Array:
    """Return n equal numbers; short vectors are made once, since making them costs as much as using them."""
    return _kept_vector(n, value, dtype) if n <= 4_096 else np.full(n, value, dtype)


def _rows(x: Array) -> Array:
    return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


def _product(a: Array, b: Array) -> Array:
    """Return the product of two matrices, in memory that is used again."""
    if a.dtype != b.dtype:
        return np.matmul(a, b)
    return np.matmul(a, b, out=empty((a.shape[0], b.shape[1]), a.dtype))


# -- affine maps ---------------------------------------------------------------------------------------------


def _linear(x: Array, weight: Array, bias: Array = None) -> Array:
    # As one product: with more than two axes matmul would do one per leading index.
    y = _product(_rows(x), weight)
    if bias is not None:
        y = np.add(y, bias, out=y) if bias.dtype == y.dtype else np.add(y, bias)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.shape[1])


def sum_rows(g: Array) -> Array:
    """Return the sum over the first of two axes, as a product, which takes two thirds of the time."""
    return np.matmul(_vector(g.shape[0], 1.0, g.dtype), g) if _is_wide(g) else g.sum(axis=0)


def _linear_backward(g: Array, y: Array, x: Array, weight: Array, bias: Array = None, *, needs: Any) -> Any:
    rows = _rows(g)
    for_x = None
    if needs[0]:
        for_x = _product(rows, weight.T)
        if x.ndim != 2:
            for_x = for_x.reshape(x.shape)
    for_weight = _product(_rows(x).T, rows) if needs[1] else None
    return for_x, for_weight, sum_rows(rows) if len(needs) > 2 and needs[2] else None


def _scatter_add(values: Array, places: Array, size: int) -> Array:
    """Return sums of rows by place; `numpy.add.at` takes many times as long."""
    if not values.size or not size:
        return np.zeros((size, *values.shape[1:]), values.dtype)
    rows = values.reshape(values.shape[0], -1)
    places = np.where(places < 0, places + size, places)
    if size <= 256 and rows.shape[1] > 1 and rows.dtype.kind == "f" and rows.itemsize > 2:
        hot = (places[:, None] == np.arange(size)).astype(rows.dtype)
        summed = np.matmul(hot.T, rows)
    else:
        order = np.argsort(places, kind="stable")
        ordered = places[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        summed = np.zeros((size, rows.shape[1]), rows.dtype)
        summed[ordered[starts]] = np.add.reduceat(rows[order], starts, axis=0)
    return summed.reshape(size, *values.shape[1:])


def _in_range(indices: Array, n: int) -> bool:
    # As unsigned integers negative ones are large: one reduction instead of two.
    return bool(indices.size and indices.view(_UNSIGNED[indices.itemsize]).max() < n)


_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


# -- activations ---------------------------------------------------------------------------------------------


def _relu(x: Array) -> Array:
    if not isinstance(x, np.ndarray) or not x.ndim:
        return np.maximum(x, 0)
    # Against a row of zeros: against a single one NumPy's maximum runs without SIMD.
    return np.maximum(x, _vector(x.shape[-1], 0.0, x.dtype), out=empty(x.shape, x.dtype))


def _relu_backward(g: Array, y: Array, x: Array, *, needs: Any) -> Any:
    if not (isinstance(g, np.ndarray) and isinstance(y, np.ndarray)):
        return (np.multiply(g, np.greater(y, 0)),)
    return (np.multiply(g, np.greater(y, 0, out=empty(y.shape, _BOOL)), out=empty(g.shape, g.dtype)),)


BLOCK = 2**14
"""Elements computed at a time, so that intermediate results stay in the processor's cache."""

# The probability that a normal number is below -|x|, divided by exp(-x²/2), as a polynomial in
# 2 / (1 + |x| / √8) - 1: the form of 7.1.26 in Abramowitz and Stegun, Handbook of Mathematical Functions, fitted to
# SciPy's erfcx by reweighted least squares. The largest errors of the probability: 2e-8 (float32), 4e-15 (float64).
TAIL = {
    "float32": (
        0.12769858746026946, 0.21358475604135171, 0.12084949360384677, 0.039514387176029786, 0.001722230219400954,
        -0.0033995479485482982, -0.00026250218334324116, 0.0002926112199568287,
    ),
    "float64": (
        0.12769783815512284, 0.21359292370645658, 0.12082909716349478, 0.03948929022386821, 0.0018664463197313537,
        -0.0034987270654780697, -0.00042357979300298456, 0.0004909738207690508, 2.183533250040771e-05,
        -8.71755062443108e-05, 1.3588064220389331e-05, 1.3888440082258773e-05, -6.715687196757256e-06,
        -9.675240226573604e-07, 1.6899510783389912e-06, -2.7639050622544696e-07, -1.9950420917118666e-07,
        7.029333914942981e-08,
    ),
}  # fmt: skip


def _normal_cdf(x: Array, cdf: Array, density: Array, work: Array) -> None:
    """Write the distribution function of the normal numbers, and their density times √2π."""
    np.multiply(x, x, out=work)
    np.multiply(work, -0.5, out=work)
    np.exp(work, out=density)
    np.abs(x, out=work)
    np.multiply(work, math.sqrt(0.125), out=work)
    np.add(work, 1.0, out=work)
    np.divide(2.0, work, out=work)
    np.subtract(work, 1.0, out=work)
    coefficients = TAIL[x.dtype.name]
    np.multiply(work, coefficients[-1], out=cdf)
    for c in coefficients[-2:0:-1]:
        np.add(cdf, c, out=cdf)
        np.multiply(cdf, work, out=cdf)
    np.add(cdf, coefficients[0], out=cdf)
    np.multiply(cdf, density, out=cdf)
    np.subtract(0.5, cdf, out=cdf)
    np.copysign(cdf, x, out=cdf)
    np.add(cdf, 0.5, out=cdf)


def _tanh_cdf(x: Array, cdf: Array, density: Array, work: Array) -> None:
    """Write the approximation of the distribution function with tanh, and its derivative times √2π."""
    slope = math.sqrt(2.0 / math.pi)
    np.multiply(x, x, out=work)
    np.multiply(work, 0.044715 * slope, out=cdf)
    np.add(cdf, slope, out=cdf)
    np.multiply(cdf, x, out=cdf)
    np.tanh(cdf, out=cdf)
    np.multiply(work, 3 * 0.044715, out=work)
    np.add(work, 1.0, out=work)
    np.multiply(cdf, cdf, out=density)
    np.subtract(1.0, density, out=density)
    np.multiply(density, work, out=density)  # (1 - tanh²)(1 + 3 c x²) √(2/π) / 2 is the derivative
    np.add(cdf, 1.0, out=cdf)
    np.multiply(cdf, 0.5, out=cdf)


def _gelu_forward(x: Array, *, approximate: bool) -> Any:
    """Return the value and the slope."""
    wide = np.ascontiguousarray(_widened(x)).reshape(-1)
    y, slope = np.empty_like(wide), np.empty_like(wide)
    near, density, work = (np.empty(min(BLOCK, wide.size), wide.dtype) for _ in range(3))
    fill = _tanh_cdf if approximate else _normal_cdf
    for start in range(0, wide.size, BLOCK):
        block = slice(start, min(start + BLOCK, wide.size))
        n = block.stop - start
        a, d, w, cdf = near[:n], density[:n], work[:n], slope[block]
        np.clip(wide[block], -40.0, 40.0, out=a)  # beyond, nothing changes, and powers must not overflow
        fill(a, cdf, d, w)
        np.multiply(wide[block], cdf, out=y[block])
        np.multiply(d, a, out=d)
        np.multiply(d, 1.0 / math.sqrt(2.0 * math.pi), out=d)
        np.add(cdf, d, out=cdf)
    y = y if y.dtype == x.dtype else y.astype(x.dtype)
    return y.reshape(x.shape), slope.reshape(x.shape)


def _gelu(x: Array, *, approximate: bool) -> Array:
    return _gelu_forward(x, approximate=approximate)[0]


# -- softmax and losses --------------------------------------------------------------------------------------


def _is_wide(x: Array) -> bool:
    return bool(x.dtype.kind == "f" and x.itemsize > 2)


def _widened(x: Array) -> Array:
    return x if _is_wide(x) else x.astype(np.float32)


def _exponentials(x: Array, axis: Any) -> Array:
    e = np.subtract(x, x.max(axis=axis, keepdims=True))
    return np.exp(e, out=e)


def _softmax(x: Array, *, axis: Any) -> Array:
    e = _exponentials(_widened(x), axis)
    e = np.divide(e, e.sum(axis=axis, keepdims=True), out=e)
    return e if e.dtype == x.dtype else e.astype(x.dtype)


def _softmax_backward(g: Array, y: Array, x: Array, *, needs: Any, axis: Any) -> Any:
    c = np.multiply(g, y)
    inner = c.sum(axis=axis, keepdims=True)
    np.subtract(g, inner, out=c)
    return (np.multiply(c, y, out=c),)


def _cross_entropy_forward(logits: Array, labels: Array, *, checked: bool) -> Any:
    """Return the loss and the probabilities; NumPy's labels have always been checked."""
    rows = _rows(_widened(logits))
    labels = labels.reshape(-1)
    e = np.subtract(rows, np.maximum.reduce(rows, axis=1, keepdims=True))
    picked = e[np.arange(labels.size), labels]
    np.exp(e, out=e)
    total = np.matmul(e, _vector(e.shape[1], 1.0, e.dtype))
    each = np.subtract(np.log(total), picked, out=picked)
    loss = np.add.reduce(each) / each.size if each.size else math.nan
    np.divide(e, total[:, None], out=e)
    return np.asarray(loss, dtype=logits.dtype), e


def _cross_entropy(logits: Array, labels: Array, *, checked: bool) -> Array:
    return _cross_entropy_forward(logits, labels, checked=checked)[0][()]


def _cross_entropy_backward(g: Array, p: Array, logits: Array, labels: Array, *, needs: Any, checked: bool) -> Any:
    count = max(labels.size, 1)
    each = p.dtype.type(g) / p.dtype.type(count)
    c = np.multiply(p, each)
    c[np.arange(labels.size), labels.reshape(-1)] -= each
    return c.reshape(logits.shape), None


def _mse_forward(prediction: Array, target: Array) -> Any:
    difference = np.subtract(_widened(prediction), _widened(target))
    flat = difference.reshape(-1)
    count = max(flat.size, 1) if flat.size else math.nan
    return np.asarray(np.dot(flat, flat) / count, dtype=prediction.dtype), difference


# -- normalisation -------------------------------------------------------------------------------------------


def _row_means(x: Array) -> Array:
    """Return the means of rows, as a product: six times as fast as a reduction of short rows."""
    return np.matmul(x, _vector(x.shape[1], 1.0 / x.shape[1], x.dtype)[:, None])


def _layer_norm_forward(x: Array, weight: Array, bias: Array, *, eps: float) -> Any:
    rows = _rows(_widened(x))
    normal = np.subtract(rows, _row_means(rows))
    y = np.multiply(normal, normal)
    inverse = _row_means(y)
    np.add(inverse, eps, out=inverse)
    np.divide(1.0, np.sqrt(inverse, out=inverse), out=inverse)
    np.multiply(normal, inverse, out=normal)
    if weight is None:
        np.copyto(y, normal)
    else:
        np.multiply(normal, weight, out=y, casting="same_kind")
    if bias is not None:
        np.add(y, bias, out=y, casting="same_kind")
    y = y if y.dtype == x.dtype else y.astype(x.dtype)
    return y.reshape(x.shape), (normal, inverse)


def _layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    return _layer_norm_forward(x, weight, bias, eps=eps)[0]


def _layer_norm_backward(g: Array, saved: Any, x: Array, weight: Array, bias: Array, *, needs: Any, eps: float) -> Any:
    normal, inverse = saved
    rows = _rows(_widened(g))
    work = np.multiply(rows, normal)
    for_weight = sum_rows(work) if needs[1] else None
    for_bias = sum_rows(rows) if needs[2] else None
    if not needs[0]:
        return None, for_weight, for_bias
    if weight is None:
        for_x = rows - _row_means(rows)
    else:
        for_x = np.multiply(rows, weight)
        np.multiply(for_x, normal, out=work)
        for_x -= _row_means(for_x)
    np.multiply(normal, _row_means(work), out=work)
    np.subtract(for_x, work, out=for_x)
    np.multiply(for_x, inverse, out=for_x)
    return for_x.reshape(x.shape), for_weight, for_bias


# -- attention -----------------------------------------------------------------------------------------------


def _attention_forward(q: Array, k: Array, v: Array, mask: Array = None, *, causal: bool, scale: float) -> Any:
    """Return the result and the weights."""
    s = _widened(np.matmul(q * scale, np.swapaxes(k, -1, -2)))
    if causal:
        np.add(s, np.triu(np.full(s.shape[-2:], -np.inf, s.dtype), 1), out=s)
    if mask is not None:
        added = np.where(mask, 0.0, -np.inf) if mask.dtype == np.bool_ else mask
        s = s + added.astype(s.dtype, copy=False)
    largest = s.max(axis=-1, keepdims=True)
    if mask is not None:  # a query may have nothing to look at: its result is 0
        np.copyto(largest, 0.0, where=np.isneginf(largest))
    np.subtract(s, largest, out=s)
    np.exp(s, out=s)
    total = s.sum(axis=-1, keepdims=True)
    if mask is not None:
        np.copyto(total, 1.0, where=total == 0)
    np.divide(s, total, out=s)
    return np.matmul(s if s.dtype == v.dtype else s.astype(v.dtype), v), s


def _attention(q: Array, k: Array, v: Array, mask: Array = None, *, causal: bool, scale: float) -> Array:
    return _attention_forward(q, k, v, mask, causal=causal, scale=scale)[0]


def _attention_backward(
    g: Array,
    p: Array,
    q: Array,
    k: Array,
    v: Array,
    mask: Array = None,
    *,
    needs: Any,
    causal: bool,
    scale: float,
) -> Any:
    for_v = None
    if needs[2]:
        for_v = np.matmul(np.swapaxes(p if p.dtype == g.dtype else p.astype(g.dtype), -1, -2), g)
    for_s = _widened(np.matmul(g, np.swapaxes(v, -1, -2)))
    work = np.multiply(for_s, p)
    np.subtract(for_s, work.sum(axis=-1, keepdims=True), out=for_s)
    np.multiply(for_s, p, out=for_s)
    for_mask = for_s if len(needs) > 3 and needs[3] else None
    small = for_s if for_s.dtype == q.dtype else for_s.astype(q.dtype)
    # The scale goes to the smaller factors; for_s stays as it is, for the mask.
    for_q = np.matmul(small, k * scale) if needs[0] else None
    for_k = np.matmul(np.swapaxes(small, -1, -2), q * scale) if needs[1] else None
    return for_q, for_k, for_v, for_mask


KERNELS: dict[str, Callable[..., Any]] = {
    "attention": _attention,
    "attention.backward": _attention_backward,
    "attention.forward": _attention_forward,
    "cross_entropy": _cross_entropy,
    "cross_entropy.backward": _cross_entropy_backward,
    "cross_entropy.forward": _cross_entropy_forward,
    "gelu": _gelu,
    "gelu.forward": _gelu_forward,
    "in_range": _in_range,
    "layer_norm": _layer_norm,
    "layer_norm.backward": _layer_norm_backward,
    "layer_norm.forward": _layer_norm_forward,
    "linear": _linear,
    "linear.backward": _linear_backward,
    "mse.forward": _mse_forward,
    "relu": _relu,
    "relu.backward": _relu_backward,
    "scatter_add": _scatter_add,
    "softmax": _softmax,
    "softmax.backward": _softmax_backward,
}
