"""The cost of a training step: built by xdev, and written by hand for each framework.

An MLP with ReLU and cross entropy, a whole AdamW step in float32, the batch on its device already. All cases start
from the same numbers, and nothing is timed unless all of them get the same losses.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import _mlp
import numpy as np
from _harness import Case, Plan, Times, apart, check_equal, measure, sample, without_gc
from _report import Report, arguments, by_time, plan_of, real_devices

STEPS_COMPARED = 20
TOLERANCE = 1e-4
LOOP_STEPS = 40
"""Steps of an epoch where the loop is timed."""


@dataclass(frozen=True)
class Setup:
    """What is trained, and by which framework."""

    framework: str
    sizes: tuple[int, ...]
    batch: int


# -- by xdev -------------------------------------------------------------------------------------------------


def wait_for(framework: str) -> Callable[[Any], Any]:
    """Return the framework's own way to wait for a tree of arrays."""
    if framework == "jax":
        import jax

        return jax.block_until_ready  # type: ignore[no-any-return]
    if framework == "cupy":
        import cupy

        return lambda result: cupy.cuda.get_current_stream().synchronize()
    return lambda result: None


class XdevStep:
    """`xdev.make_step` on one framework's arrays."""

    def __init__(self, setup: Setup) -> None:
        import xdev

        self.device = xdev.device(setup.framework if setup.framework == "cupy" else f"{setup.framework}:cpu")
        model = xdev.nn.MLP(setup.sizes, rng=xdev.random.Generator(0, self.device))
        treedef = xdev.tree.flatten(model)[1]
        flat = [x for pair in _mlp.initial_layers(setup.sizes) for x in pair]
        self.model = xdev.tree.unflatten(treedef, xdev.to_device(flat, self.device))
        self.optimizer = xdev.optim.adamw(_mlp.RATE, weight_decay=_mlp.DECAY)
        self._step = xdev.make_step(self.loss, self.optimizer)
        self._initial = xdev.TrainState.create(self.model, self.optimizer)
        self._wait = wait_for(setup.framework)
        self._batch = self.moved(_mlp.examples(setup.batch, setup.sizes))
        self.restart()

    @staticmethod
    def loss(model: Any, batch: Any) -> Any:
        import xdev

        x, labels = batch
        return xdev.ops.cross_entropy(model(x), labels)

    def moved(self, examples: Any) -> Any:
        """Return examples on the model's device."""
        import xdev

        x, labels = examples
        # JAX has no int64 unless told; the others get the labels that NumPy users have.
        kind = np.int32 if str(self.device).startswith("jax") else np.int64
        return xdev.to_device((x, labels.astype(kind)), self.device)

    def restart(self) -> None:
        self.state = self._initial.copy()

    def run(self) -> Any:
        self.state, metrics = self._step(self.state, self._batch)
        return metrics["loss"]

    def over(self, batches: Any) -> Any:
        """Take a step for each of the batches."""
        state, step = self.state, self._step
        for batch in batches:
            state, metrics = step(state, batch)
        self.state = state
        return metrics["loss"]

    def wait(self, loss: Any) -> None:
        self._wait((self.state.params, self.state.opt_state, loss))


def xdev_case(setup: Setup) -> Case:
    step = XdevStep(setup)
    return Case(f"{setup.framework}: xdev", step.run, step.wait, step.restart)


# -- by hand -------------------------------------------------------------------------------------------------


def numpy_case(setup: Setup) -> Case:
    x, labels = _mlp.examples(setup.batch, setup.sizes)
    net = _mlp.HandDerived(_mlp.initial_layers(setup.sizes), setup.batch)
    optimizer = _mlp.AdamW(net.params)

    def run() -> Any:
        loss = net.gradient(x, labels)
        optimizer.update(net.grads)
        return loss

    def restart() -> None:
        net.restart()
        optimizer.restart()

    return Case("numpy: hand-derived", run, restart=restart)


