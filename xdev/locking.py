"""Arrays of the caller that backward needs: nobody writes to them meanwhile, where their framework can refuse it.

Requirements: nothing of the caller's stays locked, whatever raises. An array that was read-only before stays so. Of
two differentiations that lock one array, the first that ends opens it again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .contract import Backend
from .errors import GradientError
from .registry import find_backend

__all__ = ["Locks", "refusal"]

_memory_of: dict[type, Any] = {}
"""By type of array, what returns the NumPy array that is written to, or None."""
_waiting: list[Any] = []
"""Views whose memory another differentiation still locks; they are tried again at the end of each."""


class Locks:
    """The arrays that one differentiation has locked; they are released when it says so, or is gone."""

    __slots__ = ("_locked",)

    def __init__(self) -> None:
        self._locked: list[Any] = []

    def add(self, x: Any) -> None:
        """Lock an array; anything else, and what its framework cannot lock, passes."""
        kind = type(x)
        if kind not in _memory_of:
            backend = find_backend(x)
            has = backend is not None and type(backend).written_memory is not Backend.written_memory
            _memory_of[kind] = backend.written_memory if has else None  # type: ignore[union-attr]  # has says so
        memory_of = _memory_of[kind]
        memory = None if memory_of is None else memory_of(x)
        if memory is None or not memory.flags.writeable:
            return
        base = memory.base
        if base is None or (type(base) is np.ndarray and base.base is None):  # others could not be opened again
            memory.flags.writeable = False
            self._locked.append(memory)

    def release(self) -> None:
        """Let all be written to again."""
        if self._locked:
            waiting = [*self._locked, *_waiting]
            self._locked.clear()
            _waiting.clear()
            count = 0
            while len(waiting) != count:  # a view opens after the array that it shares memory with
                count = len(waiting)
                waiting = [memory for memory in waiting if not _opens(memory)]
            _waiting.extend(waiting)

    __del__ = release

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.release()


def _opens(memory: Any) -> bool:
    try:
        memory.flags.writeable = True
    except ValueError:
        return False
    return True


def refusal(error: Exception) -> GradientError | None:
    """Return what an error is told as that comes of a locked array; None for any other."""
    if not isinstance(error, ValueError) or "read-only" not in str(error):
        return None
    return GradientError(
        f"an array was written to that backward needs, or that was read-only before ({error}). Write to a copy, or "
        "make a new array: x = xdev.at(x)[index].set(value)"
    )
