"""A training step that is recorded once and replayed, with the state's arrays written in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ..contract import Array, Backend
from ..errors import ReplayWarning
from ..replay import Replayed, Unreplayable, replayable, write_back

__all__ = ["ReplayedStep", "warn_of_eager_step"]

Groups = tuple[list[Array], list[Array], list[Array], list[Array], list[Array]]


class ReplayedStep:
    """A step as a function of lists of arrays, in the form of one that a backend compiles.

    Parameters
    ----------
    step : callable
        Takes (params, others, optimizer state, words of the generator, batch), each a list, and returns the first
        three, the loss and a list of metrics.
    backend : Backend
        Of the arrays.
    """

    def __init__(self, step: Callable[..., Any], backend: Backend) -> None:
        self._backend = backend
        self._step = step
        self._counts: list[int] = []
        self._fixed: list[Any] = []
        self._replayed = Replayed(self._of_arrays, backend, passes=True)

    @property
    def why(self) -> Unreplayable | None:
        """Why the step stays eager; None if it does not."""
        return self._replayed.why

    def __call__(self, *groups: list[Array]) -> tuple[list[Array], list[Array], list[Array], Array, list[Array]]:
        """Take a step.

        Raises
        ------
        Unreplayable
            If it cannot be replayed; nothing has been done then.
        """
        params, others, opt_leaves, words, leaves = groups
        batch = [x for x in leaves if hasattr(x, "dtype")]
        arrays = [*params, *others, *opt_leaves, *words, *batch]
        if not self._counts:
            self._fixed = [None if hasattr(x, "dtype") else x for x in leaves]
            self._counts = [len(params), len(others), len(opt_leaves), len(words), len(batch)]
        if not replayable(self._backend, arrays):
            raise Unreplayable("an array is of another kind")
        first, second = len(params), len(params) + len(others)
        third = second + len(opt_leaves)
        out = self._replayed(arrays, range(third))
        return out[:first], out[first:second], out[second:third], out[third], out[third + 1 :]

    def _of_arrays(self, arrays: list[Array]) -> list[Array]:
        groups, start = [], 0
        for count in self._counts:
            groups.append(arrays[start : start + count])
            start += count
        params, others, opt_leaves, words, moving = groups
        given = iter(moving)
        leaves = [next(given) if x is None else x for x in self._fixed]
        new_params, new_others, new_opt, value, metrics = self._step(params, others, opt_leaves, words, leaves)
        old = [*params, *others, *opt_leaves]
        return [*write_back(old, [*new_params, *(new_others or others), *new_opt]), value, *metrics]


def warn_of_eager_step(loss: Callable[..., Any], backend: Backend, why: Unreplayable) -> None:
    """Say that a step stays eager."""
    if why.told:
        return
    code = getattr(loss, "__code__", None)
    place = "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
    warnings.warn(
        f"the training step runs eagerly on {backend}, without replaying the loss{place}: {why}. It is right, and "
        "takes longer",
        ReplayWarning,
        stacklevel=4,
    )