def autograd_case(setup: Setup) -> Case:
    import autograd
    import autograd.numpy as anp

    x, labels = _mlp.examples(setup.batch, setup.sizes)
    chosen = np.eye(setup.sizes[-1], dtype=np.float32)[labels] / np.float32(setup.batch)
    start = _mlp.initial_layers(setup.sizes)
    flat = np.concatenate([array.reshape(-1) for pair in start for array in pair])
    first = flat.copy()
    grads = np.empty_like(flat)
    layers, layer_grads = _mlp.like(flat, start), _mlp.like(grads, start)
    optimizer = _mlp.AdamW(flat)

    def loss_of(params: Any) -> Any:
        y = x
        for weight, bias in params[:-1]:
            y = anp.maximum(anp.dot(y, weight) + bias, 0)
        logits = anp.dot(y, params[-1][0]) + params[-1][1]
        logits = logits - anp.max(logits, axis=1, keepdims=True)
        # Multiplying by one-hot labels costs less than indexing, whose gradient is a scatter.
        return anp.mean(anp.log(anp.sum(anp.exp(logits), axis=1))) - anp.sum(logits * chosen)

    value_and_grad = autograd.value_and_grad(loss_of)

    def run() -> Any:
        loss, found = value_and_grad(layers)
        for into, pair in zip(layer_grads, found, strict=True):
            into[0][:], into[1][:] = pair
        optimizer.update(grads)
        return loss

    def restart() -> None:
        flat[:] = first
        optimizer.restart()

    return Case("numpy: HIPS autograd", run, restart=restart)


def torch_case(setup: Setup) -> Case:
    import torch

    x, labels = (torch.from_numpy(array) for array in _mlp.examples(setup.batch, setup.sizes))
    modules: list[Any] = []
    for weight, bias in _mlp.initial_layers(setup.sizes):
        linear = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight).T)
            linear.bias.copy_(torch.from_numpy(bias))
        modules += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1])
    first = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_mlp.RATE, weight_decay=_mlp.DECAY, fused=True)

    def run() -> Any:
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    @torch.no_grad()
    def restart() -> None:
        for p, p0 in zip(model.parameters(), first, strict=True):
            p.copy_(p0)
            for moment in optimizer.state[p].values():
                moment.zero_()

    return Case("torch: hand-written", run, restart=restart)


def jax_case(setup: Setup) -> Case:
    import jax
    import optax

    x, labels = _mlp.examples(setup.batch, setup.sizes)
    x, labels = jax.device_put(x), jax.device_put(labels.astype(np.int32))
    start = jax.device_put(_mlp.initial_layers(setup.sizes))
    optimizer = optax.adamw(_mlp.RATE, weight_decay=_mlp.DECAY)

    def loss_of(params: Any, x: Any, labels: Any) -> Any:
        *inner, (weight, bias) = params
        for w, b in inner:
            x = jax.nn.relu(x @ w + b)
        return optax.softmax_cross_entropy_with_integer_labels(x @ weight + bias, labels).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, x: Any, labels: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, x, labels)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    kept: list[Any] = []

    def restart() -> None:
        params = jax.tree.map(lambda p: p.copy(), start)
        kept[:] = [params, optimizer.init(params)]
        jax.block_until_ready(kept)

    def run() -> Any:
        kept[0], kept[1], loss = step(kept[0], kept[1], x, labels)
        return loss

    return Case("jax: hand-written", run, lambda loss: jax.block_until_ready((kept, loss)), restart)


BY_HAND: dict[str, list[Callable[[Setup], Case]]] = {
    "numpy": [numpy_case, autograd_case],
    "torch": [torch_case],
    "jax": [jax_case],
    "cupy": [],
}
REFERENCE = {"numpy": "numpy: hand-derived", "torch": "torch: hand-written", "jax": "jax: hand-written"}
TARGETS = {"numpy": "<= 1.5", "torch": "<= 1.15", "jax": "<= 1.05"}


def build(setup: Setup) -> Sequence[Case]:
    cases = [make(setup) for make in (*BY_HAND[setup.framework], xdev_case)]
    for case in cases:
        case.restart()
        case.run()  # torch makes the optimizer's state in its first step
        case.restart()
        case.evidence = [float(case.run()) for _ in range(STEPS_COMPARED)]
    return cases


