"""Recording a function of arrays once, and replaying it with planned buffers: compilation where a framework has none.

Requirements: a replay gives the bits of the eager run; what cannot be replayed is said, never guessed. The rest of
the library does not know of it: a recording is a namespace that writes down what is called.
"""

from __future__ import annotations

from .compiled import Replayed
from .kept import Forms, replayable
from .recorder import Unreplayable, current, mapped

__all__ = ["Forms", "Replayed", "Unreplayable", "current", "mapped", "replayable"]
