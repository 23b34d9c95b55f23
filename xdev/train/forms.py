"""What a compiled or recorded step is made for, and a compiled one as states and batches come to it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from .. import tree
from ..contract import Array, Backend
from ..floating import default_float
from .state import Flattened, ModelSpec, TrainState

__all__ = ["CompiledStep", "Form", "describe"]


class Form(NamedTuple):
    """What is the same in all calls of one compiled or recorded step."""

    backend: Backend
    spec: ModelSpec
    batch: tree.TreeDef
    optimizer: tree.TreeDef
    rng: tree.TreeDef | None
    dtype: str | None
    """The default of the context."""
    rest: tuple[Any, ...]
    """What it must know of the leaves of the batch."""


def describe(leaf: Any) -> Any:
    """Return what a compiled step must know of a leaf: its shape too, which metrics that are no arrays may follow."""
    shape = getattr(leaf, "shape", None)
    return type(leaf) if shape is None else (shape, leaf.dtype)


class CompiledStep:
    """A step that a backend has compiled.

    Parameters
    ----------
    owner : Step
        Whose it is.
    form : Form
        What it is compiled for.
    function : callable
        Takes (params, others, optimizer state, words of the generator, batch), each a list, and returns the first
        three, the loss and a list of metrics.
    rebuilds : list
        Holds what makes metrics of that list, once the function has been traced.
    """

    def __init__(self, owner: Any, form: Form, function: Callable[..., Any], rebuilds: list[Any]) -> None:
        self.reference = weakref.ref(self)
        self._owner = owner
        self._form = form
        self._function = function
        self._rebuilds = rebuilds
        self._rest = list(form.rest)

    def fits(self, owner: Any, leaves: list[Array], treedef: tree.TreeDef) -> bool:
        """Return whether states that it made go on with it, given such a batch."""
        form = self._form
        return (
            owner is self._owner
            and default_float.get() == form.dtype
            and treedef == form.batch
            and list(map(describe, leaves)) == self._rest
        )

    def take(self, state: TrainState, leaves: list[Array]) -> tuple[TrainState, dict[str, Any]]:
        """Take a step."""
        opt_state, others = state.flat_opt_state(), state.others
        words = [] if self._form.rng is None else tree.leaves(state.rng())
        params, new, opt_leaves, value, arrays = self._function(state.params, others, opt_state.leaves, words, leaves)
        flat = Flattened(opt_leaves, opt_state.treedef)
        after = state.succeed(params, new or others, flat, form=self.reference)
        return after, {"loss": value, **self._rebuilds[0](arrays)}
