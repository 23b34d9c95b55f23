"""Functions of one and two arrays that record themselves, and what all that record have in common.

Requirements: with nothing traced, the framework's own function runs. A call on traced arrays runs the function one
level below, on what the innermost tape sees as values, and leaves one record. `unary`, `binary` and `single` are
short paths, whose few lines cost more to share than to repeat; a `Primitive` takes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import NoGradientRule
from .array import TracedArray, unwrap
from .tape import Tape, send

__all__ = [
    "NEG_ONE", "ONE", "SCALARS", "Pullback", "binary", "fill", "innermost", "no_gradient", "push", "single", "strip",
    "unary", "wrap_constant",
]  # fmt: skip

ONE = 1
"""The partial derivative 1: the cotangent passes as it is."""
NEG_ONE = -1
"""The partial derivative -1."""
SCALARS = frozenset({bool, int, float, complex})


class Pullback:
    """An elementwise rule that gives the cotangent itself, where no partial derivative serves."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


def _pull(partial: Any, arity: int) -> tuple[Callable[..., Any], bool]:
    """Return the function (xp, g, y, *args) -> cotangent of an elementwise rule, and whether its result is new."""
    if partial is ONE:
        return (lambda xp, g, y, *args: g), False
    if partial is NEG_ONE:
        return (lambda xp, g, y, *args: xp.negative(g)), True
    if type(partial) is Pullback:
        return partial.function, True
    if arity == 1:
        return (lambda xp, g, y, x: xp.multiply(g, partial(xp, y, x))), True

    def pull(xp: Any, g: Any, y: Any, *args: Any) -> Any:
        args = tuple(xp.full_like(y, a) if type(a) in SCALARS else a for a in args)
        return xp.multiply(g, partial(xp, y, *args))

    return pull, True


def unary(name: str, native: Callable[..., Any], rule: Sequence[Any], xp: Any) -> Callable[..., Any]:
    """Return the recording form of an elementwise function of one array."""
    pull, fresh = _pull(rule[0], 1)
    below = xp.below

    def backward(g: Any, cotangents: list[Any], owned: bytearray, record: Any, nested: bool) -> None:
        _, i, x, y = record
        level = xp if nested else below
        send(level, cotangents, owned, i, x, pull(level, g, y, x), fresh)

    def call(x: Any, /) -> Any:
        if type(x) is not TracedArray:
            return native(x)
        tape = x.tape
        value = x.__xdev_value__
        if tape is None:
            return TracedArray(native(value), None, -1, xp)
        if type(value) is TracedArray:
            y = call(value)
            tape.nested = True
        else:
            y = native(value)
        records = tape.records
        records.append((backward, x.index, value, y))
        return TracedArray(y, tape, len(records) - 1, xp)

    call.__name__ = call.__qualname__ = name
    return call


def binary(name: str, native: Callable[..., Any], rule: Sequence[Any], xp: Any) -> Callable[..., Any]:
    """Return the recording form of an elementwise function of two arrays."""
    (pull_a, fresh_a), (pull_b, fresh_b) = _pull(rule[0], 2), _pull(rule[1], 2)
    below, needs_values = xp.below, not all(partial in (ONE, NEG_ONE) for partial in rule)

    def backward(g: Any, cotangents: list[Any], owned: bytearray, record: Any, nested: bool) -> None:
        _, i, j, a, b, y = record
        level = xp if nested else below
        if i >= 0:
            send(level, cotangents, owned, i, a, pull_a(level, g, y, a, b), fresh_a)
        if j >= 0:
            send(level, cotangents, owned, j, b, pull_b(level, g, y, a, b), fresh_b)

    def call(a: Any, b: Any, /) -> Any:
        if type(a) is TracedArray:
            tape = a.tape
            if type(b) is TracedArray:
                other = b.tape
                if tape is None or (other is not None and other.order > tape.order):
                    tape = other
                if tape is None:
                    return TracedArray(native(a.__xdev_value__, b.__xdev_value__), None, -1, xp)
                i = j = -1
                if a.tape is tape:
                    i, a = a.index, a.__xdev_value__
                elif a.tape is None:
                    a = a.__xdev_value__
                if other is tape:
                    j, b = b.index, b.__xdev_value__
                elif other is None:
                    b = b.__xdev_value__
            else:
                i, a, j = a.index, a.__xdev_value__, -1
                if needs_values and tape is not None and type(b) not in SCALARS:
                    b = tape.keeper.keep(b)
        elif type(b) is TracedArray:
            tape = b.tape
            i, j, b = -1, b.index, b.__xdev_value__
            if needs_values and tape is not None and type(a) not in SCALARS:
                a = tape.keeper.keep(a)
        else:
            return native(a, b)
        if type(a) is TracedArray or type(b) is TracedArray:
            y = call(a, b)
            tape.nested = True
        else:
            y = native(a, b)
            if tape is None:
                return TracedArray(y, None, -1, xp)
        records = tape.records
        records.append((backward, i, j, a, b, y))
        return TracedArray(y, tape, len(records) - 1, xp)

    call.__name__ = call.__qualname__ = name
    return call


