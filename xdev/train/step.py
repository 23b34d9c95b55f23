"""One training step, built once for a loss and an optimizer: compiled or in place, where the backend can."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import registry, tree
from ..contract import Array, Backend, dtype_name
from ..device import common_device, namespace
from ..differentiation import constants, differentiate, exactly, is_complex, names_of, take_apart
from ..errors import ArrayTypeError, GradientError, TrainingError, a
from ..explanation import Surroundings, explained
from ..floating import default_float
from ..optim import Optimizer, apply_updates
from ..random import tracing
from ..replay import Forms, Unreplayable
from .forms import CompiledStep, Form, describe
from .promotion import warn_of_promotion
from .replayed import ReplayedStep, apart, eager_step, replacing, update_in_place
from .signature import check_loss, extras, takes_rng
from .state import ModelSpec, Trainer, TrainState

__all__ = ["Step", "make_step", "parts"]

Rebuild = Callable[[list[Array]], Any]
_NOTHING = contextlib.nullcontext()


def make_step(loss: Callable[..., Any], optimizer: Any) -> Step:
    """Build a training step.

    Parameters
    ----------
    loss : callable
        `loss(model, batch)` or `loss(model, batch, rng)`, the latter with a fresh `xdev.random.Generator` each step.
        Returns a scalar, `(scalar, metrics)` with a dict of arrays, or `(scalar, metrics, model)` where the model
        carries new buffers, such as batch statistics.
    optimizer : Optimizer
        From `xdev.optim`; on JAX arrays optax's own work as they are.

    Returns
    -------
    Step
        Call it as `state, metrics = step(state, batch)`: it consumes the state, and `metrics["loss"]` stays on the
        device. Compiled once for each structure and shape on backends that compile.

    Raises
    ------
    ArrayTypeError
        If the loss is no function, or the optimizer is none.
    StaleStateError
        When called with a state that a step has consumed.
    GradientError
        If the loss cannot be called with a model and a batch; when called, if it is not a real floating scalar.
    DeviceMismatchError
        When called: if the batch is not where the state is.

    Warns
    -----
    PromotionWarning
        In the first call: if the loss, or the model after the step, is float64 and the model was not.
    ReplayWarning
        When called, once: if the step could be recorded and replayed on this backend, but for the loss.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> from xdev import optim
    >>> optimizer = optim.sgd(0.5)
    >>> state = xdev.TrainState.create({"w": np.ones(2)}, optimizer)
    >>> step = xdev.make_step(lambda model, batch: xdev.ops.mse(model["w"], batch), optimizer)
    >>> state, metrics = step(state, np.asarray([1.0, 2.0]))
    >>> state.model["w"], float(metrics["loss"])
    (array([1. , 1.5]), 0.5)
    """
    return Step(loss, optimizer)


class Step:
    """A training step; `make_step` makes it.

    Attributes
    ----------
    compilations : int
        How often a backend has compiled it.
    """

    def __init__(self, loss: Callable[..., Any], optimizer: Any) -> None:
        check_loss(loss)
        for method in ("init", "update"):
            if not callable(getattr(optimizer, method, None)):
                called = " It is a function: call it." if inspect.isfunction(optimizer) else ""
                raise ArrayTypeError(
                    f"optimizer is {a(type(optimizer).__name__)}; expected an object with init and update, such as "
                    f"xdev.optim.adamw(1e-3).{called}"
                )
        self.loss = loss
        self.optimizer = optimizer
        self.takes_rng = takes_rng(loss)
        self._extras = frozenset() if isinstance(optimizer, Optimizer) else extras(optimizer.update)
        self.compilations = 0
        self._begun = False
        self._forms = Forms()
        self._surroundings: Surroundings | None = None
        self._optimizers: list[Any] = [optimizer]
        self._compiled: dict[Any, CompiledStep] = {}

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        backend = state.device.backend
        state.check()
        leaves, treedef = tree.flatten(batch)
        for leaf in leaves:
            if registry.owners.get(type(leaf)) is not backend:
                _check_batch(state, batch)
                break
        dtypes = () if self._begun else [dtype_name(x.dtype) for x in (*state.params, *state.others)]
        roots = lambda: [("model", state.model), ("batch", batch)]  # noqa: E731
        # A model of float64 may have left the block of xdev.precision in which it was made.
        wide = backend.precision("float64") if state.spec.wide else _NOTHING
        with explained(backend, roots, self.loss), state.device.scope(), wide:
            form = state.form()  # of the step that made the state
            if form is None or not form.fits(self, leaves, treedef):
                if not any(state.optimizer is known for known in self._optimizers):
                    self._check_optimizer(state)
                form = self._form(state, backend, leaves, treedef)
            done = None if form is None else form.take(state, leaves)
            after, metrics = done or self._eager(state, backend, batch)
        if not self._begun:
            self._begun = True
            warn_of_promotion(self.loss, metrics["loss"], batch, dtypes, after)
        return after, metrics

    def _check_optimizer(self, state: TrainState) -> None:
        """Refuse a state that was made for an optimizer whose state has another structure."""
        expected, found = tree.structure(self.optimizer.init(state.params)), tree.structure(state.opt_state)
        if expected != found:
            raise TrainingError(
                f"the state was made for another optimizer: the structure of its optimizer state is {found}, this "
                f"step's is {expected}. Make it anew: xdev.TrainState.create(state.model, optimizer)"
            )
        self._optimizers.append(state.optimizer)

    # -- eager ---------------------------------------------------------------------------------------

    def _eager(self, state: TrainState, backend: Backend, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        params, others, opt_state = state.params, state.others, state.opt_state
        rng = state.rng() if self.takes_rng else None
        fused = self._fused(state.spec)
        trainer = None if fused is None or backend.trainer is None else state.trainer_for(fused)
        value, grads, metrics, new = self._gradients(backend, state.spec, params, others, batch, rng, trainer)
        # What the loss returned may be, or view, parameters and the batch, which are written to later.
        if new is not others:
            kept = {id(x) for x in others}
            others = [x if id(x) in kept else backend.clone(x) for x in new]
        arrays, rebuild = _parts_of(metrics)
        metrics = rebuild([x if (owner := registry.find_backend(x)) is None else owner.clone(x) for x in arrays])
        if trainer is not None:
            opt_state = trainer.update(grads, opt_state, **self.optimizer.hyper)
        elif fused is not None and (update := backend.inplace_update(fused)) is not None:
            opt_state = update(params, grads, opt_state, **self.optimizer.hyper)
        else:
            updates, opt_state = self._update(grads, opt_state, params, value)
            params = apply_updates(params, updates)
        return state.succeed(params, others, opt_state, trainer=trainer), {"loss": value, **metrics}

    # -- compiled or replayed ------------------------------------------------------------------------

    def _form(
        self, state: TrainState, backend: Backend, leaves: list[Array], treedef: tree.TreeDef
    ) -> CompiledStep | ReplayedStep | None:
        """Return the step in a form that is used again for such states and batches; None where there is none."""
        compiles = type(backend).jit is not Backend.jit
        if not compiles and backend.replay is None:
            return None
        if compiles:
            rest: tuple[Any, ...] = tuple(map(describe, leaves))
        else:
            rest = tuple(exactly(leaf) for leaf in leaves if not hasattr(leaf, "dtype"))
        rng = tree.structure(state.rng()) if self.takes_rng else None
        form = Form(backend, state.spec, treedef, state.flat_opt_state().treedef, rng, default_float.get(), rest)
        return self._compile(form) if compiles else self._replay(form, leaves)

    def _compile(self, form: Form) -> CompiledStep:
        found = self._compiled.get(form)
        if found is None:
            step = self._step_of_arrays(form)
            rebuilds: list[Rebuild] = []

            def counted(*arrays: Any) -> Any:
                self.compilations += 1  # runs while it is traced, not when it is called
                *out, rebuild = step(*arrays)
                rebuilds[:] = [rebuild]
                return out

            function = form.backend.jit(counted, donate=(0, 2))
            found = self._compiled[form] = CompiledStep(self, form, function, rebuilds)
        return found

    def _replay(self, form: Form, leaves: list[Array]) -> ReplayedStep | None:
        if self._surroundings is None:
            self._surroundings = Surroundings(self.loss)
        make = partial(ReplayedStep, self, form, self._step_of_arrays(form), leaves, self._surroundings, self._forms)
        key = (form, self._surroundings.now())
        try:
            hash(key)
        except TypeError:  # a leaf of the batch does not hash
            return None
        try:
            return self._forms.get(key, make)  # type: ignore[no-any-return]  # of what `make` returns
        except Unreplayable as why:
            self._forms.tell(why, partial(eager_step, self.loss, form.backend))
            return None

    def _step_of_arrays(self, form: Form) -> Callable[..., Any]:
        """Return the step as a function of lists of arrays, which returns what makes metrics of a list beside them."""
        backend, spec = form.backend, form.spec

        def step(params: Any, others: Any, opt_leaves: Any, rng_leaves: Any, leaves: Any) -> Any:
            with tracing(object()):
                rng = None if form.rng is None else tree.unflatten(form.rng, rng_leaves)
                batch = tree.unflatten(form.batch, leaves)
                value, grads, metrics, new_others = self._gradients(backend, spec, params, others, batch, rng)
                arrays, rebuild = _parts_of(metrics)
                if new_others is not others:
                    new_others = replacing(others, new_others)
                value, arrays = apart(value), [apart(x) for x in arrays]
                opt_state = tree.unflatten(form.optimizer, opt_leaves)
                update = update_in_place(backend, self._fused(spec))
                if update is not None:
                    opt_state = update(params, grads, opt_state, **self.optimizer.hyper)
                else:
                    updates, opt_state = self._update(grads, opt_state, params, value)
                    params = apply_updates(params, updates)
            returned = [] if new_others is others else new_others
            return params, returned, tree.leaves(opt_state), value, arrays, rebuild

        return step

    def _fused(self, spec: ModelSpec) -> str | None:
        """Return the name of a fused update that does what the optimizer does."""
        optimizer = self.optimizer
        if not isinstance(optimizer, Optimizer) or not spec.fusable or callable(optimizer.hyper.get("learning_rate")):
            return None
        return optimizer.fused

    # -- both ----------------------------------------------------------------------------------------

    def _update(self, grads: list[Array], opt_state: Any, params: list[Array], value: Array) -> tuple[Any, Any]:
        """Return updates and the optimizer's state; some of optax's transformations want the loss as well."""
        extra = {name: x for name, x in (("value", value), ("grad", grads)) if name in self._extras}
        found: tuple[Any, Any] = self.optimizer.update(grads, opt_state, params, **extra)
        return found

    def _gradients(
        self,
        backend: Backend,
        spec: ModelSpec,
        params: list[Array],
        others: list[Array],
        batch: Any,
        rng: Any,
        trainer: Trainer | None = None,
    ) -> tuple[Array, list[Array], dict[str, Any], list[Array]]:
        """Return (loss, gradients, metrics, arrays that are not trained)."""
        box: list[Any] = []
        batch = constants(backend, batch)
        fixed = constants(backend, others) if others else others
        arguments = (rng,) if self.takes_rng else ()

        def of_params(leaves: list[Array]) -> tuple[Array, list[Array]]:
            out = self.loss(spec.build(leaves, fixed), batch, *arguments)
            value, metrics, model = parts(out)
            arrays, rebuild = _parts_of(metrics)
            new = [] if model is None else spec.take_apart(model)[1]
            box[:] = [rebuild, len(arrays), model is not None]
            return value, arrays + new

        names = lambda: names_of(params, [("model", spec.build(params, others))])  # noqa: E731
        value, aux, grads = differentiate(backend, of_params, params, names, trainer)
        if spec.has_complex:  # the direction in which the loss grows is the conjugate of its gradient
            grads = [namespace(g).conj(g) if is_complex(g) else g for g in grads]
        rebuild, count, has_model = box
        return value, grads, rebuild(aux[:count]), aux[count:] if has_model else others


def _parts_of(metrics: dict[str, Any]) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    return take_apart(metrics) if metrics else ([], dict)


def parts(out: Any) -> tuple[Any, dict[str, Any], Any]:
    """Return the loss, the metrics and the model (or None) of what a loss function returned."""
    if not isinstance(out, tuple):
        return out, {}, None
    if len(out) not in (2, 3) or not isinstance(out[1], dict):
        raise GradientError(
            f"a loss returns a scalar, (scalar, metrics) or (scalar, metrics, model) with a dict of metrics; got a "
            f"tuple of {', '.join(type(part).__name__ for part in out) or 'nothing'}"
        )
    if "loss" in out[1]:
        raise GradientError("metrics may not be named 'loss': that is the loss itself; rename it")
    return out[0], out[1], out[2] if len(out) == 3 else None


def _check_batch(state: TrainState, batch: Any) -> None:
    """Refuse a batch that is not where the state is, and names where steps are compiled; numbers and None pass."""
    backend = state.device.backend
    for position, leaf in enumerate(tree.leaves(batch)):
        if registry.find_backend(leaf) not in (None, backend):
            common_device([("model", state.model), ("batch", batch)], "the step")
        if isinstance(leaf, str | bytes) and type(backend).jit is not Backend.jit:
            path = tree.path_string(tree.flatten_with_paths(batch)[0][position], "batch")
            raise ArrayTypeError(
                f"{path} is {leaf!r}, and {backend} compiles the step, which takes arrays and numbers: leave it out of "
                "the batch"
            )
