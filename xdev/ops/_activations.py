"""Elementwise activations."""

from __future__ import annotations

import math
from typing import Any

from ._checks import check_floating, narrow, widen
from ._dispatch import Op
from ._erf import erf

__all__ = ["gelu", "relu", "sigmoid", "silu"]

ROOT_2_OVER_PI = math.sqrt(2.0 / math.pi)
CUBIC = 0.044715


def _relu(xp: Any, x: Any) -> Any:
    return xp.maximum(x, 0)


def _relu_rule(xp: Any, g: Any, y: Any, x: Any, *, needs: Any) -> Any:
    return (xp.multiply(g, xp.astype(xp.greater(y, 0), g.dtype)),)


_relu_op = Op("relu", _relu, _relu_rule)


def relu(x: Any, /) -> Any:
    """Return the positive part of each element.

    Parameters
    ----------
    x : array of any real dtype
        Of any shape.

    Returns
    -------
    array
        `max(x, 0)`, of the shape and dtype of `x`. The gradient at 0 is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.relu(np.asarray([-1.0, 2.0]))
    array([0., 2.])
    """
    return _relu_op(x)


def _stable_sigmoid(xp: Any, x: Any) -> Any:
    """Return 1 / (1 + exp(-x)) without overflow, with full relative precision on both sides.

    Only for values: at 0 its parts have corners. Whatever is differentiated calls `sigmoid_op`.
    """
    e = xp.exp(xp.negative(xp.abs(x)))
    return xp.divide(xp.where(xp.greater_equal(x, 0), xp.ones_like(e), e), xp.add(e, 1.0))


def _sigmoid(xp: Any, x: Any) -> Any:
    return narrow(xp, _stable_sigmoid(xp, widen(xp, x)), x.dtype)


def _sigmoid_rule(xp: Any, g: Any, y: Any, x: Any, *, needs: Any) -> Any:
    return (xp.multiply(g, xp.multiply(y, xp.subtract(1.0, y))),)


sigmoid_op = Op("sigmoid", _sigmoid, _sigmoid_rule)


def sigmoid(x: Any, /) -> Any:
    """Return `1 / (1 + exp(-x))`, elementwise.

    Parameters
    ----------
    x : array of a real floating dtype
        Of any shape.

    Returns
    -------
    array
        Of the shape and dtype of `x`; exact to a few units in the last place for large and small `x`.

    Raises
    ------
    DTypeError
        If `x` is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.sigmoid(np.asarray([0.0]))
    array([0.5])
    """
    check_floating("sigmoid", x)
    return sigmoid_op(x)


def _silu(xp: Any, x: Any) -> Any:
    wide = widen(xp, x)
    s = sigmoid_op(wide)
    return narrow(xp, xp.multiply(wide, s), x.dtype), s


def _silu_rule(xp: Any, g: Any, s: Any, x: Any, *, needs: Any) -> Any:
    slope = xp.multiply(s, xp.add(xp.multiply(x, xp.subtract(1.0, s)), 1.0))
    return (xp.multiply(g, slope),)


_silu_op = Op("silu", _silu, _silu_rule, saves=True)


def silu(x: Any, /) -> Any:
    """Return `x * sigmoid(x)`, elementwise, also known as swish.

    Parameters
    ----------
    x : array of a real floating dtype
        Of any shape.

    Returns
    -------
    array
        Of the shape and dtype of `x`.

    Raises
    ------
    DTypeError
        If `x` is not real floating.

    References
    ----------
    S. Elfwing, E. Uchibe, K. Doya, "Sigmoid-weighted linear units for neural network function approximation in
    reinforcement learning", Neural Networks 107 (2018).

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.silu(np.asarray([0.0, 30.0])).round(3)
    array([ 0., 30.])
    """
    check_floating("silu", x)
    return _silu_op(x)


def _gelu(xp: Any, x: Any, *, approximate: bool) -> Any:
    """Return the value and the slope, which the gradient needs and which shares most of the work."""
    wide = widen(xp, x)
    near = xp.minimum(xp.maximum(wide, -40.0), 40.0)  # beyond, nothing changes, and powers must not overflow
    square = xp.square(near)
    if approximate:
        inner = xp.multiply(xp.multiply(near, xp.add(xp.multiply(square, CUBIC), 1.0)), ROOT_2_OVER_PI)
        cdf = xp.multiply(xp.add(xp.tanh(inner), 1.0), 0.5)
        growth = xp.multiply(xp.add(xp.multiply(square, 3.0 * CUBIC), 1.0), 2.0 * ROOT_2_OVER_PI)
        density = xp.multiply(xp.multiply(cdf, xp.subtract(1.0, cdf)), growth)
    else:
        cdf = xp.multiply(xp.add(erf(xp, xp.multiply(near, math.sqrt(0.5))), 1.0), 0.5)
        density = xp.multiply(xp.exp(xp.multiply(square, -0.5)), 1.0 / math.sqrt(2.0 * math.pi))
    slope = xp.add(cdf, xp.multiply(near, density))
    return narrow(xp, xp.multiply(wide, cdf), x.dtype), slope


def _gelu_rule(xp: Any, g: Any, slope: Any, x: Any, *, needs: Any, approximate: bool) -> Any:
    return (xp.multiply(g, slope),)


_gelu_op = Op("gelu", _gelu, _gelu_rule, saves=True, unused=(0,))


def gelu(x: Any, /, *, approximate: bool = False) -> Any:
    """Return `x` times the probability that a normal number is below `x`, elementwise.

    Parameters
    ----------
    x : array of a real floating dtype
        Of any shape.
    approximate : bool, default: False
        Whether to use the approximation with `tanh` instead of the error function.

    Returns
    -------
    array
        Of the shape and dtype of `x`.

    Raises
    ------
    DTypeError
        If `x` is not real floating.

    References
    ----------
    D. Hendrycks, K. Gimpel, "Gaussian error linear units", arXiv:1606.08415.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.gelu(np.asarray([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    check_floating("gelu", x)
    return _gelu_op(x, approximate=approximate)
