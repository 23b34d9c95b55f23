"""`fit`, `evaluate` and `predict`."""

import functools
import gc
import logging
import weakref

import numpy as np
import pytest

import xdev
from xdev import nn, ops, optim
from xdev.errors import ArrayTypeError, ConfigurationError, DataError, DeviceMismatchError, NonFiniteLossError
from xdev.testing import assert_close

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64") + (X[:, 1] > 0)


def loss(model, batch):
    return ops.cross_entropy(model(batch[0]), batch[1])


def _model(where, seed=0):
    return nn.MLP([4, 16, 3], rng=xdev.random.Generator(seed, where))


def _fit(device, **kwargs):
    options = {"optimizer": optim.adamw(0.02), "epochs": 5, "batch_size": 16, "device": device} | kwargs
    return xdev.fit(_model("numpy"), loss, (X, Y), **options)


def test_fit_learns_and_reports(device):
    model = _model("numpy")
    before = xdev.to_numpy(model, copy=True)
    result = xdev.fit(
        model, loss, (X, Y), optimizer=optim.adamw(0.02), epochs=30, batch_size=16, device=device,
        validation=(X, Y),
    )  # fmt: skip
    assert_close(model, before, rtol=0, atol=0)
    assert xdev.device_of(result.model) == device
    assert len(result.history) == 30
    assert len(result.losses) == 90
    assert result.history[-1]["loss"] < 0.3 * result.history[0]["loss"]
    assert {"epoch", "step", "loss", "val_loss"} == set(result.history[-1])
    assert result.history[-1]["step"] == result.state.step == 90
    assert set(result.timing.four_steps()) == {"initialise", "move", "train", "bring_back"}
    assert result.timing.first_step_count == 2  # batches of 16 and a last one of 8
    labels = xdev.predict(result.model, X, batch_size=7).argmax(1)
    assert (labels == Y).mean() > 0.9


def test_fit_gives_the_same_losses_on_every_backend(device):
    here, reference = _fit(device), _fit("numpy")
    np.testing.assert_allclose(here.losses, reference.losses, rtol=1e-4)


def test_fit_is_bit_identical_a_second_time(device):
    first, second = _fit(device), _fit(device)
    assert first.losses == second.losses
    assert_close(first.model, xdev.to_numpy(second.model), rtol=0, atol=0)


def test_fit_accounts_for_what_crosses(device):
    result = _fit(device, shuffle=False)
    data = X.nbytes + Y.size * (8 if device.backend.holds("int64", device.info) else 4)
    params = (4 * 16 + 16 + 16 * 3 + 3) * 4
    rows = 5 * 40 * 4
    assert result.transfers.to_device_bytes == (0 if device.is_host else data + params + rows)
    assert result.transfers.to_host_bytes == (0 if device.is_host else 15 * 4)


def test_the_loop_waits_only_at_the_end_of_an_interval(device):
    result = _fit(device, epochs=6, log_every=9)
    assert [record["step"] for record in result.history] == [9, 18]
    if not device.is_host:
        assert result.transfers.to_host_count == 2


def test_casts_are_said_once(device, caplog):
    with caplog.at_level(logging.INFO, logger="xdev"):
        result = xdev.fit(
            _model(device), loss, (X.astype("float64"), Y), optimizer=optim.sgd(0.1), epochs=2, device=device
        )
    assert "data[0]: float64 cast to float32" in result.notes
    assert caplog.messages.count("data[0]: float64 cast to float32") == 1


def test_a_loader_and_a_callback(device):
    seen = []

    def stop_after_two(record, state):
        seen.append((record["epoch"], state.step))
        return len(seen) == 2

    loader = xdev.data.Loader((X, Y), batch_size=20, shuffle=True, device=device)
    result = xdev.fit(_model(device), loss, loader, optimizer=optim.sgd(0.1), epochs=9, callbacks=[stop_after_two])
    assert seen == [(1, 2), (2, 4)]
    assert result.state.step == 4


class Rows:
    """A loader of another kind: batches as tuples of arrays and lists."""

    def __iter__(self):
        for start in range(0, 40, 20):
            yield X[start : start + 20].astype("float64"), Y[start : start + 20].tolist()


