"""Recorder: writes down each call of a framework's functions, by the memory that it reads and writes.

Requirements: views are not written down, they are an offset, a shape and strides in the memory that they share. What
is called is known by the namespace, and by the module of functions that a backend's kernels get; all else would show
as memory that nothing has written. The recorder keeps no array of the recording alive, but those from outside.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..autodiff.array import TracedArray, constant, recording, unwrap
from ..autodiff.namespace import TracedNamespace
from ..watching import report_read, reported_reads

__all__ = ["Call", "CheckFailed", "Memory", "Part", "Recorder", "Unreplayable", "current", "flat", "mapped", "parts_of"]


current: ContextVar[Recorder | None] = ContextVar("xdev recorder", default=None)
"""What records now."""
BY_VALUE = frozenset({"argwhere", "nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"})
"""Functions whose result has a shape that depends on values."""


class Unreplayable(Exception):  # noqa: N818  it is caught, and told as a warning or an error
    """Why a function cannot be replayed; `told` says whether the user is told of it otherwise, or need not be."""

    def __init__(self, why: str, told: bool = False) -> None:
        super().__init__(why)
        self.told = told


@dataclass(eq=False, slots=True)
class Memory:
    """The memory of one array that was made in the recording, or came from outside.

    Attributes
    ----------
    number
        Unique in the recording.
    nbytes
        Its size.
    root
        The array itself, of constants and of what came from outside and is no argument; None for all else.
    place
        Which argument it is; None for what is none.
    fixed
        Whether the recording made it, of values that are the same in every call.
    """

    number: int
    nbytes: int
    root: Any
    place: int | None
    fixed: bool = False

    @property
    def planned(self) -> bool:
        """Whether each replay makes it anew."""
        return self.root is None and self.place is None


class Part(NamedTuple):
    """An array: where it lies in which memory."""

    memory: Memory
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any

    @property
    def nbytes(self) -> int:
        """The size of its elements."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


