"""Fast paths for `xdev.ops` and its gradients: fewer passes over memory, and fewer arrays.

Requirements: what is computed goes through `f`, the module of functions that a kernel gets first, so that it can be
recorded; values are looked at by functions of that module alone. Only `_opaque` kernels are free of that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import functions
from .attention import attention, attention_backward, attention_forward
from .rows import as_rows, column_sums, constants, long_rows, row_means, widened

__all__ = ["KERNELS"]

Array = Any
_BOOL = np.dtype(bool)


# -- affine maps ---------------------------------------------------------------------------------------------


def _product(f: Any, a: Array, b: Array) -> Array:
    """Return the product of two matrices, in memory that is used again."""
    if a.dtype != b.dtype:
        return f.matmul(a, b)
    return f.matmul(a, b, out=f.empty((a.shape[0], b.shape[1]), a.dtype))


def _linear(f: Any, x: Array, weight: Array, bias: Array = None) -> Array:
    # As one product: with more than two axes matmul would do one per leading index.
    y = _product(f, as_rows(f, x), weight)
    if bias is not None:
        y = f.add(y, bias, out=y) if bias.dtype == y.dtype else f.add(y, bias)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.shape[1])


def _linear_backward(f: Any, g: Array, y: Array, x: Array, weight: Array, bias: Array = None, *, needs: Any) -> Any:
    rows = as_rows(f, g)
    for_x = None
    if needs[0]:
        for_x = _product(f, rows, weight.T)
        if x.ndim != 2:
            for_x = for_x.reshape(x.shape)
    for_weight = _product(f, as_rows(f, x).T, rows) if needs[1] else None
    return for_x, for_weight, column_sums(f, rows) if len(needs) > 2 and needs[2] else None


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


def _relu(f: Any, x: Array) -> Array:
    if not isinstance(x, np.ndarray) or not x.ndim:
        return f.maximum(x, 0)
    # Against a row of zeros, and a long one: against a single one NumPy's maximum runs without SIMD.
    y = f.empty(x.shape, x.dtype)
    rows = long_rows(x)
    f.maximum(rows, constants(rows.shape[-1], 0.0, x.dtype), out=y.reshape(rows.shape))
    return y


def _relu_backward(f: Any, g: Array, y: Array, x: Array, *, needs: Any) -> Any:
    if not (isinstance(g, np.ndarray) and isinstance(y, np.ndarray)):
        return (f.multiply(g, f.greater(y, 0)),)
    return (f.multiply(g, f.greater(y, 0, out=f.empty(y.shape, _BOOL)), out=f.empty(g.shape, g.dtype)),)


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


def _normal_cdf(f: Any, x: Array, cdf: Array, slope: Array, work: Array) -> None:
    """Write the distribution function of the normal numbers, and its derivative times x."""
    f.multiply(x, x, out=work)
    f.multiply(work, -0.5, out=work)
    f.exp(work, out=slope)
    f.absolute(x, out=work)
    f.multiply(work, math.sqrt(0.125), out=work)
    f.add(work, 1.0, out=work)
    f.divide(2.0, work, out=work)
    f.subtract(work, 1.0, out=work)
    coefficients = TAIL[x.dtype.name]
    f.multiply(work, coefficients[-1], out=cdf)
    for c in coefficients[-2:0:-1]:
        f.add(cdf, c, out=cdf)
        f.multiply(cdf, work, out=cdf)
    f.add(cdf, coefficients[0], out=cdf)
    f.multiply(cdf, slope, out=cdf)
    f.subtract(0.5, cdf, out=cdf)
    f.copysign(cdf, x, out=cdf)
    f.add(cdf, 0.5, out=cdf)
    f.multiply(slope, x, out=slope)
    f.multiply(slope, 1.0 / math.sqrt(2.0 * math.pi), out=slope)


def _tanh_cdf(f: Any, x: Array, cdf: Array, slope: Array, work: Array) -> None:
    """Write the approximation of the distribution function with tanh, and its derivative times x.

    (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z)): NumPy's exponentials take a quarter of the time of its tanh. With
    z = √(2/π) (x + c x³), the derivative times x is 2 cdf (1 - cdf) (3 z - 2 √(2/π) x).
    """
    root = math.sqrt(2.0 / math.pi)
    f.multiply(x, x, out=work)
    f.multiply(work, -2.0 * root * 0.044715, out=work)
    f.subtract(work, 2.0 * root, out=work)
    f.multiply(work, x, out=work)  # -2 z
    f.exp(work, out=cdf)
    f.add(cdf, 1.0, out=cdf)
    f.divide(1.0, cdf, out=cdf)
    f.multiply(x, -4.0 * root, out=slope)
    f.multiply(work, -3.0, out=work)
    f.add(slope, work, out=slope)
    f.subtract(1.0, cdf, out=work)
    f.multiply(work, cdf, out=work)
    f.multiply(slope, work, out=slope)


def _gelu_forward(f: Any, x: Array, *, approximate: bool) -> Any:
    """Return the value and the slope."""
    wide = f.ascontiguousarray(widened(f, x)).reshape(-1)
    y, slope = f.empty(wide.shape, wide.dtype), f.empty(wide.shape, wide.dtype)
    size = min(BLOCK, wide.size)
    near, part, work = (f.empty((size,), wide.dtype) for _ in range(3))
    fill, reach = (_tanh_cdf, 10.0) if approximate else (_normal_cdf, 40.0)
    low, high = constants(size, -reach, wide.dtype), constants(size, reach, wide.dtype)
    for start in range(0, wide.size, BLOCK):
        block = slice(start, min(start + BLOCK, wide.size))
        n = block.stop - start
        a, d, w, cdf = near[:n], part[:n], work[:n], slope[block]
        # Beyond, nothing changes, and powers must not overflow. Against arrays minima and maxima run with SIMD.
        f.minimum(f.maximum(wide[block], low[:n], out=a), high[:n], out=a)
        fill(f, a, cdf, d, w)
        f.multiply(wide[block], cdf, out=y[block])
        f.add(cdf, d, out=cdf)
    return f.cast(y, x.dtype).reshape(x.shape), f.cast(slope, wide.dtype).reshape(x.shape)


def _gelu_backward(f: Any, g: Array, slope: Array, x: Array, *, needs: Any, approximate: bool) -> Any:
    if g.dtype != slope.dtype or not slope.ndim:
        return (f.multiply(g, slope),)
    return (f.multiply(g, slope, out=f.empty(slope.shape, slope.dtype)),)


def _gelu(f: Any, x: Array, *, approximate: bool) -> Array:
    return _gelu_forward(f, x, approximate=approximate)[0]


# -- softmax and losses --------------------------------------------------------------------------------------


def _softmax(f: Any, x: Array, *, axis: Any) -> Array:
    wide = widened(f, x)
    e = f.subtract(wide, f.maximum.reduce(wide, axis=axis, keepdims=True))
    e = f.exp(e, out=e)
    e = f.divide(e, f.add.reduce(e, axis=axis, keepdims=True), out=e)
    return f.cast(e, x.dtype)


def _softmax_backward(f: Any, g: Array, y: Array, x: Array, *, needs: Any, axis: Any) -> Any:
    c = f.multiply(g, y)
    inner = f.add.reduce(c, axis=axis, keepdims=True)
    f.subtract(g, inner, out=c)
    return (f.multiply(c, y, out=c),)


def _places(f: Any, labels: Array, width: int) -> Array:
    """Return where the label of each row stands in the flattened rows."""
    places = f.arange(0, labels.size * width, width) if labels.size else f.zeros((0,), np.intp)
    return f.add(places, f.cast(f.reshape(labels, (-1,)), places.dtype))


def _cross_entropy_forward(f: Any, logits: Array, labels: Array, *, checked: bool) -> Any:
    """Return the loss and the probabilities; NumPy's labels have always been checked."""
    rows = as_rows(f, widened(f, logits))
    # In C order: flattened, it is the same memory.
    e = f.subtract(rows, f.maximum.reduce(rows, axis=1, keepdims=True), out=f.empty(rows.shape, rows.dtype))
    picked = f.take(e.reshape(-1), _places(f, labels, e.shape[1]))
    f.exp(e, out=e)
    total = f.matmul(e, constants(e.shape[1], 1.0, e.dtype))
    f.subtract(f.log(total), picked, out=picked)
    count = picked.size if picked.size else math.nan
    loss = f.divide(f.add.reduce(picked), count)
    f.divide(e, total[:, None], out=e)
    return f.array(loss, logits.dtype), e


