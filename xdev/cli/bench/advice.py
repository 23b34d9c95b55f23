"""Which device a function belongs on: one sentence with the numbers that speak for it.

Requirements: the data is taken to begin on the host, and its moving is told apart; where devices are level within the
spread, the host wins, since nothing has to move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ledger_table import format_bytes
from .contenders import reference_of
from .timing import Point
from .verdict import leaders
from .words import duration, figure, joined

__all__ = ["recommend"]


def recommend(points: Sequence[Point]) -> tuple[Point, str]:
    """Return the point of the recommended device, and why.

    Parameters
    ----------
    points : sequence of Point
        One a device, at least one.

    Returns
    -------
    point : Point
        That of the device.
    why : str
        Sentences with seconds and bytes.
    """
    first = [points[place] for place in leaders([point.call for point in points])]
    best = next((p for p in first if p.device.is_host), min(first, key=lambda p: p.call.middle))
    said = f"{best.device}: {duration(best.call.middle)} a call"
    if len(points) == 1:
        return best, f"{said}; there is no other device to compare it with."
    level = [p for p in first if p is not best]
    behind = [p for p in points if p not in first]
    reference = reference_of(p.device for p in points)
    rival = next((p for p in behind if p.device is reference), min(behind, key=lambda p: p.call.middle, default=None))
    if rival is not None:
        times = figure(rival.call.middle / best.call.middle)
        said += f", {times} times faster than {rival.device} ({duration(rival.call.middle)})"
    if level:
        names = joined([f"{p.device} ({duration(p.call.middle)})" for p in level])
        said += f"; {names} {'are' if len(level) > 1 else 'is'} level with it within the spread"
    if best.device.is_host:
        return best, f"{said}. The data is there already, so nothing has to move."
    host = next((p for p in points if p.device.is_host), None)
    return best, f"{said}. {_moving(best, host)}{_where_it_moves(best, points)}"


def _moving(best: Point, host: Point | None) -> str:
    """Say what moving costs beside what is gained."""
    costs = best.there.middle + best.back.middle
    size = joined(
        [f"{format_bytes(n)} {way}" for n, way in ((best.bytes_there, "there"), (best.bytes_back, "back")) if n]
    )
    if not size:
        return "Nothing has to move."
    if best.shared:
        said = f"It computes on the host's own memory: handing {size} over costs {duration(costs)} a call"
    else:
        said = f"Moving {size} costs {duration(costs)} a call"
    if host is None:
        return f"{said}, if the data begins on the host and the result is wanted there."
    gain = host.call.middle - best.call.middle
    if gain <= 0:  # the host is among those that are level, or failed
        return f"{said}."
    if costs < gain:
        return f"{said}, so it pays from the first call on, even if each call moves its data."
    return (
        f"{said}, and a call there gains {duration(gain)}: it pays only if the data stays there, for "
        f"{math.floor(costs / gain) + 1} calls or more."
    )


def _where_it_moves(best: Point, points: Sequence[Point]) -> str:
    """Name the device that is faster if each call moves its data, if that is another."""
    first = [points[place] for place in leaders([point.moved for point in points])]
    if best in first:
        return ""
    other = next((p for p in first if p.device.is_host), min(first, key=lambda p: p.moved.middle))
    including = "" if other.device.is_host else ", moving included"
    return (
        f" If each call moves its data, {other.device} is faster: {duration(other.moved.middle)}{including}, against "
        f"{duration(best.moved.middle)}."
    )
