"""The training step: state, gradients, buffers, ties, random keys, compilation."""

import copy
import gc
import pickle

import numpy as np
import pytest

import xdev
from xdev import nn, ops, optim
from xdev.errors import ArrayTypeError, DeviceMismatchError, GradientError, StaleStateError, TrainingError
from xdev.testing import assert_close


def _model(device, seed=0):
    return nn.MLP([4, 8, 3], rng=xdev.random.Generator(seed, device))


def _batch(xp, rows=6):
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype("float32")
    return xp.asarray(x), xp.asarray((np.arange(rows) % 3).astype("int32"))


def loss(model, batch):
    return ops.cross_entropy(model(batch[0]), batch[1])


def _compiles(backend):
    return type(backend).jit is not xdev.Backend.jit


def test_the_callers_model_never_changes(xp, device):
    model = _model(device)
    before = xdev.to_numpy(model, copy=True)
    optimizer = optim.adamw(0.1)
    state = xdev.TrainState.create(model, optimizer)
    step = xdev.make_step(loss, optimizer)
    for _ in range(3):
        state, _ = step(state, _batch(xp))
    assert_close(xdev.to_numpy(model), before, rtol=0, atol=0)
    changed = xdev.to_numpy(state.model).layers[0].weight
    assert abs(changed - before.layers[0].weight).max() > 0.01


