"""The optimizers: SGD, Adam and AdamW, with the numbers of torch.optim and optax."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..device import namespace
from ..errors import ConfigurationError
from ..options import need_number
from .base import (
    Optimizer,
    ScalarOrSchedule,
    counter,
    map_trainable,
    need_rate,
    rate,
    scalar_dtype,
    scaled,
    squared,
    widened,
    zeros_like,
)

__all__ = ["AdamState", "SgdState", "adam", "adamw", "sgd"]


class SgdState(NamedTuple):
    """State of `sgd`: the steps done (int32, shape ()) and the momentum of each leaf (None without momentum)."""

    count: Any
    trace: Any


class AdamState(NamedTuple):
    """State of `adam` and `adamw`: the steps done (int32, shape ()), and the two moments of each leaf.

    Those of half precision are in float32: their squares would be lost, and eps too.
    """

    count: Any
    mu: Any
    nu: Any


def sgd(
    learning_rate: ScalarOrSchedule,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Stochastic gradient descent.

    Parameters
    ----------
    learning_rate : float or callable
        A rate of 0 or more, or a schedule: a function of the step's number (int32 array of shape ()).
    momentum : float, default: 0.0
        Decay of the velocity, in [0, 1); 0 is none.
    nesterov : bool, default: False
        Whether to look ahead.
    weight_decay : float, default: 0.0
        Added to the gradient as `weight_decay * parameter`.

    Returns
    -------
    Optimizer
        The numbers of `torch.optim.SGD` and `optax.sgd`.

    Raises
    ------
    ConfigurationError
        If an option is no number within its limits, or `nesterov` is asked for without momentum.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import optim
    >>> optimizer = optim.sgd(0.1, momentum=0.9)
    >>> params = {"w": np.ones(2)}
    >>> updates, state = optimizer.update({"w": np.ones(2)}, optimizer.init(params), params)
    >>> updates["w"]
    array([-0.1, -0.1])
    """
    learning_rate = need_rate("sgd", learning_rate)
    momentum = need_number("sgd takes momentum, a number in [0, 1)", momentum, least=0, below=1)
    weight_decay = need_number("sgd takes weight_decay, a finite number of 0 or more", weight_decay, least=0)
    if nesterov and not momentum:
        raise ConfigurationError("nesterov=True looks ahead along the momentum; give momentum, such as 0.9")

    def init(params: Any) -> SgdState:
        trace = map_trainable(zeros_like, params, other=zeros_like) if momentum else None
        return SgdState(counter(params), trace)

    def update(grads: Any, state: SgdState, params: Any) -> tuple[Any, SgdState]:
        if weight_decay:
            grads = map_trainable(
                lambda p, g: namespace(p).add(g, scaled(p, weight_decay)), params, grads, other=zeros_like
            )
        trace = None
        if momentum:
            trace = map_trainable(
                lambda p, g, t: namespace(p).add(g, scaled(t, momentum)),
                params,
                grads,
                state.trace,
                other=zeros_like,
            )
            if nesterov:
                grads = map_trainable(
                    lambda p, g, t: namespace(p).add(g, scaled(t, momentum)),
                    params,
                    grads,
                    trace,
                    other=zeros_like,
                )
            else:
                grads = trace
        step = rate(learning_rate, state.count)
        updates = map_trainable(lambda p, g: scaled(g, -step), params, grads, other=zeros_like)
        return updates, SgdState(state.count + 1, trace)

    hyper = {
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
        "learning_rate": learning_rate,
    }
    return Optimizer(init, update, "sgd", hyper)


