"""JAX: native gradients and compilation, asynchronous dispatch, immutable arrays.

Memory that others can write is never aliased unless `copy=False` is said: JAX aliases aligned NumPy memory in places
where it documents a copy, and copies asynchronously where it does copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, cast

import numpy as np

from xdev.contract import Array, Backend, Capabilities, DeviceInfo
from xdev.errors import BackendUnavailable, CopyRequiredError

__all__ = ["JaxBackend"]

_WIDE = frozenset({"float64", "complex128", "int64", "uint64"})
_KINDS = {"gpu": "cuda", "rocm": "rocm", "cuda": "cuda", "tpu": "tpu", "cpu": "cpu", "METAL": "mps"}


class JaxBackend(Backend):
    """JAX arrays on CPU, CUDA or ROCm and TPU; a sharded array's device is a mesh."""

    name: ClassVar[str] = "jax"
    framework: ClassVar[str] = "jax"
    install: ClassVar[str] = "pip install 'xdev-array[jax]'"
    priority: ClassVar[int] = 30
    capabilities: ClassVar[Capabilities] = Capabilities(
        mutable=False,
        has_bfloat16=True,
        lazy=True,
        boolean_indexing_in_jit=False,
        visible_transfers="nothing that JAX does by itself: its transfer guard misses reads on a CPU",
    )

    def __init__(self) -> None:
        import jax
        import jax.numpy as xp

        from . import kernels

        self.jax: Any = jax
        self.xp: Any = xp
        self.kernels = kernels.KERNELS
        self._tracer: Any = jax.core.Tracer
        self._meshes: dict[Any, int] = {}
        self._infos: tuple[DeviceInfo, ...] = ()

    def owns(self, x: object) -> bool:
        return isinstance(x, self.jax.Array)

    # -- devices -------------------------------------------------------------------------------------

    def devices(self) -> Sequence[DeviceInfo]:
        if not self._infos:
            try:
                natives = list(self.jax.devices())
                if natives[0].platform != "cpu":
                    natives += self.jax.devices("cpu")
            except RuntimeError as error:
                raise BackendUnavailable(
                    f"JAX is installed but finds no device: {error}. JAX_PLATFORMS=cpu uses the CPU"
                ) from error
            self._infos = tuple(self._info(native) for native in natives)
        return self._infos

    def _info(self, native: Any) -> DeviceInfo:
        kind = _KINDS.get(native.platform, native.platform)
        if kind == "cuda" and "rocm" in getattr(native.client, "platform_version", ""):
            kind = "rocm"
        return DeviceInfo(
            kind=kind,
            index=native.id,
            handle=self.jax.sharding.SingleDeviceSharding(native),
            native=native,
            name=native.device_kind,
            hardware="cpu" if kind == "cpu" else f"{kind}:{native.id}",
        )

    def device_of(self, x: Array) -> Hashable | None:
        try:
            return x.sharding  # type: ignore[no-any-return]  # a cast would cost as much as the lookup
        except AttributeError:  # a tracer
            return None

    def handle_of(self, native: object) -> Hashable | None:
        if isinstance(native, self.jax.sharding.Sharding):
            return cast(Hashable, native)
        return super().handle_of(native)

    def describe(self, handle: Hashable) -> DeviceInfo:
        sharding = cast(Any, handle)
        natives = sorted(sharding.device_set, key=lambda native: native.id)
        infos = {info.native: info for info in self.devices()}
        if len(natives) == 1:
            return infos.get(natives[0]) or self._info(natives[0])
        index = self._meshes.setdefault(sharding, len(self._meshes))
        return DeviceInfo(
            kind="mesh",
            index=index,
            handle=handle,
            native=sharding,
            name=f"{len(natives)} devices",
            listed=False,
            members=tuple(infos[native].handle for native in natives),
        )

    def binds(self, x: Array) -> bool:
        try:
            return x.committed  # type: ignore[no-any-return]  # as above
        except (AttributeError, TypeError):  # a tracer
            return False

    def wait(self, x: Array) -> None:
        if not isinstance(x, self._tracer):
            x.block_until_ready()

    def wait_device(self, info: DeviceInfo) -> None:
        self.jax.effects_barrier()
        (self.jax.device_put(0.0, info.native) + 0).block_until_ready()

    def memory(self, info: DeviceInfo) -> tuple[int, int] | None:
        stats = info.native.memory_stats()
        if not stats or "bytes_limit" not in stats:
            return None
        return stats["bytes_limit"], stats["bytes_limit"] - stats["bytes_in_use"]

    def precision(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        if dtype != "float64":
            return contextlib.nullcontext()
        enable: Any = getattr(self.jax, "enable_x64", None)
        if enable is None:  # before jax 0.8
            import jax.experimental

            enable = jax.experimental.enable_x64
        return cast("contextlib.AbstractContextManager[Any]", enable(True))

    # -- arrays --------------------------------------------------------------------------------------

    def holds(self, dtype: str, info: DeviceInfo) -> bool:
        if dtype in _WIDE and not self.jax.config.jax_enable_x64:
            return False
        return dtype == "bool" or hasattr(self.xp, dtype)

    def place(self, x: Array, info: DeviceInfo, copy: bool | None) -> Array:
        if isinstance(x, self.jax.Array):
            moved = self.jax.device_put(x, info.native)
            if copy and not isinstance(x, self._tracer) and self.pointer(moved) == self.pointer(x):
                return self.clone(moved)
            return moved
        if copy is False:
            return self._alias(x, info)
        # A private copy, which JAX may alias as it likes: nobody else can write to it.
        private = np.array(x, dtype=x.dtype.newbyteorder("="), copy=True, order="C")
        return self.jax.device_put(private, info.native)

    def _alias(self, x: Any, info: DeviceInfo) -> Array:
        if not isinstance(x, np.ndarray) or not x.flags.c_contiguous or x.ctypes.data % 64:
            raise CopyRequiredError("JAX shares contiguous memory aligned to 64 bytes only")
        if not x.flags.writeable:
            raise CopyRequiredError("it is read-only")
        try:
            return self.xp.from_dlpack(x, device=info.native, copy=False)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise CopyRequiredError(f"JAX refuses ({error})") from error

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def clone(self, x: Array) -> Array:
        return self.xp.array(x, copy=True)

    def pointer(self, x: Array) -> int | None:
        if isinstance(x, self._tracer) or len(x.sharding.device_set) != 1:
            return None
        return int(x.unsafe_buffer_pointer())

    def adopt(self, x: Array, info: DeviceInfo) -> Array:
        if info.kind == "cpu" or not hasattr(type(x), "__dlpack__"):
            return NotImplemented
        return self.xp.from_dlpack(x, device=info.native, copy=True)

    # -- transformations -----------------------------------------------------------------------------

    def value_and_grad(
        self, function: Callable[[list[Array]], tuple[Array, Any]], leaves: list[Array]
    ) -> tuple[Array, Any, list[Array]]:
        (value, aux), gradients = self.jax.value_and_grad(function, has_aux=True)(leaves)
        return value, aux, gradients

    def vjp(
        self, function: Callable[[list[Array]], list[Array]], leaves: list[Array]
    ) -> tuple[list[Array], Callable[[list[Array]], list[Array]]]:
        outputs, pull = self.jax.vjp(function, leaves)
        return outputs, lambda cotangents: pull(cotangents)[0]

    def stop_gradient(self, x: Array) -> Array:
        return self.jax.lax.stop_gradient(x)

    def jit(self, function: Callable[..., Any], donate: tuple[int, ...] = ()) -> Callable[..., Any]:
        return cast("Callable[..., Any]", self.jax.jit(function, donate_argnums=donate))

    # -- reports -------------------------------------------------------------------------------------

    def is_device_mismatch(self, error: BaseException) -> bool:
        return isinstance(error, ValueError) and "incompatible devices" in str(error)
