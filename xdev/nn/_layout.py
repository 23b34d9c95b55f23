"""What of a module is a child and what is static, and the static side of a module's structure."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from .. import tree
from ..registry import find_backend

__all__ = ["CHILD", "STATIC", "Layout", "Plan", "covered", "fits", "plan_of"]


class Static:
    """A node without children: what is no array in a container of arrays and modules."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Same:
    """Static data, compared by `==`, hashable whatever it holds."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and (self.value is other.value or bool(self.value == other.value))

    def __hash__(self) -> int:
        try:
            return hash(self.value)
        except TypeError:  # a list or a dictionary; equal ones have equal types
            return hash(type(self.value))

    def __repr__(self) -> str:
        return repr(self.value)


tree.register(Static, lambda node: ((), Same(node.value), ()), lambda same, _: same.value)

# -- what is a child -----------------------------------------------------------------------------------------

# The plan of a value: CHILD or STATIC, or for a container with children a tuple of plans, one an item.
CHILD, STATIC = True, False
Plan = Any


def _is_array(x: Any) -> bool:
    return find_backend(x) is not None or hasattr(type(x), "__xdev_value__")


def _is_module(x: Any) -> bool:
    return hasattr(type(x), "__xdev_trainable__")


def _items(x: Any) -> list[Any] | None:
    """Return the items of a container whose functions and numbers are static, or None."""
    if isinstance(x, list | tuple):
        return list(x)
    return [x[key] for key in _sorted_keys(x)] if isinstance(x, dict) else None


def _sorted_keys(x: Mapping[Any, Any]) -> list[Any]:
    """Return a dictionary's keys in a fixed order."""
    try:
        return sorted(x)
    except TypeError:
        return sorted(x, key=lambda key: (type(key).__qualname__, repr(key)))


def plan_of(x: Any) -> Plan:
    if x is None or _is_array(x) or _is_module(x):
        return CHILD
    items = _items(x)
    if items is None:
        if tree.is_leaf(x):
            return STATIC
        return any(_is_array(leaf) for leaf in tree.leaves(x))
    plans = tuple(plan_of(item) for item in items)
    return STATIC if all(p is STATIC or item is None for p, item in zip(plans, items, strict=True)) else plans


FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def fits(x: Any, plan: Plan) -> bool:
    """Return whether a container, which may have been changed in place, is still what its plan is for."""
    if not isinstance(plan, tuple):
        return True
    items = _items(x)
    if items is None or len(items) != len(plan):
        return False
    for item, p in zip(items, plan, strict=True):
        if p is CHILD:
            if isinstance(item, FUNCTIONS):
                return False
        elif _is_array(item) or _is_module(item) if p is STATIC else not fits(item, p):
            return False
    return True


def _is_full(plan: Plan) -> bool:
    """Return whether nothing in a value is static."""
    return all(map(_is_full, plan)) if isinstance(plan, tuple) else plan is CHILD


def covered(x: Any, plan: Plan) -> Any:
    """Return a value with static items as nodes without children."""
    if plan is STATIC:
        return Static(x)
    if _is_full(plan):
        return x
    if isinstance(x, dict):
        made = {key: covered(x[key], p) for key, p in zip(_sorted_keys(x), plan, strict=True)}
        return made if type(x) is dict else _like_dict(x, made)
    parts = [covered(item, p) for item, p in zip(x, plan, strict=True)]
    if isinstance(x, list):
        return parts
    return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)


def _like_dict(x: Any, items: dict[Any, Any]) -> Any:
    made = x.copy()
    for key, value in items.items():
        made[key] = value
    return made


class Layout:
    """The static side of a module: which fields are children and how, and the values of the others."""

    __slots__ = ("_hash", "frozen", "names", "plans", "plans_by_name", "static", "static_names", "statics")

    def __init__(
        self,
        names: tuple[str, ...],
        plans: tuple[Plan, ...],
        static_names: tuple[str, ...],
        static: tuple[Any, ...],
        frozen: bool,
    ) -> None:
        self.names = names
        self.plans = plans
        self.static_names = static_names
        self.static = static
        self.frozen = frozen
        self.plans_by_name = dict(zip(names, plans, strict=True))
        self.statics = dict(zip(static_names, static, strict=True))
        self._hash = hash((names, static_names, frozen))

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Layout)
            and self.names == other.names
            and self.static_names == other.static_names
            and self.frozen == other.frozen
            and all(a is b or bool(a == b) for a, b in zip(self.static, other.static, strict=True))
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in zip(self.static_names, self.static, strict=True)]
        return f"({', '.join([*shown, *(['frozen'] if self.frozen else [])])})"
