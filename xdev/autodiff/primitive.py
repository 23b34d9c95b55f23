"""Primitive: any function that the tape records as one step, with the gradient rule that it is given.

The functions of the standard are primitives where a short path of `record` does not serve, and so are fused
operations and what users add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..device import namespace
from ..errors import GradientError
from .array import TracedArray, recording
from .record import SCALARS, fill, innermost, no_gradient, push, strip, wrap_constant
from .tape import Tape, send

__all__ = ["Primitive"]


class Primitive:
    """A function that the tape records as one step, with the gradient rule that it is given.

    Parameters
    ----------
    name : str
        Its name in errors.
    forward : callable
        `forward(xp, *args, **kwargs) -> y`, computes the function. `xp` is the namespace of the arrays that it gets,
        which are one level below: the framework's own unless differentiations are nested.
    rule : sequence of (callable or None), or callable
        One function per leading argument, `(xp, g, y, *args, **kwargs) -> cotangent`, called only where it is
        needed, None for an argument without gradient; or one function for all,
        `(xp, g, y, *args, needs, **kwargs) -> sequence of cotangents`, where `needs` holds a bool per argument and
        the cotangent of an argument that is not needed may be None. `g` is the cotangent of `y` (a list of them if
        `forward` returned several outputs). Cotangents are summed over broadcast axes and cast to the dtype of
        their argument. Rules are differentiated for higher orders: write them with functions of `xp`.
    saves : bool
        If true, `forward` returns (y, saved) and the rule gets `saved` in the place of `y`. In nested
        differentiation, `forward` then runs on traced arrays itself, so that what it saves has gradients: write it
        with functions of `xp` too.
    fresh : bool
        Promise that each cotangent from the rule is a new array that nothing else holds, never `g`, an argument or
        a view; a gradient then needs no copy.
    values : bool
        Whether rules use the values of the arguments that have rules, so that captured arrays must stay as they are.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.autodiff import Primitive, value_and_grad
    >>> cube = Primitive("cube", lambda xp, x: xp.pow(x, 3), (lambda xp, g, y, x: xp.multiply(g, 3 * x * x),))
    >>> value_and_grad(lambda xs: (cube(xs[0]), None), [np.asarray(2.0)])[2]
    [array(12.)]
    """

    in_parts = False
    """Whether all that it calls are functions of `xp`, so that a recording may look inside."""

    def __init__(
        self,
        name: str,
        forward: Callable[..., Any],
        rule: Callable[..., Any] | Sequence[Callable[..., Any] | None],
        *,
        saves: bool = False,
        fresh: bool = False,
        values: bool = True,
    ) -> None:
        self.name = self.__name__ = name
        self._forward = forward
        self._rule = rule
        self._saves = saves
        self._fresh = fresh
        self._values = values
        self._places: Any = None if callable(rule) else [k for k, one in enumerate(rule) if one is not None]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the function; record it if an argument is traced."""
        return self._record(args, kwargs)

    def _part(self, xp: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a forward function or a rule of `xp`; recorded as one call, where that is done."""
        whole = None if self.in_parts else getattr(xp, "whole", None)
        return partial(function, xp) if whole is None else partial(whole, self.name, function)

    def _run(self, xp: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute the function one level below."""
        return self._part(xp, self._forward)(*args, **kwargs)

    def _pull(self, xp: Any, g: Any, y: Any, args: Any, kwargs: dict[str, Any], indices: Any) -> Any:
        """Return the cotangents of the arguments; `indices` holds -1 where none is needed."""
        if callable(self._rule):
            return self._part(xp, self._rule)(g, y, *args, needs=[k != -1 for k in indices], **kwargs)
        return [
            self._part(xp, rule)(g, y, *args, **kwargs) if index != -1 and rule is not None else None
            for rule, index in zip(self._rule, indices, strict=False)
        ]

    def _record(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        plain = _see_plain(args, kwargs)
        if plain is not None:
            tape, values, indices, xp, captured = plain
            self._check(indices, {})
            for place in captured:
                if self._values or place not in self._places:
                    values[place] = tape.keeper.keep(values[place])
            y = self._run(xp.below, values, kwargs)
        else:
            traced, its = innermost((*args, *kwargs.values()) if kwargs else args)
            xp = _namespace_of(args)
            if its is None:
                if traced:
                    args, kwargs = strip(args), {key: strip(a) for key, a in kwargs.items()}
                y = self._run(xp.below if traced else xp, args, kwargs)
                y = y[0] if self._saves else y
                return wrap_constant(y, xp) if traced else y
            tape = its
            keeps = [self._values or place not in self._places for place in range(len(args))]
            pairs = [_see(a, tape, keep) for a, keep in zip(args, keeps, strict=True)]
            named = {key: _see(a, tape, True) for key, a in kwargs.items()}
            values, indices = [value for value, _ in pairs], [index for _, index in pairs]
            kwargs = {key: value for key, (value, _) in named.items()}
            self._check(indices, named)
            nested, _ = innermost((*values, *kwargs.values()))
            tape.nested |= nested
            again = nested and not self._saves
            y = self(*values, **kwargs) if again else self._run(xp if nested else xp.below, values, kwargs)
        y, saved = y if self._saves else (y, y)
        return push(tape, self._note(xp, indices, values, kwargs, saved), y, xp)

    def _note(self, *parts: Any) -> tuple[Any, ...]:
        """Return the record: the namespace, indices, arguments, keywords, and what was saved."""
        return _backward, self, *parts

    def _check(self, indices: Sequence[Any], keywords: dict[str, tuple[Any, Any]]) -> None:
        if self._places is not None:
            for place, index in enumerate(indices):
                if index != -1 and place not in self._places:
                    raise no_gradient(self.name, f" for its argument {place}")
        for key, (_, index) in keywords.items():
            if index != -1:
                raise no_gradient(self.name, f" for the keyword {key!r} (arrays go by position)")

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"


def _namespace_of(args: Sequence[Any]) -> Any:
    """Return the traced namespace of the arguments if one is traced, else their own; None without arrays."""
    plain = None
    for a in args:
        if type(a) is TracedArray:
            return a.xp
        if isinstance(a, (list, tuple)):
            inner = _namespace_of(a) if a else None
            if inner is not None:
                return inner
        elif plain is None and hasattr(a, "dtype") and hasattr(a, "shape"):
            plain = a
    if plain is None:
        return None
    return namespace(plain) if (recorded := recording.get()) is None else recorded.below


def _see(a: Any, tape: Tape, keep: bool) -> tuple[Any, Any]:
    """Return an argument as `tape` sees it, one level below, and its index (-1 if it is a constant)."""
    kind = type(a)
    if kind is TracedArray:
        if a.tape is tape:
            return a.__xdev_value__, a.index
        return (a.__xdev_value__ if a.tape is None else a), -1
    if kind is list or kind is tuple:
        pairs = [_see(item, tape, keep) for item in a]
        indices = tuple(index for _, index in pairs)
        return kind(value for value, _ in pairs), indices if any(k != -1 for k in indices) else -1
    if kind is slice:
        return strip(a), -1
    return (tape.keeper.keep(a) if keep else a), -1


def _see_plain(args: Any, kwargs: Any) -> tuple[Tape, list[Any], list[int], Any, list[int]] | None:
    """Return (tape, values, indices, namespace, places of what is not traced) of a plain call, or None if it is none.

    Plain is a call of a single tape whose values no outer tape follows, without lists that might hold arrays.
    """
    tape: Tape | None = None
    xp: Any = None
    values: list[Any] = []
    indices, captured = [], []
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
        elif kind not in SCALARS:
            captured.append(len(values))
        if kind in _NOT_PLAIN:
            return None
        values.append(a)
        indices.append(index)
    for a in kwargs.values():
        if type(a) in _NOT_PLAIN:
            return None
    return None if tape is None else (tape, values, indices, xp, captured)


_NOT_PLAIN = frozenset({TracedArray, list, tuple, slice})


def _backward(g: Any, cotangents: list[Any], owned: bytearray, record: Any, nested: bool) -> None:
    _, primitive, xp, indices, args, kwargs, y = record
    level = xp if nested else xp.below
    if type(g) is list:
        g = fill(level, g, y)
    pulled = primitive._pull(level, g, y, args, kwargs, indices)
    fresh = primitive._fresh
    for index, x, c in zip(indices, args, pulled, strict=False):  # further arguments have no rule
        if type(index) is tuple:
            for k, part, piece in zip(index, x, c, strict=True):
                _arrive(primitive, level, cotangents, owned, k, part, piece)
        elif index == -1 or c is None:
            continue
        elif cotangents[index] is None and c.shape == x.shape and c.dtype == x.dtype:
            cotangents[index] = c
            owned[index] = fresh
        else:
            _arrive(primitive, level, cotangents, owned, index, x, c)


def _arrive(
    primitive: Primitive, level: Any, cotangents: list[Any], owned: bytearray, index: int, x: Any, c: Any
) -> None:
    if index == -1 or c is None:
        return
    if c.shape != x.shape and not _covers(c.shape, x.shape):
        raise GradientError(
            f"the rule of {primitive.name} gave a cotangent of shape {tuple(c.shape)} for an argument of "
            f"shape {tuple(x.shape)}"
        )
    send(level, cotangents, owned, index, x, c, primitive._fresh)


def _covers(shape: tuple[int, ...], part: tuple[int, ...]) -> bool:
    """Return whether an array of the second shape broadcasts to the first."""
    pairs = zip(reversed(shape), reversed(part), strict=False)
    return len(shape) >= len(part) and all(m in (1, n) for n, m in pairs)
