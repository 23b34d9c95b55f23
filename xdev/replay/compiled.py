"""Replayed: a function of arrays that is recorded once for each layout of its arguments, checked once, and replayed.

Requirements: a plan is used only after its results were equal, bit for bit, to those of the function on other
arguments than the recorded ones; the function is what it was to the caller if it cannot be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import tree
from ..contract import Backend
from ..device import namespace
from .kept import Kept
from .plan import make_plan
from .program import Program
from .recorded import recorded_namespace
from .recorder import CheckFailed, Part, Recorder, Unreplayable

__all__ = ["Replayed"]


@dataclass(eq=False)
class _Entry:
    """What is known of one layout of the arguments.

    Attributes
    ----------
    program
        What replays it.
    rest
        What makes the result of the arrays.
    samples
        Of the recorded arguments; None once its results were compared with the function's for others.
    checked
        Whether its results were compared at all.
    """

    program: Program
    rest: Callable[[list[Any]], Any]
    samples: list[Any] | None
    checked: bool = False


class Replayed:
    """A function of a list of arrays, which returns a list of arrays, and something beside it.

    Parameters
    ----------
    function : callable
        Takes a list of arrays as they are recorded; returns a list of arrays, and a function that makes the result of
        such a list.
    backend : Backend
        Of the arrays.
    on_read : callable
        Called with what wants the value of an array while the function is recorded; may raise.

    Attributes
    ----------
    why
        Why it cannot be replayed; None while it can.
    """

    def __init__(
        self,
        function: Callable[[list[Any]], tuple[list[Any], Any]],
        backend: Backend,
        on_read: Callable[[str], Any] = lambda what: None,
    ) -> None:
        self._function = function
        self._on_read = on_read
        self._backend = backend
        self._kit = backend.replay
        self._entries = Kept()
        self.why: Unreplayable | None = None

    def __call__(self, arrays: Sequence[Any], donated: Sequence[int] = (), layout: Any = None) -> tuple[list[Any], Any]:
        """Return what the function returns; arguments with the numbers in `donated` may be written to.

        Calls with another `layout` have another plan, as those with arguments of other shapes.

        Raises
        ------
        Unreplayable
            If it cannot be replayed and was not called; nothing has been written then.
        """
        kit = self._kit
        arrays = [kit.array(x) if isinstance(x, kit.scalars) else x for x in arrays]
        key = (layout, kit.where(arrays), *[(x.shape, x.strides, x.dtype) for x in arrays])
        entry = self._entries.find(key)
        if entry is None:
            return self._record(key, arrays)
        try:
            if entry.samples is not None:
                others = entry.samples != [kit.sample(x) for x in arrays]
                if others or not entry.checked:
                    found = self._check(key, entry, arrays, donated)
                    entry.checked, entry.samples = True, None if others else entry.samples
                    return found
            return entry.program(arrays), entry.rest
        except CheckFailed:
            raise Unreplayable("a check of values fails", told=True) from None

    def _record(self, key: Any, arrays: Sequence[Any]) -> tuple[list[Any], Any]:
        """Call the function, and keep a program that does what it did."""
        if self.why is not None:
            raise self.why
        try:
            self._entries.spend()
            samples = [self._kit.sample(x) for x in arrays]
            recorder, outputs, parts, rest = self._call(arrays)
        except Unreplayable as why:
            self.why = why
            raise
        try:
            if recorder.why is not None:
                raise recorder.why
            program = Program(make_plan(recorder.calls, parts, self._kit.copied), self._kit, arrays)
        except Unreplayable as why:
            self.why = why
        else:
            self._entries.put(key, _Entry(program, rest, samples))
        return outputs, rest

    def _call(self, arrays: Sequence[Any]) -> tuple[Recorder, list[Any], list[Part], Any]:
        """Call the function; return its recording, its arrays and where they lie, and what else it returned."""
        recorder = Recorder(self._kit, recorded_namespace(self._backend, namespace(*arrays)), self._on_read)
        leaves = [recorder.argument(x, place) for place, x in enumerate(arrays)]
        with recorder.recording():
            found, rest = self._function(leaves)
            outputs = list(map(recorder.output, found))
        self._kit.trim()
        return recorder, [x for x, _ in outputs], [part for _, part in outputs if part is not None], rest

    def _check(self, key: Any, entry: _Entry, arrays: Sequence[Any], donated: Sequence[int]) -> tuple[list[Any], Any]:
        """Call the function, and compare its results with those of a replay on copies."""
        kit = self._kit
        copies = list(arrays)
        for place in donated:
            copies[place] = kit.copy(arrays[place])
        replayed = entry.program(copies)
        entry.program.release()  # so that its arena and the function's arrays are not there at once
        self._entries.spend()  # only a replay is a use of what was recorded
        recorder, outputs, _, rest = self._call(arrays)
        if recorder.why is None:
            same = _beside(rest, outputs) == _beside(entry.rest, replayed) and all(map(kit.same, outputs, replayed))
            if not same or not all(kit.same(arrays[place], copies[place]) for place in donated):
                recorder.refuse("its results depend on more than its arguments, or on values of these")
        if recorder.why is not None:
            self.why = recorder.why
            self._entries.drop(key)
        return outputs, rest


def _beside(rest: Callable[[list[Any]], Any], outputs: list[Any]) -> Any:
    """Return what is no array in a result, to be compared."""
    leaves, treedef = tree.flatten(rest(list(range(len(outputs)))))
    return treedef, [(type(leaf), repr(leaf)) for leaf in leaves]
