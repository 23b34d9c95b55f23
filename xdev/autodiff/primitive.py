"""Primitive: a function with a gradient rule of its own, for fused operations and for users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..device import namespace
from .array import TracedArray
from .record import (
    check_places,
    innermost,
    joint,
    make_backward,
    one_by_one,
    push,
    record_call,
    see_plain,
    strip,
    wrap_constant,
)

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

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.autodiff import Primitive, value_and_grad
    >>> cube = Primitive("cube", lambda xp, x: xp.pow(x, 3), (lambda xp, g, y, x: xp.multiply(g, 3 * x * x),))
    >>> value_and_grad(lambda xs: (cube(xs[0]), None), [np.asarray(2.0)])[2]
    [array(12.)]
    """

    def __init__(
        self,
        name: str,
        forward: Callable[..., Any],
        rule: Callable[..., Any] | Sequence[Callable[..., Any] | None],
        *,
        saves: bool = False,
        fresh: bool = False,
    ) -> None:
        self.name = self.__name__ = name
        self._forward = forward
        self._saves = saves
        self._fresh = fresh
        if callable(rule):
            self._rule: Callable[..., Any] = joint(rule)
            self._places: Any = None  # all
        else:
            self._rule = one_by_one(name, rule)
            self._places = frozenset(place for place, one in enumerate(rule) if one is not None)
        self._backward: dict[int, tuple[Any, Callable[..., Any]]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the function; record it if an argument is traced."""
        return self._record(args, kwargs)

    def _run(self, xp: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute the function one level below."""
        return self._forward(xp, *args, **kwargs)

    def _pull(self, xp: Any, g: Any, y: Any, args: Any, kwargs: dict[str, Any], indices: Any) -> Any:
        """Return the cotangents of the arguments; `indices` holds -1 where none is needed."""
        return self._rule(xp, g, y, args, kwargs, indices)

    def _record(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        plain = see_plain(args, kwargs)
        if plain is not None:
            its, values, indices, xp = plain
            if self._places is not None:
                check_places(self.name, indices, self._places)
            y = saved = self._run(xp.below, values, kwargs)
            if self._saves:
                y, saved = y
            return push(its, (self._backward_in(xp), indices, values, kwargs, saved), y, xp)
        traced, tape = innermost((*args, *kwargs.values()) if kwargs else args)
        if tape is None:
            if not traced:
                y = self._run(_namespace_of(args), args, kwargs)
                return y[0] if self._saves else y
            xp = _namespace_of(args)
            y = self._run(xp.below, strip(args), {key: strip(a) for key, a in kwargs.items()})
            return wrap_constant(y[0] if self._saves else y, xp)
        xp = _namespace_of(args)

        def run(values: Any, kwargs: Any, nested: bool) -> tuple[Any, Any]:
            y = (
                self(*values, **kwargs)
                if nested and not self._saves
                else self._run(xp if nested else xp.below, values, kwargs)
            )
            return y if self._saves else (y, y)

        return record_call(self.name, tape, args, kwargs, self._places, run, self._backward_in(xp), xp)

    def _backward_in(self, xp: Any) -> Callable[..., Any]:
        found = self._backward.get(id(xp))
        if found is None:
            found = self._backward[id(xp)] = (xp, make_backward(self.name, self._pull, xp, self._fresh))
        return found[1]

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
    return namespace(plain)
