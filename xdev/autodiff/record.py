"""Functions that record themselves: four forms of call, and for each how its cotangent goes back.

Requirements: with nothing traced, the framework's own function runs. A call on traced arrays runs the function one
level below, on what the innermost tape sees as values, and leaves one record. `unary`, `binary` and `single` are
short paths, whose few lines cost more to share than to repeat; `general` takes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np

from ..errors import GradientError, NoGradientRule
from .array import TracedArray, unwrap
from .tape import Backward, Tape, send

__all__ = [
    "NEG_ONE",
    "ONE",
    "Pullback",
    "binary",
    "general",
    "innermost",
    "joint",
    "no_gradient",
    "one_by_one",
    "single",
    "unary",
]

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
    below = xp.below

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
        elif type(b) is TracedArray:
            tape = b.tape
            i, j, b = -1, b.index, b.__xdev_value__
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


# -- any call ------------------------------------------------------------------------------------------------


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


def _see(a: Any, tape: Tape) -> tuple[Any, Any]:
    """Return an argument as `tape` sees it, one level below, and its index (-1 if it is a constant)."""
    kind = type(a)
    if kind is TracedArray:
        if a.tape is tape:
            return a.__xdev_value__, a.index
        return (a.__xdev_value__ if a.tape is None else a), -1
    if kind is list or kind is tuple:
        pairs = [_see(item, tape) for item in a]
        indices = tuple(index for _, index in pairs)
        return kind(value for value, _ in pairs), indices if any(k != -1 for k in indices) else -1
    if kind is slice:
        return strip(a), -1
    return a, -1


def no_gradient(name: str, what: str = "") -> NoGradientRule:
    """Return the error for a function without a rule."""
    return NoGradientRule(
        f"xp.{name} has no gradient rule{what}; add one to a table in xdev/autodiff/rules/, write it with functions "
        f"that have one, or stop the gradient with xdev.stop_gradient"
    )


def one_by_one(name: str, rules: Sequence[Callable[..., Any] | None]) -> Callable[..., Any]:
    """Return the joint form of rules that give one cotangent each."""

    def pull(xp: Any, g: Any, y: Any, args: Any, kwargs: Any, needs: Sequence[Any]) -> list[Any]:
        return [
            rule(xp, g, y, *args, **kwargs) if need != -1 and rule is not None else None
            for rule, need in zip(rules, needs, strict=False)
        ]

    return pull


def joint(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Return the common form of a rule that gives all cotangents at once, and is told which are needed."""

    def pull(xp: Any, g: Any, y: Any, args: Any, kwargs: Any, needs: Sequence[Any]) -> Any:
        return rule(xp, g, y, *args, needs=[k != -1 for k in needs], **kwargs)

    return pull


def make_backward(name: str, pull: Callable[..., Any], xp: Any, fresh: bool) -> Backward:
    """Return the backward function of records (backward, indices, args, kwargs, y)."""
    below = xp.below

    def arrive(level: Any, cotangents: list[Any], owned: bytearray, index: int, x: Any, c: Any) -> None:
        if index == -1 or c is None:
            return
        if c.shape != x.shape and not _covers(c.shape, x.shape):
            raise GradientError(
                f"the rule of {name} gave a cotangent of shape {tuple(c.shape)} for an argument of "
                f"shape {tuple(x.shape)}"
            )
        send(level, cotangents, owned, index, x, c, fresh)

    def backward(g: Any, cotangents: list[Any], owned: bytearray, record: Any, nested: bool) -> None:
        _, indices, args, kwargs, y = record
        level = xp if nested else below
        if type(g) is list:
            g = fill(level, g, y)
        pulled = pull(level, g, y, args, kwargs, indices)
        for index, x, c in zip(indices, args, pulled, strict=False):  # further arguments have no rule
            if type(index) is tuple:
                for k, part, piece in zip(index, x, c, strict=True):
                    arrive(level, cotangents, owned, k, part, piece)
            elif index == -1 or c is None:
                continue
            elif cotangents[index] is None and c.shape == x.shape and c.dtype == x.dtype:
                cotangents[index] = c
                owned[index] = fresh
            else:
                arrive(level, cotangents, owned, index, x, c)

    return backward


def _covers(shape: tuple[int, ...], part: tuple[int, ...]) -> bool:
    """Return whether an array of the second shape broadcasts to the first."""
    pairs = zip(reversed(shape), reversed(part), strict=False)
    return len(shape) >= len(part) and all(m in (1, n) for n, m in pairs)


