"""Random numbers from a seed, the same on every backend and device.

Requirements: each method checks its arguments, takes the next key, and has a kernel of `distributions` fill
an array on the generator's device. Defaults are float32 and int32 on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import ml_dtypes  # noqa: F401  makes bfloat16 a NumPy dtype by name
import numpy as np

from ..contract import dtype_name
from ..device import namespace
from ..errors import DTypeError, RandomError
from ..namespaces import default_float
from . import distributions
from .arguments import Shape, count, integer, number, size_of
from .distributions import PRECISION
from .fill import fill
from .keys import CAPTURED, KeyStream, register

__all__ = ["Generator"]

Kernel = Callable[..., Any]

INTEGERS = ("int32", "int64", "int16", "int8", "uint8", "uint16", "uint32", "uint64")


class Generator(KeyStream):
    """Random numbers from a seed, the same on every backend and device.

    Draw number `d` of seed `s` has the key Threefry(s, (0, d)), and its element `i` is Threefry of that key
    and the counter `i`. So a draw depends on the seed, on how many draws came before, and on nothing else.

    Parameters
    ----------
    seed : int
        From 0 to 2**64 - 1.
    device : Device, str or None
        Where the numbers are made; None is `xdev.device()`.

    Attributes
    ----------
    device : Device
        Where the numbers are made.

    Raises
    ------
    RandomError
        If the seed is not an integer in that range.

    Notes
    -----
    Bits, uniform numbers on [0, 1), integers, permutations and Bernoulli numbers are identical on every
    backend. float32 normals agree to 4 units in the last place; `low + (high - low) * uniform` and `mean +
    std * normal` are rounded twice outside of a compiled function and may be rounded once within.

    A generator is a pytree. Pass it to a compiled function as an argument and return it; drawing there from
    one that was captured from outside raises, since the compiled function would repeat the same numbers in
    every call.

    Not safe to share between threads: give each its own, from `split`.

    References
    ----------
    J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11 (2011), for Threefry.
    M. Giles, "Approximating the erfinv function", GPU Computing Gems (2011), for normals by inversion.

    Examples
    --------
    >>> import xdev.random
    >>> rng = xdev.random.Generator(0, "numpy")
    >>> rng.integers(0, 10, (2, 3))
    array([[9, 3, 6],
           [9, 2, 3]], dtype=int32)
    """

    __slots__ = ()

    def bits(self, shape: Shape, /) -> Any:
        """Draw 32-bit words.

        Parameters
        ----------
        shape : int or tuple of int
            The shape of the result.

        Returns
        -------
        array of uint32
            New, on the generator's device. Draw `d` of seed `s` equals
            `jax.random.bits(jax.random.fold_in(jax.random.key(s), d), shape)`.

        Raises
        ------
        RandomError
            If the shape is not made of non-negative integers.

        Examples
        --------
        >>> import xdev.random
        >>> xdev.random.Generator(0, "numpy").bits(2)
        array([3617712097,  783310428], dtype=uint32)
        """
        return self._draw(shape, distributions.words32, dtype="uint32")

    def uniform(self, shape: Shape, /, *, low: float = 0.0, high: float = 1.0, dtype: Any = None) -> Any:
        """Draw uniform numbers on [low, high).

        Parameters
        ----------
        shape : int or tuple of int
            The shape of the result.
        low, high : float
            The ends of the interval.
        dtype : dtype, str or None
            A floating dtype; None is float32, or what `xdev.precision` says. On [0, 1) the numbers are
            multiples of 2**-24 for float32, 2**-53 for float64, 2**-11 for float16 and 2**-8 for bfloat16.

        Returns
        -------
        array
            New, on the generator's device.

        Raises
        ------
        RandomError
            If `low` is not below `high`, or the shape is not made of non-negative integers.
        DTypeError
            If the dtype is not floating, or the device cannot hold it.

        Examples
        --------
        >>> import xdev.random
        >>> xdev.random.Generator(0, "numpy").uniform(2)
        array([0.8423142 , 0.18237865], dtype=float32)
        """
        low, high = number(low, "low"), number(high, "high")
        if not low < high or high - low == float("inf"):
            raise RandomError(f"uniform got low={low} and high={high}, expected finite numbers with low < high")
        name = self._float(dtype, "uniform")
        largest = _largest(high, name)
        if largest < low:
            raise RandomError(f"uniform got low={low} and high={high}, between which there is no {name}; widen them")
        if name == "float64":
            made = self._draw(shape, distributions.uniform64, dtype=name)
        else:
            made = self._draw(shape, distributions.uniform32, PRECISION[name], dtype=name)
        return made if (low, high) == (0.0, 1.0) else self._scaled(made, high - low, low, largest)

    def normal(self, shape: Shape, /, *, mean: float = 0.0, std: float = 1.0, dtype: Any = None) -> Any:
        """Draw normal numbers.

        Parameters
        ----------
        shape : int or tuple of int
            The shape of the result.
        mean, std : float
            The mean and the standard deviation.
        dtype : dtype, str or None
            A floating dtype; None is float32, or what `xdev.precision` says.

        Returns
        -------
        array
            New, on the generator's device. float32 numbers reach 6.2 standard deviations, float64 ones 8.5;
            they are different numbers.

        Raises
        ------
        RandomError
            If `std` is negative, or the shape is not made of non-negative integers.
        DTypeError
            If the dtype is not floating, or the device cannot hold it.

        Examples
        --------
        >>> import xdev.random
        >>> xdev.random.Generator(0, "numpy").normal((2, 3)).shape
        (2, 3)
        """
        mean, std = number(mean, "mean"), number(std, "std")
        if not 0 <= std < float("inf") or abs(mean) == float("inf"):
            raise RandomError(f"normal got mean={mean} and std={std}, expected finite numbers with std >= 0")
        name = self._float(dtype, "normal")
        kernel = distributions.normal64 if name == "float64" else distributions.normal32
        made = self._draw(shape, kernel, dtype=name)
        return made if (mean, std) == (0.0, 1.0) else self._scaled(made, std, mean)

    def integers(self, low: int, high: int, shape: Shape, /, *, dtype: Any = None) -> Any:
        """Draw integers from `low` to `high` - 1, all equally likely to within 2**-32 of their probability.

        Parameters
        ----------
        low, high : int
            The range; at most 2**32 integers.
        shape : int or tuple of int
            The shape of the result.
        dtype : dtype, str or None
            An integer dtype; None is int32.

        Returns
        -------
        array
            New, on the generator's device.

        Raises
        ------
        RandomError
            If the range is empty or too long, or the shape is not made of non-negative integers.
        DTypeError
            If the dtype is not an integer one, does not hold the range, or is not held by the device.

        Examples
        --------
        >>> import xdev.random
        >>> xdev.random.Generator(0, "numpy").integers(1, 7, 5)
        array([6, 2, 4, 6, 2], dtype=int32)
        """
        low, high = (
            integer(low, "low", "rng.integers(0, 10, 5)"),
            integer(high, "high", "rng.integers(0, 10, 5)"),
        )
        if not 0 < high - low <= 2**32:
            raise RandomError(
                f"integers got low={low} and high={high}, expected low < high <= low + 2**32; high itself is not drawn"
            )
        name = self._dtype("int32" if dtype is None else dtype, "integers", INTEGERS)
        limits = np.iinfo(name)
        if low < limits.min or high - 1 > limits.max:
            raise DTypeError(
                f"integers from {low} to {high - 1} do not fit {name}, which holds {limits.min} to "
                f"{limits.max}; pass a wider dtype"
            )
        return self._draw(shape, distributions.integers, low, high - low, name, dtype=name)

    def bernoulli(self, p: float, shape: Shape, /) -> Any:
        """Draw booleans that are True with probability `p`.

        Parameters
        ----------
        p : float
            The probability, rounded to a multiple of 2**-32.
        shape : int or tuple of int
            The shape of the result.

        Returns
        -------
        array of bool
            New, on the generator's device.

        Raises
        ------
        RandomError
            If `p` is not from 0 to 1, or the shape is not made of non-negative integers.

        Examples
        --------
        >>> import xdev.random
        >>> xdev.random.Generator(0, "numpy").bernoulli(0.5, 4)
        array([False,  True,  True,  True])
        """
        p = number(p, "p", "; for an array of probabilities write rng.uniform(p.shape) < p")
        if not 0.0 <= p <= 1.0:
            raise RandomError(f"bernoulli got p={p}, expected a probability from 0 to 1")
        return self._draw(shape, distributions.less, round(p * 2**32), dtype="bool")

    def permutation(self, n: int, /) -> Any:
        """Draw an order of the integers below `n`.

        Parameters
        ----------
        n : int
            How many.

        Returns
        -------
        array of int32, shape (n,)
            New, on the generator's device; every order is equally likely to within about n**2 / 2**64.

        Raises
        ------
        RandomError
            If `n` is negative, too large for int32, or not an integer.

        Examples
        --------
        >>> import xdev.random
        >>> xdev.random.Generator(0, "numpy").permutation(5)
        array([2, 0, 3, 4, 1], dtype=int32)
        """
        n = count(n, "permutation")
        if n >= 2**31:
            raise RandomError(f"permutation got n={n}, expected less than 2**31, so that int32 holds the places")
        wide = self.device.backend.holds("int64", self.device.info)
        return self._draw(n, distributions.permutation, wide, dtype="int32", whole=True)

    def choice(self, n: int, shape: Shape, /, *, replace: bool = True) -> Any:
        """Draw from the integers below `n`.

        Parameters
        ----------
        n : int
            How many there are to draw from.
        shape : int or tuple of int
            The shape of the result.
        replace : bool
            Whether an integer can be drawn again.

        Returns
        -------
        array of int32
            New, on the generator's device.

        Raises
        ------
        RandomError
            If `n` is not positive, or less than the result's size without replacement.

        Examples
        --------
        >>> import xdev.random
        >>> sorted(xdev.random.Generator(0, "numpy").choice(3, 3, replace=False).tolist())
        [0, 1, 2]
        """
        if replace:
            return self.integers(0, n, shape)
        n = count(n, "choice")
        dims, size = size_of(shape)
        if size > n:
            raise RandomError(f"choice got shape {dims}, {size} of {n} integers; draw fewer or pass replace=True")
        order = self.permutation(n)
        xp = namespace(order)
        with self.device.scope():
            return xp.reshape(order[:size], dims)

    # -- how a draw is made --------------------------------------------------------------------------

    def _draw(self, shape: Shape, kernel: Kernel, *static: Hashable, dtype: str, whole: bool = False) -> Any:
        dims, size = size_of(shape)
        key = self._next_key()
        made = fill(self.device, key, size, kernel, static, dtype, whole)
        if self._made_here(key) and self.device.backend.device_of(made) is None:
            raise RandomError(CAPTURED)  # a compilation that only the framework knows of
        return made if dims == (size,) else namespace(made).reshape(made, dims)

    def _dtype(self, dtype: Any, what: str, allowed: Iterable[str]) -> str:
        name = dtype_name(dtype)
        if name not in allowed:
            raise DTypeError(f"{what} got dtype {name}, expected one of {', '.join(allowed)}")
        if not self.device.backend.holds(name, self.device.info):
            raise DTypeError(f"{self.device} does not hold {name}; pass another dtype, or use another device")
        return name

    def _float(self, dtype: Any, what: str) -> str:
        return self._dtype((default_float.get() or "float32") if dtype is None else dtype, what, PRECISION)

    def _scaled(self, x: Any, scale: float, shift: float, largest: float | None = None) -> Any:
        xp = namespace(x)
        with self.device.scope():
            wide = x if x.dtype in (xp.float32, getattr(xp, "float64", None)) else xp.astype(x, xp.float32)
            wide *= scale
            wide += shift
            if largest is not None:
                wide = xp.clip(wide, max=largest)  # rounding may have reached the open end
            return xp.astype(wide, x.dtype, copy=False)


def _largest(end: float, name: str) -> float:
    """Return the largest number of a dtype below `end`."""
    dtype = np.dtype(name)
    with np.errstate(over="ignore"):
        rounded = np.asarray(end, dtype=dtype)
        below = rounded if float(rounded) < end else np.nextafter(rounded, np.asarray(-np.inf, dtype=dtype))
    return float(below)


register(Generator)
