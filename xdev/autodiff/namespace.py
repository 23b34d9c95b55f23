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
from .array import TracedArray, constant, recording, unwrap
from .primitive import Primitive
from .record import binary, innermost, no_gradient, single, strip, unary, wrap_constant
from .rules import CONSTANT, CREATION, DEFINED, ELEMENTWISE, FRESH, GENERAL, INTERNAL, PLAIN, SHAPES_ONLY, WITH_ARRAYS

__all__ = ["NativeNamespace", "TracedNamespace", "traced_namespace"]


class NativeNamespace:
    """A framework's namespace and the internal functions: what rules use when nothing below is traced."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self.below = self
        self.kernels = getattr(native, "kernels_", None)  # in the place of the backend's, where calls are recorded
        self.whole = getattr(native, "whole_", None)  # calls a function, recorded as one

    def __getattr__(self, name: str) -> Any:
        if name in INTERNAL:
            bind = getattr(self._native, "_bind", None)
            value: Any = functools.partial(INTERNAL[name], self)
            value = bind(value, name, False) if bind else value  # enters the device, where the framework needs that
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
        # One of its own: libraries go by it to a framework's own functions beyond the standard, which have no rules.
        self.__name__ = f"{__name__}({native.__name__})"

    def __getattr__(self, name: str) -> Any:
        full = self._extension + name
        if full in DEFINED:
            found = getattr(self._native, name, None)  # what a framework lacks is made of what it has
        else:
            found = getattr(self.below if name in INTERNAL else self._native, name)
        if name in ("linalg", "fft") and not self._extension:
            value: Any = TracedNamespace(found, f"{name}.", self)
        elif full in DEFINED or (callable(found) and not isinstance(found, type) and not name.startswith("__")):
            value = self._function(full, found)
        else:
            value = found
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
            forward = lambda below, *args, **kwargs: native(*args, **kwargs)  # noqa: E731
            made = Primitive(name, forward, rules, fresh=name in FRESH, values=name not in SHAPES_ONLY)
            made.in_parts = True
            return made
        return _without_rule(name, native, xp)

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


def _without_rule(name: str, native: Any, xp: TracedNamespace) -> Callable[..., Any]:
    """Return a function that is defined by others, or makes constants, or refuses to be differentiated."""
    definition = DEFINED.get(name)
    creates = name in CREATION or name in ("asarray", "full", "linspace")
    constant_result = creates or name in CONSTANT or name in PLAIN

    def call(*args: Any, **kwargs: Any) -> Any:
        traced, tape = innermost((*args, *kwargs.values()) if kwargs else args)
        if definition is not None and (tape is not None or native is None):
            return definition(xp, *args, **kwargs)
        if not traced and not creates:
            return native(*args, **kwargs)
        if tape is not None and not constant_result:
            raise no_gradient(name)
        return wrap_constant(native(*strip(args), **{key: strip(a) for key, a in kwargs.items()}), xp)

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
    if (recorded := recording.get()) is not None:
        return recorded  # type: ignore[no-any-return]  # a TracedNamespace
    found = _namespaces.get(id(xp))  # not every namespace hashes; the entry keeps it alive, so its id stays its own
    if found is None:
        found = _namespaces.setdefault(id(xp), (xp, TracedNamespace(xp)))
    return found[1]
