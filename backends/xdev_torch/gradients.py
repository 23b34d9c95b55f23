"""Gradients by torch's autograd on leaves, which costs less than `torch.func`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch

from xdev.errors import no_rule

__all__ = ["custom_vjp", "depth", "filled", "memory", "remat", "translate_error", "value_and_grad", "vjp"]

depth: ContextVar[int] = ContextVar("xdev_torch gradient depth", default=0)
"""How many gradients are being taken around this call."""
_AS_IT_IS = contextlib.nullcontext()


def _recording() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which autograd records; most callers are in one already."""
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        return _AS_IT_IS
    return torch.inference_mode(False)  # type: ignore[no-any-return]  # it enables gradients too


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
    held = {memory(x) for x in taken}
    finished = []
    for gradient, leaf in zip(gradients, leaves, strict=True):
        if gradient is None:
            finished.append(torch.zeros_like(leaf))
            continue
        own = _conj(gradient if gradient.layout is leaf.layout else gradient.to_dense())  # as that of a lookup
        place = memory(own)
        if place is not None and (place in held or 0 in own.stride()):
            own = own.clone(memory_format=torch.contiguous_format)
            place = memory(own)
        held.add(place)
        finished.append(own)
    return finished


def filled(gradients: Any, leaves: list[Any]) -> list[Any]:
    """Return gradients as they are, of real leaves, with zeros where nothing arrived."""
    return [torch.zeros_like(leaf) if x is None else x for x, leaf in zip(gradients, leaves, strict=True)]


def memory(x: Any) -> int | None:
    """Return the address of a tensor's memory; None if it has none of its own, as a sparse or a `torch.func` one."""
    try:
        return int(x.untyped_storage().data_ptr())
    except (NotImplementedError, RuntimeError):
        return None


def _conj(x: Any) -> Any:
    return x.conj_physical() if x.is_complex() else x


def value_and_grad(
    function: Callable[[list[Any]], tuple[Any, Any]],
    leaves: list[Any],
    finish: Callable[[Any, list[Any]], list[Any]] = _finish,
) -> tuple[Any, Any, Any]:
    """Return (value, auxiliary output, gradients), the last None if the value depends on no leaf."""
    nested = _is_nested(leaves)
    token = depth.set(depth.get() + 1)
    try:
        with _recording():
            inputs = _inputs(leaves, nested)
            value, aux = function(inputs)
            found: Any = ()
            if isinstance(value, torch.Tensor):
                if value.requires_grad:
                    found = torch.autograd.grad(value, inputs, create_graph=nested, allow_unused=True)
                value = (value if nested else value.detach()).clone()  # it may be a leaf's own memory
    finally:
        depth.reset(token)
    gradients = finish(found, leaves) if any(x is not None for x in found) else None
    return value, aux if nested else _detached(aux), gradients


def _detached(aux: Any) -> Any:
    return [x.detach() if isinstance(x, torch.Tensor) else x for x in aux] if isinstance(aux, list) else aux


def vjp(
    function: Callable[[list[Any]], list[Any]], leaves: list[Any]
) -> tuple[list[Any], Callable[[list[Any]], list[Any]]]:
    """Return the outputs and the pullback."""
    nested = _is_nested(leaves)
    token = depth.set(depth.get() + 1)
    try:
        with _recording():
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


def remat(function: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
    """Return the function in a form whose results on the way are computed again in backward."""
    import torch.utils.checkpoint

    def call(arrays: list[Any]) -> list[Any]:
        made = torch.utils.checkpoint.checkpoint(lambda *xs: tuple(function(list(xs))), *arrays, use_reentrant=False)
        return list(made)

    return call


class _Ruled(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    """A function of tensors with a rule of its own.

    What the forward rule saves is not connected to a graph. Where backward is differentiated in turn, that rule runs
    again on the inputs, which are.
    """

    @staticmethod
    def forward(ctx: Any, rules: Any, *tensors: Any) -> Any:
        ctx.forward_rule, ctx.backward_rule = rules
        outputs, residuals = ctx.forward_rule(list(tensors))
        ctx.kept = [None if isinstance(x, torch.Tensor) else x for x in residuals]
        ctx.count = len(tensors)
        ctx.save_for_backward(*tensors, *(x for x in residuals if isinstance(x, torch.Tensor)))
        taken = {id(x) for x in tensors}
        apart = []  # each output is a tensor of its own, so that each has a cotangent of its own
        for x in outputs:
            apart.append(x.view_as(x) if id(x) in taken and isinstance(x, torch.Tensor) else x)
            taken.add(id(x))
        return tuple(apart)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        saved = ctx.saved_tensors  # which can be unpacked once
        tensors, rest = list(saved[: ctx.count]), iter(saved[ctx.count :])
        residuals = [next(rest) if x is None else x for x in ctx.kept]
        if torch.is_grad_enabled():
            residuals = ctx.forward_rule(tensors)[1]
        pulled = ctx.backward_rule(residuals, [_conj(c) if isinstance(c, torch.Tensor) else c for c in cotangents])
        return None, *(None if c is None else _conj(c) for c in pulled)


def custom_vjp(
    function: Callable[[list[Any]], list[Any]],
    forward: Callable[[list[Any]], tuple[list[Any], list[Any]]],
    backward: Callable[[list[Any], list[Any]], list[Any]],
) -> Callable[[list[Any]], list[Any]]:
    """Return the function with a gradient of its own."""

    def call(arrays: list[Any]) -> list[Any]:
        places = [n for n, x in enumerate(arrays) if isinstance(x, torch.Tensor)]
        if not (torch.is_grad_enabled() and any(arrays[n].requires_grad for n in places)):
            return function(arrays)

        def whole(tensors: list[Any]) -> list[Any]:
            full = list(arrays)
            for n, x in zip(places, tensors, strict=True):
                full[n] = x
            return full

        def of_tensors(tensors: list[Any]) -> tuple[list[Any], list[Any]]:
            return forward(whole(tensors))

        def to_tensors(residuals: list[Any], cotangents: list[Any]) -> list[Any]:
            pulled = backward(residuals, cotangents)
            return [pulled[n] for n in places]

        return list(_Ruled.apply((of_tensors, to_tensors), *(arrays[n] for n in places)))

    return call


def translate_error(error: Exception) -> Exception | None:
    """Return the error for a function without a gradient, if torch says that there is none."""
    none = re.search("derivative for .* is not implemented|is not differentiable when", str(error))
    return no_rule("torch", error) if none and isinstance(error, RuntimeError) else None
