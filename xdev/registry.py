"""Finding backends: entry points, `register`, the owner of an array. A framework is loaded only if named or imported.

Requirements: a plug-in is a class under the entry-point group "xdev.backends"; its framework counts as present when
`framework` is in `sys.modules`. The owner of an array depends on its type alone and is looked up in one dictionary.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import os
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from typing import Any

from . import floating
from .contract import Backend, DeviceInfo
from .errors import (
    ArrayTypeError,
    BackendError,
    BackendUnavailable,
    PluginError,
    UnknownBackendError,
    XdevError,
)

__all__ = ["backend", "backend_of", "backends", "find_backend", "names", "register"]

GROUP = "xdev.backends"

_lock = threading.RLock()
_classes: dict[str, type[Backend]] = {}
_instances: dict[str, Backend] = {}
_broken: dict[str, str] = {}
_changes: list[str] = []
_found_entry_points = False
owners: dict[type, Backend | None] = {}
"""The backend of each array type met so far; None for traced arrays, which hold an array of any backend."""


def register(plugin: type[Backend] | Backend) -> None:
    """Make a backend known to xdev.

    Parameters
    ----------
    plugin : subclass or instance of Backend
        The backend; a class is instantiated, and its framework imported, when it is first used.

    Raises
    ------
    PluginError
        If it does not keep the contract, or if another backend has its name.

    Examples
    --------
    >>> import xdev
    >>> xdev.register(xdev.backend("numpy"))
    Traceback (most recent call last):
    ...
    xdev.errors.PluginError: a backend named 'numpy' is registered already (xdev_numpy.backend.NumpyBackend); \
