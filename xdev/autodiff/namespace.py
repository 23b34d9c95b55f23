"""TracedNamespace: the Array API namespace that knows traced arrays.

Requirements: one per native namespace. Each function looks at its arguments, so a namespace serves all levels of
nesting; with nothing traced it is the framework's own function. Attributes are made on first use and kept, so
that a second access is a plain attribute.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..device import namespace
from .array import TracedArray, constant, unwrap
from .record import binary, general, innermost, no_gradient, one_by_one, single, strip, unary, wrap_constant
from .rules import CONSTANT, CREATION, DEFINED, ELEMENTWISE, FRESH, GENERAL, INTERNAL, PLAIN, WITH_ARRAYS

__all__ = ["NativeNamespace", "TracedNamespace", "traced_namespace"]


class NativeNamespace:
    """A framework's namespace and the internal functions: what rules use when nothing below is traced."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self.below = self

    def __getattr__(self, name: str) -> Any:
        if name in INTERNAL:
            bind = getattr(self._native, "_bind", None)
            value: Any = functools.partial(INTERNAL[name], self)
            if bind is not None:  # enters the device, where the framework needs that
                value = bind(value, name, False)
        else:
            value = getattr(self._native, name)
        self.__dict__[name] = value
        return value


class TracedNamespace:
    """The functions of the standard on traced arrays, and the framework's own on all others.

    Parameters
    ----------
    native : namespace
        The framework's, best bound to a device.
    extension : str
        "linalg." or "fft." for these.
    parent : TracedNamespace, optional
        The namespace of an extension.
    """

    def __init__(self, native: Any, extension: str = "", parent: TracedNamespace | None = None) -> None:
        self._native = native
        self._extension = extension
        self._root = self if parent is None else parent
        self.below: Any = NativeNamespace(native) if parent is None else parent.below
        self.__name__ = native.__name__

    def __getattr__(self, name: str) -> Any:
        full = self._extension + name
        if name in INTERNAL:
            found = getattr(self.below, name)
        elif full in DEFINED:
            found = getattr(self._native, name, None)
        else:
            found = getattr(self._native, name)
        if name in ("linalg", "fft") and not self._extension:
            value: Any = TracedNamespace(found, f"{name}.", self)
        elif found is not None and (not callable(found) or isinstance(found, type) or name.startswith("__")):
            value = found
        else:
            value = self._function(full, found)
        self.__dict__[name] = value
        return value

    def _function(self, name: str, native: Any) -> Callable[..., Any]:
        xp = self._root
        if name in ELEMENTWISE:
            rule = ELEMENTWISE[name]
            return (unary if len(rule) == 1 else binary)(name, native, rule, xp)
        if name in GENERAL:
            rules = GENERAL[name]
            if len(rules) == 1 and rules[0] is not None and name not in WITH_ARRAYS:
                return single(name, native, rules[0], xp, name in FRESH)
            places = frozenset(place for place, rule in enumerate(rules) if rule is not None)
            return general(name, native, one_by_one(name, rules), places, xp, name in FRESH)
        if name in DEFINED:
            return _defined(name, native, DEFINED[name], xp)
        if name in PLAIN:
            return lambda *args, **kwargs: native(*strip(args), **_strip_values(kwargs))
        if name in CREATION:
            return lambda *args, **kwargs: wrap_constant(native(*strip(args), **_strip_values(kwargs)), xp)
        return _without_rule(name, native, xp, name in CONSTANT)

    def constant(self, value: Any) -> TracedArray:
        """Return one of the framework's own arrays as a constant."""
        return constant(value, self._root)

    def add_to_(self, x: Any, y: Any) -> Any:
        """Return x + y; in the memory of `x` only below the traced arrays."""
        return self.add(x, y)

    @staticmethod
    def moved(x: TracedArray) -> TracedArray:
        """Give an array that is on another device now the functions of that device."""
        x.xp = traced_namespace(namespace(unwrap(x)))
        return x

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._native), *self.__dict__})

    def __repr__(self) -> str:
        return f"<traced namespace of {self._native!r}>"


def _strip_values(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: strip(a) for key, a in kwargs.items()}


def _defined(name: str, native: Any, definition: Callable[..., Any], xp: TracedNamespace) -> Callable[..., Any]:
    creates = name in ("asarray", "full", "linspace")

    def call(*args: Any, **kwargs: Any) -> Any:
        traced, tape = innermost((*args, *kwargs.values()))
        if tape is None and native is not None and (traced or creates):
            return wrap_constant(native(*strip(args), **_strip_values(kwargs)), xp)
        if not traced and native is not None:
            return native(*args, **kwargs)
        return definition(xp, *args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call


def _without_rule(name: str, native: Any, xp: TracedNamespace, flat: bool) -> Callable[..., Any]:
    """Return a function whose results are constants, or which refuses traced arguments that are none."""

    def call(*args: Any, **kwargs: Any) -> Any:
        traced, tape = innermost((*args, *kwargs.values()) if kwargs else args)
        if not traced:
            return native(*args, **kwargs)
        if tape is not None and not flat:
            raise no_gradient(name)
        return wrap_constant(native(*strip(args), **_strip_values(kwargs)), xp)

    call.__name__ = call.__qualname__ = name
    return call


_namespaces: dict[int, tuple[Any, TracedNamespace]] = {}


def traced_namespace(xp: Any, /) -> TracedNamespace:
    """Return the namespace that knows traced arrays and otherwise is `xp`.

    Parameters
    ----------
    xp : namespace
        A framework's Array API namespace, or one bound to a device.

    Returns
    -------
    TracedNamespace
        One per `xp`; `xp` itself if it is one.

    Examples
    --------
    >>> import xdev
    >>> from xdev.autodiff import traced_namespace
    >>> xp = traced_namespace(xdev.device("numpy").xp)
    >>> float(xp.exp(0.0))
    1.0
    """
    if type(xp) is TracedNamespace:
        return xp
    found = _namespaces.get(id(xp))  # not every namespace hashes; the entry keeps it alive, so its id stays its own
    if found is None:
        found = _namespaces.setdefault(id(xp), (xp, TracedNamespace(xp)))
    return found[1]
