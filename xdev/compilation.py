"""Compilation of functions of trees: by the backend where it compiles, by recording and replaying where it does not.

Requirements: a function is compiled once for each structure, shape, dtype and constant of its arguments; arrays that
are one argument twice stay one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import registry, tree
from .contract import Backend
from .device import device_of_array, native_of, scope_of
from .differentiation import argument_numbers, check_function, exactly, named, take_apart
from .errors import ArrayTypeError, TracedValueError, a
from .explanation import Surroundings, explained
from .floating import default_float, is_wide
from .ledger import caller
from .random import Generator, tracing
from .replay import Forms, Replayed, Unreplayable, replayable

__all__ = ["compile_function", "jit"]


def jit(f: Callable[..., Any], *, static_argnums: int | Sequence[int] = (), donate: bool = False) -> Callable[..., Any]:
    """Compile a function of trees where the backend of its arguments can.

    Parameters
    ----------
    f : callable
        Takes and returns trees; may not keep state. Generators are passed in and returned.
    static_argnums : int or sequence of int, default: ()
        Arguments that are no arrays and for each value of which the function is compiled anew; hashable.
    donate : bool, default: False
        Whether the arrays passed in may be consumed.

    Returns
    -------
    callable
        Compiles once for each structure, shape and dtype on backends that compile. On NumPy and CuPy it records once
        for each shape, layout and dtype, and for each value of Python numbers among the arguments and of those that
        the function takes from outside by name; later calls replay that. Elsewhere it runs the function.

    Raises
    ------
    ArrayTypeError
        If `static_argnums` are no integers; when called, if a static argument does not hash.
    TracedValueError
        When called, on backends that compile or replay: if the function needs the value of an array, as `if` and
        `float` do.
    RandomError
        When called: if the function draws from a generator that it takes from outside, on every backend.
    DeviceMismatchError
        When called: if an array that the function takes from outside is on another device.

    Warns
    -----
    ReplayWarning
        When called, once: if the function cannot be replayed, and runs eagerly.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.jit(lambda x: x + 1)(np.zeros(2))
    array([1., 1.])
    """
    check_function(f, "jit")
    return compile_function(f, static_argnums, donate, True)


def compile_function(
    f: Callable[..., Any], static_argnums: int | Sequence[int] = (), donate: bool = False, replays: bool = False
) -> Callable[..., Any]:
    """Compile a function as `jit` does, but run it eagerly where nothing compiles unless it `replays`."""
    numbers = argument_numbers("static_argnums", static_argnums)
    kept: dict[Any, Any] = {}
    forms = _Surrounded(f)

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        pattern, arrays = _taken_apart(f, numbers, args, kwargs)
        backend = _first_backend(arrays)
        if backend is None:
            return f(*args, **kwargs)
        roots = named(args, kwargs)
        compiles = type(backend).jit is not Backend.jit
        if replays and not compiles and _is_replayable(backend, arrays, (*args, *kwargs.values())):
            try:
                return _replay(pattern, backend, arrays, forms, roots)
            except Unreplayable as why:
                forms.tell(why, functools.partial(_eagerly, f, backend))
        if not compiles:
            with explained(backend, roots, f), _scope(backend, arrays):
                out, rebuild = pattern(arrays)
            return rebuild(out)
        # With the shapes, since what is no array in the result may depend on them.
        shapes = tuple((x.shape, x.dtype) if hasattr(x, "shape") else type(x) for x in arrays)
        pattern.check_constants()
        key = (backend, pattern.key, shapes)
        if key not in kept:
            kept[key] = any(map(is_wide, arrays)), *_compile(pattern, backend, donate)
        wide, function, rebuilds = kept[key]
        # An array of float64 may have left the block of xdev.precision in which it was made.
        held = backend.precision("float64") if wide else contextlib.nullcontext()
        with explained(backend, roots, f), held:
            out = function(arrays)
        return rebuilds[0](out)

    return wrapped


class _Pattern:
    """What calls have in common that a function is compiled for, and the function of a list of arrays that they are.

    Parameters
    ----------
    f : callable
        What is called.
    treedef : TreeDef
        The structure of the arguments, None in the place of static ones.
    places : sequence of int or None
        For each leaf, which of the arrays it is; None for a constant.
    constants : sequence
        The leaves that are no arrays.
    static : dict
        Static arguments by position.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        treedef: tree.TreeDef,
        places: Sequence[int | None],
        constants: Sequence[Any],
        static: dict[int, Any],
    ) -> None:
        self.function = f
        self._treedef = treedef
        self._places = tuple(places)
        self._constants = tuple(constants)
        self._static = static
        _check_hashable(static.values(), [f"static_argnums={i}, but args[{i}]" for i in static])
        exact = tuple(map(exactly, static.values())), tuple(map(exactly, constants))
        self.key = treedef, self._places, exact, default_float.get()

    def check_constants(self) -> None:
        """Refuse leaves by whose values nothing can be found again."""
        _check_hashable(self._constants, ["a leaf of the arguments"] * len(self._constants))

    def __call__(self, arrays: list[Any]) -> tuple[list[Any], Callable[[list[Any]], Any]]:
        """Call the function; return its distinct arrays, and what makes its result of these."""
        with tracing(object()):
            still = iter(self._constants)
            leaves = [next(still) if place is None else arrays[place] for place in self._places]
            args, kwargs = tree.unflatten(self._treedef, leaves)
            full = (self._static.get(i, a) for i, a in enumerate(args))
            out, rebuild = take_apart(self.function(*full, **kwargs))
            once, where = tree.unique(out)
        return once, lambda results: rebuild([results[place] for place in where])


