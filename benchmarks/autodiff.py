"""The cost of a gradient: xdev's tape on NumPy, HIPS autograd, torch and JAX.

The gradient of an MLP, where the arithmetic counts, and of a chain of scalar-sized operations, where the bookkeeping
does. Nothing is timed unless all get the same value and gradient.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import _mlp
import numpy as np
from _harness import Case, Plan, check_equal, measure
from _report import Report, arguments, plan_of

TOLERANCE = 1e-4
FACTOR = 1.01
"""The chain is y = sin(FACTOR * y), again and again: two operations a link."""


@dataclass(frozen=True)
class Task:
    """The problem, and whose cases to make."""

    framework: str
    problem: str
    sizes: tuple[int, ...]
    batch: int
    links: int


# -- the problems, for any namespace ---------------------------------------------------------------------------


def chain(xp: Any, y: Any, links: int) -> Any:
    for _ in range(links):
        y = xp.sin(y * FACTOR)
    return y


def mlp_loss(xp: Any, layers: Any, x: Any, chosen: Any) -> Any:
    """Return the mean cross entropy; `chosen` are one-hot labels over the number of rows."""
    for weight, bias in layers[:-1]:
        x = xp.matmul(x, weight) + bias
        x = xp.maximum(x, xp.zeros_like(x))
    logits = xp.matmul(x, layers[-1][0]) + layers[-1][1]
    logits = logits - xp.max(logits, axis=1, keepdims=True)
    return xp.mean(xp.log(xp.sum(xp.exp(logits), axis=1))) - xp.sum(logits * chosen)


def one_hot(task: Task, labels: Any) -> Any:
    return np.eye(task.sizes[-1], dtype=np.float32)[labels] / np.float32(task.batch)


def evidence(value: Any, gradient: Any) -> list[float]:
    """Return the loss, and two sums over the gradient's arrays."""
    arrays = [np.asarray(array, dtype=np.float64) for array in gradient]
    return [float(value), sum(float((a * a).sum()) for a in arrays), sum(float(np.abs(a).sum()) for a in arrays)]


def case(name: str, run: Callable[[], Any], wait: Callable[[Any], Any] = lambda result: None) -> Case:
    made = Case(name, run, wait)
    value, gradient = run()
    made.evidence = evidence(value, [array for pair in gradient for array in pair])
    return made


# -- the frameworks ----------------------------------------------------------------------------------------------


def numpy_cases(task: Task) -> list[Case]:
    import autograd
    import autograd.numpy as anp

    if task.problem == "chain":
        start = np.asarray(0.5, np.float32)
        both = autograd.value_and_grad(lambda y: chain(anp, y, task.links))

        def run() -> Any:
            value, gradient = both(start)
            return value, [(gradient,)]

        return [case("HIPS autograd", run), *xdev_cases(task)]
    x, labels = _mlp.examples(task.batch, task.sizes)
    layers, chosen = _mlp.initial_layers(task.sizes), one_hot(task, labels)
    net = _mlp.HandDerived(layers, task.batch)
    both = autograd.value_and_grad(lambda params: mlp_loss(anp, params, x, chosen))
    return [
        case("hand-derived", lambda: (net.gradient(x, labels), net.layer_grads)),
        case("HIPS autograd", lambda: both(layers)),
        *xdev_cases(task),
    ]


def xdev_cases(task: Task) -> list[Case]:
    """Return xdev's gradients on the framework's arrays: of the standard's functions, and of `xdev.ops`."""
    import xdev

    device = xdev.device(f"{task.framework}:cpu")
    name = f"xdev on {task.framework}"
    if task.problem == "chain":
        start = device.xp.asarray(0.5, dtype=device.xp.float32)
        both = xdev.value_and_grad(lambda y: chain(xdev.namespace(y), y, task.links))

        def run() -> Any:
            value, gradient = both(start)
            return value, [(gradient,)]

        return [case(name, run)]
    x, labels = _mlp.examples(task.batch, task.sizes)
    layers, x, labels, chosen = xdev.to_device(
        (_mlp.initial_layers(task.sizes), x, labels, one_hot(task, labels)), device
    )

    def with_ops(params: Any, x: Any, labels: Any) -> Any:
        for weight, bias in params[:-1]:
            x = xdev.ops.relu(xdev.ops.linear(x, weight, bias))
        return xdev.ops.cross_entropy(xdev.ops.linear(x, *params[-1]), labels)

    plain = xdev.value_and_grad(lambda params, x, chosen: mlp_loss(xdev.namespace(x), params, x, chosen))
    fused = xdev.value_and_grad(with_ops)
    return [
        case(f"{name}, xdev.ops", lambda: fused(layers, x, labels)),
        case(f"{name}, functions of xp", lambda: plain(layers, x, chosen)),
    ]


