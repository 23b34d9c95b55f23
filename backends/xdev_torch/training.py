"""The steps of a training run, with less around them: what holds for all steps of a run is looked at once.

Gradients are those of `gradients.value_and_grad`, except that they may share memory: an update only reads them. The
update is a kernel that is called directly where it can be, and else the functional form in `torch.optim`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from . import gradients
from .optimizers import KERNELS, UPDATES, Layout, kernels_fit, moments

__all__ = ["Trainer", "make_trainer"]

_DTYPES = frozenset({torch.float32, torch.float64})


def make_trainer(name: str, params: list[Any]) -> Trainer | None:
    """Return what takes the steps of a run; None where there is no such update, or the tensors are not plain ones."""
    plain = name in UPDATES and all(map(_is_plain, params)) and len({(x.dtype, x.device) for x in params}) == 1
    return Trainer(name, params) if plain else None


def _is_plain(x: Any) -> bool:
    return type(x) is torch.Tensor and x.dtype in _DTYPES and not x.is_inference() and gradients.memory(x) is not None


class Trainer:
    """Gradients and updates of the parameters of one run.

    Parameters
    ----------
    name : str
        Of the update.
    params : list of torch.Tensor
        All of float32 or of float64, on one device; written in place.
    """

    def __init__(self, name: str, params: list[Any]) -> None:
        self.name = name
        self._params = params
        self._layout = Layout(params)
        self._moments: list[Any] | None = None  # those for which it is known whether the kernel can take them
        self._takes = False

    def value_and_grad(self, function: Callable[[list[Any]], tuple[Any, Any]], leaves: list[Any]) -> Any:
        """Return (value, auxiliary output, gradients), the last None if the value depends on no leaf."""
        return gradients.value_and_grad(function, leaves, gradients.filled)

    def update(self, grads: list[Any], state: Any, **hyper: Any) -> Any:
        """Update parameters and moments in place; return the new state."""
        if not (isinstance(hyper["learning_rate"], float | int) and self._kernel_takes(state)):
            return UPDATES[self.name](self._params, grads, state, **hyper)
        after = state._replace(count=state.count + 1)
        KERNELS[self.name](self._params, self._layout.laid_out(grads), after, **hyper)
        return after

    def _kernel_takes(self, state: Any) -> bool:
        tensors = [x for moment in moments(state) for x in moment]
        known = self._moments
        is_known = known is not None and len(known) == len(tensors) and all(map(operator.is_, tensors, known))
        if not (is_known and self._layout.holds()):
            self._layout = Layout(self._params)
            self._moments = tensors
            self._takes = kernels_fit() and self._layout.takes(state)
        return self._takes
