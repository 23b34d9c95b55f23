"""Replayed: a function of arrays that is recorded once for each layout of its arguments, checked once, and replayed.

Requirements: a plan is used only after its results were equal, bit for bit, to those of the function on other
arguments than the recorded ones; the function is what it was to the caller if it cannot be replayed.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from .. import tree
from ..autodiff.array import TracedArray, constant, recording, unwrap
from ..contract import Backend
from ..device import namespace
from ..errors import ReplayWarning
from ..ledger import warn
from .plan import make_plan
from .program import CheckFailed, Program
from .recorded import recorded_namespace
from .recorder import Recorder, Unreplayable, current

__all__ = ["Replayed", "apart", "replayable", "update_in_place", "write_back"]

KEPT = 16
"""Plans that one function keeps; the one that was not used for longest goes first."""


class Patience:
    """Whether to record once more: not where what was recorded never comes back."""

    LIMIT = 64

    def __init__(self) -> None:
        self._left = self.LIMIT

    def hit(self) -> None:
        """Note that a recording was of use."""
        self._left = min(self._left + 1, self.LIMIT)

    def miss(self) -> None:
        """Note that something is recorded."""
        self._left -= 1
        if self._left < 0:
            raise Unreplayable("arguments, or numbers that it takes from outside, are others in each call")


def replayable(backend: Backend, arrays: Sequence[Any]) -> bool:
    """Return whether functions of these arrays, which are on one device, can be recorded."""
    kit = backend.replay
    if kit is None or not all(isinstance(x, kit.arrays + kit.scalars) for x in arrays):
        return False
    return len({backend.device_of(x) for x in arrays if isinstance(x, kit.arrays)}) <= 1


class Forms:
    """The recorded forms of one function, by what is the same in all calls of one."""

    def __init__(self) -> None:
        self._forms: dict[Any, Any] = {}
        self._patience = Patience()
        self._told = False

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the form for a key, or make it.

        Raises
        ------
        Unreplayable
            If too many were made that were not used again.
        """
        found = self._forms.get(key)
        if found is not None:
            self._patience.hit()
            return found
        self._patience.miss()
        found = self._forms[key] = make()
        if len(self._forms) > KEPT:
            del self._forms[next(iter(self._forms))]
        return found

    def tell(self, why: Unreplayable | None, message: Callable[[Unreplayable], str]) -> None:
        """Warn, once, of why the function runs eagerly."""
        if why is not None and not why.told and not self._told:
            self._told = True
            warn(message(why), ReplayWarning)


