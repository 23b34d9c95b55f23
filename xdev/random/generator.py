"""Random numbers from a seed, the same on every backend and device.

Requirements: each method checks its arguments, takes the next key, and has a kernel of `distributions` fill
an array on the generator's device. Defaults are float32 and int32 on every backend.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..device import namespace
from ..errors import DTypeError, RandomError
from ..transfer import to_device
from . import distributions
from .arguments import Shape, count, integer, number, size_of
from .floats import FloatDraws
from .keys import register
from .weights import by_weight, choices, in_order, weights

__all__ = ["Generator"]

INTEGERS = ("int32", "int64", "int16", "int8", "uint8", "uint16", "uint32", "uint64")


class Generator(FloatDraws):
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
    Bits, uniform numbers, integers, permutations, Bernoulli and exponential numbers, and what is chosen, are
    identical on every backend, in a compiled function and outside of one, but for subnormal numbers, which some
    frameworks flush to 0. float32 normals, truncated ones included, agree to 4 units in the last place of a
    number of mean 0.

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

    def choice(self, a: Any, shape: Shape, /, *, replace: bool = True, p: Any = None) -> Any:
        """Draw from the integers below `a`, or from the items of an array along its first axis.

        Parameters
        ----------
        a : int or array, shape (n, ...)
            How many integers there are to draw from, or what to draw from; on the generator's device.
        shape : int or tuple of int
            The shape of the result, before the axes of an item.
        replace : bool
            Whether the same can be drawn again. If not, items stand in the order in which they were drawn.
        p : array or list of float, shape (n,), or None
            The probability of each, rounded to a multiple of 2**-30; None: all are equally likely. Lists and NumPy
            arrays are checked, and moved where the device needs it. What lies on another backend's device is not
            read: there it must be known to be right, and without replacement what is improbable comes last.

        Returns
        -------
        array
            New, on the generator's device: int32, or the dtype of `a`.

        Raises
        ------
        RandomError
            If there is nothing to draw from, less than the result needs without replacement, or `p` is not made of
            `n` probabilities.
        DeviceMismatchError
            If `a` or `p` is on another device.

        Examples
        --------
        >>> import numpy as np
        >>> import xdev.random
        >>> rng = xdev.random.Generator(0, "numpy")
        >>> sorted(rng.choice(3, 3, replace=False).tolist())
        [0, 1, 2]
        >>> rng.choice(np.asarray([[1.5, 2.5], [3.5, 4.5]]), 4, p=[0.0, 1.0]).shape
        (4, 2)
        """
        dims, size = size_of(shape)
        n, items = choices(a, self.device)
        if n == 0 and size:
            raise RandomError(f"choice got nothing to draw from, and shape {dims}; pass at least one item")
        if not replace and size > n:
            raise RandomError(f"choice got shape {dims}, {size} of {n} items; draw fewer or pass replace=True")
        if p is not None:
            drawn = self._weighted(*weights(p, n, self.device, 1 if replace else size), n, size, replace)
        elif replace:
            drawn = self._draw(size, distributions.integers, 0, max(n, 1), "int32", dtype="int32")
        else:
            drawn = self.permutation(n)[:size]
        xp = namespace(drawn)
        with self.device.scope():
            if items is None:
                return xp.reshape(drawn, dims)
            xp = namespace(items, drawn)
            if size == 0:  # a framework may forget the device of what it takes nothing from
                return xp.empty((*dims, *items.shape[1:]), dtype=items.dtype)
            return xp.reshape(xp.take(items, drawn, axis=0), (*dims, *items.shape[1:]))

    def _weighted(self, counts: Any, total: int | None, n: int, size: int, replace: bool) -> Any:
        """Draw places with probabilities in proportion to integers, in steps that are exact on every backend."""
        if replace:
            words = self._draw(size, distributions.words32, dtype="int32")
        else:
            words = self._draw(n, distributions.exponential32, dtype="float32")
        with self.device.scope():
            xp = namespace(words)
            counts = counts if total is None else self._beside(xp, counts)
            return by_weight(xp, counts, total, words) if replace else in_order(xp, counts, words)[:size]

    def _beside(self, xp: Any, counts: Any) -> Any:
        """Bring counts from the host to where words are: by a crossing, or as a constant of what is traced."""
        return to_device(counts, self.device) if xp is self.device.xp else xp.asarray(counts)


register(Generator)