def fill(xp: Any, g: Any, y: Any) -> Any:
    """Return the cotangents of several outputs with zeros for those that got none; a single one as it is."""
    if type(g) is not list:
        return g
    return [_zeros_like(xp, part) if c is None else c for c, part in zip(g, y, strict=True)]


def _zeros_like(xp: Any, part: Any) -> Any:
    # What is not differentiated may be of another framework, as the words of a generator are.
    words = isinstance(part, np.generic | np.ndarray) and part.dtype.kind in "biu"
    return np.zeros_like(part) if words else xp.zeros_like(part)


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


def general(
    name: str, native: Callable[..., Any], pull: Callable[..., Any], places: Container[int], xp: Any, fresh: bool
) -> Callable[..., Any]:
    """Return the recording form of any function; `places` are the arguments that have a rule."""
    backward = make_backward(name, pull, xp, fresh)

    def call(*args: Any, **kwargs: Any) -> Any:
        plain = see_plain(args, kwargs)
        if plain is not None:
            its, values, indices, _ = plain
            check_places(name, indices, places)
            y = native(*values, **kwargs)
            return push(its, (backward, indices, values, kwargs, y), y, xp)
        traced, tape = innermost((*args, *kwargs.values()) if kwargs else args)
        if not traced:
            return native(*args, **kwargs)
        if tape is None:
            return wrap_constant(native(*strip(args), **{k: strip(a) for k, a in kwargs.items()}), xp)

        def run(values: Any, kwargs: Any, nested: bool) -> Any:
            y = (call if nested else native)(*values, **kwargs)
            return y, y

        return record_call(name, tape, args, kwargs, places, run, backward, xp)

    call.__name__ = call.__qualname__ = name
    return call


def see_plain(args: Any, kwargs: Any) -> tuple[Tape, list[Any], list[int], Any] | None:
    """Return (tape, values, indices, namespace) of a plain call, or None if the call is none.

    Plain is a call of a single tape whose values no outer tape follows, without lists that might hold arrays.
    """
    tape: Tape | None = None
    xp: Any = None
    values, indices = [], []
    for a in args:
        kind, index = type(a), -1
        if kind is TracedArray:
            if a.tape is not None:
                if tape is None:
                    tape, xp = a.tape, a.xp
                elif a.tape is not tape:
                    return None
                index = a.index
            a = a.__xdev_value__
            kind = type(a)
        if kind in _NOT_PLAIN:
            return None
        values.append(a)
        indices.append(index)
    for a in kwargs.values():
        if type(a) in _NOT_PLAIN:
            return None
    return None if tape is None else (tape, values, indices, xp)


_NOT_PLAIN = frozenset({TracedArray, list, tuple, slice})


def check_places(name: str, indices: Sequence[Any], places: Container[int]) -> None:
    """Refuse arrays of the tape in arguments without a rule."""
    for place, index in enumerate(indices):
        if index != -1 and place not in places:
            raise no_gradient(name, f" for its argument {place}")


def see_all(
    name: str, args: Any, kwargs: Any, tape: Tape, places: Container[int] | None
) -> tuple[list[Any], list[Any]]:
    """Return all positional arguments as `tape` sees them, and their indices; refuse those without a rule.

    `places` are the arguments that have one; None if all do.
    """
    values, indices = [], []
    for a in args:
        value, index = _see(a, tape)
        values.append(value)
        indices.append(index)
    if places is not None:
        check_places(name, indices, places)
    for key, a in kwargs.items():
        if _see(a, tape)[1] != -1:
            raise no_gradient(name, f" for the keyword {key!r} (arrays go by position)")
    return values, indices


def record_call(
    name: str,
    tape: Tape,
    args: Any,
    kwargs: Any,
    places: Container[int] | None,
    run: Callable[[Any, Any, bool], tuple[Any, Any]],
    backward: Backward,
    xp: Any,
) -> Any:
    """Run a function one level below `tape` and record it; `run` gives the result and what its rule gets as `y`."""
    values, indices = see_all(name, args, kwargs, tape, places)
    kwargs = {key: _see(a, tape)[0] for key, a in kwargs.items()}
    nested, _ = innermost((*values, *kwargs.values()))
    tape.nested |= nested
    y, saved = run(values, kwargs, nested)
    return push(tape, (backward, indices, values, kwargs, saved), y, xp)
