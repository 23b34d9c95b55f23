"""Words to numbers: each function fills the range `start` to `stop` of one draw, whatever lies outside of it.

Requirements: an element depends on the key and its own place alone, so that a draw may be computed in blocks,
in any order. Integer arithmetic is exact in int32; floating-point results up to and including the uniform
ones are made by exact operations. Functions take (xp, key, start, stop, *static), the static ones hashable.
"""

from __future__ import annotations

import math
from typing import Any

from .threefry import Key, counted, signed

__all__ = [
    "PRECISION",
    "integers",
    "less",
    "normal32",
    "normal64",
    "permutation",
    "uniform32",
    "uniform64",
    "words32",
]

PRECISION = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}
"""Bits of a float dtype's significand, and of a uniform number."""

_LOWEST = -(2**31)


def words32(xp: Any, key: Key, start: int, stop: int) -> Any:
    """Return one word per element, as int32."""
    x0, x1 = counted(xp, key, start, stop)
    x0 ^= x1
    return x0


def _top(words: Any, bits: int) -> Any:
    """Return the highest bits of words as numbers from 0."""
    words >>= 32 - bits
    words &= (1 << bits) - 1
    return words


def uniform32(xp: Any, key: Key, start: int, stop: int, bits: int) -> Any:
    """Return float32 multiples of 2**-bits on [0, 1)."""
    return xp.astype(_top(words32(xp, key, start, stop), bits), xp.float32) * 2.0**-bits


def uniform64(xp: Any, key: Key, start: int, stop: int, stream: int = 0) -> Any:
    """Return float64 multiples of 2**-53 on [0, 1)."""
    x0, x1 = counted(xp, key, start, stop, stream)
    return xp.astype(_top(x0, 27), xp.float64) * 2.0**-27 + xp.astype(_top(x1, 26), xp.float64) * 2.0**-53


# Polynomials, highest power first, fitted by reweighted least squares in float64:
# log(m) in m - 3/4 on [1/2, 1], absolute error 3e-8;
_LOG = (
    -1.6127866101737247,
    1.3112176149679131,
    -0.9129027593356077,
    0.8309537207085463,
    -0.7907394777544262,
    0.790334038746158,
    -0.8888831532288138,
    1.3333323319182884,
    -0.287682081297176,
)
# √2 erfinv(x) / x in w - 5/2 with w = -log(1 - x²) below 5, relative error 6e-9;
_CENTRAL = (
    -1.243237356988539e-08,
    3.2855890256742004e-08,
    6.592640786971233e-07,
    -4.897003658851988e-06,
    -7.019230209165148e-06,
    0.00030878566608582387,
    -0.00177164456075857,
    -0.005907717039383572,
    0.3488020377085169,
    2.1233134785708883,
)
# the same in √w - 3 from there to |x| = 1 - 2**-31, relative error 9e-8.
_TAIL = (
    6.420435651650345e-05,
    -0.00025541234190444573,
    -1.3643652408810777e-05,
    0.00186143550128026,
    -0.005078928700265874,
    0.008145742384879756,
    -0.01080939867776682,
    0.013342508854770055,
    1.416582902675891,
    4.006434573556967,
)


def _polynomial(v: Any, coefficients: tuple[float, ...]) -> Any:
    value = v * coefficients[0]
    for coefficient in coefficients[1:-1]:
        value += coefficient
        value *= v
    value += coefficients[-1]
    return value


