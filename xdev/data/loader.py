"""Batches of arrays with equal leading axes, in an order that depends on the seed and the epoch alone.

Requirements: the order is worked out on the host and is the same on every backend; data that is on a device is
gathered there, data on the host is gathered there and then moved batch by batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import registry, transfer, tree
from ..contract import Backend, nbytes_of
from ..device import Device, common_device, host
from ..device import device as find_device
from ..errors import ArrayTypeError, DataError, a
from ..random import Generator
from .convert import convert

__all__ = ["Loader", "length"]


def length(data: Any) -> int:
    """Return the length of the leading axis that all arrays of a tree share."""
    paths, leaves, _ = tree.flatten_with_paths(data)
    first: tuple[str, int] | None = None
    for path, leaf in zip(paths, leaves, strict=True):
        name = tree.path_string(path, "data")
        shape = tuple(getattr(leaf, "shape", ()))
        if not shape:
            raise DataError(f"{name} is {_words(leaf)}; every array of the data needs a leading axis to batch over")
        if first is None:
            first = (name, shape[0])
        elif shape[0] != first[1]:
            raise DataError(
                f"leading axes disagree: {first[0]} has length {first[1]}, {name} has {shape[0]}; "
                "they are cut into batches together and must be equally long"
            )
    if first is None:
        raise DataError(f"data is an empty {type(data).__name__}; give arrays, such as (x, y)")
    if first[1] == 0:
        raise DataError(f"{first[0]} has length 0; there is nothing to make batches of")
    return first[1]


def _words(leaf: Any) -> str:
    return "a single number" if hasattr(leaf, "dtype") else f"{a(type(leaf).__name__)}"


class Loader:
    """An iterable over batches; each iteration is the next epoch.

    Parameters
    ----------
    data : tree of arrays
        Arrays of any framework, or lists of numbers, with equal leading axes, such as `(x, y)`.
    batch_size : int, optional
        Rows of a batch; None is one batch of everything.
    shuffle : bool, default: False
        Whether each epoch has an order of its own.
    seed : int, default: 0
        Seed of the order; with the epoch's number it is all that the order depends on.
    device : str or Device, optional
        Where the batches go; None leaves them where the data is.
    dtype : str, optional
        Floating data is cast to it, once. 64-bit integers are narrowed where the device has none, if all fit.
    drop_last : bool, default: False
        Whether a last, smaller batch is left out.

    Attributes
    ----------
    epoch : int
        Number of the next epoch; may be set to resume.
    notes : list of str
        What was cast.

    Raises
    ------
    DataError
        If leading axes disagree, there is no data, or the batch size does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.data import Loader
    >>> [len(batch) for batch in Loader(np.arange(5), batch_size=2)]
    [2, 2, 1]
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        device: Any = None,
        dtype: str | None = None,
        drop_last: bool = False,
    ) -> None:
        self.device: Device | None = None if device is None else find_device(device)
        data = _as_arrays(data)
        self.length = length(data)
        if batch_size is None:
            batch_size = self.length
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise DataError(f"batch_size must be a positive integer, got {batch_size!r}")
        if batch_size > self.length:
            raise DataError(
                f"batch_size={batch_size} is more than the {self.length} rows of the data; "
                f"use at most {self.length}, or None for one batch of everything"
            )
        self._source = common_device([("data", data)], "Loader")
        data, self.notes = convert(data, self.device or self._source, dtype)
        self._leaves, self._treedef = tree.flatten(data)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self._gather = _gather(self._source.backend)

    def __len__(self) -> int:
        if self.drop_last:
            return self.length // self.batch_size
        return math.ceil(self.length / self.batch_size)

    def make_resident(self, share: float) -> None:
        """Move all data to the device at once, if it takes at most that share of the memory free there."""
        target = self.device or self._source
        if target is self._source:
            return
        memory = target.memory()
        size = sum(nbytes_of(leaf) for leaf in self._leaves)
        if memory is None or size <= share * memory.free:
            self._leaves = transfer.to_device(self._leaves, target)
            self._source = target
            self._gather = _gather(target.backend)

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of the rows in an epoch: int32 of shape (length,), on the host."""
        if not self.shuffle:
            return np.arange(self.length, dtype=np.int32)
        key = Generator(self.seed, host()).state["key"]
        generator = Generator.from_state({"key": key, "draws": epoch}, host())
        return np.asarray(generator.permutation(self.length))

    def __iter__(self) -> Iterator[Any]:
        order = self.order(self.epoch)
        self.epoch += 1
        for leaves in self._batches(order):
            batch = tree.unflatten(self._treedef, leaves)
            away = self.device is not None and self.device is not self._source
            yield transfer.to_device(batch, self.device) if away else batch

    def _batches(self, order: np.ndarray) -> Iterator[list[Any]]:
        """Gather batch after batch where the data is; the order goes there once an epoch."""
        if not self.shuffle and self.batch_size == self.length:
            yield self._leaves
            return
        full = self.length // self.batch_size
        rows = transfer.to_device(order[: full * self.batch_size].reshape(full, self.batch_size), self._source)
        for number in range(full):
            yield self._gather(self._leaves, rows, number)
        if full < len(self):
            rest = transfer.to_device(order[None, full * self.batch_size :], self._source)
            yield self._gather(self._leaves, rest, 0)


def _as_arrays(data: Any) -> Any:
    """Turn lists of numbers into host arrays; arrays stay where they are."""
    leaves, treedef = tree.flatten(data, transfer.is_array_list)
    made = [transfer.asarray(leaf, device=host()) if type(leaf) is list else leaf for leaf in leaves]
    for leaf in made:
        try:
            registry.backend_of(leaf)
        except ArrayTypeError as error:
            raise DataError(f"data holds {a(type(leaf).__name__)}; give arrays or lists of numbers") from error
    return tree.unflatten(treedef, made)


def _gather(backend: Backend) -> Callable[[list[Any], Any, int], list[Any]]:
    xp = backend.xp

    def gather(leaves: list[Any], rows: Any, number: Any) -> list[Any]:
        chosen = rows[number, :]
        return [xp.take(leaf, chosen, axis=0) for leaf in leaves]

    return backend.jit(gather)
