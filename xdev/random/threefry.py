"""Threefry-2x32 with 20 rounds: two key words and two counter words in, two random words out.

Requirements: one formulation for every backend, so that the words are the same everywhere. Arrays hold the
words as int32, which every framework adds, shifts and wraps around, where unsigned arithmetic is missing in
some; a shift to the right is masked, because it copies the sign. Augmented operators work in place where
arrays are mutable. Words on the host are Python ints from 0 to 2**32 - 1.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SEGMENT", "Key", "arrays", "counted", "signed", "words"]

Key = tuple[Any, Any]
"""Two words: Python ints, or int32 arrays of shape (1,) where the key is known to the device alone."""

SEGMENT = 2**31
"""Counters are made for a range that does not cross a multiple of this."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_MASK = 0xFFFFFFFF


def signed(word: int) -> int:
    """Return the int32 with the bits of a word."""
    return ((word + 2**31) & _MASK) - 2**31


def words(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Return the two output words for one counter, in Python ints."""
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = (counter[0] + k0) & _MASK, (counter[1] + k1) & _MASK
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = (x0 + x1) & _MASK
            x1 = (((x1 << rotation) & _MASK) | (x1 >> (32 - rotation))) ^ x0
        x0 = (x0 + schedule[(group + 1) % 3]) & _MASK
        x1 = (x1 + schedule[(group + 2) % 3] + group + 1) & _MASK
    return x0, x1


def arrays(key: Key, high: Any, low: Any) -> tuple[Any, Any]:
    """Return the two output words for counters: `low` an int32 array, `high` the same or one Python int."""
    k0, k1 = key
    if isinstance(k0, int):
        k0, k1 = signed(k0), signed(k1)
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x1 = low + k1
    x0 = _plus(k0, high) + x1  # the first round's addition
    for group in range(5):
        for step, rotation in enumerate(_ROTATIONS[group % 2]):
            if group or step:
                x0 += x1
            left = x1 << rotation
            x1 >>= 32 - rotation
            x1 &= (1 << rotation) - 1
            x1 |= left
            x1 ^= x0
        x0 += schedule[(group + 1) % 3]
        x1 += _plus(schedule[(group + 2) % 3], group + 1)
    return x0, x1


def _plus(a: Any, b: Any) -> Any:
    if isinstance(a, int):
        return signed(a + b) if isinstance(b, int) else b + a
    return a + b


def counted(xp: Any, key: Key, start: int, stop: int, stream: int = 0) -> tuple[Any, Any]:
    """Return the output words for the 64-bit counters from `start` to `stop`, within one segment.

    Streams 0 and 1 never share a counter: the second sets the highest bit.
    """
    high = (start >> 32) + (stream << 31)
    first = signed(start)
    low = xp.arange(first, first + stop - start, dtype=xp.int32)
    return arrays(key, signed(high), low)
