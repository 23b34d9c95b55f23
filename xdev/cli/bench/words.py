"""Durations and sizes in words, short enough for the columns of a table."""

from __future__ import annotations

import math

from ...errors import ConfigurationError

__all__ = ["about", "duration", "figure", "in_unit", "joined", "parse_sizes", "size", "unit_of"]

UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
MULTIPLES = (("G", 10**9), ("M", 10**6), ("k", 10**3))
COUNTED = 10_000
"""Sizes up to this are written out."""


def unit_of(seconds: float) -> tuple[str, float]:
    """Return the unit that suits a duration, and its seconds."""
    return next((unit for unit in UNITS if seconds >= unit[1]), UNITS[-1])


def figure(value: float) -> str:
    """Return a positive number with three significant digits and no exponent."""
    if not math.isfinite(value):
        return "–"
    value = float(f"{value:.3g}")
    digits = 2 if value <= 0 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{min(digits, 3)}f}"


def in_unit(seconds: float, unit: tuple[str, float]) -> str:
    """Return a duration as a number of that unit."""
    return figure(seconds / unit[1])


def duration(seconds: float) -> str:
    """Return a duration with its unit."""
    unit = unit_of(seconds)
    return f"{in_unit(seconds, unit)} {unit[0]}"


def size(count: float) -> str:
    """Return a size; large ones with three significant digits, and as thousands, millions or thousands of millions."""
    for word, one in MULTIPLES:
        if count >= max(one, COUNTED):
            return f"{count / one:.3g}{word}"
    return f"{count:.0f}"


def about(count: float) -> str:
    """Return a size; one that was interpolated, and is no int, with two significant digits."""
    return size(count if isinstance(count, int) else float(f"{count:.2g}"))


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return the sizes that a list such as "64,256,4k,1M" names, smallest first.

    Raises
    ------
    ConfigurationError
        If a word is no positive integer.
    """
    found = set()
    for word in filter(None, (each.strip() for each in text.split(","))):
        factor = next((one for letter, one in MULTIPLES if word.endswith(letter)), 1)
        digits = word[:-1] if factor > 1 else word
        if not digits.isascii() or not digits.isdigit() or int(digits) == 0:
            raise ConfigurationError(f"--sizes: {word!r} is no size; give positive integers such as 64,256,4k,1M")
        found.add(int(digits) * factor)
    if not found:
        raise ConfigurationError("--sizes is empty; give positive integers such as 64,256,4k,1M")
    return tuple(sorted(found))


def joined(words: list[str]) -> str:
    """Return words as a list in a sentence."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1] if words else "")))