def torch_cases(task: Task) -> list[Case]:
    import torch

    if task.problem == "chain":
        leaf = torch.tensor(0.5, requires_grad=True)

        def run_chain() -> Any:
            value = chain(torch, leaf, task.links)
            return value.detach(), [torch.autograd.grad(value, [leaf])]

        return [case("torch", run_chain), *xdev_cases(task)]
    x, labels = (torch.from_numpy(array) for array in _mlp.examples(task.batch, task.sizes))
    layers = [
        (torch.from_numpy(weight.T.copy()).requires_grad_(), torch.from_numpy(bias).requires_grad_())
        for weight, bias in _mlp.initial_layers(task.sizes)
    ]
    leaves = [array for pair in layers for array in pair]

    def run() -> Any:
        y = x
        for weight, bias in layers[:-1]:
            y = torch.relu(torch.nn.functional.linear(y, weight, bias))
        loss = torch.nn.functional.cross_entropy(torch.nn.functional.linear(y, *layers[-1]), labels)
        return loss.detach(), [torch.autograd.grad(loss, leaves)]

    return [case("torch", run), *xdev_cases(task)]


def jax_cases(task: Task) -> list[Case]:
    import jax
    import jax.numpy as jnp

    if task.problem == "chain":
        both = jax.jit(jax.value_and_grad(lambda y: chain(jnp, y, task.links)))
        start = jnp.asarray(0.5, dtype=jnp.float32)

        def run() -> Any:
            value, gradient = both(start)
            return value, [(gradient,)]

        return [case("jax.jit", run, jax.block_until_ready)]
    x, labels = _mlp.examples(task.batch, task.sizes)
    layers, x, chosen = jax.device_put((_mlp.initial_layers(task.sizes), x, one_hot(task, labels)))
    both = jax.jit(jax.value_and_grad(lambda params, x, chosen: mlp_loss(jnp, params, x, chosen)))
    return [case("jax.jit", lambda: both(layers, x, chosen), jax.block_until_ready)]


CASES = {"numpy": numpy_cases, "torch": torch_cases, "jax": jax_cases}
TARGETS = {"xdev on numpy, xdev.ops": "<= 0.5", "xdev on numpy": "<= 0.5"}


def build(task: Task) -> Sequence[Case]:
    return CASES[task.framework](task)


def report(plan: Plan, sizes: tuple[int, ...], batch: int, links: int, frameworks: list[str]) -> Report:
    found = Report((__doc__ or "").partition("\n")[0], plan)
    titles = {
        "mlp": f"Gradient of the MLP {'-'.join(map(str, sizes))}, batch {batch}",
        "chain": f"Gradient of a chain of {2 * links} scalar operations",
    }
    for problem, title in titles.items():
        tasks = [Task(framework, problem, sizes, batch, links) for framework in frameworks]
        times, numbers = measure(build, tasks, plan)
        difference = check_equal(numbers, TOLERANCE)
        found.note(f"\nValues and gradients agree within {difference:.1e} (relative).")
        targets = {name: target for name, target in TARGETS.items() if name in times}
        found.table(
            title, dict(sorted(times.items(), key=lambda item: sorted(item[1]))), "HIPS autograd", targets=targets
        )
    found.note("\nJAX compiles the whole problem; the others build it anew each time.")
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=_mlp.SIZES, help="widths of the layers")
    parser.add_argument("--batch", type=int, default=_mlp.BATCH, help="rows of a batch")
    parser.add_argument("--links", type=int, default=500, help="links of the chain, two operations each")
    parser.add_argument("--frameworks", nargs="+", help="numpy and others; all that are installed by default")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    frameworks = options.frameworks or [name for name in CASES if importlib.util.find_spec(name) is not None]
    found = report(plan_of(options), tuple(options.sizes), options.batch, options.links, frameworks)
    found.write(options.json)


if __name__ == "__main__":
    main()
