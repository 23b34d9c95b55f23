"""Fast paths for `xdev.ops`: what JAX has with gradients of its own, and what XLA fuses better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["KERNELS"]


def _gelu(x: Any, *, approximate: bool) -> Any:
    return jax.nn.gelu(x, approximate=approximate)


def _logsumexp(x: Any, *, axis: Any, keepdims: bool) -> Any:
    wide = x if x.dtype.itemsize > 2 else x.astype(jnp.float32)
    return jax.nn.logsumexp(wide, axis=axis, keepdims=keepdims).astype(x.dtype)


def _cross_entropy(logits: Any, labels: Any, *, checked: bool) -> Any:
    wide = logits if logits.dtype.itemsize > 2 else logits.astype(jnp.float32)
    classes = wide.shape[-1]
    labels = labels if labels.dtype.itemsize > 2 else labels.astype(jnp.int32)  # small ones hold no 1,000 classes
    hot = labels[..., None] == jnp.arange(classes, dtype=labels.dtype)
    # Gradients through the largest logit cancel; XLA does not see that.
    shifted = wide - jax.lax.stop_gradient(wide.max(axis=-1, keepdims=True))
    each = jnp.log(jnp.exp(shifted).sum(axis=-1)) - jnp.where(hot, shifted, 0).sum(axis=-1)
    if not checked:  # by multiplication, so that gradients become NaN too
        each = each * jnp.where((labels >= 0) & (labels < classes), 1, jnp.nan).astype(each.dtype)
    return each.mean().astype(logits.dtype)


def _conv2d(x: Any, weight: Any, bias: Any = None, *, window: Any, groups: int) -> Any:
    y = jax.lax.conv_general_dilated(
        x,
        weight,
        window.stride,
        [(p, p) for p in window.padding],
        rhs_dilation=window.dilation,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=groups,
    )
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _pool(x: Any, window: Any, start: Any, combine: Callable[..., Any]) -> Any:
    padding = [(0, 0), (0, 0), *((p, p) for p in window.padding)]
    return jax.lax.reduce_window(x, start, combine, (1, 1, *window.size), (1, 1, *window.stride), padding)


def _max_pool2d(x: Any, *, window: Any) -> Any:
    return _pool(x, window, -jnp.inf, jax.lax.max)


def _avg_pool2d(x: Any, *, window: Any) -> Any:
    return _pool(x, window, 0.0, jax.lax.add) * (1.0 / math.prod(window.size))


KERNELS: dict[str, Callable[..., Any]] = {
    "avg_pool2d": _avg_pool2d,
    "conv2d": _conv2d,
    "cross_entropy": _cross_entropy,
    "gelu": _gelu,
    "logsumexp": _logsumexp,
    "max_pool2d": _max_pool2d,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
}
