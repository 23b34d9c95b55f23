"""The class `Device`, and finding one: by name, by the framework's own object, or the best there is.

Requirements: one object per device; no GPU memory is touched; frameworks are imported only as far as the search needs.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

from . import floating, registry
from .contract import Backend, DeviceInfo, host_memory
from .device_names import ACCELERATORS, Spec, parse
from .errors import BackendError, DeviceError
from .namespaces import BoundNamespace

__all__ = ["Device", "Memory", "device", "devices", "find_in", "from_handle", "host", "same_hardware", "use"]

HOST = "numpy"
"""The backend that is the host: what arrives there has left the devices."""


class Memory(NamedTuple):
    """Memory of a device, in bytes."""

    total: int
    free: int


class Device:
    """One device of one framework; immutable, and one object per device.

    Attributes
    ----------
    backend : Backend
        The framework; equals its name.
    kind : str
        cpu, cuda, rocm, mps, xpu, tpu, or a kind of the backend's own.
    index : int
        Number among the devices of that kind.
    native : object
        The framework's own device object.
    xp : namespace
        The Array API namespace whose creation functions create here.
    is_host : bool
        Whether arrays here are NumPy's; every other CPU is a device.
    hardware : str
        Identity shared by frameworks: `same_hardware` compares it.
    members : tuple of Device
        The devices that a mesh of a sharded array has; empty for a single device.

    Examples
    --------
    >>> import xdev
    >>> d = xdev.device("numpy")
    >>> str(d), d.kind, d.is_host
    ('numpy:cpu:0', 'cpu', True)
    """

    __slots__ = ("__weakref__", "_text", "backend", "index", "info", "is_host", "kind", "xp")

    backend: Backend
    info: DeviceInfo
    kind: str
    index: int
    is_host: bool
    xp: BoundNamespace

    def __new__(cls, *_: Any, **__: Any) -> Device:
        raise TypeError('devices are not made but found: xdev.device("numpy"), xdev.devices()')

    @property
    def native(self) -> Any:
        return self.info.handle if self.info.native is None else self.info.native

    @property
    def hardware(self) -> str:
        return self.info.hardware or str(self)

    @property
    def name(self) -> str:
        """The hardware's name, for people."""
        return self.info.name

    @property
    def members(self) -> tuple[Device, ...]:
        return tuple(from_handle(self.backend, handle) for handle in self.info.members)

    @property
    def is_accelerator(self) -> bool:
        """Whether this is hardware apart from the CPU."""
        return self.kind in ACCELERATORS

    def memory(self) -> Memory | None:
        """Return the total and free memory in bytes, or None where the framework does not say."""
        found = self.backend.memory(self.info)
        if found is None and self.kind == "cpu":
            found = host_memory()
        return None if found is None else Memory(*found)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the framework's own calls work here."""
        return self.backend.scope(self.info)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"devices are immutable; xdev.device(...) finds another (setting {name!r})")

    def __eq__(self, other: object) -> bool:
        return self is other or other == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"xdev.device({self._text!r})"

    def __reduce__(self) -> tuple[Callable[[str], Device], tuple[str]]:
        if self.info.members:
            raise TypeError(f"{self._text} is the mesh of an array and exists in this process only; pickle its members")
        return device, (self._text,)

    def __copy__(self) -> Device:
        return self

    def __deepcopy__(self, _: Any) -> Device:
        return self

    _text: str


def _intern(backend: Backend, info: DeviceInfo) -> Device:
    found = backend.known_devices.get(info.handle)
    if found is None:
        made = object.__new__(Device)
        put = object.__setattr__
        text = f"{backend.name}:{info.kind}:{info.index}"
        put(made, "_text", text)
        put(made, "backend", backend)
        put(made, "info", info)
        put(made, "kind", info.kind)
        put(made, "index", info.index)
        put(made, "is_host", backend.is_host)
        put(made, "xp", BoundNamespace(backend, info, text))
        found = backend.known_devices.setdefault(info.handle, made)
    return cast(Device, found)


def from_handle(backend: Backend, handle: Hashable) -> Device:
    """Return the Device of a backend's handle."""
    found = backend.known_devices.get(handle)
    if found is None:
        for info in registry.devices_of(backend):
            _intern(backend, info)
        found = backend.known_devices.get(handle)
        if found is None:
            found = _intern(backend, backend.describe(handle))
            backend.known_devices[handle] = found  # a second handle of the same device, such as a mesh of one
    return cast(Device, found)


# -- finding ------------------------------------------------------------------------------------------


def find_in(backend: Backend, spec: Spec) -> Device | None:
    """Return the backend's best device that fits a spec, or None."""
    fits = [i for i in registry.devices_of(backend) if (i.listed or spec.kind == i.kind) and spec.fits(i.kind, i.index)]
    if spec.kind is None and spec.index is not None:  # "cupy:1" counts among the devices of the best kind
        best = next((i.kind for i in registry.devices_of(backend) if i.listed), None)
        fits = [info for info in fits if info.kind == best]
    return _intern(backend, fits[0]) if fits else None


