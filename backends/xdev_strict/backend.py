"""array-api-strict: the standard and nothing else, with fake devices, so that tests find what others forgive."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np

from xdev.contract import Array, Backend, Capabilities, DeviceInfo, host_memory
from xdev.errors import CopyRequiredError
from xdev.watching import WatchCallback, watch_methods

__all__ = ["StrictBackend"]

_KINDS = {"CPU_DEVICE": "cpu"}
_NARROW = {
    "no_float64": frozenset({"float64", "complex128"}),
    "no_x64": frozenset({"float64", "complex128", "int64", "uint64"}),
}
_READS = (
    "__float__", "__int__", "__bool__", "__index__", "__complex__", "__repr__", "__str__", "__array__",
)  # fmt: skip
"""The methods of an array that bring its values to the host."""


class StrictBackend(Backend):
    """array-api-strict arrays; `strict:device1` and `strict:device2` pretend to be other hardware."""

    name: ClassVar[str] = "strict"
    framework: ClassVar[str] = "array_api_strict"
    install: ClassVar[str] = "pip install 'xdev-array[strict]'"
    priority: ClassVar[int] = 0
    capabilities: ClassVar[Capabilities] = Capabilities(
        visible_transfers="float, int, bool, complex, index, print, np.asarray, through the methods of its arrays; "
        "not DLPack",
        checks_only=True,
    )

    def __init__(self) -> None:
        import array_api_strict as xp

        self.xp: Any = xp
        self._array: Any = type(xp.zeros(1))
        self._infos: tuple[DeviceInfo, ...] = ()

    def owns(self, x: object) -> bool:
        return isinstance(x, self._array)

    def devices(self) -> Sequence[DeviceInfo]:
        if not self._infos:
            self._infos = tuple(self._info(native) for native in self.xp.__array_namespace_info__().devices())
        return self._infos

    def _info(self, native: Any) -> DeviceInfo:
        word = str(native).partition("('")[2].removesuffix("')")
        kind = _KINDS.get(word, word)
        return DeviceInfo(
            kind=kind,
            index=0,
            handle=native,
            name="NumPy underneath" if kind == "cpu" else "pretends to be a device of its own",
            hardware="cpu" if kind == "cpu" else f"strict:{kind}",
            listed=kind not in _NARROW,
        )

    def device_of(self, x: Array) -> Hashable:
        return x.device  # type: ignore[no-any-return]  # a cast would cost as much as the lookup

    def holds(self, dtype: str, info: DeviceInfo) -> bool:
        return dtype not in _NARROW.get(info.kind, ()) and hasattr(self.xp, dtype)

    def place(self, x: Array, info: DeviceInfo, copy: bool | None) -> Array:
        if isinstance(x, self._array):
            if x.device == info.handle:
                return self.clone(x) if copy else x
            if copy is False:
                raise CopyRequiredError("it is on another device")
            return x.to_device(info.handle)
        if copy is False:
            if not isinstance(x, np.ndarray) or not x.flags.writeable:
                raise CopyRequiredError("it is read-only or a NumPy scalar")
            if not x.dtype.isnative:
                raise CopyRequiredError("its byte order is not the machine's")
            if any(stride % x.itemsize for stride in x.strides):
                raise CopyRequiredError("its strides are no multiples of its item size")
            return self.xp.from_dlpack(x, device=info.handle, copy=False)
        # Writable memory shared by two frameworks is left to NumPy and torch; here arrays are the reader's own.
        return self.xp.asarray(np.array(x, dtype=x.dtype.newbyteorder("="), copy=True), device=info.handle)

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        pulled = np.from_dlpack(x)
        # The other devices only pretend not to be the host: what leaves them must not share their memory.
        if self._info(x.device).kind != "cpu":
            return pulled.copy()
        pulled.flags.writeable = False  # the memory stays the array's own: whoever wants to write takes a copy
        return pulled

    def clone(self, x: Array) -> Array:
        return self.xp.asarray(x, copy=True)

    def written_memory(self, x: Array) -> np.ndarray[Any, Any] | None:
        return getattr(x, "_array", None)  # what its methods write to

    def pointer(self, x: Array) -> int | None:
        return int(np.from_dlpack(x).__array_interface__["data"][0])

    def is_device_mismatch(self, error: BaseException) -> bool:
        return isinstance(error, ValueError) and any(
            words in str(error) for words in ("different devices", "use the same device")
        )

    def memory(self, info: DeviceInfo) -> tuple[int, int] | None:
        return host_memory()  # the devices that pretend to be others, too

    def watch_transfers(self, callback: WatchCallback) -> contextlib.AbstractContextManager[Any]:
        return watch_methods(self._array, "array_api_strict.Array", _READS, callback)
