"""Fast paths for `xdev.ops` and its gradients: fewer launches, and fewer passes over memory.

Requirements: what is computed goes through `f`, the module of functions that a kernel gets first, so that it can be
recorded; no value is read. Each works where its arrays are, whichever device is the current one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from . import functions

__all__ = ["KERNELS"]

Array = Any
_current = cupy.cuda.runtime.getDevice
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def _where_its_arrays_are(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel that enters the device of its first array."""

    @functools.wraps(kernel)
    def call(f: Any, x: Array, *args: Any, **kwargs: Any) -> Any:
        index = x.data.device_id
        for other in args:
            if isinstance(other, cupy.ndarray):
                if other.data.device_id != index:  # products would not tell
                    raise ValueError("the device of an array is different from the current device")
            elif hasattr(other, "shape") and hasattr(other, "dtype") and not isinstance(other, np.generic | tuple):
                cupy.add(x, other)  # which refuses arrays of other frameworks; a tuple says what one was like
        if _current() == index:
            return kernel(f, x, *args, **kwargs)
        with cupy.cuda.Device(index):
            return kernel(f, x, *args, **kwargs)

    return call


def _wide(x: Array) -> Any:
    """Return the dtype that sums are taken in."""
    return _FLOAT64 if x.dtype == _FLOAT64 else _FLOAT32


def _reduced(f: Any, function: Any, x: Array, *others: Any, axis: Any) -> Array:
    """Return a reduction that keeps its axes with length 1, in the wide dtype."""
    given = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = {k % x.ndim for k in given}
    out = f.empty(tuple(1 if k in axes else n for k, n in enumerate(x.shape)), _wide(x))
    function(x, *others, axis=tuple(sorted(axes)), keepdims=True, out=out)
    return out


def _column_sums(f: Any, function: Any, *arrays: Array, dtype: Any) -> Array:
    """Return a reduction over the first of two axes."""
    out = f.empty(arrays[0].shape[1:], dtype)
    function(*arrays, axis=0, out=out)
    return out


def _rows(f: Any, x: Array) -> Array:
    """Return an array with all axes but the last as one."""
    return x if x.ndim == 2 else f.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


# -- affine maps -------------------------------------------------------------------------------------------------


def _linear(f: Any, x: Array, weight: Array, bias: Array = None) -> Array:
    # As one product: with more than two axes matmul would do one per leading index.
    y = f.matmul(_rows(f, x), weight)
    if bias is not None:
        y = f.add(y, bias, y) if bias.dtype == y.dtype else f.add(y, bias)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.shape[1])


def _linear_backward(f: Any, g: Array, y: Array, x: Array, weight: Array, bias: Array = None, *, needs: Any) -> Any:
    rows = _rows(f, g)
    for_x = f.matmul(rows, weight.T).reshape(x.shape) if needs[0] else None
    for_weight = f.matmul(_rows(f, x).T, rows) if needs[1] else None
    for_bias = None
    if len(needs) > 2 and needs[2]:
        for_bias = f.cast(_column_sums(f, f.row_sum, rows, dtype=_wide(rows)), g.dtype)
    return for_x, for_weight, for_bias


def _scatter_add(values: Array, places: Array, size: int) -> Array:
    """Return sums of rows by place, the same in each call: atomic additions would come in any order."""
    if values.dtype not in (_FLOAT32, _FLOAT64):
        return NotImplemented
    with cupy.cuda.Device(values.data.device_id):
        if not values.size or not size:
            return cupy.zeros((size, *values.shape[1:]), values.dtype)
        places = cupy.where(places < 0, places + size, places)
        order = cupy.argsort(places, kind="stable")
        summed = cupy.empty((size, *values.shape[1:]), values.dtype)
        rows = cupy.ascontiguousarray(values)
        width = values.size // values.shape[0]
        functions.sum_by_place(places.take(order), order, rows, values.shape[0], width, summed)
    return summed


# -- activations -------------------------------------------------------------------------------------------------


def _relu_backward(f: Any, g: Array, y: Array, x: Array, *, needs: Any) -> Any:
    return (f.relu_back(g, y),)


def _gelu_forward(f: Any, x: Array, *, approximate: bool) -> Any:
    """Return the value and the slope."""
    y, slope = f.empty(x.shape, x.dtype), f.empty(x.shape, _wide(x))
    (f.gelu_tanh if approximate else f.gelu)(x, y, slope)
    return y, slope


def _gelu_backward(f: Any, g: Array, slope: Array, x: Array, *, needs: Any, approximate: bool) -> Any:
    return (f.multiply(g, slope),)


