"""torch's modules and optimizers, opened: the tensors that they hold, and a copy that holds others.

Requirements: the caller's module and optimizer do not change, unlike in `module.to`. Parameters that are tied stay
tied, and an optimizer that moves in one tree with its module holds the parameters of the module that arrives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["open_module", "open_optimizer"]

Opened = tuple[dict[str, Any], Callable[[dict[str, Any], dict[Any, Any]], Any]]


def open_module(module: Any) -> Opened:
    """Return the parameters and buffers of a module by their paths, and how a copy is made of others."""
    children = {f".{name}": x for name, x in module.named_parameters(remove_duplicate=False)}
    children |= {f".{name}": x for name, x in module.named_buffers(remove_duplicate=False)}
    return children, _copying(module, children)


def open_optimizer(optimizer: Any) -> Opened:
    """Return the parameters and state of an optimizer by their paths, and how a copy is made of others."""
    children: dict[str, Any] = {}
    for number, group in enumerate(optimizer.param_groups):
        for position, parameter in enumerate(group["params"]):
            children[f".param_groups[{number}]['params'][{position}]"] = parameter
            counts_on_device = group.get("capturable") or group.get("fused")
            for step, x in _tensors(optimizer.state.get(parameter, {}), ""):
                if counts_on_device or not step.startswith("['step']"):  # torch keeps that count on the CPU
                    children[f".param_groups[{number}]['params'][{position}] state{step}"] = x
    return children, _copying(optimizer, children)


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _tensors(child, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for position, child in enumerate(value):
            yield from _tensors(child, f"{path}[{position}]")


def _copying(x: Any, children: dict[str, Any]) -> Callable[[dict[str, Any], dict[Any, Any]], Any]:
    def rebuild(moved: dict[str, Any], shared: dict[Any, Any]) -> Any:
        # What deepcopy finds in its memo, it takes for copied.
        memo = {id(old): _as_parameter(old, moved[path], shared) for path, old in children.items()}
        return copy.deepcopy(x, memo)

    return rebuild


def _as_parameter(old: Any, new: Any, shared: dict[Any, Any]) -> Any:
    """Return a moved tensor as a leaf, and as the one parameter that all who held the old one hold."""
    if new is old:
        return old
    key = "parameter", id(old)
    if key not in shared:
        new = new.detach()
        if isinstance(old, torch.nn.Parameter):
            shared[key] = torch.nn.Parameter(new, requires_grad=old.requires_grad)
        else:
            shared[key] = new.requires_grad_(old.requires_grad)
    return shared[key]