give yours another name
    """
    cls = plugin if isinstance(plugin, type) else type(plugin)
    _validate(cls, None)
    with _lock:
        _load_entry_points()
        if cls.name in _classes:
            other = _classes[cls.name]
            raise PluginError(
                f"a backend named {cls.name!r} is registered already ({other.__module__}.{other.__qualname__}); "
                "give yours another name"
            )
        if isinstance(plugin, Backend):
            _validate_instance(plugin)
            _instances[cls.name] = plugin
        _classes[cls.name] = cls
        _changes.append(cls.name)


def unregister(name: str) -> None:
    """Forget a backend that `register` added; for tests."""
    with _lock:
        _classes.pop(name, None)
        instance = _instances.pop(name, None)
        for cls in [cls for cls, owner in owners.items() if instance is not None and owner is instance]:
            del owners[cls]
        _changes.append(name)


def generation() -> int:
    """Return a number that changes when a backend is registered or forgotten, for caches."""
    return len(_changes)


def _validate(cls: Any, entry_point: str | None) -> None:
    where = f"plug-in {entry_point!r} ({cls!r})" if entry_point else f"plug-in {cls!r}"
    if not (isinstance(cls, type) and issubclass(cls, Backend)):
        raise PluginError(f"{where} is not a subclass of xdev.Backend")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    missing += [n for n in ("name", "framework") if not isinstance(getattr(cls, n, None), str)]
    if missing:
        raise PluginError(f"{where} lacks {', '.join(missing)}; xdev.Backend says what each must do")
    for name, theirs in _overridden(cls):
        wanted = inspect.signature(getattr(Backend, name))
        try:
            inspect.signature(theirs).bind(*wanted.parameters)
        except TypeError as error:
            raise PluginError(
                f"{where} has a method {name} that cannot be called as {name}{wanted}: {error}"
            ) from error
    if not cls.name.isidentifier():
        raise PluginError(f"{where} has the name {cls.name!r}; a backend's name is an identifier, such as 'torch'")
    if entry_point is not None and cls.name != entry_point:
        raise PluginError(f"{where} calls itself {cls.name!r}; the entry point and `name` must agree")


def _overridden(cls: type[Backend]) -> Iterator[tuple[str, Any]]:
    """Yield the methods of the contract that a plug-in has its own of."""
    for name, ours in vars(Backend).items():
        theirs = getattr(cls, name)
        if isinstance(ours, types.FunctionType) and not name.startswith("_") and theirs is not ours:
            yield name, theirs


def _validate_instance(made: Backend) -> None:
    if not hasattr(made, "xp"):
        raise PluginError(
            f"plug-in {type(made)!r} has no `xp`; its __init__ sets it to the framework's Array API namespace"
        )


def _load_entry_points() -> None:
    global _found_entry_points
    if _found_entry_points:
        return
    with _lock:
        if _found_entry_points:
            return
        for point in importlib.metadata.entry_points(group=GROUP):
            if point.name in _classes or point.name in _broken:
                loaded = _classes.get(point.name)
                same = loaded is not None and point.value == f"{loaded.__module__}:{loaded.__qualname__}"
                if not same and point.value not in _broken.get(point.name, ""):
                    _broken[point.name] = (
                        f"two installed plug-ins are named {point.name!r}, one of them {point.value}; uninstall one"
                    )
                    _classes.pop(point.name, None)
                continue
            try:
                cls = point.load()
                _validate(cls, point.name)
            except Exception as error:  # noqa: BLE001  one broken plug-in must not take the others down
                _broken[point.name] = f"plug-in {point.value} failed to load: {type(error).__name__}: {error}"
            else:
                _classes[point.name] = cls
        _found_entry_points = True


def names() -> list[str]:
    """Return the names of the known backends, installed or not, best first.

    Returns
    -------
    list of str
        By `XDEV_BACKENDS` (names separated by commas) if that is set, else by priority.

    Raises
    ------
    UnknownBackendError
        If `XDEV_BACKENDS` names a backend that is not known.
    """
    _load_entry_points()
    wanted = os.environ.get("XDEV_BACKENDS", "")
    chosen = list(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip()))
    if chosen:
        for name in chosen:
            _check_known(name, "XDEV_BACKENDS names an unknown")
        return chosen
    return sorted([*_classes, *_broken], key=lambda name: (-_priority(name), name))


def _priority(name: str) -> int:
    return _classes[name].priority if name in _classes else -(10**6)


def _check_known(name: str, what: str = "there is no") -> None:
    if name in _classes or name in _broken:
        return
    known = sorted([*_classes, *_broken])
    close = difflib.get_close_matches(name.strip().lower(), known, 1)
    hint = f"; did you mean {close[0]!r}? " if close else ". "
    raise UnknownBackendError(f"{what} backend {name!r}{hint}Known: {', '.join(known)}")


def is_known(name: str) -> bool:
    """Return whether a backend of that name is registered, installed or not."""
    _load_entry_points()
    return name in _classes or name in _broken


def backend(name: str) -> Backend:
    """Return the backend of that name, importing its framework.

    Parameters
    ----------
    name : str
        Such as "torch".

    Returns
    -------
    Backend
        The one instance of it.

    Raises
    ------
    UnknownBackendError
        If no plug-in has that name, suggesting the nearest; or if it is no name.
    BackendUnavailable
        If its framework is not installed or fails to import; says why and what to do.

    Examples
    --------
    >>> import xdev
    >>> xdev.backend("numpy").name
    'numpy'
    """
    if not isinstance(name, str):
        raise UnknownBackendError(
            f"backend takes a name such as 'torch', got {name!r}; a Device has the attribute `backend`, and "
            "xdev.backend_of(x) finds that of an array"
        )
    found = _instances.get(name)
    if found is not None:
        floating.tell(found)  # another thread may have loaded it within a block of this one
        return found
    _load_entry_points()
    _check_known(name)
    if name in _broken:
        raise BackendUnavailable(f"backend {name!r} cannot be used: {_broken[name]}")
    with _lock:
        if name not in _instances:
            _instances[name] = _start(_classes[name])
        found = _instances[name]
    floating.tell(found)
    return found


def _start(cls: type[Backend]) -> Backend:
    try:
        made = cls()
    except XdevError:
        raise
    except Exception as error:  # a framework may fail with anything: OSError for a library, RuntimeError for a driver
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == cls.framework
        if missing:
            what, remedy = "is not installed", f" Install it with: {cls.install}" if cls.install else ""
        else:
            what, remedy = "is installed but does not start", " `xdev doctor` tells more"
        why = f"{type(error).__name__}: {error}" if not missing else str(error)
        raise BackendUnavailable(f"backend {cls.name!r} {what} ({why}).{remedy}") from error
    _validate_instance(made)
    return made


def backends() -> list[Backend]:
    """Return the backends whose framework is installed, best first, importing them.

    Returns
    -------
    list of Backend
        Those that load; what does not is left out (`xdev doctor` says why).

    Examples
    --------
    >>> import xdev
    >>> "numpy" in xdev.backends()
    True
    """
    usable = []
    for name in names():
        try:
            usable.append(backend(name))
        except BackendError:
            continue
    return usable


def devices_of(backend: Backend) -> Sequence[DeviceInfo]:
    """Return what a backend's `devices` says; any failure of it is that backend's alone."""
    try:
        return backend.devices()
    except XdevError:
        raise
    except Exception as error:
        raise BackendUnavailable(
            f"backend {backend.name!r} failed to list its devices ({type(error).__name__}: {error})"
        ) from error


def loaded() -> list[Backend]:
    """Return the backends whose framework is imported already, loading their plug-ins."""
    _load_entry_points()
    found = []
    for name, cls in _classes.items():
        if name in _instances or cls.framework in sys.modules:
            try:
                found.append(backend(name))
            except BackendError:
                continue
    return found


def find_backend(x: object) -> Backend | None:
    """Return the backend that owns `x`, or None if it is no array, or an array traced by xdev."""
    cls = type(x)
    try:
        return owners[cls]
    except KeyError:
        return _find_owner(x, cls)


def _find_owner(x: object, cls: type) -> Backend | None:
    root = cls.__module__.partition(".")[0]
    if root == "builtins":
        return None
    _load_entry_points()
    # The latest first and the host's last: arrays of a plug-in may be a subclass of another framework's.
    latest_first = list(_classes.items())[::-1]
    for name, plugin in sorted(latest_first, key=lambda found: found[1].is_host):
        if name in _instances or plugin.framework in sys.modules:
            try:
                candidate = backend(name)
            except BackendError:
                continue
            if candidate.owns(x):
                owners[cls] = candidate
                return candidate
    return None


def backend_of(x: Any) -> Backend:
    """Return the backend that an array belongs to.

    Parameters
    ----------
    x : array
        An array of any framework, or one that xdev is tracing.

    Returns
    -------
    Backend
        Its owner.

    Raises
    ------
    ArrayTypeError
        If `x` is not an array of a known framework.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> print(xdev.backend_of(np.zeros(3)))
    numpy
    """
    owner = find_backend(x)
    if owner is not None:
        return owner
    inner = getattr(x, "__xdev_value__", None)
    if inner is not None:
        return backend_of(inner)
    raise ArrayTypeError(
        f"got {type(x).__module__}.{type(x).__qualname__}, expected an array of a known framework "
        f"({', '.join(names())}); xdev.asarray(x) makes one of numbers and lists of numbers"
    )
