"""Recording a function of arrays once, and replaying it with planned buffers: compilation where a framework has none.

Requirements: a replay gives the bits of the eager run; what cannot be replayed is said, never guessed. The rest of
the library does not know of it: a recording is a namespace that writes down what is called.
"""

from __future__ import annotations

from .compiled import Forms, Replayed, apart, replayable, update_in_place, view_of, write_back
from .recorder import Unreplayable

__all__ = ["Forms", "Replayed", "Unreplayable", "apart", "replayable", "update_in_place", "view_of", "write_back"]
