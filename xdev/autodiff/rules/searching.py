"""Choosing and sorting."""

from __future__ import annotations

from typing import Any

__all__ = ["GENERAL"]


def _where(chosen: bool) -> Any:
    def rule(xp: Any, g: Any, y: Any, condition: Any, a: Any, b: Any, /) -> Any:
        zero = xp.zeros_like(g)
        return xp.where(condition, g, zero) if chosen else xp.where(condition, zero, g)

    return rule


def _sort(xp: Any, g: Any, y: Any, x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """Send each element's cotangent back to where the element came from."""
    order = xp.argsort(x, axis=axis, descending=descending, stable=stable)
    back = xp.argsort(order, axis=axis)
    return xp.take_along_axis(g, back, axis=axis)


GENERAL: dict[str, Any] = {"where": (None, _where(True), _where(False)), "sort": (_sort,)}