def single(name: str, native: Callable[..., Any], rule: Callable[..., Any], xp: Any, fresh: bool) -> Callable[..., Any]:
    """Return the recording form of a function of one array and of static arguments, with one output or several."""
    below = xp.below

    def backward(g: Any, cotangents: list[Any], owned: bytearray, record: Any, nested: bool) -> None:
        _, i, x, args, kwargs, y = record
        level = xp if nested else below
        send(level, cotangents, owned, i, x, rule(level, fill(level, g, y), y, x, *args, **kwargs), fresh)

    def call(x: Any, /, *args: Any, **kwargs: Any) -> Any:
        if type(x) is not TracedArray:
            return native(x, *args, **kwargs)
        tape = x.tape
        value = x.__xdev_value__
        if tape is None:
            return wrap_constant(native(value, *args, **kwargs), xp)
        if type(value) is TracedArray:
            y = call(value, *args, **kwargs)
            tape.nested = True
        else:
            y = native(value, *args, **kwargs)
        return push(tape, (backward, x.index, value, args, kwargs, y), y, xp)

    call.__name__ = call.__qualname__ = name
    return call


# -- what all of them do ------------------------------------------------------------------------------------


def innermost(args: Any) -> tuple[bool, Tape | None]:
    """Return whether any argument is traced, and the innermost tape (None if all are constants)."""
    traced, tape = False, None
    for a in args:
        kind = type(a)
        if kind is TracedArray:
            traced = True
            if a.tape is not None and (tape is None or a.tape.order > tape.order):
                tape = a.tape
        elif kind is list or kind is tuple:
            inside, other = innermost(a)
            traced |= inside
            if other is not None and (tape is None or other.order > tape.order):
                tape = other
        elif kind is slice and innermost((a.start, a.stop, a.step))[0]:
            traced = True
    return traced, tape


def strip(a: Any) -> Any:
    """Return an argument without any tracing, in lists, tuples and slices too."""
    kind = type(a)
    if kind is TracedArray:
        return unwrap(a)
    if kind is list or kind is tuple:
        return kind(strip(item) for item in a)
    if kind is slice:
        return slice(strip(a.start), strip(a.stop), strip(a.step))
    return a


def wrap_constant(y: Any, xp: Any) -> Any:
    """Return a result as a constant; tuples item by item, and keep what is no array."""
    if isinstance(y, tuple):
        items = [wrap_constant(item, xp) for item in y]
        return type(y)(*items) if hasattr(y, "_fields") else tuple(items)
    if isinstance(y, list):
        return [wrap_constant(item, xp) for item in y]
    return TracedArray(y, None, -1, xp) if hasattr(y, "dtype") and hasattr(y, "shape") else y


def no_gradient(name: str, what: str = "") -> NoGradientRule:
    """Return the error for a function without a rule."""
    return NoGradientRule(
        f"xp.{name} has no gradient rule{what}; add one to a table in xdev/autodiff/rules/, write it with functions "
        f"that have one, or stop the gradient with xdev.stop_gradient"
    )


def fill(xp: Any, g: Any, y: Any) -> Any:
    """Return the cotangents of several outputs with zeros for those that got none; a single one as it is."""
    if type(g) is not list:
        return g
    return [_zeros_like(xp, part) if c is None else c for c, part in zip(g, y, strict=True)]


def _zeros_like(xp: Any, part: Any) -> Any:
    # What is not differentiated may be of another framework, as the words of a generator are.
    plain = unwrap(part)
    words = isinstance(plain, np.generic | np.ndarray) and plain.dtype.kind in "biu"
    return np.zeros_like(plain) if words else xp.zeros_like(part)


def _project(g: Any, cotangents: list[Any], owned: bytearray, record: Any, nested: bool) -> None:
    """Put the cotangent of one of several outputs into the list that is the function's cotangent."""
    _, source, place, count = record
    if cotangents[source] is None:
        cotangents[source] = [None] * count
    cotangents[source][place] = g


def push(tape: Tape, record: tuple[Any, ...], y: Any, xp: Any) -> Any:
    """Append a record and return its traced array, or the traced arrays of several outputs."""
    records = tape.records
    records.append(record)
    source = len(records) - 1
    if not isinstance(y, (tuple, list)):
        return TracedArray(y, tape, source, xp)
    outputs = []
    for place, part in enumerate(y):
        records.append((_project, source, place, len(y)))
        outputs.append(TracedArray(part, tape, source + 1 + place, xp))
    return type(y)(*outputs) if hasattr(y, "_fields") else type(y)(outputs)
