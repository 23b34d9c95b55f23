"""The backend contract: what a framework must say about itself, and what it may do better than the defaults.

A backend is one class. Required: `name`, `xp`, `owns`, `devices`, `place`, `to_host`, `device_of`.
Everything else has a working default. The framework is imported in `__init__`, never at the top of the plug-in,
so that finding a plug-in costs nothing.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from .watching import WatchCallback

__all__ = [
    "Array",
    "Backend",
    "Capabilities",
    "DeviceInfo",
    "Finding",
    "Node",
    "dtype_name",
    "host_memory",
    "nbytes_of",
]

Array = Any  # arrays are the frameworks' own; no common static type exists


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What arrays of a backend can do, as flags that the core and tests read instead of names.

    Attributes
    ----------
    mutable
        Arrays can be written in place.
    has_bfloat16
        The backend computes in bfloat16.
    lazy
        Calls return before their result is there.
    boolean_indexing_in_jit
        Boolean masks work under `xdev.jit`.
    visible_transfers
        Which implicit crossings `watch_transfers` can report.
    checks_only
        Arrays exist to find mistakes, not for speed.
    """

    mutable: bool = True
    has_bfloat16: bool = False
    lazy: bool = False
    boolean_indexing_in_jit: bool = True
    visible_transfers: str = "none"
    checks_only: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """One device as its backend describes it.

    Attributes
    ----------
    kind
        cpu, cuda, rocm, mps, xpu, tpu, or a kind of the backend's own.
    index
        Number among the devices of that kind.
    handle
        Hashable identity, equal to what `Backend.device_of` returns for arrays there.
    native
        The framework's own device object; `handle` if not given.
    name
        The hardware's name, for people.
    hardware
        Identity shared by frameworks: equal strings are the same memory.
    listed
        Whether `xdev.devices()` shows it; unlisted devices can still be named.
    members
        The handles of the devices that an array sharded over several lies on.
    """

    kind: str
    index: int
    handle: Hashable
    native: Any = None
    name: str = ""
    hardware: str = ""
    listed: bool = True
    members: tuple[Hashable, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Something that may bite, as `xdev doctor` reports it.

    Attributes
    ----------
    level
        "note" for what is worth knowing, "warning" for what changes results or takes another framework's room.
    what
        What was found, with its value.
    remedy
        What to do about it.
    hardware
        If given, a `DeviceInfo.hardware`: it only bites where another framework has a device there.
    """

    level: Literal["note", "warning"]
    what: str
    remedy: str
    hardware: str = ""


@dataclass(frozen=True)
class Node:
    """A container that is no node of xdev's trees, opened so that what it holds can move.

    Attributes
    ----------
    children
        What it holds, by the step of a path that leads there, such as ".weight".
    rebuild
        From what became of the children, and a dict that all nodes of a tree share, to a container of the same type.
    backend
        If given, the children must stay arrays of that backend.
    instead
        What to move to another framework then, in code, of the container `x`.
    """

    children: Mapping[str, Any]
    rebuild: Callable[[dict[str, Any], dict[Any, Any]], Any]
    backend: Backend | None = None
    instead: str = ""


_dtype_names: dict[tuple[type, Any], str] = {}


def dtype_name(dtype: Any) -> str:
    """Return the standard's name of any framework's dtype object, such as "float32"."""
    key = type(dtype), dtype  # dtypes of two frameworks may be equal, or warn when they are compared
    try:
        return _dtype_names[key]
    except (KeyError, TypeError):  # not met yet, or it does not hash
        name = _dtype_name(dtype)
    if isinstance(dtype, Hashable):
        _dtype_names[key] = name
    return name


def _dtype_name(dtype: Any) -> str:
    if isinstance(dtype, str):
        return dtype
    text = str(dtype)
    if "." in text and "'" not in text:  # torch.float32, array_api_strict.float32
        return text.rpartition(".")[2]
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return text


def nbytes_of(x: Array) -> int:
    """Return the size of an array's elements in bytes; the standard has no `nbytes`."""
    found = getattr(x, "nbytes", None)
    return int(np.dtype(dtype_name(x.dtype)).itemsize * math.prod(x.shape) if found is None else found)


class Backend(ABC):
    """A framework, as xdev sees it.

    A backend equals its name as a string, so that `device.backend == "numpy"` reads as it should.
    """

    known_devices: dict[Hashable, Any]
    """The `xdev.Device` of each handle met so far; kept by the core."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "framework") and isinstance(getattr(cls, "name", None), str):
            cls.framework = cls.name

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.known_devices = {}
        return self

    name: ClassVar[str]
    """The first word of its devices' names, such as "torch"."""
    framework: ClassVar[str]
    """The module whose import makes its arrays exist, such as "torch"; `name` if it is not given."""
    install: ClassVar[str] = ""  # the command that installs it
    is_host: ClassVar[bool] = False
    """Whether its arrays are the host's own, so that what arrives there has left the devices; NumPy alone."""
    priority: ClassVar[int] = 0  # rank when the best device is chosen; higher comes first
    capabilities: ClassVar[Capabilities] = Capabilities()  # flags that others read instead of its name
    kernels: Mapping[str, Callable[..., Any]] = {}  # fast paths for the functions of `xdev.ops`, by name
    replay: Any = None  # what recording and replaying functions needs, where that can be
    trainer: Any = None  # (name, params) -> `xdev.train.state.Trainer` of a run with that in-place update, or None
    xp: Any  # the Array API namespace, not bound to a device

    # -- required -----------------------------------------------------------------------------------

    @abstractmethod
    def owns(self, x: object) -> bool:
        """Return whether `x` is an array of this framework; must depend on `type(x)` alone."""

    @abstractmethod
    def devices(self) -> Sequence[DeviceInfo]:
        """Return the devices, best first; raise `BackendUnavailable` with reason and remedy if there are none."""

    @abstractmethod
    def device_of(self, x: Array) -> Hashable | None:
        """Return the handle of the device of `x`; None for an array that has none, as under `jit`."""

    @abstractmethod
    def place(self, x: Array, info: DeviceInfo, copy: bool | None) -> Array:
        """Return `x`, an array of this framework or of NumPy, on that device.

        `copy=None` shares memory where that is safe, `True` never does (and the source may be written as soon as
        this returns), `False` raises `CopyRequiredError` where it cannot.
        """

    @abstractmethod
    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        """Return `x` as a NumPy array, sharing memory if it can; the values are there when it returns."""

    # -- optional: devices ---------------------------------------------------------------------------

    def describe(self, handle: Hashable) -> DeviceInfo:
        """Describe a device that `devices` does not list, such as the mesh of a sharded array."""
        raise KeyError(handle)

    def handle_of(self, native: object) -> Hashable | None:
        """Return the handle of the framework's own device object; None if `native` is no device of it here."""
        for info in self.devices():
            known = info.handle if info.native is None else info.native
            if not isinstance(native, str | int) and type(native) is type(known) and native == known:
                return info.handle
        return None

    def scope(self, info: DeviceInfo) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the framework's own calls work on that device."""
        return contextlib.nullcontext()

    def binds(self, x: Array) -> bool:
        """Return whether what a function creates must follow `x`; False for uncommitted and traced arrays."""
        return True

    def has_no_device(self, x: Array) -> bool:
        """Return whether `x` mixes with arrays of any device, as NumPy scalars do."""
        return False

    def bind(self, function: Callable[..., Any], name: str, info: DeviceInfo, creates: bool) -> Callable[..., Any]:
        """Return the function of the namespace that works on that device; `creates` marks creation functions."""
        if not creates:
            return function
        native = info.native if info.native is not None else info.handle

        @functools.wraps(function)
        def create(*args: Any, device: Any = None, **kwargs: Any) -> Array:
            return function(*args, device=native if device is None else device, **kwargs)

        return create

    def wait(self, x: Array) -> None:  # noqa: B027  doing nothing is right for eager frameworks
        """Return when `x` has been computed."""

    def wait_device(self, info: DeviceInfo) -> None:  # noqa: B027  likewise
        """Return when the device has done all work given to it."""

    def precision(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the framework lets arrays of that float dtype exist."""
        return contextlib.nullcontext()

    def memory(self, info: DeviceInfo) -> tuple[int, int] | None:
        """Return (total, free) memory in bytes, or None if the framework does not say."""
        return None

    # -- optional: arrays ----------------------------------------------------------------------------

    def holds(self, dtype: str, info: DeviceInfo) -> bool:
        """Return whether arrays of that dtype can live on that device."""
        if dtype == "bfloat16":
            return self.capabilities.has_bfloat16
        return hasattr(self.xp, dtype)

    def dtype(self, name: str) -> Any:
        """Return the framework's dtype of that name, one that `holds` accepts."""
        return getattr(self.xp, name)

    def scatter_add(self, values: Array, places: Array, size: int) -> Array:
        """Return `size` sums of the rows that share a place, or NotImplemented; by default, the kernel does."""
        kernel = self.kernels.get("scatter_add")
        return NotImplemented if kernel is None else kernel(values, places, size)

    def clone(self, x: Array) -> Array:
        """Return a copy of `x` on its device."""
        return self.xp.asarray(x, copy=True)

    def written_memory(self, x: Array) -> np.ndarray[Any, Any] | None:
        """Return the NumPy array in which `x` is written, so that it can be made read-only; None if there is none."""
        return None

    def pointer(self, x: Array) -> int | None:
        """Return the address of the first element, by which sharing is recognised, or None if not known."""
        return None

    def adopt(self, x: Array, info: DeviceInfo) -> Array:
        """Take in an array of another framework on the same hardware without the host, or return NotImplemented."""
        return NotImplemented

    def plain(self, x: Array) -> Array:
        """Return `x` as other frameworks can take it through DLPack: without a gradient, and nothing left to apply."""
        return self.stop_gradient(x)

    def place_all(self, arrays: list[Any], info: DeviceInfo, copy: bool | None) -> list[Array | None]:
        """Do what `place` does to many arrays of NumPy at once; None stands for each that `place` must take alone.

        For trees of many leaves, at the price of the framework's own calls; `copy` is True or None. What is no array of
        NumPy, such as None, gives None as well.
        """
        return [None] * len(arrays)

    def to_host_all(self, arrays: list[Array], copy: bool | None) -> list[Any]:
        """Do what `to_host` does to many arrays at once; None stands for each that `to_host` must take alone.

        An accelerator copies them all before it is waited for, once.
        """
        return [None] * len(arrays)

    def open_node(self, x: object) -> Node | None:
        """Open a container that only the framework knows, such as its modules; None if `x` is none."""
        return None

    # -- optional: transformations -------------------------------------------------------------------

    def value_and_grad(
        self, function: Callable[[list[Array]], tuple[Array, Any]], leaves: list[Array]
    ) -> tuple[Array, Any, list[Array]]:
        """Return (value, auxiliary output, gradients) of `function(leaves) -> (scalar, auxiliary)`.

        Gradients of None: the scalar depends on no leaf. `NotImplemented`, the default: by the core's own reverse mode.
        """
        return NotImplemented  # type: ignore[no-any-return]  # as binary operators do

    def vjp(
        self, function: Callable[[list[Array]], list[Array]], leaves: list[Array]
    ) -> tuple[list[Array], Callable[[list[Array]], list[Array]]]:
        """Return the outputs and the pullback of `function`; the default is `NotImplemented`, as above."""
        return NotImplemented  # type: ignore[no-any-return]  # likewise

    def custom_vjp(
        self,
        function: Callable[[list[Array]], list[Array]],
        forward: Callable[[list[Array]], tuple[list[Array], list[Array]]],
        backward: Callable[[list[Array], list[Array]], list[Array | None]],
    ) -> Callable[[list[Array]], list[Array]]:
        """Return `function` with a gradient of its own; the default is `NotImplemented`, as above.

        `forward` returns (outputs, residuals), `backward` takes residuals and the outputs' cotangents.
        """
        return NotImplemented  # type: ignore[no-any-return]  # likewise

    def remat(self, function: Callable[[list[Array]], list[Array]]) -> Callable[[list[Array]], list[Array]]:
        """Return `function` in a form that backward computes again; by default `NotImplemented`, as above."""
        return NotImplemented  # type: ignore[no-any-return]  # likewise

    def stop_gradient(self, x: Array) -> Array:
        """Return `x` as a constant."""
        return x

    def jit(self, function: Callable[..., Any], donate: tuple[int, ...] = ()) -> Callable[..., Any]:
        """Compile a function of lists of arrays; the arguments numbered in `donate` may be consumed."""
        return function

    def inplace_update(self, name: str) -> Callable[..., Any] | None:
        """Return the framework's fused in-place update for an optimizer of that name, if it has one."""
        return None

    # -- optional: reports ---------------------------------------------------------------------------

    def version(self) -> str:
        """Return the framework's version."""
        import importlib.metadata

        try:
            return importlib.metadata.version(self.framework.replace("_", "-"))
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    def diagnose(self) -> Sequence[Finding]:
        """Return what `xdev doctor` shall tell; must take no memory of an accelerator."""
        return ()

    def threads(self) -> tuple[int, str] | None:
        """Return how many threads compute on the CPU, and how to set that, in words; None if nobody knows."""
        return None

    def translate_error(self, error: Exception) -> Exception | None:
        """Return what an error of the framework shall be told as, where xdev was called; None leaves it as it is."""
        return None

    def is_device_mismatch(self, error: BaseException) -> bool:
        """Return whether an error of the framework says that arrays are on different devices."""
        return False

    def watch_transfers(self, callback: WatchCallback) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which implicit crossings to the host happen within `callback(what, array)`.

        It is entered once a thread. The callback looks for the ledgers of its own context, so that a hook which the
        whole thread or process shares tells nobody else.
        """
        return contextlib.nullcontext()

    # -- identity ------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return self is other or other == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<xdev backend {self.name!r}>"


def host_memory() -> tuple[int, int] | None:
    """Return (total, available) memory of the machine in bytes, or None where it does not say."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):
        kib = Path("/proc/meminfo").read_text(encoding="ascii").partition("MemAvailable:")[2].split()[0]
        return total, min(total, 1024 * int(kib))  # the cache of files, which gives way, counts as available
    return total, free
