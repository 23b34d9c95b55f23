"""The ledger of transfers, and the budget that forbids them.

Requirements: context-local; off, both cost one lookup of a context variable. The host is NumPy and Python; every
other backend's CPU is a device, and crossing counts as what it would cost there, views included. A crossing is counted
once, however many blocks, tasks and hooks see it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import types
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

from . import registry
from .contract import nbytes_of
from .device import Device, device_of_array, host
from .errors import TransferBudgetExceeded, TransferError
from .watching import report_read

__all__ = ["TransferRecord", "Transfers", "budget", "track_transfers"]

Direction = Literal["to_device", "to_host", "between_devices"]


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """One crossing.

    Attributes
    ----------
    source, target : str
        The devices.
    nbytes : int
        Size of the array in bytes.
    seconds : float
        How long the call took, in seconds; a copy to a device may go on after it.
    kind : str
        "view" if the memory is shared, else "copy".
    path : str
        Where in the tree; of what a framework does by itself, its call.
    where : str
        "file:line" of the caller.
    """

    source: str
    target: str
    nbytes: int
    seconds: float
    kind: str
    path: str
    where: str
    direction: Direction


@dataclass
class Transfers:
    """What crossed while the ledger was open.

    Attributes
    ----------
    records : list of TransferRecord
        Every crossing, in order.
    implicit : bool
        Whether what a framework moves by itself is among them.
    """

    records: list[TransferRecord] = field(default_factory=list)
    implicit: bool = True

    def _bytes(self, direction: Direction) -> int:
        return sum(record.nbytes for record in self.records if record.direction == direction)

    def _count(self, direction: Direction) -> int:
        return sum(record.direction == direction for record in self.records)

    @property
    def to_device_bytes(self) -> int:
        """Bytes from the host to devices."""
        return self._bytes("to_device")

    @property
    def to_host_bytes(self) -> int:
        """Bytes from devices to the host."""
        return self._bytes("to_host")

    @property
    def between_devices_bytes(self) -> int:
        """Bytes from one device to another."""
        return self._bytes("between_devices")

    @property
    def to_device_count(self) -> int:
        """Crossings from the host to devices."""
        return self._count("to_device")

    @property
    def to_host_count(self) -> int:
        """Crossings from devices to the host."""
        return self._count("to_host")

    @property
    def between_devices_count(self) -> int:
        """Crossings from one device to another."""
        return self._count("between_devices")

    def __str__(self) -> str:
        from .ledger_table import render

        return render(self)


@dataclass
class _Budget:
    """What may cross: bytes under the names of the directions, crossings under those with `_count`."""

    limits: dict[str, float]
    spent: dict[str, float] = field(default_factory=dict)
    implicit: ClassVar[bool] = True

    def check(self, direction: Direction, nbytes: int, what: str) -> None:
        words = direction.replace("_", " ")
        for key, cost in ((direction, nbytes), (f"{direction}_count", 1)):
            limit, spent = self.limits.get(key), self.spent.get(key, 0)
            if limit is None or spent + cost <= limit:
                continue
            if key == direction:
                problem = f"{what} would take {nbytes:,} bytes {words} at {caller()}; the budget is {limit:,} bytes, "
            else:
                problem = f"{what} would be one more crossing {words} at {caller()}; the budget is {limit:,}, "
            raise TransferBudgetExceeded(
                f"{problem}of which {spent:,} are spent. Move it out of the block, or raise {key}= in xdev.budget"
            )

    def spend(self, direction: Direction, nbytes: int, crossings: int = 1) -> None:
        for key, cost in ((direction, nbytes), (f"{direction}_count", crossings)):
            self.spent[key] = self.spent.get(key, 0) + cost


_watchers: ContextVar[tuple[Any, ...]] = ContextVar("xdev transfer watchers", default=())
_muted: ContextVar[bool] = ContextVar("xdev transfer hooks muted", default=False)
_spending = threading.Lock()
"""Held while budgets are asked and charged: threads may share one through a copied context."""

active = _watchers.get
"""The ledgers and budgets of this context, outermost first; empty when there are none."""


def direction_of(source: Device, target: Device) -> Direction:
    """Return which of the three sums a crossing belongs to."""
    if source.is_host:
        return "to_device"
    return "to_host" if target.is_host else "between_devices"


def check(direction: Direction, nbytes: int, what: str) -> None:
    """Ask the budgets whether a crossing may happen, and charge all of them if none forbids it."""
    budgets = [watcher for watcher in _watchers.get() if isinstance(watcher, _Budget)]
    if budgets:
        with _spending:
            for each in budgets:
                each.check(direction, nbytes, what)
            for each in budgets:
                each.spend(direction, nbytes)


def refund(direction: Direction, nbytes: int) -> None:
    """Take back what `check` has charged for a crossing that then failed."""
    with _spending:
        for watcher in _watchers.get():
            if isinstance(watcher, _Budget):
                watcher.spend(direction, -nbytes, -1)


def record(entry: TransferRecord, *, implicit: bool = False) -> None:
    """Write a crossing into the ledgers; an `implicit` one into those that want to know."""
    for watcher in _watchers.get():
        if isinstance(watcher, Transfers) and (watcher.implicit or not implicit):
            watcher.records.append(entry)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Keep the frameworks' own calls within a transfer of xdev's from being counted a second time."""
    token = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(token)


