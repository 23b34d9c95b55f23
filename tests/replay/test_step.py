"""Training steps that are replayed: the bits of the eager step, and the numbers of one by hand."""

from __future__ import annotations

import gc
import warnings
import weakref

import numpy as np
import pytest

import xdev
from xdev import nn, ops, optim
from xdev.errors import ReplayWarning
from xdev.replay.kept import PATIENCE

ns = xdev.namespace
OPTIMIZERS = {
    "sgd": lambda: optim.sgd(0.05),
    "nesterov": lambda: optim.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: optim.adam(1e-2),
    "adamw": lambda: optim.adamw(1e-2),
    "clipped": lambda: optim.chain(optim.clip_by_global_norm(0.1), optim.adamw(1e-2)),
    "scheduled": lambda: optim.sgd(optim.cosine_decay(0.1, 10)),
}


def weights(width=4, dtype="float32"):
    draw = np.random.default_rng(0)
    return {"a": draw.normal(size=(width, 3)).astype(dtype), "b": np.zeros(3, dtype)}


def batches(count=8, rows=6, width=4):
    draw = np.random.default_rng(1)
    return [draw.normal(size=(rows, width)).astype("float32") for _ in range(count)]


def squares(model, batch):
    return ns(model["a"]).mean((batch @ model["a"] + model["b"]) ** 2)


def bits(tree):
    return [(np.asarray(x).dtype.str, np.asarray(x).shape, np.asarray(x).tobytes()) for x in xdev.tree.leaves(tree)]


def train(loss, data, optimizer, model, eager=False, seed=None):
    """Return the parameters, other arrays, optimizer state and metrics after each step, and calls of the loss."""
    calls = []
    if seed is None:

        def counted(model, batch):
            calls.append(None)
            return loss(model, batch)
    else:

        def counted(model, batch, rng):
            calls.append(None)
            return loss(model, batch, rng)

    step = xdev.make_step(counted, optimizer)
    if eager:
        step._form = lambda *args: None
    state = xdev.TrainState.create(model, optimizer, **({} if seed is None else {"seed": seed}))
    found, kept = [], []
    for batch in data:
        state, metrics = step(state, batch)
        found.append((bits(state.params), bits(state.others), bits(state.opt_state), bits(metrics)))
        kept.append((metrics, bits(metrics)))
    assert eager == (not step._forms._found), "not what the test asks for"
    assert all(bits(metrics) == before for metrics, before in kept), "metrics were overwritten"
    return found, len(calls)


def check(loss, data, optimizer=None, model=None, calls=2, **options):
    """Compare the replayed step with the eager one, bit for bit."""
    data, model = list(data), weights() if model is None else model
    optimizer = optimizer or optim.adamw(1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ReplayWarning)
        found, count = train(loss, data, optimizer, model, **options)
    expected, _ = train(loss, data, optimizer, model, eager=True, **options)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours == theirs, f"step {number}"
    assert count == calls
    assert train(loss, data, optimizer, model, **options)[0] == found, "two runs differ"


@pytest.mark.parametrize("width", [4, 300])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizers(name, width):
    check(squares, batches(width=width), OPTIMIZERS[name](), weights(width))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_against_a_step_by_hand(name):
    optimizer, model, data = OPTIMIZERS[name](), weights(), batches()
    step = xdev.make_step(squares, optimizer)
    state = xdev.TrainState.create(model, optimizer)
    params, opt_state = [np.array(x) for x in state.params], optimizer.init([np.array(x) for x in state.params])
    for batch in data:
        state, metrics = step(state, batch)
        value, grads = xdev.value_and_grad(lambda p, batch=batch: squares({"a": p[0], "b": p[1]}, batch))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = [p + u for p, u in zip(params, updates, strict=True)]
        assert np.allclose(metrics["loss"], value, rtol=1e-5)
        assert all(np.allclose(x, y, rtol=1e-4, atol=1e-6) for x, y in zip(state.params, params, strict=True))


@pytest.mark.parametrize("kind", [np.asarray, np.int64])
def test_an_index_in_the_batch(kind):
    """The gradient of the recorded step is right too."""
    loss = lambda model, batch: ns(batch[0]).sum((batch[0] @ model["a"])[batch[1]] ** 2)  # noqa: E731
    check(loss, [(x, kind(n % 3)) for n, x in enumerate(batches())])


def test_embeddings_labels_and_attention():
    def loss(model, batch):
        x = ops.embedding(model["table"], batch[0])
        q = ops.layer_norm(x)[:, None, :, :]
        x = x + ops.attention(q, q, q, causal=True)[:, 0, :, :]
        logits = ops.gelu(x) @ model["table"].T
        return ops.cross_entropy(ns(x).reshape(logits, (-1, 11)), ns(x).reshape(batch[1], (-1,)))

    draw = np.random.default_rng(0)
    data = [tuple(draw.integers(0, 11, size=(2, 3, 5))) for _ in range(6)]
    check(loss, data, model={"table": draw.normal(size=(11, 8)).astype("float32")})


