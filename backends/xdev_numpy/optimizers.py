"""Fused in-place optimizer updates, in blocks that stay in the cache from the first pass to the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .buffers import empty

__all__ = ["UPDATES"]

BLOCK = 32_768
"""Elements of a block."""


def _blocks(*arrays: Any) -> Iterator[tuple[Any, ...]]:
    """Walk arrays of one shape together, in flat blocks."""
    flat = [x.reshape(-1) for x in arrays]
    size = flat[0].size
    if size <= BLOCK:
        yield tuple(flat)
        return
    for start in range(0, size, BLOCK):
        yield tuple(x[start : start + BLOCK] for x in flat)


def adamw(
    params: list[Any],
    grads: list[Any],
    state: Any,
    *,
    learning_rate: float,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
) -> Any:
    """Update parameters and moments in place; return the new state."""
    count = state.count + 1
    step = int(count)
    root = math.sqrt(1 - b2**step)
    rate = learning_rate * root / (1 - b1**step)  # both corrections in one factor, and eps in its measure
    small = eps * root
    keep = 1 - learning_rate * weight_decay
    for param, grad, mu, nu in zip(params, grads, state.mu, state.nu, strict=True):
        scratch = empty((min(param.size, BLOCK),), param.dtype)
        for p, g, m, v in _blocks(param, grad, mu, nu):
            t = scratch[: p.size]
            np.subtract(g, m, out=t)
            t *= 1 - b1
            m += t
            np.multiply(g, g, out=t)
            t -= v
            t *= 1 - b2
            v += t
            np.sqrt(v, out=t)
            t += small
            np.divide(m, t, out=t)
            t *= rate
            if weight_decay:
                p *= keep
            p -= t
    return type(state)(count, state.mu, state.nu)


def sgd(
    params: list[Any],
    grads: list[Any],
    state: Any,
    *,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> Any:
    """Update parameters and momentum in place; return the new state."""
    traces = state.trace if momentum else params
    for param, grad, trace in zip(params, grads, traces, strict=True):
        scratch = empty((min(param.size, BLOCK),), param.dtype)
        for p, g, v in _blocks(param, grad, trace):
            t = scratch[: p.size]
            np.multiply(p, weight_decay, out=t)
            t += g
            if momentum:
                v *= momentum
                v += t
                if nesterov:
                    t += momentum * v
                else:
                    t[...] = v
            t *= learning_rate
            p -= t
    return type(state)(state.count + 1, state.trace)


UPDATES: dict[str, Callable[..., Any]] = {"adamw": adamw, "sgd": sgd}
"""The updates by the optimizers' names."""
