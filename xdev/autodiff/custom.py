"""Functions that one record stands for: those with a rule of their own, and those that backward computes again.

Requirements: both are one primitive, which is told at each call what to compute; one made in each call would refer to
itself, and stay until the collector comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import GradientError
from .array import TracedArray
from .engine import lift, vjp
from .primitive import Primitive
from .record import innermost
from .tape import Tape

__all__ = ["custom_vjp", "remat"]

Leaves = list[Any]


class _Saved(tuple[Any, ...]):
    """The outputs of a function, and beside them what its rule gets."""

    residuals: Leaves


def custom_vjp(
    name: str,
    function: Callable[[Leaves], Leaves],
    forward: Callable[[Leaves], tuple[Leaves, Leaves]],
    backward: Callable[[Leaves, Leaves], Leaves],
    arrays: Leaves,
    /,
) -> Leaves:
    """Compute a function of a list of arrays that has a rule of its own.

    Parameters
    ----------
    name : str
        Its name in errors.
    function : callable
        Takes the arrays, returns the outputs; runs where nothing is differentiated.
    forward : callable
        Takes the arrays, returns (outputs, residuals), two lists of arrays.
    backward : callable
        Takes residuals and the cotangents of the outputs, returns a cotangent per array, None where there is none.
    arrays : list of arrays
        Traced or not.

    Returns
    -------
    list of arrays
        The outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.autodiff import value_and_grad
    >>> from xdev.autodiff.custom import custom_vjp
    >>> rule = lambda xs: (xs, []), lambda _, gs: [2 * g for g in gs]
    >>> value_and_grad(lambda xs: (custom_vjp("double", list, *rule, xs)[0], None), [np.asarray(3.0)])[2]
    [array(2.)]
    """
    _, tape = innermost(arrays)
    if tape is None:
        return function(arrays)

    return list(_RULED(*arrays, name=name, forward=forward, backward=backward, tape=tape))


def _run_forward(xp: Any, *values: Any, name: str, forward: Any, backward: Any, tape: Tape) -> tuple[Any, _Saved]:
    outputs, residuals = forward([lift(x) for x in values])
    outputs, residuals = _outputs(name, outputs, tape), [_plain(x) for x in residuals]
    saved = _Saved(outputs)
    saved.residuals = residuals
    return tuple(outputs), saved


def _pull_by_rule(xp: Any, g: Leaves, saved: _Saved, *args: Any, backward: Any, **_: Any) -> Leaves:
    traced = any(type(x) is TracedArray for x in (*g, *saved.residuals))
    found = backward([lift(x) for x in saved.residuals], [lift(c) for c in g])
    return found if traced else [_plain(c) for c in found]


_RULED = Primitive("custom_vjp", _run_forward, _pull_by_rule, saves=True)
_RULED.in_parts = True


def remat(function: Callable[[Leaves], Leaves], arrays: Leaves, /) -> Leaves:
    """Compute a function of a list of arrays, of which only the arguments are kept; backward computes it again.

    Parameters
    ----------
    function : callable
        Takes the arrays, returns a list of arrays.
    arrays : list of arrays
        Traced or not.

    Returns
    -------
    list of arrays
        The outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.autodiff import value_and_grad
    >>> from xdev.autodiff.custom import remat
    >>> square = lambda xs: remat(lambda xs: [xs[0] * xs[0]], xs)
    >>> value_and_grad(lambda xs: (square(xs)[0], None), [np.asarray(3.0)])[2]
    [array(6.)]
    """
    _, tape = innermost(arrays)
    if tape is None:
        return function(arrays)

    return list(_AGAIN(*arrays, function=function, tape=tape))


def _run_once(xp: Any, *values: Any, function: Callable[[Leaves], Leaves], tape: Tape) -> tuple[Any, ...]:
    return tuple(_outputs("remat", function([lift(x) for x in values]), tape))


def _pull_again(
    xp: Any, g: Leaves, y: Any, *args: Any, needs: Sequence[bool], function: Callable[[Leaves], Leaves], tape: Tape
) -> Leaves:
    wanted = [n for n, need in enumerate(needs) if need]

    def of_wanted(leaves: Leaves) -> Leaves:
        full = [lift(x) for x in args]
        for n, leaf in zip(wanted, leaves, strict=True):
            full[n] = leaf
        return function(full)

    _, pull = vjp(of_wanted, [args[n] for n in wanted], copies=False)
    pulled: Leaves = [None] * len(args)
    for n, cotangent in zip(wanted, pull(g), strict=True):
        pulled[n] = cotangent
    return pulled


_AGAIN = Primitive("remat", _run_once, _pull_again, fresh=True)
_AGAIN.in_parts = True


def _plain(x: Any) -> Any:
    """Return the framework's own array of a constant, anything else as it is."""
    return x.__xdev_value__ if type(x) is TracedArray and x.tape is None else x


def _outputs(name: str, outputs: Leaves, tape: Tape) -> Leaves:
    """Return results without constants; refuse those of arrays which the record would not know."""
    for y in outputs:
        if type(y) is TracedArray and y.tape is not None and y.tape.order >= tape.order:
            raise GradientError(
                f"{name}: the function takes an array under differentiation from outside, and its gradient would be "
                "lost; pass it as an argument"
            )
    return [_plain(y) for y in outputs]