def _in_backend(spec: Spec) -> Device:
    backend = registry.backend(cast(str, spec.backend))
    found = find_in(backend, spec)
    if found is not None:
        return found
    for met in backend.known_devices.values():  # such as the mesh of a sharded array
        if met == spec.text:
            return cast(Device, met)
    have = [
        f"{backend.name}:{i.kind}:{i.index}" for i in registry.devices_of(backend) if i.listed or i.kind == spec.kind
    ]
    close = difflib.get_close_matches(spec.text, have, 1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise DeviceError(f"{spec.text!r} is no device of this machine{hint} {backend.name} has {', '.join(have)}")


def _in_any_backend(spec: Spec) -> Device:
    reasons = []
    have: dict[str, None] = {}
    for name in registry.names():
        try:
            found = find_in(registry.backend(name), spec)
            have |= dict.fromkeys(
                f"{i.kind}:{i.index}" for i in registry.devices_of(registry.backend(name)) if i.listed
            )
        except BackendError as error:
            reasons.append(str(error).splitlines()[0])
            continue
        if found is not None:
            return found
    why = "".join(f"\n  {reason}" for reason in reasons)
    close = difflib.get_close_matches(spec.text, have, 1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise DeviceError(
        f"no usable backend has a device {spec.text!r}{hint} Here are {', '.join(have)}, and `xdev devices` says "
        f"more.{why}"
    )


def _best() -> Device:
    """Return the first accelerator in order of the backends, else the first backend's best device."""
    first = None
    for name in registry.names():
        try:
            backend = registry.backend(name)
            infos = [info for info in registry.devices_of(backend) if info.listed]
        except BackendError:
            continue
        if infos and infos[0].kind in ACCELERATORS:
            return _intern(backend, infos[0])
        if infos and first is None:
            first = _intern(backend, infos[0])
    if first is None:
        raise DeviceError("no backend is usable; `xdev doctor` says why")
    return first


_named: dict[str, tuple[int, Device]] = {}
"""Devices by the names that were asked for, and the registry's generation at that time."""


def _by_name(text: str) -> Device:
    known = _named.get(text)
    if known is not None and known[0] == registry.generation():
        floating.tell(known[1].backend)
        return known[1]
    spec = parse(text)
    if spec.backend is None:  # depends on XDEV_BACKENDS
        return _in_any_backend(spec)
    found = _in_backend(spec)
    _named[text] = registry.generation(), found
    return found


def _from_environment(text: str) -> Device:
    try:
        return _by_name(text)
    except (BackendError, DeviceError) as error:
        raise type(error)(f"XDEV_DEVICE={text}: {error}") from error


def device(spec: Any = None, /) -> Device:
    """Find a device.

    Parameters
    ----------
    spec : str, Device, a framework's own device, or None
        A name such as "torch", "torch:cuda:1", "cuda" or "gpu". `None` is the innermost `xdev.use`, else the
        environment variable `XDEV_DEVICE`, else the best: accelerators before CPUs, then by the backends' priority.

    Returns
    -------
    Device
        The one object that stands for it.

    Raises
    ------
    DeviceError
        If there is no such device; suggests the nearest name.
    BackendUnavailable
        If the backend is not installed or not usable; says why and what to do.

    Examples
    --------
    >>> import xdev
    >>> print(xdev.device("numpy:cpu"))
    numpy:cpu:0
    """
    if isinstance(spec, Device):
        return spec
    if isinstance(spec, str):
        return _by_name(spec)
    if spec is None:
        current = _current.get()
        if current is not None:
            return current
        wanted = os.environ.get("XDEV_DEVICE")
        return _from_environment(wanted) if wanted else _best()
    for backend in registry.loaded():
        with contextlib.suppress(BackendError):
            handle = backend.handle_of(spec)
            if handle is not None:
                return from_handle(backend, handle)
    raise DeviceError(
        f"{spec!r} is not a device of this machine; give a name such as 'torch:cuda:0', an xdev.Device, or a device of "
        "a framework that is imported; `xdev devices` lists what there is"
    )


def devices() -> list[Device]:
    """List the usable devices of all installed backends, best first.

    Returns
    -------
    list of Device
        Accelerators before CPUs, then in the order of the backends.

    Examples
    --------
    >>> import xdev
    >>> xdev.device("numpy") in xdev.devices()
    True
    """
    found = []
    for backend in registry.backends():
        with contextlib.suppress(BackendError):
            found += [_intern(backend, info) for info in registry.devices_of(backend) if info.listed]
    return sorted(found, key=lambda d: not d.is_accelerator)


def host() -> Device:
    """Return the host: NumPy's device."""
    return _in_backend(Spec(HOST, None, None, HOST))


def same_hardware(a: Any, b: Any, /) -> bool:
    """Tell whether two devices are the same hardware, whatever their frameworks.

    Parameters
    ----------
    a, b : str or Device
        The devices.

    Returns
    -------
    bool
        True for `torch:cuda:1` and `cupy:cuda:1`.

    Examples
    --------
    >>> import xdev
    >>> xdev.same_hardware("numpy", "numpy:cpu:0")
    True
    """
    return device(a).hardware == device(b).hardware


_current: ContextVar[Device | None] = ContextVar("xdev current device", default=None)


@contextlib.contextmanager
def use(spec: Any, /) -> Iterator[Device]:
    """Make a device the default of `xdev.device()` within a block, and the framework's current device.

    Parameters
    ----------
    spec : str or Device
        The device.

    Yields
    ------
    Device
        The device.

    Notes
    -----
    The default is context-local, as contextvars are; the scope of a framework's own current device (CuPy, torch) is
    thread-local and must not span an `await`.

    Examples
    --------
    >>> import xdev
    >>> with xdev.use("numpy"):
    ...     print(xdev.device())
    numpy:cpu:0
    """
    found = device(spec)
    token = _current.set(found)
    try:
        with found.scope():
            yield found
    finally:
        _current.reset(token)
