"""Batches from somewhere else: any iterable that yields trees of arrays, moved and cast as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .. import registry, transfer, tree
from ..device import Device, host
from .convert import convert

__all__ = ["Batches", "is_iterable_of_batches"]


def is_iterable_of_batches(data: Any) -> bool:
    """Return whether `data` yields batches: it can be iterated over, and is neither an array nor a tree of them."""
    return (
        tree.is_leaf(data)
        and hasattr(type(data), "__iter__")
        and not hasattr(data, "shape")
        and not isinstance(data, str | bytes)
    )


class Batches:
    """An iterable over the batches of another, on a device and in its dtypes.

    Parameters
    ----------
    source : iterable
        Yields trees of arrays.
    device : Device
        Where the batches go.
    dtype : str or None
        Floating arrays are cast to it.
    """

    def __init__(self, source: Iterable[Any], device: Device, dtype: str | None) -> None:
        self._source = source
        self._device = device
        self._dtype = dtype
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Any]:
        for batch in self._source:
            arrays = tree.map(_as_array, batch, is_leaf=transfer.is_array_list)
            converted, notes = convert(arrays, self._device, self._dtype, quiet=bool(self.notes))
            self.notes += [] if self.notes else notes
            yield transfer.to_device(converted, self._device)


def _as_array(leaf: Any) -> Any:
    return leaf if registry.find_backend(leaf) is not None else transfer.asarray(leaf, device=host())
