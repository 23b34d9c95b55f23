"""Layers with weights, and the containers of layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .. import ops
from ..errors import ArrayTypeError, ConfigurationError, DataError, a
from ..ops._linear import linear_op
from ..options import need_number
from ..random import Generator
from ._arguments import MISSING, check_width, filled, need_eps, need_rng, need_size, no_array, place_of
from ._module import Module

__all__ = ["MLP", "Dropout", "Embedding", "LayerNorm", "Linear", "RMSNorm", "Sequential"]

Array = Any


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

    Raises
    ------
    ConfigurationError
        If a size is no positive integer.
    ArrayTypeError
        If `rng` is no generator.
    DTypeError
        If the dtype is no floating one, or the device does not hold it.

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

    def __init__(
        self, n_in: int, n_out: int, *, rng: Generator = MISSING, bias: bool = True, dtype: Any = None
    ) -> None:
        need_size("Linear", n_in=n_in, n_out=n_out)
        rng = need_rng("Linear", rng)
        bound = 1.0 / math.sqrt(n_in)
        self.weight = rng.uniform((n_in, n_out), low=-bound, high=bound, dtype=dtype)
        self.bias = rng.uniform((n_out,), low=-bound, high=bound, dtype=dtype) if bias else None

    def __call__(self, x: Array, /) -> Array:
        """Apply the map to an array of shape (..., n_in)."""
        weight, bias = self.weight, self.bias
        try:
            fits = x.ndim and x.shape[-1] == weight.shape[0]
        except AttributeError:
            raise no_array("Linear", x) from None
        if not fits:
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

    Raises
    ------
    ConfigurationError
        If a size is no positive integer.
    ArrayTypeError
        If `rng` is no generator.
    DTypeError
        If the dtype is no floating one, or the device does not hold it.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> table = xdev.nn.Embedding(65, 16, rng=xdev.random.Generator(0, "numpy"))
    >>> table(np.asarray([[1, 2, 3]])).shape
    (1, 3, 16)
    """

    weight: Array

    def __init__(self, n: int, width: int, *, rng: Generator = MISSING, std: float = 1.0, dtype: Any = None) -> None:
        need_size("Embedding", n=n, width=width)
        self.weight = need_rng("Embedding", rng).normal((n, width), std=std, dtype=dtype)

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
        Added to the variance; 0 or more.
    dtype : dtype or str, optional
        Of the arrays; float32, or what `xdev.precision` says.

    Attributes
    ----------
    weight : array of shape (width,)
        1 at first.
    bias : array of shape (width,) or None
        0 at first.

    Raises
    ------
    ConfigurationError
        If the width is no positive integer, or an option is no number within its limits.
    DTypeError
        If the dtype is no floating one, or the device does not hold it.

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
        where = place_of("LayerNorm", rng, device)
        self.weight = filled("LayerNorm", where, (width,), 1.0, dtype)
        self.bias = filled("LayerNorm", where, (width,), 0.0, dtype) if bias else None
        self.eps = need_eps("LayerNorm", eps)

    def __call__(self, x: Array, /) -> Array:
        """Normalise an array of shape (..., width)."""
        check_width("LayerNorm", x, self.weight)
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
        Added to the mean square; 0 or more.
    dtype : dtype or str, optional
        Of the array; float32, or what `xdev.precision` says.

    Attributes
    ----------
    weight : array of shape (width,)
        1 at first.

    Raises
    ------
    ConfigurationError
        If the width is no positive integer, or an option is no number within its limits.
    DTypeError
        If the dtype is no floating one, or the device does not hold it.

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
        self.weight = filled("RMSNorm", place_of("RMSNorm", rng, device), (width,), 1.0, dtype)
        self.eps = need_eps("RMSNorm", eps)

    def __call__(self, x: Array, /) -> Array:
        """Normalise an array of shape (..., width)."""
        check_width("RMSNorm", x, self.weight)
        return ops.rms_norm(x, self.weight, eps=self.eps)


class Dropout(Module):
    """`xdev.ops.dropout`, when it is given a generator; the identity without one.

    Parameters
    ----------
    rate : float
        The probability of 0, in [0, 1).

    Raises
    ------
    ConfigurationError
        If the rate is not in [0, 1).

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
        self.rate = need_number("Dropout takes a rate in [0, 1)", rate, least=0, below=1)

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

    Raises
    ------
    ArrayTypeError
        If there is something in it that cannot be applied.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> rng = xdev.random.Generator(0, "numpy")
    >>> model = xdev.nn.Sequential([xdev.nn.Linear(4, 8, rng=rng), xdev.ops.relu, xdev.nn.Linear(8, 2, rng=rng)])
    >>> model(np.ones((3, 4), np.float32)).shape
    (3, 2)
    """

    layers: list[Callable[..., Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) > 1 and cls.__init__ is Sequential.__init__:  # a habit from torch
            raise ArrayTypeError(f"Sequential takes one list of layers, got {len(args)} arguments; put them in a list")
        return super().__new__(cls)

    def __init__(self, layers: Iterable[Callable[..., Any]]) -> None:
        if not hasattr(type(layers), "__iter__"):
            remedy = "; put it in a list" if callable(layers) else ""
            raise ArrayTypeError(f"Sequential takes a list of layers, got {a(type(layers).__name__)}{remedy}")
        self.layers = list(layers)
        for position, layer in enumerate(self.layers):
            if not callable(layer) or isinstance(layer, type):
                got = f"the class {layer.__name__}" if isinstance(layer, type) else a(type(layer).__name__)
                remedy = f": call it, {layer.__name__}(...)" if isinstance(layer, type) else ""
                raise ArrayTypeError(f"Sequential takes modules and functions, got {got} at {position}{remedy}")

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

    Raises
    ------
    ConfigurationError
        If there are not two sizes, or one is no positive integer.
    ArrayTypeError
        If `rng` is no generator, or the activation cannot be called.

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
        rng: Generator = MISSING,
        activation: Callable[[Any], Any] = ops.relu,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        if isinstance(sizes, str) or not hasattr(type(sizes), "__iter__"):
            raise ArrayTypeError(f"MLP takes a list of sizes, such as [64, 256, 10], got {sizes!r}")
        sizes = list(sizes)
        if len(sizes) < 2:
            raise ConfigurationError(f"MLP takes at least two sizes, the input's and the output's, got {sizes}")
        need_size("MLP", **{f"sizes[{position}]": size for position, size in enumerate(sizes)})
        need_rng("MLP", rng)
        if not callable(activation):
            raise ArrayTypeError(
                f"MLP takes activation, a function such as xdev.ops.relu, got {a(type(activation).__name__)}"
            )
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
