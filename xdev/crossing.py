"""One array on its way from a device to another: checked, watched by ledgers and budgets, then conveyed.

Requirements: memory is shared only where that is safe: same framework, or two frameworks neither of which thinks its
memory immutable. Nothing is truncated silently.
"""

from __future__ import annotations

import time
from typing import Any, NoReturn

import numpy as np

from . import ledger
from .contract import Backend, dtype_name, nbytes_of
from .device import ACCELERATORS, Device, host
from .errors import CopyRequiredError, DTypeError, TransferError, XdevError
from .values import check_numeric, host_dtype, kind_of, refuse_dtype
from .watching import report_read

__all__ = ["cast", "cross", "read", "refuse_held", "stay", "take_in"]

_SMALLER = {"float64": "float32", "complex128": "complex64", "int64": "int32", "uint64": "uint32"}


def cross(
    x: Any,
    backend: Backend,
    source: Device,
    to: Device,
    copy: bool | None,
    path: Any,
    dtype: str | None = None,
) -> Any:
    """Move one array to another device, in a dtype."""
    name = dtype_name(x.dtype)
    wanted = name if dtype is None else dtype
    if source is to and wanted == name:
        return stay(x, backend, copy, path)
    if kind_of(name) is None:
        refuse_dtype(x.dtype, _label(path))
    if not to.backend.holds(wanted, to.info):
        refuse_held(name, wanted, to, path)
    if copy is False:
        _check_sharing(source, to, wanted, name, path)
    if wanted != name and (source.is_host or source is to or backend.holds(wanted, source.info)):
        with source.scope():
            x = _cast_or_tell(x, backend, wanted, path)
            if source.kind not in ACCELERATORS:  # it may be computed later, and others may write to the memory beneath
                backend.wait(x)
        name = wanted
    if source is to:
        return x
    if wanted != name and not to.backend.holds(name, to.info):
        refuse_held(name, name, to, path)
    if ledger.active():
        moved = _convey_watched(x, backend, source, to, copy, path)
    else:
        moved = _convey(x, backend, source, to, copy, path)
    if wanted == name:
        return moved
    with to.scope():
        return _cast_or_tell(moved, to.backend, wanted, path)


def stay(x: Any, backend: Backend, copy: bool | None, path: Any) -> Any:
    """Return an array that is where it shall be, or a copy of it."""
    if backend.is_host and x.dtype.kind not in "biufc":  # the path of a leaf costs more than all else
        check_numeric(x.dtype, _label(path))
    return backend.clone(x) if copy else x


def read(x: Any, backend: Backend, source: Device) -> np.ndarray[Any, Any]:
    """Return the values of an array on the host, to be read at once; counted as a transfer."""
    if not ledger.active() or source.is_host:
        return _to_host(x, backend, None)
    values: np.ndarray = _watched(lambda: _to_host(x, backend, None), x, source, host(), None, lambda _: "copy")
    return values


def cast(x: Any, backend: Backend, dtype: str | None) -> Any:
    """Return an array in a dtype of its backend, the same object if it has it."""
    if dtype is None or dtype_name(x.dtype) == dtype:
        return x
    return backend.xp.astype(x, backend.dtype(dtype), copy=False)


def _cast_or_tell(x: Any, backend: Backend, dtype: str, path: Any) -> Any:
    try:
        if backend.is_host:  # which casts to dtypes that it does not otherwise hold
            return x.astype(host_dtype(dtype), copy=False)
        return cast(x, backend, dtype)
    except _UNMOVABLE as error:
        name = dtype_name(x.dtype)
        raise DTypeError(f"{_label(path)} is {name}, which {backend} does not cast to {dtype}: {error}") from error


def _label(path: Any) -> str:
    return str(path) if path is not None else "the array"


# -- checks ------------------------------------------------------------------------------------------


def refuse_held(name: str, wanted: str, to: Device, path: Any) -> NoReturn:
    """Raise for an array of a dtype, or one that shall get it, which its device cannot hold."""
    smaller = _SMALLER.get(wanted, "float32")
    if to.backend.holds(smaller, to.info):
        advice = f'say dtype="{smaller}" to convert it: xdev.to_device(x, "{to}", dtype="{smaller}")'
    else:
        advice = "choose another dtype= or device"
    with to.backend.precision("float64"):
        if to.backend.holds(wanted, to.info):
            advice += ', or work within `with xdev.precision("float64"):`'
    what = f"{_label(path)} is {name}" if wanted == name else f"dtype={wanted!r} was asked for {_label(path)}"
    raise DTypeError(f"{what}, which {to} cannot hold; {advice}")


def _check_sharing(source: Device, to: Device, wanted: str, name: str, path: Any) -> None:
    reason = None
    if wanted != name:
        reason = f"{name} becomes {wanted}"
    elif source.hardware != to.hardware:
        reason = f"{source} and {to} are different hardware"
    if reason:
        _refuse_sharing(reason, path)


def _refuse_sharing(reason: object, path: Any) -> NoReturn:
    raise CopyRequiredError(f"{_label(path)} cannot be shared: {reason}; leave out copy=False")


def _shares(x: Any, backend: Backend, moved: Any, other: Backend) -> bool:
    mine = backend.pointer(x)
    return mine is not None and mine == other.pointer(moved)


# -- moving ------------------------------------------------------------------------------------------


