"""Training steps written by hand for each framework, with AdamW in float32: what `xdev.make_step` is compared with.

Requirements: each is what someone who knows the framework well writes; all start from the same numbers, and `restart`
brings them back there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import _gpt
import _gpt_numpy
import _mlp
import numpy as np
from _harness import Case


@dataclass(frozen=True)
class Setup:
    """What is trained, and by which framework.

    Attributes
    ----------
    framework
        Its name.
    model
        "mlp" or "gpt".
    sizes, batch
        Of the MLP.
    gpt
        Of the GPT.
    """

    framework: str
    model: str = "mlp"
    sizes: tuple[int, ...] = _mlp.SIZES
    batch: int = _mlp.BATCH
    gpt: _gpt.Shape = field(default_factory=_gpt.Shape)

    def initial(self) -> Any:
        """Return the tree of parameters."""
        return _gpt.initial_params(self.gpt) if self.model == "gpt" else _mlp.initial_layers(self.sizes)

    def examples(self) -> tuple[Any, Any]:
        """Return a batch: inputs and int64 labels."""
        return _gpt.examples(self.gpt) if self.model == "gpt" else _mlp.examples(self.batch, self.sizes)

    def narrow_examples(self) -> tuple[Any, Any]:
        """Return the same batch with int32 in place of int64, which JAX does not have unless told."""
        x, labels = self.examples()
        return x.astype(np.int32) if self.model == "gpt" else x, labels.astype(np.int32)


# -- NumPy -----------------------------------------------------------------------------------------------------


def numpy_case(setup: Setup) -> Case:
    x, labels = setup.examples()
    net: Any
    if setup.model == "gpt":
        net = _gpt_numpy.HandDerived(setup.initial(), setup.gpt)
    else:
        net = _mlp.HandDerived(setup.initial(), setup.batch)
    optimizer = _mlp.AdamW(net.params)

    def run() -> Any:
        loss = net.gradient(x, labels)
        optimizer.update(net.grads)
        return loss

    def restart() -> None:
        net.restart()
        optimizer.restart()

    return Case("numpy: hand-derived", run, restart=restart)


def plain_case(setup: Setup) -> Case:
    x, labels = setup.examples()
    step = _mlp.PlainStep(setup.initial())
    return Case("numpy: hand-derived, new arrays", lambda: step.run(x, labels), restart=step.restart)


def autograd_case(setup: Setup) -> Case:
    import autograd

    loss_of = _autograd_loss(setup)
    start = setup.initial()
    flat = np.concatenate([array.reshape(-1) for array in _gpt.leaves(start)])
    first = flat.copy()
    grads = np.empty_like(flat)
    params, into = _gpt.like(flat, start), _gpt.leaves(_gpt.like(grads, start))
    optimizer = _mlp.AdamW(flat)
    value_and_grad = autograd.value_and_grad(loss_of)

    def run() -> Any:
        loss, found = value_and_grad(params)
        for place, gradient in zip(into, _gpt.leaves(found), strict=True):
            place[...] = gradient
        optimizer.update(grads)
        return loss

    def restart() -> None:
        flat[:] = first
        optimizer.restart()

    return Case("numpy: HIPS autograd", run, restart=restart)


def _autograd_loss(setup: Setup) -> Callable[[Any], Any]:
    import autograd.numpy as anp

    x, labels = setup.examples()
    if setup.model == "gpt":
        data = *(_gpt.one_hot(setup.gpt, indices) for indices in (x, labels)), _gpt.causal_mask(setup.gpt)
        return lambda params: _gpt.plain_loss(anp, anp.transpose, params, *data, setup.gpt)
    chosen = np.eye(setup.sizes[-1], dtype=np.float32)[labels] / np.float32(setup.batch)

    def loss_of(params: Any) -> Any:
        y = x
        for weight, bias in params[:-1]:
            y = anp.maximum(anp.dot(y, weight) + bias, 0)
        logits = anp.dot(y, params[-1][0]) + params[-1][1]
        logits = logits - anp.max(logits, axis=1, keepdims=True)
        # Multiplying by one-hot labels costs less than indexing, whose gradient is a scatter.
        return anp.mean(anp.log(anp.sum(anp.exp(logits), axis=1))) - anp.sum(logits * chosen)

    return loss_of


# -- torch -----------------------------------------------------------------------------------------------------


def torch_step(name: str, params: list[Any], loss_of: Callable[[], Any]) -> Case:
    """Return the step of eager torch with its fused AdamW, for leaves that require gradients."""
    import torch

    first = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=_mlp.RATE, weight_decay=_mlp.DECAY, fused=True)

    def run() -> Any:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    @torch.no_grad()
    def restart() -> None:
        torch._foreach_copy_(params, first)
        moments = [moment for state in optimizer.state.values() for moment in state.values()]
        if moments:
            torch._foreach_zero_(moments)

    return Case(name, run, restart=restart)


def torch_case(setup: Setup) -> Case:
    import torch

    x, labels = (torch.from_numpy(array) for array in setup.examples())
    params, loss_of = _torch_gpt(setup) if setup.model == "gpt" else _torch_mlp(setup)
    return torch_step("torch: hand-written", params, lambda: loss_of(x, labels))


def _torch_mlp(setup: Setup) -> tuple[list[Any], Callable[[Any, Any], Any]]:
    import torch

    modules: list[Any] = []
    for weight, bias in setup.initial():
        linear = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight).T)
            linear.bias.copy_(torch.from_numpy(bias))
        modules += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1])
    return list(model.parameters()), lambda x, labels: torch.nn.functional.cross_entropy(model(x), labels)


def _torch_gpt(setup: Setup) -> tuple[list[Any], Callable[[Any, Any], Any]]:
    params = _gpt.torch_params(setup.initial())
    return _gpt.leaves(params), functools.partial(_gpt.torch_loss, params, heads=setup.gpt.heads)


# -- JAX -------------------------------------------------------------------------------------------------------


def jax_step(name: str, start: Any, loss_of: Callable[..., Any], *data: Any) -> Case:
    """Return the step of `jax.jit` and optax's AdamW."""
    import jax
    import optax

    start, data = jax.device_put((start, data))
    optimizer = optax.adamw(_mlp.RATE, weight_decay=_mlp.DECAY)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, *data: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, *data)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    kept: list[Any] = []

    def restart() -> None:
        params = jax.tree.map(lambda p: p.copy(), start)
        kept[:] = [params, optimizer.init(params)]
        jax.block_until_ready(kept)

    def run() -> Any:
        kept[0], kept[1], loss = step(kept[0], kept[1], *data)
        return loss

    return Case(name, run, lambda loss: jax.block_until_ready((kept, loss)), restart)


def jax_case(setup: Setup) -> Case:
    loss_of = functools.partial(_gpt.jax_loss, heads=setup.gpt.heads) if setup.model == "gpt" else _jax_mlp
    return jax_step("jax: hand-written", setup.initial(), loss_of, *setup.narrow_examples())


def _jax_mlp(params: Any, x: Any, labels: Any) -> Any:
    import jax
    import optax

    *inner, (weight, bias) = params
    for w, b in inner:
        x = jax.nn.relu(x @ w + b)
    return optax.softmax_cross_entropy_with_integer_labels(x @ weight + bias, labels).mean()


BY_HAND: dict[str, list[Callable[[Setup], Case]]] = {
    "numpy": [numpy_case, autograd_case],
    "torch": [torch_case],
    "jax": [jax_case],
    "cupy": [],
}


def by_hand(setup: Setup) -> list[Case]:
    """Return the cases of a framework."""
    cases = [make(setup) for make in BY_HAND[setup.framework]]
    return [*cases, plain_case(setup)] if (setup.framework, setup.model) == ("numpy", "mlp") else cases


REFERENCE = {"numpy": "numpy: hand-derived", "torch": "torch: hand-written", "jax": "jax: hand-written"}
