"""Kept: what was recorded of one function, found again by what calls have in common, and when to record no more.

Requirements: what never comes back is not recorded for ever; what is kept is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ..contract import Backend
from ..errors import ReplayWarning
from ..ledger import warn
from .recorder import Unreplayable

__all__ = ["KEPT", "PATIENCE", "Forms", "Kept", "replayable"]

KEPT = 16
"""How many are kept; the one that was not used for longest goes first."""
PATIENCE = 64
"""How many may be recorded that are not used again."""


def replayable(backend: Backend, arrays: Sequence[Any]) -> bool:
    """Return whether functions of these arrays, which are on one device, can be recorded."""
    kit = backend.replay
    if kit is None or not all(isinstance(x, kit.arrays + kit.scalars) for x in arrays):
        return False
    return len({backend.device_of(x) for x in arrays if isinstance(x, kit.arrays)}) <= 1


class Kept:
    """The last recordings of a function, by a key."""

    def __init__(self) -> None:
        self._found: OrderedDict[Any, Any] = OrderedDict()
        self._patience = PATIENCE

    def find(self, key: Any) -> Any:
        """Return what is kept for a key, which was of use; None if there is nothing."""
        found = self._found.get(key)
        if found is not None:
            self.used()
            try:  # noqa: SIM105  a context would take as long as the rest
                self._found.move_to_end(key)
            except KeyError:  # another thread has dropped it
                pass
        return found

    def used(self) -> None:
        """Note that what is kept was of use."""
        if self._patience < PATIENCE:
            self._patience += 1

    def spend(self) -> None:
        """Note that something is recorded.

        Raises
        ------
        Unreplayable
            If too much was that was not used again.
        """
        self._patience -= 1
        if self._patience < 0:
            raise Unreplayable("arguments, or numbers that it takes from outside, are others in each call")

    def put(self, key: Any, made: Any) -> Any:
        """Keep what was made for a key, and return it."""
        self._found[key] = made
        if len(self._found) > KEPT:
            self._found.popitem(last=False)
        return made

    def drop(self, key: Any) -> None:
        """Keep nothing for a key."""
        self._found.pop(key, None)


class Forms(Kept):
    """The recorded forms of one function, by what is the same in all calls of one; says once why it runs eagerly."""

    def __init__(self) -> None:
        super().__init__()
        self._told = False

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the form for a key, or make it.

        Raises
        ------
        Unreplayable
            If too many were made that were not used again.
        """
        found = self.find(key)
        if found is None:
            self.spend()
            found = self.put(key, make())
        return found

    def tell(self, why: Unreplayable | None, message: Callable[[Unreplayable], str]) -> None:
        """Warn, once, of why the function runs eagerly."""
        if why is not None and not why.told and not self._told:
            self._told = True
            warn(message(why), ReplayWarning)
