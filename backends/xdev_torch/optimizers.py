"""Fused in-place optimizer updates by torch's own kernels, through the functional forms of `torch.optim` or directly.

Requirements: the kernels go through memory as it lies, which torch does not check on a CPU. `Layout` tells what they
can take, and brings gradients into that form. Called directly they take a fraction of the time for many small
parameters, but they are no public API: `kernels_fit` tells whether they are what is expected.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.optim.adamw import adamw as functional_adamw
from torch.optim.sgd import sgd as functional_sgd

from .gradients import memory

__all__ = ["KERNELS", "UPDATES", "Layout", "kernels_fit", "moments"]

_address, _stride = torch.Tensor.data_ptr, torch.Tensor.stride


class Layout:
    """How parameters lie in memory.

    Parameters
    ----------
    params : list of torch.Tensor
        Those that are updated.
    """

    def __init__(self, params: list[Any]) -> None:
        self._params = params
        self._strides = list(map(_stride, params))
        self._addresses = list(map(_address, params))
        # With None, which a sparse gradient has for memory, and without 0, the address of what is empty.
        self._memory = {None, *map(memory, params)} - {0}

    def holds(self) -> bool:
        """Return whether the parameters still lie so: `data` of one may have been set."""
        now = self._params
        return list(map(_address, now)) == self._addresses and list(map(_stride, now)) == self._strides

    def takes(self, state: Any) -> bool:
        """Return whether kernels can take the parameters with the moments of a state: all alike, and without gaps."""
        expected = [_form(torch.empty_like(x, device="meta")) for x in self._params]
        return all(list(map(_form, tensors)) == expected for tensors in (self._params, *moments(state)))

    def laid_out(self, grads: list[Any]) -> list[Any]:
        """Return gradients that lie as the parameters do, and not in their memory; most do."""
        held = self._memory
        return [
            g if memory(g) not in held and g.stride() == stride and not g.is_neg() else _laid_out(g, p)
            for g, p, stride in zip(grads, self._params, self._strides, strict=True)
        ]


def _laid_out(gradient: Any, param: Any) -> Any:
    return torch.empty_like(param).copy_(gradient.to_dense())


def _form(x: Any) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.dtype


def moments(state: Any) -> list[list[Any]]:
    """Return the lists of an optimizer's state that are as long as that of the parameters."""
    return [part for part in state if isinstance(part, list)]


# -- through torch.optim ---------------------------------------------------------------------------------------


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
    layout = Layout(params)
    with torch.no_grad():
        functional_adamw(
            params,
            layout.laid_out(grads),
            state.mu,
            state.nu,
            [],
            [state.count.to(torch.float32, copy=True) for _ in params],  # each is counted up by itself
            fused=layout.takes(state),
            amsgrad=False,
            beta1=b1,
            beta2=b2,
            lr=learning_rate,
            weight_decay=weight_decay,
            eps=eps,
            maximize=False,
        )
        return state._replace(count=state.count + 1)


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
    layout = Layout(params)
    with torch.no_grad():
        functional_sgd(
            params,
            layout.laid_out(grads),
            list(state.trace) if momentum else [None] * len(params),
            fused=layout.takes(state),
            weight_decay=weight_decay,
            momentum=momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=nesterov,
            maximize=False,
        )
        return state._replace(count=state.count + 1)


UPDATES: dict[str, Callable[..., Any]] = {"adamw": adamw, "sgd": sgd}
"""The updates by the optimizers' names."""


# -- directly --------------------------------------------------------------------------------------------------


def _adamw_kernel(
    params: list[Any],
    grads: list[Any],
    state: Any,
    *,
    learning_rate: float,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
) -> None:
    count = state.count
    step = count if count.is_cpu else count.to(torch.float32)  # elsewhere the kernel reads its memory as float32
    torch._fused_adamw_(
        params, grads, state.mu, state.nu, [], [step] * len(params), lr=learning_rate, beta1=b1, beta2=b2,
        weight_decay=weight_decay, eps=eps, amsgrad=False, maximize=False,
    )  # fmt: skip


def _sgd_kernel(
    params: list[Any],
    grads: list[Any],
    state: Any,
    *,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    torch._fused_sgd_(
        params, grads, state.trace if momentum else [], weight_decay=weight_decay, momentum=momentum, lr=learning_rate,
        dampening=0.0, nesterov=nesterov, maximize=False, is_first_step=False,
    )  # fmt: skip


KERNELS: dict[str, Callable[..., None]] = {"adamw": _adamw_kernel, "sgd": _sgd_kernel}
"""The kernels by the optimizers' names, for a state in which the step is counted already.

They take parameters, gradients and moments as a `Layout` says, all of one dtype on one device.
"""


@functools.cache
def kernels_fit() -> bool:
    """Return whether torch has the kernels, and they do what is expected."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        one, half = torch.ones(1), torch.full((1,), 0.5)
        count = torch.tensor(2, dtype=torch.int32)
        state = SimpleNamespace(count=count, mu=[half.clone()], nu=[half.clone()], trace=[half.clone()])
        by_adamw, by_sgd = one.clone(), one.clone()
        try:
            _adamw_kernel([by_adamw], [one], state, learning_rate=0.25, b1=0.5, b2=0.5, eps=1.0, weight_decay=1.0)
            _sgd_kernel([by_sgd], [one], state, learning_rate=0.25, momentum=0.5, nesterov=True, weight_decay=1.0)
        except (AttributeError, TypeError, RuntimeError):
            return False
        return bool(torch.allclose(by_adamw, 0.625 * one) and torch.allclose(by_sgd, 0.21875 * one))