def test_loss_falls_and_stays_on_the_device(xp, device):
    optimizer = optim.adamw(0.05)
    state = xdev.TrainState.create(_model(device), optimizer)
    step = xdev.make_step(loss, optimizer)
    losses = []
    for _ in range(20):
        state, metrics = step(state, _batch(xp))
        assert xdev.device_of(metrics["loss"]) == device
        losses.append(xdev.item(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert state.step == 20


def test_a_consumed_state_raises(xp, device):
    optimizer = optim.sgd(0.1)
    state = xdev.TrainState.create(_model(device), optimizer)
    step = xdev.make_step(loss, optimizer)
    kept = state.copy()
    after, _ = step(state, _batch(xp))
    for use in (lambda: state.model, lambda: step(state, _batch(xp)), state.copy, lambda: state.opt_state):
        with pytest.raises(StaleStateError, match=r"this state was consumed by step 1: .* state\.copy\(\)"):
            use()
    again, _ = step(kept, _batch(xp))
    assert_close(again.model, xdev.to_numpy(after.model), rtol=0, atol=0)


def test_a_failed_step_does_not_consume(xp, device):
    optimizer = optim.sgd(0.1)
    state = xdev.TrainState.create(_model(device), optimizer)
    bad = xdev.make_step(lambda model, batch: model(batch[0]), optimizer)
    with pytest.raises(GradientError, match=r"needs a scalar loss, got shape \(6, 3\); take its mean"):
        bad(state, _batch(xp))
    xdev.make_step(loss, optimizer)(state, _batch(xp))


def test_tied_leaves_stay_tied(xp, device):
    class Tied(nn.Module):
        encode: object
        decode: object

        def __call__(self, x):
            xp_ = xdev.namespace(x)
            return x @ self.encode @ xp_.matrix_transpose(self.decode)

    shared = xp.asarray(np.float32([[0.5, 0.1], [0.2, 0.3]]))
    x = np.float32([[1.0, 2.0]])
    optimizer = optim.sgd(0.1)
    state = xdev.TrainState.create(Tied(shared, shared), optimizer)
    assert len(state.params) == 1
    state, _ = xdev.make_step(lambda m, b: xdev.namespace(b).sum(m(b) ** 2), optimizer)(state, xp.asarray(x))
    assert state.model.encode is state.model.decode

    w = np.float64([[0.5, 0.1], [0.2, 0.3]])
    y = x @ w @ w.T
    gradient = x.T @ (2 * y) @ w + (2 * y).T @ x @ w
    assert_close(state.model.encode, (w - 0.1 * gradient).astype("float32"), rtol=1e-5)


def test_buffers_and_frozen_leaves_stay_out(xp, device):
    class Norm(nn.Module):
        weight: object
        mean: object = nn.buffer()

    ones = lambda: xp.ones(2, dtype=xp.float32)  # noqa: E731
    model = [Norm(ones(), ones()), nn.freeze(Norm(ones(), ones()))]
    optimizer = optim.adamw(0.1, weight_decay=0.5)
    state = xdev.TrainState.create(model, optimizer)
    assert len(state.params) == 1

    def f(model, batch):
        xp_ = xdev.namespace(batch)
        return sum(xp_.sum(m.weight * m.mean * batch) for m in model)

    state, _ = xdev.make_step(f, optimizer)(state, xp.asarray(np.float32([1.0, 1.0])))
    live, cold = xdev.to_numpy(state.model)
    assert (live.weight < 1).all()
    for untouched in (live.mean, cold.weight, cold.mean):
        assert (untouched == 1).all()


def test_metrics_and_new_buffers_come_back(xp, device):
    class Running(nn.Module):
        weight: object
        mean: object = nn.buffer()

    def f(model, batch):
        xp_ = xdev.namespace(batch)
        seen = xp_.mean(batch)
        new = Running(model.weight, 0.5 * model.mean + 0.5 * seen)
        return xp_.sum(model.weight * batch) ** 2, {"seen": seen, "rows": 2}, new

    optimizer = optim.sgd(0.01)
    state = xdev.TrainState.create(Running(xp.ones(2, dtype=xp.float32), xp.zeros((), dtype=xp.float32)), optimizer)
    step = xdev.make_step(f, optimizer)
    batch = xp.asarray(np.float32([1.0, 3.0]))
    for _ in range(2):
        state, metrics = step(state, batch)
    assert_close(state.model.mean, np.float32(1.5))
    assert_close(metrics["seen"], np.float32(2.0))
    assert metrics["rows"] == 2


def test_each_step_has_a_fresh_key_the_same_on_every_backend(xp, device):
    def f(model, batch, rng):
        noise = rng.uniform((2,))
        xp_ = xdev.namespace(model["w"])
        return xp_.sum(model["w"] * noise), {"noise": noise}

    def draws(where, steps=3):
        optimizer = optim.sgd(0.1)
        state = xdev.TrainState.create({"w": where.xp.ones(2, dtype=where.xp.float32)}, optimizer, seed=7)
        step = xdev.make_step(f, optimizer)
        out = []
        for _ in range(steps):
            state, metrics = step(state, where.xp.zeros(1, dtype=where.xp.float32))
            out.append(xdev.to_numpy(metrics["noise"], copy=True))
        return out

    here, reference = draws(device), draws(xdev.device("numpy"))
    assert_close(here, reference, rtol=0, atol=0)
    assert not np.array_equal(here[0], here[1])
    assert not np.array_equal(here[1], here[2])


def test_compiles_once_per_shape(xp, device, backend):
    optimizer = optim.adamw(0.1)
    state = xdev.TrainState.create(_model(device), optimizer)
    step = xdev.make_step(loss, optimizer)
    for _ in range(4):
        state, _ = step(state, _batch(xp, 6))
        state, _ = step(state, _batch(xp, 5))
    assert step.compilations == (2 if _compiles(backend) else 0)
    other = xdev.TrainState.create(_model(device, seed=1), optimizer)
    step(other, _batch(xp, 6))
    assert step.compilations == (2 if _compiles(backend) else 0)


def test_the_step_does_not_wait_for_the_host(xp, device):
    optimizer = optim.adamw(0.1)
    state = xdev.TrainState.create(_model(device), optimizer)
    step = xdev.make_step(loss, optimizer)
    batch = _batch(xp)
    state, _ = step(state, batch)
    with xdev.budget(to_host=0, to_device=0, between_devices=0):
        step(state, batch)


@pytest.mark.xdev_backends(only=["jax"], reason="optax works on JAX arrays alone")
def test_optax_works_on_jax_as_it_is(xp, device):
    optax = pytest.importorskip("optax")
    mine, theirs = optim.adamw(0.05), optax.adamw(0.05, weight_decay=1e-2)
    states = []
    for optimizer in (mine, theirs):
        state = xdev.TrainState.create(_model(device), optimizer)
        step = xdev.make_step(loss, optimizer)
        for _ in range(5):
            state, _ = step(state, _batch(xp))
        assert step.compilations == 1
        states.append(state)
    assert_close(states[0].model, xdev.to_numpy(states[1].model), rtol=1e-3, atol=1e-5)


@pytest.mark.xdev_backends(exclude=["jax"], reason="optax's state is in JAX arrays")
def test_optax_elsewhere_is_told(device):
    optax = pytest.importorskip("optax")
    with pytest.raises(ArrayTypeError, match=rf"optimizer of optax does not work with a model in {device.backend}"):
        xdev.TrainState.create(_model(device), optax.adamw(0.1))


def test_memory_is_flat(xp, device, backend):
    """Steps leave no reference cycles behind."""
    optimizer = optim.adamw(0.1)
    state = xdev.TrainState.create(_model(device), optimizer)
    step = xdev.make_step(loss, optimizer)
    batch = _batch(xp)
    for _ in range(3):  # compiled, or recorded and checked
        state, _ = step(state, batch)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(50):
            state, _ = step(state, batch)
        grown = len(gc.get_objects()) - before
    finally:
        gc.enable()
    assert grown < 50


@pytest.mark.parametrize(
    "optimizer", [optim.adamw(0.1), optim.sgd(0.1), optim.sgd(0.1, momentum=0.9)], ids=["adamw", "sgd", "momentum"]
)
def test_a_gradient_in_another_memory_order_goes_where_it_belongs(device, xp, optimizer):
    """That of a transposed parameter is one; kernels that walk memory would mix its elements up."""
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    slope = np.arange(12, dtype=np.float32).reshape(4, 3) - 5.5

    def turned(model, batch):
        return xp_sum(xdev.namespace(batch).permute_dims(model["w"], (1, 0)) * batch)

    def straight(model, batch):
        return xp_sum(model["w"] * batch)

    found = []
    for loss_of, batch in ((turned, slope), (straight, slope.T.copy())):
        state = xdev.TrainState.create({"w": xp.asarray(weight)}, optimizer)
        step = xdev.make_step(loss_of, optimizer)
        for _ in range(3):
            state, _ = step(state, xp.asarray(batch))
        found.append(xdev.to_numpy(state.model["w"], copy=True))
    np.testing.assert_allclose(*found, rtol=1e-6)


def xp_sum(x):
    return xdev.namespace(x).sum(x)


# -- errors --------------------------------------------------------------------------------------------


def test_a_batch_elsewhere_is_told(device):
    other = xdev.device("numpy" if device.backend != "numpy" else "strict")
    optimizer = optim.sgd(0.1)
    state = xdev.TrainState.create(_model(device), optimizer)
    with pytest.raises(DeviceMismatchError) as caught:
        xdev.make_step(loss, optimizer)(state, _batch(other.xp))
    assert f"model.layers[0].weight is on {device}; batch[0] is on {other}" in str(caught.value)
    # what is on the host is to move to the device
    mend = f'model.layers[0].weight, "{other}"' if device.is_host else f'batch[0], "{device}"'
    assert f"xdev.to_device({mend})" in str(caught.value)


def test_nothing_to_train(xp):
    with pytest.raises(GradientError, match="the model has nothing to train"):
        xdev.TrainState.create({"n": xp.asarray(np.int32([1]))}, optim.sgd(0.1))
    with pytest.raises(ArrayTypeError, match="needs at least one array; model is an empty dict"):
        xdev.TrainState.create({}, optim.sgd(0.1))


def test_an_optimizer_that_is_none():
    with pytest.raises(ArrayTypeError, match="optimizer is a float; expected an object with init and update"):
        xdev.make_step(loss, 0.1)
    with pytest.raises(ArrayTypeError, match=r"optimizer is a function; .* It is a function: call it"):
        xdev.make_step(loss, optim.adamw)


def test_a_state_made_for_another_optimizer(xp, device):
    state = xdev.TrainState.create(_model(device), optim.adamw(0.1))
    with pytest.raises(TrainingError, match="the state was made for another optimizer"):
        xdev.make_step(loss, optim.sgd(0.1))(state, _batch(xp))
    xdev.make_step(loss, optim.adamw(0.2))(state, _batch(xp))  # another rate is no other optimizer


def test_metrics_that_are_no_arrays_follow_the_shape(xp, device):
    def f(model, batch):
        return loss(model, batch), {"rows": batch[0].shape[0]}

    optimizer = optim.sgd(0.1)
    state = xdev.TrainState.create(_model(device), optimizer)
    step = xdev.make_step(f, optimizer)
    for rows in (6, 5, 6):
        state, metrics = step(state, _batch(xp, rows))
        assert metrics["rows"] == rows


def test_what_a_loss_may_return(xp, device):
    optimizer = optim.sgd(0.1)
    state = xdev.TrainState.create({"w": xp.ones(2, dtype=xp.float32)}, optimizer)
    batch = xp.ones(2, dtype=xp.float32)
    total = lambda m: xdev.namespace(m["w"]).sum(m["w"])  # noqa: E731
    with pytest.raises(GradientError, match=r"a loss returns a scalar, \(scalar, metrics\)"):
        xdev.make_step(lambda m, b: (total(m), 3), optimizer)(state, batch)
    with pytest.raises(GradientError, match="metrics may not be named 'loss'"):
        xdev.make_step(lambda m, b: (total(m), {"loss": 3}), optimizer)(state, batch)
    with pytest.raises(GradientError, match="returned a model of another structure"):
        xdev.make_step(lambda m, b: (total(m), {}, {"v": m["w"]}), optimizer)(state, batch)


@pytest.mark.parametrize("make", [lambda: optim.adamw(0.1), lambda: optim.sgd(0.1, momentum=0.9)])
def test_parameters_in_any_memory_order_are_trained(make):
    """An in-place update of a flattened copy would leave them as they are."""
    optimizer = make()
    trained = []
    for order in ("C", "F"):
        w = np.ones((3, 4), np.float32, order=order)
        state = xdev.TrainState.create({"w": w, "t": np.ones((4, 3), np.float32).T}, optimizer)
        step = xdev.make_step(lambda m, b: ops.mse(m["w"] + m["t"], b), optimizer)
        state, _ = step(state, np.zeros((3, 4), np.float32))
        trained.append(state.model)
    assert (trained[0]["w"] < 1).all()
    assert (trained[0]["t"] < 1).all()
    assert_close(trained[1], trained[0], rtol=0, atol=0)


def test_a_copy_by_the_standard_library_is_a_copy(xp, device):
    optimizer = optim.adamw(0.1)
    state = xdev.TrainState.create(_model(device), optimizer)
    kept = [copy.copy(state), copy.deepcopy(state)]
    for each in (state, *kept):
        xdev.make_step(loss, optimizer)(each, _batch(xp))


def test_a_state_that_is_pickled_says_how_to_save_it():
    state = xdev.TrainState.create({"w": np.ones(2)}, optim.sgd(0.1))
    with pytest.raises(ArrayTypeError, match=r"cannot be pickled; save what it holds: xdev\.save"):
        pickle.dumps(state)


@pytest.mark.xdev_backends(only=["jax"], reason="strings are only refused where steps are compiled")
def test_a_name_in_a_batch_is_told_where_steps_are_compiled(device):
    optimizer = optim.sgd(0.1)
    state = xdev.TrainState.create({"w": device.xp.ones(2)}, optimizer)
    step = xdev.make_step(lambda m, b: ops.mse(m["w"], b["x"]), optimizer)
    with pytest.raises(ArrayTypeError, match=r"batch\['name'\] is 'a', and jax compiles the step"):
        step(state, {"x": device.xp.zeros(2), "name": "a"})


@pytest.mark.xdev_backends(only=["jax"], reason="optax works on JAX arrays alone")
def test_an_optimizer_that_knows_the_models_tree_is_told(device):
    optax = pytest.importorskip("optax")
    optimizer = optax.multi_transform({"a": optax.sgd(0.1)}, {"w": "a"})
    with pytest.raises(ArrayTypeError, match="given the list of the 1 arrays that are trained, not"):
        xdev.TrainState.create({"w": device.xp.ones(2)}, optimizer)


@pytest.mark.xdev_backends(only=["jax"], reason="the others have no weak types")
def test_parameters_of_weak_type_compile_once(xp):
    jnp = pytest.importorskip("jax.numpy")
    optimizer = optim.sgd(0.1)
    state = xdev.TrainState.create({"w": jnp.array(0.3)}, optimizer)
    step = xdev.make_step(lambda m, b: (m["w"] * b).sum(), optimizer)
    for _ in range(3):
        state, _ = step(state, xp.ones(2))
    assert step.compilations == 1
