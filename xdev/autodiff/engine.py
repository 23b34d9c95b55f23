"""Differentiation of functions of lists of arrays: `value_and_grad` and `vjp`, and `stop_gradient`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from importlib import import_module
from sys import modules
from typing import Any

from .. import tree
from ..contract import dtype_name
from ..device import namespace
from ..errors import GradientError, a
from ..ledger import warn
from ..locking import Copies
from ..registry import find_backend
from .array import TracedArray, constant, unwrap
from .namespace import traced_namespace
from .tape import Tape, backpropagate

__all__ = ["check_loss", "lift", "stop_gradient", "value_and_grad", "vjp", "warn_of_constant"]


def _xp(x: Any) -> Any:
    return x.xp if type(x) is TracedArray else traced_namespace(namespace(x))


def _new_tape(keeper: Any) -> Tape:
    if "einops" in modules and not _told:  # it goes by types, and finds those that are defined
        with contextlib.suppress(ImportError):
            import_module(".einops_backend", __package__)
        _told.append(True)
    return Tape(keeper)


_told: list[bool] = []


def _below(x: Any, tape: Tape) -> Any:
    """Return a result as the caller of the differentiation sees it."""
    while type(x) is TracedArray and (x.tape is tape or x.tape is None):
        x = x.__xdev_value__
    return x


def _apart(x: Any, traced: Any) -> Any:
    """Return a result in memory of its own, which the caller may write to."""
    if type(traced) is not TracedArray:
        return x
    return traced.xp.positive(x) if type(x) is TracedArray else traced.xp.below.asarray(x, copy=True)


def _finish(
    cotangents: list[Any], owned: bytearray, leaves: Sequence[Any], spaces: Sequence[Any], nested: bool
) -> list[Any]:
    """Return gradients that nothing else holds: zeros where nothing arrived, copies of what is shared."""
    gradients = []
    for c, own, leaf, xp in zip(cotangents, owned, leaves, spaces, strict=True):
        if c is None:
            c = xp.zeros_like(leaf)
        elif nested:
            c = c if own else xp.positive(c)
        elif not own or type(c) is not type(leaf):  # a scalar of the framework becomes an array
            c = xp.below.asarray(c, copy=True)
        gradients.append(c)
    return gradients


def check_loss(value: Any, /) -> None:
    """Refuse a loss that cannot be differentiated."""
    shape = getattr(value, "shape", None)
    if shape is None or not hasattr(value, "dtype"):
        number = isinstance(value, int | float | complex)
        hint = "float(), .item() and xdev.item leave the graph" if number else "what comes beside it needs has_aux=True"
        raise GradientError(f"value_and_grad needs a scalar array as loss, got {a(type(value).__name__)}; {hint}")
    if tuple(shape) != ():
        raise GradientError(f"value_and_grad needs a scalar loss, got shape {tuple(shape)}; take its mean")
    name = dtype_name(value.dtype)
    if name not in _REAL:
        hint = "take its real part or its abs" if name.startswith("complex") else "cast it"
        raise GradientError(f"value_and_grad needs a loss of a real floating dtype, got {name}; {hint}")


_REAL = frozenset({"float16", "bfloat16", "float32", "float64"})


def warn_of_constant(count: int, names: Callable[[], Sequence[str]] | None) -> None:
    """Warn, at the user's line, that a loss depends on none of the arrays that it is differentiated by."""
    words = list(names()) if names else []
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    number, which = ("", f": {', '.join(words[:_NAMED])}{more}") if words else (f"{count} ", "")
    warn(
        f"the loss depends on none of the {number}arrays that it is differentiated by{which}. Their gradients are "
        "zero; float(), xdev.item, xdev.stop_gradient and functions such as argmax and round let none through",
        UserWarning,
    )


_NAMED = 5
"""How many arrays a warning names."""


def value_and_grad(
    function: Callable[[list[Any]], tuple[Any, Any]],
    leaves: Sequence[Any],
    /,
    names: Callable[[], Sequence[str]] | None = None,
) -> tuple[Any, Any, list[Any]]:
    """Return the value, the auxiliary output and the gradients of a function of a list of arrays.

    Parameters
    ----------
    function : callable
        Takes a list of arrays, returns (scalar, auxiliary output); the auxiliary output is any tree.
    leaves : sequence of arrays
        Floating or complex arrays, traced by an outer differentiation or not.
    names : callable, optional
        Gives what the leaves are called in the warning; called only then.

    Returns
    -------
    value : array
        Of shape ().
    auxiliary : tree
        As the function returned it, with this level's traced arrays replaced by their values.
    gradients : list of arrays
        One per leaf, of its shape, dtype and device; they share memory with nothing. Of a complex leaf:
        d/dRe(x) - i d/dIm(x), as in JAX.

    Raises
    ------
    GradientError
        If the loss is no real floating scalar.
    NoGradientRule
        If the tape cannot differentiate a function that was called.

    Warns
    -----
    UserWarning
        If the loss depends on none of the leaves: their gradients are zero.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.autodiff import value_and_grad
    >>> value, _, (gradient,) = value_and_grad(lambda xs: (xs[0] * xs[0], None), [np.asarray(3.0)])
    >>> float(value), float(gradient)
    (9.0, 6.0)
    """
    tape = _new_tape(None)
    try:
        spaces = [_xp(x) for x in leaves]
        lifted = [type(x) is TracedArray and x.tape is None for x in leaves]
        if any(lifted):  # the framework's own functions compute on constants, and the caller gets constants
            leaves = [x.__xdev_value__ if lift_ else x for x, lift_ in zip(leaves, lifted, strict=True)]
        traced = tape.start(leaves, spaces)
        value, aux = function(traced)
        check_loss(value)
        nested = tape.nested
        seeds = []
        if type(value) is TracedArray and value.tape is tape:
            one = value.xp.below.ones((), dtype=value.dtype)
            seeds.append((value.index, constant(one, value.xp) if nested else one))
        cotangents, owned = backpropagate(tape.records, seeds, len(leaves), nested, keep=False)
        if leaves and all(c is None for c in cotangents):
            warn_of_constant(len(leaves), names)
        gradients = _finish(cotangents, owned, leaves, spaces, nested)
        below = _apart(_below(value, tape), value)
        if any(lifted):
            gradients = [_lifted(c, xp) for c, xp in zip(gradients, spaces, strict=True)]
            return (
                _lifted(below, value.xp if type(value) is TracedArray else spaces[0]),
                tree.map(lambda x: _lifted(_below(x, tape), x.xp) if type(x) is TracedArray else x, aux),
                gradients,
            )
        if type(aux) is not list or aux:
            aux = tree.map(lambda x: _below(x, tape), aux)
        return below, aux, gradients
    finally:
        tape.close()


