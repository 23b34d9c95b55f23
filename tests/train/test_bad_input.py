"""What `fit`, `evaluate` and `predict` refuse, before they start or after the first step."""

import re

import numpy as np
import pytest

import xdev
from xdev import nn, ops, optim
from xdev.data import Loader
from xdev.errors import ArrayTypeError, ConfigurationError, DataError, GradientError

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")


def loss(model, batch):
    return ops.mse(model(batch[0]), batch[1])


def _model(where="numpy"):
    return nn.Linear(4, 1, rng=xdev.random.Generator(0, where))


def _fit(loss=loss, data=(X, Y), where="numpy", **options):
    options = {"optimizer": optim.sgd(0.1), "epochs": 2, "batch_size": 20} | options
    return xdev.fit(_model(where), loss, data, **options)


def told(error, text):
    return pytest.raises(error, match=re.escape(text))


# -- options -------------------------------------------------------------------------------------------

BAD_OPTIONS = {
    "epochs": ({"epochs": 1.5}, "epochs must be a positive integer, got 1.5"),
    "epochs-bool": ({"epochs": True}, "epochs must be a positive integer, got True"),
    "log_every": ({"log_every": True}, "log_every must be a positive integer or None, got True"),
    "on_nonfinite": ({"on_nonfinite": None}, "on_nonfinite must be one of raise, stop, continue; got None"),
    "seed-text": ({"seed": "x"}, "seed must be an integer from 0 to 2**64 - 1, got 'x'"),
    "seed-float": ({"seed": 1.5}, "seed must be an integer from 0 to 2**64 - 1, got 1.5"),
    "seed-none": ({"seed": None}, "seed must be an integer from 0 to 2**64 - 1, got None"),
    "seed-negative": ({"seed": -1}, "seed must be an integer from 0 to 2**64 - 1, got -1"),
    "shuffle": ({"shuffle": "no"}, "shuffle must be True or False, got 'no'"),
}

