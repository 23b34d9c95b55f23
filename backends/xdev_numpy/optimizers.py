"""Fused in-place optimizer updates, in blocks that stay in the cache from the first pass to the last."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import functions

__all__ = ["UPDATES"]

BLOCK = 65_536
"""Elements of a block."""


def _blocks(f: Any, *arrays: Any) -> list[tuple[Any, ...]]:
    """Return arrays of one shape and a scratch array, cut together into blocks."""
    first = arrays[0]
    if first.size <= BLOCK or not all(x.flags.c_contiguous for x in arrays):  # a flattened copy would be updated
        return [(*arrays, f.empty(first.shape, first.dtype))]
    flat = [x.reshape(-1) for x in arrays]
    scratch = f.empty((BLOCK,), first.dtype)
    starts = range(0, first.size, BLOCK)
    return [(*(x[start : start + BLOCK] for x in flat), scratch[: first.size - start]) for start in starts]


def _together(f: Any, params: list[Any], grads: list[Any], *moments: list[Any]) -> Any:
    """Return what belongs together; all parameters as one where they and their moments are parts of flat arrays."""
    flat: list[Any] = [f.joined(arrays) for arrays in (params, *moments)] if len(params) > 1 else [None]
    if any(x is None for x in flat) or any(g.dtype != flat[0].dtype for g in grads):
        return zip(params, grads, *moments, strict=True)
    # A plan has gradients written there from the start.
    grad = f.concatenate([f.reshape(g, (-1,)) for g in grads], out=f.empty(flat[0].shape, flat[0].dtype))
    return [(flat[0], grad, *flat[1:])]


def _factors(count: Any, learning_rate: Any, b1: float, b2: float, eps: float, weight_decay: float, dtype: Any) -> Any:
    """Return the numbers of a step, which follow from how many there were."""
    step = int(count) + 1
    root = math.sqrt(1 - b2**step)
    rate = learning_rate * root / (1 - b1**step)  # both corrections in one factor, and eps in its measure
    return np.asarray((1 - b1, 1 - b2, eps * root, rate, 1 - learning_rate * weight_decay), dtype)


def adamw(
    f: Any,
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
    scalars: dict[Any, list[Any]] = {}
    for param, grad, mu, nu in _together(f, params, grads, state.mu, state.nu):
        dtype = param.dtype
        if dtype not in scalars:
            numbers = f.numbers(_factors, state.count, learning_rate, b1, b2, eps, weight_decay, dtype)
            scalars[dtype] = [numbers[k, ...] for k in range(5)]  # arrays without axes
        c1, c2, c_small, c_rate, c_keep = scalars[dtype]
        for p, g, m, v, t in _blocks(f, param, grad, mu, nu):
            f.subtract(g, m, t)
            f.multiply(t, c1, t)
            f.add(m, t, m)
            f.multiply(g, g, t)
            f.subtract(t, v, t)
            f.multiply(t, c2, t)
            f.add(v, t, v)
            f.sqrt(v, t)
            f.add(t, c_small, t)
            f.divide(m, t, t)
            f.multiply(t, c_rate, t)
            if weight_decay:
                f.multiply(p, c_keep, p)
            f.subtract(p, t, p)
    return type(state)(f.add(state.count, 1), state.mu, state.nu)


def sgd(
    f: Any,
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
    for param, grad, trace in _together(f, params, grads, traces):
        for p, g, v, t in _blocks(f, param, grad, trace):
            f.multiply(p, weight_decay, out=t)
            f.add(t, g, out=t)
            if momentum:
                f.multiply(v, momentum, out=v)
                f.add(v, t, out=v)
                if nesterov:
                    f.add(t, f.multiply(v, momentum), out=t)
                else:
                    f.copyto(t, v)
            f.multiply(t, learning_rate, out=t)
            f.subtract(p, t, out=p)
    return type(state)(f.add(state.count, 1), state.trace)


UPDATES: dict[str, Callable[..., Any]] = {
    name: functools.partial(update, functions) for name, update in (("adamw", adamw), ("sgd", sgd))
}
"""The updates by the optimizers' names."""