def _lifted(x: Any, xp: Any) -> Any:
    return x if type(x) is TracedArray else constant(x, xp)


def vjp(
    function: Callable[[list[Any]], Sequence[Any]], leaves: Sequence[Any], /, copies: bool = True
) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """Return the outputs of a function of a list of arrays, and its pullback.

    Parameters
    ----------
    function : callable
        Takes a list of arrays and returns a list of arrays.
    leaves : sequence of arrays
        Floating or complex arrays.
    copies : bool, default: True
        Whether arrays that could be written to before the pullback is called are copied.

    Returns
    -------
    outputs : list of arrays
        What the function returned, in memory of their own.
    pullback : callable
        Takes a list of cotangents, one per output and of its shape (None for zero), and returns a list of
        gradients, one per leaf. It can be called any number of times, and keeps the intermediate values alive.

    Raises
    ------
    GradientError
        From the pullback, if cotangents do not fit the outputs.
    NoGradientRule
        If the tape cannot differentiate a function that was called.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.autodiff import vjp
    >>> outputs, pullback = vjp(lambda xs: [xs[0] * 2.0], [np.ones(2)])
    >>> pullback([np.asarray([1.0, 10.0])])
    [array([ 2., 20.])]
    """
    tape = _new_tape(Copies() if copies else None)
    try:
        spaces = [_xp(x) for x in leaves]
        traced = tape.start([tape.keeper.keep(x) for x in leaves] if copies else leaves, spaces)
        results = list(function(traced))
        places = [y.index if type(y) is TracedArray and y.tape is tape else -1 for y in results]
        outputs = [_apart(_below(y, tape), y) for y in results]
        records, nested = tape.records, tape.nested
    finally:
        tape.close()

    def pullback(cotangents: Sequence[Any], /) -> list[Any]:
        if len(cotangents) != len(outputs):
            raise GradientError(f"pullback got {len(cotangents)} cotangents for {len(outputs)} outputs; give one each")
        seeds = []
        for k, (place, y, c) in enumerate(zip(places, outputs, cotangents, strict=True)):
            if c is None:
                continue
            if tuple(getattr(c, "shape", ())) != tuple(y.shape):
                raise GradientError(
                    f"cotangent {k} has shape {tuple(getattr(c, 'shape', ()))}, its output {tuple(y.shape)}; "
                    "make them equal"
                )
            if place >= 0:
                if not hasattr(c, "dtype"):
                    c = _xp(y).below.full_like(unwrap(y), c)
                seeds.append((place, c))
        deep = nested or any(type(c) is TracedArray for _, c in seeds)
        if deep:
            seeds = [(place, lift(c)) for place, c in seeds]
        found, owned = backpropagate(records, seeds, len(leaves), deep, keep=True)
        return _finish(found, owned, leaves, spaces, deep)

    return outputs, pullback


def stop_gradient(x: Any, /) -> Any:
    """Return `x` as a constant: no gradient of any order flows through it.

    Parameters
    ----------
    x : array
        Traced or not.

    Returns
    -------
    array
        `x` itself if it is not traced; else a constant that shares its memory.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.autodiff import stop_gradient, value_and_grad
    >>> value_and_grad(lambda xs: (xs[0] * stop_gradient(xs[0]), None), [np.asarray(3.0)])[2]
    [array(3.)]
    """
    return constant(unwrap(x), x.xp) if type(x) is TracedArray else x


def lift(x: Any, /) -> Any:
    """Return an array as a constant of the traced kind, whose namespace knows traced arrays.

    Parameters
    ----------
    x : array or object
        An array of a framework; everything else passes.

    Returns
    -------
    TracedArray or object
        A constant that shares the memory of `x`; what is no array, or traced already, as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.autodiff import lift
    >>> type(lift(np.zeros(2))).__name__, lift(3)
    ('TracedArray', 3)
    """
    if type(x) is TracedArray or find_backend(x) is None:
        return x
    return constant(x, traced_namespace(namespace(x)))
