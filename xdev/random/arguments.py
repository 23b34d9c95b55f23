"""The arguments of random draws, checked; errors say what came, what was expected and what to do."""

from __future__ import annotations

import math
import operator
from typing import Any

from ..errors import RandomError

__all__ = ["Shape", "count", "integer", "number", "size_of"]

Shape = int | tuple[int, ...]


def integer(value: Any, what: str, example: str) -> int:
    try:
        return int(operator.index(value))
    except TypeError:
        kind = type(value).__name__
        raise RandomError(f"{what} is {value!r}, a {kind}, expected an integer: {example}") from None


def count(n: Any, what: str) -> int:
    number = integer(n, f"n of {what}", f"rng.{what}(10)")
    if number < 0:
        raise RandomError(f"{what} got n={number}, expected 0 or more")
    return number


def number(value: Any, what: str, more: str = "") -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RandomError(f"{what} is a {type(value).__name__}, expected a number{more}") from None


def size_of(shape: Any) -> tuple[tuple[int, ...], int]:
    lengths = shape if isinstance(shape, tuple | list) else (shape,)
    try:
        dims = tuple(operator.index(n) for n in lengths)
    except TypeError:
        dims = (-1,)
    if any(n < 0 for n in dims):
        raise RandomError(f"got the shape {shape!r}, expected integers of 0 or more, such as (2, 3)")
    return dims, math.prod(dims)
