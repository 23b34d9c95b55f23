"""Gradients by torch's autograd on leaves, which costs less than `torch.func`."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch

__all__ = ["depth", "value_and_grad", "vjp"]

depth: ContextVar[int] = ContextVar("xdev_torch gradient depth", default=0)
"""How many gradients are being taken around this call."""


def _inputs(leaves: list[Any], nested: bool) -> list[Any]:
    leaves = [leaf.clone() if leaf.is_inference() else leaf for leaf in leaves]  # those know no gradients
    if not nested:
        return [leaf.detach().requires_grad_() for leaf in leaves]
    # view_as keeps a leaf connected to the outer graph: detached, second derivatives would be silently wrong.
    return [leaf.view_as(leaf) if leaf.requires_grad else leaf.detach().requires_grad_() for leaf in leaves]


def _is_nested(leaves: list[Any]) -> bool:
    return depth.get() > 0 or (torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves))


def _finish(gradients: Any, leaves: list[Any], taken: Any = ()) -> list[Any]:
    """Return gradients that share memory with nothing, as torch's may with each other and with cotangents.

    Zeros stand where nothing arrived. The convention is xdev's: d/dRe - i d/dIm, not its conjugate.
    """
    memory = {x.data_ptr() for x in taken}
    finished = []
    for gradient, leaf in zip(gradients, leaves, strict=True):
        if gradient is None:
            finished.append(torch.zeros_like(leaf))
            continue
        own = _conj(gradient)
        if own.data_ptr() in memory or 0 in own.stride():
            own = own.clone(memory_format=torch.contiguous_format)
        memory.add(own.data_ptr())
        finished.append(own)
    return finished


def _conj(x: Any) -> Any:
    return x.conj_physical() if x.is_complex() else x


def value_and_grad(function: Callable[[list[Any]], tuple[Any, Any]], leaves: list[Any]) -> tuple[Any, Any, list[Any]]:
    """Return (value, auxiliary output, gradients)."""
    nested = _is_nested(leaves)
    token = depth.set(depth.get() + 1)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = _inputs(leaves, nested)
            value, aux = function(inputs)
            if not value.requires_grad:
                return value.clone(), aux, [torch.zeros_like(leaf) for leaf in leaves]
            gradients = torch.autograd.grad(value, inputs, create_graph=nested, allow_unused=True)
    finally:
        depth.reset(token)
    gradients = _finish(gradients, leaves)
    if nested:
        return value, aux, gradients
    return value.detach().clone(), _detached(aux), gradients  # detached alone, it may be a leaf's own memory


def _detached(aux: Any) -> Any:
    return [x.detach() if isinstance(x, torch.Tensor) else x for x in aux] if isinstance(aux, list) else aux


def vjp(
    function: Callable[[list[Any]], list[Any]], leaves: list[Any]
) -> tuple[list[Any], Callable[[list[Any]], list[Any]]]:
    """Return the outputs and the pullback."""
    nested = _is_nested(leaves)
    token = depth.set(depth.get() + 1)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = _inputs(leaves, nested)
            outputs = function(inputs)
    finally:
        depth.reset(token)
    active = [i for i, out in enumerate(outputs) if out.requires_grad]

    def pullback(cotangents: list[Any]) -> list[Any]:
        if not active:
            return [torch.zeros_like(leaf) for leaf in leaves]
        connected = nested or any(c.requires_grad for c in cotangents)
        with torch.inference_mode(False):
            taken = [cotangents[i] for i in active]
            gradients = torch.autograd.grad(
                [outputs[i] for i in active],
                inputs,
                [_conj(c.clone() if c.is_inference() else c) for c in taken],
                create_graph=connected,
                retain_graph=True,
                allow_unused=True,
            )
            return _finish(gradients, leaves, taken)

    return outputs if nested else [out.detach() for out in outputs], pullback
