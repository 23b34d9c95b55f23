"""The overhead of `xdev.make_step` for each parameter leaf, and for each operation.

A step of AdamW whose arithmetic is next to nothing, built by xdev and written by hand for each framework; the
difference is what xdev adds. Once the loss is a few operations on all leaves together, of 16 bytes each, and their
number grows; once there is one leaf, and the number of scalar-sized operations grows. A line through the differences
gives what xdev takes for a step, and for each leaf or operation of it. Nothing is timed unless both get equal losses.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import _mlp
import numpy as np
from _by_hand import jax_step, torch_step
from _harness import Case, Plan, Times, check_equal, measure
from _report import Report, arguments, plan_of, readable

LEAF = (4,)
FACTOR = 1.01
"""The chain is y = sin(FACTOR * y), again and again: two operations a link."""
SIZES = {"leaves": (1, 10, 100, 300, 1_000, 10_000), "operations": (10, 100, 1_000, 10_000)}
COMPILED = {"leaves": 300, "operations": 1_000}
"""The largest sizes where a step is compiled: XLA takes minutes for the next."""
STEPS_COMPARED = 5
TOLERANCE = 1e-4
TARGETS = {"leaves": ("< 100 µs", "< 1 µs"), "operations": ("", "")}
Key = tuple[str, str, tuple[int, ...]]


def start_of(problem: str, size: int) -> list[Any]:
    """Return the leaves that a problem of this size begins with."""
    if problem == "operations":
        return [np.asarray(0.5, np.float32)]
    rng = np.random.default_rng(0)
    return list(rng.uniform(0.5, 1.5, (size, *LEAF)).astype(np.float32))


def loss_for(problem: str, size: int, xp: Any) -> Callable[[Any], Any]:
    """Return the loss of a list of leaves, in the words of a namespace."""

    def of_leaves(leaves: Any) -> Any:
        together = xp.concat(leaves)
        return xp.sum(together * together)

    def of_chain(leaves: Any) -> Any:
        (y,) = leaves
        for _ in range(size // 2):
            y = xp.sin(y * FACTOR)
        return y

    return of_chain if problem == "operations" else of_leaves


# -- by hand ---------------------------------------------------------------------------------------------------


def numpy_case(problem: str, size: int, name: str) -> Case:
    flat = np.concatenate([x.reshape(-1) for x in start_of(problem, size)])
    first, grads = flat.copy(), np.zeros_like(flat)
    optimizer = _mlp.AdamW(flat)

    def restart() -> None:
        flat[:] = first
        optimizer.restart()

    def run_leaves() -> Any:
        loss = np.dot(flat, flat)
        np.multiply(flat, 2, out=grads)
        optimizer.update(grads)
        return loss

    # Arrays of one element, and views of them: `out=` wants arrays.
    links = size // 2
    factor = np.asarray([FACTOR], np.float32)
    ys = [flat, *(np.empty(1, np.float32) for _ in range(links))]
    scaled = [np.empty(1, np.float32) for _ in range(links)]
    cosine = np.empty(1, np.float32)

    def run_chain() -> Any:
        for place in range(links):
            np.multiply(ys[place], factor, scaled[place])
            np.sin(scaled[place], ys[place + 1])
        loss = ys[-1][0]
        grads[0] = 1
        for z in reversed(scaled):
            np.cos(z, cosine)
            np.multiply(grads, cosine, grads)
            np.multiply(grads, factor, grads)
        optimizer.update(grads)
        return loss

    return Case(name, run_leaves if problem == "leaves" else run_chain, restart=restart)


def torch_case(problem: str, size: int, name: str) -> Case:
    import torch

    params = [torch.tensor(x, requires_grad=True) for x in start_of(problem, size)]
    return torch_step(name, params, functools.partial(loss_for(problem, size, torch), params))


def jax_case(problem: str, size: int, name: str) -> Case:
    import jax.numpy as jnp

    return jax_step(name, start_of(problem, size), loss_for(problem, size, jnp))


BY_HAND = {"numpy": numpy_case, "torch": torch_case, "jax": jax_case}


# -- by xdev ---------------------------------------------------------------------------------------------------


def xdev_case(framework: str, problem: str, size: int, name: str) -> Case:
    import xdev

    device = xdev.device(f"{framework}:cpu")
    optimizer = xdev.optim.adamw(_mlp.RATE, weight_decay=_mlp.DECAY)
    initial = xdev.TrainState.create([device.xp.asarray(x) for x in start_of(problem, size)], optimizer)
    nothing = device.xp.zeros(1)
    kept = [initial.copy()]

    def loss(leaves: Any, batch: Any) -> Any:
        return loss_for(problem, size, xdev.namespace(leaves[0]))(leaves)

    step = xdev.make_step(loss, optimizer)

    def run() -> Any:
        kept[0], metrics = step(kept[0], nothing)
        return metrics["loss"]

    def restart() -> None:
        kept[0] = initial.copy()

    def wait(loss: Any) -> None:
        if framework == "jax":
            import jax

            jax.block_until_ready((kept[0].params, kept[0].opt_state, loss))

    return Case(name, run, wait, restart)


# -- measuring -------------------------------------------------------------------------------------------------


def build(key: Key) -> Sequence[Case]:
    """Return the hand-written step and xdev's for each size, of one framework and problem."""
    framework, problem, sizes = key
    cases = []
    for size in sizes:
        pair = [
            BY_HAND[framework](problem, size, f"{framework}, {problem}, {size}: by hand"),
            xdev_case(framework, problem, size, f"{framework}, {problem}, {size}: xdev"),
        ]
        for made in pair:
            made.restart()
            made.run()  # torch makes the optimizer's state in its first step
            made.restart()
            made.evidence = [float(made.run()) for _ in range(STEPS_COMPARED)]
        check_equal({made.name: made.evidence for made in pair}, TOLERANCE)
        cases += pair
    return cases


