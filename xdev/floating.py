"""The floating dtype that a context creates by default, and the frameworks that must be told to hold it.

Requirements: the dtype belongs to a context, as contextvars do. What a framework is told holds for a thread, so that a
block tells those that its own thread uses: the loaded ones as it begins, a later one when it is first asked for there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from .contract import Array, Backend, DeviceInfo, dtype_name
from .errors import DTypeError

__all__ = [
    "Block",
    "check_held",
    "default",
    "default_as",
    "default_float",
    "default_name",
    "holding",
    "is_wide",
    "tell",
]

default_float: ContextVar[str | None] = ContextVar("xdev default float dtype", default=None)
"""The name of the dtype; None is the framework's own."""

_WIDE = frozenset({"float64", "complex128"})


class _Thread(threading.local):
    """The blocks that are open in a thread, in the order in which they began."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []


_here = _Thread()


class Block:
    """A block in which a thread's frameworks are told of a dtype.

    Blocks of asyncio tasks that share a thread may end in another order than that of their nesting: the frameworks are
    then left as if only those that are still open had been entered.
    """

    __slots__ = ("_blocks", "_stack", "_told", "dtype")

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self._stack = contextlib.ExitStack()
        self._told: list[Backend] = []
        self._blocks = _here.blocks

    def open(self) -> None:
        """Begin; nobody is told yet."""
        self._blocks.append(self)

    def tell(self, backend: Backend) -> None:
        """Tell a framework, once."""
        if backend not in self._told:
            self._stack.enter_context(backend.precision(self.dtype))
            self._told.append(backend)

    def close(self) -> None:
        """End."""
        later = self._blocks[self._blocks.index(self) + 1 :]
        for block in reversed(later):
            block._stack.close()
        self._stack.close()
        self._blocks.remove(self)
        for block in later:
            told, block._told = block._told, []
            for backend in told:
                block.tell(backend)


_defaults: ContextVar[tuple[Block, ...]] = ContextVar("xdev blocks of a context", default=())


@contextlib.contextmanager
def default(block: Block) -> Iterator[None]:
    """Set the default of a context; what ends need not be what began last, nor in the same context."""
    _set_defaults((*_defaults.get(), block))
    try:
        yield
    finally:
        _set_defaults(tuple(each for each in _defaults.get() if each is not block))


def _set_defaults(blocks: tuple[Block, ...]) -> None:
    _defaults.set(blocks)
    default_float.set(blocks[-1].dtype if blocks else None)


@contextlib.contextmanager
def default_as(dtype: str | None) -> Iterator[None]:
    """Set the default to what it was elsewhere, for what runs later or in another thread."""
    token = default_float.set(dtype)
    try:
        yield
    finally:
        default_float.reset(token)


def tell(backend: Backend) -> None:
    """Tell a framework of the blocks that are open in this thread; those that have told it do so no second time."""
    for block in _here.blocks:
        block.tell(backend)


def check_held(dtype: str, backend: Backend, info: DeviceInfo, label: str) -> None:
    """Refuse the dtype that a block sets where the device does not hold it."""
    if backend.holds(dtype, info):
        return
    tell(backend)  # another thread may have loaded it since the block began
    if backend.holds(dtype, info):
        return
    with backend.precision(dtype):
        elsewhere = backend.holds(dtype, info)
    if elsewhere:
        raise DTypeError(
            f"{label} does not hold {dtype} in this thread: the block of xdev.precision that sets it was entered in "
            f'another one, and {backend} is told for a thread. Write `with xdev.precision("{dtype}"):` in the function '
            "that runs here"
        )
    raise DTypeError(f"{label} does not hold {dtype}, which xdev.precision sets; pass dtype=, or use another device")


def default_name(backend: Backend, info: DeviceInfo, label: str) -> str:
    """Return the name of the dtype that is created by default where it is not the framework's own: float32."""
    dtype = default_float.get()
    if dtype is None:
        return "float32"
    check_held(dtype, backend, info, label)
    return dtype


# -- after the block ---------------------------------------------------------------------------------


def is_wide(x: Any) -> bool:
    """Return whether an array has a floating dtype of 64 bits, which some frameworks must be told to compute with."""
    return hasattr(x, "dtype") and dtype_name(x.dtype) in _WIDE


def holding(backend: Backend, arrays: Iterable[Array]) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which the framework computes in 64 bits if one of the arrays has them."""
    if type(backend).precision is not Backend.precision and any(map(is_wide, arrays)):
        return backend.precision("float64")
    return contextlib.nullcontext()
