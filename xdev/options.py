"""Numbers that people give as options, checked when they come; errors say who takes what, and what came."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import ConfigurationError, a

__all__ = ["is_integer", "need_integer", "need_number", "shown"]


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer of Python or NumPy; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def need_integer(takes: str, value: Any, *, least: int, below: float = math.inf) -> None:
    """Refuse what is no integer within limits; `takes` begins the error and says what is expected."""
    if not is_integer(value) or not least <= value < below:
        raise ConfigurationError(f"{takes}, got {shown(value)}")


def need_number(
    takes: str,
    value: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    remedy: str = "",
) -> Any:
    """Return a finite real number within limits as one of Python; refuse the rest as `need_integer` does."""
    if isinstance(value, np.integer | np.floating):
        value = value.item()  # NumPy's would decide over the dtype of what it is multiplied with
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not (known and least <= value <= most and above < value < below):  # NaN and infinity fail a comparison
        raise ConfigurationError(f"{takes}, got {shown(value)}{remedy}")
    return value


def shown(value: Any) -> str:
    """Return a value as an error shows it: its type where its repr is long."""
    text = repr(value)
    if hasattr(value, "shape") and hasattr(value, "dtype") and value.shape != ():
        return f"an array of shape {tuple(value.shape)}"
    return text if len(text) <= 60 and "\n" not in text else a(type(value).__name__)
