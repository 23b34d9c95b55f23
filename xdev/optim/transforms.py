"""Transformations that compose with the optimizers through `chain`, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .. import tree
from ..device import namespace
from ..differentiation import is_differentiable
from ..errors import ArrayTypeError, GradientError, a
from ..options import need_integer, need_number, shown
from .base import Optimizer, map_trainable, scaled, squared, widened, zeros_like

__all__ = ["clip_by_global_norm", "cosine_decay", "global_norm", "linear_warmup", "scale"]


def global_norm(grads: Any, /) -> Any:
    """Return the norm of all gradients together.

    Parameters
    ----------
    grads : tree of arrays
        Floating or complex; an array that stands twice counts once.

    Returns
    -------
    array of shape ()
        The square root of the sum of all squares, on their device.

    Raises
    ------
    GradientError
        If there is no floating array.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import optim
    >>> float(optim.global_norm([np.asarray([3.0]), np.asarray([4.0])]))
    5.0
    """
    total = None
    for leaf in tree.unique(tree.leaves(grads))[0]:
        if not is_differentiable(leaf):
            continue
        square = namespace(leaf).sum(squared(widened(leaf)))
        total = square if total is None else total + square
    if total is None:
        raise GradientError(f"global_norm needs at least one floating array, got {shown(grads)}")
    return namespace(total).sqrt(total)


def clip_by_global_norm(max_norm: float, /) -> Optimizer:
    """Scale gradients down so that their norm together is at most `max_norm`.

    Parameters
    ----------
    max_norm : float
        The largest norm that passes unchanged; above 0.

    Returns
    -------
    Optimizer
        A transformation without state.

    Raises
    ------
    ConfigurationError
        If the norm is no finite number above 0.

    References
    ----------
    Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import optim
    >>> clip = optim.clip_by_global_norm(1.0)
    >>> grads = [np.asarray([3.0, 4.0])]
    >>> clip.update(grads, clip.init(grads), grads)[0][0].round(6)
    array([0.6, 0.8])
    """
    remedy = "; leave it out of the chain to pass gradients as they are"
    max_norm = need_number(
        "clip_by_global_norm takes max_norm, a finite number above 0", max_norm, above=0, remedy=remedy
    )

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        norm = global_norm(grads)
        xp = namespace(norm)
        factor = max_norm / xp.where(norm > max_norm, norm, xp.full_like(norm, max_norm))
        return map_trainable(lambda p, g: _clipped(g, factor), params, grads, other=zeros_like), state

    return Optimizer(lambda params: (), update)


def _clipped(g: Any, factor: Any) -> Any:
    out = scaled(widened(g), factor)  # the factor itself may be below what half precision holds
    return out if out.dtype == g.dtype else namespace(g).astype(out, g.dtype)


def scale(factor: float, /) -> Optimizer:
    """Multiply updates by a constant.

    Parameters
    ----------
    factor : float
        The constant; below 0 it turns the direction around.

    Returns
    -------
    Optimizer
        A transformation without state.

    Raises
    ------
    ConfigurationError
        If the factor is no finite number.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import optim
    >>> half = optim.scale(0.5)
    >>> half.update([np.ones(1)], (), [np.ones(1)])[0]
    [array([0.5])]
    """
    factor = need_number("scale takes a factor, a finite number", factor)

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return map_trainable(lambda p, g: scaled(g, factor), params, grads, other=zeros_like), state

    return Optimizer(lambda params: (), update)


def _as_float(count: Any) -> Any:
    xp = namespace(count)
    return xp.astype(count, xp.float32)


def linear_warmup(peak: float, steps: int, after: Callable[[Any], Any] | None = None) -> Callable[[Any], Any]:
    """Make a schedule that rises linearly from 0 to `peak`, and then follows another.

    Parameters
    ----------
    peak : float
        The rate at the end of the warm-up.
    steps : int
        Steps of the warm-up.
    after : callable, optional
        A schedule of the steps after it, counted from 0; constant at `peak` if left out.

    Returns
    -------
    callable
        Takes the step's number, returns the rate.

    Raises
    ------
    ConfigurationError
        If the peak is no finite number of 0 or more, or the steps are no such integer.
    ArrayTypeError
        If `after` cannot be called.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import optim
    >>> float(optim.linear_warmup(1.0, 10)(np.asarray(5)))
    0.5
    """
    peak = need_number("linear_warmup takes peak, a finite number of 0 or more", peak, least=0)
    need_integer("linear_warmup takes steps, an int of 0 or more", steps, least=0)
    if after is not None and not callable(after):
        raise ArrayTypeError(
            f"linear_warmup takes after, a schedule such as optim.cosine_decay({peak}, 1000), got "
            f"{a(type(after).__name__)}; leave it out to stay at {peak}"
        )

    def schedule(count: Any) -> Any:
        xp = namespace(count)
        t = _as_float(count)
        later = xp.full_like(t, peak) if after is None else after(xp.maximum(count - steps, xp.zeros_like(count)))
        return xp.where(t < steps, t * (peak / max(steps, 1)), later)

    return schedule


def cosine_decay(peak: float, steps: int, end: float = 0.0) -> Callable[[Any], Any]:
    """Make a schedule that falls from `peak` to `end` along half a cosine.

    Parameters
    ----------
    peak : float
        The rate at step 0.
    steps : int
        Steps until `end`, where it stays.
    end : float, default: 0.0
        The last rate.

    Returns
    -------
    callable
        Takes the step's number, returns the rate.

    Raises
    ------
    ConfigurationError
        If a rate is no finite number of 0 or more, or the steps are no such integer.

    References
    ----------
    Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5 without restarts.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import optim
    >>> float(optim.cosine_decay(1.0, 10)(np.asarray(10)))
    0.0
    """
    peak = need_number("cosine_decay takes peak, a finite number of 0 or more", peak, least=0)
    need_integer("cosine_decay takes steps, an int of 0 or more", steps, least=0)
    end = need_number("cosine_decay takes end, a finite number of 0 or more", end, least=0)

    def schedule(count: Any) -> Any:
        xp = namespace(count)
        t = _as_float(count) / float(max(steps, 1))
        t = xp.where(t > 1.0, xp.ones_like(t), t)
        return end + (peak - end) * 0.5 * (1.0 + xp.cos(t * math.pi))

    return schedule
