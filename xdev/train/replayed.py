"""A training step that is recorded once and replayed, with the state's arrays written in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..contract import Array, Backend
from ..errors import ReplayWarning
from ..ledger import warn
from ..replay import Replayed, Unreplayable, replayable, write_back

__all__ = ["ReplayedStep", "warn_of_eager_step"]


class ReplayedStep:
    """A step as a function of lists of arrays, in the form of one that a backend compiles.

    Parameters
    ----------
    step : callable
        Takes (params, others, optimizer state, words of the generator, batch), each a list, and returns the first
        three, the loss and a list of metrics.
    box : list
        Holds what makes metrics of that list, after `step` has run.
    backend : Backend
        Of the arrays.
    leaves : list
        A batch; what is no array in it is the same in every call.
    """

    def __init__(self, step: Callable[..., Any], box: list[Any], backend: Backend, leaves: list[Any]) -> None:
        self._backend = backend
        self._step = step
        self._box = box
        self._fixed = [None if hasattr(x, "dtype") else x for x in leaves]
        self._counts: list[int] = []
        self._replayed = Replayed(self._of_arrays, backend, passes=True)

    @property
    def why(self) -> Unreplayable | None:
        """Why the step stays eager; None if it does not."""
        return self._replayed.why

    def __call__(
        self, params: list[Array], others: list[Array], opt_leaves: list[Array], words: list[Array], leaves: list[Any]
    ) -> tuple[list[Array], list[Array], list[Array], Array, dict[str, Any]]:
        """Take a step.

        Raises
        ------
        Unreplayable
            If it cannot be replayed; nothing has been done then.
        """
        arrays = [*params, *others, *opt_leaves, *words, *(x for x in leaves if hasattr(x, "dtype"))]
        if not replayable(self._backend, arrays):
            raise Unreplayable("an array is of another kind", told=True)
        first, second = len(params), len(params) + len(others)
        third = second + len(opt_leaves)
        self._counts = [first, second, third, third + len(words)]
        out, rebuild = self._replayed(arrays, range(third))
        return out[:first], out[first:second], out[second:third], out[third], rebuild(out[third + 1 :])

    def _of_arrays(self, arrays: list[Array]) -> tuple[list[Array], Any]:
        first, second, third, fourth = self._counts
        params, others, opt_leaves = arrays[:first], arrays[first:second], arrays[second:third]
        given = iter(arrays[fourth:])
        leaves = [next(given) if x is None else x for x in self._fixed]
        found = self._step(params, others, opt_leaves, arrays[third:fourth], leaves)
        new_params, new_others, new_opt, value, metrics = found
        old = [*params, *others, *opt_leaves]
        return [*write_back(old, [*new_params, *(new_others or others), *new_opt]), value, *metrics], self._box[0]


def warn_of_eager_step(loss: Callable[..., Any], backend: Backend, why: Unreplayable) -> None:
    """Say that a step stays eager."""
    if why.told:
        return
    code = getattr(loss, "__code__", None)
    place = "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
    warn(
        f"the training step runs eagerly on {backend}, without replaying the loss{place}: {why}. It is right, and "
        "takes longer",
        ReplayWarning,
    )
