"""Fast paths for `xdev.ops`: torch's fused functions, through which its autograd differentiates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own convention
from torch.nn.attention import SDPBackend, sdpa_kernel

from .gradients import depth as depth

__all__ = ["KERNELS"]

NO_LABEL = -(2**62)  # of torch's default -100, labels would be ignored silently

FEW = range(2, 12) if torch.backends.mkl.is_available() else range(0)
"""Numbers of columns with which MKL multiplies at a third of its speed, unless they lie in memory as rows."""
MANY, LONG = 32 * 1024, 32
"""Elements, rows and columns of the other matrix from which on bringing the columns there costs less."""
_BY_MKL = frozenset({torch.float32, torch.float64})


def _is_narrow(x: Any, weight: Any) -> bool:
    length, columns = weight.shape
    if columns not in FEW or length < LONG or x.numel() < max(MANY, LONG * length):
        return False
    return x.is_cpu and weight.dtype in _BY_MKL


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if _is_narrow(x, weight):
        return F.linear(x, weight.mT.contiguous(), bias)
    if bias is None:
        return torch.matmul(x, weight)
    if x.ndim == 2:
        return torch.addmm(bias, x, weight)
    return F.linear(x, weight.mT, bias)


def _cross_entropy(logits: Any, labels: Any, *, checked: bool) -> Any:
    if logits.ndim != 2:
        logits = logits.reshape(-1, logits.shape[-1])
        labels = labels.reshape(-1)
    if labels.dtype is not torch.int64:
        labels = labels.to(torch.int64)
    if checked:
        return F.cross_entropy(logits, labels, ignore_index=NO_LABEL)
    # On an accelerator a label out of range would end the process's use of it, so it is replaced first.
    valid = (labels >= 0) & (labels < logits.shape[-1])
    each = F.cross_entropy(logits, torch.where(valid, labels, 0), reduction="none")
    return (each * torch.where(valid, 1.0, math.nan).to(each.dtype)).mean()


def _softmax(x: Any, *, axis: Any) -> Any:
    return torch.softmax(x, axis) if isinstance(axis, int) else _over(torch.softmax, x, axis)


def _log_softmax(x: Any, *, axis: Any) -> Any:
    return torch.log_softmax(x, axis) if isinstance(axis, int) else _over(torch.log_softmax, x, axis)


def _over(function: Callable[..., Any], x: Any, axis: Any) -> Any:
    """Apply a function of one axis over several, as one."""
    axes = tuple(range(x.ndim)) if axis is None else tuple(k % x.ndim for k in axis)
    moved = x.movedim(axes, tuple(range(x.ndim - len(axes), x.ndim)))
    rows = moved.reshape(*moved.shape[: x.ndim - len(axes)], -1)
    return function(rows, -1).reshape(moved.shape).movedim(tuple(range(x.ndim - len(axes), x.ndim)), axes)


def _logsumexp(x: Any, *, axis: Any, keepdims: bool) -> Any:
    if axis == ():
        return x.clone()
    return torch.logsumexp(x, tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims)


def _gelu(x: Any, *, approximate: bool) -> Any:
    return F.gelu(x, approximate="tanh" if approximate else "none")


def _layer_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def _embedding(weight: Any, indices: Any, *, checked: bool = True) -> Any:
    if indices.dtype is not torch.int64 and indices.dtype is not torch.int32:
        indices = indices.to(torch.int64)
    return F.embedding(indices, weight)


def _mse(prediction: Any, target: Any) -> Any:
    return F.mse_loss(prediction, target)


def _binary(logits: Any, targets: Any) -> Any:
    return F.binary_cross_entropy_with_logits(logits, targets)


def _attention(q: Any, k: Any, v: Any, mask: Any = None, *, causal: bool, scale: float) -> Any:
    if causal and mask is not None:
        allowed = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        mask = mask & allowed if mask.dtype is torch.bool else mask.masked_fill(~allowed, -math.inf)
        causal = False
    if depth.get() > 1:  # the fused kernels have no second derivative
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)


def _conv2d(x: Any, weight: Any, bias: Any = None, *, window: Any, groups: int) -> Any:
    return F.conv2d(x, weight, bias, window.stride, window.padding, window.dilation, groups)


def _max_pool2d(x: Any, *, window: Any) -> Any:
    return F.max_pool2d(x, window.size, window.stride, window.padding)


def _avg_pool2d(x: Any, *, window: Any) -> Any:
    return F.avg_pool2d(x, window.size, window.stride, window.padding)


def _scatter_add(values: Any, places: Any, size: int) -> Any:
    places = torch.where(places < 0, places + size, places)
    return values.new_zeros((size, *values.shape[1:])).index_add_(0, places, values)


def _in_range(indices: Any, n: int) -> bool:
    if not indices.is_cpu or indices.dtype not in _SIGNED or not indices.numel():
        return False
    low, high = torch.aminmax(indices)
    return int(low) >= 0 and int(high) < n


_SIGNED = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})

KERNELS: dict[str, Callable[..., Any]] = {
    "attention": _attention,
    "avg_pool2d": _avg_pool2d,
    "binary_cross_entropy_with_logits": _binary,
    "conv2d": _conv2d,
    "cross_entropy": _cross_entropy,
    "embedding": _embedding,
    "gelu": _gelu,
    "in_range": _in_range,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "max_pool2d": _max_pool2d,
    "mse": _mse,
    "relu": torch.relu,
    "rms_norm": _rms_norm,
    "scatter_add": _scatter_add,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softmax": _softmax,
}
