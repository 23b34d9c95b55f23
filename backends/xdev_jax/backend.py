"""JAX: native gradients and compilation, asynchronous dispatch, immutable arrays.

Memory that others can write is never aliased unless `copy=False` is said: JAX aliases aligned NumPy memory in places
where it documents a copy, and copies asynchronously where it does copy.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, cast

import numpy as np

from xdev.contract import Array, Backend, Capabilities, DeviceInfo, Finding, Node, host_memory
from xdev.errors import BackendUnavailable, CopyRequiredError, DTypeError
from xdev.watching import WatchCallback, watch_methods

__all__ = ["JaxBackend"]

_WIDE = frozenset({"float64", "complex128", "int64", "uint64"})
_NATIVE = frozenset(
    map(np.dtype, ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"))
)
"""The dtypes that JAX shares with NumPy."""
_KINDS = {"gpu": "cuda", "rocm": "rocm", "cuda": "cuda", "tpu": "tpu", "cpu": "cpu", "METAL": "mps"}
_READS = (
    "item", "tolist", "__float__", "__int__", "__bool__", "__index__", "__complex__", "__repr__", "__str__",
    "__format__", "__array__",
)  # fmt: skip
"""The methods of an array that bring its values to the host."""


_ALIGNMENT = 64
"""Bytes of alignment from which on JAX takes memory as it is."""
_LARGE = 64 * 1024
"""Bytes from which on a second copy costs more than making the first one aligned."""


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
        visible_transfers="item, tolist, float, int, bool, complex, index, print, jax.device_get, through the methods "
        "of its arrays; not np.asarray and DLPack, which read the buffer itself",
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
            except (AssertionError, RuntimeError) as error:  # the former where a platform that was asked for is missing
                raise BackendUnavailable(
                    f"JAX is installed but finds no device{f': {error}' if str(error) else ''}. JAX_PLATFORMS=cpu uses "
                    "the CPU"
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
        # Of a tracer JAX would look through the whole program to say that it does not know.
        return not isinstance(x, self._tracer) and x.committed

    def wait(self, x: Array) -> None:
        if not isinstance(x, self._tracer):
            x.block_until_ready()

    def wait_device(self, info: DeviceInfo) -> None:
        self.jax.effects_barrier()
        for native in info.native.device_set if info.members else (info.native,):
            (self.jax.device_put(0.0, native) + 0).block_until_ready()

    def memory(self, info: DeviceInfo) -> tuple[int, int] | None:
        natives = info.native.device_set if info.members else (info.native,)
        if all(native.platform == "cpu" for native in natives):
            return host_memory()
        found = [native.memory_stats() or {} for native in natives]
        if not all("bytes_limit" in stats for stats in found):
            return None
        total = sum(stats["bytes_limit"] for stats in found)
        return total, total - sum(stats["bytes_in_use"] for stats in found)

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
            if isinstance(x, self._tracer):
                return moved
            if not copy:
                return moved.block_until_ready() if info.kind == "cpu" else moved
            # It may stand on NumPy memory shared by copy=False, which may be written as soon as this returns.
            return self.clone(x) if self.pointer(moved) == self.pointer(x) else moved.block_until_ready()
        if copy is False and x.size:  # without elements there is nothing to share
            return self._alias(x, info)
        return self.jax.device_put(_private(x), info.native)

    def place_all(self, arrays: list[Any], info: DeviceInfo, copy: bool | None) -> list[Array | None]:
        if info.members:  # it may not divide among them
            return [None] * len(arrays)
        held = {dtype for dtype in _NATIVE if self.holds(dtype.name, info)}
        plain = [type(x) is np.ndarray and x.dtype in held for x in arrays]
        moved = iter(self.jax.device_put([_private(x) for x, ok in zip(arrays, plain, strict=True) if ok], info.native))
        return [next(moved) if ok else None for ok in plain]

    def _alias(self, x: Any, info: DeviceInfo) -> Array:
        if not isinstance(x, np.ndarray) or not x.flags.c_contiguous or x.ctypes.data % _ALIGNMENT:
            raise CopyRequiredError("JAX shares contiguous memory aligned to 64 bytes only")
        if not x.flags.writeable:
            raise CopyRequiredError("it is read-only")
        try:
            return self.xp.from_dlpack(x, device=info.native, copy=False)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise CopyRequiredError(f"JAX refuses ({error})") from error

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def to_host_all(self, arrays: list[Array], copy: bool | None) -> list[Any]:
        plain = [not isinstance(x, self._tracer) and x.dtype in _NATIVE and not x.is_deleted() for x in arrays]
        if self.devices()[0].kind != "cpu":
            for x, ok in zip(arrays, plain, strict=True):
                if ok:
                    x.copy_to_host_async()  # all are under way before the first is waited for
        return [np.array(x) if ok else None for x, ok in zip(arrays, plain, strict=True)]

    def clone(self, x: Array) -> Array:
        copied = self.xp.array(x, dtype=x.dtype, copy=True)  # with a dtype it is no weak type, which compiles anew
        self.wait(copied)  # it copies asynchronously, and the memory beneath `x` may be NumPy's
        return copied

    def bind(self, function: Callable[..., Any], name: str, info: DeviceInfo, creates: bool) -> Callable[..., Any]:
        if name != "from_dlpack":
            return super().bind(function, name, info, creates)

        def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Array:
            # JAX's own aliases aligned memory of NumPy in spite of copy=True, and truncates what it cannot hold.
            there = info if device is None else self.describe(self.handle_of(device))
            taken = x
            if not isinstance(x, self.jax.Array):
                taken = self.adopt(x, there)
                taken = np.from_dlpack(x) if taken is NotImplemented else taken
                if not self.holds(taken.dtype.name, there):
                    raise DTypeError(
                        f"from_dlpack got an array of {taken.dtype.name}, which JAX cannot hold; cast it before, or "
                        'work within `with xdev.precision("float64"):`'
                    )
            return self.place(taken, there, copy)

        return from_dlpack

    def pointer(self, x: Array) -> int | None:
        if isinstance(x, self._tracer) or len(x.sharding.device_set) != 1:
            return None
        return int(x.unsafe_buffer_pointer())

    def adopt(self, x: Array, info: DeviceInfo) -> Array:
        if info.kind == "cpu" or not hasattr(type(x), "__dlpack__"):
            return NotImplemented
        with contextlib.suppress(AttributeError, BufferError, RuntimeError, TypeError, ValueError):
            return self.clone(self.xp.from_dlpack(x, device=info.native))  # waited for: its owner may write to it
        return NotImplemented

    def open_node(self, x: object) -> Node | None:
        if self.jax.tree_util.all_leaves((x,)):
            return None
        found, treedef = self.jax.tree_util.tree_flatten_with_path(x, is_leaf=lambda node: node is not x)
        children = {"".join(map(str, path)): child for path, child in found}
        if len(children) < len(found):  # keys that look alike
            children = {f"[{position}]": child for position, (_, child) in enumerate(found)}
        return Node(children, lambda moved, _: treedef.unflatten(list(moved.values())))

    # -- transformations -----------------------------------------------------------------------------

    def value_and_grad(
        self, function: Callable[[list[Array]], tuple[Array, Any]], leaves: list[Array]
    ) -> tuple[Array, Any, Any]:
        constant = False

        def watched(leaves: list[Array]) -> tuple[Array, Any]:
            nonlocal constant
            value, aux = function(leaves)
            # What depends on leaves is traced as they are, and so may be what depends on arrays of an outer gradient.
            constant = all(type(value) is not type(leaf) for leaf in leaves)
            return value, aux

        (value, aux), gradients = self.jax.value_and_grad(watched, has_aux=True)(leaves)
        return value, aux, None if constant else list(map(self._beside, gradients, leaves))

    def _beside(self, gradient: Array, leaf: Array) -> Array:
        """Return a gradient where its argument is: one that JAX finds constant is made on the default device."""
        traced = isinstance(gradient, self._tracer) or isinstance(leaf, self._tracer)
        if traced or gradient.sharding == leaf.sharding:
            return gradient
        return self.jax.device_put(gradient, leaf.sharding)

    def vjp(
        self, function: Callable[[list[Array]], list[Array]], leaves: list[Array]
    ) -> tuple[list[Array], Callable[[list[Array]], list[Array]]]:
        outputs, pull = self.jax.vjp(function, leaves)
        return outputs, lambda cotangents: list(map(self._beside, pull(cotangents)[0], leaves))

    def custom_vjp(
        self,
        function: Callable[[list[Array]], list[Array]],
        forward: Callable[[list[Array]], tuple[list[Array], list[Array]]],
        backward: Callable[[list[Array], list[Array]], list[Array | None]],
    ) -> Callable[[list[Array]], list[Array]]:
        ruled = self.jax.custom_vjp(function)
        ruled.defvjp(forward, lambda residuals, cotangents: (backward(residuals, cotangents),))
        return cast("Callable[[list[Array]], list[Array]]", ruled)

    def remat(self, function: Callable[[list[Array]], list[Array]]) -> Callable[[list[Array]], list[Array]]:
        return cast("Callable[[list[Array]], list[Array]]", self.jax.checkpoint(function))

    def stop_gradient(self, x: Array) -> Array:
        return self.jax.lax.stop_gradient(x)

    def jit(self, function: Callable[..., Any], donate: tuple[int, ...] = ()) -> Callable[..., Any]:
        @functools.wraps(function)
        def told(*args: Any) -> Any:  # here it is known that something compiles
            try:
                return function(*args)
            except Exception as error:
                translated = self.translate_error(error)
                if translated is None:
                    raise
                raise translated from error

        # What is unused says where to compute all the same.
        return cast("Callable[..., Any]", self.jax.jit(told, donate_argnums=donate, keep_unused=True))

    # -- reports -------------------------------------------------------------------------------------

    def watch_transfers(self, callback: WatchCallback) -> contextlib.AbstractContextManager[Any]:
        # Its transfer guard misses reads on a CPU, and elsewhere it raises or logs, and calls nobody. The class of its
        # arrays is found without making one, which could take the memory of a GPU.
        stack = contextlib.ExitStack()
        for cls in self.jax.Array.__subclasses__():
            if "__float__" in vars(cls):
                stack.enter_context(watch_methods(cls, "jax.Array", _READS, callback))
        return stack

    def diagnose(self) -> Sequence[Finding]:
        from .diagnosis import diagnose

        return diagnose(self)

    def threads(self) -> tuple[int, str] | None:
        from .diagnosis import threads

        return threads(self)

    def translate_error(self, error: Exception) -> Exception | None:
        from .errors import translate

        return translate(self.jax, error)

    def is_device_mismatch(self, error: BaseException) -> bool:
        return isinstance(error, ValueError) and "incompatible devices" in str(error)


def _private(x: Any) -> np.ndarray[Any, Any]:
    """Return a copy that JAX may alias, as it does where it is aligned: nobody else can write to it."""
    native = x.dtype.newbyteorder("=")
    if x.nbytes < _LARGE:
        return np.array(x, dtype=native, copy=True, order="C")
    memory = np.empty(x.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copied: np.ndarray = memory[start : start + x.nbytes].view(native).reshape(x.shape)
    copied[...] = x
    return copied