def normal32(xp: Any, key: Key, start: int, stop: int) -> Any:
    """Return standard normal float32 numbers by inversion, from all bits of a word, up to 6.2 deviations.

    The logarithms of frameworks differ by some units in the last place. Here theirs only find the binary
    exponent, where a neighbouring one does as well; the rest are operations that all of them round alike.
    """
    word = words32(xp, key, start, stop)
    word |= 1  # odd: x = word / 2**31 is neither 0 nor ±1
    x = xp.astype(word, xp.float32)
    word = xp.abs(word)
    word ^= 0x7FFFFFFE  # 2**31 - |word|, so that 1 - |x| has its full precision in the tails
    rest = xp.astype(word, xp.float32)
    square = xp.abs(x)
    square *= 2.0**-62
    square += 2.0**-31
    square *= rest  # 1 - x² = (1 - |x|)(1 + |x|)
    exponent = xp.astype(xp.log(square) * (-1.0 / math.log(2.0)), xp.int32)
    square *= xp.astype(xp.ones_like(exponent) << exponent, xp.float32)
    square -= 0.75
    w = xp.astype(exponent, xp.float32)
    w *= math.log(2.0)
    w -= _polynomial(square, _LOG)
    value = xp.where(w < 5.0, _polynomial(w - 2.5, _CENTRAL), _polynomial(xp.sqrt(w) - 3.0, _TAIL))
    x *= 2.0**-31
    value *= x
    return value


def normal64(xp: Any, key: Key, start: int, stop: int) -> Any:
    """Return standard normal float64 numbers by the method of Box and Muller, up to 8.5 deviations."""
    radius = uniform64(xp, key, start, stop)
    radius += 2.0**-53  # on (0, 1], exactly
    angle = uniform64(xp, key, start, stop, 1)
    return xp.sqrt(xp.log(radius) * -2.0) * xp.cos(angle * (2.0 * math.pi))


def _multiply_high(words: Any, n: int) -> Any:
    """Return the high word of the 64-bit products of words and `n`, in 16-bit limbs."""
    high, low = (words >> 16) & 0xFFFF, words & 0xFFFF
    n_high, n_low = n >> 16, n & 0xFFFF
    carried = high * n_low + (((low * n_low) >> 16) & 0xFFFF)
    middle = low * n_high + (carried & 0xFFFF)
    return high * n_high + ((carried >> 16) & 0xFFFF) + ((middle >> 16) & 0xFFFF)


def below(xp: Any, key: Key, start: int, stop: int, n: int) -> Any:
    """Return words from 0 to `n` - 1 <= 2**32 - 1: the integer part of `n` times a 64-bit fraction."""
    x0, x1 = counted(xp, key, start, stop)
    if n == 2**32:
        return x0
    whole = _multiply_high(x0, n)
    rest = x0 * signed(n)
    total = rest + _multiply_high(x1, n)
    carry = (total ^ _LOWEST) < (rest ^ _LOWEST)  # an unsigned comparison
    return whole + xp.astype(carry, xp.int32)


def less(xp: Any, key: Key, start: int, stop: int, threshold: int) -> Any:
    """Return whether words are below a threshold from 0 to 2**32."""
    ordered = words32(xp, key, start, stop) ^ _LOWEST  # unsigned order
    return ordered <= 2**31 - 1 if threshold == 2**32 else ordered < threshold - 2**31


def integers(xp: Any, key: Key, start: int, stop: int, low: int, n: int, dtype: str) -> Any:
    """Return integers from `low` to `low` + `n` - 1; up to 32 bits modulo 2**32, so that a cast ends it."""
    offset = below(xp, key, start, stop, n)
    if dtype in ("int64", "uint64"):
        return (xp.astype(offset, xp.int64) & 0xFFFFFFFF) + low
    return offset + signed(low)


def permutation(xp: Any, key: Key, start: int, stop: int, wide: bool) -> Any:
    """Return the order that sorts the elements by their two words; `wide` says that there are 64-bit integers."""
    x0, x1 = counted(xp, key, start, stop)
    order = _order(xp, x1, wide)
    return xp.take(order, _order(xp, xp.take(x0, order), wide))


def _order(xp: Any, words: Any, wide: bool) -> Any:
    """Return the stable order of words; sorting them with their places behind them is faster than `argsort`."""
    if not wide:
        return xp.argsort(words, stable=True)
    places = xp.arange(words.shape[0], dtype=xp.int64)
    return xp.sort((xp.astype(words, xp.int64) << 32) | places, stable=False) & 0x7FFFFFFF
