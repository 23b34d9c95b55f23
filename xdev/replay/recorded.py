"""What tells the recorder of calls: a namespace, and the module of functions that kernels are made of.

Requirements: made once for each namespace; while nothing records, the functions are the framework's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..autodiff.namespace import NativeNamespace, TracedNamespace
from ..autodiff.rules.indexing import is_basic
from ..contract import Backend
from ..watching import report_read
from .recorder import current

__all__ = ["Recorded", "recorded_namespace"]

_made: dict[int, tuple[Any, TracedNamespace]] = {}


def recorded_namespace(backend: Backend, native: Any) -> TracedNamespace:
    """Return the namespace that knows traced arrays of a backend, and tells of its calls."""
    found = _made.get(id(native))
    if found is None:
        found = _made.setdefault(id(native), (native, TracedNamespace(Recorded(backend, native))))
    return found[1]


def _bound(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of raw arrays in its recording form."""

    def call(*args: Any, **kwargs: Any) -> Any:
        recorder = current.get()
        return function(*args, **kwargs) if recorder is None else recorder.call(name, function, args, kwargs)

    return call


class Functions:
    """The functions of a module or namespace in their recording form.

    Parameters
    ----------
    module : object
        What has them.
    prefix : str
        What their names are written down with: "linalg." or "fft." for an extension.
    """

    def __init__(self, module: Any, prefix: str = "") -> None:
        self._module = module
        self._prefix = prefix
        self.__name__ = module.__name__

    def __getattr__(self, name: str) -> Any:
        value = function = getattr(self._module, name)
        if name in ("linalg", "fft"):
            value = Functions(value, f"{name}.")
        elif callable(value) and not isinstance(value, type) and not name.startswith("_"):
            value = _bound(self._prefix + name, value)
            for method in ("reduce", "at"):
                if hasattr(function, method):
                    setattr(value, method, _bound(f"{name}.{method}", getattr(function, method)))
        self.__dict__[name] = value
        return value


class Recorded(Functions):
    """A namespace whose functions write down what they are called with.

    Attributes
    ----------
    functions
        What kernels are made of.
    kernels_
        The backend's kernels.
    """

    def __init__(self, backend: Backend, native: Any) -> None:
        super().__init__(native)
        self._kit = backend.replay
        self._plain = NativeNamespace(native)
        self.functions = Functions(self._kit.functions)
        self.kernels_ = {name: self._kernel(name, kernel) for name, kernel in backend.kernels.items()}

    # -- kernels -------------------------------------------------------------------------------------

    def _kernel(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        if name == "in_range":
            return _bound("guard", kernel)
        return self.made_of_functions(kernel) or _bound(f"kernel {name}", kernel)

    def made_of_functions(self, kernel: Any) -> Callable[..., Any] | None:
        """Return a kernel that is made of the functions it gets, with those that record; None if it is not."""
        if type(kernel) is not functools.partial or kernel.args[:1] != (self._kit.functions,):
            return None
        return functools.partial(kernel.func, self.functions, *kernel.args[1:], **kernel.keywords)

    def whole_(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of a namespace and of arrays, recorded as one call."""
        return _bound(name, functools.partial(function, self._plain))(*args, **kwargs)

    # -- what the standard has no name for -----------------------------------------------------------

    def _bind(self, function: Callable[..., Any], name: str, creates: bool) -> Callable[..., Any]:
        """Return an internal function in a form whose parts are recorded, or as one call."""
        f, plain = self.functions, getattr(self._plain, name)
        whole = _bound(name, plain)

        def assigned(x: Any, value: Any, basic: tuple[Any, ...]) -> Any:
            into = x[basic]
            extra = getattr(value, "ndim", 0) - into.ndim
            f.copyto(into, value.reshape(value.shape[extra:]) if extra > 0 else value, "unsafe")
            return x

        def put(g: Any, key: Any, shape: tuple[int, ...]) -> Any:
            basic = _basic(key)
            return whole(g, key, shape) if basic is None else assigned(f.zeros(shape, g.dtype), g, basic)

        def setitem(x: Any, value: Any, key: Any) -> Any:
            basic = _basic(key)
            return whole(x, value, key) if basic is None else assigned(self.asarray(x, copy=True), value, basic)

        def getitem(x: Any, key: Any) -> Any:
            basic = _basic(key)
            return whole(x, key) if basic is None else x[basic]

        forms: dict[str, Callable[..., Any]] = {
            "add_to_": lambda x, y: f.add(x, y, out=x),
            "getitem_": getitem,
            "put_": put,
            "setitem_": setitem,
        }
        return forms.get(name, whole)


def _basic(key: Any) -> tuple[Any, ...] | None:
    """Return the index of a view that is the same in each call; None for an index that makes no view."""
    parts = key if type(key) is tuple else (key,)
    for part in parts:
        for bound in (part.start, part.stop, part.step) if type(part) is slice else ():
            if hasattr(bound, "dtype"):
                report_read("index()", bound)
    # An array without axes is basic by the standard, but NumPy copies what it indexes.
    if not is_basic(key) or any(hasattr(part, "dtype") for part in parts):
        recorder = current.get()
        masked = any("bool" in str(getattr(part, "dtype", type(part).__name__)) for part in parts)
        if masked and recorder is not None:
            recorder.refuse("x[mask] has a shape that depends on the values of an array")
        return None
    return parts if any(part is Ellipsis for part in parts) else (*parts, ...)  # else a scalar may be no view