def adam(learning_rate: ScalarOrSchedule, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """Adam.

    Parameters
    ----------
    learning_rate : float or callable
        A rate of 0 or more, or a schedule: a function of the step's number (int32 array of shape ()).
    b1, b2 : float
        Decay of the first and the second moment, in [0, 1).
    eps : float, default: 1e-8
        Added to the root of the second moment.

    Returns
    -------
    Optimizer
        The numbers of `torch.optim.Adam` and `optax.adam`.

    Raises
    ------
    ConfigurationError
        If an option is no number within its limits.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import optim
    >>> optimizer = optim.adam(0.1)
    >>> params = [np.ones(2)]
    >>> updates, state = optimizer.update([np.ones(2)], optimizer.init(params), params)
    >>> updates[0].round(6)
    array([-0.1, -0.1])
    """
    return _adam("adam", learning_rate, b1, b2, eps, 0.0)


def adamw(
    learning_rate: ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Optimizer:
    """Adam with decoupled weight decay.

    Parameters
    ----------
    learning_rate : float or callable
        A rate of 0 or more, or a schedule: a function of the step's number (int32 array of shape ()).
    b1, b2 : float
        Decay of the first and the second moment, in [0, 1).
    eps : float, default: 1e-8
        Added to the root of the second moment.
    weight_decay : float, default: 0.01
        Share of each parameter that is taken away, times the learning rate; torch's default (optax's is 1e-4).

    Returns
    -------
    Optimizer
        The numbers of `torch.optim.AdamW` and `optax.adamw`.

    Raises
    ------
    ConfigurationError
        If an option is no number within its limits.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import optim
    >>> optimizer = optim.adamw(0.1, weight_decay=0.0)
    >>> params = [np.ones(2)]
    >>> updates, state = optimizer.update([np.ones(2)], optimizer.init(params), params)
    >>> updates[0].round(6)
    array([-0.1, -0.1])
    """
    return _adam("adamw", learning_rate, b1, b2, eps, weight_decay)


def _unbias(decay: float, power: Any) -> Any:
    """Return 1 / (1 - decay**power); in float32 `1 - decay**power` itself would lose half of its digits."""
    xp = namespace(power)
    if not decay:
        return xp.ones_like(power)
    return xp.divide(xp.full_like(power, -1.0), xp.expm1(power * math.log(decay)))


def _adam(
    name: str, learning_rate: ScalarOrSchedule, b1: float, b2: float, eps: float, weight_decay: float
) -> Optimizer:
    learning_rate = need_rate(name, learning_rate)
    b1 = need_number(f"{name} takes b1, a number in [0, 1)", b1, least=0, below=1)
    b2 = need_number(f"{name} takes b2, a number in [0, 1)", b2, least=0, below=1)
    eps = need_number(f"{name} takes eps, a finite number of 0 or more", eps, least=0)
    weight_decay = need_number(f"{name} takes weight_decay, a finite number of 0 or more", weight_decay, least=0)

    def init(params: Any) -> AdamState:
        return AdamState(
            counter(params),
            map_trainable(lambda p: zeros_like(widened(p)), params, other=zeros_like),
            map_trainable(lambda p: zeros_like(squared(widened(p))), params, other=zeros_like),
        )

    def update(grads: Any, state: AdamState, params: Any) -> tuple[Any, AdamState]:
        count = state.count + 1
        step = rate(learning_rate, state.count)
        mu = map_trainable(
            lambda p, g, m: namespace(p).add(scaled(m, b1), scaled(widened(g), 1 - b1)), params, grads, state.mu,
            other=zeros_like,
        )  # fmt: skip
        nu = map_trainable(
            lambda p, g, v: namespace(p).add(scaled(v, b2), scaled(squared(widened(g)), 1 - b2)), params, grads,
            state.nu, other=zeros_like,
        )  # fmt: skip
        xp = namespace(count)
        power = xp.astype(count, scalar_dtype(xp, params))
        first, second = _unbias(b1, power), _unbias(b2, power)

        def direction(p: Any, m: Any, v: Any) -> Any:
            out = scaled(m, first) / (namespace(p).sqrt(scaled(v, second)) + eps)
            if weight_decay:
                out = out + scaled(widened(p), weight_decay)
            return scaled(out, -step)

        return map_trainable(direction, params, mu, nu, other=zeros_like), AdamState(count, mu, nu)

    hyper = {"learning_rate": learning_rate, "b1": b1, "b2": b2, "eps": eps, "weight_decay": weight_decay}
    return Optimizer(init, update, "adamw", hyper)