def _gelu(f: Any, x: Array, *, approximate: bool) -> Array:
    return _gelu_forward(f, x, approximate=approximate)[0]


def _sigmoid(f: Any, x: Array) -> Array:
    return f.sigmoid(x)


def _sigmoid_backward(f: Any, g: Array, y: Array, x: Array, *, needs: Any) -> Any:
    return (f.sigmoid_back(g, y),)


def _silu_forward(f: Any, x: Array) -> Any:
    """Return the value and the sigmoid."""
    y, s = f.empty(x.shape, x.dtype), f.empty(x.shape, _wide(x))
    f.silu(x, y, s)
    return y, s


def _silu_backward(f: Any, g: Array, s: Array, x: Array, *, needs: Any) -> Any:
    return (f.silu_back(g, s, x),)


def _silu(f: Any, x: Array) -> Array:
    return _silu_forward(f, x)[0]


# -- softmax and losses ------------------------------------------------------------------------------------------


def _into_softmax(f: Any, x: Array, dtype: Any, *, axis: Any, empty: bool = False) -> Array:
    """Return the softmax in a dtype; `empty` ones of nothing but -inf are 0."""
    largest = _reduced(f, f.row_max_finite if empty else f.row_max, x, axis=axis)
    total = _reduced(f, f.exp_sum, x, largest, axis=axis)
    y = f.empty(x.shape, dtype)
    f.softmax(x, largest, total, empty, y)
    return y


def _softmax(f: Any, x: Array, *, axis: Any) -> Array:
    return _into_softmax(f, x, x.dtype, axis=axis)


def _softmax_backward(f: Any, g: Array, y: Array, x: Array, *, needs: Any, axis: Any) -> Any:
    inner = _reduced(f, f.product_sum, g, y, axis=axis)
    out = f.empty(x.shape, y.dtype)
    f.softmax_back(g, y, inner, 1.0, out)
    return (out,)


def _log_softmax(f: Any, x: Array, *, axis: Any) -> Array:
    largest = _reduced(f, f.row_max, x, axis=axis)
    total = _reduced(f, f.exp_sum, x, largest, axis=axis)
    y = f.empty(x.shape, x.dtype)
    f.log_softmax(x, largest, total, y)
    return y


def _log_softmax_backward(f: Any, g: Array, y: Array, x: Array, *, needs: Any, axis: Any) -> Any:
    total = _reduced(f, f.row_sum, g, axis=axis)
    out = f.empty(x.shape, y.dtype)
    f.log_softmax_back(g, y, total, out)
    return (out,)


def _cross_entropy_forward(f: Any, logits: Array, labels: Array, *, checked: bool) -> Any:
    """Return the loss and the probabilities; both are NaN for a label out of range, which nobody reads."""
    rows, dtype = _rows(f, logits), _wide(logits)
    largest = _reduced(f, f.row_max, rows, axis=1)
    total = _reduced(f, f.exp_sum, rows, largest, axis=1)
    p, each = f.empty(rows.shape, dtype), f.empty((rows.shape[0],), dtype)
    f.cross_entropy(rows, largest, total, f.reshape(labels, (-1, 1)), rows.shape[1], p, each)
    loss = f.empty((), dtype)
    f.row_mean(each, out=loss)
    return f.cast(loss, logits.dtype), p


def _cross_entropy(f: Any, logits: Array, labels: Array, *, checked: bool) -> Array:
    return _cross_entropy_forward(f, logits, labels, checked=checked)[0]


def _cross_entropy_backward(
    f: Any, g: Array, p: Array, logits: Array, labels: Array, *, needs: Any, checked: bool
) -> Any:
    out = f.empty(p.shape, logits.dtype)
    f.cross_entropy_back(g, p, f.reshape(labels, (-1, 1)), p.shape[1], 1.0 / max(labels.size, 1), out)
    return out.reshape(logits.shape), None


def _mse_forward(f: Any, prediction: Array, target: Array) -> Any:
    dtype = _FLOAT64 if _FLOAT64 in (prediction.dtype, target.dtype) else _FLOAT32
    difference, loss = f.empty(prediction.shape, dtype), f.empty((), dtype)
    f.centred(prediction, target, difference)
    f.square_mean(difference, out=loss)
    return f.cast(loss, prediction.dtype), difference


# -- normalisation -----------------------------------------------------------------------------------------------


