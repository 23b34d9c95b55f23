"""Dropout."""

from __future__ import annotations

from typing import Any

from ..errors import ArrayTypeError, ConfigurationError, a
from ..random import Generator
from ._checks import check_floating
from ._dispatch import Op

__all__ = ["dropout"]


def _keep(xp: Any, x: Any, mask: Any, *, scale: float) -> Any:
    return xp.multiply(x, xp.multiply(xp.astype(mask, x.dtype), scale))


def _keep_rule(xp: Any, g: Any, y: Any, x: Any, mask: Any, *, needs: Any, scale: float) -> Any:
    return xp.multiply(g, xp.multiply(xp.astype(mask, g.dtype), scale)), None


_dropout_op = Op("dropout", _keep, _keep_rule)


def dropout(x: Any, /, *, rate: float, rng: Generator) -> Any:
    """Set elements to 0 at random, and scale the others so that the mean stays.

    Parameters
    ----------
    x : array of a real floating dtype
        Of any shape.
    rate : float
        The probability of 0, in [0, 1).
    rng : xdev.random.Generator
        On the device of `x`; advances by one draw. The same elements are chosen on every backend.

    Returns
    -------
    array
        Of the shape and dtype of `x`; `x` itself if `rate` is 0.

    Raises
    ------
    ConfigurationError
        If `rate` is no number in [0, 1).
    ArrayTypeError
        If `rng` is no generator, or `x` no array.
    DTypeError
        If `x` is not real floating.

    References
    ----------
    N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15 (2014).

    Examples
    --------
    >>> import numpy as np, xdev
    >>> from xdev import ops
    >>> ops.dropout(np.ones(4), rate=0.5, rng=xdev.random.Generator(0, "numpy")).max()
    np.float64(2.0)
    """
    check_floating("dropout", x)
    try:
        fits = 0 <= rate < 1
    except TypeError:
        fits = False
    if not fits:
        raise ConfigurationError(f"dropout takes a rate in [0, 1), got {rate!r}")
    if not isinstance(rng, Generator):
        raise ArrayTypeError(
            f"dropout takes rng=, an xdev.random.Generator, got {a(type(rng).__name__)}; "
            "a loss gets one as its third argument: loss(model, batch, rng)"
        )
    if rate == 0:
        return x
    return _dropout_op(x, rng.bernoulli(1.0 - rate, tuple(x.shape)), scale=1.0 / (1.0 - rate))
