"""Memory for results that are made anew in every step: arrays that nobody holds any more are given out again.

Requirements: an array is given out only if this module alone holds a reference to it, so that no value, gradient or
view that a caller keeps is ever overwritten. Fresh memory of this size is mapped and page-faulted by the C library on
each call, which costs about as much as the work done in it. Each thread has its own shelf, of bounded size.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from typing import Any

import numpy as np

__all__ = ["COUNTS", "empty", "trim"]

SMALLEST = 32 * 1024
"""Bytes from which an array is kept; below, the C library keeps the memory itself."""
KEPT = 64 * 1024 * 1024
"""Bytes that a thread keeps at most; beyond, it starts anew."""
PER_KIND = 8
"""Arrays of one shape and dtype that are kept at most."""


class _Shelf(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[tuple[tuple[int, ...], Any], list[Any]] = {}
        self.nbytes = 0


_shelf = _Shelf()


def _unheld(row: list[Any], free: int) -> Any:
    """Return an array of the row to which there is no reference but the row's own, or None."""
    for x in row:
        if sys.getrefcount(x) == free:
            return x
    return None


def _count_of_unheld() -> int:
    """Return what `getrefcount` says in `_unheld` of an array that the row alone holds; interpreters differ."""
    row = [np.empty(1)]
    return next(count for count in range(1, 8) if _unheld(row, count) is not None)


_FREE = _count_of_unheld()
COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()  # without the lock, counts say nothing


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return an uninitialised array in C order that nobody else holds."""
    key = (shape, dtype)
    row = _shelf.arrays.get(key)
    if row is not None:
        found = _unheld(row, _FREE)
        if found is not None:
            return found
    x = np.empty(shape, dtype)
    if x.nbytes < SMALLEST or not COUNTS or (row is not None and len(row) >= PER_KIND) or x.nbytes > KEPT // 4:
        return x
    if _shelf.nbytes + x.nbytes > KEPT:
        _shelf.arrays.clear()
        _shelf.nbytes = 0
        row = None
    if row is None:
        row = _shelf.arrays.setdefault(key, [])
    row.append(x)
    _shelf.nbytes += x.nbytes
    return x


_give_back: Any = None
with contextlib.suppress(AttributeError, OSError, TypeError):  # glibc has it
    _give_back = ctypes.CDLL(None).malloc_trim


def trim() -> None:
    """Let go of all memory that this thread keeps, and have the C library give back what is free."""
    _shelf.arrays.clear()
    _shelf.nbytes = 0
    if _give_back is not None:
        _give_back(0)
