"""The cost of a training step: built by xdev, and written by hand for each framework.

An MLP with ReLU, or a char-GPT, and cross entropy; a whole AdamW step in float32, the batch on its device already. All
cases start from the same numbers, and nothing is timed unless all of them get the same losses.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import _gpt
import _mlp
import numpy as np
from _by_hand import REFERENCE, Setup, by_hand
from _harness import Case, Plan, Times, apart, check_equal, measure, sample, without_gc
from _report import Report, arguments, by_time, plan_of, real_devices

STEPS_COMPARED = 20
TOLERANCE = 1e-4
LOOP_STEPS = 40
"""Steps of an epoch where the loop is timed."""


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
        self.model, self.loss = self._gpt(setup) if setup.model == "gpt" else self._mlp(setup)
        self.optimizer = xdev.optim.adamw(_mlp.RATE, weight_decay=_mlp.DECAY)
        self._step = xdev.make_step(self.loss, self.optimizer)
        self._initial = xdev.TrainState.create(self.model, self.optimizer)
        self._wait = wait_for(setup.framework)
        self._batch = self.moved(setup.examples())
        self.restart()

    def _gpt(self, setup: Setup) -> tuple[Any, Callable[[Any, Any], Any]]:
        import xdev

        def loss(params: Any, batch: Any) -> Any:
            return _gpt.xdev_loss(params, *batch, heads=setup.gpt.heads)

        return xdev.to_device(setup.initial(), self.device), loss

    def _mlp(self, setup: Setup) -> tuple[Any, Callable[[Any, Any], Any]]:
        import xdev

        def loss(model: Any, batch: Any) -> Any:
            x, labels = batch
            return xdev.ops.cross_entropy(model(x), labels)

        model = xdev.nn.MLP(setup.sizes, rng=xdev.random.Generator(0, self.device))
        treedef = xdev.tree.flatten(model)[1]
        return xdev.tree.unflatten(treedef, xdev.to_device(_gpt.leaves(setup.initial()), self.device)), loss

    def moved(self, examples: Any) -> Any:
        """Return examples on the model's device."""
        import xdev

        # JAX has no int64 unless told; the others get the labels that NumPy users have.
        if str(self.device).startswith("jax"):
            examples = tuple(x.astype(np.int32) if x.dtype == np.int64 else x for x in examples)
        return xdev.to_device(examples, self.device)

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


# -- measuring -----------------------------------------------------------------------------------------------

TARGETS = {
    "mlp": {"numpy: xdev": "<= 0.62", "torch: xdev": "<= 1.00", "jax: xdev": "<= 1.03"},
    "gpt": {"torch: xdev": "<= 1.00", "jax: xdev": "<= 1.03"},
}


def build(setup: Setup) -> Sequence[Case]:
    cases = [*by_hand(setup), xdev_case(setup)]
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


def report(plan: Plan, models: Sequence[str], setups: Sequence[Setup], loop_steps: int) -> Report:
    """Return the tables of each model; `setups` say the sizes, one a framework."""
    one = setups[0]
    frameworks = [setup.framework for setup in setups]
    found = Report((__doc__ or "").partition("\n")[0], plan)
    titles = {"mlp": f"MLP {'-'.join(map(str, one.sizes))}, batch {one.batch}", "gpt": f"char-GPT {one.gpt}"}
    for model in models:
        times, evidence = measure(build, [replace(setup, model=model) for setup in setups], plan)
        difference = check_equal(evidence, TOLERANCE)
        found.note(
            f"\n{titles[model]}: losses of {STEPS_COMPARED} steps agree within {difference:.1e} (relative) between all "
            f"cases. {'Each framework ran in a process of its own.' if plan.isolate else 'All ran in ONE process.'}"
        )
        tables(found, model, times, frameworks)
    if loop_steps:
        for setup in setups:
            columns = apart(loop_times, replace(setup, model="mlp"), plan, loop_steps)
            found.table(f"The loop on {setup.framework}, a step's share", columns, "make_step, one batch")
    return found


def tables(found: Report, model: str, times: Times, frameworks: Sequence[str]) -> None:
    """Print the tables of one model."""
    name = model.upper()
    for framework in frameworks:
        if framework in REFERENCE:
            group = {case: column for case, column in times.items() if case.startswith(f"{framework}:")}
            targets = {case: target for case, target in TARGETS[model].items() if case in group}
            found.table(f"{name} within {framework}", group, REFERENCE[framework], targets=targets)
    if "numpy" in frameworks:
        pair = {case: times[case] for case in ("numpy: HIPS autograd", "numpy: xdev")}
        found.table(f"{name} against HIPS autograd", pair, "numpy: HIPS autograd", targets={"numpy: xdev": "<= 0.5"})
    best = "torch: hand-written" if "torch" in frameworks else next(iter(times))
    fastest = {"numpy: xdev": "< 1"} if model == "mlp" else {}
    found.table(f"{name} all together", by_time(times), best, targets=fastest)
    if fastest and {"numpy", "jax"} <= set(frameworks):
        pair = {case: times[case] for case in (REFERENCE["jax"], "numpy: xdev")}
        found.table(f"{name} on NumPy against JAX", pair, REFERENCE["jax"], targets=fastest)


def available() -> list[str]:
    """Return the frameworks that are installed; CuPy if it has a real device."""
    found = [name for name in ("numpy", "torch", "jax") if importlib.util.find_spec(name) is not None]
    return found + ["cupy"] * any(name.startswith("cupy") for name in real_devices())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", nargs="+", choices=list(TARGETS), default=list(TARGETS), help="both by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=_mlp.SIZES, help="widths of the MLP's layers")
    parser.add_argument("--batch", type=int, default=_mlp.BATCH, help="rows of the MLP's batch")
    _gpt.add_option(parser)
    parser.add_argument("--frameworks", nargs="+", help="all that are installed by default")
    parser.add_argument(
        "--loop-steps", type=int, default=LOOP_STEPS, help="steps of an epoch of fit, with the MLP; 0: no loop"
    )
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the reference is the CPU; read when JAX starts
    sizes, gpt = tuple(options.sizes), _gpt.Shape(*options.gpt)
    setups = [Setup(name, "mlp", sizes, options.batch, gpt) for name in options.frameworks or available()]
    found = report(plan_of(options), options.model, setups, options.loop_steps if "mlp" in options.model else 0)
    found.write(options.json)


if __name__ == "__main__":
    main()