def test_dropout_draws_anew():
    loss = lambda model, batch, rng: squares(model, ops.dropout(batch, rate=0.5, rng=rng))  # noqa: E731
    check(loss, batches(1) * 6, seed=3)
    found, _ = train(loss, batches(1) * 6, optim.sgd(0.0), weights(), seed=3)
    assert len({repr(metrics) for *_, metrics in found}) == 6


def test_arrays_that_are_not_trained_and_metrics():
    def loss(model, batch):
        new = {**model, "n": model["n"] + 1, "mean": model["mean"] * 0.9 + 0.1 * ns(batch).mean(batch, axis=0)}
        metrics = {"old": model["mean"], "new": new["mean"], "param": model["a"], "part": model["a"][0], "batch": batch}
        return squares(model, batch - model["mean"]), {**metrics, "k": 1.5, "words": "text"}, new

    check(loss, batches(), model={**weights(), "n": np.asarray(0), "mean": np.zeros(4, "float32")})


def test_batch_norm():
    model = {"linear": nn.Linear(4, 5, rng=xdev.random.Generator(0, "numpy")), "norm": nn.BatchNorm(5, device="numpy")}

    def loss(model, batch):
        out, norm = model["norm"].update(model["linear"](batch))
        return ns(batch).mean((out - batch[:, :1]) ** 2), {}, {**model, "norm": norm}

    check(loss, batches(), model=model)


def test_ties_and_what_shares_memory():
    w = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    loss = lambda model, batch: ns(batch).mean((batch @ model["a"] @ model["b"]) ** 2)  # noqa: E731
    check(loss, batches(), model={"a": w, "b": w})
    check(loss, batches(), model={"a": w, "b": w[:]})


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "one buffer": None,
}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_batches(name):
    if name == "one buffer":
        whole = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
        check(squares, [whole[k : k + 6] for k in range(8)])
    else:
        check(squares, [LAYOUTS[name](x) for x in batches()])


def test_a_buffer_that_is_filled_again():
    class Filled:
        def __iter__(self):
            buffer = np.empty((6, 4), "float32")
            for x in batches():
                buffer[:] = x
                yield buffer

    expected, _ = train(squares, batches(), optim.adamw(1e-2), weights(), eager=True)
    assert train(squares, Filled(), optim.adamw(1e-2), weights())[0] == expected


def test_shapes_and_numbers_of_the_batch():
    rows = [6, 3, 6, 3, 6, 6, 1, 1, 1, 3]
    check(squares, [x[:n] for x, n in zip(batches(len(rows)), rows, strict=True)], calls=6)
    loss = lambda model, batch: squares(model, batch[0]) * batch[1]  # noqa: E731
    scales = [1, 1.0, 2.0, 1, 1, True, 2.0, 1.0]
    check(loss, list(zip(batches(), scales, strict=True)), calls=7)


def test_branches_run_eagerly_and_say_so_once():
    def loss(model, batch):
        value = squares(model, batch)
        return value if value > 2.0 else 2.0 * value

    expected, _ = train(loss, batches(), optim.adamw(1e-2), weights(), eager=True)
    with pytest.warns(ReplayWarning) as told:
        found, count = train(loss, batches(), optim.adamw(1e-2), weights())
    assert found == expected
    assert count == 8
    assert len(told) == 1
    assert "runs eagerly on numpy, without replaying the loss" in str(told[0].message)
    assert "bool() needs the value of an array. It is right, and takes longer" in str(told[0].message)


HIDDEN = {
    "format": lambda x: "-" in f"{x[0, 0]:.1f}",
    "slice": lambda x: x[ns(x).astype(x[0, 0] > 0, ns(x).int32) :].shape[0] == x.shape[0],
}


@pytest.mark.parametrize("name", sorted(HIDDEN))
@pytest.mark.filterwarnings("ignore::xdev.errors.ReplayWarning")
def test_hidden_branches_are_not_baked_in(name):
    loss = lambda model, batch: squares(model, batch) * (1.0 if HIDDEN[name](batch) else 2.0)  # noqa: E731
    x = abs(batches(1)[0])
    data = [x, x, x, -x, x]
    expected, _ = train(loss, data, optim.adamw(1e-2), weights(), eager=True)
    assert train(loss, data, optim.adamw(1e-2), weights())[0] == expected


def test_state_outside_is_found():
    def counting():
        count = []

        def loss(model, batch):
            count.append(None)
            return squares(model, batch) * len(count)

        return loss

    expected, _ = train(counting(), batches(), optim.sgd(0.01), weights(), eager=True)
    with pytest.warns(ReplayWarning, match="its results depend on more than its arguments"):
        found, _ = train(counting(), batches(), optim.sgd(0.01), weights())
    assert found == expected


