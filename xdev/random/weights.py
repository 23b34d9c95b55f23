"""What `Generator.choice` draws from: the items, and their weights as integers.

Requirements: from the same probabilities the same integers are made on every backend, by a product with a power
of two and one rounding; all that follows compares integers, or float32 numbers that are the same everywhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..contract import dtype_name
from ..device import Device, device_of_array, native_of
from ..device import namespace as namespace_of
from ..errors import DeviceMismatchError, RandomError
from .arguments import count
from .distributions import PRECISION, multiply_high

__all__ = ["by_weight", "choices", "in_order", "weights"]

WHOLE = 2.0**30
"""What a probability of 1 becomes."""


def choices(a: Any, device: Device) -> tuple[int, Any]:
    """Return how many items there are, and the array that has them, or None for integers."""
    if isinstance(a, int | np.integer):
        return count(a, "choice"), None
    shape = getattr(a, "shape", None)
    if not isinstance(shape, tuple):
        raise RandomError(
            f"choice got a {type(a).__name__} to draw from, expected an integer or an array: "
            "rng.choice(10, 3), or rng.choice(xdev.asarray(items, device=rng.device), 3)"
        )
    if not shape:
        raise RandomError("choice got an array without axes, expected an integer or an array of items along an axis")
    _check_device(a, device, "an array")
    return int(shape[0]), a


def _check_device(x: Any, device: Device, what: str) -> None:
    owned = native_of(x)
    there = None if owned is None else device_of_array(*owned)
    if there is not None and there is not device:
        raise DeviceMismatchError(
            f"choice got {what} on {there}, expected the generator's device, {device}; write "
            f'xdev.to_device(x, "{device}")'
        )


def weights(p: Any, n: int, device: Device, needed: int) -> tuple[Any, int | None]:
    """Return probabilities as int32 counts of 2**-30, and their sum where the host knows it."""
    if not isinstance(p, list | tuple | np.ndarray):
        shape = getattr(p, "shape", None)
        if shape is None:
            raise RandomError(f"p of choice is a {type(p).__name__}, expected {n} probabilities, or None")
        _check_shape(tuple(shape), n)
        _check_device(p, device, "p")
        xp = namespace_of(p)
        with device.scope():
            if (name := dtype_name(p.dtype)) not in PRECISION:
                raise RandomError(f"p of choice has dtype {name}, expected a floating one: probabilities")
            wide = p if p.dtype in (xp.float32, getattr(xp, "float64", None)) else xp.astype(p, xp.float32)
            return xp.astype(xp.round(wide * WHOLE), xp.int32), None
    try:
        host = np.asarray(p)
    except ValueError:  # a ragged list
        host = np.asarray(None)
    if host.dtype.kind in "iub":
        host = host.astype(np.float64)
    if host.dtype.kind != "f" and host.dtype.name != "bfloat16":
        raise RandomError(f"p of choice is a {type(p).__name__} of {host.dtype}, expected {n} probabilities")
    _check_shape(host.shape, n)
    # The sum of rounded probabilities is as far from 1 as numpy.random allows.
    tolerance = math.sqrt(float(np.finfo(host.dtype).eps)) if host.dtype.kind == "f" else 0.1
    wide = host if host.dtype.itemsize > 2 else host.astype(np.float32)
    if wide.size and not float(wide.min()) >= 0:
        place = int(np.argmax(~(wide >= 0)))
        raise RandomError(f"p of choice has {wide[place]} at place {place}, expected probabilities from 0 to 1")
    total = float(np.sum(wide, dtype=np.float64))
    if not abs(total - 1.0) <= tolerance:
        raise RandomError(f"p of choice has the sum {total:.6g}, expected 1; divide it by its sum: p / p.sum()")
    counts = np.round(wide * wide.dtype.type(WHOLE)).astype(np.int32)
    possible = int(np.count_nonzero(counts))
    if possible < needed:
        raise RandomError(
            f"choice got {possible} probabilities that are not 0 in units of 2**-30, fewer than the {needed} that it "
            "draws without replacement; draw fewer or pass replace=True"
        )
    return counts, int(counts.sum(dtype=np.int64))


def _check_shape(shape: tuple[int, ...], n: int) -> None:
    if shape != (n,):
        raise RandomError(f"p of choice has shape {shape}, expected ({n},), a probability for each item")


def by_weight(xp: Any, counts: Any, total: int | None, words: Any) -> Any:
    """Return the place of each word in the running sum of counts, as int32."""
    ends = xp.cumulative_sum(counts, dtype=xp.int32)
    places = multiply_high(words, ends[-1:] if total is None else total)
    found = xp.astype(xp.searchsorted(ends, places, side="right"), xp.int32)
    return found if total is not None else xp.minimum(found, counts.shape[0] - 1)


def in_order(xp: Any, counts: Any, waits: Any) -> Any:
    """Return the order of events at rates in proportion to counts, whose waiting times at rate 1 are given.

    References
    ----------
    P. S. Efraimidis and P. G. Spirakis, "Weighted random sampling with a reservoir", Information Processing
    Letters 97 (2006), 181-185.
    """
    rates = xp.astype(counts, xp.float32)
    times = xp.where(counts > 0, waits / xp.maximum(rates, 1.0), xp.full_like(waits, math.inf))
    return xp.astype(xp.argsort(times, stable=True), xp.int32)
