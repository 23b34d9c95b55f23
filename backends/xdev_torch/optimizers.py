"""Fused in-place optimizer updates: torch's own kernels, through the functional forms of `torch.optim`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.adamw import adamw as functional_adamw
from torch.optim.sgd import sgd as functional_sgd

__all__ = ["UPDATES"]


def _laid_out(params: list[Any], grads: list[Any]) -> list[Any]:
    """Return gradients in the memory order of their parameters: the fused kernels walk both as flat memory."""
    return [g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for p, g in zip(params, grads, strict=True)]


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
    with torch.no_grad():
        count = state.count.to(torch.float32)
        functional_adamw(
            params,
            _laid_out(params, grads),
            state.mu,
            state.nu,
            [],
            [count.clone() for _ in params],
            fused=True,
            amsgrad=False,
            beta1=b1,
            beta2=b2,
            lr=learning_rate,
            weight_decay=weight_decay,
            eps=eps,
            maximize=False,
        )
        return type(state)(state.count + 1, state.mu, state.nu)


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
    with torch.no_grad():
        functional_sgd(
            params,
            _laid_out(params, grads),
            list(state.trace) if momentum else [None] * len(params),
            fused=True,
            weight_decay=weight_decay,
            momentum=momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=nesterov,
            maximize=False,
        )
    return type(state)(state.count + 1, state.trace)


UPDATES: dict[str, Callable[..., Any]] = {"adamw": adamw, "sgd": sgd}
"""The updates by the optimizers' names."""
