"""Program: a plan with its arrays in place, ready to be called.

Requirements: what a caller holds is never written to again: an output has an array of its own, which is used again
only when nobody but its program holds it. Arguments are bound by identity; small ones are copied instead.
"""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from .plan import Plan
from .recorder import Call, Part, mapped

__all__ = ["Program"]

COPIED = 16 * 1024
"""Bytes up to which an argument is copied: to bind another array costs as much."""
FRAMES = 2
"""Sets of outputs that are kept: a caller often holds the last while the next is computed."""


class _Frame:
    """The calls bound to one set of outputs.

    Attributes
    ----------
    entries
        Functions, and what they are called with.
    stale
        The numbers of those that are not bound to the outputs and arguments below.
    outputs
        The set, by the number of the memory.
    counts
        How many refer to each while nobody else does.
    bound
        The arguments that are bound.
    """

    def __init__(self, calls: int, arguments: int) -> None:
        self.entries: list[Any] = [None] * calls
        self.stale = set(range(calls))
        self.outputs: dict[int, Any] = {}
        self.counts: dict[int, int] = {}
        self.bound: list[Any] = [None] * arguments


class Program:
    """A plan that can be called with a list of arrays.

    Parameters
    ----------
    plan : Plan
        What to call.
    kit : object
        `Backend.replay` of the arrays' backend.
    arrays : sequence of arrays
        Arguments of the layout that was recorded; not kept.
    """

    def __init__(self, plan: Plan, kit: Any, arrays: Sequence[Any]) -> None:
        self.plan = plan
        self._kit = kit
        self._lock = threading.Lock()
        self._uses: dict[int, set[int]] = defaultdict(set)  # entries by argument
        self._results: set[int] = set()  # entries with outputs
        for n, call in enumerate(plan.calls):
            for part in call.touches:
                if part.memory.place is not None:
                    self._uses[part.memory.place].add(n)
                elif part.memory.number in plan.own:
                    self._results.add(n)
        written = {part.memory.place for call in plan.calls for part in call.makes}
        small = [place for place in self._uses if kit.nbytes(arrays[place]) <= COPIED and place not in written]
        self._copied = {place: into for place in small if (into := kit.like(arrays[place])) is not None}
        self._bound = [place for place in self._uses if place not in self._copied]
        self.release()

    # -- calling -------------------------------------------------------------------------------------

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        """Replay with these arguments, whose shapes, strides and dtypes are those of the recording.

        Raises
        ------
        CheckFailed
            If a check of values fails; nothing has been written then.
        """
        with self._lock:
            frame = self._frame(arrays)
            copyto = self._kit.functions.copyto
            for place, into in self._copied.items():
                copyto(into, arrays[place])
            for function, args in frame.entries:
                function(*args)
            return [self._output(part, frame, arrays) for part in self.plan.outputs]

    def release(self) -> None:
        """Free the arena until the next call."""
        with self._lock:
            self._arena: Any = None
            self._frames: list[_Frame] = []
            self._views: dict[tuple[Any, ...], Any] = {}

    # -- arrays in their places ----------------------------------------------------------------------

    def _frame(self, arrays: Sequence[Any]) -> _Frame:
        """Return calls that are bound to these arguments, and to outputs that nobody holds."""
        kit = self._kit
        for frame in self._frames:
            free = all(kit.holders(frame.outputs[number]) == count for number, count in frame.counts.items())
            if free and (kit.counts or not frame.outputs):
                break
        else:
            outputs = {number: kit.empty(part.shape, part.dtype) for number, part in self.plan.own.items()}
            full = len(self._frames) == FRAMES
            frame = self._frames.pop(0) if full else _Frame(len(self.plan.calls), len(arrays))
            frame.outputs = outputs
            frame.stale |= self._results
            self._frames.append(frame)
        bound, stale = frame.bound, frame.stale
        for place in self._bound:
            if arrays[place] is not bound[place]:
                bound[place] = arrays[place]
                stale |= self._uses[place]
        if stale:
            for n in stale:
                frame.entries[n] = self._entry(self.plan.calls[n], frame)
            stale.clear()
            frame.counts = {number: kit.holders(frame.outputs[number]) for number in frame.outputs}
        return frame

    def _entry(self, call: Call, frame: _Frame) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        def put(x: Any) -> Any:
            return self._array(x, frame, frame.bound) if type(x) is Part else x

        function = functools.partial(call.function, **mapped(call.kwargs, put)) if call.kwargs else call.function
        return function, mapped(call.args, put)

    def _array(self, part: Part, frame: _Frame, arguments: Sequence[Any]) -> Any:
        memory = part.memory
        if memory.place is not None:
            return self._kit.view(self._copied.get(memory.place, arguments[memory.place]), *part[1:])
        if memory.number in frame.outputs:
            return self._kit.view(frame.outputs[memory.number], *part[1:])
        offset = self.plan.offsets.get(memory.number)
        # One array for one place: frameworks may know an operand that is written to by its identity.
        key = (memory.number if offset is None else None, part.offset + (offset or 0), *part[2:])
        if key not in self._views:
            if offset is not None and self._arena is None:
                self._arena = self._kit.arena(self.plan.nbytes)
            self._views[key] = self._kit.view(memory.root if offset is None else self._arena, *key[1:])
        return self._views[key]

    def _output(self, part: Part, frame: _Frame, arrays: Sequence[Any]) -> Any:
        """Return an output to the caller, in an array of its own."""
        if part.memory.number in frame.outputs:
            return frame.outputs[part.memory.number]
        return self._kit.copy(self._array(part, frame, arrays))
