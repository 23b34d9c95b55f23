"""What a loss function takes: a model and a batch, and perhaps a generator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import ArrayTypeError, GradientError, a

__all__ = ["can_take", "check_loss", "extras", "takes_rng"]


def takes_rng(loss: Callable[..., Any]) -> bool:
    """Return whether a loss wants a generator: it has a third positional parameter without a default."""
    try:
        parameters = list(inspect.signature(loss).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) >= 3:
        return positional[2].default is inspect.Parameter.empty or positional[2].name == "rng"
    return False


def extras(update: Callable[..., Any]) -> frozenset[str]:
    """Return which of the keywords `value`, the loss, and `grad` an optimizer's update takes."""
    try:
        parameters = inspect.signature(update).parameters
    except (TypeError, ValueError):
        return frozenset()
    any_of_them = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return frozenset(name for name in ("value", "grad") if any_of_them or name in parameters)


def check_loss(loss: Any) -> None:
    """Refuse a loss that cannot be called with a model and a batch, and a generator if it has a place for one."""
    if not callable(loss):
        raise ArrayTypeError(
            f"loss is {a(type(loss).__name__)}; expected a function, loss(model, batch) or loss(model, batch, rng)"
        )
    if not can_take(loss, 3 if takes_rng(loss) else 2):
        raise GradientError(
            f"loss is {_signature(loss)}; expected loss(model, batch), or loss(model, batch, rng) for random numbers. "
            "Take the batch apart inside it, such as x, y = batch, and bind other arguments with functools.partial"
        )


def can_take(loss: Callable[..., Any], count: int) -> bool:
    """Return whether a function takes that many arguments by position, as far as its signature tells."""
    try:
        signature = inspect.signature(loss)
    except (TypeError, ValueError):  # some builtins have none
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _signature(loss: Any) -> str:
    return f"{getattr(loss, '__name__', type(loss).__name__)}{inspect.signature(loss)}"
