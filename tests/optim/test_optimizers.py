"""The optimizers against torch.optim and optax, step by step, on every backend, functional and fused."""

import numpy as np
import pytest

import xdev
from xdev import nn, optim, tree
from xdev.testing import assert_close

STEPS = 7
RNG = np.random.default_rng(0)
PARAMS = [RNG.normal(size=(5, 3)), RNG.normal(size=(4,))]
TARGETS = [RNG.normal(size=(5, 3)), RNG.normal(size=(4,))]

CASES = {
    "sgd": (
        lambda: optim.sgd(0.1),
        lambda torch, p: torch.optim.SGD(p, lr=0.1),
        lambda optax: optax.sgd(0.1),
    ),
    "momentum": (
        lambda: optim.sgd(0.1, momentum=0.9),
        lambda torch, p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda optax: optax.sgd(0.1, momentum=0.9),
    ),
    "nesterov": (
        lambda: optim.sgd(0.1, momentum=0.9, nesterov=True),
        lambda torch, p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda optax: optax.sgd(0.1, momentum=0.9, nesterov=True),
    ),
    "sgd-decay": (
        lambda: optim.sgd(0.1, momentum=0.5, weight_decay=0.1),
        lambda torch, p: torch.optim.SGD(p, lr=0.1, momentum=0.5, weight_decay=0.1),
        lambda optax: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.5)),
    ),
    "adam": (
        lambda: optim.adam(0.05, b1=0.8, b2=0.99),
        lambda torch, p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.99)),
        lambda optax: optax.adam(0.05, b1=0.8, b2=0.99),
    ),
    "adamw": (
        lambda: optim.adamw(0.05, weight_decay=0.1),
        lambda torch, p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
        lambda optax: optax.adamw(0.05, weight_decay=0.1),
    ),
    "clipped": (
        lambda: optim.chain(optim.clip_by_global_norm(0.5), optim.adamw(0.05)),
        None,
        lambda optax: optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.05, weight_decay=1e-2)),
    ),
    "scheduled": (
        lambda: optim.sgd(optim.linear_warmup(0.1, 3, optim.cosine_decay(0.1, 4))),
        None,
        lambda optax: optax.sgd(
            optax.join_schedules([optax.linear_schedule(0, 0.1, 3), optax.cosine_decay_schedule(0.1, 4)], [3])
        ),
    ),
}
"""name -> (xdev's, torch's or None, optax's)"""


def gradients(params):
    """Gradients of a function that is not quadratic, so that mistakes in the state show."""
    return [np.tanh(p - t) * (1 + p * p) for p, t in zip(params, TARGETS, strict=True)]


