"""What a loss function takes: a model and a batch, and perhaps a generator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import ArrayTypeError, GradientError, a

__all__ = ["can_take", "check_loss", "takes_rng", "takes_value"]


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


def takes_value(update: Callable[..., Any]) -> bool:
    """Return whether an optimizer's update takes the loss as the keyword `value`, and gradients as `grad`."""
    try:
        inspect.signature(update).bind(None, None, None, value=None, grad=None)
    except (TypeError, ValueError):
        return False
    return True


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
