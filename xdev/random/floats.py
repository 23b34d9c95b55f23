"""Draws of floating-point numbers: uniform, normal, truncated normal, exponential.

Requirements: as those of `draws`.
"""

from __future__ import annotations

import math
from typing import Any

from ..errors import RandomError
from . import distributions
from .arguments import Shape, number
from .distributions import PRECISION
from .draws import LARGEST, Draws, above, below, check_reach

__all__ = ["FloatDraws"]

COARSE = 2.0**-17
"""Probability of an interval below which float32 numbers of a truncated normal distribution have visible gaps."""

NORMAL_32, NORMAL_64 = 6.24, 8.6
"""Standard deviations that no normal number passes; those of narrower dtypes are float32 ones."""

EXPONENTIAL_32, EXPONENTIAL_64 = 21.5, 36.8
"""Means that no exponential number passes."""


class FloatDraws(Draws):
    """The draws of floating-point numbers; a base of `Generator`."""

    __slots__ = ()

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
            If `low` is not below `high`, the dtype does not hold both, or the shape is not made of non-negative
            integers.
        DTypeError
            If the dtype is not floating, or the device cannot hold it.

        Examples
        --------
        >>> import xdev.random
        >>> xdev.random.Generator(0, "numpy").uniform(2)
        array([0.8423142 , 0.18237865], dtype=float32)
        """
        low, high = number(low, "low"), number(high, "high")
        if not low < high or math.isinf(low) or math.isinf(high):
            raise RandomError(f"uniform got low={low} and high={high}, expected finite numbers with low < high")
        name = self._float(dtype, "uniform")
        check_reach(f"uniform got low={low} and high={high}", max(-low, high), name)
        largest = below(high, name)
        if largest < low:
            raise RandomError(f"uniform got low={low} and high={high}, between which there is no {name}; widen them")
        if name == "float64":
            made = self._draw(shape, distributions.uniform64, dtype=name)
        else:
            made = self._draw(shape, distributions.uniform32, PRECISION[name], dtype=name)
        if (low, high) == (0.0, 1.0):
            return made
        if high - low > LARGEST["float64" if name == "float64" else "float32"]:
            return self._scaled(made, high / 2 - low / 2, low / 2, largest=largest / 2, doubled=True)
        return self._scaled(made, high - low, low, largest=largest)

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
            If `std` is negative, the dtype does not hold what may be drawn, or the shape is not made of non-negative
            integers.
        DTypeError
            If the dtype is not floating, or the device cannot hold it.

        Examples
        --------
        >>> import xdev.random
        >>> xdev.random.Generator(0, "numpy").normal((2, 3)).shape
        (2, 3)
        """
        mean, std = number(mean, "mean"), number(std, "std")
        if not 0 <= std < float("inf") or not math.isfinite(mean):
            raise RandomError(f"normal got mean={mean} and std={std}, expected finite numbers with std >= 0")
        name = self._float(dtype, "normal")
        reach = NORMAL_64 if name == "float64" else NORMAL_32
        check_reach(f"normal got mean={mean} and std={std}", abs(mean) + reach * std, name)
        kernel = distributions.normal64 if name == "float64" else distributions.normal32
        made = self._draw(shape, kernel, dtype=name)
        return made if (mean, std) == (0.0, 1.0) else self._scaled(made, std, mean)

    def truncated_normal(
        self,
        shape: Shape,
        /,
        *,
        low: float = -2.0,
        high: float = 2.0,
        mean: float = 0.0,
        std: float = 1.0,
        dtype: Any = None,
    ) -> Any:
        """Draw normal numbers that lie between two bounds, by inversion: one word, or two, for each.

        Parameters
        ----------
        shape : int or tuple of int
            The shape of the result.
        low, high : float
            The bounds, in standard deviations from the mean; either may be infinite.
        mean, std : float
            The mean and the standard deviation of the normal distribution that is truncated.
        dtype : dtype, str or None
            A floating dtype; None is float32, or what `xdev.precision` says.

        Returns
        -------
        array
            New, on the generator's device, from `mean + low * std` to `mean + high * std`.

        Raises
        ------
        RandomError
            If `low` is not below `high`, the interval is so improbable that the dtype would show gaps in it, `std`
            is negative, the dtype does not hold what may be drawn, or the shape is not made of non-negative integers.
        DTypeError
            If the dtype is not floating, or the device cannot hold it.

        Examples
        --------
        >>> import xdev.random
        >>> x = xdev.random.Generator(0, "numpy").truncated_normal(1000, std=0.02)
        >>> bool(abs(x).max() <= 0.04)
        True
        """
        low, high = number(low, "low"), number(high, "high")
        mean, std = number(mean, "mean"), number(std, "std")
        if not low < high:
            raise RandomError(f"truncated_normal got low={low} and high={high}, expected low < high")
        if not 0 <= std < float("inf") or not math.isfinite(mean):
            raise RandomError(f"truncated_normal got mean={mean} and std={std}, expected finite numbers with std >= 0")
        name = self._float(dtype, "truncated_normal")
        # The lower tail has the more precise probabilities: what lies above is mirrored.
        sign, ends = (-1.0, (-high, -low)) if low + high > 0 else (1.0, (low, high))
        first, last = (math.erfc(-end / math.sqrt(2.0)) / 2.0 for end in ends)
        if name == "float64":
            coarse, remedy = last * 2.0**-38, "or shift the interval to the centre"
        else:
            coarse, remedy = COARSE, "or pass dtype='float64'"
        if not last - first > coarse:
            raise RandomError(
                f"truncated_normal got low={low} and high={high}, between which a normal number lies with probability "
                f"{last - first:.1e}: too few {name} numbers are made there; widen the interval, {remedy}"
            )
        # A tail falls faster than exp(-x**2 / 2), and 2**-54 of its probability is the least that is drawn.
        tail = math.sqrt(min(ends[1], 0.0) ** 2 + 75.0) if name == "float64" else NORMAL_32
        reach = abs(mean) + std * min(max(abs(low), abs(high)), tail)
        check_reach(f"truncated_normal got mean={mean} and std={std}", reach, name)
        limits = (above(low, name), below(high, name, closed=True))
        if name == "float64":
            made = self._draw(shape, distributions.truncated64, first, last - first, *limits, sign, dtype=name)
        else:
            words = distributions.odd_words(*ends)
            made = self._draw(shape, distributions.truncated32, *words, *limits, sign, dtype=name)
        if (mean, std) == (0.0, 1.0):
            return made
        if std:
            limits = (above(mean + std * low, name), below(mean + std * high, name, closed=True))
            return self._scaled(made, std, mean, *limits)
        return self._scaled(made, std, mean)

    def exponential(self, shape: Shape, /, *, scale: float = 1.0, dtype: Any = None) -> Any:
        """Draw exponential numbers: waiting times for events that come at random.

        Parameters
        ----------
        shape : int or tuple of int
            The shape of the result.
        scale : float
            The mean, which is the reciprocal of the rate.
        dtype : dtype, str or None
            A floating dtype; None is float32, or what `xdev.precision` says.

        Returns
        -------
        array
            New, on the generator's device. float32 numbers reach 21.5 times the scale, float64 ones 36.7 times;
            they are different numbers.

        Raises
        ------
        RandomError
            If `scale` is not a positive number, the dtype does not hold what may be drawn, or the shape is not made of
            non-negative integers.
        DTypeError
            If the dtype is not floating, or the device cannot hold it.

        Examples
        --------
        >>> import xdev.random
        >>> float(xdev.random.Generator(0, "numpy").exponential(10_000, scale=3.0).mean().round(1))
        3.0
        """
        scale = number(scale, "scale")
        if not 0 < scale < float("inf"):
            raise RandomError(f"exponential got scale={scale}, expected a positive number, the mean")
        name = self._float(dtype, "exponential")
        reach = EXPONENTIAL_64 if name == "float64" else EXPONENTIAL_32
        check_reach(f"exponential got scale={scale}", reach * scale, name)
        kernel = distributions.exponential64 if name == "float64" else distributions.exponential32
        made = self._draw(shape, kernel, dtype=name)
        return made if scale == 1.0 else self._scaled(made, scale, 0.0)
