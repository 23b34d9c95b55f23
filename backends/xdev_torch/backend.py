"""PyTorch: native gradients, eager execution, accelerators through `torch.accelerator`.

Devices are normalised: `torch.device("cuda")` and `torch.device("cuda:0")` are unequal to torch and one device here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, cast

import ml_dtypes
import numpy as np

from xdev.contract import Array, Backend, Capabilities, DeviceInfo, Finding, Node, dtype_name
from xdev.errors import CopyRequiredError
from xdev.watching import WatchCallback

__all__ = ["TorchBackend"]

_DTYPES = frozenset(
    {
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64", "complex64", "complex128",
    }
)  # fmt: skip
_VIEWS = {"bfloat16": "int16"} | dict.fromkeys(
    ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"], "uint8"
)
"""The dtypes that NumPy has from ml_dtypes only, and those under whose name their bits cross."""
_DLPACK_CPU = 1
_NOWHERE = contextlib.nullcontext()


class TorchBackend(Backend):
    """torch tensors on CPU, CUDA or ROCm, MPS, XPU, and the meta device when named."""

    name: ClassVar[str] = "torch"
    framework: ClassVar[str] = "torch"
    install: ClassVar[str] = "pip install 'xdev-array[torch]'"
    priority: ClassVar[int] = 40
    capabilities: ClassVar[Capabilities] = Capabilities(
        has_bfloat16=True,
        lazy=True,
        visible_transfers="item, tolist, numpy, cpu, float, int, bool, complex, index, print, format, np.asarray, and "
        '.to("cpu") from elsewhere, through a torch function mode; not DLPack',
    )

    def __init__(self) -> None:
        import array_api_compat.torch as xp
        import torch

        from . import gradients, kernels, optimizers, pinned, training

        self.torch: Any = torch
        self.xp: Any = xp
        self.kernels = kernels.KERNELS
        self._gradients = gradients
        self._pinned = pinned
        self._updates = optimizers.UPDATES
        self._make_trainer = training.make_trainer
        self._infos: tuple[DeviceInfo, ...] = ()

    def owns(self, x: object) -> bool:
        return isinstance(x, self.torch.Tensor)

    # -- devices -------------------------------------------------------------------------------------

    def devices(self) -> Sequence[DeviceInfo]:
        if not self._infos:
            self._infos = tuple(self._find_devices())
        return self._infos

    def _find_devices(self) -> list[DeviceInfo]:
        torch = self.torch
        found = []
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is not None and torch.accelerator.is_available():
            kind = "rocm" if accelerator.type == "cuda" and torch.version.hip else accelerator.type
            for index in range(torch.accelerator.device_count()):
                module = getattr(torch, accelerator.type, None)
                get_name = getattr(module, "get_device_name", None)
                found.append(
                    DeviceInfo(
                        kind=kind,
                        index=index,
                        handle=torch.device(accelerator.type, index),
                        name=get_name(index) if get_name else accelerator.type,
                        hardware=f"{kind}:{index}",
                    )
                )
        threads = torch.get_num_threads()
        found.append(
            DeviceInfo(
                kind="cpu",
                index=0,
                handle=torch.device("cpu"),
                name=f"CPU, {threads} threads",
                hardware="cpu",
            )
        )
        found.append(DeviceInfo(kind="meta", index=0, handle=torch.device("meta"), name="shapes only", listed=False))
        return found

    def handle_of(self, native: object) -> Hashable | None:
        if not isinstance(native, self.torch.device):
            return None
        index = native.index
        if index is None and native.type not in ("cpu", "meta") and self.torch.accelerator.is_available():
            index = self.torch.accelerator.current_device_index()
        for info in self.devices():
            handle = cast(Any, info.handle)
            if handle.type == native.type and info.index == (index or 0):
                return info.handle
        return None

    def describe(self, handle: Hashable) -> DeviceInfo:
        device = cast(Any, handle)
        kind = "rocm" if device.type == "cuda" and self.torch.version.hip else device.type
        for info in self.devices():
            if info.kind == kind and info.index == (device.index or 0):
                return info
        return DeviceInfo(kind=kind, index=device.index or 0, handle=handle, name=str(handle), listed=False)

    def device_of(self, x: Array) -> Hashable:
        return x.device  # type: ignore[no-any-return]  # a cast would cost as much as the lookup

    def has_no_device(self, x: Array) -> bool:
        return bool(x.ndim == 0 and x.device.type == "cpu")

    def scope(self, info: DeviceInfo) -> contextlib.AbstractContextManager[Any]:
        if info.kind in ("cuda", "rocm"):
            return cast("contextlib.AbstractContextManager[Any]", self.torch.cuda.device(info.handle))
        return _NOWHERE

    def bind(self, function: Callable[..., Any], name: str, info: DeviceInfo, creates: bool) -> Callable[..., Any]:
        if name == "unstack":

            @functools.wraps(function)
            def unstack(x: Array, /, *, axis: int = 0) -> Any:
                # By moveaxis, as in array-api-compat, gradients would be stacked along another axis and then copied.
                return self.torch.unbind(x, axis) if x.ndim else function(x, axis=axis)

            return unstack
        if name != "from_dlpack":
            return super().bind(function, name, info, creates)

        def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Array:
            out = self._take_in(function, x, copy).to(info.handle if device is None else device)
            return out.clone() if copy else out

        return from_dlpack

    def _take_in(self, from_dlpack: Callable[[Any], Array], x: Any, copy: bool | None) -> Array:
        """Import an array through DLPack, and what torch cannot share safely (it aborts on some) through NumPy."""
        if not isinstance(x, self.torch.Tensor) and x.__dlpack_device__()[0] == _DLPACK_CPU:
            with contextlib.suppress(BufferError, RuntimeError, TypeError):  # such as a dtype that NumPy has not
                return self._from_numpy(x if isinstance(x, np.ndarray) else np.from_dlpack(x), copy)
        return from_dlpack(x)

    def wait(self, x: Array) -> None:
        if x.device.type != "cpu":
            self.torch.accelerator.synchronize(x.device)

    def wait_device(self, info: DeviceInfo) -> None:
        if info.kind not in ("cpu", "meta"):
            self.torch.accelerator.synchronize(info.handle)

    def memory(self, info: DeviceInfo) -> tuple[int, int] | None:
        torch = self.torch
        if info.kind in ("cuda", "rocm", "xpu"):
            free, total = getattr(torch, cast(Any, info.handle).type).mem_get_info(info.handle)
            return total, free
        if info.kind == "mps":
            total = torch.mps.recommended_max_memory()
            return total, max(0, total - torch.mps.driver_allocated_memory())
        return (0, 0) if info.kind == "meta" else None

    # -- arrays --------------------------------------------------------------------------------------

    def holds(self, dtype: str, info: DeviceInfo) -> bool:
        if info.kind == "mps" and dtype in ("float64", "complex128"):
            return False
        return (dtype in _DTYPES or dtype in _VIEWS) and hasattr(self.torch, dtype)

    def place(self, x: Array, info: DeviceInfo, copy: bool | None) -> Array:
        if isinstance(x, self.torch.Tensor):
            if copy is False and self.describe(x.device) is not self.describe(info.handle):
                raise CopyRequiredError("it is on another device")
            return self._send(x, info, bool(copy))
        if info.kind == "cpu":
            return self._from_numpy(x, copy)
        if copy is False:
            raise CopyRequiredError("host memory is not the device's")
        return self._send(self._from_numpy(x, None), info, False)

    def _send(self, x: Array, info: DeviceInfo, copy: bool) -> Array:
        if self._pinned.may_send(x, info.kind):
            return self._pinned.send(x, info.handle)
        return x.to(info.handle, copy=copy)

    def _from_numpy(self, x: Any, copy: bool | None) -> Array:
        reason = _why_not_shared(x)
        if copy is False and reason:
            raise CopyRequiredError(reason)
        if copy or reason:
            x = np.array(x, dtype=x.dtype.newbyteorder("="), copy=True, order="C" if reason else "K")
        bits = _VIEWS.get(x.dtype.name)
        if bits is not None:
            return self.torch.from_numpy(x.view(bits)).view(getattr(self.torch, x.dtype.name))
        return self.torch.from_numpy(x)

    def place_all(self, arrays: list[Any], info: DeviceInfo, copy: bool | None) -> list[Array | None]:
        from_numpy, array, dtypes = self.torch.from_numpy, np.ndarray, _NATIVE
        # The flag passes over the strides of axes of length 1, and torch does not.
        plain = [type(x) is array and x.dtype in dtypes and x.flags.carray and 1 not in x.shape for x in arrays]
        if info.kind == "cpu":
            if copy:
                return [from_numpy(x.copy()) if ok else None for x, ok in zip(arrays, plain, strict=True)]
            return [from_numpy(x) if ok else None for x, ok in zip(arrays, plain, strict=True)]
        if info.kind not in self._pinned.KINDS:
            return super().place_all(arrays, info, copy)
        return [self._send(from_numpy(x), info, False) if ok else None for x, ok in zip(arrays, plain, strict=True)]

    def to_host_all(self, arrays: list[Array], copy: bool | None) -> list[Any]:
        cpu, tensor = self.torch.device("cpu"), self.torch.Tensor

        def share(x: Array) -> Any:
            if type(x) is not tensor or x.device != cpu:
                return None
            try:
                return x.numpy()  # refuses what needs a gradient, is conjugated lazily, or has no dtype there
            except (RuntimeError, TypeError):
                return None

        def duplicate(x: Array) -> Any:
            shared = share(x)
            return None if shared is None else shared.copy()

        moved = list(map(duplicate if copy else share, arrays))
        far = [n for n, x in enumerate(arrays) if moved[n] is None and self._pinned.may_fetch(x)]
        for n, x in zip(far, self._pinned.fetch([arrays[n] for n in far]), strict=True):
            moved[n] = self.to_host(x)
        return moved

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        x = self.plain(x).cpu()
        name = dtype_name(x.dtype)
        bits = _VIEWS.get(name)
        if bits is not None:
            return cast(np.ndarray, x.view(getattr(self.torch, bits)).numpy().view(getattr(ml_dtypes, name)))
        return cast(np.ndarray, x.numpy())

    def clone(self, x: Array) -> Array:
        return x.clone()

    def pointer(self, x: Array) -> int | None:
        return int(x.data_ptr()) if x.layout is self.torch.strided else None

    def plain(self, x: Array) -> Array:
        return x.detach().resolve_conj().resolve_neg()

    def adopt(self, x: Array, info: DeviceInfo) -> Array:
        if info.kind not in ("cuda", "rocm") or not hasattr(type(x), "__dlpack__"):
            return NotImplemented
        with contextlib.suppress(AttributeError, BufferError, RuntimeError, TypeError, ValueError):
            return self._take_in(self.torch.from_dlpack, x, None).to(info.handle)  # this stream waits for the other's
        return NotImplemented

    def open_node(self, x: object) -> Node | None:
        if not isinstance(x, self.torch.nn.Module | self.torch.optim.Optimizer):
            return None
        from .nodes import open_module, open_optimizer

        is_module = isinstance(x, self.torch.nn.Module)
        children, rebuild = open_module(x) if is_module else open_optimizer(x)
        return Node(children, rebuild, self, "x.state_dict()")

    # -- transformations -----------------------------------------------------------------------------

    def value_and_grad(
        self, function: Callable[[list[Array]], tuple[Array, Any]], leaves: list[Array]
    ) -> tuple[Array, Any, list[Array]]:
        return self._gradients.value_and_grad(function, leaves)

    def vjp(
        self, function: Callable[[list[Array]], list[Array]], leaves: list[Array]
    ) -> tuple[list[Array], Callable[[list[Array]], list[Array]]]:
        return self._gradients.vjp(function, leaves)

    def custom_vjp(
        self,
        function: Callable[[list[Array]], list[Array]],
        forward: Callable[[list[Array]], tuple[list[Array], list[Array]]],
        backward: Callable[[list[Array], list[Array]], list[Array | None]],
    ) -> Callable[[list[Array]], list[Array]]:
        return self._gradients.custom_vjp(function, forward, backward)

    def remat(self, function: Callable[[list[Array]], list[Array]]) -> Callable[[list[Array]], list[Array]]:
        return self._gradients.remat(function)

    def stop_gradient(self, x: Array) -> Array:
        return x.detach()

    def inplace_update(self, name: str) -> Callable[..., Any] | None:
        return self._updates.get(name)  # type: ignore[no-any-return]  # a module of the plug-in

    def trainer(self, name: str, params: list[Array]) -> Any:
        return self._make_trainer(name, params)

    # -- reports -------------------------------------------------------------------------------------

    def translate_error(self, error: Exception) -> Exception | None:
        return self._gradients.translate_error(error)  # type: ignore[no-any-return]  # a module of the plug-in

    def is_device_mismatch(self, error: BaseException) -> bool:
        return isinstance(error, RuntimeError) and "to be on the same device" in str(error)

    def diagnose(self) -> Sequence[Finding]:
        from .diagnosis import diagnose

        return diagnose(self.torch, self.devices())

    def threads(self) -> tuple[int, str] | None:
        from .diagnosis import threads

        return threads(self.torch)

    def watch_transfers(self, callback: WatchCallback) -> contextlib.AbstractContextManager[Any]:
        from .watch import WatchMode

        return WatchMode(callback)


_NATIVE = frozenset(np.dtype(name) for name in _DTYPES if hasattr(np, name))
"""The dtypes that torch shares with NumPy as they are, in the machine's byte order."""


def _why_not_shared(x: Any) -> str | None:
    """Return why torch must not share a NumPy array's memory; torch itself aborts on some of these."""
    if not isinstance(x, np.ndarray):
        return "it is a NumPy scalar"
    if not x.flags.writeable:
        return "it is read-only, and torch would write to it"
    if any(stride < 0 for stride in x.strides):
        return "it has negative strides"
    if not x.dtype.isnative:
        return "its byte order is not the machine's"
    if any(stride % x.itemsize for stride in x.strides):
        return "its strides are no multiples of its item size"
    return None
