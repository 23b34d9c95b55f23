"""The tables of `xdev bench crossover`: one row a device, one column a size, and who wins from where on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...device import Device
from ..output import WIDE
from .timing import Point, Spread
from .verdict import leaders
from .words import figure, in_unit, size, unit_of

if TYPE_CHECKING:
    from .crossover import Result

__all__ = ["legend", "point_as_dict", "rates", "show"]

AHEAD, LEVEL = "*", "~"
MOVING = "  moving"
FEW = 100_000
"""Bytes whose moving takes as long as the calls do, whatever the speed."""
COLUMNS = 8
"""Sizes side by side in 80 columns."""


def show(screen: Console, result: Result) -> None:
    """Print the times of one kind of work, and the verdicts."""
    screen.print()
    screen.print(Text.assemble((result.work.name, "bold"), f": {result.work.what}. Moving: {result.work.moves}."))
    for start in range(0, len(result.sizes), COLUMNS):
        screen.print(_times(screen.width, result, result.sizes[start : start + COLUMNS]))
    if len(result.devices) > 1:
        screen.print(_verdicts(screen.width, result))
    for where, n, why in result.failures:
        screen.print(Text.assemble(f"{where} ", ("failed", "red"), f" at {size(n)}: {why}"))


def _grid(width: int, headings: Sequence[str]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2 if width >= WIDE else 1, 0, 0))
    for place, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if place else "left", vertical="top", no_wrap=not place)
    return grid


def _times(width: int, result: Result, sizes: Sequence[int]) -> Table:
    """Return the medians, in the unit that suits the fastest of each column."""
    columns = []
    for n in sizes:
        calls = [_call(result, where, n) for where in result.devices]
        fastest = min((each.middle for each in calls if each is not None), default=1.0)
        columns.append((n, unit_of(fastest), leaders(calls)))
    grid = _grid(width, ["\nn =", *(f"{size(n)}\n{unit[0]} " for n, unit, _ in columns)])
    for place, where in enumerate(result.devices):
        row, moving = [], []
        for n, unit, first in columns:
            point = result.points.get((where, n))
            if point is None:
                row.append(Text("– "))
                moving.append(Text(""))
                continue
            mark = (AHEAD if len(first) == 1 else LEVEL) if place in first and len(result.devices) > 1 else " "
            style = "bold" if mark == AHEAD else ""
            row.append(Text(in_unit(point.call.middle, unit) + mark, style=style))
            moving.append(Text(in_unit(point.there.middle + point.back.middle, unit) + " ", style="dim"))
        grid.add_row(str(where), *row)
        if not where.is_host:
            grid.add_row(Text(MOVING, style="dim"), *moving)
    return grid


def _call(result: Result, where: Device, n: int) -> Spread | None:
    point = result.points.get((where, n))
    return None if point is None else point.call


def _verdicts(width: int, result: Result) -> Table:
    """Return who wins, and from where on."""
    reference, largest = result.reference, result.sizes[-1]
    headings = ["\ndevice", f"faster than\n{reference}", "and with\nmoving", "fastest\nof all", "GB/s there,\nback"]
    grid = _grid(width, headings)
    for where in result.devices:
        words = ["–", "–"]
        if where is not reference:
            words = [result.against(where, [reference], moved=moved).text(largest) for moved in (False, True)]
        of_all = result.against(where, result.devices, moved=False).text(largest)
        points = [result.points[where, n] for n in result.sizes if (where, n) in result.points]
        grid.add_row(str(where), *words, of_all, rates(points[-1]) if points else "–")
    return grid


def rates(point: Point) -> str:
    """Return how fast data moves there and back, in 10^9 bytes a second."""
    if point.device.is_host:
        return "–"
    if point.shared:
        return "shared"
    if point.bytes_there + point.bytes_back < FEW:
        return "–"
    pairs = ((point.bytes_there, point.there.middle), (point.bytes_back, point.back.middle))
    return ", ".join("–" if count < FEW or not seconds else figure(count / seconds / 1e9) for count, seconds in pairs)


def legend(screen: Console, devices: Sequence[Device], results: Sequence[Result]) -> None:
    """Print what the tables mean."""
    lines = [
        "Times are medians of one call, waited for, with its data on the device; the first call, which may compile, is "
        "apart."
    ]
    if len(devices) > 1:
        lines.append(
            f"{AHEAD} the fastest of its column; {LEVEL} as fast as any, within the quartiles. A device wins from a "
            "size on if it is ahead beyond the quartiles there and at all larger sizes; the size is interpolated."
        )
    if any(not where.is_host for where in devices):
        lines.append(
            "moving: the inputs from the host to the device, and the result back, each call; 'shared' means that the "
            "device computes on the host's own memory."
        )
    for line in lines:
        screen.print(Text(line, style="dim"))


def point_as_dict(point: Point) -> dict[str, Any]:
    """Return a point as JSON has it; seconds and bytes as the names say."""
    found: dict[str, Any] = {"device": str(point.device)}
    named = (("call", point.call), ("to_device", point.there), ("to_host", point.back), ("moved", point.moved))
    for name, spread in named:
        found[f"{name}_seconds"] = spread.middle
        found[f"{name}_quartiles"] = [spread.low, spread.high]
    return found | {
        "first_call_seconds": point.first,
        "to_device_bytes": point.bytes_there,
        "to_host_bytes": point.bytes_back,
        "shares_host_memory": point.shared and not point.device.is_host,
        "rounds": point.rounds,
    }
