"""A state's arrays as a few flat ones, of which its leaves are views: a step then costs the same for any number."""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from ..contract import Array

__all__ = ["Packed"]


class Packed:
    """Lists of arrays, copied into one flat array for each list and dtype.

    Parameters
    ----------
    kit : object
        `Backend.replay` of the arrays' backend.
    lists : sequence of list of arrays
        What is packed; arrays that are the only ones of their dtype stay as they are.

    Attributes
    ----------
    lists
        The arrays as views, in lists as they came.
    arguments
        The flat arrays, and those that stayed.
    layout
        What two packed states must share to be arguments of one plan; hashable.
    """

    def __init__(self, kit: Any, lists: Sequence[list[Array]]) -> None:
        self.arguments: list[Array] = []
        self.lists: list[list[Array]] = []
        places: list[list[tuple[int, int, int, Any]]] = []
        for arrays in lists:
            alike = defaultdict(list)
            for n, x in enumerate(arrays):
                alike[x.dtype].append(n)
            views: list[Array] = list(arrays)
            where: list[tuple[int, int, int, Any]] = [(0, 0, 0, ())] * len(arrays)
            for dtype, numbers in alike.items():
                if len(numbers) == 1:
                    where[numbers[0]] = (len(self.arguments), -1, -1, ())
                    views[numbers[0]] = kit.array(arrays[numbers[0]])
                    self.arguments.append(views[numbers[0]])
                    continue
                flat = kit.empty((sum(math.prod(arrays[n].shape) for n in numbers),), dtype)
                start = 0
                for n in numbers:
                    shape = arrays[n].shape
                    where[n] = (len(self.arguments), start, start + math.prod(shape), shape)
                    views[n] = flat[start : where[n][2]].reshape(shape)
                    kit.functions.copyto(views[n], arrays[n])
                    start = where[n][2]
                self.arguments.append(flat)
            self.lists.append(views)
            places.append(where)
        self.layout = tuple(tuple(where) for where in places)
        self._views = tuple(map(tuple, self.lists))  # the lists are the state's, in which arrays may be replaced

    def holds(self, lists: Sequence[list[Array]]) -> bool:
        """Return whether these are the arrays that it holds."""
        return all(
            len(mine) == len(other) and all(map(operator.is_, mine, other))
            for mine, other in zip(self._views, lists, strict=True)
        )

    def unpack(
        self, arguments: Sequence[Any], view: Callable[[Any, int, int, tuple[int, ...]], Any]
    ) -> list[list[Any]]:
        """Return lists of leaves, given other arrays in the places of `arguments`, and what makes a view of one."""
        return [
            [arguments[n] if start < 0 else view(arguments[n], start, stop, shape) for n, start, stop, shape in where]
            for where in self.layout
        ]
