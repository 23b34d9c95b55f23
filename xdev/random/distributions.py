"""Words to numbers: each function fills the range `start` to `stop` of one draw, whatever lies outside of it.

Requirements: an element depends on the key and its own place alone, so that a draw may be computed in blocks,
in any order. Integer arithmetic is exact in int32; floating-point results up to and including the uniform
ones are made by exact operations. Functions take (xp, key, start, stop, *static), the static ones hashable.
"""

from __future__ import annotations

import math
from typing import Any

from .inversion import apart, deviate, minus_log32, minus_log64, quantile
from .threefry import Key, counted, signed

__all__ = [
    "PRECISION",
    "exponential32",
    "exponential64",
    "integers",
    "less",
    "multiply_high",
    "normal32",
    "normal64",
    "odd_words",
    "permutation",
    "truncated32",
    "truncated64",
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


def normal32(xp: Any, key: Key, start: int, stop: int) -> Any:
    """Return standard normal float32 numbers by inversion, from all bits of a word, up to 6.2 deviations."""
    word = words32(xp, key, start, stop)
    word |= 1  # odd: word / 2**31 is neither 0 nor ±1
    return deviate(xp, word)


def odd_words(low: float, high: float) -> tuple[int, int]:
    """Return the first odd word whose `deviate` is not below `low`, and how many there are up to `high`."""
    first, last = (2**31 * math.erf(end / math.sqrt(2.0)) for end in (low, high))
    from_word = max(math.ceil(first) | 1, 1 - 2**31)
    to_word = min((math.floor(last) - 1) | 1, 2**31 - 1)
    return from_word, (to_word - from_word) // 2 + 1


def truncated32(
    xp: Any, key: Key, start: int, stop: int, first: int, n: int, low: float, high: float, sign: float
) -> Any:
    """Return float32 numbers from `low` to `high`, of `n` odd words from `first` on as `normal32` makes them."""
    word = below(xp, key, start, stop, n)
    word <<= 1
    word += first
    value = deviate(xp, word)
    value *= sign
    return xp.minimum(xp.maximum(value, low), high)


def normal64(xp: Any, key: Key, start: int, stop: int) -> Any:
    """Return standard normal float64 numbers by the method of Box and Muller, up to 8.5 deviations."""
    radius = uniform64(xp, key, start, stop)
    radius += 2.0**-53  # on (0, 1], exactly
    angle = uniform64(xp, key, start, stop, 1)
    return xp.sqrt(xp.log(radius) * -2.0) * xp.cos(angle * (2.0 * math.pi))


def truncated64(
    xp: Any, key: Key, start: int, stop: int, first: float, n: float, low: float, high: float, sign: float
) -> Any:
    """Return float64 numbers from `low` to `high`, by inversion of probabilities from `first` to `first` + `n`."""
    p = uniform64(xp, key, start, stop)
    p += 2.0**-54
    p = apart(xp, p * n)
    p += first
    value = quantile(xp, xp.minimum(p, 1.0 - 2.0**-53))
    value *= sign
    return xp.minimum(xp.maximum(value, low), high)


def exponential32(xp: Any, key: Key, start: int, stop: int) -> Any:
    """Return exponential float32 numbers of mean 1 by inversion, from 4.7e-10 to 21.5; the same everywhere."""
    word = words32(xp, key, start, stop)
    word &= 0x7FFFFFFF
    word |= 1  # odd: neither word / 2**31 nor what it lacks of 1 is 0
    lost = xp.astype(word, xp.float32) * 2.0**-31
    word ^= 0x7FFFFFFE  # 2**31 - word
    return minus_log32(xp, xp.astype(word, xp.float32) * 2.0**-31, lost)


def exponential64(xp: Any, key: Key, start: int, stop: int) -> Any:
    """Return exponential float64 numbers of mean 1 by inversion, from 0 to 36.7; the same everywhere."""
    lost = uniform64(xp, key, start, stop)
    return minus_log64(xp, 1.0 - lost, lost)


def multiply_high(words: Any, n: int) -> Any:
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
    whole = multiply_high(x0, n)
    rest = x0 * signed(n)
    total = rest + multiply_high(x1, n)
    carry = (total ^ _LOWEST) < (rest ^ _LOWEST)  # an unsigned comparison
    return whole + xp.astype(carry, xp.int32)


def less(xp: Any, key: Key, start: int, stop: int, threshold: int) -> Any:
    """Return whether words are below a threshold from 0 to 2**32."""
    ordered = words32(xp, key, start, stop) ^ _LOWEST  # unsigned order
    return ordered <= 2**31 - 1 if threshold == 2**32 else ordered < threshold - 2**31


def integers(xp: Any, key: Key, start: int, stop: int, low: int, n: int, dtype: str) -> Any:
    """Return integers from `low` to `low` + `n` - 1, modulo 2**32 or 2**64, so that a cast ends it."""
    offset = below(xp, key, start, stop, n)
    if dtype in ("int64", "uint64"):
        # Modulo 2**64 as well, for what of uint64 lies beyond int64.
        return (xp.astype(offset, xp.int64) & 0xFFFFFFFF) + ((low + 2**63) % 2**64 - 2**63)
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
