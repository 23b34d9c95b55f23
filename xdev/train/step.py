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
from ..replay import Forms, Unreplayable, apart, update_in_place
from .promotion import warn_of_promotion
from .replayed import ReplayedStep, eager_step
from .signature import check_loss, extras, takes_rng
from .state import Flattened, ModelSpec, TrainState

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
        self._compiled: dict[Any, Any] = {}

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        params, others = state.params, state.others
        backend = state.device.backend
        leaves, treedef = tree.flatten(batch)
        for leaf in leaves:
            if registry.owners.get(type(leaf)) is not backend:
                _check_batch(state, batch)
                break
        dtypes = () if self._begun else [dtype_name(x.dtype) for x in (*params, *others)]
        roots = lambda: [("model", state.model), ("batch", batch)]  # noqa: E731
        # A model of float64 may have left the block of xdev.precision in which it was made.
        wide = backend.precision("float64") if state.spec.wide else _NOTHING
        with explained(backend, roots, self.loss), state.device.scope(), wide:
            if not any(state.optimizer is known for known in self._optimizers):
                self._check_optimizer(state)
            if type(backend).jit is not Backend.jit:
                after, metrics = self._compiled_step(state, backend, params, others, leaves, treedef)
            else:
                done = self._replayed_step(state, backend, params, others, leaves, treedef)
                after, metrics = done or self._eager(state, backend, params, others, state.opt_state, batch)
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

    def _eager(
        self,
        state: TrainState,
        backend: Backend,
        params: list[Array],
        others: list[Array],
        opt_state: Any,
        batch: Any,
    ) -> tuple[TrainState, dict[str, Any]]:
        rng = state.rng() if self.takes_rng else None
        value, grads, metrics, new = self._gradients(backend, state.spec, params, others, batch, rng)
        # What the loss returned may be, or view, parameters and the batch, which are written to later.
        kept = {id(x) for x in others}
        others = [x if id(x) in kept else backend.clone(x) for x in new]
        arrays, rebuild = _parts_of(metrics)
        metrics = rebuild([x if (owner := registry.find_backend(x)) is None else owner.clone(x) for x in arrays])
        optimizer = self.optimizer
        fused = self._fused(state.spec)
        update = None if fused is None else backend.inplace_update(fused)
        if update is not None:
            opt_state = update(params, grads, opt_state, **optimizer.hyper)
        else:
            updates, opt_state = self._update(grads, opt_state, params, value)
            params = apply_updates(params, updates)
        return state.succeed(params, others, opt_state), {"loss": value, **metrics}

    # -- compiled ------------------------------------------------------------------------------------

    def _compiled_step(
        self,
        state: TrainState,
        backend: Backend,
        params: list[Array],
        others: list[Array],
        leaves: list[Array],
        treedef: tree.TreeDef,
    ) -> tuple[TrainState, dict[str, Any]]:
        opt_state = state.flat_opt_state()
        opt_treedef = opt_state.treedef
        rng_leaves, rng_treedef = tree.flatten(state.rng()) if self.takes_rng else ([], None)
        # With the shapes, since metrics that are no arrays may depend on them.
        shapes = [(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else type(leaf) for leaf in leaves]
        key = (backend, state.spec, treedef, opt_treedef, default_float.get(), *shapes)
        found = self._compiled.get(key)
        if found is None:
            found = self._compile(backend, state.spec, treedef, opt_treedef, rng_treedef)
            self._compiled[key] = found
        function, box = found
        params, new_others, opt_leaves, value, arrays = function(params, others, opt_state.leaves, rng_leaves, leaves)
        flat = Flattened(opt_leaves, opt_treedef)
        return state.succeed(params, new_others or others, flat), {"loss": value, **box[0](arrays)}

    def _compile(
        self,
        backend: Backend,
        spec: ModelSpec,
        treedef: tree.TreeDef,
        opt_treedef: tree.TreeDef,
        rng_treedef: tree.TreeDef | None,
    ) -> tuple[Callable[..., Any], list[Any]]:
        step, box = self._step_of_arrays(backend, spec, treedef, opt_treedef, rng_treedef)

        def counted(*arrays: Any) -> Any:
            self.compilations += 1  # runs while it is traced, not when it is called
            return step(*arrays)

        return backend.jit(counted, donate=(0, 2)), box

    def _step_of_arrays(
        self,
        backend: Backend,
        spec: ModelSpec,
        treedef: tree.TreeDef,
        opt_treedef: tree.TreeDef,
        rng_treedef: tree.TreeDef | None,
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Return the step as a function of arrays; what makes metrics of its last is in the list beside it."""
        box: list[Any] = []

        def step(params: Any, others: Any, opt_leaves: Any, rng_leaves: Any, leaves: Any) -> Any:
            with tracing(object()):
                rng = None if rng_treedef is None else tree.unflatten(rng_treedef, rng_leaves)
                batch = tree.unflatten(treedef, leaves)
                value, grads, metrics, new_others = self._gradients(backend, spec, params, others, batch, rng)
                arrays, rebuild = _parts_of(metrics)
                if new_others is not others:
                    new_others = [apart(x) for x in new_others]
                value, arrays = apart(value), [apart(x) for x in arrays]
                opt_state = tree.unflatten(opt_treedef, opt_leaves)
                update = update_in_place(backend, self._fused(spec))
                if update is not None:
                    opt_state = update(params, grads, opt_state, **self.optimizer.hyper)
                else:
                    updates, opt_state = self._update(grads, opt_state, params, value)
                    params = apply_updates(params, updates)
            box[:] = [rebuild]
            returned = [] if new_others is others else new_others
            return params, returned, tree.leaves(opt_state), value, arrays

        return step, box

    def _fused(self, spec: ModelSpec) -> str | None:
        """Return the name of a fused update that does what the optimizer does."""
        optimizer = self.optimizer
        if not isinstance(optimizer, Optimizer) or not spec.fusable or callable(optimizer.hyper.get("learning_rate")):
            return None
        return optimizer.fused

    # -- replayed ------------------------------------------------------------------------------------

    def _replayed_step(
        self,
        state: TrainState,
        backend: Backend,
        params: list[Array],
        others: list[Array],
        leaves: list[Array],
        treedef: tree.TreeDef,
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Return what the step returns, recorded and replayed; None where that cannot be."""
        opt_state = state.flat_opt_state()
        rng_leaves, rng_treedef = tree.flatten(state.rng()) if self.takes_rng else ([], None)
        fixed = [exactly(leaf) for leaf in leaves if not hasattr(leaf, "dtype")]

        def make() -> ReplayedStep:
            step, box = self._step_of_arrays(backend, state.spec, treedef, opt_state.treedef, rng_treedef)
            return ReplayedStep(step, box, backend, leaves)

        if self._surroundings is None:
            self._surroundings = Surroundings(self.loss)
        key = (backend, state.spec, treedef, opt_state.treedef, default_float.get(), self._surroundings.now(), *fixed)
        message = partial(eager_step, self.loss, backend)
        try:
            hash(key)
        except TypeError:  # a leaf of the batch does not hash
            return None
        try:
            found = self._forms.get(key, make)
            packed, value, metrics = found(state.packed, [params, others, opt_state.leaves], rng_leaves, leaves)
        except Unreplayable as why:
            self._forms.tell(why, message)
            return None
        self._forms.tell(found.why, message)
        params, others, opt_leaves = packed.lists
        after = state.succeed(params, others, Flattened(opt_leaves, opt_state.treedef))
        after.packed = packed
        return after, {"loss": value, **metrics}

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
        value, aux, grads = differentiate(backend, of_params, params, names)
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
