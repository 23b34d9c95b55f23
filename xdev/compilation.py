"""Compilation of functions of trees: by the backend where it compiles, by recording and replaying where it does not.

Requirements: a function is compiled once for each structure, shape, dtype and constant of its arguments; arrays that
are one argument twice stay one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
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
        Compiles once for each structure, shape and dtype on backends that compile. On NumPy it records once for each
        shape, layout and dtype, and for each value of Python numbers among the arguments and of those that the function
        takes from outside by name; later calls replay that. Elsewhere it runs the function.

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
        static = {range(len(args))[number] for number in _within(numbers, len(args), f)}
        leaves, treedef = tree.flatten((tuple(None if i in static else a for i, a in enumerate(args)), kwargs))
        dynamic = [_is_dynamic(leaf) for leaf in leaves]
        given = [leaf for leaf, is_dynamic in zip(leaves, dynamic, strict=True) if is_dynamic]
        arrays, places = _tied(given)
        backend = _first_backend(arrays)
        if backend is None:
            return f(*args, **kwargs)
        constants = tuple(leaf for leaf, is_dynamic in zip(leaves, dynamic, strict=True) if not is_dynamic)
        values = tuple(args[i] for i in sorted(static))
        _check_hashable(values, [f"static_argnums={i}, but args[{i}]" for i in sorted(static)])
        exact = tuple(map(exactly, values)), tuple(map(exactly, constants))
        if (
            replays
            and _together(backend, arrays, (*args, *kwargs.values()))
            and replayable(backend, [x for x in arrays if hasattr(x, "dtype")])
        ):
            same = (treedef, tuple(dynamic), tuple(places), exact, default_float.get())
            try:
                return _replay(f, backend, same, constants, arrays, args, kwargs, static, forms)
            except Unreplayable as why:
                forms.tell(why, functools.partial(_eagerly, f, backend))
        if type(backend).jit is Backend.jit:
            placed = [x for x in arrays if registry.find_backend(x) is backend]
            function, box = _compile(f, backend, treedef, dynamic, places, constants, args, static, donate)
            with explained(backend, named(args, kwargs), f), scope_of((placed or arrays)[0]):
                out = function(arrays)
            return box[0](out)
        # With the shapes, since what is no array in the result may depend on them.
        shapes = tuple((x.shape, x.dtype) if hasattr(x, "shape") else type(x) for x in arrays)
        key = (backend, treedef, tuple(dynamic), tuple(places), exact, shapes, default_float.get())
        _check_hashable(constants, ["a leaf of the arguments"] * len(constants))
        if key not in kept:
            wide = any(map(is_wide, arrays))
            kept[key] = wide, *_compile(f, backend, treedef, dynamic, places, constants, args, static, donate)
        wide, function, box = kept[key]
        # An array of float64 may have left the block of xdev.precision in which it was made.
        held = backend.precision("float64") if wide else contextlib.nullcontext()
        with explained(backend, named(args, kwargs), f), held:
            out = function(arrays)
        return box[0](out)

    return wrapped


def _together(backend: Backend, arrays: list[Any], given: tuple[Any, ...]) -> bool:
    """Return whether the words of generators, which the host may have, belong to the device of the arrays."""
    own = [x for x in arrays if registry.find_backend(x) is backend]
    if len(own) == len([x for x in arrays if hasattr(x, "dtype")]):
        return True
    devices = {x.device for x in given if isinstance(x, Generator)}
    return bool(own) and devices == {device_of_array(backend, own[0])}


def _replay(
    f: Callable[..., Any],
    backend: Backend,
    same: tuple[Any, ...],
    constants: tuple[Any, ...],
    arrays: list[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    static: set[int],
    forms: _Surrounded,
) -> Any:
    """Call a function that is recorded and replayed; Python numbers are the same for all calls of a recording."""
    treedef, dynamic, places, _, _ = same
    fixed = tuple(None if hasattr(x, "dtype") else x for x in arrays)
    _check_hashable(constants, ["a leaf of the arguments"] * len(constants))

    def make() -> Replayed:
        function, box = _of_arrays(f, treedef, list(dynamic), list(places), constants, args, static)

        def of_given(leaves: list[Any]) -> tuple[list[Any], Any]:
            moving = iter(leaves)
            return function([next(moving) if x is None else x for x in fixed]), box[0]

        return Replayed(of_given, backend, _no_value)

    key = (backend, *same, tuple(map(exactly, fixed)), forms.surroundings.now())
    replayed = forms.get(key, make)
    given = [x for x in arrays if hasattr(x, "dtype")]
    placed = [x for x in given if registry.find_backend(x) is backend]
    with explained(backend, named(args, kwargs), f), scope_of((placed or given)[0]):
        out, rebuild = replayed(given)
    forms.tell(replayed.why, functools.partial(_eagerly, f, backend))
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


def _tied(given: list[Any]) -> tuple[list[Any], list[int]]:
    """Return arrays and numbers, an array that stands twice only once, so that it is tied inside; and their places."""
    arrays: list[Any] = []
    places: list[int] = []
    seen: dict[int, int] = {}
    for x in given:
        place = seen.get(id(x), len(arrays))
        if place == len(arrays):
            arrays.append(x)
            if native_of(x) is not None:  # equal numbers may happen to be one object
                seen[id(x)] = place
        places.append(place)
    return arrays, places


def _check_hashable(values: tuple[Any, ...], subjects: list[str]) -> None:
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
    f: Callable[..., Any],
    backend: Backend,
    treedef: tree.TreeDef,
    dynamic: list[bool],
    places: list[int],
    constants: tuple[Any, ...],
    args: tuple[Any, ...],
    static: set[int],
    donate: bool,
) -> tuple[Callable[..., Any], list[Callable[[list[Any]], Any]]]:
    of_arrays, box = _of_arrays(f, treedef, dynamic, places, constants, args, static)
    return backend.jit(of_arrays, donate=(0,) if donate else ()), box


def _of_arrays(
    f: Callable[..., Any],
    treedef: tree.TreeDef,
    dynamic: list[bool],
    places: list[int],
    constants: tuple[Any, ...],
    args: tuple[Any, ...],
    static: set[int],
) -> tuple[Callable[[list[Any]], list[Any]], list[Any]]:
    """Return a function of lists of arrays; what makes the result of its last call is in the list beside it."""
    box: list[Any] = []
    kept = {i: args[i] for i in static}

    def of_arrays(arrays: list[Any]) -> list[Any]:
        with tracing(object()):
            moving, still = (arrays[place] for place in places), iter(constants)
            full, kwargs = tree.unflatten(treedef, [next(moving) if d else next(still) for d in dynamic])
            out, rebuild = take_apart(f(*(kept.get(i, a) for i, a in enumerate(full)), **kwargs))
            once, where = tree.unique(out)
        box[:] = [lambda results: rebuild([results[place] for place in where])]
        return once

    return of_arrays, box


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
