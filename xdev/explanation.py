"""Errors of a framework, told as what they are: arrays on different devices, values not known, no gradient.

Requirements: nothing is looked at before something was raised. What a framework raised stays the cause of what is
told. Arrays that a function takes from outside are found by its names, and blamed only if the error speaks of them.
"""

from __future__ import annotations

import dis
import functools
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

from . import autodiff, registry, tree
from .autodiff.array import unwrap
from .contract import Backend
from .device import common_device, device_of_array
from .device_search import Device
from .errors import DeviceMismatchError, GradientError, XdevError
from .locking import refusal

__all__ = ["Surroundings", "captured", "explained"]

Roots = list[tuple[str, Any]] | Callable[[], list[tuple[str, Any]]]
"""Named trees, or what makes them when an error needs them."""
DEPTH = 3
"""How far functions are followed into the functions that they call."""
_TOLD = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)


class explained:  # noqa: N801  a context, used like a function
    """Context in which errors are told as xdev's own: of different devices, or what the backend translates."""

    __slots__ = ("_backend", "_function", "_roots")

    def __init__(self, backend: Backend, roots: Roots, function: Callable[..., Any]) -> None:
        self._backend = backend
        self._roots = roots
        self._function = function

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        told_already = isinstance(error, DeviceMismatchError) and error.__cause__ is not None
        if isinstance(error, _TOLD) and not told_already:
            roots = self._roots() if callable(self._roots) else self._roots
            told = _explanation(self._backend, roots, self._function, error)
            if told is not None:
                try:
                    raise told from error
                finally:
                    del told  # which refers to this frame


def _explanation(
    backend: Backend, roots: list[tuple[str, Any]], function: Callable[..., Any], error: Exception
) -> Exception | None:
    where = None
    try:
        where = common_device(roots, "this call")
    except DeviceMismatchError as told:
        return None if isinstance(error, DeviceMismatchError) else told
    except Exception:  # noqa: BLE001  the first error is the one to tell; what is traced has no device
        pass
    if isinstance(error, XdevError) and not isinstance(error, DeviceMismatchError):
        return None
    translated = refusal(error) or backend.translate_error(error)
    if translated is not None or where is None:
        return translated
    for holder, name, leaf in captured(function):
        its = _elsewhere(backend, where, leaf, error)
        if its is not None:
            said = "" if isinstance(error, XdevError) else f" ({_first_line(error)})"
            return DeviceMismatchError(
                f"arrays are on different devices: the arguments are on {where}; {name}, which {holder} takes from "
                f'outside, is on {its}. Move it: {name} = xdev.to_device({name}, "{where}"){said}'
            )
    if isinstance(error, DeviceMismatchError):
        return None
    said = str(error)
    if isinstance(error, TypeError) and autodiff.TracedArray.__name__ in said and not said.endswith(_OTHER):
        return GradientError(
            f"a function was called that does not know arrays under differentiation ({error}). Take functions from "
            "xp = xdev.namespace(x), where x is an argument of the differentiated function, or from xdev.ops; an "
            "array captured from outside goes on the right of an operator"
        )
    if backend.is_device_mismatch(error):
        return DeviceMismatchError(
            f"arrays are on different devices, one of them not among the arguments ({error}). Move what the "
            "function takes from outside: x = xdev.to_device(x, xdev.device_of(...)), or create it with "
            "xp = xdev.namespace(x)"
        )
    return None


def _elsewhere(backend: Backend, where: Device, leaf: Any, error: Exception) -> Device | None:
    """Return the device of an array that is not where the arguments are, if the error may come of that."""
    owner = registry.find_backend(leaf)
    if owner is None or owner.has_no_device(leaf):
        return None
    its = device_of_array(owner, leaf)
    if its is None or its == where:
        return None
    text = str(error)
    if isinstance(error, DeviceMismatchError) or owner.is_device_mismatch(error):
        return its
    frame, instruction = _innermost(error)
    module = "" if frame is None else str(frame.f_globals.get("__name__", "")).partition(".")[0]
    if instruction == "RAISE_VARARGS" and module not in {backend.framework, owner.framework, *_BESIDE}:
        return None  # a statement of the user's own
    if owner is backend:
        return its if autodiff.TracedArray.__name__ in text else None
    if owner.is_host and _went_to_host(error, text):
        return None
    if owner.framework in text or re.search(rf"\b{type(leaf).__name__}\b", text):
        return its
    if owner.is_host or frame is None:
        return None
    users = module.partition("_")[0] != __package__ and module not in {backend.framework, owner.framework, *_BESIDE}
    return its if _was_handled(owner, frame) and (not users or instruction in _OPERATORS) else None


