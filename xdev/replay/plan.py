"""Plan: which calls a replay makes, and where in one arena the arrays of each lie.

Requirements: what the recording made is written before it is read; memory is shared only by arrays that are not
alive at once, or by an elementwise result and the operand that it is the last to read.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .recorder import Call, Part, Unreplayable, mapped

__all__ = ["Plan", "make_plan"]

ALIGNMENT = 64
"""Bytes; a line of the processor's cache."""


@dataclass
class Plan:
    """What a replay does.

    Attributes
    ----------
    calls
        In order.
    outputs
        What is returned.
    own
        The memory of outputs that gets an array of its own in each call, by number.
    offsets
        Where each memory lies in the arena, by number.
    nbytes
        The size of the arena.
    """

    calls: list[Call]
    outputs: list[Part]
    own: dict[int, Part]
    offsets: dict[int, int]
    nbytes: int


def make_plan(calls: Sequence[Call], outputs: Sequence[Part], copied: int = 0) -> Plan:
    """Return the plan of a recording.

    Parameters
    ----------
    calls : sequence of Call
        As recorded.
    outputs : sequence of Part
        The arrays that the function returned.
    copied : int
        Bytes up to which outputs are copied to the caller: calls would have to be bound to arrays of their own.

    Returns
    -------
    Plan
        It holds no array but those from outside.

    Raises
    ------
    Unreplayable
        If something is read that nothing wrote.
    """
    kept = _needed(calls, outputs)
    _check(kept, outputs)
    kept = _without_copies(kept, outputs)
    times = Counter(part.memory.number for part in outputs)
    large = [part for part in outputs if part.memory.planned and part.memory.nbytes > copied and _is_whole(part)]
    own = {part.memory.number: part for part in large if times[part.memory.number] == 1}
    return Plan(kept, list(outputs), own, *_places(kept, outputs, own))


def _is_whole(part: Part) -> bool:
    """Return whether a part is its memory from end to end, in C order."""
    expected, strides = part.dtype.itemsize, []
    for n in reversed(part.shape):
        strides.append(expected)
        expected *= n
    return part.offset == 0 and expected == part.memory.nbytes > 0 and part.strides == tuple(reversed(strides))


def _needed(calls: Sequence[Call], outputs: Sequence[Part]) -> list[Call]:
    """Return the calls that outputs, arguments that are written, and checks depend on."""
    needed = {part.memory.number for part in outputs if part.memory.planned}
    kept = []
    for call in reversed(calls):
        made = [part.memory for part in call.makes]
        if call.name == "guard" or any(memory.number in needed or memory.place is not None for memory in made):
            kept.append(call)
            needed.update(part.memory.number for part in call.touches if part.memory.planned)
    return kept[::-1]


def _check(calls: Sequence[Call], outputs: Sequence[Part]) -> None:
    written: set[int] = set()
    changed = False
    for call in calls:
        if call.name == "guard" and changed:
            raise Unreplayable("values are checked after arguments have been written to")
        if not all(_is_there(part, written) for part in call.reads):
            raise Unreplayable(f"{call.name} reads memory that nothing wrote")
        written.update(part.memory.number for part in call.makes)
        changed = changed or any(part.memory.place is not None for part in call.makes)
    if not all(_is_there(part, written) for part in outputs):
        raise Unreplayable("it returns memory that nothing wrote")


def _is_there(part: Part, written: set[int]) -> bool:
    return part.memory.number in written or not part.memory.planned


def _without_copies(calls: list[Call], outputs: Sequence[Part]) -> list[Call]:
    """Let copies be what they are copies of, and memory that ends as a piece of a join be that piece from the start."""
    last: dict[int, float] = {part.memory.number: n for n, call in enumerate(calls) for part in call.touches}
    last.update((part.memory.number, math.inf) for part in outputs)
    written: dict[int, list[int]] = defaultdict(list)  # by which calls, in order
    for n, call in enumerate(calls):
        for part in call.makes:
            written[part.memory.number].append(n)
    met: set[int] = set()
    moves: dict[int, Part] = {}
    rest = []

    def moved(x: Any) -> Any:
        while type(x) is Part and (into := moves.get(x.memory.number)) is not None:
            x = x._replace(memory=into.memory, offset=x.offset + into.offset)
        return x

    for n, call in enumerate(calls):
        if _is_flat_join(call) and call.writes[0].memory.number not in met:
            ending = {part.memory.number for part in call.reads if last[part.memory.number] == n}
            rest += _joins(call, ending, moves)
        elif _is_copy(call) and written[(copy := call.args[0].memory.number)] == [n]:
            source = moved(call.args[1])
            later, end = written[source.memory.number], last[copy]
            if end < math.inf and bisect.bisect(later, n) == bisect.bisect(later, end):  # the source stays until then
                moves[copy] = source
                last[source.memory.number] = max(last.get(source.memory.number, n), end)
            else:
                rest.append(call)
        else:
            rest.append(call)
        met.update(part.memory.number for part in call.touches)
    return [Call(*(mapped(value, moved) for value in call)) for call in rest]


def _is_copy(call: Call) -> bool:
    copies = call.name in ("array", "asarray") and len(call.args) > 1 and call.results == call.args[:1]
    return copies and type(call.args[1]) is Part and _is_the_same(*call.args[:2])


