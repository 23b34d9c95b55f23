"""Layers with weights, and the containers of layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .. import ops
from ..device import Device, device
from ..errors import DataError, a
from ..namespaces import default_float
from ..ops._linear import linear_op
from ..random import Generator
from ._module import Module

__all__ = ["MLP", "Dropout", "Embedding", "LayerNorm", "Linear", "RMSNorm", "Sequential"]

Array = Any


def _need_rng(layer: str, rng: Any) -> Generator:
    if not isinstance(rng, Generator):
        raise TypeError(
            f"{layer} takes rng=, an xdev.random.Generator such as xdev.random.Generator(0, device), "
            f"got {a(type(rng).__name__)}"
        )
    return rng


def need_size(layer: str, **sizes: Any) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{layer} takes {name}, a positive int, got {size!r}")


def filled(where: Device, shape: tuple[int, ...], value: float, dtype: Any) -> Array:
    """Return an array of one value, of float32 or what `xdev.precision` says, unless a dtype is given."""
    xp = where.xp
    if dtype is None or isinstance(dtype, str):
        dtype = getattr(xp, dtype or default_float.get() or "float32")
    return xp.full(shape, value, dtype=dtype)


class Linear(Module):
    """An affine map of the last axis: `x @ weight + bias`.

    Parameters
    ----------
    n_in, n_out : int
        Lengths of the last axis before and after.
    rng : xdev.random.Generator
        Draws the weights, on its device.
    bias : bool, default: True
        Whether there is a bias.
    dtype : dtype or str, optional
        Of the arrays; float32, or what `xdev.precision` says.

    Attributes
    ----------
    weight : array of shape (n_in, n_out)
        Uniform on [-1/√n_in, 1/√n_in) at first.
    bias : array of shape (n_out,) or None
        Likewise.

    References
    ----------
    Y. LeCun et al., "Efficient backprop" (1998), for initial weights by the number of inputs; the limits are those of
    `torch.nn.Linear`.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> layer = xdev.nn.Linear(64, 10, rng=xdev.random.Generator(0, "numpy"))
    >>> layer(np.ones((32, 64), np.float32)).shape
    (32, 10)
    """

    weight: Array
    bias: Array

    def __init__(self, n_in: int, n_out: int, *, rng: Generator, bias: bool = True, dtype: Any = None) -> None:
        need_size("Linear", n_in=n_in, n_out=n_out)
        rng = _need_rng("Linear", rng)
        bound = 1.0 / math.sqrt(n_in)
        self.weight = rng.uniform((n_in, n_out), low=-bound, high=bound, dtype=dtype)
        self.bias = rng.uniform((n_out,), low=-bound, high=bound, dtype=dtype) if bias else None

    def __call__(self, x: Array, /) -> Array:
        """Apply the map to an array of shape (..., n_in)."""
        weight, bias = self.weight, self.bias
        if not x.ndim or x.shape[-1] != weight.shape[0]:
            raise DataError(f"Linear expects (..., {weight.shape[0]}), got {tuple(x.shape)}")
        return linear_op(x, weight) if bias is None else linear_op(x, weight, bias)


class Embedding(Module):
    """A table of vectors, looked up by integers.

    Parameters
    ----------
    n, width : int
        Rows, and their length.
    rng : xdev.random.Generator
        Draws the table, on its device: normal numbers of standard deviation `std`.
    std : float, default: 1.0
        Of the initial numbers.
    dtype : dtype or str, optional
        Of the table; float32, or what `xdev.precision` says.

    Attributes
    ----------
    weight : array of shape (n, width)
        The table.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> table = xdev.nn.Embedding(65, 16, rng=xdev.random.Generator(0, "numpy"))
    >>> table(np.asarray([[1, 2, 3]])).shape
    (1, 3, 16)
    """

    weight: Array

    def __init__(self, n: int, width: int, *, rng: Generator, std: float = 1.0, dtype: Any = None) -> None:
        need_size("Embedding", n=n, width=width)
        self.weight = _need_rng("Embedding", rng).normal((n, width), std=std, dtype=dtype)

    def __call__(self, indices: Array, /) -> Array:
        """Return the rows that integers name."""
        return ops.embedding(self.weight, indices)


class LayerNorm(Module):
    """`xdev.ops.layer_norm` with learnt factors and summands.

    Parameters
    ----------
    width : int
        Length of the last axis.
    rng : xdev.random.Generator, optional
        Tells the device, as in the other layers; nothing is drawn.
    device : Device or str, optional
        Where to create the arrays if there is no `rng`; None is `xdev.device()`.
    bias : bool, default: True
        Whether there are summands.
    eps : float, default: 1e-5
        Added to the variance.
    dtype : dtype or str, optional
        Of the arrays; float32, or what `xdev.precision` says.

    Attributes
    ----------
    weight : array of shape (width,)
        1 at first.
    bias : array of shape (width,) or None
        0 at first.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> norm = xdev.nn.LayerNorm(2, device="numpy")
    >>> norm(np.asarray([[1.0, 3.0]], np.float32)).round(2)
    array([[-1.,  1.]], dtype=float32)
    """

    weight: Array
    bias: Array
    eps: float

    def __init__(
        self,
        width: int,
        *,
        rng: Generator | None = None,
        device: Any = None,
        bias: bool = True,
        eps: float = 1e-5,
        dtype: Any = None,
    ) -> None:
        need_size("LayerNorm", width=width)
        where = place_of(rng, device)
        self.weight = filled(where, (width,), 1.0, dtype)
        self.bias = filled(where, (width,), 0.0, dtype) if bias else None
        self.eps = eps

    def __call__(self, x: Array, /) -> Array:
        """Normalise an array of shape (..., width)."""
        _check_width("LayerNorm", x, self.weight)
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """`xdev.ops.rms_norm` with learnt factors.

    Parameters
    ----------
    width : int
        Length of the last axis.
    rng : xdev.random.Generator, optional
        Tells the device, as in the other layers; nothing is drawn.
    device : Device or str, optional
        Where to create the array if there is no `rng`; None is `xdev.device()`.
    eps : float, default: 1e-5
        Added to the mean square.
    dtype : dtype or str, optional
        Of the array; float32, or what `xdev.precision` says.

    Attributes
    ----------
    weight : array of shape (width,)
        1 at first.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> norm = xdev.nn.RMSNorm(2, device="numpy")
    >>> norm(np.asarray([[3.0, -3.0]], np.float32)).round(2)
    array([[ 1., -1.]], dtype=float32)
    """

    weight: Array
    eps: float

    def __init__(
        self,
        width: int,
        *,
        rng: Generator | None = None,
        device: Any = None,
        eps: float = 1e-5,
        dtype: Any = None,
    ) -> None:
        need_size("RMSNorm", width=width)
        self.weight = filled(place_of(rng, device), (width,), 1.0, dtype)
        self.eps = eps

    def __call__(self, x: Array, /) -> Array:
        """Normalise an array of shape (..., width)."""
        _check_width("RMSNorm", x, self.weight)
        return ops.rms_norm(x, self.weight, eps=self.eps)


def place_of(rng: Generator | None, where: Any) -> Device:
    return rng.device if rng is not None and where is None else device(where)


def _check_width(layer: str, x: Array, weight: Array) -> None:
    if not x.ndim or x.shape[-1] != weight.shape[0]:
        raise DataError(f"{layer} expects (..., {weight.shape[0]}), got {tuple(x.shape)}")


class Dropout(Module):
    """`xdev.ops.dropout`, when it is given a generator; the identity without one.

    Parameters
    ----------
    rate : float
        The probability of 0, in [0, 1).

    Examples
    --------
    >>> import numpy as np, xdev
    >>> layer = xdev.nn.Dropout(0.5)
    >>> layer(np.ones(3))
    array([1., 1., 1.])
    >>> layer(np.ones(3), rng=xdev.random.Generator(0, "numpy")).shape
    (3,)
    """

    rate: float

    def __init__(self, rate: float) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"Dropout takes a rate in [0, 1), got {rate}")
        self.rate = rate

    def __call__(self, x: Array, /, *, rng: Generator | None = None) -> Array:
        """Apply dropout to an array; evaluation passes no generator."""
        return x if rng is None else ops.dropout(x, rate=self.rate, rng=rng)


class Sequential(Module):
    """Layers and functions, each applied to what the one before returned.

    Parameters
    ----------
    layers : sequence of callables
        Modules and plain functions.

    Attributes
    ----------
    layers : list
        Them.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> rng = xdev.random.Generator(0, "numpy")
    >>> model = xdev.nn.Sequential([xdev.nn.Linear(4, 8, rng=rng), xdev.ops.relu, xdev.nn.Linear(8, 2, rng=rng)])
    >>> model(np.ones((3, 4), np.float32)).shape
    (3, 2)
    """

    layers: list[Callable[..., Any]]

    def __init__(self, layers: Iterable[Callable[..., Any]]) -> None:
        self.layers = list(layers)
        for position, layer in enumerate(self.layers):
            if not callable(layer):
                raise TypeError(f"Sequential takes modules and functions, got {a(type(layer).__name__)} at {position}")

    def __call__(self, x: Array, /, *, rng: Generator | None = None) -> Array:
        """Apply the layers in turn; `rng` goes to those that draw random numbers."""
        for layer in self.layers:
            x = layer(x, rng=rng) if isinstance(layer, Dropout | Sequential) else layer(x)
        return x


class MLP(Module):
    """Affine maps with an activation between each two.

    Parameters
    ----------
    sizes : sequence of int
        Lengths of the last axis, from the input to the output.
    rng : xdev.random.Generator
        Draws the weights, on its device.
    activation : callable, default: `xdev.ops.relu`
        Applied after each layer but the last.
    bias : bool, default: True
        Whether the maps have biases.
    dtype : dtype or str, optional
        Of the arrays; float32, or what `xdev.precision` says.

    Attributes
    ----------
    layers : list of Linear
        The maps.
    activation : callable
        Static.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> model = xdev.nn.MLP([64, 256, 10], rng=xdev.random.Generator(0, "numpy"))
    >>> model(np.ones((32, 64), np.float32)).shape
    (32, 10)
    """

    layers: list[Linear]
    activation: Callable[[Any], Any]

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        rng: Generator,
        activation: Callable[[Any], Any] = ops.relu,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        sizes = list(sizes)
        if len(sizes) < 2:
            raise ValueError(f"MLP takes at least two sizes, the input's and the output's, got {sizes}")
        _need_rng("MLP", rng)
        self.layers = [
            Linear(n_in, n_out, rng=rng, bias=bias, dtype=dtype) for n_in, n_out in itertools.pairwise(sizes)
        ]
        self.activation = activation

    def __call__(self, x: Array, /) -> Array:
        """Map an array of shape (..., sizes[0]) to (..., sizes[-1])."""
        *inner, last = self.layers
        for layer in inner:
            x = self.activation(layer(x))
        return last(x)
