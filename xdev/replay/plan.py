"""Plan: which calls a replay makes, and where in one arena the arrays of each lie.

Requirements: what the recording made is written before it is read; memory is shared only by arrays that are not
alive at once, or by an elementwise result and the operand that it is the last to read.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .recorder import Call, Memory, Part, Unreplayable, parts_of

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
    spans
        By number, the first and the last call that touches its place.
    sizes
        Bytes of each place, by the number of the memory that was there first.
    """

    calls: list[Call]
    outputs: list[Part]
    own: dict[int, Part]
    offsets: dict[int, int] = field(default_factory=dict)
    nbytes: int = 0
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)


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
    kept = _needed([call for call in calls if not _is_fixed(call)], outputs)
    _check(kept, outputs)
    kept = _without_copies(kept, outputs)
    times = Counter(part.memory.number for part in outputs)
    own = {
        part.memory.number: part
        for part in outputs
        if times[part.memory.number] == 1
        and part.memory.nbytes > copied
        and _is_planned(part.memory)
        and _is_whole(part)
    }
    plan = Plan(kept, list(outputs), own)
    _place(plan)
    return plan


def _is_planned(memory: Memory) -> bool:
    return memory.made and not memory.fixed


def _end(part: Part) -> int:
    """Return where a part ends in its memory."""
    reach = sum(max(n - 1, 0) * max(s, 0) for n, s in zip(part.shape, part.strides, strict=True))
    return part.offset + int(part.dtype.itemsize) + reach


def _is_dense(part: Part) -> bool:
    """Return whether a part is in C order, without gaps."""
    expected, strides = part.dtype.itemsize, []
    for n in reversed(part.shape):
        strides.append(expected)
        expected *= n
    return 0 not in part.shape and part.strides == tuple(reversed(strides))


def _is_whole(part: Part) -> bool:
    """Return whether a part is its memory from end to end, in C order."""
    return part.offset == 0 and part.dtype.itemsize * math.prod(part.shape) == part.memory.nbytes and _is_dense(part)


def _is_fixed(call: Call) -> bool:
    """Return whether a call's results are the same each time, and kept from the recording."""
    return bool(call.results) and not call.writes and all(part.memory.fixed for part in call.results)


def _reads(call: Call) -> Iterable[Part]:
    left = Counter(call.writes)
    for part in (*parts_of(call.args), *parts_of(call.kwargs)):
        if left[part]:
            left[part] -= 1
        else:
            yield part


def _needed(calls: Sequence[Call], outputs: Sequence[Part]) -> list[Call]:
    """Return the calls that outputs, arguments that are written, and checks depend on."""
    needed = {part.memory.number for part in outputs}
    kept = []
    for call in reversed(calls):
        touched = [part.memory for part in (*call.results, *call.writes)]
        if call.name == "guard" or any(memory.number in needed or not memory.made for memory in touched):
            kept.append(call)
            needed.update(part.memory.number for part in (*parts_of(call.args), *parts_of(call.kwargs)))
    return kept[::-1]


def _check(calls: Sequence[Call], outputs: Sequence[Part]) -> None:
    written: set[int] = set()
    changed = False
    for call in calls:
        if call.name == "guard" and changed:
            raise Unreplayable("values are checked after arguments have been written to")
        for part in _reads(call):
            if _is_planned(part.memory) and part.memory.number not in written:
                raise Unreplayable(f"{call.name} reads memory that nothing wrote")
        for part in (*call.results, *call.writes):
            written.add(part.memory.number)
            changed |= not part.memory.made
    for part in outputs:
        if _is_planned(part.memory) and part.memory.number not in written:
            raise Unreplayable("it returns memory that nothing wrote")


def _touched(call: Call) -> Iterable[Part]:
    return *parts_of(call.args), *parts_of(call.kwargs), *call.results, *call.writes


def _without_copies(calls: list[Call], outputs: Sequence[Part]) -> list[Call]:
    """Let memory that ends in a copy into a part of another be that part from the start."""
    last = {part.memory.number: n for n, call in enumerate(calls) for part in _touched(call)}
    kept = {part.memory.number for part in outputs}
    reach: dict[int, int] = defaultdict(int)  # up to where a memory has been touched
    moves: dict[int, Part] = {}
    rest = []
    for n, call in enumerate(calls):
        if call.name == "copyto" and len(call.args) == 2 and type(call.args[1]) is Part and not call.kwargs:
            into, source = call.args
            number = source.memory.number
            ends = last[number] == n and number not in kept
            if ends and reach[into.memory.number] <= into.offset and _is_the_same(source, into):
                moves[number] = into
                reach[into.memory.number] = into.offset + source.memory.nbytes
                continue
        rest.append(call)
        for part in _touched(call):
            reach[part.memory.number] = max(reach[part.memory.number], _end(part))
    return [call._replace(**{name: _moved(getattr(call, name), moves) for name in _HOLDING}) for call in rest]


