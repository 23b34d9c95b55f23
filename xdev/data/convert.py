"""Casting data to what a model and a device need, once and not silently."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from .. import transfer, tree
from ..contract import dtype_name
from ..device import Device, namespace
from ..errors import DTypeError

__all__ = ["convert", "float_dtype"]

_log = logging.getLogger("xdev")
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_NARROWER = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}


def float_dtype(model: Any) -> str | None:
    """Return the floating dtype of a model: that of its first floating array."""
    for leaf in tree.leaves(model):
        name = dtype_name(leaf.dtype) if hasattr(leaf, "dtype") else ""
        if name in _FLOATS:
            return name
    return None


def convert(data: Any, device: Device, dtype: str | None, *, quiet: bool = False) -> tuple[Any, list[str]]:
    """Return data whose dtypes the device can hold and the model expects, and a note on each cast."""
    paths, leaves, treedef = tree.flatten_with_paths(data)
    notes: list[str] = []
    out = []
    for path, leaf in zip(paths, leaves, strict=True):
        name = dtype_name(leaf.dtype)
        wanted = _wanted(name, device, dtype)
        if wanted != name:
            where = tree.path_string(path, "data")
            if wanted in ("int32", "uint32"):
                _check_fits(leaf, wanted, where, device)
            xp = namespace(leaf)
            leaf = xp.astype(leaf, getattr(xp, wanted))
            notes.append(f"{where}: {name} cast to {wanted}")
        out.append(leaf)
    for note in () if quiet else notes:
        _log.info(note)
    return tree.unflatten(treedef, out), notes


def _wanted(name: str, device: Device, dtype: str | None) -> str:
    if dtype is not None and name in _FLOATS:
        return dtype
    if device.backend.holds(name, device.info):
        return name
    return _NARROWER.get(name, name)


def _check_fits(leaf: Any, wanted: str, where: str, device: Device) -> None:
    xp = namespace(leaf)
    low, high = transfer.item(xp.min(leaf)), transfer.item(xp.max(leaf))
    limits = np.iinfo(wanted)
    if low < limits.min or high > limits.max:
        raise DTypeError(
            f"{where} has values from {low} to {high}, and {device} has no 64-bit integers: they do not fit {wanted}. "
            'Renumber them, or work within `with xdev.precision("float64"):`'
        )
