"""The arguments of `fit`, `evaluate` and `predict`, and what a loss returns with its value, checked.

Requirements: nothing is looked at in every step; metrics are checked after the first step of each batch shape, and
again where they cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, KeysView
from typing import Any, Literal, get_args

import numpy as np

from ..contract import dtype_name
from ..data import Loader
from ..errors import ArrayTypeError, ConfigurationError, DataError, GradientError, a
from ..options import need_integer, shown
from ..values import kind_of
from .signature import can_take, check_loss

__all__ = [
    "RESERVED",
    "OnNonFinite",
    "callback_list",
    "check_batch_size",
    "check_evaluated",
    "check_metrics",
    "check_names",
    "check_options",
]

OnNonFinite = Literal["raise", "stop", "continue"]
RESERVED = ("epoch", "step")
"""What a record of the history holds besides metrics."""


def check_options(*, epochs: Any, log_every: Any, on_nonfinite: Any, seed: Any, shuffle: Any) -> None:
    """Refuse options of `fit` that nothing can be done with."""
    need_integer("epochs must be a positive integer", epochs, least=1)
    if log_every is not None:
        need_integer("log_every must be a positive integer or None", log_every, least=1)
    if on_nonfinite not in get_args(OnNonFinite):
        raise ConfigurationError(
            f"on_nonfinite must be one of {', '.join(get_args(OnNonFinite))}; got {on_nonfinite!r}"
        )
    need_integer("seed must be an integer from 0 to 2**64 - 1", seed, least=0, below=2**64)
    if not isinstance(shuffle, bool | np.bool_):
        raise ConfigurationError(f"shuffle must be True or False, got {shown(shuffle)}")


def callback_list(callbacks: Any) -> list[Callable[..., Any]]:
    """Return the callbacks as a list; refuse what is no sequence of functions."""
    if isinstance(callbacks, str) or not hasattr(type(callbacks), "__iter__"):
        remedy = "put it in a list" if callable(callbacks) else "leave it out for none"
        raise ArrayTypeError(f"callbacks must be a list of functions, got {a(type(callbacks).__name__)}; {remedy}")
    found = list(callbacks)
    for position, callback in enumerate(found):
        if not callable(callback):
            raise ArrayTypeError(
                f"callbacks[{position}] is {a(type(callback).__name__)}; expected a function of (record, state)"
            )
    return found


# -- the loss ------------------------------------------------------------------------------------------------


def check_evaluated(caller: str, loss: Any) -> None:
    """Refuse a loss that cannot be evaluated without random numbers."""
    check_loss(loss)
    if not can_take(loss, 2):
        raise DataError(
            f"{caller} takes loss(model, batch); this one wants a generator as well: give that parameter the default "
            "None, and leave randomness out without a generator"
        )


# -- metrics -------------------------------------------------------------------------------------------------


def check_metrics(metrics: dict[Any, Any], reserved: tuple[str, ...] = ()) -> None:
    """Refuse metrics that are no single real numbers, and names that stand for something else."""
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise GradientError(f"the name of a metric must be a string, got {name!r}")
        if name in reserved:
            raise GradientError(f"metrics may not be named {name!r}: history has the {name}'s number there; rename it")
        what, remedy = "", "take its mean"
        if not hasattr(value, "shape"):
            if not hasattr(type(value), "__float__"):
                what, remedy = a(type(value).__name__), "return a number, or an array without axes"
        elif tuple(value.shape):
            what = f"an array of shape {tuple(value.shape)}"
        elif kind_of(dtype_name(value.dtype)) not in ("bool", "integer", "floating"):
            what, remedy = f"of dtype {dtype_name(value.dtype)}", "take what is real of it, such as xp.abs(x)"
        if what:
            subject = "the loss" if name == "loss" else f"the metric {name!r}"
            raise GradientError(f"{subject} is {what}, expected a real number or an array of shape (); {remedy}")


def check_names(expected: KeysView[Any], metrics: dict[Any, Any], where: str) -> None:
    """Refuse metrics of other names than those that came first; `where` says where they came, as in "step 3"."""
    if metrics.keys() != expected:
        now, first = (", ".join(str(n) for n in names if n != "loss") or "none" for names in (metrics, expected))
        raise GradientError(
            f"the loss returned the metrics {now} in {where}, and at first {first}; return the same names each time, "
            "with NaN where there is no number"
        )


# -- data ----------------------------------------------------------------------------------------------------


def check_batch_size(data: Any, batch_size: Any, caller: str) -> None:
    """Refuse a batch size besides data that comes in batches of its own."""
    if batch_size is not None and isinstance(data, Loader):
        raise DataError(
            f"{caller} got batch_size={batch_size!r} with a Loader, which has its own batch size, {data.batch_size}: "
            "leave batch_size out"
        )
