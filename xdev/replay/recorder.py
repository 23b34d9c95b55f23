"""Recorder: writes down each call of a framework's functions, by the memory that it reads and writes.

Requirements: views are not written down, they are an offset, a shape and strides in the memory that they share. What
is called is known by the namespace, and by the module of functions that a backend's kernels get; all else would show
as memory that nothing has written. The recorder keeps no array of the recording alive, but those from outside.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

from ..autodiff.array import TracedArray, constant, recording
from ..autodiff.namespace import TracedNamespace
from ..watching import report_read, reported_reads

__all__ = ["Call", "Memory", "Part", "Recorder", "Unreplayable", "current", "parts_of"]


current: ContextVar[Recorder | None] = ContextVar("xdev recorder", default=None)
"""What records now."""


class Unreplayable(Exception):  # noqa: N818  it is caught, and told as a warning or an error
    """Why a function cannot be replayed; `told` says whether the user is told of it otherwise, or need not be."""

    def __init__(self, why: str, told: bool = False) -> None:
        super().__init__(why)
        self.told = told


class Memory:
    """The memory of one array that was made in the recording, or came from outside.

    Attributes
    ----------
    number
        Unique in the recording.
    nbytes
        Its size.
    place
        Which argument it is; None for what is none.
    root
        The array itself, of what came from outside and of constants; None for what the recording makes.
    made
        Whether the recording made it.
    fixed
        Whether its values are the same in every call.
    """

    __slots__ = ("fixed", "made", "nbytes", "number", "place", "root", "written")

    def __init__(self, number: int, nbytes: int, root: Any, place: int | None) -> None:
        self.number = number
        self.nbytes = nbytes
        self.root = root
        self.place = place
        self.made = root is None
        self.fixed = False
        self.written = False


class Part(NamedTuple):
    """An array: where it lies in which memory."""

    memory: Memory
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any


class Call(NamedTuple):
    """One call: what it was called with, parts in the place of arrays, and what it wrote."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Part, ...]
    """New arrays that it returned."""
    places: tuple[int, ...]
    """Which of the arrays that it returned these are."""
    writes: tuple[Part, ...]
    """Arrays that it was given to write into."""


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def parts_of(value: Any) -> Iterator[Part]:
    """Yield the parts in an argument."""
    kind = type(value)
    if kind is Part:
        yield value
    elif kind is tuple or kind is list:
        for item in value:
            yield from parts_of(item)
    elif kind is dict:
        for item in value.values():
            yield from parts_of(item)


BY_VALUE = frozenset({"argwhere", "nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"})
"""Functions whose result has a shape that depends on values."""


