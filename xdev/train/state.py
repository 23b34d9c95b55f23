"""The state of a training run: parameters, optimizer state, step and seed; consumed by the step that takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from .. import registry, tree
from ..contract import Array, Backend, dtype_name
from ..device import Device, common_device
from ..differentiation import is_complex, is_differentiable
from ..errors import ArrayTypeError, GradientError, StaleStateError
from ..floating import holding, is_wide
from ..optim import Optimizer
from ..random import Generator
from ..replay import replayable
from ..tree_marks import trainable_mask
from .packed import Packed

__all__ = ["Flattened", "ModelSpec", "TrainState", "Trainer"]


class ModelSpec:
    """How a model is taken apart: distinct trained arrays, distinct other arrays, and the static rest.

    Leaves tied in the model are one array here, so that their gradients add up and they are updated once.
    """

    def __init__(self, model: Any) -> None:
        leaves, self.treedef = tree.flatten(model)
        mask = trainable_mask(model, self.treedef)
        self._slots: list[tuple[str, Any]] = []
        places: dict[int, tuple[str, int]] = {}
        counts = {"param": 0, "other": 0}
        self.has_complex = False
        self.fusable = True
        self.wide = any(map(is_wide, leaves))
        for leaf, allowed in zip(leaves, mask, strict=True):
            if registry.find_backend(leaf) is None:
                self._slots.append(("static", leaf))
                continue
            if id(leaf) not in places:
                kind = "param" if allowed and is_differentiable(leaf) else "other"
                places[id(leaf)] = (kind, counts[kind])
                counts[kind] += 1
                if kind == "param":
                    self.has_complex |= is_complex(leaf)
                    self.fusable &= dtype_name(leaf.dtype) in ("float32", "float64")
            self._slots.append(places[id(leaf)])
        self._traits = self._slots, self.has_complex, self.fusable, self.wide
        self._all_trained = self._slots == [("param", n) for n in range(len(leaves))]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelSpec) and self.treedef == other.treedef and self._traits == other._traits

    def __hash__(self) -> int:
        return hash(self.treedef)

    def take_apart(self, model: Any) -> tuple[list[Array], list[Array]]:
        """Return the distinct trained arrays and the distinct other arrays of a model of this structure."""
        found: dict[str, dict[int, Array]] = {"param": {}, "other": {}}
        for leaf, (kind, place) in zip(self._leaves(model), self._slots, strict=True):
            if kind != "static":
                found[kind][place] = leaf
        return list(found["param"].values()), list(found["other"].values())

    def _leaves(self, model: Any) -> list[Any]:
        leaves, treedef = tree.flatten(model)
        if treedef != self.treedef:
            raise GradientError(
                f"the loss returned a model of another structure: {treedef}, expected {self.treedef}; "
                "return the model that came in with only its arrays replaced"
            )
        return leaves

    def build(self, params: list[Array], others: list[Array]) -> Any:
        """Return the model with these arrays."""
        if self._all_trained:
            return tree.unflatten(self.treedef, params)
        source = {"param": params, "other": others}
        return tree.unflatten(
            self.treedef, [place if kind == "static" else source[kind][place] for kind, place in self._slots]
        )


class Trainer(Protocol):
    """What takes the steps of a run in place of its backend, and has prepared what is the same in each of them.

    It belongs to one list of trained arrays, which stay the same and are written in place.
    """

    name: str
    """Of the in-place update that it does."""

    def value_and_grad(
        self, function: Callable[[list[Array]], tuple[Array, Any]], leaves: list[Array]
    ) -> tuple[Array, Any, list[Array]]:
        """Do what that of a backend does; the gradients may share memory, since they are only read."""

    def update(self, grads: list[Array], opt_state: Any, **hyper: Any) -> Any:
        """Update the trained arrays and the optimizer's state in place; return the new state."""


class Flattened:
    """The optimizer's state as its leaves, which compiled steps pass on; a tree again when somebody looks."""

    __slots__ = ("leaves", "treedef")

    def __init__(self, leaves: list[Any], treedef: tree.TreeDef) -> None:
        self.leaves = leaves
        self.treedef = treedef