def _cross_entropy(f: Any, logits: Array, labels: Array, *, checked: bool) -> Array:
    return _cross_entropy_forward(f, logits, labels, checked=checked)[0][()]


def _cross_entropy_backward(
    f: Any, g: Array, p: Array, logits: Array, labels: Array, *, needs: Any, checked: bool
) -> Any:
    each = f.divide(f.array(g, p.dtype), max(labels.size, 1))
    c = f.multiply(p, each)
    places = _places(f, labels, p.shape[1])
    flat = c.reshape(-1)
    f.put(flat, places, f.subtract(f.take(flat, places), each))
    return c.reshape(logits.shape), None


def _mse_forward(f: Any, prediction: Array, target: Array) -> Any:
    difference = f.subtract(widened(f, prediction), widened(f, target))
    flat = f.reshape(difference, (-1,))
    count = max(flat.size, 1) if flat.size else math.nan
    return f.array(f.divide(f.matmul(flat, flat), count), prediction.dtype), difference


def _mse(f: Any, prediction: Array, target: Array) -> Array:
    return _mse_forward(f, prediction, target)[0][()]


# -- normalisation -------------------------------------------------------------------------------------------


def _layer_norm_forward(f: Any, x: Array, weight: Array, bias: Array, *, eps: float) -> Any:
    rows = as_rows(f, widened(f, x))
    normal = f.subtract(rows, row_means(f, rows), out=f.empty(rows.shape, rows.dtype))
    y = f.multiply(normal, normal, out=f.empty(rows.shape, rows.dtype))
    inverse = row_means(f, y)
    f.add(inverse, eps, out=inverse)
    f.divide(1.0, f.sqrt(inverse, out=inverse), out=inverse)
    f.multiply(normal, inverse, out=normal)
    if weight is None:
        f.copyto(y, normal)
    else:
        f.multiply(normal, weight, out=y, casting="same_kind")
    if bias is not None:
        f.add(y, bias, out=y, casting="same_kind")
    return f.cast(y, x.dtype).reshape(x.shape), (normal, inverse)


