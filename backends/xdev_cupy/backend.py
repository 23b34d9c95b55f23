"""CuPy: NumPy's semantics on CUDA and ROCm; no gradients of its own.

Work follows the thread's *current* device, so every function of the bound namespace enters the device of its
arrays; array-api-compat drops `device=` (array-api-compat#293).
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, cast

import ml_dtypes
import numpy as np

from xdev.contract import Array, Backend, Capabilities, DeviceInfo, Finding
from xdev.errors import BackendUnavailable, CopyRequiredError
from xdev.watching import WatchCallback, watch_methods

__all__ = ["CupyBackend"]

_DLPACK_CPU = 1
_REFUSALS = (AttributeError, BufferError, RuntimeError, TypeError, ValueError)
"""What frameworks raise where an array cannot be shared: its device, dtype, layout, or a gradient."""
_PINNED = 1  # cudaMemoryTypeHost
_BATCH = 64
"""Arrays that wait in pinned memory at a time."""
_SMALL = 2**20
"""Bytes up to which the time of starting a copy to the host, and of waiting for it, exceeds that of one copy more."""
_READS = (
    "get", "item", "tolist", "__float__", "__int__", "__bool__", "__complex__", "__repr__", "__str__", "__format__",
)  # fmt: skip
"""The methods of an array that bring its values to the host."""


class CupyBackend(Backend):
    """CuPy arrays on CUDA or ROCm devices."""

    name: ClassVar[str] = "cupy"
    framework: ClassVar[str] = "cupy"
    install: ClassVar[str] = "pip install 'xdev-array[cupy12]' (or [cupy13], by the version of CUDA)"
    priority: ClassVar[int] = 20
    capabilities: ClassVar[Capabilities] = Capabilities(
        lazy=True,
        visible_transfers="get, item, tolist, cupy.asnumpy, float, int, bool, complex, print, format, through the "
        "methods of its arrays; not DLPack",
    )

    def __init__(self) -> None:
        import array_api_compat.cupy as xp
        import cupy

        from . import kernels, replaying

        self.cupy: Any = cupy
        self.xp: Any = xp
        self.kernels = kernels.KERNELS
        self.replay = replaying.KIT
        self._infos: tuple[DeviceInfo, ...] = ()

    def owns(self, x: object) -> bool:
        return isinstance(x, self.cupy.ndarray)

    # -- devices -------------------------------------------------------------------------------------

    def devices(self) -> Sequence[DeviceInfo]:
        if not self._infos:
            runtime = self.cupy.cuda.runtime
            try:
                count = runtime.getDeviceCount()
            except runtime.CUDARuntimeError as error:
                raise BackendUnavailable(
                    f"CuPy is installed but finds no usable GPU ({error}). It needs an NVIDIA driver that fits its "
                    "CUDA version, or ROCm; `nvidia-smi` shows whether the driver works"
                ) from error
            if not count:
                raise BackendUnavailable("CuPy is installed but finds no GPU; check CUDA_VISIBLE_DEVICES")
            kind = "rocm" if runtime.is_hip else "cuda"
            self._infos = tuple(
                DeviceInfo(
                    kind=kind,
                    index=index,
                    handle=index,
                    native=self.cupy.cuda.Device(index),
                    name=runtime.getDeviceProperties(index)["name"].decode(),
                    hardware=f"{kind}:{index}",
                )
                for index in range(count)
            )
        return self._infos

    def device_of(self, x: Array) -> Hashable:
        return x.data.device_id  # type: ignore[no-any-return]  # a cast would cost as much as the lookup

    def scope(self, info: DeviceInfo) -> contextlib.AbstractContextManager[Any]:
        return cast("contextlib.AbstractContextManager[Any]", self.cupy.cuda.Device(info.index))

    def bind(self, function: Callable[..., Any], name: str, info: DeviceInfo, creates: bool) -> Callable[..., Any]:
        device, ndarray = self.cupy.cuda.Device, self.cupy.ndarray
        current = self.cupy.cuda.runtime.getDevice
        index = info.index

        if name == "from_dlpack":
            function = self._from_dlpack
        if creates:

            @functools.wraps(function)
            def create(*args: Any, device: Any = None, **kwargs: Any) -> Array:
                with self.scope(self._info_of(device, info)):
                    return function(*args, **kwargs)

            return create

        if name.endswith("_like"):

            @functools.wraps(function)
            def alike(x: Array, /, *args: Any, device: Any = None, **kwargs: Any) -> Array:
                with x.device if device is None and isinstance(x, ndarray) else self.scope(self._info_of(device, info)):
                    return function(x, *args, **kwargs)

            return alike

        @functools.wraps(function)
        def bound(*args: Any, **kwargs: Any) -> Any:
            if current() == index:
                return function(*args, **kwargs)
            with device(index):
                return function(*args, **kwargs)

        return bound

    def _from_dlpack(self, x: Any, /, *, copy: bool | None = None) -> Array:
        """Import an array through DLPack; CuPy's own function takes none of the host's."""
        if x.__dlpack_device__()[0] == _DLPACK_CPU:
            if copy is False:
                raise CopyRequiredError("host memory is not the device's")
            return self._send(np.from_dlpack(x))
        out = self.cupy.asarray(x) if isinstance(x, self.cupy.ndarray) else self.cupy.from_dlpack(x)
        current = self.cupy.cuda.runtime.getDevice()
        return out.copy() if copy or out.data.device_id != current else out

    def _info_of(self, native: Any, default: DeviceInfo) -> DeviceInfo:
        if native is None:
            return default
        index = native if isinstance(native, int) else native.id
        return self.devices()[index]

    def wait(self, x: Array) -> None:
        with self.cupy.cuda.Device(x.data.device_id):
            self.cupy.cuda.get_current_stream().synchronize()

    def wait_device(self, info: DeviceInfo) -> None:
        self.cupy.cuda.Device(info.index).synchronize()

    def memory(self, info: DeviceInfo) -> tuple[int, int] | None:
        with self.scope(info):
            free, total = self.cupy.cuda.runtime.memGetInfo()
        return total, free

    # -- arrays --------------------------------------------------------------------------------------

    def holds(self, dtype: str, info: DeviceInfo) -> bool:
        if dtype == "bfloat16":  # arrays of ml_dtypes' type since CuPy 14
            return int(self.version().partition(".")[0]) >= 14
        return super().holds(dtype, info)

    def dtype(self, name: str) -> Any:
        return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else super().dtype(name)

    def place(self, x: Array, info: DeviceInfo, copy: bool | None) -> Array:
        if isinstance(x, self.cupy.ndarray):
            if x.data.device_id == info.index:
                return self.clone(x) if copy else x
            if copy is False:
                raise CopyRequiredError("it is on another device")
            self.wait(x)  # the copy runs on the other device's stream, which does not wait for this one's
            with self.scope(info):
                return x.copy()
        if copy is False:
            raise CopyRequiredError("host memory is not the device's")
        with self.scope(info):
            return self._send(np.asarray(x, dtype=x.dtype.newbyteorder("=")))

    def _send(self, x: Any) -> Array:
        """Copy an array of the host to the current device, so that the source may be written as soon as this returns.

        CuPy takes it to pinned memory first, and goes on while the device reads that; but what is pinned already it
        reads where it is.
        """
        attributes = self.cupy.cuda.runtime.pointerGetAttributes
        pinned = x.size and attributes(x.ctypes.data).type == _PINNED
        return self.cupy.asarray(x, blocking=bool(pinned))

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        with self.cupy.cuda.Device(x.data.device_id):
            return cast(np.ndarray, self.cupy.asnumpy(x))

    def to_host_all(self, arrays: list[Array], copy: bool | None) -> list[Any]:
        moved: list[Any] = [None] * len(arrays)
        small = [n for n, x in enumerate(arrays) if 0 < x.nbytes <= _SMALL and x.dtype.kind != "V"]  # NumPy lacks those
        for start in range(0, len(small), _BATCH):
            self._fetch({n: arrays[n] for n in small[start : start + _BATCH]}, moved)
        return moved

    def _fetch(self, batch: Mapping[int, Array], moved: list[Any]) -> None:
        """Bring arrays to their places in a list on the host; all are under way before one is waited for."""
        from cupyx import empty_pinned

        staged = {}
        for n, x in batch.items():
            with self.cupy.cuda.Device(x.data.device_id):
                staged[n] = x.get(out=empty_pinned(x.shape, x.dtype, "C"), blocking=False)
        for index in {x.data.device_id for x in batch.values()}:
            with self.cupy.cuda.Device(index):
                self.cupy.cuda.get_current_stream().synchronize()
        for n, x in staged.items():
            moved[n] = x.copy()  # pinned memory goes back to the pool

    def clone(self, x: Array) -> Array:
        with self.cupy.cuda.Device(x.data.device_id):
            return x.copy()

    def inplace_update(self, name: str) -> Any:
        from . import optimizers

        return optimizers.UPDATES.get(name)

    def pointer(self, x: Array) -> int | None:
        return int(x.data.ptr)

    def adopt(self, x: Array, info: DeviceInfo) -> Array:
        # DLPack first: through it this stream waits for that of the other framework, whose CUDA array interface may
        # not name one.
        taken = None
        with self.scope(info), contextlib.suppress(*_REFUSALS):
            if hasattr(type(x), "__dlpack__"):
                taken = self.cupy.from_dlpack(x)
        with self.scope(info), contextlib.suppress(*_REFUSALS):
            if taken is None and hasattr(x, "__cuda_array_interface__"):
                taken = self.cupy.asarray(x)
        return NotImplemented if taken is None else self.place(taken, info, None)

    # -- reports -------------------------------------------------------------------------------------

    def version(self) -> str:
        return str(self.cupy.__version__)

    def watch_transfers(self, callback: WatchCallback) -> contextlib.AbstractContextManager[Any]:
        return watch_methods(self.cupy.ndarray, "cupy.ndarray", _READS, callback)

    def diagnose(self) -> Sequence[Finding]:
        found = []
        if os.environ.get("CUPY_TF32", "0") not in ("", "0"):
            found.append(
                Finding(
                    "warning",
                    f"float32 matmuls of CuPy run in TF32 (CUPY_TF32={os.environ['CUPY_TF32']})",
                    "For full float32, start without CUPY_TF32.",
                )
            )
        infos: Sequence[DeviceInfo] = ()
        with contextlib.suppress(BackendUnavailable):
            infos = self.devices()
        for info in infos:
            with self.scope(info):
                kept = self.cupy.get_default_memory_pool().free_bytes()
            found.append(
                Finding(
                    "note",
                    f"CuPy keeps memory of {info.hardware} that it has freed, {kept:,} bytes now, and other frameworks "
                    "there cannot use it",
                    "cupy.get_default_memory_pool().free_all_blocks() gives it back; cupy.cuda.set_allocator takes "
                    "another framework's pool.",
                    hardware=info.hardware,
                )
            )
        return found

    def is_device_mismatch(self, error: BaseException) -> bool:
        return isinstance(error, ValueError) and "different from the current device" in str(error)