class Call(NamedTuple):
    """One call, parts in the place of arrays, in a form that makes no memory: it gets what it writes into.

    Attributes
    ----------
    results
        New arrays, which it returned when it was recorded.
    writes
        Arrays that it was given to write into.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Part, ...]
    writes: tuple[Part, ...]

    @property
    def touches(self) -> list[Part]:
        """Return all arrays that it gets."""
        return parts_of((self.args, self.kwargs))

    @property
    def makes(self) -> tuple[Part, ...]:
        """Return those whose values it makes."""
        return (*self.results, *self.writes)

    @property
    def reads(self) -> list[Part]:
        """Return those that it does not only write."""
        left = self.touches
        for part in self.makes:
            left.remove(part)
        return left


# -- nested arguments and results ----------------------------------------------------------------------------


_NESTED = (tuple, list, dict)


def mapped(value: Any, f: Callable[[Any], Any]) -> Any:
    """Return a value with f of what it holds in tuples, lists and dicts."""
    if type(value) is Part or not isinstance(value, _NESTED):
        return f(value)
    if isinstance(value, dict):
        return {key: mapped(item, f) for key, item in value.items()}
    items = [mapped(item, f) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def flat(value: Any) -> list[Any]:
    """Return what a value holds in tuples, lists and dicts."""
    found: list[Any] = []
    mapped(value, found.append)
    return found


def parts_of(value: Any) -> list[Part]:
    """Return the parts in an argument."""
    return [item for item in flat(value) if type(item) is Part]


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
        self._alive: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # roots by identity
        self._memories: dict[int, Memory] = {}
        self._numbers = itertools.count()

    # -- memory --------------------------------------------------------------------------------------

    def argument(self, x: Any, place: int) -> TracedArray:
        """Return an argument as the recorded function gets it."""
        x = self.kit.alone(x)
        self._met(x, None, place)
        return constant(x, self._xp)

    def output(self, x: Any) -> tuple[Any, Part | None]:
        """Return what the recorded function returns as its caller gets it, and where a replay finds it."""
        if type(x) is TracedArray and x.tape is not None:
            self.refuse("it returns an array that a differentiation outside of it follows")
            return x, None
        x = self._array(unwrap(x))
        if not isinstance(x, self.kit.arrays):
            self.refuse("it returns an array of another framework", told=True)
            return x, None
        part = self.part(x)
        return x if part.memory.planned else self.kit.copy(x), part

    def _array(self, x: Any) -> Any:
        return self.kit.array(x) if isinstance(x, self.kit.scalars) else x

    def _met(self, root: Any, kept: Any, place: int | None = None) -> Memory:
        self._alive[id(root)] = root
        memory = self._memories[id(root)] = Memory(next(self._numbers), self.kit.nbytes(root), kept, place)
        return memory

    def memory(self, x: Any) -> Memory | None:
        """Return the memory of an array; None if it was not met before, and comes from outside."""
        number = id(self.kit.root(x))
        return self._memories[number] if number in self._alive else None

    def part(self, x: Any, made: bool = False) -> Part:
        """Return where an array lies; if it was not met before, the recording has made it, or it comes from outside."""
        root = self.kit.root(x)
        memory = self.memory(x) or self._met(root, None if made else root)
        return Part(memory, self.kit.address(x) - self.kit.address(root), x.shape, x.strides, x.dtype)

    def _part(self, x: Any) -> Any:
        return self.part(x) if isinstance(x, self.kit.arrays) else x

    # -- calls ---------------------------------------------------------------------------------------

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function and write it down; a "guard" checks values, and where one fails a replay does not go on."""
        if name in ("empty", "empty_like"):
            result = function(*args, **kwargs)
            self._met(self.kit.root(result), None)  # anew, if it is memory that was used before
            return result
        if name in BY_VALUE:
            self.refuse(f"{name}() has a result whose shape depends on the values of an array")
        given, keywords = mapped((args, kwargs), self._part)
        writes = tuple(map(self.part, self._written(name, function, args, kwargs)))
        result = mapped(function(*args, **kwargs), self._array)
        arrays = [x for x in flat(result) if isinstance(x, self.kit.arrays)]
        fresh = {place: self.part(x, made=True) for place, x in enumerate(arrays) if self.memory(x) is None}
        if name == "guard":
            if not result:
                self.refuse("a check of values fails", told=True)
        elif not fresh and not writes:
            self._check_views(arrays, args)
            return result
        form = self._form(name, function, given, keywords, fresh)
        self.calls.append(Call(name, *form, tuple(fresh.values()), writes))
        for memory in [part.memory for part in writes]:
            if memory.fixed:
                memory.fixed, memory.root = False, None
            elif memory.root is not None:
                self.refuse("it writes into an array from outside")
        fixed = all(part.memory.fixed for part in parts_of((given, keywords)))
        if fixed and not writes and fresh and arrays[0] is result:
            memory = fresh[0].memory
            memory.fixed, memory.root = True, self.kit.root(result)
        return result

    def _form(self, name: str, function: Any, args: Any, kwargs: Any, fresh: dict[int, Part]) -> tuple[Any, Any, Any]:
        """Return a call as one that writes into memory that is there."""
        if name == "guard":
            return _guard, (function, *args), {}
        if not fresh:
            return function, args, kwargs
        results = list(fresh.values())
        form = self.kit.into(name, function, results[0], args, kwargs) if len(results) == 1 else None
        return form or (functools.partial(_into, self.kit, tuple(fresh)), (results, function, *args), kwargs)

    def _check_views(self, views: list[Any], args: Any) -> None:
        """Tell of integers that a view may depend on: a replay has the views of the recording."""
        memories = [self.memory(x) for x in views]
        for x in flat(args) if views else ():
            if isinstance(x, self.kit.arrays) and x.dtype.kind in "iu" and self.memory(x) not in memories:
                report_read("index()", x)

    def _written(self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Return the arrays that a call writes into."""
        if name in self.kit.writing or name.endswith(".at"):
            return args[:1]
        nin = getattr(function, "nin", len(args))  # of an elementwise function, outputs may follow its inputs
        return tuple(x for x in flat(kwargs.get("out", args[nin:])) if x is not None)

    def refuse(self, why: str, told: bool = False) -> None:
        """Note that what is recorded cannot be replayed; the first reason counts."""
        if self.why is None:
            self.why = Unreplayable(why, told)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Within this context, calls are recorded, and reads of values told of."""

        def read(what: str, x: Any) -> None:
            memory = self.memory(x) if isinstance(x, self.kit.arrays) else None
            if memory is not None and (memory.planned or memory.place is not None):
                self.refuse(f"{what} needs the value of an array")
                self._on_read(what)

        mine, outer = current.set(self), recording.set(self._xp)
        try:
            with reported_reads(read):
                yield
        finally:
            recording.reset(outer)
            current.reset(mine)


# -- calls without new memory --------------------------------------------------------------------------------


class CheckFailed(Exception):  # noqa: N818  it is caught
    """A check of values that the recording made does not pass."""


def _guard(check: Callable[..., bool], *args: Any) -> None:
    if not check(*args):
        raise CheckFailed


def _into(
    kit: Any, places: Sequence[int], into: Sequence[Any], function: Callable[..., Any], *args: Any, **kwargs: Any
) -> None:
    result = function(*args, **kwargs)
    arrays = [result]
    if not hasattr(result, "dtype"):
        arrays = [x for x in flat(result) if isinstance(x, kit.arrays + kit.scalars)]  # as the recorder numbers them
    for slot, place in zip(into, places, strict=True):
        if arrays[place].shape != slot.shape or arrays[place].dtype != slot.dtype:  # which values decided
            raise CheckFailed
        kit.functions.copyto(slot, arrays[place])
