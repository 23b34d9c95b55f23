"""What a step hands out is nobody else's: neither parameters, which are updated in place, nor other gradients."""

import dataclasses

import numpy as np
import pytest

import xdev
from xdev import nn, optim
from xdev.testing import assert_close


class Lagged(nn.Module):
    w: object
    prev: object = nn.buffer()


def array(device, numbers):
    return xdev.to_device(np.asarray(numbers, np.float32), device, copy=True)


def test_a_metric_that_is_a_parameter_is_that_of_its_step(device):
    def loss(model, batch):
        return xdev.ops.mse(model["t"], batch[0]), {"t": model["t"], "row": model["w"][0]}

    model = {"t": array(device, 1.0), "w": array(device, [2.0, 3.0])}
    result = xdev.fit(model, loss, np.zeros(4, np.float32), optimizer=optim.sgd(0.1), batch_size=1)
    assert result.history[0]["t"] == pytest.approx(np.mean([1, 0.8, 0.64, 0.512]), rel=1e-6)
    assert result.history[0]["row"] == 2.0


@pytest.mark.parametrize("make", [optim.sgd, lambda rate: optim.chain(optim.sgd(rate))], ids=["fused", "chain"])
def test_a_metric_that_is_a_view_of_the_batch_is_that_of_its_step(device, make):
    """A loader of the user's own may fill one buffer again and again."""
    if not device.backend.capabilities.mutable:
        pytest.skip("its arrays cannot be written to")
    buffer = array(device, [0.0])

    def batches():
        for number in range(4):
            buffer[...] = float(number)
            yield buffer

    def loss(model, batch):
        xp = xdev.namespace(batch)
        return xp.mean(model["t"] * batch), {"first": batch[0]}

    result = xdev.fit({"t": array(device, 1.0)}, loss, batches(), optimizer=make(0.1))
    assert result.history[0]["first"] == 1.5


@pytest.mark.parametrize("make", [optim.sgd, lambda rate: optim.chain(optim.sgd(rate))], ids=["fused", "chain"])
def test_a_buffer_that_is_the_batch_is_the_steps_own(device, make):
    if not device.backend.capabilities.mutable:
        pytest.skip("its arrays cannot be written to")

    def loss(model, batch):
        return xdev.namespace(batch).sum(model.w * batch), {}, dataclasses.replace(model, prev=batch)

    optimizer = make(0.1)
    state = xdev.TrainState.create(Lagged(array(device, [1.0]), array(device, [0.0])), optimizer)
    batch = array(device, [5.0])
    state, _ = xdev.make_step(loss, optimizer)(state, batch)
    batch[...] = -1.0
    assert float(state.model.prev[0]) == 5.0


@pytest.mark.parametrize("pick", [lambda m: m["t"], lambda m: xdev.namespace(m["t"]).reshape(m["t"], ())])
def test_a_loss_that_is_a_parameter_is_that_of_its_step(device, pick):
    result = xdev.fit(
        {"t": array(device, 3.0)}, lambda m, b: pick(m), np.zeros(3, np.float32), optimizer=optim.sgd(1.0), batch_size=1
    )
    assert result.losses == [3.0, 2.0, 1.0]


def test_a_value_is_not_the_argument(device):
    x = array(device, 3.0)
    value, _ = xdev.value_and_grad(lambda t: t)(x)
    if device.backend.capabilities.mutable:
        x[...] = 7.0
    assert float(value) == 3.0


def test_a_buffer_that_keeps_the_last_parameters_keeps_them(device):
    def loss(model, batch):
        xp = xdev.namespace(model.w)
        lag = xp.sum(xp.abs(model.w - model.prev))
        return xp.sum(model.w * model.w), {"lag": lag}, dataclasses.replace(model, prev=xdev.stop_gradient(model.w))

    optimizer = optim.sgd(0.1)
    state = xdev.TrainState.create(Lagged(array(device, [1.0]), array(device, [0.0])), optimizer)
    step = xdev.make_step(loss, optimizer)
    lags = []
    for _ in range(3):
        state, metrics = step(state, ())
        lags.append(float(metrics["lag"]))
    assert lags == pytest.approx([1.0, 0.2, 0.16], rel=1e-5)


def test_an_optimizer_state_that_is_the_parameters_stays_what_it_was(device):
    """As of optimizers that remember where they began."""
    begun = optim.Optimizer(lambda params: list(params), lambda grads, state, params: (grads, state))
    optimizer = optim.chain(optim.sgd(0.1), begun)
    state = xdev.TrainState.create({"w": array(device, [1.0, 2.0])}, optimizer)
    step = xdev.make_step(lambda m, b: xdev.namespace(m["w"]).sum(m["w"] * m["w"]), optimizer)
    for _ in range(2):
        state, _ = step(state, ())
    assert_close(xdev.to_numpy(state.opt_state[1][0]), np.float32([1, 2]))


def test_gradients_share_memory_with_nothing(device):
    xp = device.xp
    a, b = array(device, [[1.0, 2.0, 3.0]] * 2), array(device, [[1.0, 2.0, 3.0]] * 2)
    functions = [
        lambda a, b: xdev.namespace(a).sum(a + b),
        lambda a, b: xdev.namespace(a).sum(xdev.namespace(a).stack([a, b])),
        lambda a, b: xdev.namespace(a).sum(xdev.namespace(a).reshape(a, (3, 2)) + xdev.namespace(a).reshape(b, (3, 2))),
        lambda a, b: xdev.namespace(a).sum(xdev.namespace(a).concat([a, b], axis=0)),
    ]
    for function in functions:
        ga, gb = xdev.grad(function, argnums=(0, 1))(a, b)
        if device.backend.capabilities.mutable:
            with device.scope():
                ga[...] = 5.0
        assert_close(gb, np.ones((2, 3), np.float32))
    cotangent = xp.ones((2, 3), dtype=xp.float32)
    _, pull = xdev.vjp(lambda x: x, a)
    (g,) = pull(cotangent)
    if device.backend.capabilities.mutable:
        with device.scope():
            g[...] = 5.0
    assert_close(cotangent, np.ones((2, 3), np.float32))


def test_what_a_rule_does_to_a_cotangent_does_not_last(device):
    from xdev.autodiff import Primitive

    kept = []
    keep = Primitive("keep", lambda xp, x: xp.positive(x), (lambda xp, g, y, x: kept.append(g) or g,))
    x = array(device, 2.0)
    if type(device.backend).value_and_grad is not xdev.Backend.value_and_grad:
        pytest.skip("it has gradients of its own")
    xdev.grad(lambda x: keep(x))(x)
    with device.scope():
        kept[0][...] = 5.0
    assert float(xdev.grad(lambda x: x * 1.0)(x)) == 1.0


def test_half_precision_does_not_divide_zero_by_zero(device):
    """eps of 1e-8 is 0 in float16: what has no gradient must stay where it is."""
    if not device.backend.holds("float16", device.info):
        pytest.skip("no float16 there")
    x = xdev.to_device(np.ones(3, np.float16), device, copy=True)
    optimizer = optim.adamw(0.01, weight_decay=0.0)
    state = xdev.TrainState.create([x], optimizer)
    step = xdev.make_step(lambda m, b: xdev.namespace(m[0]).sum(m[0][:1] * m[0][:1]), optimizer)
    for _ in range(3):
        state, _ = step(state, ())
    assert_close(xdev.to_numpy(state.model[0]), np.float16([0.97, 1, 1]), rtol=2e-3)
