"""Computing a draw, as suits the device: in blocks that stay in a CPU's cache, compiled, or at once.

Requirements: the result is the same either way, but for the last bits of normal numbers. On a CPU whose
arrays are ordinary memory the words are computed by NumPy in place, through a view: the array is the
framework's own, nothing is copied, and integer arithmetic costs a third of what the slowest framework takes
for it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..device import Device, host, namespace
from ..device import device as find_device
from ..errors import RandomError
from . import distributions
from .arguments import Shape, integer, size_of
from .threefry import SEGMENT, Key, signed

__all__ = ["fill", "threefry_bits"]

Kernel = Callable[..., Any]

BLOCK = 2**16
"""Elements computed at a time on a CPU, so that the intermediate words stay in its cache."""

THREADED = 2**20
"""Elements from which on NumPy's blocks are spread over threads."""

BUCKETED = 2**20
"""Elements up to which a power of two is compiled and cut, so that not every new shape is compiled."""


def fill(
    device: Device,
    key: Key,
    size: int,
    kernel: Kernel,
    static: tuple[Hashable, ...],
    dtype: str,
    whole: bool = False,
) -> Any:
    """Return the `size` elements that a kernel of `distributions` makes of a key; `whole` forbids blocks."""
    known = isinstance(key[0], int)
    mutable = device.backend.capabilities.mutable
    with device.scope():
        if known and mutable and device.kind == "cpu":
            made = device.xp.empty(size, dtype=device.backend.dtype(dtype))
            view = _view(made)
            if view is not None:
                _fill_view(view, key, kernel, static, whole)
                return made
        if known and not mutable and device.backend.capabilities.lazy:
            length = size if whole or size > BUCKETED else max(1024, 1 << (size - 1).bit_length())
            words = device.xp.asarray([signed(word) for word in key], dtype=device.xp.int32)
            made = _compiled(device, length, kernel, static, dtype)([words])
            return made if length == size else made[:size]
        xp = device.xp if known else namespace(key[0])
        wanted = device.backend.dtype(dtype)
        step = size if whole else BLOCK if mutable and device.kind == "cpu" else SEGMENT
        if size <= step:
            return xp.astype(kernel(xp, key, 0, size, *static), wanted, copy=False)
        spans = [(start, min(start + step, size)) for start in range(0, size, step)]
        return xp.concat([xp.astype(kernel(xp, key, *span, *static), wanted, copy=False) for span in spans])


def _view(x: Any) -> np.ndarray | None:
    """Return the memory of an array as a NumPy array that can be written, or None."""
    if isinstance(x, np.ndarray):
        return x
    try:
        view = np.from_dlpack(x)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        return None
    return view if view.flags.writeable else None


def _fill_view(view: np.ndarray, key: Key, kernel: Kernel, static: tuple[Hashable, ...], whole: bool) -> None:
    size, xp = view.size, host().xp
    if whole or size <= BLOCK:
        view[...] = kernel(xp, key, 0, size, *static)
        return

    def work(start: int) -> None:
        stop = min(start + BLOCK, size)
        view[start:stop] = kernel(xp, key, start, stop, *static)

    starts = range(0, size, BLOCK)
    threads = min(_processors(), 16) if size >= THREADED else 1
    if threads == 1:
        for start in starts:
            work(start)
        return
    with ThreadPoolExecutor(threads) as pool:  # NumPy releases the interpreter's lock within a block
        for _ in pool.map(work, starts):
            pass


def _processors() -> int:
    available = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(available(0)) if available is not None else os.cpu_count() or 1


@functools.lru_cache(maxsize=1024)
def _compiled(device: Device, size: int, kernel: Kernel, static: tuple[Hashable, ...], dtype: str) -> Any:
    def draw(leaves: list[Any]) -> Any:
        (words,) = leaves
        xp = namespace(words)
        return xp.astype(kernel(xp, (words[:1], words[1:]), 0, size, *static), device.backend.dtype(dtype))

    return device.backend.jit(draw)


def threefry_bits(key: tuple[int, int], shape: Shape, device: Device | str | None = None) -> Any:
    """Return the 32-bit words of a key, as `jax.random.bits` does.

    Parameters
    ----------
    key : tuple of two int
        The key's words, from 0 to 2**32 - 1; a seed `s` has the key (s >> 32, s & 0xFFFFFFFF).
    shape : int or tuple of int
        The shape of the result.
    device : Device, str or None
        Where to make them; None is `xdev.device()`.

    Returns
    -------
    array of uint32
        New; element `i` is the exclusive or of the two output words of Threefry-2x32 for the 64-bit counter
        `i`.

    Raises
    ------
    RandomError
        If the key is not two words, or the shape not made of non-negative integers.

    References
    ----------
    J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11 (2011).

    Examples
    --------
    >>> from xdev.random import threefry_bits
    >>> threefry_bits((0, 42), 2, "numpy")
    array([2098992034, 2919706841], dtype=uint32)
    """
    example = "threefry_bits((0, 42), (2, 3))"
    try:
        first, second = key
    except (TypeError, ValueError):
        raise RandomError(f"got the key {key!r}, expected two integers: {example}") from None
    first, second = integer(first, "a key's word", example), integer(second, "a key's word", example)
    if not (0 <= first < 2**32 and 0 <= second < 2**32):
        raise RandomError(f"got the key {key!r}, expected two integers from 0 to 2**32 - 1: {example}")
    dims, size = size_of(shape)
    made = fill(find_device(device), (first, second), size, distributions.words32, (), "uint32")
    return namespace(made).reshape(made, dims)