class Recorder:
    """Records the calls of one function.

    Parameters
    ----------
    kit : object
        `Backend.replay` of the arrays' backend.
    xp : TracedNamespace
        The namespace that tells of calls.
    on_read : callable
        Called with what wants the value of an array; may raise.
    """

    def __init__(self, kit: Any, xp: TracedNamespace, on_read: Callable[[str], Any]) -> None:
        self.kit = kit
        self.calls: list[Call] = []
        self.why: Unreplayable | None = None
        self._xp = xp
        self._on_read = on_read
        self._known: dict[int, tuple[Any, Memory]] = {}
        self._count = 0

    # -- memory --------------------------------------------------------------------------------------

    def argument(self, x: Any, place: int) -> TracedArray:
        """Return an argument as the recorded function gets it."""
        x = self.kit.alone(x)
        self._new(x, place, keep=True)
        return constant(x, self._xp)

    def _new(self, root: Any, place: int | None = None, keep: bool = False) -> Memory:
        memory = Memory(self._count, self.kit.nbytes(root), root if keep else None, place)
        self._count += 1
        number = id(root)
        known = self._known
        known[number] = (root if keep else weakref.ref(root, lambda _: known.pop(number, None)), memory)
        return memory

    def part(self, x: Any) -> Part:
        """Return where an array lies; what was not met before comes from outside."""
        root = self.kit.root(x)
        found = self._known.get(id(root))
        memory = self._new(root, keep=True) if found is None else found[1]
        offset = self.kit.address(x) - self.kit.address(root)
        return Part(memory, offset, x.shape, x.strides, x.dtype)

    def is_known(self, x: Any) -> bool:
        """Return whether the memory of an array was met before."""
        return id(self.kit.root(x)) in self._known

    def parts(self, value: Any) -> Any:
        """Return an argument with parts in the place of arrays."""
        if isinstance(value, self.kit.arrays):
            return self.part(value)
        kind = type(value)
        if kind is tuple or kind is list:
            return kind(self.parts(item) for item in value)
        return value

    # -- calls ---------------------------------------------------------------------------------------

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function and write it down."""
        if name in ("empty", "empty_like"):
            made = function(*args, **kwargs)
            self._new(self.kit.root(made))
            return made
        written = self._written(name, function, args, kwargs)
        given = self.parts(args), {key: self.parts(value) for key, value in kwargs.items()}
        result = function(*args, **kwargs)
        fresh: dict[int, Part] = {}
        outputs = [id(x) for x in written]
        result = self._result(result, outputs, fresh, itertools.count())
        writes = tuple(self.part(x) for x in written)
        if name in BY_VALUE:
            self.refuse(f"{name}() has a result whose shape depends on the values of an array")
        if not fresh and not writes:
            self._check_view(result, args)
        if fresh or writes:
            self.calls.append(Call(name, function, *given, tuple(fresh.values()), tuple(fresh), writes))
            if not writes and all(part.memory.fixed for part in parts_of(given)) and list(fresh) == [0]:
                memory = fresh[0].memory
                if isinstance(result, self.kit.arrays):
                    memory.fixed, memory.root = True, self.kit.root(result)
        for part in writes:
            memory = part.memory
            memory.written = True
            if memory.made:
                memory.fixed, memory.root = False, None
            elif memory.place is None:
                self.refuse("it writes into an array from outside")
        return result

    def _check_view(self, result: Any, args: Any) -> None:
        """Tell of integers that a view may depend on: a replay has the views of the recording."""
        views = [self.kit.root(x) for x in _flat(result) if isinstance(x, self.kit.arrays)]
        for x in _flat(args) if views else ():
            if (
                isinstance(x, self.kit.arrays)
                and x.dtype.kind in "iu"
                and all(y is not self.kit.root(x) for y in views)
            ):
                report_read("index()", x)

    def _written(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """Return the arrays that a call writes into."""
        if name in self.kit.writing or name.endswith(".at"):
            return [args[0]]
        out = kwargs.get("out", args[nin:] if (nin := getattr(function, "nin", 0)) else None)
        return [] if out is None else list(out) if type(out) is tuple else [out]

    def _result(self, result: Any, written: list[int], fresh: dict[int, Part], number: Iterator[int]) -> Any:
        """Return a result, scalars of the framework as arrays; collect what is new."""
        kind = type(result)
        if isinstance(result, self.kit.scalars):
            result = self.kit.array(result)
        elif isinstance(result, tuple | list):
            items = [self._result(item, written, fresh, number) for item in result]
            return kind(*items) if hasattr(result, "_fields") else kind(items)
        elif not isinstance(result, self.kit.arrays):
            return result
        place = next(number)
        if id(result) not in written and not self.is_known(result):
            self._new(self.kit.root(result))
            fresh[place] = self.part(result)
        return result

    def refuse(self, why: str, told: bool = False) -> None:
        """Note that what is recorded cannot be replayed; the first reason counts."""
        if self.why is None:
            self.why = Unreplayable(why, told)

    def guard(self, check: Callable[..., bool], args: tuple[Any, ...]) -> bool:
        """Call a check on values, which a replay repeats; where it fails, the function runs eagerly."""
        passed = check(*args)
        self.calls.append(Call("guard", check, self.parts(args), {}, (), (), ()))
        if not passed:
            self.refuse("a check of values fails", told=True)
        return passed

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Within this context, calls are recorded, and reads of values told of."""

        def read(what: str, x: Any) -> None:
            if isinstance(x, self.kit.arrays) and not self._is_outside(x):
                self.refuse(f"{what} needs the value of an array")
                self._on_read(what)

        mine, outer = current.set(self), recording.set(self._xp)
        try:
            with reported_reads(read):
                yield
        finally:
            recording.reset(outer)
            current.reset(mine)
            self._known.clear()  # which refers to itself

    def _is_outside(self, x: Any) -> bool:
        found = self._known.get(id(self.kit.root(x)))
        return found is None or (found[1].place is None and found[1].root is not None)
