"""A training step that is recorded once and replayed, with the state's arrays written in place."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .. import tree
from ..autodiff.array import constant, recording, unwrap
from ..contract import Array, Backend
from ..differentiation import exactly
from ..explanation import Surroundings
from ..floating import default_float
from ..replay import Forms, Replayed, Unreplayable, current, mapped, replayable
from .forms import Form
from .packed import Packed
from .state import Flattened, TrainState

__all__ = ["ReplayedStep", "apart", "eager_step", "replacing", "update_in_place"]


class ReplayedStep:
    """A step that is recorded once for each layout of its batches, and replayed.

    Parameters
    ----------
    owner : Step
        Whose it is.
    form : Form
        What it is recorded for.
    step : callable
        Takes (params, others, optimizer state, words of the generator, batch), each a list, and returns the first
        three, the loss, a list of metrics, and what makes metrics of such a list.
    leaves : list
        A batch; what is no array in it is the same in every call.
    surroundings : Surroundings
        What the loss takes from outside.
    forms : Forms
        Where it is kept.
    """

    def __init__(
        self,
        owner: Any,
        form: Form,
        step: Callable[..., Any],
        leaves: list[Any],
        surroundings: Surroundings,
        forms: Forms,
    ) -> None:
        self.reference = weakref.ref(self)
        self._owner = owner
        self._form = form
        self._step = step
        self._surroundings = surroundings
        self._now = surroundings.now()
        self._forms = forms
        self._message = partial(eager_step, owner.loss, form.backend)
        self._fixed = [None if hasattr(x, "dtype") else x for x in leaves]
        self._replayed = Replayed(self._of_arrays, form.backend)
        self._packed: Any = None  # of the call that is under way
        self._lock = threading.Lock()
        self._words = 0

    def fits(self, owner: Any, leaves: list[Array], treedef: tree.TreeDef) -> bool:
        """Return whether states that it made go on with it, given such a batch."""
        form = self._form
        fits = (
            owner is self._owner
            and default_float.get() == form.dtype
            and treedef == form.batch
            and tuple([exactly(x) for x in leaves if not hasattr(x, "dtype")]) == form.rest
            and self._surroundings.now() == self._now
        )
        if fits:
            self._forms.used()
        return fits

    def take(self, state: TrainState, leaves: list[Array]) -> tuple[TrainState, dict[str, Any]] | None:
        """Take a step, the state's arrays written in place; return None, with nothing done, if it stays eager."""
        opt_state = state.flat_opt_state()
        words = [] if self._form.rng is None else tree.leaves(state.rng())
        try:
            packed = self._packed_of(state.packed, [state.params, state.others, opt_state.leaves])
            out, rebuild = self._replay(packed, words, [x for x in leaves if hasattr(x, "dtype")])
        except Unreplayable as why:
            self._forms.tell(why, self._message)
            return None
        self._forms.tell(self._replayed.why, self._message)
        params, others, opt_leaves = packed.lists
        opt_state = Flattened(opt_leaves, opt_state.treedef)
        after = state.succeed(params, others, opt_state, form=self.reference, packed=packed)
        return after, rebuild(out)

    def _packed_of(self, packed: Packed | None, lists: list[list[Array]]) -> Packed:
        """Return the arrays of a state as the step has them."""
        if packed is not None and packed.holds(lists):
            return packed
        if self._replayed.why is not None:
            raise self._replayed.why
        if not replayable(self._form.backend, [x for arrays in lists for x in arrays]):
            raise Unreplayable("an array of the state is of another kind", told=True)
        return Packed(self._form.backend.replay, lists)

    def _replay(self, packed: Packed, words: list[Array], batch: list[Array]) -> tuple[list[Array], Any]:
        given = [*words, *batch]
        if not replayable(self._form.backend, given):
            raise Unreplayable("an array of the batch is of another kind", told=True)
        count = len(packed.arguments)
        with self._lock:
            self._packed, self._words = packed, len(words)
            return self._replayed([*packed.arguments, *given], range(count), packed.layout)

    def _of_arrays(self, arrays: list[Array]) -> tuple[list[Array], Any]:
        packed = self._packed
        count = len(packed.arguments)
        lists = packed.unpack(arrays[:count], _view)
        words, given = arrays[count : count + self._words], iter(arrays[count + self._words :])
        leaves = [next(given) if x is None else x for x in self._fixed]
        new_params, new_others, new_opt, value, metrics, rebuild = self._step(*lists, words, leaves)
        _write_back([x for old in lists for x in old], [*new_params, *(new_others or lists[1]), *new_opt])
        return [value, *metrics], lambda out: {"loss": out[0], **rebuild(out[1:])}


def eager_step(loss: Callable[..., Any], backend: Backend, why: Unreplayable) -> str:
    """Return the words for a step that stays eager."""
    code = getattr(loss, "__code__", None)
    place = "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
    return (
        f"the training step runs eagerly on {backend}, without replaying the loss{place}: {why}. It is right, and "
        "takes longer"
    )


# -- within the recorded step --------------------------------------------------------------------------------


def update_in_place(backend: Backend, name: str | None) -> Callable[..., Any] | None:
    """Return a backend's fused update of an optimizer for arrays that are being recorded, or None."""
    xp = recording.get()
    if name is None or xp is None or (kernel := xp.below.made_of_functions(backend.inplace_update(name))) is None:
        return None

    def update(params: Any, grads: Any, state: Any, **hyper: Any) -> Any:
        new = kernel(*mapped((params, grads, state), unwrap), **hyper)
        return mapped(new, lambda x: constant(x, xp) if isinstance(x, backend.replay.arrays) else x)

    return update


def apart(x: Any) -> Any:
    """Return an array that is recorded in memory that no update of an argument writes to."""
    xp = recording.get()
    return x if xp is None else constant(_apart(unwrap(x)), xp)


def _apart(x: Any) -> Any:
    """Return an array whose memory the recording makes: a copy, if it comes from outside."""
    recorder = current.get()
    assert recorder is not None
    x = recorder.kit.array(x)
    return x if recorder.part(x).memory.planned else recording.get().below.functions.array(x, copy=True)


def _view(x: Any, start: int, stop: int, shape: tuple[int, ...]) -> Any:
    """Return a part of a flat array that is recorded, in a shape."""
    return constant(unwrap(x)[start:stop].reshape(shape), x.xp)


def replacing(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    """Return what takes the places of arrays of the state, apart from these; refuse what does not fit, in time."""
    if recording.get() is not None:
        _check_fits(old, new)
    return [apart(x) for x in new]


def _check_fits(old: Sequence[Any], new: Sequence[Any]) -> None:
    if any(into.shape != value.shape or into.dtype != value.dtype for into, value in zip(old, new, strict=True)):
        raise Unreplayable("an array of the state changes its shape or dtype", told=True)


def _write_back(old: Sequence[Any], new: Sequence[Any]) -> None:
    """Write new arrays into arguments of their shape and dtype."""
    _check_fits(old, new)
    pairs = [(unwrap(x), unwrap(y)) for x, y in zip(old, new, strict=True)]
    for into, value in [(into, _apart(value)) for into, value in pairs if into is not value]:
        recording.get().below.functions.copyto(into, value)