def _watched(move: Any, x: Any, source: Device, to: Device, path: Any, kind: Any) -> Any:
    """Move under the eyes of the ledgers and budgets of this context."""
    direction = ledger.direction_of(source, to)
    nbytes = nbytes_of(x)
    label = str(path) if path is not None else ""
    ledger.check(direction, nbytes, f"moving {label or 'an array'} from {source} to {to}")
    start = time.perf_counter()
    with ledger.muted():
        try:
            moved = move()  # not waited for: a ledger must not make a loop wait for its device
        except BaseException:
            ledger.refund(direction, nbytes)
            raise
        seconds = time.perf_counter() - start
        how = kind(moved)
    ledger.record(ledger.TransferRecord(str(source), str(to), nbytes, seconds, how, label, ledger.caller(), direction))
    return moved


def _convey_watched(x: Any, backend: Backend, source: Device, to: Device, copy: bool | None, path: Any) -> Any:
    def move() -> Any:
        return _convey(x, backend, source, to, copy, path)

    def kind(moved: Any) -> str:
        return "view" if _shares(x, backend, moved, to.backend) else "copy"

    return _watched(move, x, source, to, path, kind)


def _convey(x: Any, backend: Backend, source: Device, to: Device, copy: bool | None, path: Any) -> Any:
    """Move one array whose dtype the target holds."""
    target = to.backend
    moved = NotImplemented
    try:
        if target is backend:
            moved = _place(x, to, copy, path)
        elif source.kind in ACCELERATORS and source.hardware == to.hardware:
            moved = _adopt(x, backend, to, copy, path)
        if moved is NotImplemented:
            moved = _through_host(x, backend, to, copy, path)
    except CopyRequiredError as error:
        _refuse_sharing(error, path)
    if copy is False and 0 not in tuple(x.shape) and not _shares(x, backend, moved, target):
        _refuse_sharing(f"{backend} and {target} would not share this memory layout", path)
    return moved


_UNMOVABLE = (BufferError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What frameworks raise for arrays without values to move: sparse, quantised, deleted, wrapped by a transformation."""


def _place(x: Any, to: Device, copy: bool | None, path: Any) -> Any:
    try:
        return to.backend.place(x, to.info, copy)
    except XdevError:
        raise
    except _UNMOVABLE as error:
        raise TransferError(f"{_label(path)} cannot be moved to {to}: {error}") from error


def _adopt(x: Any, backend: Backend, to: Device, copy: bool | None, path: Any) -> Any:
    if copy is False and not backend.capabilities.mutable:
        _refuse_sharing(f"{backend}'s arrays are immutable, and {to.backend} could write to the memory", path)
    moved = to.backend.adopt(backend.plain(x), to.info)
    # One side thinks this memory immutable, and the other could write it.
    if moved is not NotImplemented and (copy or (copy is None and not backend.capabilities.mutable)):
        moved = to.backend.clone(moved)
    return moved


def _to_host(x: Any, backend: Backend, path: Any) -> np.ndarray[Any, Any]:
    report_read("a transfer to the host", x)
    try:
        return backend.to_host(x)
    except _UNMOVABLE as error:
        raise TransferError(f"{_label(path)} cannot be brought to the host: {error}") from error


def _through_host(x: Any, backend: Backend, to: Device, copy: bool | None, path: Any) -> Any:
    pulled = _to_host(x, backend, path)
    if copy is None and not pulled.flags.writeable:
        copy = True  # one side thinks this memory immutable, and the other could write it
    return _place(pulled, to, copy, path)


# -- foreign arrays ----------------------------------------------------------------------------------


def take_in(x: Any, to: Device, copy: bool | None, path: Any, dtype: str | None) -> Any:
    """Place an array of a framework that xdev does not know, which exports DLPack or the CUDA array interface.

    Whether that framework thinks its memory immutable is not known either, so that it is shared for `copy=False` alone.
    """
    adopted = to.backend.adopt(x, to.info)
    if adopted is not NotImplemented:
        return _taken(x, adopted, to, copy, path, dtype)
    try:
        viewed = np.from_dlpack(x)
    except XdevError:
        raise
    except Exception as error:  # foreign code may raise anything
        raise TransferError(
            f"{_label(path)} is a {type(x).__module__}.{type(x).__qualname__} that can be taken in neither by "
            f"{to} nor by the host ({error})"
        ) from error
    if to.is_host:
        return _taken(x, viewed, to, copy, path, dtype)
    return cross(viewed, host().backend, host(), to, copy is not False, path, dtype)


def _taken(x: Any, adopted: Any, to: Device, copy: bool | None, path: Any, dtype: str | None) -> Any:
    """Return what the target has adopted, in memory of its own unless `copy=False`."""
    name = dtype_name(adopted.dtype)
    if dtype is not None and copy is False and name != dtype:
        _refuse_sharing(f"{name} becomes {dtype}", path)
    if ledger.active():
        source, nbytes, label = (
            type(x).__module__.partition(".")[0],
            nbytes_of(adopted),
            "" if path is None else str(path),
        )
        direction: ledger.Direction = "to_host" if to.is_host else "between_devices"
        ledger.check(direction, nbytes, f"moving {label or 'an array'} from {source} to {to}")
        kind = "view" if copy is False else "copy"
        ledger.record(ledger.TransferRecord(source, str(to), nbytes, 0.0, kind, label, ledger.caller(), direction))
    with to.scope():
        return cast(adopted if copy is False else to.backend.clone(adopted), to.backend, dtype)