def test_any_iterable_of_batches(device):
    result = xdev.fit(_model(device), loss, Rows(), optimizer=optim.adamw(0.02), epochs=20, device=device)
    assert result.state.step == 40
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    assert "data[0]: float64 cast to float32" in result.notes
    once = xdev.fit(_model(device), loss, iter(Rows()), optimizer=optim.sgd(0.1), device=device)
    assert once.state.step == 2


def test_an_iterator_is_good_for_one_epoch():
    with pytest.raises(DataError, match="data is a generator, which can be walked through once, but epochs=2"):
        xdev.fit(_model("numpy"), loss, iter(Rows()), optimizer=optim.sgd(0.1), epochs=2)


@pytest.mark.xdev_backends(only=["torch"], reason="torch's own loader yields torch tensors")
def test_a_torch_loader_feeds_every_device():
    import torch

    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    loader = torch.utils.data.DataLoader(data, batch_size=20)
    for device in ("torch", "numpy"):
        result = xdev.fit(_model(device), loss, loader, optimizer=optim.sgd(0.1), epochs=2, device=device)
        assert result.state.step == 4


def test_validation_and_prediction_may_be_smaller_than_a_batch(device):
    result = _fit(device, validation=(X[:7], Y[:7]))
    assert "val_loss" in result.history[-1]
    assert xdev.predict(result.model, X[:7], batch_size=16).shape == (7, 3)


def test_the_results_model_outlives_its_state(device):
    result = _fit(device)
    before = xdev.to_numpy(result.model, copy=True)
    step = xdev.make_step(loss, optim.adamw(0.02))
    batch = next(iter(xdev.data.Loader((X, Y), device=device)))
    state = result.state
    for _ in range(2):
        state, _ = step(state, batch)
    assert_close(result.model, before, rtol=0, atol=0)


def test_training_goes_on_from_the_result(device):
    result = _fit(device)
    again = xdev.fit(result.model, loss, (X, Y), optimizer=optim.adamw(0.02), epochs=5, device=device)
    assert again.history[-1]["loss"] < result.history[-1]["loss"]


def test_evaluate_weights_batches_by_their_rows(device):
    model = _model(device)

    def with_accuracy(model, batch):
        xp = xdev.namespace(batch[0])
        logits = model(batch[0])
        hit = xp.astype(xp.argmax(logits, axis=-1) == xp.astype(batch[1], xp.argmax(logits, axis=-1).dtype), xp.float32)
        return ops.cross_entropy(logits, batch[1]), {"accuracy": xp.mean(hit)}

    whole = xdev.evaluate(model, with_accuracy, (X, Y))
    parts = xdev.evaluate(model, with_accuracy, (X, Y), batch_size=7)
    assert whole.keys() == {"loss", "accuracy"}
    np.testing.assert_allclose([*whole.values()], [*parts.values()], rtol=1e-5)


def test_predict_brings_trees_back(device):
    out = xdev.predict(lambda x: {"double": x + x}, X, batch_size=9, device=device)
    assert isinstance(out["double"], np.ndarray)
    np.testing.assert_array_equal(out["double"], 2 * X)


# -- what goes wrong -----------------------------------------------------------------------------------


def _poisoned(device):
    """Data whose loss is infinite in the second epoch's intervals: the learning rate explodes."""
    x = np.float32([[1.0, 2.0], [3.0, 4.0]])

    def f(model, batch):
        xp = xdev.namespace(batch)
        return xp.mean(xp.exp((model["w"] * batch) ** 2))

    return f, {"w": device.xp.ones(2, dtype=device.xp.float32)}, x


def uphill():
    """An optimizer that makes the loss explode after some steps."""
    return optim.chain(optim.sgd(1e-3), optim.scale(-1.0))


def test_nan_is_seen_at_the_next_interval_and_names_the_step(device):
    f, model, x = _poisoned(device)
    optimizer = uphill()
    with pytest.raises(NonFiniteLossError) as caught:
        xdev.fit(model, f, x, optimizer=optimizer, epochs=40, log_every=2, device=device)
    error = caught.value
    assert error.result.history[-1]["step"] % 2 == 0
    first_bad = next(i for i, value in enumerate(error.result.losses) if not np.isfinite(value)) + 1
    assert f"at step {first_bad} " in str(error)
    assert "Lower the learning rate" in str(error)
    assert np.isfinite(xdev.to_numpy(error.result.model["w"])).all()
    assert error.result.state.step < first_bad


