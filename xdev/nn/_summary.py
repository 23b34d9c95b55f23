"""What `print(model)` shows: a line per module and array, with shapes, dtypes and the number of parameters."""

from __future__ import annotations

import math
from typing import Any

from .. import tree
from ..contract import dtype_name
from ..tree_marks import trainable_mask

__all__ = ["count", "summary"]

_NUMERIC = ("float", "bfloat", "complex")


def _is_numeric(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape") and dtype_name(leaf.dtype).startswith(_NUMERIC)


def count(model: Any) -> int:
    """Return the number of elements of all parameters; an array that stands twice counts once."""
    from ._module import unfreeze

    seen: dict[int, Any] = {}
    model = unfreeze(model)
    for leaf, allowed in zip(tree.leaves(model), trainable_mask(model), strict=True):
        if allowed and _is_numeric(leaf):
            seen[id(leaf)] = leaf
    return sum(math.prod(leaf.shape) for leaf in seen.values())


def summary(module: Any) -> str:
    """Return the lines of a module."""
    total = count(module)
    head = f"{type(module).__name__}: {total:,} parameter{'' if total == 1 else 's'}"
    lines = _lines(module, "  ")
    return "\n".join([head + _note(module), *lines])


def _note(module: Any) -> str:
    return ", frozen" if module._xdev_frozen else ""


def _lines(module: Any, indent: str) -> list[str]:
    from ._module import _buffers

    buffers = _buffers(type(module))
    lines = []
    for name, value in vars(module).items():
        lines += _entry(name, value, indent, " (buffer)" if name in buffers else "")
    return lines


def _entry(name: str, value: Any, indent: str, note: str) -> list[str]:
    if hasattr(type(value), "__xdev_trainable__"):
        return [f"{indent}{name}: {type(value).__name__}{_note(value)}", *_lines(value, indent + "  ")]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return [f"{indent}{name}: {tuple(value.shape)} {dtype_name(value.dtype)}{note}"]
    if isinstance(value, list | tuple) and any(_is_big(item) for item in value):
        return [line for k, item in enumerate(value) for line in _entry(f"{name}[{k}]", item, indent, note)]
    if isinstance(value, dict) and any(_is_big(item) for item in value.values()):
        return [line for k, item in value.items() for line in _entry(f"{name}[{k!r}]", item, indent, note)]
    shown = getattr(value, "__name__", None) or repr(value)
    if len(shown) > 60:
        shown = f"{shown[:57]}..."
    return [f"{indent}{name}: {shown}"]


def _is_big(item: Any) -> bool:
    if isinstance(item, list | tuple):
        return any(map(_is_big, item))
    if isinstance(item, dict):
        return any(map(_is_big, item.values()))
    return hasattr(type(item), "__xdev_trainable__") or hasattr(item, "shape") or callable(item)
