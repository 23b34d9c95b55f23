"""What tells the recorder of calls: a namespace, and the module of functions that kernels are made of.

Requirements: made once for each namespace; while nothing records, the functions are the framework's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..autodiff.array import TracedArray, constant
from ..autodiff.namespace import TracedNamespace
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
        found = _made.setdefault(id(native), (native, TracedNamespace(Recorded(backend, native, ""))))
    return found[1]


def _bound(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of raw arrays in its recording form."""

    def call(*args: Any, **kwargs: Any) -> Any:
        recorder = current.get()
        return function(*args, **kwargs) if recorder is None else recorder.call(name, function, args, kwargs)

    return call


class Functions:
    """The functions that kernels are made of, in their recording form."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = function = getattr(self._module, name)
        if callable(function):
            value = _bound(name, function)
            for method in ("reduce", "at"):
                if hasattr(function, method):
                    setattr(value, method, _bound(f"{name}.{method}", getattr(function, method)))
        self.__dict__[name] = value
        return value


class Recorded:
    """A namespace whose functions write down what they are called with.

    Attributes
    ----------
    functions
        What kernels are made of.
    kernels_
        The backend's kernels.
    """

    def __init__(self, backend: Backend, native: Any, extension: str) -> None:
        self._backend = backend
        self._native = native
        self._extension = extension
        self._plain = TracedNamespace(native).below
        self.__name__ = native.__name__
        self.functions = Functions(backend.replay.functions)
        self.kernels_ = {name: self._kernel(name, kernel) for name, kernel in backend.kernels.items()}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._native, name)
        if name in ("linalg", "fft") and not self._extension:
            value = Recorded(self._backend, value, f"{name}.")
        elif callable(value) and not isinstance(value, type) and not name.startswith("_"):
            value = _bound(self._extension + name, value)
        self.__dict__[name] = value
        return value

    # -- kernels -------------------------------------------------------------------------------------

    def _kernel(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        if name == "in_range":
            return lambda *args: kernel(*args) if (its := current.get()) is None else its.guard(kernel, args)
        return self.made_of_functions(kernel) or _bound(f"kernel {name}", kernel)

    def made_of_functions(self, kernel: Any) -> Callable[..., Any] | None:
        """Return a kernel that is made of the functions it gets, with those that record; None if it is not."""
        if type(kernel) is functools.partial and kernel.args[:1] == (self._backend.replay.functions,):
            return functools.partial(kernel.func, self.functions, *kernel.args[1:], **kernel.keywords)
        return None

    def update(self, name: str) -> Callable[..., Any] | None:
        """Return an in-place update of an optimizer in its recording form, for lists of recorded arrays."""
        inner: Any = self.made_of_functions(self._backend.inplace_update(name))
        if inner is None:
            return None

        def call(params: Any, grads: Any, state: Any, **hyper: Any) -> Any:
            xp = params[0].xp
            raw = [[_raw(x) for x in arrays] for arrays in (params, grads)]
            fields = (([_raw(x) for x in part] if type(part) is list else _raw(part)) for part in state)
            new = inner(*raw, type(state)(*fields), **hyper)

            def back(x: Any) -> Any:
                return constant(x, xp) if isinstance(x, self._backend.replay.arrays) else x

            return type(state)(*([back(x) for x in part] if type(part) is list else back(part) for part in new))

        return call

    def apart(self, x: Any) -> Any:
        """Return an array whose memory the recording made: a copy, if it came from outside."""
        recorder = current.get()
        assert recorder is not None
        x = self._backend.replay.array(x)
        return x if recorder.is_known(x) and recorder.part(x).memory.made else self.functions.array(x, copy=True)

    def whole_(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of a namespace and of arrays, recorded as one call."""
        return _bound(name, functools.partial(function, self._plain))(*args, **kwargs)

    # -- what the standard has no name for -----------------------------------------------------------

    def _bind(self, function: Callable[..., Any], name: str, creates: bool) -> Callable[..., Any]:
        """Return an internal function in a form whose parts are recorded, or as one call."""
        f, plain = self.functions, getattr(self._plain, name)
        whole = _bound(name, plain)

        def put(g: Any, key: Any, shape: tuple[int, ...]) -> Any:
            if not _is_fixed(key):
                return whole(g, key, shape)
            x = f.zeros(shape, g.dtype)
            f.copyto(_view(x, key), g)
            return x

        def setitem(x: Any, value: Any, key: Any) -> Any:
            if not _is_fixed(key):
                _refuse_mask(key)
                return whole(x, value, key)
            x = self.asarray(x, copy=True)
            into = _view(x, key)
            extra = getattr(value, "ndim", 0) - into.ndim
            f.copyto(into, value.reshape(value.shape[extra:]) if extra > 0 else value, casting="unsafe")
            return x

        def getitem(x: Any, key: Any) -> Any:
            if _is_fixed(key):
                return _view(x, key)
            _refuse_mask(key)
            return whole(x, key)

        forms: dict[str, Callable[..., Any]] = {
            "add_to_": lambda x, y: f.add(x, y, out=x),
            "getitem_": getitem,
            "put_": put,
            "setitem_": setitem,
        }
        return forms.get(name, whole)


def _is_fixed(key: Any) -> bool:
    """Return whether a basic index is the same in each call; NumPy copies what an array without axes indexes."""
    parts = key if type(key) is tuple else (key,)
    for part in parts:
        for bound in (part.start, part.stop, part.step) if type(part) is slice else ():
            if hasattr(bound, "dtype"):
                report_read("index()", bound)
    return is_basic(key) and not any(hasattr(part, "dtype") for part in parts)


def _refuse_mask(key: Any) -> None:
    recorder = current.get()
    for part in key if type(key) is tuple else (key,):
        if recorder is not None and "bool" in str(getattr(part, "dtype", type(part).__name__)):
            recorder.refuse("x[mask] has a shape that depends on the values of an array")


def _view(x: Any, key: Any) -> Any:
    key = key if type(key) is tuple else (key,)
    return x[key] if any(part is Ellipsis for part in key) else x[(*key, ...)]


def _raw(x: Any) -> Any:
    return x.__xdev_value__ if type(x) is TracedArray else x