def test_nan_can_stop_or_go_on(device):
    f, model, x = _poisoned(device)
    options = {"optimizer": uphill(), "epochs": 40, "log_every": 2, "device": device}
    stopped = xdev.fit(model, f, x, on_nonfinite="stop", **options)
    went_on = xdev.fit(model, f, x, on_nonfinite="continue", **options)
    assert np.isfinite(xdev.to_numpy(stopped.model["w"])).all()
    assert stopped.state.step < 40
    assert went_on.state.step == 40
    with pytest.raises(ConfigurationError, match="on_nonfinite must be one of raise, stop, continue; got 'ignore'"):
        xdev.fit(model, f, x, on_nonfinite="ignore", **options)


def test_a_run_that_goes_on_keeps_no_copies(monkeypatch):
    copies = []
    copy = xdev.TrainState.copy

    def counted(state):
        copies.append(state.step)
        return copy(state)

    monkeypatch.setattr(xdev.TrainState, "copy", counted)
    _fit("numpy", epochs=2)
    assert copies == [0, 3, 6, 6]  # the first state, one after each interval, and the result's model
    copies.clear()
    _fit("numpy", epochs=2, on_nonfinite="continue")
    assert copies == [6]


@pytest.mark.parametrize("bad", [3, -1])
def test_labels_out_of_range_are_named(device, bad):
    y = Y.copy()
    y[5] = bad
    with pytest.raises(DataError, match=rf"labels must be in \[0, 3\), got {bad}"):
        xdev.fit(_model(device), loss, (X, y), optimizer=optim.sgd(0.1), epochs=1, batch_size=16, device=device)


def test_batch_size_over_the_data(device):
    with pytest.raises(DataError, match="batch_size=41 is more than the 40 rows"):
        _fit(device, batch_size=41)


def test_bad_counts(device):
    with pytest.raises(ConfigurationError, match="epochs must be a positive integer, got 0"):
        _fit(device, epochs=0)
    with pytest.raises(ConfigurationError, match="log_every must be a positive integer or None, got 0"):
        _fit(device, log_every=0)


@pytest.mark.xdev_backends(
    only=["cupy", "strict"], reason="torch has one CPU device, NumPy one at all, and JAX copies captured arrays"
)
def test_an_array_captured_from_another_device_is_told(device):
    stray = xdev.to_device(X[:, :1], {"strict": "strict:device2", "cupy": "cupy:cuda:0"}[device.backend])

    def f(model, batch):
        return loss(model, (batch[0] + stray, batch[1]))

    with pytest.raises(
        DeviceMismatchError, match=r"stray, which f takes from outside, is on .* stray = xdev\.to_device\(stray, "
    ):
        xdev.fit(_model(device), f, (X, Y), optimizer=optim.sgd(0.1), device=device)


def test_predict_needs_something_to_call():
    with pytest.raises(ArrayTypeError, match=r"predict calls model\(batch\), and a dict cannot be called"):
        xdev.predict({"w": np.ones(2)}, X)


def test_evaluate_takes_no_random_loss(device):
    with pytest.raises(DataError, match="this one wants a generator as well"):
        xdev.evaluate(_model(device), lambda m, b, rng: 0.0, (X, Y))


# -- what runs over data afterwards ---------------------------------------------------------------------------


def test_what_a_function_takes_from_outside_is_read_in_each_run(device):
    params = {"w": device.xp.ones((2,), dtype=device.xp.float32)}
    x = np.ones((4, 2), np.float32)
    forward = lambda batch: batch @ params["w"]  # noqa: E731
    measure = lambda model, batch: xdev.namespace(model).sum(model) * factor[0]  # noqa: E731
    factor = [1.0]
    with device.scope():
        before = xdev.predict(forward, x, device=device), xdev.evaluate(params["w"], measure, x)
        factor[0] = 10.0
        params["w"] = params["w"] * 10
        after = xdev.predict(forward, x, device=device), xdev.evaluate(params["w"] / 10, measure, x)
    assert before[0].tolist() == [2.0] * 4
    assert after[0].tolist() == [20.0] * 4
    assert before[1]["loss"] == 2.0
    assert after[1]["loss"] == pytest.approx(20.0)


