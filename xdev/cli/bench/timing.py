"""The clock: cases in turns, in several short rounds, each with the transfers that it would need.

Requirements: a clock stops when the result is there; the first call, in which frameworks compile and load, is apart;
devices take turns within each round, so that a machine that gets busy is busy for all of them; the garbage collector is
off while a clock runs; what fails on one device leaves the others alone.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ... import registry, tree
from ...contract import nbytes_of
from ...device import Device, native_of, synchronize, use
from ...ledger import track_transfers
from ...transfer import to_device, to_numpy
from ..survey import reason

__all__ = ["Case", "Measured", "Plan", "Point", "Spread", "measure"]

WARM_CALLS = 50
TRIPS = 5
"""Transfers a round at most."""
SHORT = 0.01
"""What takes less seconds than this is run once before the clock starts, to wake the threads that slept."""


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes
    ----------
    seconds
        What a device gets at each size, apart from warming up and transfers.
    rounds
        Into how many rounds they are split.
    settle
        Seconds between the turns of two frameworks. Their threads spin for a while after work, and would take the
        cores from the next.
    fewest
        How many rounds there are where a call takes so long that they would last more than twice the time.
    clock, sleep
        Those of the machine.
    """

    seconds: float
    rounds: int
    settle: float
    fewest: int = 5
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Spread:
    """The middle and the quartiles of what the rounds gave, in seconds."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value a round."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass
class Case:
    """Work on one device.

    Attributes
    ----------
    device
        Where.
    inputs
        What the work takes, on the host.
    call
        Does the work once with those inputs on the device, and returns its result.
    queued
        Whether a call takes up the last one's result, so that calls may queue up and only the last is waited for.
    checked
        Whether to keep the result, and to see whether the work writes into its inputs.
    """

    device: Device
    inputs: Any
    call: Callable[[Any], Any]
    queued: bool = False
    checked: bool = False


@dataclass(frozen=True)
class Point:
    """What was measured on one device at one size.

    Attributes
    ----------
    call, there, back, moved
        Seconds of a call with the inputs on the device, of moving them there, of moving the result to the host, and of
        all three.
    first
        Seconds of the first call.
    bytes_there, bytes_back
        How much moves.
    shared
        Whether nothing is copied for that, since the device computes on the host's own memory.
    writes
        Whether the work changed its inputs, if that was looked at.
    result
        What the first call gave, on the host, if it was to be kept.
    """

    device: Device
    call: Spread
    there: Spread
    back: Spread
    moved: Spread
    first: float
    bytes_there: int
    bytes_back: int
    shared: bool
    rounds: int
    writes: bool = False
    result: Any = field(default=None, compare=False)


@dataclass
class Measured:
    """The points of the devices that did the work, and why the others did not."""

    points: dict[Device, Point] = field(default_factory=dict)
    failures: dict[Device, str] = field(default_factory=dict)


class _Running:
    """A case that is warm."""

    def __init__(self, case: Case, plan: Plan) -> None:
        self._case, self._plan, self._clock = case, plan, plan.clock
        self._call = case.call
        self._placed = to_device(case.inputs, case.device, copy=True)  # what it writes is not the inputs' memory
        synchronize(case.device)
        start = self._clock()
        result = self._call(self._placed)
        self._wait(result)
        self.first = self._clock() - start
        self._writes = case.checked and not _equal(self._placed, case.inputs)
        self._result = to_numpy(result, copy=True) if case.checked and _arrays(result) else None
        self.took, result = self._warm_up()
        self.rounds = max(plan.fewest, min(plan.rounds, math.floor(2 * plan.seconds / self.took)))
        self._repeats = max(1, math.ceil(plan.seconds / plan.rounds / self.took))
        self._calls: list[float] = []
        self._there: list[float] = []
        self._back: list[float] = []
        with track_transfers(implicit=False) as ledger:
            _, _, pulled = self._trip(result)
        self._shared = all(record.kind == "view" for record in ledger.records)
        self._bytes = _bytes(case.inputs), _bytes(pulled)

    def _wait(self, result: Any) -> None:
        backend = registry.owners.get(type(result))
        if backend is not None:
            backend.wait(result)
        else:
            synchronize(result if _arrays(result) else self._case.device)

    def _warm_up(self) -> tuple[float, Any]:
        """Run until the times say something; return the shortest and the last result."""
        took, spent = math.inf, 0.0
        for number in range(WARM_CALLS):
            seconds, result = self._sample(1)
            took = min(took, max(seconds, 1e-9))
            spent += took
            if spent > self._plan.seconds or (number >= 2 and spent > self._plan.seconds / 4):
                break
        return took, result

    def _sample(self, repeats: int) -> tuple[float, Any]:
        """Return the seconds of a call, and the result of the last."""
        call, placed, wait, queued = self._call, self._placed, self._wait, self._case.queued
        start = self._clock()
        for _ in range(repeats):
            result = call(placed)
            if not queued:
                wait(result)
        wait(result)
        return (self._clock() - start) / repeats, result

    def _trip(self, result: Any) -> tuple[float, float, Any]:
        """Return the seconds of moving the inputs there and a result back, and that result on the host."""
        clock = self._clock
        start = clock()
        moved = to_device(self._case.inputs, self._case.device)
        synchronize(moved if _arrays(moved) else self._case.device)
        there = clock() - start
        start = clock()
        pulled = to_numpy(result) if _arrays(result) else result
        return there, clock() - start, pulled

    def turn(self) -> None:
        """Take the samples of a round."""
        if self.took < SHORT:
            self._sample(1)
        with _without_gc():
            seconds, result = self._sample(self._repeats)
            self._calls.append(seconds)
            if self._case.device.is_host:  # nothing moves
                return
            trips = [self._trip(result)]
            while len(trips) < min(self._repeats, TRIPS):
                # A new result each time, since a framework may keep what it has brought to the host once.
                trips.append(self._trip(self._sample(1)[1]))
        self._there.append(statistics.median(there for there, _, _ in trips) if self._bytes[0] else 0.0)
        self._back.append(statistics.median(back for _, back, _ in trips) if self._bytes[1] else 0.0)

    def point(self) -> Point:
        """Return what the rounds gave."""
        still = [0.0] * len(self._calls)
        there, back = self._there or still, self._back or still
        return Point(
            device=self._case.device,
            call=Spread.of(self._calls),
            there=Spread.of(there),
            back=Spread.of(back),
            moved=Spread.of([sum(parts) for parts in zip(self._calls, there, back, strict=True)]),
            first=self.first,
            bytes_there=self._bytes[0],
            bytes_back=self._bytes[1],
            shared=self._shared,
            rounds=len(self._calls),
            writes=self._writes,
            result=self._result,
        )


def measure(cases: Sequence[tuple[Device, Callable[[], Case]]], plan: Plan) -> Measured:
    """Time work on several devices in turns.

    Parameters
    ----------
    cases : sequence of (Device, callable)
        The devices, each with a function that makes its case; what it needs there is not timed.
    plan : Plan
        How to measure.

    Returns
    -------
    Measured
        A point, or the reason why there is none, for each device.
    """
    found = Measured()
    running: dict[Device, _Running] = {}
    settled = _Settled(plan)
    for where, build in cases:
        settled.turn_to(where)
        with _kept_apart(where, found, running), use(where):
            running[where] = _Running(build(), plan)
    rounds = min((case.rounds for case in running.values()), default=0)
    for number in range(rounds):
        for where in _rotated(list(running), number):
            settled.turn_to(where)
            with _kept_apart(where, found, running), use(where):
                running[where].turn()
    found.points = {where: running[where].point() for where, _ in cases if where in running}
    return found


class _Settled:
    """Pauses between the turns of two frameworks."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._last: Device | None = None

    def turn_to(self, where: Device) -> None:
        if self._last is not None and self._last.backend is not where.backend:
            self._plan.sleep(self._plan.settle)
        self._last = where


@contextlib.contextmanager
def _kept_apart(where: Device, found: Measured, running: dict[Device, _Running]) -> Iterator[None]:
    """Note what fails on a device, which takes part no longer."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  frameworks and functions of users raise anything
        found.failures[where] = reason(error)
        running.pop(where, None)


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _rotated(items: list[Device], turn: int) -> list[Device]:
    start = turn % len(items) if items else 0
    return items[start:] + items[:start]


def _arrays(value: Any) -> list[Any]:
    return [leaf for leaf in tree.leaves(value) if native_of(leaf) is not None]


def _bytes(value: Any) -> int:
    return sum(map(nbytes_of, _arrays(value)))


def _equal(placed: Any, inputs: Any) -> bool:
    """Tell whether arrays on a device are those that were moved there."""
    pairs = zip(_arrays(placed), _arrays(inputs), strict=True)
    return all(np.array_equal(to_numpy(a), to_numpy(b), equal_nan=to_numpy(b).dtype.kind in "fc") for a, b in pairs)