def _layer_norm_forward(f: Any, x: Array, weight: Array, bias: Array, *, eps: float) -> Any:
    rows = _rows(f, x)
    mean = _reduced(f, f.row_mean, rows, axis=1)
    inverse = _reduced(f, f.inverse_deviation, rows, mean, eps, axis=1)
    y, normal = f.empty(rows.shape, x.dtype), f.empty(rows.shape, mean.dtype)
    scale, shift = (mean if x is None else x for x in (weight, bias))
    f.normal(rows, mean, inverse, scale, shift, weight is not None, bias is not None, y, normal)
    return y.reshape(x.shape), (normal, inverse)


def _layer_norm(f: Any, x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    return _layer_norm_forward(f, x, weight, bias, eps=eps)[0]


def _layer_norm_backward(
    f: Any, g: Array, saved: Any, x: Array, weight: Array, bias: Array, *, needs: Any, eps: float
) -> Any:
    normal, inverse = saved
    rows, dtype = _rows(f, g), normal.dtype
    for_x = None
    if needs[0]:
        if weight is None:
            along = _reduced(f, f.product_mean, rows, normal, axis=1)
            across = _reduced(f, f.row_mean, rows, axis=1)
        else:
            along = _reduced(f, f.weighted_mean, rows, normal, weight, axis=1)
            across = _reduced(f, f.product_mean, rows, weight, axis=1)
        for_x = f.empty(normal.shape, dtype)
        scale = inverse if weight is None else weight
        f.normal_back(rows, normal, inverse, scale, weight is not None, along, across, for_x)
        for_x = for_x.reshape(x.shape)
    for_weight = _column_sums(f, f.product_sum, rows, normal, dtype=dtype) if needs[1] else None
    return for_x, for_weight, _column_sums(f, f.row_sum, rows, dtype=dtype) if needs[2] else None


# -- attention ---------------------------------------------------------------------------------------------------


def _attention_forward(f: Any, q: Array, k: Array, v: Array, mask: Array = None, *, causal: bool, scale: float) -> Any:
    """Return the result and the weights."""
    products = f.matmul(q, k.swapaxes(-1, -2))
    adds = mask is not None and mask.dtype != np.bool_
    shape = products.shape if mask is None else np.broadcast_shapes(products.shape, mask.shape)
    s = f.empty(shape, _wide(products))
    # What is left out is another array, which is not read: numbers have no type that a kernel could go by.
    given = products if mask is None else mask
    f.attend(products, given, mask is None, adds, causal, *shape[-2:], scale, s)
    p = _into_softmax(f, s, s.dtype, axis=-1, empty=True)
    return f.matmul(f.cast(p, v.dtype), v), p


def _attention(f: Any, q: Array, k: Array, v: Array, mask: Array = None, *, causal: bool, scale: float) -> Array:
    return _attention_forward(f, q, k, v, mask, causal=causal, scale=scale)[0]


def _attention_backward(
    f: Any,
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
    for_v = f.matmul(f.cast(p, g.dtype).swapaxes(-1, -2), g) if needs[2] else None
    has_mask = len(needs) > 3 and needs[3]
    if not (needs[0] or needs[1] or has_mask):
        return None, None, for_v, None
    for_p = f.matmul(g, v.swapaxes(-1, -2))
    inner = _reduced(f, f.product_sum, for_p, p, axis=-1)
    for_s = None
    if has_mask:
        for_s = f.empty(p.shape, p.dtype)
        f.softmax_back(for_p, p, inner, 1.0, for_s)
    scaled = f.empty(p.shape, q.dtype)
    f.softmax_back(for_p, p, inner, scale, scaled)
    for_q = f.matmul(scaled, k) if needs[0] else None
    return for_q, f.matmul(scaled.swapaxes(-1, -2), q) if needs[1] else None, for_v, for_s


_RECORDED: dict[str, Callable[..., Any]] = {
    "attention": _attention,
    "attention.backward": _attention_backward,
    "attention.forward": _attention_forward,
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
    "log_softmax": _log_softmax,
    "log_softmax.backward": _log_softmax_backward,
    "mse.forward": _mse_forward,
    "relu.backward": _relu_backward,
    "sigmoid": _sigmoid,
    "sigmoid.backward": _sigmoid_backward,
    "silu": _silu,
    "silu.backward": _silu_backward,
    "silu.forward": _silu_forward,
    "softmax": _softmax,
    "softmax.backward": _softmax_backward,
}
KERNELS: dict[str, Callable[..., Any]] = {
    **{name: functools.partial(_where_its_arrays_are(kernel), functions) for name, kernel in _RECORDED.items()},
    "scatter_add": _scatter_add,
}