def test_nothing_that_was_evaluated_is_kept(device):
    class Table:
        def __init__(self):
            self.rows = device.xp.ones((2,), dtype=device.xp.float32)

    table = Table()
    kept = weakref.ref(table)
    xdev.evaluate(table.rows, lambda m, b, table=table: xdev.ops.mse(m, table.rows), np.ones((4, 2), np.float32))
    del table
    gc.collect()
    assert kept() is None


def test_labels_out_of_range_in_validation_are_told(device):
    with pytest.raises(DataError, match=r"labels must be in \[0, 3\)"):
        _fit(device, validation=(X, Y + 9))


@pytest.mark.parametrize("place", ["data", "validation"])
def test_labels_out_of_range_are_named_where_the_loss_draws(device, place):
    """A device that cannot check them gives NaN; what was trained so far is kept."""
    x, good = np.ones((12, 4), np.float32), np.asarray([0, 1, 2] * 4)
    bad = np.asarray([0, 1, 5] * 4)

    def loss(model, batch, rng=None):
        hidden = batch[0] if rng is None else ops.dropout(batch[0], rate=0.1, rng=rng)
        return ops.cross_entropy(model(hidden), batch[1])

    model = nn.MLP([4, 8, 3], rng=xdev.random.Generator(0, device))
    given = {"data": (x, good), "validation": (x, good)} | {place: (x, bad)}
    data = given.pop("data")
    with pytest.raises(DataError, match=r"labels must be in \[0, 3\), got 5") as caught:
        xdev.fit(model, loss, data, optimizer=optim.sgd(0.1), batch_size=4, shuffle=False, **given)
    assert caught.value.result.model.layers[0].weight.shape == (4, 8)
    with pytest.raises(DataError, match=r"labels must be in \[0, 3\), got 5"):
        xdev.evaluate(model, loss, (x, bad))


@pytest.mark.xdev_backends(only=["jax"], reason="the others compile nothing")
def test_predict_compiles_a_model_of_xdevs_layers_once(device):
    import jax.monitoring

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *args, **kwargs: compiled.append(name) if "backend_compile" in name else None
    )
    model = nn.MLP([4, 7, 2], rng=xdev.random.Generator(0, device))
    x = np.ones((6, 4), np.float32)
    first = xdev.predict(model, x)
    compiled.clear()
    assert_close(xdev.predict(model, x), first, rtol=0, atol=0)
    assert compiled == []
    jax.monitoring.clear_event_listeners()


@pytest.mark.xdev_backends(only=["jax"], reason="the others compile nothing")
def test_predict_sees_what_a_function_in_the_model_takes_from_outside(device):
    scale = [2.0]
    model = nn.Sequential([nn.Linear(2, 2, rng=xdev.random.Generator(0, device)), lambda x: x * scale[0]])
    x = np.ones((3, 2), np.float32)
    first = xdev.predict(model, x)
    scale[0] = 4.0
    assert_close(xdev.predict(model, x), first * 2.0)


@pytest.mark.xdev_backends(only=["jax"], reason="the others compile nothing")
def test_predict_sees_arrays_in_functions_that_look_like_xdevs(device):
    rng = xdev.random.Generator(0, device)
    inner = nn.Linear(2, 2, rng=rng)
    factor = [2.0]

    @functools.wraps(ops.relu)
    def mine(x):
        return x * factor[0]

    for model in (nn.Sequential([nn.Linear(2, 2, rng=rng), xdev.remat(inner)]), nn.Sequential([inner, mine])):
        x = np.ones((3, 2), np.float32)
        xdev.predict(model, x)
        factor[0] += 1.0
        inner.bias = inner.bias + 1.0
        assert_close(xdev.predict(model, x), xdev.to_numpy(model(xdev.to_device(x, device))))


def test_a_budget_does_not_hide_a_loss_that_is_nan(device):
    model = {"w": xdev.to_device(np.ones(100, np.float32), device, copy=True)}

    def loss(model, batch):
        xp = xdev.namespace(model["w"])
        return xp.sum(model["w"]) * float("nan")

    with xdev.budget(to_host=50):
        assert np.isnan(xdev.evaluate(model, loss, np.ones((4, 1), np.float32))["loss"])