def line(sizes: Sequence[int], seconds: Sequence[float], scale: Sequence[float]) -> tuple[float, float]:
    """Return intercept and slope of the line of least squares; each point's error is proportional to its scale."""
    slope, intercept = np.polyfit(sizes, seconds, 1, w=1 / np.asarray(scale))
    return float(intercept), float(slope)


def signed(seconds: float) -> str:
    """Return a duration that may be below zero."""
    return readable(seconds) if seconds >= 0 else f"-{readable(-seconds)}"


def report(plan: Plan, frameworks: Sequence[str], sizes: dict[str, tuple[int, ...]]) -> Report:
    found = Report((__doc__ or "").partition("\n")[0], plan)
    for problem, its_sizes in sizes.items():
        keys: list[Key] = [
            (name, problem, tuple(n for n in its_sizes if n <= COMPILED[problem] or name != "jax"))
            for name in frameworks
        ]
        times, _ = measure(build, keys, plan)
        rows = []
        for name, _, own in keys:
            rows += rows_of(times, name, problem, own, its_sizes)
        columns = ["step", *(f"{size:,}" for size in its_sizes), "intercept", "slope", "targets"]
        found.figures(f"A step by the number of {problem}", columns, rows)
    found.note(
        "\nThe overhead is what xdev's step took more than the one by hand in the same round: the middle of rounds."
    )
    found.note("The last columns are the line of least squares through it, where errors are taken to grow with times.")
    return found


def rows_of(times: Times, name: str, problem: str, own: Sequence[int], shown: Sequence[int]) -> list[list[str]]:
    """Return the rows of one framework: by hand, by xdev, and their difference with its line."""
    by_hand = [times[f"{name}, {problem}, {size}: by hand"] for size in own]
    by_xdev = [times[f"{name}, {problem}, {size}: xdev"] for size in own]
    more = [[b - a for a, b in zip(*pair, strict=True)] for pair in zip(by_hand, by_xdev, strict=True)]
    middle = [[statistics.median(column) for column in columns] for columns in (by_hand, by_xdev, more)]
    fitted = ["", "", ""]
    if len(own) > 1:
        intercept, slope = line(own, middle[2], middle[1])
        fitted = [signed(intercept), signed(slope), ", ".join(filter(None, TARGETS[problem]))]
    rows = []
    for what, column in zip(("by hand", "xdev", "overhead"), middle, strict=True):
        cells = [signed(seconds) for seconds in column] + [""] * (len(shown) - len(own))
        rows.append([f"{name}: {what}", *cells, *(fitted if what == "overhead" else ["", "", ""])])
    return rows


def main() -> None:
    parser = arguments(__doc__, rounds=7, passes=1)
    parser.add_argument("--leaves", type=int, nargs="+", default=SIZES["leaves"], help="numbers of leaves")
    parser.add_argument("--operations", type=int, nargs="+", default=SIZES["operations"], help="numbers of operations")
    parser.add_argument("--frameworks", nargs="+", choices=list(BY_HAND), help="all that are installed by default")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    frameworks = options.frameworks or [name for name in BY_HAND if importlib.util.find_spec(name) is not None]
    sizes = {"leaves": tuple(options.leaves), "operations": tuple(options.operations)}
    found = report(plan_of(options), frameworks, sizes)
    found.write(options.json)


if __name__ == "__main__":
    main()