def _is_flat_join(call: Call) -> bool:
    joins = call.name == "concatenate" and len(call.args) == 1 and list(call.kwargs) == ["out"]
    return joins and len(call.writes[0].shape) == 1 and all(type(x) is Part for x in call.args[0])


def _joins(call: Call, ending: set[int], moves: dict[int, Part]) -> list[Call]:
    """Note which pieces of a flat join move, and return joins of the others, those side by side together."""
    (into,) = call.makes
    runs: list[tuple[int, list[Part]]] = []
    start, beside, planned = into.offset, False, into.memory.planned
    for piece in call.args[0]:
        place, number = into._replace(offset=start, shape=piece.shape), piece.memory.number
        if number in ending and number not in moves and planned and _is_the_same(piece, place):
            moves[number], beside = place, False
        elif beside:
            runs[-1][1].append(piece)
        else:
            runs.append((start, [piece]))
            beside = True
        start += piece.nbytes
    places = [into._replace(offset=start, shape=(sum(x.shape[0] for x in run),)) for start, run in runs]
    return [
        call._replace(args=(run,), kwargs={"out": place}, writes=(place,))
        for (_, run), place in zip(runs, places, strict=True)
    ]


def _is_the_same(whole: Part, part: Part) -> bool:
    """Return whether all that a memory holds has the same layout in a part of another."""
    apart = whole.memory.planned and whole.memory is not part.memory
    return apart and _is_whole(whole) and whole[2:] == part[2:]


# -- the arena -----------------------------------------------------------------------------------------------


def _places(calls: Sequence[Call], outputs: Sequence[Part], own: dict[int, Part]) -> tuple[dict[int, int], int]:
    """Return where each memory lies in the arena, and the size of the arena."""
    touched = [(n, part.memory) for n, call in enumerate(calls) for part in call.touches]
    touched = [(n, memory) for n, memory in touched if memory.planned and memory.number not in own]
    first = {memory.number: n for n, memory in reversed(touched)}
    last = {memory.number: n for n, memory in touched}
    sizes = {memory.number: -(-max(memory.nbytes, 1) // ALIGNMENT) * ALIGNMENT for _, memory in touched}
    for part in outputs:  # what is copied to the caller lives to the end
        if part.memory.number in last:
            last[part.memory.number] = len(calls)
    heads = _share(calls, first, last)
    offsets, nbytes = _offsets({number: size for number, size in sizes.items() if number not in heads}, first, last)
    for number, head in heads.items():
        offsets[number] = offsets[head]
    return offsets, nbytes


def _share(calls: Sequence[Call], first: dict[int, int], last: dict[int, int]) -> dict[int, int]:
    """Let elementwise results take the place of an operand that nothing reads later; return who is in whose place."""
    heads: dict[int, int] = {}

    def head_of(part: Part) -> int:
        return heads.get(part.memory.number, part.memory.number)

    for n, call in enumerate(calls):
        if len(call.makes) != 1 or not _is_elementwise(call):
            continue
        (result,) = call.makes
        number = result.memory.number
        if first.get(number) != n or result.nbytes != result.memory.nbytes:
            continue
        operands = call.reads
        for part in operands:
            head = head_of(part)
            ends = last.get(head) == n == last.get(part.memory.number)
            # Of other parts in the same place, elements would be overwritten before they are read.
            alone = all(other == part for other in operands if head_of(other) == head)
            fits = part.nbytes == part.memory.nbytes == result.nbytes and part[1:4] == result[1:4]
            if ends and alone and fits:
                heads[number] = head
                last[head] = last[number]
                break
    return heads


def _is_elementwise(call: Call) -> bool:
    return getattr(call.function, "nin", 0) > 0 and getattr(call.function, "signature", None) is None


def _offsets(sizes: dict[int, int], first: dict[int, int], last: dict[int, int]) -> tuple[dict[int, int], int]:
    """Place what lives at once side by side, each in the smallest gap that it fits into; return the size of all."""
    offsets: dict[int, int] = {}
    end = 0
    gaps: list[tuple[int, float]] = [(0, math.inf)]  # from where to where, in their order
    ending: list[tuple[int, int]] = []  # (last call, number)
    for number in sorted(sizes, key=lambda k: (first[k], -sizes[k])):
        while ending and ending[0][0] < first[number]:
            gone = heapq.heappop(ending)[1]
            _free(gaps, offsets[gone], offsets[gone] + sizes[gone])
        size = sizes[number]
        lengths = [(min(stop, end) - start, start) for start, stop in gaps]
        start = min((gap for gap in lengths if gap[0] >= size), default=lengths[-1])[1]
        place = bisect.bisect_left(gaps, (start, 0))
        stop = gaps.pop(place)[1]
        if start + size < stop:
            gaps.insert(place, (start + size, stop))
        offsets[number] = start
        end = max(end, start + size)
        heapq.heappush(ending, (last[number], number))
    return offsets, end


def _free(gaps: list[tuple[int, float]], start: int, stop: float) -> None:
    """Add a gap, as one with those beside it."""
    place = bisect.bisect_left(gaps, (start, 0))
    if gaps[place][0] == stop:
        stop = gaps.pop(place)[1]
    if place and gaps[place - 1][1] == start:
        place -= 1
        start = gaps.pop(place)[0]
    gaps.insert(place, (start, stop))
