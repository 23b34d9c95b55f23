"""Softmax and its logarithm, and the logarithm of a sum of exponentials."""

from __future__ import annotations

from typing import Any

from ..device import namespace
from ..errors import ConfigurationError
from ._checks import check_floating, is_integer, narrow, widen
from ._dispatch import Op

__all__ = ["log_softmax", "logsumexp", "softmax"]

Axis = int | tuple[int, ...] | None


def _axis_of(op: str, axis: Any, x: Any) -> Axis:
    """Return an axis as ints, or several; raise for what names none of `x`."""
    if axis is None:
        return None
    named = axis if isinstance(axis, tuple) else (axis,)
    if all(map(is_integer, named)):
        axes = tuple(map(int, named))
        if all(-x.ndim <= k < x.ndim for k in axes) and len({k % x.ndim for k in axes}) == len(axes):
            return axes if isinstance(axis, tuple) else axes[0]
    expected = f"an int from {-x.ndim} to {x.ndim - 1}, a tuple of different ones, or None" if x.ndim else "axis=None"
    raise ConfigurationError(f"{op} of x with shape {tuple(x.shape)} takes {expected}; got axis={axis!r}")


def _of_a_number(op: Op, x: Any) -> Any:
    """Apply an op to an array without axes as to one with one: kernels need an axis."""
    xp = namespace(x)
    return xp.reshape(op(xp.reshape(x, (1,)), axis=0), ())


def _softmax(xp: Any, x: Any, *, axis: Axis) -> Any:
    wide = widen(xp, x)
    e = xp.exp(xp.subtract(wide, xp.max(wide, axis=axis, keepdims=True)))
    return narrow(xp, xp.divide(e, xp.sum(e, axis=axis, keepdims=True)), x.dtype)


def softmax_rule(xp: Any, g: Any, y: Any, axis: Axis) -> Any:
    """Return the cotangent of x for that of y = softmax(x)."""
    inner = xp.sum(xp.multiply(g, y), axis=axis, keepdims=True)
    return xp.multiply(xp.subtract(g, inner), y)


_softmax_op = Op("softmax", _softmax, lambda xp, g, y, x, *, needs, axis: (softmax_rule(xp, g, y, axis),))


def softmax(x: Any, /, *, axis: Axis = -1) -> Any:
    """Return exponentials divided by their sum.

    Parameters
    ----------
    x : array of a real floating dtype
        Of any shape.
    axis : int, tuple of int or None, default: -1
        Where the results sum to 1; None is all of `x`.

    Returns
    -------
    array
        Of the shape and dtype of `x`. Half precision is summed in float32. Where every element is -inf, the result
        is NaN, as in JAX and torch.

    Raises
    ------
    ConfigurationError
        If `x` has no such axis, or it is named twice.
    DTypeError
        If `x` is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.softmax(np.asarray([1000.0, 1000.0]))
    array([0.5, 0.5])
    """
    check_floating("softmax", x)
    n = x.ndim
    if type(axis) is not int or not -n <= axis < n:
        axis = _axis_of("softmax", axis, x)
        if n == 0:
            return _of_a_number(_softmax_op, x)
    return _softmax_op(x, axis=axis)


def _log_softmax(xp: Any, x: Any, *, axis: Axis) -> Any:
    wide = widen(xp, x)
    shifted = xp.subtract(wide, xp.max(wide, axis=axis, keepdims=True))
    total = xp.sum(xp.exp(shifted), axis=axis, keepdims=True)
    return narrow(xp, xp.subtract(shifted, xp.log(total)), x.dtype)


def _log_softmax_rule(xp: Any, g: Any, y: Any, x: Any, *, needs: Any, axis: Axis) -> Any:
    return (xp.subtract(g, xp.multiply(xp.exp(y), xp.sum(g, axis=axis, keepdims=True))),)


_log_softmax_op = Op("log_softmax", _log_softmax, _log_softmax_rule)


def log_softmax(x: Any, /, *, axis: Axis = -1) -> Any:
    """Return the logarithm of `softmax`, without its loss of precision.

    Parameters
    ----------
    x : array of a real floating dtype
        Of any shape.
    axis : int, tuple of int or None, default: -1
        Where the exponentials of the results sum to 1.

    Returns
    -------
    array
        Of the shape and dtype of `x`.

    Raises
    ------
    ConfigurationError
        If `x` has no such axis, or it is named twice.
    DTypeError
        If `x` is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.log_softmax(np.asarray([0.0, 1000.0]))
    array([-1000.,     0.])
    """
    check_floating("log_softmax", x)
    n = x.ndim
    if type(axis) is not int or not -n <= axis < n:
        axis = _axis_of("log_softmax", axis, x)
        if n == 0:
            return _of_a_number(_log_softmax_op, x)
    return _log_softmax_op(x, axis=axis)


def _logsumexp(xp: Any, x: Any, *, axis: Axis, keepdims: bool) -> Any:
    wide = widen(xp, x)
    largest = xp.max(wide, axis=axis, keepdims=True)
    shift = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    e = xp.exp(xp.subtract(wide, shift))
    total = xp.sum(e, axis=axis, keepdims=True)
    empty = xp.equal(total, 0)  # every element is -inf
    safe = xp.where(empty, xp.ones_like(total), total)
    y = xp.where(empty, largest, xp.add(xp.log(safe), shift))
    if not keepdims:
        y = xp.reshape(y, _without(x, axis))
    return narrow(xp, y, x.dtype), xp.divide(e, safe)


def _without(x: Any, axis: Axis) -> tuple[int, ...]:
    if axis is None:
        return ()
    axes = [k % x.ndim for k in (axis if isinstance(axis, tuple) else (axis,))]
    return tuple(n for k, n in enumerate(x.shape) if k not in axes)


def _logsumexp_rule(xp: Any, g: Any, p: Any, x: Any, *, needs: Any, axis: Axis, keepdims: bool) -> Any:
    if not keepdims:
        axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        reduced = {k % x.ndim for k in axes}
        g = xp.reshape(g, tuple(1 if k in reduced else n for k, n in enumerate(x.shape)))
    return (xp.multiply(p, g),)


_logsumexp_op = Op("logsumexp", _logsumexp, _logsumexp_rule, saves=True)


def logsumexp(x: Any, /, *, axis: Axis = -1, keepdims: bool = False) -> Any:
    """Return the logarithm of the sum of exponentials, without overflow.

    Parameters
    ----------
    x : array of a real floating dtype
        Of any shape.
    axis : int, tuple of int or None, default: -1
        What is summed over.
    keepdims : bool, default: False
        Whether the summed axes stay, with length 1.

    Returns
    -------
    array
        Of the dtype of `x`; -inf where every element is.

    Raises
    ------
    ConfigurationError
        If `x` has no such axis, or it is named twice.
    DTypeError
        If `x` is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> float(ops.logsumexp(np.asarray([1000.0, 1000.0])).round(4))
    1000.6931
    """
    check_floating("logsumexp", x)
    n = x.ndim
    if type(axis) is not int or not -n <= axis < n:
        axis = _axis_of("logsumexp", axis, x)
    return _logsumexp_op(x, axis=axis, keepdims=keepdims)
