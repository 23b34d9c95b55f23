"""A training step that is recorded once and replayed, with the state's arrays written in place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..contract import Array, Backend
from ..replay import Replayed, Unreplayable, replayable, view_of, write_back
from .packed import Packed

__all__ = ["ReplayedStep", "eager_step"]


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
        self._replayed = Replayed(self._of_arrays, backend)
        self._packed: Any = None  # of the call that is under way
        self._lock = threading.Lock()
        self._words = 0

    @property
    def why(self) -> Unreplayable | None:
        """Why the step stays eager; None if it does not."""
        return self._replayed.why

    def __call__(
        self, packed: Packed | None, lists: list[list[Array]], words: list[Array], leaves: list[Any]
    ) -> tuple[Packed, Array, dict[str, Any]]:
        """Take a step; the state's arrays are written in place, where `packed`, or what is returned, has them.

        Parameters
        ----------
        packed : Packed or None
            What the step before returned.
        lists : list of lists of arrays
            The trained arrays of the state, its other ones, and the leaves of the optimizer's state.
        words : list of arrays
            Of the generator.
        leaves : list
            Of the batch.

        Returns
        -------
        packed : Packed
            The state's arrays after the step.
        value : array
            The loss.
        metrics : dict
            The metrics.

        Raises
        ------
        Unreplayable
            If it cannot be replayed; nothing has been done then.
        """
        batch = [*words, *(x for x in leaves if hasattr(x, "dtype"))]
        if packed is None or not packed.holds(lists):
            if self.why is not None:
                raise self.why
            if not replayable(self._backend, [x for arrays in lists for x in arrays]):
                raise Unreplayable("an array of the state is of another kind", told=True)
            packed = Packed(self._backend.replay, lists)
        if not replayable(self._backend, batch):
            raise Unreplayable("an array of the batch is of another kind", told=True)
        count = len(packed.arguments)
        with self._lock:
            self._packed, self._words = packed, len(words)
            out, rebuild = self._replayed([*packed.arguments, *batch], range(count), packed.layout)
            self._packed = None
        return packed, *rebuild(out)

    def _of_arrays(self, arrays: list[Array]) -> tuple[list[Array], Any]:
        packed = self._packed
        count = len(packed.arguments)
        lists = packed.unpack(arrays[:count], view_of)
        words, given = arrays[count : count + self._words], iter(arrays[count + self._words :])
        leaves = [next(given) if x is None else x for x in self._fixed]
        new_params, new_others, new_opt, value, metrics = self._step(*lists, words, leaves)
        write_back([x for old in lists for x in old], [*new_params, *(new_others or lists[1]), *new_opt])
        rebuild = self._box[0]
        return [value, *metrics], lambda out: (out[0], rebuild(out[1:]))


def eager_step(loss: Callable[..., Any], backend: Backend, why: Unreplayable) -> str:
    """Return the words for a step that stays eager."""
    code = getattr(loss, "__code__", None)
    place = "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
    return (
        f"the training step runs eagerly on {backend}, without replaying the loss{place}: {why}. It is right, and "
        "takes longer"
    )
