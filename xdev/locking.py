"""Arrays of the caller that backward needs: nobody writes to them meanwhile, where their framework can refuse it.

Requirements: nothing of the caller's stays locked, whatever raises and whenever; an array that was read-only before
stays so. Differentiations that lock one array, in other threads too, open it when the last of them ends. A view is
locked with the array that it shares memory with; memory that is not NumPy's own is left alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from .contract import Backend
from .errors import GradientError
from .registry import find_backend

__all__ = ["Copies", "Locks", "refusal"]

_memory_of: dict[type, Any] = {}
"""By type of array, what returns the NumPy array that is written to, or None."""
_held: dict[int, tuple[Any, set[int]]] = {}
"""By identity, each locked array and who holds it; nobody, if it is a view that waits for its memory."""
_guard = threading.RLock()


class Locks:
    """The arrays that one differentiation has locked, a context at whose end they are released."""

    _locked: Any = ()  # of one that was interrupted before it had its own
    _bases: frozenset[int] = frozenset()

    def __init__(self, arrays: Iterable[Any] = ()) -> None:
        self._arrays = arrays
        self._locked = []

    def keep(self, x: Any) -> Any:
        """Lock an array, and return it; anything else, and what its framework cannot lock, passes."""
        memory = _memory(x)
        if memory is None:
            return x
        base = memory.base
        if base is None:
            chain: tuple[Any, ...] = (memory,)
        elif type(base) is np.ndarray and base.base is None:
            chain = (base, memory)
        else:
            return x
        with _guard:
            if all(part.flags.writeable or id(part) in _held for part in chain):
                for part in chain:
                    self._locked.append(part)  # first, so that an interrupt loses nothing
                    _held.setdefault(id(part), (part, set()))[1].add(id(self))
                    part.setflags(write=False)
        return x

    def release(self) -> None:
        """Let all be written to again that nobody else holds; to do it twice does no harm."""
        if self._locked:
            with _guard:
                self._bases |= {id(part) for part in self._locked}
                for part in self._locked:
                    entry = _held.get(id(part))
                    if entry is not None:
                        entry[1].discard(id(self))
                for part in [part for part, holders in _held.values() if not holders]:
                    _open(part)  # in the order of locking: memory before its views
                self._locked.clear()

    def free(self, arrays: Iterable[Any]) -> None:
        """Let views be written to that were made of a locked array, which is released."""
        for memory in map(_memory, arrays):
            if memory is not None and not memory.flags.writeable and id(memory.base) in self._bases:
                _open(memory)

    def __del__(self) -> None:
        self.release()

    def __enter__(self) -> Locks:
        try:
            for x in self._arrays:
                self.keep(x)
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.release()
        except BaseException:
            self.release()
            raise


class Copies:
    """In the place of `Locks`, where what is kept outlives the call: one copy of each array."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}

    def keep(self, x: Any) -> Any:
        """Return a copy of an array that could be written to; anything else passes."""
        found = self._copies.get(id(x))
        if found is None:
            backend = find_backend(x)
            if backend is None or not backend.capabilities.mutable:
                return x
            found = self._copies[id(x)] = (x, backend.clone(x))
        return found[1]

    def release(self) -> None:
        """Forget which array was copied to which."""
        self._copies.clear()


def _memory(x: Any) -> Any:
    kind = type(x)
    if kind not in _memory_of:
        backend = find_backend(x)
        has = backend is not None and type(backend).written_memory is not Backend.written_memory
        _memory_of[kind] = backend.written_memory if has else None  # type: ignore[union-attr]  # has says so
    memory_of = _memory_of[kind]
    return None if memory_of is None else memory_of(x)


def _open(memory: Any) -> None:
    try:
        memory.setflags(write=True)
    except ValueError:
        return  # its memory is still locked
    _held.pop(id(memory), None)


_SAID = ("assignment destination is read-only", "output array is read-only")


def refusal(error: Exception) -> GradientError | None:
    """Return what an error is told as that may come of a locked array; None for any other."""
    if type(error) is not ValueError or str(error) not in _SAID:
        return None
    return GradientError(
        f"an array was written to that backward needs, or that was read-only before ({error}). Write to a copy, or "
        "make a new array: x = xdev.at(x)[index].set(value)"
    )
