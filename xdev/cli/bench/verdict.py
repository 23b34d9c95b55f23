"""From which size on a device wins: arithmetic on medians and quartiles, and nothing else.

Requirements: a difference within the spread is none; a device wins from a size on if it is ahead there and at all
larger ones; where between two sizes that begins is interpolated in logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .timing import Spread
from .words import about

__all__ = ["Verdict", "compare", "crossing", "judge", "leaders"]

AHEAD, LEVEL, BEHIND = 1, 0, -1
Kind = Literal["always", "from", "level", "up to", "between", "never"]


@dataclass(frozen=True)
class Verdict:
    """At which sizes a device wins.

    Attributes
    ----------
    kind
        "always"; "from" a size on; "up to" one; "between" two; "level" from a size on, having won nowhere; or "never".
    size, until
        The sizes that it speaks of, where there are such; an int is a measured one.
    then_level
        Whether nobody is ahead of it at the larger sizes either.
    """

    kind: Kind
    size: float | None = None
    until: float | None = None
    then_level: bool = False

    def text(self, largest: int) -> str:
        """Return it in words, given the largest size."""
        first, last = (about(each or 0) for each in (self.size, self.until))
        after = ", then level" if self.then_level else ""
        match self.kind:
            case "always":
                return "at every size"
            case "from":
                return f"from {first} on"
            case "up to":
                return f"up to {last}{after}"
            case "between":
                return (f"from {first} to {last}" if first != last else f"at {first} only") + after
            case "level":
                return f"level from {first} on" if self.size is not None else "level throughout"
            case _:
                return f"never up to {about(largest)}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"kind": self.kind, "size": self.size, "until": self.until, "then_level": self.then_level}


def compare(own: Spread, rival: Spread) -> int:
    """Return 1 if a device is ahead of another beyond the quartiles of both, -1 if it is behind, else 0."""
    if own.high < rival.low:
        return AHEAD
    return BEHIND if rival.high < own.low else LEVEL


def leaders(spreads: Sequence[Spread | None]) -> list[int]:
    """Return the places of those that nobody is ahead of."""
    there = [(place, each) for place, each in enumerate(spreads) if each is not None]
    return [place for place, each in there if all(compare(each, other) != BEHIND for _, other in there)]


def crossing(sizes: tuple[float, float], own: tuple[float, float], rival: tuple[float, float]) -> float | None:
    """Return the size at which two straight lines between two sizes cross, all in logarithms; None if they do not."""
    before, after = (math.log(a / b) for a, b in zip(own, rival, strict=True))
    if before * after >= 0:
        return None
    low, high = map(math.log, sizes)
    return math.exp(low + (high - low) * before / (before - after))


def judge(sizes: Sequence[int], own: Sequence[Spread | None], rivals: Sequence[Sequence[Spread | None]]) -> Verdict:
    """Say at which sizes a device is ahead of all its rivals.

    Parameters
    ----------
    sizes : sequence of int
        In ascending order.
    own : sequence of Spread or None
        What the device takes at each size; None where it could not do the work.
    rivals : sequence of sequences
        The same of each rival.

    Returns
    -------
    Verdict
        With sizes between the measured ones where the medians cross there.
    """
    status = [_status(mine, [rival[place] for rival in rivals]) for place, mine in enumerate(own)]
    best = [min((r[place].middle for r in rivals if r[place]), default=None) for place in range(len(sizes))]  # type: ignore[union-attr]  # just looked at

    def edge(inside: int, outside: int) -> float:
        """Return where winning begins or ends, between a size at which the device wins and the one beside it."""
        if not 0 <= outside < len(sizes):
            return sizes[inside]
        mine = own[inside], own[outside]
        theirs = best[inside], best[outside]
        if mine[0] is None or mine[1] is None or theirs[0] is None or theirs[1] is None:
            return sizes[inside]
        found = crossing((sizes[inside], sizes[outside]), (mine[0].middle, mine[1].middle), (theirs[0], theirs[1]))
        return sizes[inside] if found is None else found  # ahead at both, but at one within the spread

    if all(each == AHEAD for each in status):
        return Verdict("always")
    runs = _runs(status, AHEAD)
    if not runs:
        return _level(sizes, status)
    start, stop = runs[-1]
    if stop == len(sizes) - 1:
        return Verdict("from", edge(start, start - 1))
    start, stop = max(runs, key=lambda run: run[1] - run[0])
    then_level = all(each == LEVEL for each in status[stop + 1 :])
    until = sizes[stop] if then_level else edge(stop, stop + 1)
    if start == 0:
        return Verdict("up to", until=until, then_level=then_level)
    return Verdict("between", edge(start, start - 1), until, then_level)


def _status(mine: Spread | None, others: Sequence[Spread | None]) -> int:
    if mine is None:
        return BEHIND
    return min((compare(mine, other) for other in others if other is not None), default=AHEAD)


def _runs(status: Sequence[int], wanted: int) -> list[tuple[int, int]]:
    """Return the first and last place of each run of a status."""
    found: list[tuple[int, int]] = []
    for place, each in enumerate(status):
        if each != wanted:
            continue
        if found and found[-1][1] == place - 1:
            found[-1] = found[-1][0], place
        else:
            found.append((place, place))
    return found


def _level(sizes: Sequence[int], status: Sequence[int]) -> Verdict:
    """Return the verdict on a device that is ahead nowhere."""
    runs = _runs(status, LEVEL)
    if not runs or runs[-1][1] != len(sizes) - 1:
        return Verdict("never")
    start = runs[-1][0]
    return Verdict("level", sizes[start] if start else None)