def test_an_error_in_a_replay_leaves_the_state():
    loss = lambda model, batch: ops.cross_entropy(batch[0] @ model["a"], batch[1])  # noqa: E731
    optimizer = optim.adamw(1e-2)
    step, state = xdev.make_step(loss, optimizer), xdev.TrainState.create(weights(), optimizer)
    good = np.asarray([0, 1, 2, 0, 1, 2])
    for x in batches():
        state, _ = step(state, (x, good))
    before = bits(state.params), bits(state.opt_state)
    with pytest.raises(Exception, match="3"):
        step(state, (batches()[0], good + 1))
    assert (bits(state.params), bits(state.opt_state)) == before
    state, _ = step(state, (batches()[0], good))
    assert (bits(state.params), bits(state.opt_state)) != before


def test_numbers_from_outside_may_change_for_ever_if_each_is_used_for_a_while():
    scale = 0.0

    def loss(model, batch):
        return squares(model, batch) * scale

    optimizer = optim.sgd(0.0)
    step = xdev.make_step(loss, optimizer)
    state = xdev.TrainState.create(weights(), optimizer)
    batch = batches()[0]
    state, first = xdev.make_step(squares, optimizer)(state, batch)
    for k in range(2 * PATIENCE):  # a warning would be an error
        scale = float(k)
        for _ in range(3):
            state, metrics = step(state, batch)
            assert metrics["loss"] == first["loss"] * np.float32(scale)


def test_a_state_does_not_keep_the_step_that_made_it():
    optimizer = optim.sgd(0.1)
    step = xdev.make_step(squares, optimizer)
    state = xdev.TrainState.create(weights(), optimizer)
    batch = batches()[0]
    for _ in range(3):
        state, _ = step(state, batch)
    gone = weakref.ref(step)
    del step
    gc.collect()
    assert gone() is None
    other = xdev.make_step(squares, optimizer)
    state, _ = other(state, batch)


def test_buffers_that_take_over_from_copies_of_each_other():
    def loss(model, batch):
        copied = xdev.namespace(batch).asarray(model["now"], copy=True)
        again = xdev.namespace(batch).asarray(copied, copy=True)
        return squares(model, batch), {}, {**model, "now": model["now"] * 2, "old": again}

    model = {**weights(), "now": np.ones(3, np.int64), "old": np.zeros(3, np.int64)}
    expected, _ = train(loss, batches(), optim.adamw(1e-2), model, eager=True)
    assert train(loss, batches(), optim.adamw(1e-2), model)[0] == expected


@pytest.mark.parametrize("change", ["dtype", "shape"])
@pytest.mark.parametrize("optimizer", [optim.adamw(1e-2), optim.sgd(0.1)], ids=["adamw", "sgd"])
def test_a_step_is_taken_once_where_a_buffer_changes(change, optimizer):
    def loss(model, batch):
        xp, n = xdev.namespace(batch), model["n"]
        new = xp.astype(n, xp.int32) if change == "dtype" else xp.concat([n, n])
        return squares(model, batch), {}, {**model, "n": new}

    model = {**weights(), "n": np.arange(2)}
    expected, _ = train(loss, batches(4), optimizer, model, eager=True)
    assert train(loss, batches(4), optimizer, model)[0] == expected


@pytest.mark.parametrize("at", [0, 3])
def test_arrays_of_the_state_may_be_replaced(at):
    found = []
    for eager in (True, False):
        optimizer = optim.adamw(1e-2)
        step = xdev.make_step(squares, optimizer)
        if eager:
            step._form = lambda *args: None
        state = xdev.TrainState.create(weights(), optimizer)
        for k, batch in enumerate(batches()):
            if k == at:
                state.params[0] = np.ones_like(state.params[0])
            state, metrics = step(state, batch)
        found.append((bits(state.params), bits(metrics)))
    assert found[0] == found[1]


@pytest.mark.parametrize("first", ["float32", "complex64", "float16"])
@pytest.mark.parametrize("second", ["float32", "complex64"])
def test_one_step_serves_states_of_several_dtypes(first, second):
    def loss(model, batch):
        xp = xdev.namespace(model["a"])
        return xp.sum(xp.astype(xp.abs(model["a"]) ** 2, xp.float32)) * batch

    found = []
    for dtypes in ((first, second), (second,)):
        optimizer = optim.sgd(0.1)
        step = xdev.make_step(loss, optimizer)
        for dtype in dtypes:
            state = xdev.TrainState.create(
                {"a": np.asarray([1.0, -2.0], dtype) * (1 if "f" in dtype[:1] else 1 + 1j)}, optimizer
            )
            for _ in range(3):
                state, _ = step(state, np.float32(0.5))
        found.append(bits(state.params))
    assert found[0] == found[1]