BAD_CALLBACKS = {
    "function": (print, "callbacks must be a list of functions, got a builtin_function_or_method; put it in a list"),
    "none": (None, "callbacks must be a list of functions, got a NoneType; leave it out for none"),
    "number in it": ([print, 3], "callbacks[1] is an int; expected a function of (record, state)"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_told(name):
    options, text = BAD_OPTIONS[name]
    with told(ConfigurationError, text):
        _fit(**options)


@pytest.mark.parametrize("name", BAD_CALLBACKS)
def test_callbacks_are_functions_in_a_list(name):
    callbacks, text = BAD_CALLBACKS[name]
    with told(ArrayTypeError, text):
        _fit(callbacks=callbacks)


def test_a_generator_of_callbacks_is_good_for_every_interval():
    seen = []
    _fit(callbacks=(f for f in [lambda record, state: seen.append(record["epoch"])]))
    assert seen == [1, 2]


def test_integers_may_be_numpys():
    result = _fit(epochs=np.int64(2), log_every=np.int32(1), seed=np.uint64(3), shuffle=np.bool_(False))
    assert len(result.history) == 4


# -- data ----------------------------------------------------------------------------------------------

OWN_SIZE = "got batch_size=20 with a Loader, which has its own batch size, 10: leave batch_size out"


def test_a_loader_has_its_own_batch_size():
    loader = Loader((X, Y), batch_size=10)
    with told(DataError, f"fit {OWN_SIZE}"):
        _fit(data=loader)
    with told(DataError, f"evaluate {OWN_SIZE}"):
        xdev.evaluate(_model(), loss, loader, batch_size=20)
    with told(DataError, f"predict {OWN_SIZE}"):
        xdev.predict(_model(), Loader(X, batch_size=10), batch_size=20)
    assert _fit(data=loader, batch_size=None, seed=3).state.step == 8


def test_other_iterables_have_batches_of_their_own_size():
    with told(DataError, "data is a list_iterator, which yields batches of its own size, but batch_size=20: leave "):
        _fit(data=iter([(X, Y)]), epochs=1)


@pytest.mark.parametrize("size", [0, 2.5, "x"])
def test_a_batch_size_is_a_positive_integer(size):
    for run in (
        lambda: _fit(batch_size=size),
        lambda: xdev.evaluate(_model(), loss, (X, Y), batch_size=size),
        lambda: xdev.predict(_model(), X, batch_size=size),
    ):
        with told(DataError, f"batch_size must be a positive integer, got {size!r}"):
            run()


def test_validation_comes_in_the_batches_of_the_data_or_of_a_loader(device):
    sizes = []

    def seen(model, batch):
        sizes.append(batch[0].shape[0])
        return loss(model, batch)

    loader = Loader((X, Y), batch_size=8, device=device)
    for options in ({"validation": loader}, {"data": loader, "batch_size": None, "validation": (X, Y)}):
        sizes.clear()
        result = _fit(seen, where=device, epochs=1, **options)
        assert "val_loss" in result.history[0]
        assert sizes[-1] == 8


def test_bad_validation_is_told_before_training():
    steps = []

    def counted(model, batch):
        steps.append(1)
        return loss(model, batch)

    with told(DataError, "in validation, leading axes disagree: data[0] has length 40, data[1] has 3"):
        _fit(counted, validation=(X, Y[:3]))
    with told(
        DataError, "validation takes loss(model, batch); this one wants a generator as well: give that parameter"
    ):
        _fit(lambda model, batch, rng: counted(model, batch), validation=(X, Y))
    assert not steps


# -- the loss ------------------------------------------------------------------------------------------

EXPECTED = (
    "; expected loss(model, batch), or loss(model, batch, rng) for random numbers. Take the batch apart inside it"
)

BAD_LOSSES = {
    "one argument": (lambda model: 0.0, "loss is <lambda>(model)"),
    "four": (lambda model, x, y, weights: 0.0, "loss is <lambda>(model, x, y, weights)"),
    "keyword": (lambda model, batch, *, rate: 0.0, "loss is <lambda>(model, batch, *, rate)"),
}


@pytest.mark.parametrize("bad", [3, "mse", (X, Y)])
def test_a_loss_is_a_function(bad):
    text = f"loss is a{'n' * (bad == 3)} {type(bad).__name__}; expected a function, loss(model, batch) or loss(model, "
    for run in (lambda: _fit(bad), lambda: xdev.evaluate(_model(), bad, (X, Y))):
        with told(ArrayTypeError, text):
            run()


@pytest.mark.parametrize("name", BAD_LOSSES)
def test_a_loss_takes_a_model_and_a_batch(name):
    bad, text = BAD_LOSSES[name]
    for run in (lambda: _fit(bad), lambda: xdev.evaluate(_model(), bad, (X, Y))):
        with told(GradientError, text + EXPECTED):
            run()


def test_a_loss_may_have_more_parameters_with_defaults():
    assert _fit(lambda model, batch, *rest, rate=1.0: rate * loss(model, batch)).state.step == 4


def test_a_loss_with_an_optional_generator_is_evaluated_without(device):
    def noisy(model, batch, rng=None):
        value = loss(model, batch)
        return value if rng is None else value + 1.0

    result = _fit(noisy, where=device, epochs=1, validation=(X, Y))
    record = result.history[0]
    assert record["loss"] > 1
    assert record["val_loss"] == pytest.approx(xdev.evaluate(result.model, loss, (X, Y))["loss"], rel=1e-5)


# -- metrics -------------------------------------------------------------------------------------------


def _with(metrics):
    return lambda model, batch: (loss(model, batch), metrics(batch))


def _sums(batch):
    return {"sums": xdev.namespace(batch[0]).sum(batch[0], axis=0)}


def _complex(batch):
    xp = xdev.namespace(batch[0])
    return {"phase": xp.astype(xp.sum(batch[0]), xp.complex64)}


BAD_METRICS = {
    "text": (lambda batch: {"note": "x"}, "the metric 'note' is a str, expected a real number or an array of shape ()"),
    "none": (lambda batch: {"note": None}, "the metric 'note' is a NoneType, expected a real number"),
    "dict": (lambda batch: {"all": {"a": 1.0}}, "the metric 'all' is a dict, expected a real number"),
    "complex": (lambda batch: {"phase": 1j}, "the metric 'phase' is a complex, expected a real number"),
    "vector": (
        _sums,
        "the metric 'sums' is an array of shape (4,), expected a real number or an array of shape (); take",
    ),
    "complex array": (_complex, "the metric 'phase' is of dtype complex64, expected a real number"),
}


@pytest.mark.parametrize("name", BAD_METRICS)
def test_metrics_are_single_numbers(name, device):
    metrics, text = BAD_METRICS[name]
    bad, steps = _with(metrics), []

    def counted(model, batch):
        steps.append(1)
        return bad(model, batch)

    with told(GradientError, text):
        _fit(counted, where=device)
    assert len(steps) == 1  # told after the first step
    with told(GradientError, text):
        xdev.evaluate(_model(device), bad, (X, Y), device=device)


def test_metrics_may_be_numbers(device):
    result = _fit(_with(lambda batch: {"a": 1, "b": True, "c": np.float32(0.5)}), where=device)
    assert result.history[-1]["c"] == 0.5


@pytest.mark.parametrize("name", ["epoch", "step"])
def test_metrics_leave_the_historys_own_names_alone(name):
    text = f"metrics may not be named '{name}': history has the {name}'s number there; rename it"
    with told(GradientError, text):
        _fit(_with(lambda batch: {name: 1.0}))


def test_the_name_of_a_metric_is_a_string():
    with told(GradientError, "the name of a metric must be a string, got 3"):
        _fit(_with(lambda batch: {3: 1.0}))


eager = pytest.mark.xdev_backends(
    exclude=["jax", "numpy", "cupy"], reason="a loss that is compiled or replayed is run once or twice for each shape"
)


def _changing(*returned):
    left = iter(returned)
    return _with(lambda batch: next(left))


@eager
def test_metrics_keep_their_names(device):
    text = "the loss returned the metrics {} in {}, and at first a; return the same names each time, with NaN where"
    with told(GradientError, text.format("a, b", "step 2")):
        _fit(_changing({"a": 1.0}, {"a": 1.0, "b": 2.0}), where=device)
    with told(GradientError, text.format("none", "step 3")):
        _fit(_changing({"a": 1.0}, {"a": 1.0}, {}, {}), where=device)
    with told(GradientError, text.format("b", "batch 2")):
        xdev.evaluate(_model(device), _changing({"a": 1.0}, {"b": 1.0}), (X, Y), batch_size=20, device=device)


@eager
def test_metrics_that_become_something_else_are_told(device):
    xp = device.xp
    one = xp.asarray(np.float32(1.0))
    for bad, text in [
        ("x", "the metric 'a' is a str, expected"),
        (xp.asarray(np.ones(3, "float32")), "the metric 'a' is an array of shape (3,), expected"),
    ]:
        with told(GradientError, text):
            _fit(_changing({"a": one}, {"a": bad}), where=device)
        with told(GradientError, text):
            evaluated = _changing({"a": one}, {"a": bad})
            xdev.evaluate(_model(device), evaluated, (X, Y), batch_size=20, device=device)


@eager
def test_a_metric_may_be_an_array_here_and_a_number_there(device):
    one = device.xp.asarray(np.float32(1.0))
    result = _fit(_changing({"a": one}, {"a": 2.0}), where=device, epochs=1)
    assert result.history[0]["a"] == 1.5


def test_evaluate_takes_a_mean(device):
    with told(
        GradientError, "the loss is an array of shape (40, 1), expected a real number or an array of shape (); take"
    ):
        xdev.evaluate(_model(device), lambda model, batch: model(batch[0]), (X, Y))


# -- results -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "shape"), [(None, ()), (0, (4,))])
def test_predict_joins_along_the_leading_axis(device, axis, shape):
    text = (
        f"the model returned an array of shape {shape} for a batch of 10 rows; predict joins results along the leading"
    )
    with told(DataError, text):
        xdev.predict(lambda x: xdev.namespace(x).mean(x, axis=axis), X, batch_size=10, device=device)