def _layer_norm(f: Any, x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    return _layer_norm_forward(f, x, weight, bias, eps=eps)[0]


def _layer_norm_backward(
    f: Any, g: Array, saved: Any, x: Array, weight: Array, bias: Array, *, needs: Any, eps: float
) -> Any:
    normal, inverse = saved
    rows = as_rows(f, widened(f, g))
    work = f.multiply(rows, normal, out=f.empty(rows.shape, rows.dtype))
    for_weight = column_sums(f, work) if needs[1] else None
    for_bias = column_sums(f, rows) if needs[2] else None
    if not needs[0]:
        return None, for_weight, for_bias
    if weight is None:
        along, across, for_x = row_means(f, work), row_means(f, rows), rows
    else:
        shares = f.cast(f.multiply(weight, 1.0 / weight.shape[0]), rows.dtype)[:, None]
        along, across = f.matmul(work, shares), f.matmul(rows, shares)
        for_x = f.multiply(rows, weight, out=f.empty(rows.shape, rows.dtype), casting="same_kind")
    f.multiply(normal, along, out=work)
    f.add(work, across, out=work)
    for_x = f.subtract(for_x, work, out=work)
    f.multiply(for_x, inverse, out=for_x)
    return for_x.reshape(x.shape), for_weight, for_bias


_RECORDED: dict[str, Callable[..., Any]] = {
    "attention": attention,
    "attention.backward": attention_backward,
    "attention.forward": attention_forward,
    "cross_entropy": _cross_entropy,
    "cross_entropy.backward": _cross_entropy_backward,
    "cross_entropy.forward": _cross_entropy_forward,
    "gelu": _gelu,
    "gelu.backward": _gelu_backward,
    "gelu.forward": _gelu_forward,
    "layer_norm": _layer_norm,
    "layer_norm.backward": _layer_norm_backward,
    "layer_norm.forward": _layer_norm_forward,
    "linear": _linear,
    "linear.backward": _linear_backward,
    "mse": _mse,
    "mse.forward": _mse_forward,
    "relu": _relu,
    "relu.backward": _relu_backward,
    "softmax": _softmax,
    "softmax.backward": _softmax_backward,
}
KERNELS: dict[str, Callable[..., Any]] = {
    **{name: functools.partial(kernel, functions) for name, kernel in _RECORDED.items()},
    "in_range": _in_range,
    "scatter_add": _scatter_add,
}
