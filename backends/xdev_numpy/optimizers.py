"""Fused in-place optimizer updates, in blocks that stay in the cache from the first pass to the last."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .buffers import empty

__all__ = ["UPDATES"]

BLOCK = 65_536
"""Elements of a block."""


def _blocks(*arrays: Any) -> list[tuple[Any, ...]]:
    """Return arrays of one shape and a scratch array, cut together into blocks."""
    first = arrays[0]
    if first.size <= BLOCK or not all(x.flags.c_contiguous for x in arrays):  # a flattened copy would be updated
        return [(*arrays, empty(first.shape, first.dtype))]
    flat = [x.reshape(-1) for x in arrays]
    scratch = empty((BLOCK,), first.dtype)
    starts = range(0, first.size, BLOCK)
    return [(*(x[start : start + BLOCK] for x in flat), scratch[: first.size - start]) for start in starts]


def _scalars(dtype: Any, *numbers: float) -> list[Any]:
    """Return numbers as arrays without axes: a Python number costs a promotion in each call."""
    return [np.asarray(number, dtype) for number in numbers]


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
    scalars: dict[Any, list[Any]] = {}
    for param, grad, mu, nu in zip(params, grads, state.mu, state.nu, strict=True):
        dtype = param.dtype
        if dtype not in scalars:
            scalars[dtype] = _scalars(dtype, 1 - b1, 1 - b2, small, rate, keep)
        c1, c2, c_small, c_rate, c_keep = scalars[dtype]
        for p, g, m, v, t in _blocks(param, grad, mu, nu):
            np.subtract(g, m, t)
            np.multiply(t, c1, t)
            np.add(m, t, m)
            np.multiply(g, g, t)
            np.subtract(t, v, t)
            np.multiply(t, c2, t)
            np.add(v, t, v)
            np.sqrt(v, t)
            np.add(t, c_small, t)
            np.divide(m, t, t)
            np.multiply(t, c_rate, t)
            if weight_decay:
                np.multiply(p, c_keep, p)
            np.subtract(p, t, p)
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
        for p, g, v, t in _blocks(param, grad, trace):
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
