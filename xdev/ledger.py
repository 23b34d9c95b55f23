"""The ledger of transfers, and the budget that forbids them.

Requirements: context-local; off, both cost one lookup of a context variable. The host is NumPy and Python; every
other backend's CPU is a device, and crossing counts as what it would cost there, views included.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from . import registry
from .contract import nbytes_of
from .device import Device, device_of_array, host
from .errors import TransferBudgetExceeded, TransferError

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
        Where in the tree.
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
    """

    records: list[TransferRecord] = field(default_factory=list)

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

    def check(self, direction: Direction, nbytes: int, what: str) -> None:
        """Let every crossing pass: a ledger only watches."""

    def __str__(self) -> str:
        from .ledger_table import render

        return render(self)


@dataclass
class _Budget:
    limits: dict[Direction, int]
    spent: dict[Direction, int] = field(default_factory=dict)

    def check(self, direction: Direction, nbytes: int, what: str) -> None:
        limit = self.limits.get(direction)
        if limit is None:
            return
        spent = self.spent.get(direction, 0)
        if spent + nbytes > limit:
            raise TransferBudgetExceeded(
                f"{what} would take {nbytes:,} bytes {direction.replace('_', ' ')} at {caller()}; the budget "
                f"is {limit:,} bytes, of which {spent:,} are spent. Move it out of the block, or raise "
                f"{direction}= in xdev.budget"
            )
        self.spent[direction] = spent + nbytes


_watchers: ContextVar[tuple[Any, ...]] = ContextVar("xdev transfer watchers", default=())
_hooked: ContextVar[bool] = ContextVar("xdev transfer hooks installed", default=False)
_muted: ContextVar[bool] = ContextVar("xdev transfer hooks muted", default=False)

active = _watchers.get
"""The ledgers and budgets of this context, outermost first; empty when there are none."""


def direction_of(source: Device, target: Device) -> Direction:
    """Return which of the three sums a crossing belongs to."""
    if source.is_host:
        return "to_device"
    return "to_host" if target.is_host else "between_devices"


def check(direction: Direction, nbytes: int, what: str) -> None:
    """Ask the budgets whether a crossing may happen."""
    for watcher in _watchers.get():
        watcher.check(direction, nbytes, what)


def record(entry: TransferRecord) -> None:
    """Write a crossing into the ledgers."""
    for watcher in _watchers.get():
        if isinstance(watcher, Transfers):
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


def _implicit(what: str, x: Any) -> None:
    """Account for a crossing that a framework's own call is about to make."""
    if _muted.get():
        return
    backend = registry.find_backend(x)
    source = None if backend is None else device_of_array(backend, x)
    if source is None or source.is_host:
        return
    nbytes = nbytes_of(x)
    check("to_host", nbytes, what)
    record(TransferRecord(str(source), str(host()), nbytes, 0.0, "copy", what, caller(), "to_host"))


@contextlib.contextmanager
def _watching(watcher: Any, implicit: bool) -> Iterator[None]:
    token = _watchers.set((*_watchers.get(), watcher))
    try:
        with contextlib.ExitStack() as stack:
            if implicit and not _hooked.get():  # one hook a context: it tells every ledger and budget there
                hooked = _hooked.set(True)
                stack.callback(_hooked.reset, hooked)
                for backend in registry.loaded():
                    stack.enter_context(backend.watch_transfers(_implicit))
            yield
    finally:
        _watchers.reset(token)


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

    Examples
    --------
    >>> import numpy as np, xdev
    >>> with xdev.track_transfers() as transfers:
    ...     _ = xdev.to_numpy(np.zeros(3))
    >>> transfers.to_host_bytes
    0
    """
    ledger = Transfers()
    with _watching(ledger, implicit):
        yield ledger


@contextlib.contextmanager
def budget(
    *, to_device: int | None = None, to_host: int | None = None, between_devices: int | None = None
) -> Iterator[None]:
    """Forbid more than so many bytes of crossings within a block.

    Parameters
    ----------
    to_device, to_host, between_devices : int, optional
        The most bytes that may cross in that direction; None is no limit.

    Raises
    ------
    TransferBudgetExceeded
        At the line that would cross, before it happens.
    TransferError
        If no limit is given, or one that is no number of bytes.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> with xdev.budget(to_host=0):
    ...     total = np.zeros(3).sum()
    """
    given: dict[Direction, int | None] = {
        "to_device": to_device,
        "to_host": to_host,
        "between_devices": between_devices,
    }
    limits = {direction: limit for direction, limit in given.items() if limit is not None}
    for direction, limit in limits.items():
        if not isinstance(limit, int | float) or limit < 0:
            raise TransferError(f"budget takes numbers of bytes, 0 or more; got {direction}={limit!r}")
    if not limits:
        raise TransferError("budget forbids nothing; give to_device=, to_host= or between_devices= in bytes")
    with _watching(_Budget(limits), True):
        yield