_HOLDING = ("args", "kwargs", "results", "writes")


def _is_the_same(source: Part, into: Part) -> bool:
    """Return whether all that a memory holds has the same layout in a part of another."""
    memory, host = source.memory, into.memory
    planned = memory is not host and _is_planned(memory) and _is_planned(host)
    return planned and _is_whole(source) and _is_dense(into) and source[2:] == into[2:]


def _moved(value: Any, moves: dict[int, Part]) -> Any:
    """Return a value with its parts where their memory is a part of another."""
    kind = type(value)
    if kind is Part:
        while (into := moves.get(value.memory.number)) is not None:
            value = value._replace(memory=into.memory, offset=value.offset + into.offset)
        return value
    if kind is tuple or kind is list:
        return kind(_moved(item, moves) for item in value)
    return {key: _moved(item, moves) for key, item in value.items()} if kind is dict else value


# -- the arena -----------------------------------------------------------------------------------------------


def _place(plan: Plan) -> None:
    """Find the place of each memory in the arena."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    memories: dict[int, Memory] = {}
    for n, call in enumerate(plan.calls):
        for part in _touched(call):
            number = part.memory.number
            if _is_planned(part.memory) and number not in plan.own:
                memories[number] = part.memory
                first.setdefault(number, n)
                last[number] = n
    for part in plan.outputs:  # what is copied to the caller lives to the end
        if part.memory.number in last:
            last[part.memory.number] = len(plan.calls)
    group = _share(plan.calls, first, last)
    heads = {number: group.get(number, number) for number in memories}
    for number, head in heads.items():
        size = -(-max(memories[number].nbytes, 1) // ALIGNMENT) * ALIGNMENT
        plan.sizes[head] = max(plan.sizes.get(head, 0), size)
    offsets, plan.nbytes = _offsets(plan.sizes, first, last)
    plan.offsets = {number: offsets[head] for number, head in heads.items()}
    plan.spans = {number: (first[head], last[head]) for number, head in heads.items()}


def _share(calls: Sequence[Call], first: dict[int, int], last: dict[int, int]) -> dict[int, int]:
    """Let elementwise results take the place of an operand that nothing reads later; return who leads whom."""
    group: dict[int, int] = {}
    for n, call in enumerate(calls):
        made = (*call.results, *call.writes)
        if len(made) != 1 or not _is_elementwise(call):
            continue
        (result,) = made
        number = result.memory.number
        if first.get(number) != n or math.prod(result.shape) * result.dtype.itemsize != result.memory.nbytes:
            continue
        operands = list(_reads(call))
        for part in operands:
            its = part.memory.number
            head = group.get(its, its)
            if last.get(head) != n or last.get(its) != n or part.memory.nbytes != result.memory.nbytes:
                continue
            if part[1:4] != result[1:4] or part.dtype.itemsize != result.dtype.itemsize:
                continue
            others = [other for other in operands if other.memory.number in last and other is not part]
            if any(group.get(o.memory.number, o.memory.number) == head and o != part for o in others):
                continue
            group[number] = head
            last[head] = max(last[number], n)
            break
    return group


def _is_elementwise(call: Call) -> bool:
    return getattr(call.function, "nin", 0) > 0 and getattr(call.function, "signature", None) is None


def _offsets(sizes: dict[int, int], first: dict[int, int], last: dict[int, int]) -> tuple[dict[int, int], int]:
    """Place what lives at once side by side, each in the smallest gap that it fits into; return the size of all."""
    offsets: dict[int, int] = {}
    end = 0
    gaps: list[tuple[int, int]] = []  # (size, offset)
    ending: list[tuple[int, int]] = []  # (last call, number)
    for number in sorted(sizes, key=lambda k: (first[k], -sizes[k])):
        while ending and ending[0][0] < first[number]:
            gone = heapq.heappop(ending)[1]
            gaps = _joined(gaps, offsets[gone], sizes[gone])
        size = sizes[number]
        place = bisect.bisect_left(gaps, (size, -1))
        if place < len(gaps):
            length, offset = gaps.pop(place)
        else:  # the last gap, if it ends there, grows
            length, offset = next((gap for gap in gaps if sum(gap) == end), (0, end))
            if length:
                gaps.remove((length, offset))
            end, length = offset + size, size
        offsets[number] = offset
        if length > size:
            bisect.insort(gaps, (length - size, offset + size))
        heapq.heappush(ending, (last[number], number))
    return offsets, end


def _joined(gaps: list[tuple[int, int]], offset: int, size: int) -> list[tuple[int, int]]:
    """Return gaps with another one, as one with those beside it."""
    rest = []
    for length, start in gaps:
        if start + length == offset:
            offset, size = start, size + length
        elif start == offset + size:
            size += length
        else:
            rest.append((length, start))
    bisect.insort(rest, (size, offset))
    return rest
