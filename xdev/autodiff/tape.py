"""The tape: what was computed, in order, and the walk back along it.

Requirements: the tape knows no function by name. A record is a tuple whose first item is the function that sends
the record's cotangent on to its arguments; its number is the index of the array it made. Tapes are ordered by
birth: of several tapes that meet in one call, the youngest is the innermost and records it, and the arrays of the
others are constants to it. There is no state outside the tapes, so threads differentiate at once, and nothing to
restore when something raises. Records hold values, never traced arrays of their own tape: there are no cycles.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..errors import GradientError
from ..locking import Locks
from .array import TracedArray

__all__ = ["Backward", "Tape", "backpropagate", "send"]

_births = itertools.count()


class Tape:
    """Records of one differentiation.

    Attributes
    ----------
    order
        Larger for tapes born later.
    records
        One per array: None for the leaves, else (backward, ...).
    nested
        Whether a recorded value is followed by an outer tape.
    keeper
        Sees to it that arrays of the caller that records need stay as they are.
    """

    __slots__ = ("keeper", "nested", "order", "records")

    def __init__(self, keeper: Any = None) -> None:
        self.order = next(_births)
        self.records: Any = []
        self.nested = False
        self.keeper = Locks() if keeper is None else keeper

    def start(self, values: Sequence[Any], spaces: Sequence[Any]) -> list[TracedArray]:
        """Return traced arrays that start here, given the namespace of each."""
        self.nested = any(type(x) is TracedArray for x in values)
        self.records = [None] * len(values)
        return [TracedArray(x, self, i, xp) for i, (x, xp) in enumerate(zip(values, spaces, strict=True))]

    def close(self) -> None:
        """Free the records; whoever kept a traced array gets an error when it is used."""
        self.records = _CLOSED
        self.keeper.release()


class _Closed:
    """In place of the records of a tape that is done."""

    def append(self, record: object) -> NoReturn:
        raise GradientError(
            "a traced array was used after the differentiation that made it had returned; return it as an "
            "auxiliary output (has_aux=True) instead of storing it"
        )


_CLOSED = _Closed()

Backward = Callable[[Any, list[Any], bytearray, Any, bool], None]
"""Gets (cotangent, all cotangents, which are owned, the record, whether a value is traced)."""


SUM = 2
"""Marks a cotangent as a sum that the engine has made; 1 marks one that a rule promises to be new."""


def conform(xp: Any, cotangent: Any, x: Any) -> Any:
    """Return a cotangent in the shape and dtype of `x`: broadcast axes are summed."""
    shape = x.shape
    if cotangent.shape != shape:
        extra = cotangent.ndim - len(shape)
        axes = [*range(extra), *(k + extra for k, n in enumerate(shape) if n == 1 != cotangent.shape[k + extra])]
        if axes:
            cotangent = xp.sum(cotangent, axis=tuple(axes))
        if cotangent.shape != shape:
            cotangent = xp.reshape(cotangent, shape)
    if cotangent.dtype != x.dtype:
        if xp.isdtype(cotangent.dtype, "complex floating") and not xp.isdtype(x.dtype, "complex floating"):
            cotangent = xp.real(cotangent)
        cotangent = xp.astype(cotangent, x.dtype)
    return cotangent


def send(xp: Any, cotangents: list[Any], owned: bytearray, index: int, x: Any, cotangent: Any, fresh: bool) -> None:
    """Add a cotangent to those of the array of that index, whose value is `x`.

    `fresh` says that nobody else holds the cotangent. A sum in place needs more than that promise of a rule: only
    sums made here are written to.
    """
    if cotangent.shape != x.shape or cotangent.dtype != x.dtype:
        cotangent = conform(xp, cotangent, x)
        fresh = True
    old = cotangents[index]
    if old is None:
        cotangents[index] = cotangent
        owned[index] = fresh
    else:
        cotangents[index] = xp.add_to_(old, cotangent) if owned[index] == SUM else xp.add(old, cotangent)
        owned[index] = SUM


def backpropagate(
    records: list[Any], seeds: Sequence[tuple[int, Any]], count: int, nested: bool, keep: bool
) -> tuple[list[Any], bytearray]:
    """Walk the tape back from the seeds.

    Parameters
    ----------
    records : list
        Of a tape; the first `count` are the leaves.
    seeds : sequence of (int, array)
        Indices and their cotangents.
    count : int
        Number of leaves.
    nested : bool
        Whether a value or a seed is traced.
    keep : bool
        Whether the records are needed again; else each is freed once it has been used.

    Returns
    -------
    cotangents : list of (array or None)
        Of the leaves; None where nothing arrived.
    owned : bytearray
        Not 0 where nothing else holds that array.
    """
    cotangents: list[Any] = [None] * len(records)
    owned = bytearray(len(records))
    start = -1
    for index, seed in seeds:
        start = max(start, index)
        old = cotangents[index]
        cotangents[index] = seed if old is None else seed + old
    for index in range(start, count - 1, -1):
        cotangent = cotangents[index]
        record = records[index]
        if not keep:
            records[index] = None
        if cotangent is not None:
            cotangents[index] = None
            record[0](cotangent, cotangents, owned, record, nested)
    return cotangents[:count], owned[:count]