class TrainState:
    """Everything that a training step reads and replaces.

    `create` copies the arrays, so the caller's model never changes. A step consumes the state that it is given, on
    every backend: the arrays are updated in place or donated, and using it again raises `StaleStateError`.

    Attributes
    ----------
    model : tree
        The model as it is now; its arrays are the state's own and change with the next step.
    opt_state : tree
        The optimizer's state.
    step : int
        Steps done.
    seed : int
        Seed of the keys that losses get.
    device : Device
        Where it is.
    optimizer : Optimizer
        What the optimizer's state was made for.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> from xdev import optim
    >>> state = xdev.TrainState.create({"w": np.ones(2)}, optim.sgd(0.1))
    >>> state.step, state.model
    (0, {'w': array([1., 1.])})
    """

    __slots__ = (
        "_consumed", "_opt_state", "_others", "_params", "_trainer", "device", "form", "optimizer", "packed", "seed",
        "spec", "step",
    )  # fmt: skip

    def __init__(
        self,
        spec: ModelSpec,
        params: list[Array],
        others: list[Array],
        opt_state: Any,
        step: int,
        seed: int,
        device: Device,
        optimizer: Any,
        form: Callable[[], Any] = lambda: None,
        packed: Packed | None = None,
        trainer: Trainer | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.spec = spec
        self._params = params
        self._others = others
        self._opt_state = opt_state
        self.step = step
        self.seed = seed
        self.device = device
        self._consumed = False
        self.form = form  # refers weakly to the compiled or replayed step that made it
        self.packed = packed  # the same arrays as a replayed step has them
        self._trainer = trainer

    @classmethod
    def create(cls, model: Any, optimizer: Any, *, seed: int = 0) -> TrainState:
        """Start a training run from a copy of a model.

        Parameters
        ----------
        model : tree
            An `xdev.nn.Module` or any tree of parameters; all its arrays on one device.
        optimizer : Optimizer
            From `xdev.optim`, or any object with optax's `init` and `update` where the arrays suit it.
        seed : int, default: 0
            Seed of the keys that losses get.

        Returns
        -------
        TrainState
            On the device of the model; shares no memory with it.

        Raises
        ------
        GradientError
            If there is nothing to train.
        DeviceMismatchError
            If the model is on several devices.
        """
        device = common_device([("model", model)], "TrainState.create")
        spec = ModelSpec(model)
        params, others = spec.take_apart(model)
        if not params:
            raise GradientError(
                "the model has nothing to train: no floating array that is neither a buffer nor frozen; "
                "xdev.nn.unfreeze gives frozen ones back"
            )
        backend = device.backend
        with device.scope(), holding(backend, [*params, *others]):
            params = [backend.clone(backend.stop_gradient(x)) for x in params]
            others = [backend.clone(backend.stop_gradient(x)) for x in others]
            opt_state = _start(optimizer, params, backend)
            return cls(spec, params, others, opt_state, 0, seed, device, optimizer)._pack()

    def _pack(self) -> TrainState:
        """Bring the arrays to where steps that are replayed want them; return the state."""
        flat, backend = self.flat_opt_state(), self.device.backend
        lists = [self._params, self._others, flat.leaves]
        if replayable(backend, [x for arrays in lists for x in arrays]):
            self.packed = Packed(backend.replay, lists)
            self._params, self._others, leaves = self.packed.lists
            self._opt_state = Flattened(leaves, flat.treedef)
        return self

    def check(self) -> None:
        """Refuse a state that a step has consumed."""
        if self._consumed:
            raise StaleStateError(
                f"this state was consumed by step {self.step + 1}: its arrays have been updated in place or donated. "
                "Go on with the state that the step returned, or keep one with state.copy() before the step"
            )

    @property
    def params(self) -> list[Array]:
        """The distinct trained arrays."""
        self.check()
        return self._params

    @property
    def others(self) -> list[Array]:
        """The distinct arrays that are not trained: buffers, frozen ones, integers."""
        self.check()
        return self._others

    @property
    def opt_state(self) -> Any:
        """The optimizer's state."""
        self.check()
        if type(self._opt_state) is Flattened:
            self._opt_state = tree.unflatten(self._opt_state.treedef, self._opt_state.leaves)
        return self._opt_state

    def flat_opt_state(self) -> Flattened:
        """Return the optimizer's state as its leaves."""
        self.check()
        if type(self._opt_state) is Flattened:
            return self._opt_state
        return Flattened(*tree.flatten(self._opt_state))

    @property
    def model(self) -> Any:
        """The model as it is now; its arrays are the state's own."""
        self.check()
        return self.spec.build(self._params, self._others)

    def rng(self) -> Generator:
        """Return the generator of the next step: a key of its own for each step of each seed."""
        key = Generator(self.seed, self.device).state["key"]
        return Generator.from_state({"key": key, "draws": self.step}, self.device).split(1)[0]

    def copy(self) -> TrainState:
        """Return a state with arrays of its own, which later steps leave alone."""
        self.check()
        backend = self.device.backend

        def clone(leaf: Any) -> Any:
            return leaf if registry.find_backend(leaf) is None else backend.clone(leaf)

        with self.device.scope(), holding(backend, [*self._params, *self._others]):
            params, others = [clone(x) for x in self._params], [clone(x) for x in self._others]
            opt_state = tree.map(clone, self.opt_state)
            made = TrainState(self.spec, params, others, opt_state, self.step, self.seed, self.device, self.optimizer)
            return made._pack()

    __copy__ = copy  # a shallow one would look live after its arrays have been updated or donated

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainState:
        return self.copy()

    def __reduce__(self) -> NoReturn:
        raise ArrayTypeError(
            "a TrainState holds functions of its optimizer and cannot be pickled; save what it holds: xdev.save(path, "
            '{"model": state.model, "opt_state": state.opt_state})'
        )

    def trainer_for(self, name: str) -> Trainer | None:
        """Return what takes steps with this in-place update, if the backend has such a thing."""
        if self._trainer is not None and self._trainer.name == name:
            return self._trainer
        made: Trainer | None = self.device.backend.trainer(name, self._params)
        return made

    def succeed(self, params: list[Array], others: list[Array], opt_state: Any, **carried: Any) -> TrainState:
        """Return the state after a step, and mark this one as consumed; `carried` says how the next one is taken."""
        self._consumed = True
        step, device, optimizer = self.step + 1, self.device, self.optimizer
        return TrainState(self.spec, params, others, opt_state, step, self.seed, device, optimizer, **carried)

    def __repr__(self) -> str:
        word = "consumed" if self._consumed else f"{len(self._params)} trained arrays"
        return f"<TrainState at step {self.step} on {self.device}, {word}>"


def _apart(opt_state: Any, params: list[Array], backend: Backend) -> Any:
    """Return a state without arrays that stand twice or are parameters: those are updated in place or donated."""
    met = {id(x) for x in params}

    def own(leaf: Any) -> Any:
        if registry.find_backend(leaf) is None:
            return leaf
        fresh = backend.clone(leaf) if id(leaf) in met else leaf
        met.add(id(fresh))
        return fresh

    return tree.map(own, opt_state)


def _start(optimizer: Any, params: list[Array], backend: Backend) -> Any:
    """Return the optimizer's first state, which must be in arrays of the model's backend."""
    try:
        opt_state = optimizer.init(params)
        foreign = {owner.name for leaf in tree.leaves(opt_state) if (owner := registry.find_backend(leaf))}
        reason = f"its state is in {', '.join(sorted(foreign))} arrays"
        if foreign <= {backend.name}:
            return _apart(opt_state, params, backend)
    except Exception as error:
        if isinstance(optimizer, Optimizer):
            raise
        reason = f"its init raised {type(error).__name__}: {error}"
    library = type(optimizer).__module__.partition(".")[0]
    raise ArrayTypeError(
        f"this optimizer of {library} does not work with a model in {backend.name} arrays: {reason}. It is given the "
        f"list of the {len(params)} arrays that are trained, not the model's tree: masks and labels must be functions "
        "of arrays. Move the model with xdev.to_device to the framework that it is made for, or use one of xdev.optim"
    )
