"""Batch normalisation, whose statistics are buffers: a call never changes the module, `update` returns a new one."""

from __future__ import annotations

import math
from typing import Any

from .. import tree
from ..device import namespace
from ..errors import DataError
from ..options import need_number
from ..random import Generator
from ..transform import stop_gradient
from ._arguments import filled, need_eps, need_size, no_array, place_of
from ._module import Module, buffer

__all__ = ["BatchNorm"]

Array = Any


class BatchNorm(Module):
    """Bring each feature to mean 0 and variance 1 over a batch, then scale and shift it.

    Parameters
    ----------
    width : int
        Number of features, on axis 1.
    rng : xdev.random.Generator, optional
        Tells the device, as in the other layers; nothing is drawn.
    device : Device or str, optional
        Where to create the arrays if there is no `rng`; None is `xdev.device()`.
    momentum : float, default: 0.1
        The share of a new batch in the statistics, in [0, 1].
    eps : float, default: 1e-5
        Added to the variance; 0 or more.
    dtype : dtype or str, optional
        Of the arrays; float32, or what `xdev.precision` says.

    Attributes
    ----------
    weight, bias : array of shape (width,)
        Factors, 1 at first, and summands, 0 at first.
    mean, variance : array of shape (width,)
        The running statistics, buffers: 0 and 1 at first.

    Raises
    ------
    ConfigurationError
        If the width is no positive integer, or an option is no number within its limits.
    DTypeError
        If the dtype is no floating one, or the device does not hold it.

    Notes
    -----
    `norm(x)` uses the running statistics, `norm.update(x)` those of the batch. A loss that trains such a model returns
    `(loss, metrics, model)`, with the model that `update` returned.

    References
    ----------
    S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", arXiv:1502.03167. As in torch, the running variance is the unbiased one.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> norm = xdev.nn.BatchNorm(1, device="numpy")
    >>> y, norm = norm.update(np.asarray([[1.0], [3.0]], np.float32))
    >>> y.round(2)
    array([[-1.],
           [ 1.]], dtype=float32)
    >>> norm.mean.round(2), norm.variance.round(2)
    (array([0.2], dtype=float32), array([1.1], dtype=float32))
    """

    weight: Array
    bias: Array
    mean: Array = buffer()
    variance: Array = buffer()
    momentum: float
    eps: float

    def __init__(
        self,
        width: int,
        *,
        rng: Generator | None = None,
        device: Any = None,
        momentum: float = 0.1,
        eps: float = 1e-5,
        dtype: Any = None,
    ) -> None:
        need_size("BatchNorm", width=width)
        where = place_of("BatchNorm", rng, device)
        self.weight = filled("BatchNorm", where, (width,), 1.0, dtype)
        self.bias = filled("BatchNorm", where, (width,), 0.0, dtype)
        self.mean = filled("BatchNorm", where, (width,), 0.0, dtype)
        self.variance = filled("BatchNorm", where, (width,), 1.0, dtype)
        self.momentum = need_number("BatchNorm takes momentum, a number in [0, 1]", momentum, least=0, most=1)
        self.eps = need_eps("BatchNorm", eps)

    def __call__(self, x: Array, /) -> Array:
        """Normalise an array of shape (batch, width, ...) by the running statistics."""
        self._check(x)
        return self._apply(x, self.mean, self.variance)

    def update(self, x: Array, /) -> tuple[Array, BatchNorm]:
        """Normalise by the batch's own statistics, and return the module with these mixed into the running ones.

        Parameters
        ----------
        x : array of shape (batch, width, ...)
            With more than one element for each feature.

        Returns
        -------
        y : array
            Of the shape of `x`.
        module : BatchNorm
            A new one that shares weight and bias.

        Raises
        ------
        DataError
            If the shape does not fit, or there is one element for a feature.

        Examples
        --------
        >>> import numpy as np, xdev
        >>> norm = xdev.nn.BatchNorm(2, device="numpy")
        >>> y, norm = norm.update(np.ones((4, 2), np.float32))
        """
        self._check(x)
        count = math.prod(x.shape) // x.shape[1]
        if count < 2:
            raise DataError(f"BatchNorm.update needs more than one element for each feature, got {tuple(x.shape)}")
        xp = namespace(x)
        axes = (0, *range(2, x.ndim))
        mean = xp.mean(x, axis=axes)
        centred = xp.subtract(x, self._along(mean, x.ndim))
        variance = xp.mean(xp.square(centred), axis=axes)
        leaves, treedef = tree.flatten(self)
        new = tree.unflatten(treedef, leaves)
        new.mean = self._mix(self.mean, mean, 1.0)
        new.variance = self._mix(self.variance, variance, count / (count - 1))
        return self._apply(x, mean, variance), new

    def _mix(self, old: Array, batch: Array, factor: float) -> Array:
        xp = namespace(old, batch)
        batch = stop_gradient(batch)
        kept = xp.multiply(old, 1.0 - self.momentum)
        return xp.add(kept, xp.astype(xp.multiply(batch, self.momentum * factor), old.dtype))

    def _apply(self, x: Array, mean: Array, variance: Array) -> Array:
        xp = namespace(x, self.weight)
        factor = xp.divide(self.weight, xp.sqrt(xp.add(variance, self.eps)))
        y = xp.multiply(xp.subtract(x, self._along(mean, x.ndim)), self._along(factor, x.ndim))
        return xp.add(y, self._along(self.bias, x.ndim))

    @staticmethod
    def _along(values: Array, ndim: int) -> Array:
        return namespace(values).reshape(values, (1, -1, *(1,) * (ndim - 2)))

    def _check(self, x: Array) -> None:
        width = self.weight.shape[0]
        try:
            fits = x.ndim >= 2 and x.shape[1] == width
        except AttributeError:
            raise no_array("BatchNorm", x) from None
        if not fits:
            raise DataError(f"BatchNorm expects (batch, {width}, ...), got {tuple(x.shape)}")