class _Entry:
    """What is known of one layout of the arguments.

    Attributes
    ----------
    program
        None if it cannot be replayed.
    rest
        What makes the result of the arrays.
    samples
        Of the recorded arguments; None once its results were compared with the function's for others.
    checked
        Whether its results were compared at all.
    """

    def __init__(self, program: Program | None, rest: Any, samples: list[bytes]) -> None:
        self.program = program
        self.rest = rest
        self.samples: list[bytes] | None = samples
        self.checked = False


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
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()
        self._patience = Patience()
        self.why: Unreplayable | None = None
        self.recordings = 0

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
        entry = self._entries.get(key)
        if entry is None:
            if self.why is not None:
                raise self.why
            try:
                self._patience.miss()
                samples = [kit.sample(x) for x in arrays]
                outputs, program, rest = self._record(arrays)
            except Unreplayable as why:
                self.why = why
                raise
            self._entries[key] = _Entry(program, rest, samples)
            if len(self._entries) > KEPT:
                self._entries.popitem(last=False)
            return outputs, rest
        if entry.program is None:
            raise self.why or Unreplayable("it was not replayable before")
        with contextlib.suppress(KeyError):  # another thread may have dropped it
            self._entries.move_to_end(key)
        if entry.samples is not None:
            others = entry.samples != [kit.sample(x) for x in arrays]
            if others or not entry.checked:
                entry.samples = None if others else entry.samples
                return self._check(entry, arrays, donated)
        self._patience.hit()
        try:
            return entry.program(arrays), entry.rest
        except CheckFailed:
            raise Unreplayable("a check of values fails", told=True) from None

    def _record(self, arrays: Sequence[Any]) -> tuple[list[Any], Program | None, Any]:
        """Call the function; return its arrays, the program if it can be replayed, and what else it returned."""
        recorder = Recorder(self._kit, recorded_namespace(self._backend, namespace(*arrays)), self._on_read)
        self.recordings += 1
        leaves = [recorder.argument(x, place) for place, x in enumerate(arrays)]
        with recorder.recording():
            found, rest = self._function(leaves)
            raw = [self._array(unwrap(x), recorder) for x in found]
            if any(type(x) is TracedArray and x.tape is not None for x in found):
                recorder.refuse("it returns an array that a differentiation outside of it follows")
            parts = [recorder.part(x) if isinstance(x, self._kit.arrays) else None for x in raw]
        outputs = [
            x if type(x) is TracedArray and x.tape is not None else self._returned(y, part)
            for x, y, part in zip(found, raw, parts, strict=True)
        ]
        self._kit.trim()
        try:
            if recorder.why is not None:
                raise recorder.why
            plan = make_plan(recorder.calls, [part for part in parts if part is not None], self._kit.copied)
            return outputs, Program(plan, self._kit), rest
        except Unreplayable as why:
            self.why = why
            return outputs, None, rest

    def _array(self, x: Any, recorder: Recorder) -> Any:
        if isinstance(x, self._kit.scalars):
            return self._kit.array(x)
        if not isinstance(x, self._kit.arrays):
            recorder.refuse("it returns an array of another framework", told=True)
        return x

    def _returned(self, x: Any, part: Any) -> Any:
        if part is None:
            return x
        memory = part.memory
        return x if memory.made and not memory.fixed else self._kit.copy(x)

    def _check(self, entry: _Entry, arrays: Sequence[Any], donated: Sequence[int]) -> tuple[list[Any], Any]:
        """Call the function, and compare its results with those of a replay on copies."""
        kit = self._kit
        copies = list(arrays)
        for place in donated:
            copies[place] = kit.copy(arrays[place])
        assert entry.program is not None
        try:
            replayed = entry.program(copies)
        except CheckFailed:
            raise Unreplayable("a check of values fails", told=True) from None
        entry.program.release()  # so that its arena and the function's arrays are not there at once
        outputs, _, rest = self._record(arrays)
        entry.checked = True
        same = _beside(rest, outputs) == _beside(entry.rest, replayed) and all(map(kit.same, outputs, replayed))
        if not same or not all(kit.same(arrays[place], copies[place]) for place in donated):
            entry.program = None
            self.why = Unreplayable("its results depend on more than its arguments, or on values of these")
        return outputs, rest


def _beside(rest: Callable[[list[Any]], Any], outputs: list[Any]) -> Any:
    """Return what is no array in a result, to be compared."""
    leaves, treedef = tree.flatten(rest(list(range(len(outputs)))))
    return treedef, [(type(leaf), repr(leaf)) for leaf in leaves]


def update_in_place(backend: Backend, name: str | None) -> Callable[..., Any] | None:
    """Return a backend's fused update of an optimizer for arrays that are being recorded, or None."""
    xp = recording.get()
    found = name is not None and xp is not None and backend.inplace_update(name) is not None
    return xp.below.update(name) if found else None  # type: ignore[no-any-return]  # what it returns


def apart(x: Any) -> Any:
    """Return an array that is recorded in memory that no update of an argument writes to."""
    xp = recording.get()
    return x if xp is None else constant(xp.below.apart(unwrap(x)), xp)


def view_of(x: Any, start: int, stop: int, shape: tuple[int, ...]) -> Any:
    """Return a part of a flat array that is recorded, in a shape."""
    return constant(unwrap(x)[start:stop].reshape(shape), x.xp)


def write_back(old: Sequence[Any], new: Sequence[Any]) -> None:
    """Write new arrays into arguments of their shape and dtype, while that is recorded."""
    below, recorder = recording.get().below, current.get()
    assert recorder is not None
    pairs = [(unwrap(x), unwrap(y)) for x, y in zip(old, new, strict=True)]
    if any(into.shape != value.shape or into.dtype != value.dtype for into, value in pairs):
        raise Unreplayable("an array of the state changes its shape or dtype", told=True)
    moving = [(into, below.apart(value)) for into, value in pairs if into is not value]
    for into, value in moving:
        below.functions.copyto(into, value)
