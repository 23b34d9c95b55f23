"""Fused in-place optimizer updates: one kernel for each parameter; the step count stays on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import functions

__all__ = ["UPDATES"]


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
    """Update parameters, moments and the count in place; return the new state."""
    numbers: dict[Any, Any] = {}
    for param, grad, mu, nu in zip(params, grads, state.mu, state.nu, strict=True):
        dtype = param.dtype
        if dtype not in numbers:
            step = 0 if numbers else 1  # the first counts
            numbers[dtype] = f.empty((5,), dtype)
            f.factors(step, learning_rate, b1, b2, eps, weight_decay, state.count, numbers[dtype])
        f.adamw(grad, numbers[dtype], param, mu, nu)
    if not numbers:
        f.count_up(1, state.count)
    return state


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
    """Update parameters, momentum and the count in place; return the new state."""
    for n, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if momentum:
            f.momentum(grad, learning_rate, weight_decay, momentum, nesterov, param, state.trace[n])
        else:
            f.sgd(grad, learning_rate, weight_decay, param)
    f.count_up(1, state.count)
    return state


UPDATES: dict[str, Callable[..., Any]] = {
    name: functools.partial(update, functions) for name, update in (("adamw", adamw), ("sgd", sgd))
}
"""The updates by the optimizers' names."""
