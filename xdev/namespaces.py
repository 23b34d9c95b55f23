"""Namespaces bound to a device: array-api-compat's functions, of which those that create do it on that device.

Requirements: attributes are resolved on first use and kept in the instance, so that a second access is a plain
attribute. Without a `precision` in force, a created array's default dtype is the framework's own.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from . import floating, registry
from .contract import Backend, DeviceInfo
from .errors import DeviceError
from .floating import default_float

__all__ = ["CREATION", "BoundNamespace", "unbound"]

CREATION = frozenset({"arange", "asarray", "empty", "eye", "from_dlpack", "full", "linspace", "ones", "zeros"})
"""The functions of the standard that take `device=` and no array to follow."""
FLOAT_BY_DEFAULT = frozenset({"empty", "eye", "linspace", "ones", "zeros"})
"""Those whose result is floating point unless `dtype=` says otherwise."""
FLOAT_BY_VALUE = frozenset({"arange", "asarray", "full"})
"""Those whose result is floating point if a Python number given to them is."""


class BoundNamespace:
    """The Array API namespace of one device.

    Creation functions create on the device, `*_like` functions follow their argument, and every other function is
    array-api-compat's own. `device=` of a creation function takes a Device of the backend, a device's name, or the
    framework's own device.
    """

    def __init__(self, backend: Backend, info: DeviceInfo | None, label: str) -> None:
        self._backend = backend
        self._info = info
        self._label = label
        self.__name__ = backend.xp.__name__

    def __getattr__(self, name: str) -> Any:
        try:
            value = getattr(self._backend.xp, name)
        except AttributeError:
            raise AttributeError(f"the namespace of {self._label} has no {name!r}") from None
        if isinstance(value, types.ModuleType) and name in {"linalg", "fft"}:
            value = BoundExtension(self, value)
        elif callable(value) and not isinstance(value, type) and not name.startswith("__"):
            value = self._bind(value, name, name in CREATION)
            if name in FLOAT_BY_DEFAULT or name in FLOAT_BY_VALUE:
                value = _with_default_dtype(value, self, name)
            elif name in CREATION or name.endswith("_like"):
                value = _with_devices(value, self, name)
        self.__dict__[name] = value
        return value

    def _bind(self, function: Callable[..., Any], name: str, creates: bool) -> Callable[..., Any]:
        # On a mesh, where an array lands is for its framework's sharding rules.
        if self._info is None or self._info.members:
            return function
        return self._backend.bind(function, name, self._info, creates)

    def _default_float(self, name: str) -> Any:
        info = self._info or self._backend.devices()[0]
        floating.check_held(name, self._backend, info, self._label)
        return self._backend.dtype(name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._backend.xp), *self.__dict__})

    def __repr__(self) -> str:
        return f"<namespace {self.__name__!r} on {self._label}>"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return _unpickle, (self._label,)


class BoundExtension:
    """An extension of the standard (`linalg`, `fft`) in a bound namespace."""

    def __init__(self, parent: BoundNamespace, module: types.ModuleType) -> None:
        self._parent = parent
        self._module = module
        self.__name__ = module.__name__

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if callable(value) and not isinstance(value, type):
            creates = name in {"fftfreq", "rfftfreq"}
            value = self._parent._bind(value, name, creates)
            if creates:
                value = _with_default_dtype(value, self._parent, f"fft.{name}")
        self.__dict__[name] = value
        return value

    def __repr__(self) -> str:
        return f"<namespace {self.__name__!r} on {self._parent._label}>"


_unbound: dict[str, BoundNamespace] = {}


def unbound(backend: Backend) -> Any:
    """Return the namespace of a framework that is bound to no device; within `precision` with the default it sets."""
    if default_float.get() is None:
        return backend.xp
    found = _unbound.get(backend.name)
    if found is None or found._backend is not backend:
        found = _unbound[backend.name] = BoundNamespace(backend, None, f"{backend} (no device)")
    return found


def _with_default_dtype(create: Callable[..., Any], xp: BoundNamespace, name: str) -> Callable[..., Any]:
    by_value, empty_is_float = name in FLOAT_BY_VALUE, name == "asarray"

    @functools.wraps(create)
    def create_float(*args: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
        if dtype is None:
            wanted = default_float.get()
            if wanted is not None and not (
                by_value and not any(_has_float(value, empty_is_float) for value in (*args, *kwargs.values()))
            ):
                dtype = xp._default_float(wanted)
        if device is not None:
            return _create_on(device, xp, name, create, *args, dtype=dtype, **kwargs)
        return create(*args, dtype=dtype, **kwargs)

    return create_float


def _with_devices(create: Callable[..., Any], xp: BoundNamespace, name: str) -> Callable[..., Any]:
    @functools.wraps(create)
    def created(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        return create(*args, **kwargs) if device is None else _create_on(device, xp, name, create, *args, **kwargs)

    return created


def _create_on(
    device: Any, xp: BoundNamespace, name: str, create: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Create on a device that was asked for: an `xdev.Device`, a name as `xdev.device` takes it, or the framework's."""
    if not _names_device(device):
        try:
            return create(*args, device=device, **kwargs)
        except Exception as error:  # noqa: BLE001  each framework has its own for a device that it does not know
            # A name such as "cpu", which some frameworks understand and others do not, or no device at all.
            found = _find(f"{xp._backend}:{device}" if isinstance(device, str) else device, error)
    else:
        found = _find(device, None)
    if found.backend is not xp._backend:
        raise DeviceError(
            f"{name} of the namespace of {xp._label} got device={str(found)!r}, which is a device of "
            f'{found.backend}; write xdev.device("{found}").xp.{name}'
        )
    return create(*args, device=found.native, **kwargs)


def _names_device(device: Any) -> bool:
    """Return whether it is a Device, or a name that begins with a backend's."""
    if isinstance(device, str):
        return registry.is_known(device.partition(":")[0])
    return isinstance(getattr(device, "backend", None), Backend)


def _find(device: Any, cause: Exception | None) -> Any:
    from .device_search import device as find  # the one upward reference: a namespace belongs to a device

    try:
        return find(device)
    except DeviceError as error:
        raise error from cause


def _has_float(value: Any, empty: bool) -> bool:
    """Return whether a Python number, or a list that holds one, is a float and none in it is complex.

    An empty list is what `empty` says.
    """
    if isinstance(value, list | tuple):
        kinds = {type(v) for v in _flat(value)}
        return (float in kinds and kinds <= {bool, int, float}) or (empty and not kinds)
    return type(value) is float


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _unpickle(label: str) -> BoundNamespace:
    found: BoundNamespace = _find(label, None).xp
    return found
