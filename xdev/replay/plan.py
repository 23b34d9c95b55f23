"""Plan: which calls a replay makes, and where in one arena the arrays of each lie.

Requirements: what the recording made is written before it is read; memory is shared only by arrays that are not
alive at once, or by an elementwise result and the operand that it is the last to read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .recorder import Call, Memory, Part, Unreplayable, parts_of

__all__ = ["Plan", "make_plan"]

ALIGNMENT = 64
"""Bytes; a line of the processor's cache."""
SMALL = 2048
"""Bytes up to which memory is given out again by size, so that long chains of small arrays are planned in no time."""


@dataclass
class Plan:
    """What a replay does.

    Attributes
    ----------
    calls
        In order.
    outputs
        What is returned; None where the function returned no array.
    own
        The memory of outputs that gets an array of its own in each call, by number.
    offsets
        Where each memory lies in the arena, by number.
    nbytes
        The size of the arena.
    spans
        By number, the first and the last call that touches it.
    """

    calls: list[Call]
    outputs: list[Part]
    own: dict[int, Part]
    offsets: dict[int, int] = field(default_factory=dict)
    nbytes: int = 0
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)


def make_plan(calls: Sequence[Call], outputs: Sequence[Part]) -> Plan:
    """Return the plan of a recording.

    Parameters
    ----------
    calls : sequence of Call
        As recorded.
    outputs : sequence of Part
        The arrays that the function returned.

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
    times = Counter(part.memory.number for part in outputs)
    own = {
        part.memory.number: part
        for part in outputs
        if _is_planned(part.memory) and times[part.memory.number] == 1 and _is_whole(part)
    }
    plan = Plan(kept, list(outputs), own)
    _place(plan)
    return plan


def _is_planned(memory: Memory) -> bool:
    return memory.made and not memory.fixed


def _is_whole(part: Part) -> bool:
    expected, strides = part.dtype.itemsize, []
    for n in reversed(part.shape):
        strides.append(expected)
        expected *= n
    dense = 0 not in part.shape and part.offset == 0 and expected == part.memory.nbytes
    return dense and part.strides == tuple(reversed(strides))


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


# -- the arena -----------------------------------------------------------------------------------------------


def _place(plan: Plan) -> None:
    """Find the place of each memory in the arena."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    memories: dict[int, Memory] = {}
    for n, call in enumerate(plan.calls):
        for part in (*parts_of(call.args), *parts_of(call.kwargs), *call.results, *call.writes):
            number = part.memory.number
            if _is_planned(part.memory) and number not in plan.own:
                memories[number] = part.memory
                first.setdefault(number, n)
                last[number] = n
    for part in plan.outputs:  # what is copied to the caller lives to the end
        if part.memory.number in last:
            last[part.memory.number] = len(plan.calls)
    group = _share(plan.calls, first, last)
    sizes: dict[int, int] = defaultdict(int)
    for number, memory in memories.items():
        head = group.get(number, number)
        sizes[head] = max(sizes[head], -(-max(memory.nbytes, 1) // ALIGNMENT) * ALIGNMENT)
    spans = {head: (first[head], last[head]) for head in sizes}
    offsets, small_end = _small(spans, sizes)
    plan.nbytes = _large(spans, sizes, offsets, small_end)
    plan.offsets = {number: offsets[group.get(number, number)] for number in memories}
    plan.spans, plan.sizes = {number: spans[group.get(number, number)] for number in memories}, dict(sizes)


def _share(calls: Sequence[Call], first: dict[int, int], last: dict[int, int]) -> dict[int, int]:
    """Let elementwise results take the place of an operand that nothing reads later; return who leads whom."""
    group: dict[int, int] = {}
    for n, call in enumerate(calls):
        if len(call.results) != 1 or call.writes or not _is_elementwise(call):
            continue
        result = call.results[0]
        number = result.memory.number
        if first.get(number) != n:
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


def _small(spans: dict[int, tuple[int, int]], sizes: dict[int, int]) -> tuple[dict[int, int], int]:
    """Place what is small: memory that is free again goes to the next of its size."""
    offsets: dict[int, int] = {}
    end = 0
    free: dict[int, list[int]] = defaultdict(list)
    ending: dict[int, list[int]] = defaultdict(list)
    now = 0
    for number in sorted((k for k, size in sizes.items() if size <= SMALL), key=lambda k: spans[k][0]):
        start, stop = spans[number]
        for time in range(now, start):
            for other in ending.pop(time, ()):
                free[sizes[other]].append(offsets[other])
        now = start
        size = sizes[number]
        if free[size]:
            offsets[number] = free[size].pop()
        else:
            offsets[number] = end
            end += size
        ending[stop].append(number)
    return offsets, end


def _large(spans: dict[int, tuple[int, int]], sizes: dict[int, int], offsets: dict[int, int], base: int) -> int:
    """Place what is large, the largest first, each at the lowest offset that is free while it lives."""
    placed: list[tuple[int, int, int, int]] = []  # by offset: offset, end, first, last
    top = base
    for number in sorted((k for k, size in sizes.items() if size > SMALL), key=lambda k: (-sizes[k], spans[k][0])):
        start, stop = spans[number]
        size, offset = sizes[number], base
        for low, high, begin, end in placed:
            if begin > stop or end < start or high <= offset:
                continue
            if low - offset >= size:
                break
            offset = high
        offsets[number] = offset
        placed.append((offset, offset + size, start, stop))
        placed.sort()
        top = max(top, offset + size)
    return top
