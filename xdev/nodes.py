"""Opening containers that are no nodes of xdev's trees: those that a framework knows, and plain dataclasses.

Requirements: a container is never changed; a new one of its type is made. What a framework registers comes before what
a dataclass says of itself.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from . import registry
from .contract import Node

__all__ = ["is_saved_optimizer", "open_node"]

_SAVED_OPTIMIZER = {"state", "param_groups"}


def open_node(x: Any) -> Node | None:
    """Return what a container holds and how it is put together; None if `x` is no container that anybody knows."""
    if is_saved_optimizer(x):
        return _open_saved_optimizer(x)
    if isinstance(x, type) or type(x).__module__ == "builtins":  # lists of numbers are no containers here
        return None
    for backend in registry.loaded():
        node = backend.open_node(x)
        if node is not None:
            return node
    return _open_dataclass(x) if dataclasses.is_dataclass(x) else None


def is_saved_optimizer(x: Any) -> bool:
    """Return whether `x` is the saved state of an optimizer object, whose lists of numbers are names of parameters."""
    return type(x) is dict and x.keys() == _SAVED_OPTIMIZER


def _open_saved_optimizer(x: dict[str, Any]) -> Node:
    children = {"['state']": x["state"]}
    groups = list(x["param_groups"]) if isinstance(x["param_groups"], list) else []
    for position, group in enumerate(groups):
        for name, value in group.items() if isinstance(group, dict) else ():
            if registry.find_backend(value) is not None:  # such as a learning rate that is an array
                children[f"['param_groups'][{position}][{name!r}]"] = value

    def rebuild(moved: dict[str, Any], shared: dict[Any, Any]) -> dict[str, Any]:
        made = [
            {name: moved.get(f"['param_groups'][{position}][{name!r}]", value) for name, value in group.items()}
            for position, group in enumerate(groups)
        ]
        return {"state": moved["['state']"], "param_groups": made}

    return Node(children, rebuild)


def _open_dataclass(x: Any) -> Node:
    names = [field.name for field in dataclasses.fields(x) if hasattr(x, field.name)]

    def rebuild(moved: dict[str, Any], shared: dict[Any, Any]) -> Any:
        made = copy.copy(x)  # not dataclasses.replace, which would run __post_init__ again
        for name in names:
            object.__setattr__(made, name, moved[f".{name}"])  # frozen ones, too
        return made

    return Node({f".{name}": getattr(x, name) for name in names}, rebuild)