_OTHER = ("object is not callable", f"unhashable type: '{autodiff.TracedArray.__name__}'")
"""Ends of errors that say by themselves what is wrong with a traced array."""
_BESIDE = frozenset({__package__, "array_api_compat", "numpy"})
"""Packages that raise for frameworks."""
_OPERATORS = frozenset({"BINARY_OP", "BINARY_SUBSCR", "COMPARE_OP", "UNARY_NEGATIVE"})


def _innermost(error: Exception) -> tuple[types.FrameType | None, str]:
    """Return the frame in which an error was raised, and the instruction that raised it."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return (None, "") if traceback is None else (traceback.tb_frame, _instruction(traceback))


def _instruction(traceback: types.TracebackType) -> str:
    return dis.opname[traceback.tb_frame.f_code.co_code[traceback.tb_lasti]]


def _went_to_host(error: Exception, text: str) -> bool:
    """Return whether an argument was on its way to the host, rather than an array of the host to the argument."""
    if "__array__" not in text and "numpy()" not in text:
        return False
    traceback = error.__traceback__
    while traceback is not None:
        if _instruction(traceback) in _OPERATORS:  # NumPy's operators try that conversion too
            return False
        traceback = traceback.tb_next
    return True


def _was_handled(owner: Backend, frame: types.FrameType) -> bool:
    """Return whether a function is the framework's, or had one of its arrays at hand."""
    outside = frame.f_code.co_freevars
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == owner.framework or any(
        registry.find_backend(unwrap(x)) is owner for name, x in frame.f_locals.items() if name not in outside
    )


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}"


def captured(function: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield the arrays that a function takes from outside, each after the function's name and the name there.

    Followed are closures, globals, bound arguments, and, three deep, the functions found there.
    """
    seen: set[int] = set()
    level = [function]
    for _ in range(DEPTH):
        following = []
        for called in level:
            if id(called) in seen:
                continue
            seen.add(id(called))
            for name, value in _outside(called):
                if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
                    following.append(value)
                    continue
                for path, leaf in zip(*tree.flatten_with_paths(value)[:2], strict=True):
                    if registry.find_backend(leaf) is not None:
                        yield getattr(called, "__name__", "the function"), tree.path_string(path, name), leaf
        level = following


def _outside(function: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a callable holds or refers to, by name."""
    if isinstance(function, functools.partial):
        yield "function", function.func
        yield from ((f"args[{i}]", x) for i, x in enumerate(function.args))
        yield from function.keywords.items()
    elif isinstance(function, types.MethodType):
        yield "self", function.__self__
        yield "function", function.__func__
    elif isinstance(function, types.FunctionType):
        code = function.__code__
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        known = function.__globals__
        yield from ((name, known[name]) for name in dict.fromkeys(_names(code)) if name in known)
    elif callable(function) and not isinstance(function, type):
        yield "self", function
        yield "function", type(function).__call__


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the names in a function's code and in the code of functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


class Surroundings:
    """The numbers and words that a function takes from outside by name, so that it is seen when one changes.

    Followed are closures, globals and attributes of what a method is bound to, and functions found there, three deep.
    """

    def __init__(self, function: Any) -> None:
        self._cells: list[types.CellType] = []
        self._names: list[tuple[dict[str, Any], str]] = []
        seen: set[int] = set()
        level = [function]
        for _ in range(DEPTH):
            level = [found for called in level if id(called) not in seen for found in self._look(called, seen)]

    def _look(self, function: Any, seen: set[int]) -> Iterator[Any]:
        """Note what is a number or a word, and yield functions."""
        seen.add(id(function))
        for _, value in _outside(function):
            if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
                yield value
        code = getattr(function, "__code__", None)
        if isinstance(code, types.CodeType):
            owners = [getattr(function, "__globals__", {})]
            its = getattr(getattr(function, "__self__", None), "__dict__", None)
            owners += [its] if isinstance(its, dict) else []
            names = list(dict.fromkeys(_names(code)))
            self._names += [(owner, n) for owner in owners for n in names if type(owner.get(n)) in _SIMPLE]
            self._cells += getattr(function, "__closure__", None) or ()

    def now(self) -> tuple[Any, ...]:
        """Return the values of this moment, each with its type; hashable."""
        found = [owner.get(name) for owner, name in self._names]
        for cell in self._cells:
            try:
                found.append(cell.cell_contents)
            except ValueError:  # not assigned
                found.append(None)
        return tuple((type(x), x if type(x) in _SIMPLE else None) for x in found)


_SIMPLE = frozenset({bool, int, float, complex, str})
