"""Program: a plan with its arrays in place, ready to be called.

Requirements: what a caller holds is never written to again: an output has an array of its own, which is used again
only when nobody but its program holds it. Arguments are bound by identity; small ones are copied instead.
"""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .plan import Plan
from .recorder import Call, Part, parts_of

__all__ = ["CheckFailed", "Program"]

COPIED = 16 * 1024
"""Bytes up to which an argument is copied: to bind another array costs as much."""
KEYWORD = frozenset({"maximum", "minimum"})
"""Elementwise functions that want what they write into by keyword."""
FRAMES = 2
"""Sets of outputs that are kept: a caller often holds the last while the next is computed."""


class CheckFailed(Exception):  # noqa: N818  it is caught
    """A check of values that the recording made does not pass."""


class _Frame:
    """The calls bound to one set of outputs."""

    def __init__(self, entries: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
        self.entries = entries
        self.outputs: dict[int, Any] = {}
        self.counts: dict[int, int] = {}
        self.bound: list[Any] = []


class Program:
    """A plan that can be called with a list of arrays.

    Parameters
    ----------
    plan : Plan
        What to call.
    kit : object
        `Backend.replay` of the arrays' backend.
    """

    def __init__(self, plan: Plan, kit: Any) -> None:
        self.plan = plan
        self._kit = kit
        self._lock = threading.Lock()
        self._arena: Any = None
        self._forms = [_form(call, kit) for call in plan.calls]
        self._uses: dict[int, list[int]] = defaultdict(list)  # entries by argument
        self._results: dict[int, list[int]] = defaultdict(list)  # entries by output memory
        written, met = set(), {}
        for n, (call, form) in enumerate(zip(plan.calls, self._forms, strict=True)):
            for part in {*parts_of(form[1]), *parts_of(form[2])}:
                if part.memory.place is not None:
                    self._uses[part.memory.place].append(n)
                    met[part.memory.place] = part.memory
                elif part.memory.number in plan.own:
                    self._results[part.memory.number].append(n)
            written |= {part.memory.place for part in (*call.results, *call.writes)}
        small = {p: kit.like(m.root) for p, m in met.items() if m.nbytes <= COPIED and p not in written}
        self._copied = {place: into for place, into in small.items() if into is not None}
        for memory in (*met.values(), *(part.memory for part in plan.outputs if part.memory.place is not None)):
            memory.root = None  # the recording's arguments are the caller's
        self._bound = [place for place in self._uses if place not in self._copied]
        self._frames: list[_Frame] = []
        self._views: dict[tuple[Any, ...], Any] = {}

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
            bound = frame.bound
            changed = [place for place in self._bound if arrays[place] is not bound[place]]
            if changed:
                self._bind(frame, arrays, changed)
            copyto = self._kit.functions.copyto
            for place, into in self._copied.items():
                copyto(into, arrays[place])
            for function, args in frame.entries:
                function(*args)
            return [self._output(part, frame, arrays) for part in self.plan.outputs]

    def release(self) -> None:
        """Free the arena until the next call."""
        self._arena = None
        self._frames.clear()
        self._views.clear()

    def _frame(self, arrays: Sequence[Any]) -> _Frame:
        """Return bound calls whose outputs nobody holds."""
        for frame in self._frames:
            free = all(self._kit.holders(frame.outputs[number]) == count for number, count in frame.counts.items())
            if free and (self._kit.counts or not frame.counts):
                return frame
        if len(self._frames) < FRAMES:
            frame = _Frame([self._entry(form, None, arrays) for form in self._forms])
            frame.bound = [None if place in self._copied else x for place, x in enumerate(arrays)]
            self._frames.append(frame)
        else:
            frame = self._frames.pop(0)
            self._frames.append(frame)
        self._renew(frame)
        return frame

    def _renew(self, frame: _Frame) -> None:
        """Give a frame new arrays for its outputs."""
        frame.outputs = {number: self._kit.empty(part.shape, part.dtype) for number, part in self.plan.own.items()}
        for n in {n for rows in self._results.values() for n in rows}:
            frame.entries[n] = self._entry(self._forms[n], frame, frame.bound)
        frame.counts = {number: self._kit.holders(frame.outputs[number]) for number in frame.outputs}

    def _bind(self, frame: _Frame, arrays: Sequence[Any], places: Sequence[int]) -> None:
        for place in places:
            frame.bound[place] = arrays[place]
        for n in {n for place in places for n in self._uses[place]}:
            frame.entries[n] = self._entry(self._forms[n], frame, frame.bound)
        frame.counts = {number: self._kit.holders(frame.outputs[number]) for number in frame.outputs}

    # -- arrays in their places ----------------------------------------------------------------------

    def _entry(self, form: Any, frame: _Frame | None, arrays: Sequence[Any]) -> Any:
        function, args, kwargs = form
        put = functools.partial(self._put, frame=frame, arrays=arrays)
        if kwargs:
            function = functools.partial(function, **{key: put(value) for key, value in kwargs.items()})
        return function, tuple(put(a) for a in args)

    def _put(self, value: Any, frame: _Frame | None, arrays: Sequence[Any]) -> Any:
        kind = type(value)
        if kind is Part:
            return self._array(value, frame, arrays)
        if kind is tuple or kind is list:
            return kind(self._put(item, frame, arrays) for item in value)
        return value

    def _array(self, part: Part, frame: _Frame | None, arrays: Sequence[Any]) -> Any:
        memory = part.memory
        if memory.place is not None:
            root = self._copied.get(memory.place, arrays[memory.place])
            return self._kit.view(root, part.offset, *part[2:])
        if memory.number in self.plan.own:
            return None if frame is None else self._kit.view(frame.outputs[memory.number], part.offset, *part[2:])
        offset = self.plan.offsets.get(memory.number)
        # One array for one place: frameworks may know an operand that is written to by its identity.
        key = (memory.number if offset is None else None, part.offset + (offset or 0), *part[2:])
        if key not in self._views:
            if offset is not None and self._arena is None:
                self._arena = self._kit.arena(self.plan.nbytes)
            root = memory.root if offset is None else self._arena
            self._views[key] = self._kit.view(root, *key[1:])
        return self._views[key]

    def _output(self, part: Part, frame: _Frame, arrays: Sequence[Any]) -> Any:
        """Return an output to the caller, in an array of its own."""
        if part.memory.number in frame.outputs:
            return frame.outputs[part.memory.number]
        return self._kit.copy(self._array(part, frame, arrays))


# -- calls without new memory --------------------------------------------------------------------------------


def _form(call: Call, kit: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return a call in the form that writes into memory that is there."""
    function, args, kwargs = call.function, call.args, call.kwargs
    if call.name == "guard":
        return _guard, (function, *args), {}
    if not call.results:
        return function, args, kwargs
    result = call.results[0]
    if len(call.results) == 1:
        if getattr(function, "nin", 0) == len(args) and not kwargs:
            args = kit.operands(args, result)
            return (function, args, {"out": result}) if call.name in KEYWORD else (function, (*args, result), {})
        found = kit.into.get(call.name)
        formed = None if found is None else found(result, *args, **kwargs)
        if formed is not None:
            return formed[0], formed[1], {}
    return functools.partial(_into, kit, call.places), (call.results, function, *args), kwargs


def _into(
    kit: Any, places: Sequence[int], into: Sequence[Any], function: Callable[..., Any], *args: Any, **kwargs: Any
) -> None:
    result = function(*args, **kwargs)
    arrays = [result] if len(places) == 1 and hasattr(result, "dtype") else list(_arrays(result, kit))
    for slot, place in zip(into, places, strict=True):
        if arrays[place].shape != slot.shape or arrays[place].dtype != slot.dtype:  # which values decided
            raise CheckFailed
        kit.functions.copyto(slot, arrays[place])


def _arrays(result: Any, kit: Any) -> Iterator[Any]:
    """Yield the arrays of a result, as the recorder numbers them."""
    if isinstance(result, tuple | list):
        for item in result:
            yield from _arrays(item, kit)
    elif isinstance(result, kit.arrays + kit.scalars):
        yield result


def _guard(check: Callable[..., bool], *args: Any) -> None:
    if not check(*args):
        raise CheckFailed