# -- the loop ------------------------------------------------------------------------------------------------


def loop_times(setup: Setup, plan: Plan, steps: int) -> Times:
    """Time epochs of `fit`, and the same number of bare steps between them."""
    import xdev

    bare = XdevStep(setup)
    data = bare.moved(_mlp.examples(setup.batch * steps, setup.sizes))
    loader = xdev.data.Loader(data, batch_size=setup.batch, shuffle=True)
    over = Case("loader", lambda: bare.over(loader), bare.wait, bare.restart)
    alone = Case("step", bare.run, bare.wait, bare.restart)
    columns: Times = {"make_step, one batch": [], "make_step over a Loader": [], "fit": []}
    started: list[float] = []

    def between(record: dict[str, Any], state: Any) -> None:
        """Sort in the time since the last interval began, then time the others; the first interval compiles."""
        now = plan.clock()
        if started:
            columns["fit"].append((now - started.pop()) / steps)
            columns["make_step, one batch"].append(sample(alone, steps, plan.clock))
            columns["make_step over a Loader"].append(sample(over, 1, plan.clock) / steps)
        bare.wait(state.params)
        started.append(plan.clock())

    with without_gc():
        xdev.fit(
            bare.model, bare.loss, data, optimizer=bare.optimizer, epochs=plan.rounds + 1, device=bare.device,
            batch_size=setup.batch, callbacks=[between],
        )  # fmt: skip
    return columns


# -- report --------------------------------------------------------------------------------------------------


def report(plan: Plan, sizes: tuple[int, ...], batch: int, frameworks: list[str], loop_steps: int) -> Report:
    question = (__doc__ or "").partition("\n")[0]
    found = Report(f"{question} MLP {'-'.join(map(str, sizes))}, batch {batch}", plan)
    setups = [Setup(framework, sizes, batch) for framework in frameworks]
    times, evidence = measure(build, setups, plan)
    difference = check_equal(evidence, TOLERANCE)
    found.note(
        f"Losses of {STEPS_COMPARED} steps agree within {difference:.1e} (relative) between all cases. "
        + ("Each framework ran in a process of its own." if plan.isolate else "All ran in ONE process.")
    )
    for framework in frameworks:
        if framework in REFERENCE:
            group = {name: column for name, column in times.items() if name.startswith(f"{framework}:")}
            targets = {f"{framework}: xdev": TARGETS[framework]}
            found.table(f"Within {framework}", group, REFERENCE[framework], targets=targets)
    if "numpy" in frameworks:
        pair = {name: times[name] for name in ("numpy: HIPS autograd", "numpy: xdev")}
        found.table("Against HIPS autograd", pair, "numpy: HIPS autograd", targets={"numpy: xdev": "<= 0.5"})
    best = "torch: hand-written" if "torch" in frameworks else next(iter(times))
    found.table("All together", by_time(times), best)
    if loop_steps:
        for setup in setups:
            columns = apart(loop_times, setup, plan, loop_steps)
            found.table(f"The loop on {setup.framework}, a step's share", columns, "make_step, one batch")
    return found


def available() -> list[str]:
    """Return the frameworks that are installed; CuPy if it has a real device."""
    found = [name for name in ("numpy", "torch", "jax") if importlib.util.find_spec(name) is not None]
    return found + ["cupy"] * any(name.startswith("cupy") for name in real_devices())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=_mlp.SIZES, help="widths of the layers")
    parser.add_argument("--batch", type=int, default=_mlp.BATCH, help="rows of a batch")
    parser.add_argument("--frameworks", nargs="+", help="all that are installed by default")
    parser.add_argument("--loop-steps", type=int, default=LOOP_STEPS, help="steps of an epoch of fit; 0: no loop")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the reference is the CPU; read when JAX starts
    found = report(
        plan_of(options), tuple(options.sizes), options.batch, options.frameworks or available(), options.loop_steps
    )
    found.write(options.json)


if __name__ == "__main__":
    main()
