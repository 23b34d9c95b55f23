"""The cost of a gradient: xdev's tape on NumPy, HIPS autograd, torch and JAX.

The gradient of a char-GPT, of an MLP, where the arithmetic counts too, and of a chain of scalar-sized operations, where
the bookkeeping does. Nothing is timed unless all get the same value and gradient.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import _gpt
import _gpt_numpy
import _mlp
import numpy as np
from _harness import Case, Plan, check_equal, measure
from _report import Report, arguments, by_time, plan_of

TOLERANCE = 1e-4
CALLS = 3
"""Calls until the evidence is taken: what is recorded or compiled in the first may differ from what runs later."""
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
    gpt: _gpt.Shape


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
    for _ in range(CALLS):
        value, gradient = run()
    made.evidence = evidence(value, _gpt.leaves(gradient))
    return made


# -- the frameworks ----------------------------------------------------------------------------------------------


def numpy_cases(task: Task) -> list[Case]:
    import autograd
    import autograd.numpy as anp

    if task.problem == "gpt":
        tokens, labels = _gpt.examples(task.gpt)
        start = _gpt.initial_params(task.gpt)
        net = _gpt_numpy.HandDerived(start, task.gpt)
        data = *(_gpt.one_hot(task.gpt, x) for x in (tokens, labels)), _gpt.causal_mask(task.gpt), task.gpt
        both = autograd.value_and_grad(functools.partial(_gpt.plain_loss, anp, anp.transpose))
        return [
            case("hand-derived", lambda: (net.gradient(tokens, labels), net.tree_grads)),
            case("hand-derived, new arrays", lambda: _gpt_numpy.fresh_gradient(start, tokens, labels, task.gpt)),
            case("HIPS autograd", lambda: both(start, *data)),
            *xdev_cases(task),
        ]
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
    if task.problem == "gpt":
        return gpt_cases(task, device, name)
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


def gpt_cases(task: Task, device: Any, name: str) -> list[Case]:
    import xdev

    tokens, labels = (x.astype(np.int32 if task.framework == "jax" else np.int64) for x in _gpt.examples(task.gpt))
    params, tokens, labels = xdev.to_device((_gpt.initial_params(task.gpt), tokens, labels), device)
    both = xdev.value_and_grad(functools.partial(_gpt.xdev_loss, heads=task.gpt.heads))
    compiled = xdev.jit(both)
    if task.framework == "jax":
        import jax

        return [case(f"xdev.jit on {task.framework}", lambda: compiled(params, tokens, labels), jax.block_until_ready)]
    cases = [case(name, lambda: both(params, tokens, labels))]
    if task.framework == "numpy":
        xs = [*(_gpt.one_hot(task.gpt, x) for x in (tokens, labels)), _gpt.causal_mask(task.gpt)]

        def loss(params: Any, *xs: Any) -> Any:
            xp = xdev.namespace(*xs)
            return _gpt.plain_loss(xp, xp.permute_dims, params, *xs, task.gpt)

        plain = xdev.value_and_grad(loss)
        plain_compiled = xdev.jit(plain)
        cases += [
            case(f"xdev.jit on {task.framework}", lambda: compiled(params, tokens, labels)),
            case(f"{name}, functions of xp", lambda: plain(params, *xs)),
            case(f"xdev.jit on {task.framework}, functions of xp", lambda: plain_compiled(params, *xs)),
        ]
    return cases


def torch_cases(task: Task) -> list[Case]:
    import torch

    if task.problem == "gpt":
        params, heads = _gpt.torch_params(_gpt.initial_params(task.gpt)), task.gpt.heads
        tokens, targets = (torch.from_numpy(x) for x in _gpt.examples(task.gpt))
        its_leaves = _gpt.leaves(params)

        def run_gpt() -> Any:
            loss = _gpt.torch_loss(params, tokens, targets, heads=heads)
            return loss.detach(), torch.autograd.grad(loss, its_leaves)

        return [case("torch", run_gpt), *xdev_cases(task)]
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

    if task.problem == "gpt":
        gpt = jax.jit(jax.value_and_grad(functools.partial(_gpt.jax_loss, heads=task.gpt.heads)))
        data = jax.device_put((_gpt.initial_params(task.gpt), *(x.astype(np.int32) for x in _gpt.examples(task.gpt))))
        return [case("jax.jit", lambda: gpt(*data), jax.block_until_ready), *xdev_cases(task)]
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
TARGETS: dict[str, dict[str, dict[str, str]]] = {
    "gpt": {
        "hand-derived": {"xdev on numpy": "<= 0.80", "xdev.jit on numpy": "<= 0.62"},
        "HIPS autograd": {"xdev on numpy": "<= 0.167", "xdev.jit on numpy": "<= 0.133"},
        "torch": {"xdev.jit on numpy": "<= 1.3", "xdev on torch": "<= 1.00"},
        "jax.jit": {"xdev.jit on jax": "<= 1.03"},
    },
    "mlp": {"HIPS autograd": {"xdev on numpy, xdev.ops": "<= 0.5"}},
    "chain": {"HIPS autograd": {"xdev on numpy": "<= 0.25"}},
}
"""By problem and reference, what the ratios of cases should be."""


def build(task: Task) -> Sequence[Case]:
    return CASES[task.framework](task)


def report(plan: Plan, problems: Sequence[str], tasks: Sequence[Task]) -> Report:
    """Return the tables of each problem; `tasks` say the sizes, one a framework."""
    found = Report((__doc__ or "").partition("\n")[0], plan)
    one = tasks[0]
    titles = {
        "gpt": f"Gradient of the char-GPT, {one.gpt}",
        "mlp": f"Gradient of the MLP {'-'.join(map(str, one.sizes))}, batch {one.batch}",
        "chain": f"Gradient of a chain of {2 * one.links} scalar operations",
    }
    for problem in problems:
        times, numbers = measure(build, [replace(task, problem=problem) for task in tasks], plan)
        difference = check_equal(numbers, TOLERANCE)
        found.note(f"\nValues and gradients of the {problem} agree within {difference:.1e} (relative).")
        times = by_time(times)
        (first, wanted), *others = TARGETS[problem].items()
        targets = {name: target for name, target in wanted.items() if name in times}
        found.table(titles[problem], times, first if first in times else next(iter(times)), targets=targets)
        for reference, wanted in others:
            targets = {name: target for name, target in wanted.items() if name in times}
            if reference in times and targets:
                group = {name: times[name] for name in (reference, *targets)}
                found.table(f"The {problem} against {reference}", group, reference, targets=targets)
    found.note("\nJAX compiles the whole problem; the others build it anew each time, but for xdev.jit.")
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--problem", nargs="+", choices=list(TARGETS), default=list(TARGETS), help="all by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=_mlp.SIZES, help="widths of the MLP's layers")
    parser.add_argument("--batch", type=int, default=_mlp.BATCH, help="rows of the MLP's batch")
    parser.add_argument("--links", type=int, default=500, help="links of the chain, two operations each")
    _gpt.add_option(parser)
    parser.add_argument("--frameworks", nargs="+", help="numpy and others; all that are installed by default")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    frameworks = options.frameworks or [name for name in CASES if importlib.util.find_spec(name) is not None]
    sizes, gpt = tuple(options.sizes), _gpt.Shape(*options.gpt)
    tasks = [Task(framework, "", sizes, options.batch, options.links, gpt) for framework in frameworks]
    found = report(plan_of(options), options.problem, tasks)
    found.write(options.json)


if __name__ == "__main__":
    main()
