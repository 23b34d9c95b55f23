"""`xdev bench crossover`: from which size on each device wins, with data there and with data that has to move.

Requirements: what can be refused is refused before anything is timed; transfers are measured apart, and never part of
the time of the work.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ...device import Device
from ...errors import ConfigurationError
from ..output import console, print_json, standard_output_kept
from ..survey import cores
from . import contenders, picture, tables
from .timing import Plan, Point, Spread, measure
from .verdict import Verdict, judge
from .words import parse_sizes
from .work import KINDS, Work

__all__ = ["Options", "Result", "busy", "crossover", "plan_of"]

ROUNDS, QUICK_ROUNDS = 9, 5
SECONDS, QUICK_SECONDS = 0.2, 0.05
SETTLE = 0.03
"""Seconds in which the threads of a framework go to sleep."""
QUICK_STEP = 2
"""With --quick, every second size."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `xdev bench crossover`, as its help says them."""

    devices: tuple[str, ...]
    work: tuple[str, ...]
    sizes: str | None
    quick: bool
    seconds: float | None
    out: Path | None


@dataclass
class Result:
    """What one kind of work gave.

    Attributes
    ----------
    work, sizes, devices, reference
        What was timed where, and the device that the others are compared with.
    points
        By device and size.
    failures
        (device, size, reason) of what failed; the device takes no part at larger sizes.
    """

    work: Work
    sizes: tuple[int, ...]
    devices: list[Device]
    reference: Device
    points: dict[tuple[Device, int], Point] = field(default_factory=dict)
    failures: list[tuple[Device, int, str]] = field(default_factory=list)

    def series(self, where: Device, *, moved: bool) -> list[Spread | None]:
        """Return what a device takes at each size, with the data there or moved there and back."""
        found = (self.points.get((where, n)) for n in self.sizes)
        return [None if each is None else each.moved if moved else each.call for each in found]

    def against(self, where: Device, rivals: Sequence[Device], *, moved: bool) -> Verdict:
        """Say at which sizes a device is ahead of others."""
        others = [self.series(rival, moved=moved) for rival in rivals if rival is not where]
        return judge(self.sizes, self.series(where, moved=moved), others)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON has it."""
        verdicts = []
        for where in self.devices if len(self.devices) > 1 else ():
            entry: dict[str, Any] = {"device": str(where)}
            for moved in (False, True):
                place = "moved" if moved else "data_there"
                against = None
                if where is not self.reference:
                    against = self.against(where, [self.reference], moved=moved).as_dict()
                of_all = self.against(where, self.devices, moved=moved).as_dict()
                entry[place] = {"against_reference": against, "fastest_of_all": of_all}
            verdicts.append(entry)
        return {
            "work": self.work.name,
            "what": self.work.what,
            "moves": self.work.moves,
            "sizes": list(self.sizes),
            "reference": str(self.reference),
            "points": [{"size": n, **tables.point_as_dict(point)} for (_, n), point in self.points.items()],
            "verdicts": verdicts,
            "failures": [{"device": str(where), "size": n, "reason": why} for where, n, why in self.failures],
        }


def crossover(options: Options, *, as_json: bool) -> None:
    """Time the kinds of work, print the tables, and draw the picture."""
    screen = console(error=as_json)
    with standard_output_kept() if as_json else contextlib.nullcontext():
        kinds = _kinds(options)
        found = contenders.choose(options.devices)
        picture_path, notes = picture.prepare(options.out)
        plan = plan_of(options.seconds, quick=options.quick)
        names = ", ".join(map(str, found.devices))
        points = len(found.devices) * sum(len(sizes) for _, sizes in kinds)
        screen.print(f"{points} points of {plan.seconds:g} s and more, on {names}", soft_wrap=True)
        found.tell(screen)
        notes = [*busy(), *notes]
        with _progress(screen, kinds) as told:
            results = [_measure(work, sizes, found.devices, plan, told) for work, sizes in kinds]
        for result in results:
            tables.show(screen, result)
        if picture_path is not None:
            picture.draw(picture_path, results)
        screen.print()
        tables.legend(screen, found.devices, results)
        for note in notes:
            screen.print(note, soft_wrap=True)
        if picture_path is not None:
            screen.print(f"picture: {picture_path}", soft_wrap=True)
    if as_json:
        print_json(
            {
                "devices": [{"device": str(where), "hardware": where.name} for where in found.devices],
                "left_out": found.left_out_as_dicts(),
                "seconds": plan.seconds,
                "rounds": plan.rounds,
                "work": [result.as_dict() for result in results],
                "picture": None if picture_path is None else str(picture_path),
                "notes": notes,
            }
        )


def plan_of(seconds: float | None, *, quick: bool = False) -> Plan:
    """Return the plan that the options --seconds and --quick ask for."""
    if seconds is None:
        seconds = QUICK_SECONDS if quick else SECONDS
    return Plan(seconds=seconds, rounds=QUICK_ROUNDS if quick else ROUNDS, settle=SETTLE)


def busy() -> list[str]:
    """Say so if other programs take up the cores."""
    if not hasattr(os, "getloadavg"):
        return []
    load, available = os.getloadavg()[0], cores()
    if load <= 0.75 * available:
        return []
    return [
        f"This machine was busy: {load:.1f} processes on {available} core{'s' if available > 1 else ''} as it began. "
        "Threads that wait for each other then take many times what they do alone: run it again when it is idle. "
        "`xdev doctor` says how to give each framework fewer threads."
    ]


def _kinds(options: Options) -> list[tuple[Work, tuple[int, ...]]]:
    """Return the kinds of work and their sizes."""
    chosen = [KINDS[name] for name in dict.fromkeys(options.work)] or list(KINDS.values())
    if options.sizes is not None:
        sizes = parse_sizes(options.sizes)
        if len(chosen) > 1:
            named = ", ".join(work.name for work in chosen)
            raise ConfigurationError(
                f"--sizes mean something else for each kind of work; name one kind with --work ({named})"
            )
        return [(chosen[0], sizes)]
    # From the largest down, which is there with and without --quick.
    return [(work, work.sizes[::-1][:: QUICK_STEP if options.quick else 1][::-1]) for work in chosen]


def _measure(
    work: Work, sizes: tuple[int, ...], devices: list[Device], plan: Plan, told: Callable[[str, int], None]
) -> Result:
    result = Result(work, sizes, devices, contenders.reference_of(devices))
    taking_part = list(devices)
    for n in sizes:
        told(work.name, n)
        inputs = work.inputs(n)
        found = measure([(where, functools.partial(work.case, n, inputs, where)) for where in taking_part], plan)
        for where, point in found.points.items():
            result.points[where, n] = point
        for where, why in found.failures.items():
            result.failures.append((where, n, why))
            taking_part.remove(where)
    told(work.name, 0)
    return result


@contextlib.contextmanager
def _progress(screen: Console, kinds: list[tuple[Work, tuple[int, ...]]]) -> Iterator[Callable[[str, int], None]]:
    """Show how far it is; what is yielded takes the name of a kind, and the size that begins, or 0 at the end."""
    if not screen.is_terminal:
        yield lambda name, n: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("sizes"),
    )
    # Drawn between sizes and not by a thread, which would take time from what is timed.
    with Progress(*columns, console=screen, auto_refresh=False, transient=True) as bars:
        tasks = {work.name: bars.add_task(work.name, total=len(sizes)) for work, sizes in kinds}
        order = {work.name: sizes for work, sizes in kinds}

        def show(name: str, n: int) -> None:
            done = order[name].index(n) if n else len(order[name])
            bars.update(tasks[name], completed=done, refresh=True)

        yield show