def caller() -> str:
    """Return "file:line" of the nearest frame outside xdev, the backends and their frameworks."""
    passed = {__package__, "contextlib"}
    for backend in registry.loaded():
        passed |= {type(backend).__module__.partition(".")[0], backend.framework}
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in passed:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that `caller` names; each line tells it once, unless the filters say otherwise."""
    filename, _, line = caller().rpartition(":")
    number = int(line) if line.isdecimal() else 0
    warnings.warn_explicit(message, category, filename, number, registry=_warned.setdefault(filename, {}))


_warned: dict[str, dict[Any, Any]] = {}
"""What was warned of, by file."""


# -- what frameworks move by themselves ---------------------------------------------------------------


class _Read:
    """A crossing to the host that a framework's own call makes: checked, muted, timed and recorded."""

    __slots__ = ("_kind", "_nbytes", "_source", "_start", "_token", "_what")

    def __init__(self, what: str, source: Device, nbytes: int, kind: str) -> None:
        self._what, self._source, self._nbytes, self._kind = what, source, nbytes, kind

    def __enter__(self) -> None:
        check("to_host", self._nbytes, self._what)
        self._token = _muted.set(True)
        self._start = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seconds = time.perf_counter() - self._start
        _muted.reset(self._token)
        if kind is not None:
            refund("to_host", self._nbytes)
        else:
            names = str(self._source), str(host())
            entry = TransferRecord(*names, self._nbytes, seconds, self._kind, self._what, caller(), "to_host")
            record(entry, implicit=True)


_FREE: contextlib.AbstractContextManager[None] = contextlib.nullcontext()


def reading(what: str, x: Any, kind: Literal["view", "copy"] = "copy") -> contextlib.AbstractContextManager[None]:
    """Return a context for a call that brings `x` to the host, which ledgers and budgets see as one crossing."""
    report_read(what.removesuffix(" of a traced array"), x)
    if _muted.get() or not any(watcher.implicit for watcher in _watchers.get()):
        return _FREE
    backend = registry.find_backend(x)
    source = None if backend is None else device_of_array(backend, x)
    if source is None or source.is_host:
        return _FREE
    return _Read(what, source, nbytes_of(x), kind)


class _Hooks:
    """The frameworks' hooks of one thread: entered by its first block, left by its last, whichever task has it."""

    def __init__(self) -> None:
        self.blocks = 0
        self.stack = contextlib.ExitStack()
        self.watched: set[str] = set()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self.blocks += 1
        try:
            for backend in registry.loaded():
                if backend.name not in self.watched:
                    self.watched.add(backend.name)
                    self.stack.enter_context(backend.watch_transfers(reading))
            yield
        finally:
            self.blocks -= 1
            if not self.blocks:
                self.watched.clear()
                self.stack.close()


class _Local(threading.local):
    def __init__(self) -> None:
        self.hooks = _Hooks()


_local = _Local()


# -- blocks ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _watching(watcher: Any, implicit: bool) -> Iterator[None]:
    _watchers.set((*_watchers.get(), watcher))
    try:
        with _local.hooks.held() if implicit else contextlib.nullcontext():
            yield
    finally:  # not by a token: blocks may end in another order, or in another context, than they began
        _watchers.set(tuple(each for each in _watchers.get() if each is not watcher))


@contextlib.contextmanager
def track_transfers(*, implicit: bool = True) -> Iterator[Transfers]:
    """Record what crosses between host and devices within a block.

    Parameters
    ----------
    implicit : bool, default: True
        Whether to see what a framework moves by itself, too; its hook costs torch about a quarter of a small step.

    Yields
    ------
    Transfers
        The ledger; `print` it for a table.

    Notes
    -----
    Every crossing that xdev makes is seen, and of those that a framework makes by itself what its backend can see
    (`Backend.capabilities.visible_transfers`), for the frameworks imported when the block begins.

    A ledger belongs to its context: a new thread does not write into it, and an asyncio task that begins within the
    block does. `asyncio.to_thread` takes the context along, but not the hooks that a thread has for itself: what the
    framework does there is seen once that thread opens a ledger or budget too.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> with xdev.track_transfers() as transfers:
    ...     _ = xdev.to_numpy(np.zeros(3))
    >>> transfers.to_host_bytes
    0
    """
    ledger = Transfers(implicit=implicit)
    with _watching(ledger, implicit):
        yield ledger


@contextlib.contextmanager
def budget(
    *,
    to_device: int | None = None,
    to_host: int | None = None,
    between_devices: int | None = None,
    to_device_count: int | None = None,
    to_host_count: int | None = None,
    between_devices_count: int | None = None,
) -> Iterator[None]:
    """Forbid more than so many bytes or crossings within a block.

    Parameters
    ----------
    to_device, to_host, between_devices : int, optional
        The most bytes that may cross in that direction; None is no limit.
    to_device_count, to_host_count, between_devices_count : int, optional
        The most crossings, one for each array; None is no limit.

    Raises
    ------
    TransferBudgetExceeded
        At the line that would cross, before it happens.
    TransferError
        If no limit is given, or one that is no number, or below 0.

    Notes
    -----
    What is seen, and by which threads and tasks, is as in `track_transfers`. What a budget refuses is charged to none.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> with xdev.budget(to_host=0):
    ...     total = np.zeros(3).sum()
    """
    given = {
        "to_device": to_device,
        "to_host": to_host,
        "between_devices": between_devices,
        "to_device_count": to_device_count,
        "to_host_count": to_host_count,
        "between_devices_count": between_devices_count,
    }
    limits = {key: cast(float, limit) for key, limit in given.items() if limit is not None}
    for key, limit in limits.items():
        if not isinstance(limit, int | float) or not limit >= 0:
            what = "crossings" if key.endswith("_count") else "bytes"
            raise TransferError(f"budget takes numbers of {what}, 0 or more; got {key}={limit!r}")
    if not limits:
        raise TransferError(
            "budget forbids nothing; give to_device=, to_host= or between_devices= in bytes, or to_device_count=, "
            "to_host_count= or between_devices_count= in crossings"
        )
    with _watching(_Budget(limits), True):
        yield
