"""The functions that kernels and optimizers are made of; who records them gives another module of these names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import (
    absolute,
    add,
    arange,
    array,
    ascontiguousarray,
    concatenate,
    copysign,
    copyto,
    divide,
    equal,
    exp,
    full,
    greater,
    isneginf,
    log,
    matmul,
    maximum,
    minimum,
    multiply,
    put,
    reciprocal,
    reshape,
    sqrt,
    subtract,
    take,
    tanh,
    triu,
    where,
    zeros,
)

from .buffers import empty

__all__ = [
    "absolute", "add", "arange", "array", "ascontiguousarray", "cast", "concatenate", "copysign", "copyto", "divide",
    "empty", "equal", "exp", "full", "greater", "isneginf", "joined", "log", "matmul", "maximum", "minimum",
    "multiply", "numbers", "put", "reciprocal", "reshape", "shift_rows", "sqrt", "subtract", "take", "tanh", "triu",
    "where", "zeros",
]  # fmt: skip


def cast(x: Any, dtype: Any) -> Any:
    """Return an array in a dtype; the same one if it has it."""
    return x if x.dtype == dtype else x.astype(dtype)


def numbers(function: Any, *args: Any) -> Any:
    """Call a function that looks at values, and returns an array."""
    return function(*args)


SAFE = 60.0
"""Scores within this bound need no shift: their exponentials, and the sums of these, are finite and normal."""


def shift_rows(s: Any, added: Any, bounded: bool) -> Any:
    """Add to scores in place, and shift their rows so that exponentials neither overflow nor vanish.

    `bounded` says that what is added does not raise them; most scores then need no row maximum, which takes long.
    """
    safe = bounded and s.size and np.minimum.reduce(s, axis=None) > -SAFE and np.maximum.reduce(s, axis=None) < SAFE
    if added is not None:
        np.add(s, added, out=s)
    if not safe:
        largest = np.maximum.reduce(s, axis=-1, keepdims=True, initial=-np.inf)
        np.copyto(largest, 0.0, where=np.isneginf(largest))
        np.subtract(s, largest, out=s)
    return s


def joined(arrays: Any) -> Any:
    """Return the flat array of which arrays are all the parts, one after another; None if they are not."""
    base = arrays[0].base
    if type(base) is not np.ndarray or base.ndim != 1 or len(arrays) < 2:
        return None
    begin = start = arrays[0].__array_interface__["data"][0]
    for x in arrays:
        if x.base is not base or x.__array_interface__["data"][0] != start or not x.flags.c_contiguous:
            return None
        start += x.nbytes
    offset = begin - base.__array_interface__["data"][0]
    return base[offset // base.itemsize : (offset + start - begin) // base.itemsize]