def _taken_apart(
    f: Callable[..., Any], numbers: tuple[int, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[_Pattern, list[Any]]:
    """Return what a call has in common with others, and its arrays and numbers."""
    static = {range(len(args))[number] for number in _within(numbers, len(args), f)}
    leaves, treedef = tree.flatten((tuple(None if i in static else a for i, a in enumerate(args)), kwargs))
    arrays, places, constants = _tied(leaves)
    return _Pattern(f, treedef, places, constants, {i: args[i] for i in sorted(static)}), arrays


def _is_replayable(backend: Backend, arrays: list[Any], given: tuple[Any, ...]) -> bool:
    return _together(backend, arrays, given) and replayable(backend, [x for x in arrays if hasattr(x, "dtype")])


def _scope(backend: Backend, arrays: list[Any]) -> contextlib.AbstractContextManager[Any]:
    return scope_of(next((x for x in arrays if registry.find_backend(x) is backend), arrays[0]))


def _together(backend: Backend, arrays: list[Any], given: tuple[Any, ...]) -> bool:
    """Return whether the words of generators, which the host may have, belong to the device of the arrays."""
    own = [x for x in arrays if registry.find_backend(x) is backend]
    if len(own) == len([x for x in arrays if hasattr(x, "dtype")]):
        return True
    devices = {x.device for x in given if isinstance(x, Generator)}
    return bool(own) and devices == {device_of_array(backend, own[0])}


def _replay(pattern: _Pattern, backend: Backend, arrays: list[Any], forms: _Surrounded, roots: Any) -> Any:
    """Call a function that is recorded and replayed; Python numbers are the same for all calls of a recording."""
    fixed = tuple(None if hasattr(x, "dtype") else x for x in arrays)
    pattern.check_constants()

    def of_given(leaves: list[Any]) -> tuple[list[Any], Any]:
        moving = iter(leaves)
        return pattern([next(moving) if x is None else x for x in fixed])

    key = (backend, pattern.key, tuple(map(exactly, fixed)), forms.surroundings.now())
    replayed = forms.get(key, lambda: Replayed(of_given, backend, _no_value))
    with explained(backend, roots, pattern.function), _scope(backend, arrays):
        out, rebuild = replayed([x for x in arrays if hasattr(x, "dtype")])
    forms.tell(replayed.why, functools.partial(_eagerly, pattern.function, backend))
    return rebuild(out)


class _Surrounded(Forms):
    """The forms of a function that takes numbers from outside."""

    def __init__(self, f: Callable[..., Any]) -> None:
        super().__init__()
        self._function = f

    @functools.cached_property
    def surroundings(self) -> Surroundings:
        return Surroundings(self._function)


def _eagerly(f: Callable[..., Any], backend: Backend, why: Unreplayable) -> str:
    name = getattr(f, "__name__", "the function")
    return f"xdev.jit runs {name} eagerly on {backend}, without replaying it: {why}"


def _no_value(what: str) -> None:
    remedy = "write xp.where(condition, a, b)" if what == "bool()" else "keep it an array and read it outside"
    raise TracedValueError(
        f"{what} needs the value of an array ({caller()}), and a function that is recorded by xdev.jit must not depend "
        f"on one: {remedy}; pass what is fixed through static_argnums of xdev.jit; or leave out xdev.jit"
    )


def _tied(leaves: list[Any]) -> tuple[list[Any], list[int | None], list[Any]]:
    """Return arrays and numbers, their places, and the other leaves; an array that stands twice is there once."""
    arrays: list[Any] = []
    places: list[int | None] = []
    constants: list[Any] = []
    seen: dict[int, int] = {}
    for x in leaves:
        if not _is_dynamic(x):
            constants.append(x)
            places.append(None)
            continue
        place = seen.get(id(x), len(arrays))
        if place == len(arrays):
            arrays.append(x)
            if native_of(x) is not None:  # equal numbers may happen to be one object
                seen[id(x)] = place
        places.append(place)
    return arrays, places, constants


def _check_hashable(values: Iterable[Any], subjects: list[str]) -> None:
    for value, subject in zip(values, subjects, strict=True):
        try:
            hash(value)
        except TypeError:
            raise ArrayTypeError(
                f"{subject} is {a(type(value).__name__)}, which does not hash: a function is compiled for each value "
                "of what is no array. Pass a tuple, a frozenset or a frozen dataclass"
            ) from None


def _within(numbers: tuple[int, ...], count: int, f: Callable[..., Any]) -> tuple[int, ...]:
    for number in numbers:
        if not -count <= number < count:
            name = getattr(f, "__name__", "the function")
            raise ArrayTypeError(f"static_argnums={number}, but {name} was called with {count} positional arguments")
    return numbers


def _compile(
    pattern: _Pattern, backend: Backend, donate: bool
) -> tuple[Callable[[list[Any]], list[Any]], list[Callable[[list[Any]], Any]]]:
    """Return a compiled function of arrays, and the list that holds what makes its result once it has been traced."""
    rebuilds: list[Callable[[list[Any]], Any]] = []

    def of_arrays(arrays: list[Any]) -> list[Any]:
        out, rebuild = pattern(arrays)
        rebuilds[:] = [rebuild]
        return out

    return backend.jit(of_arrays, donate=(0,) if donate else ()), rebuilds


def _is_dynamic(leaf: Any) -> bool:
    return (isinstance(leaf, float | complex | int) and not isinstance(leaf, bool)) or native_of(leaf) is not None


def _first_backend(arrays: list[Any]) -> Backend | None:
    """Return the backend of the first array that is not the host's, else of the first."""
    found = None
    for x in arrays:
        try:
            backend = registry.backend_of(x)
        except ArrayTypeError:
            continue
        if not backend.is_host:
            return backend
        found = backend
    return found