def torch_trajectory(make):
    torch = pytest.importorskip("torch")
    params = [torch.tensor(p, requires_grad=True) for p in PARAMS]
    optimizer = make(torch, params)
    for _ in range(STEPS):
        for p, g in zip(params, gradients([p.detach().numpy() for p in params]), strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
    return [p.detach().numpy() for p in params]


def optax_trajectory(make):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    with jax.enable_x64(True):
        params = [jax.numpy.asarray(p) for p in PARAMS]
        optimizer = make(optax)
        state = optimizer.init(params)
        for _ in range(STEPS):
            grads = [jax.numpy.asarray(g) for g in gradients([np.asarray(p) for p in params])]
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return [np.asarray(p) for p in params]


def xdev_trajectory(optimizer, device, dtype):
    params = [xdev.asarray(p, dtype=dtype, device=device) for p in PARAMS]
    state = optimizer.init(params)
    for _ in range(STEPS):
        grads = [
            xdev.asarray(g, dtype=dtype, device=device)
            for g in gradients([xdev.to_numpy(p).astype(np.float64) for p in params])
        ]
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    return xdev.to_numpy(params)


@pytest.fixture(scope="module")
def oracles():
    found = {}
    for name, (_, make_torch, make_optax) in CASES.items():
        expected = optax_trajectory(make_optax)
        if make_torch is not None:
            np.testing.assert_allclose(torch_trajectory(make_torch)[0], expected[0], rtol=1e-6, err_msg=name)
        found[name] = expected
    return found


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_torch_and_optax(name, device, oracles):
    with device.backend.precision("float64"):
        params = xdev_trajectory(CASES[name][0](), device, "float64")
    for actual, expected in zip(params, oracles[name], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_step_gives_the_same_numbers(name, device, oracles):
    """The whole step, which updates in place where the backend has a fused update."""

    def loss(params, targets):
        xp = xdev.namespace(params[0])
        return sum((0.1 * xp.sum((p - t) ** 4) for p, t in zip(params, targets, strict=True)), start=0.0)

    with device.backend.precision("float64"):
        optimizer = CASES[name][0]()
        params = [xdev.asarray(p, device=device) for p in PARAMS]
        targets = [xdev.asarray(t, device=device) for t in TARGETS]
        state = xdev.TrainState.create(params, optimizer)
        step = xdev.make_step(loss, optimizer)
        expected = [np.asarray(p) for p in PARAMS]
        host_state = optimizer.init(expected)
        for _ in range(STEPS):
            state, _ = step(state, targets)
            grads = [0.4 * (p - t) ** 3 for p, t in zip(expected, TARGETS, strict=True)]
            updates, host_state = optimizer.update(grads, host_state, expected)
            expected = optim.apply_updates(expected, updates)
        assert_close(state.model, expected, rtol=1e-9)
        assert_close(tree.leaves(state.opt_state), tree.leaves(host_state), rtol=1e-9)
        assert_close(xdev.to_numpy(params), PARAMS, rtol=0, atol=0)  # the caller's model never changes


def test_float32_stays_float32(xp, device):
    for make, _, _ in CASES.values():
        optimizer = make()
        params = {"w": xp.asarray(np.float32([1.0, 2.0]))}
        state = optimizer.init(params)
        updates, state = optimizer.update(params, state, params)
        new = optim.apply_updates(params, updates)
        assert new["w"].dtype == xp.float32
        floats = [x for x in tree.leaves(state) if xdev.contract.dtype_name(x.dtype) != "int32"]
        assert all(x.dtype == xp.float32 for x in floats)
        assert xdev.device_of((state, new)) == device


def test_buffers_and_frozen_leaves_and_integers_are_left_alone(xp, device):
    class Scaled(nn.Module):
        weight: object
        scale: object = nn.buffer()

    one = lambda: xp.asarray(np.float32([1.0]))  # noqa: E731
    model = {"live": Scaled(one(), one()), "cold": nn.freeze(Scaled(one(), one())), "n": xp.asarray(np.int32([1]))}
    optimizer = optim.adamw(0.1, weight_decay=0.5)
    grads = tree.map(lambda x: x, model)
    updates, _ = optimizer.update(grads, optimizer.init(model), model)
    new = optim.apply_updates(model, updates)
    assert float(xdev.item(new["live"].weight)) < 1
    assert new["live"].scale is model["live"].scale
    assert new["cold"].weight is model["cold"].weight
    assert new["n"] is model["n"]


def test_tied_leaves_stay_tied(xp):
    class Tied(nn.Module):
        a: object
        b: object

    shared = xp.asarray(np.float32([1.0]))
    model = Tied(shared, shared)
    optimizer = optim.sgd(0.1)
    grads = xdev.grad(lambda m: xdev.namespace(m.a).sum(m.a * m.a * m.b))(model)
    assert_close(grads.a, np.float32([3.0]))  # both ways to the one array, added up
    updates, _ = optimizer.update(grads, optimizer.init(model), model)
    new = optim.apply_updates(model, updates)
    assert new.a is new.b
    assert_close(new.a, np.float32([0.7]))


def test_global_norm_counts_a_shared_array_once(xp):
    x = xp.asarray(np.float32([3.0, 4.0]))
    assert_close(optim.global_norm([x, x]), np.float32(5.0))
    with pytest.raises(ValueError, match="global_norm needs at least one floating array"):
        optim.global_norm([])


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match="nesterov=True looks ahead along the momentum"):
        optim.sgd(0.1, nesterov=True)
