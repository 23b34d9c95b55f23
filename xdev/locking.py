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
        if base is None or (type(base) is np.ndarray and base.base is None):  # others could not be released again
            memory.setflags(write=False)
            self._locked.append(memory)

    def release(self) -> None:
        """Let all be written to again."""
        if self._locked:
            locked, self._locked = self._locked, []
            waiting = _released(locked)
            if waiting or _waiting:
                _try_again(waiting)

    __del__ = release

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.release()


def _released(locked: list[Any]) -> list[Any]:
    """Let arrays be written to again; return those that cannot yet, as views of a locked array."""
    left = []
    for memory in locked:
        try:
            memory.setflags(write=True)
        except ValueError:
            left.append(memory)
    return left


def _try_again(waiting: list[Any]) -> None:
    """Release what can be, and remember the rest."""
    waiting = [*waiting, *_waiting]
    _waiting.clear()
    count = 0
    while len(waiting) != count:
        count = len(waiting)
        waiting = _released(waiting)
    _waiting.extend(waiting)


def refusal(error: Exception) -> GradientError | None:
    """Return what an error is told as that comes of a locked array; None for any other."""
    if not isinstance(error, ValueError) or "read-only" not in str(error):
        return None
    return GradientError(
        f"an array was written to that backward needs, or that was read-only before ({error}). Write to a copy, or "
        "make a new array: x = xdev.at(x)[index].set(value)"
    )
