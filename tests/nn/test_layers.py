"""Layers: the same numbers on every backend, against oracles in NumPy; and what they say of wrong input."""

import inspect
import re

import numpy as np
import pytest

import xdev
from xdev import nn, ops
from xdev.errors import ArrayTypeError, ConfigurationError, DataError, DTypeError
from xdev.random import Generator
from xdev.testing import assert_close

X = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normal(x, centred):
    x = x - x.mean(-1, keepdims=True) if centred else x
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def mlp(m, x):
    first, second = m.layers
    return np.maximum(x @ first.weight + first.bias, 0) @ second.weight + second.bias


# For each layer: how to make it, how to call it, and what it computes, given the layer on NumPy.
LAYERS = {
    "Linear": (lambda rng: nn.Linear(4, 3, rng=rng), X, lambda m, x: x @ m.weight + m.bias),
    "Embedding": (
        lambda rng: nn.Embedding(6, 3, rng=rng),
        np.asarray([[1, 5], [0, 1]], "int32"),
        lambda m, x: m.weight[x],
    ),
    "LayerNorm": (lambda rng: nn.LayerNorm(4, rng=rng), X, lambda m, x: normal(x, True) * m.weight + m.bias),
    "RMSNorm": (lambda rng: nn.RMSNorm(4, rng=rng), X, lambda m, x: normal(x, False) * m.weight),
    "Dropout": (lambda rng: nn.Dropout(0.5), X, lambda m, x: x),
    "Sequential": (
        lambda rng: nn.Sequential([nn.Linear(4, 3, rng=rng, bias=False), ops.sigmoid]),
        X,
        lambda m, x: sigmoid(x @ m.layers[0].weight),
    ),
    "MLP": (lambda rng: nn.MLP([4, 8, 2], rng=rng), X, mlp),
    "BatchNorm": (lambda rng: nn.BatchNorm(4, rng=rng), X, lambda m, x: x / np.sqrt(1 + 1e-5)),
}


def test_every_layer_has_a_case():
    layers = {n for n in nn.__all__ if inspect.isclass(getattr(nn, n)) and n != "Module"}
    assert layers == LAYERS.keys()


@pytest.mark.parametrize("name", LAYERS)
def test_values(name, device):
    make, x, oracle = LAYERS[name]
    layer, host = make(Generator(1, device)), make(Generator(1, "numpy"))
    assert xdev.tree.structure(layer) == xdev.tree.structure(host)
    for leaf, expected in zip(xdev.tree.leaves(layer), xdev.tree.leaves(host), strict=True):
        assert xdev.device_of(leaf) == device
        assert_close(leaf, expected, rtol=1e-6)
    assert_close(layer(xdev.asarray(x, device=device)), oracle(host, x).astype("float32"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("Dropout", "Embedding")])
def test_gradients_reach_all_parameters(name, device):
    make, x, _ = LAYERS[name]
    layer, x = make(Generator(1, device)), xdev.asarray(x, device=device)

    def loss(m):
        xp = xdev.namespace(m(x))
        return xp.sum(xp.square(m(x) - 1.0))

    gradient = xdev.grad(loss)(layer)
    assert xdev.tree.structure(gradient) == xdev.tree.structure(layer)
    mask = nn.trainable_mask(layer)
    for g, trainable in zip(xdev.tree.leaves(gradient), mask, strict=True):
        assert bool(xdev.to_numpy(g).any()) == trainable


def test_initial_weights_are_those_of_torch():
    layer = nn.Linear(10_000, 20, rng=Generator(0, "numpy"))
    for x in (layer.weight, layer.bias):
        assert -0.01 <= x.min() < -0.008
        assert 0.008 < x.max() <= 0.01


def test_options(device):
    rng = Generator(0, device)
    assert nn.Linear(2, 3, rng=rng, bias=False).bias is None
    assert nn.LayerNorm(3, device=device, bias=False).bias is None
    assert xdev.device_of(nn.LayerNorm(3, device=device)) == device
    assert all(layer.bias is None for layer in nn.MLP([2, 3, 4], rng=rng, bias=False).layers)
    assert nn.MLP([2, 3], rng=rng, activation=ops.silu).activation is ops.silu
    if device.backend.holds("float64", device.info):
        layers = [nn.Linear(2, 3, rng=rng, dtype="float64"), nn.LayerNorm(3, rng=rng, dtype="float64")]
        with xdev.precision("float64"):
            layers += [nn.Embedding(2, 3, rng=rng), nn.RMSNorm(3, rng=rng), nn.BatchNorm(3, rng=rng)]
        assert {str(x.dtype).rpartition(".")[2] for x in xdev.tree.leaves(layers)} == {"float64"}


def test_wrong_input_is_told_with_the_layers_name(device):
    rng, x = Generator(0, device), xdev.asarray(X, device=device)
    for layer, text in [
        (nn.Linear(64, 2, rng=rng), "Linear expects (..., 64), got (5, 4)"),
        (nn.MLP([64, 2], rng=rng), "Linear expects (..., 64), got (5, 4)"),
        (nn.LayerNorm(3, rng=rng), "LayerNorm expects (..., 3), got (5, 4)"),
        (nn.RMSNorm(3, rng=rng), "RMSNorm expects (..., 3), got (5, 4)"),
        (nn.BatchNorm(3, rng=rng), "BatchNorm expects (batch, 3, ...), got (5, 4)"),
    ]:
        with pytest.raises(DataError, match=re.escape(text)):
            layer(x)


RNG = "takes rng=, an xdev.random.Generator such as xdev.random.Generator(0, device),"
EPS = "takes eps, a finite number of 0 or more, got"
FLOATS = "expected one of bfloat16, float16, float32, float64"

BAD_OPTIONS = {
    "linear-zero": (lambda rng: nn.Linear(2, 0, rng=rng), "Linear takes n_out, a positive int, got 0"),
    "linear-negative": (lambda rng: nn.Linear(-1, 2, rng=rng), "Linear takes n_in, a positive int, got -1"),
    "linear-float": (lambda rng: nn.Linear(64.0, 2, rng=rng), "Linear takes n_in, a positive int, got 64.0"),
    "linear-text": (lambda rng: nn.Linear("64", 2, rng=rng), "Linear takes n_in, a positive int, got '64'"),
    "embedding-float": (lambda rng: nn.Embedding(2.5, 3, rng=rng), "Embedding takes n, a positive int, got 2.5"),
    "layer-norm-shape": (
        lambda rng: nn.LayerNorm((2, 3), rng=rng),
        "LayerNorm takes width, a positive int, got (2, 3)",
    ),
    "layer-norm-eps": (lambda rng: nn.LayerNorm(2, rng=rng, eps=-1), f"LayerNorm {EPS} -1"),
    "rms-norm-eps": (lambda rng: nn.RMSNorm(2, rng=rng, eps="x"), f"RMSNorm {EPS} 'x'"),
    "batch-norm-width": (lambda rng: nn.BatchNorm(0, rng=rng), "BatchNorm takes width, a positive int, got 0"),
    "batch-norm-eps": (lambda rng: nn.BatchNorm(2, rng=rng, eps=np.inf), f"BatchNorm {EPS} inf"),
    "batch-norm-momentum": (
        lambda rng: nn.BatchNorm(2, rng=rng, momentum=3),
        "BatchNorm takes momentum, a number in [0, 1], got 3",
    ),
    "mlp-one-size": (
        lambda rng: nn.MLP([3], rng=rng),
        "MLP takes at least two sizes, the input's and the output's, got [3]",
    ),
    "mlp-float": (lambda rng: nn.MLP([3, 4.5, 2], rng=rng), "MLP takes sizes[1], a positive int, got 4.5"),
    "dropout-one": (lambda rng: nn.Dropout(1.0), "Dropout takes a rate in [0, 1), got 1.0"),
    "dropout-negative": (lambda rng: nn.Dropout(-0.5), "Dropout takes a rate in [0, 1), got -0.5"),
    "dropout-nan": (lambda rng: nn.Dropout(np.nan), "Dropout takes a rate in [0, 1), got nan"),
    "dropout-text": (lambda rng: nn.Dropout("x"), "Dropout takes a rate in [0, 1), got 'x'"),
    "dropout-array": (lambda rng: nn.Dropout(X), "Dropout takes a rate in [0, 1), got an array of shape (5, 4)"),
}

WRONG_TYPES = {
    "linear-no-rng": (lambda rng: nn.Linear(64, 256), f"Linear {RNG} and none was given"),
    "linear-seed": (lambda rng: nn.Linear(2, 3, rng=0), f"Linear {RNG} got an int"),
    "embedding-no-rng": (lambda rng: nn.Embedding(2, 3), f"Embedding {RNG} and none was given"),
    "mlp-no-rng": (lambda rng: nn.MLP([2, 3]), f"MLP {RNG} and none was given"),
    "layer-norm-seed": (lambda rng: nn.LayerNorm(2, rng=0), f"LayerNorm {RNG} got an int"),
    "rms-norm-seed": (lambda rng: nn.RMSNorm(2, rng=0), f"RMSNorm {RNG} got an int"),
    "batch-norm-seed": (lambda rng: nn.BatchNorm(2, rng=0), f"BatchNorm {RNG} got an int"),
    "mlp-number": (lambda rng: nn.MLP(64, rng=rng), "MLP takes a list of sizes, such as [64, 256, 10], got 64"),
    "mlp-activation": (
        lambda rng: nn.MLP([2, 3], rng=rng, activation="relu"),
        "MLP takes activation, a function such as xdev.ops.relu, got a str",
    ),
    "sequential-number": (
        lambda rng: nn.Sequential([ops.relu, 3]),
        "Sequential takes modules and functions, got an int at 1",
    ),
    "sequential-class": (
        lambda rng: nn.Sequential([ops.relu, nn.Dropout]),
        "Sequential takes modules and functions, got the class Dropout at 1: call it, Dropout(...)",
    ),
    "sequential-function": (
        lambda rng: nn.Sequential(ops.relu),
        "Sequential takes a list of layers, got a function; put it in a list",
    ),
    "sequential-none": (lambda rng: nn.Sequential(None), "Sequential takes a list of layers, got a NoneType"),
    "sequential-arguments": (
        lambda rng: nn.Sequential(nn.Dropout(0.5), ops.relu),
        "Sequential takes one list of layers, got 2 arguments; put them in a list",
    ),
}

WRONG_DTYPES = {
    "linear": (lambda rng: nn.Linear(2, 3, rng=rng, dtype="float31"), f"uniform got dtype float31, {FLOATS}"),
    "layer-norm": (lambda rng: nn.LayerNorm(2, rng=rng, dtype="float31"), f"LayerNorm got dtype float31, {FLOATS}"),
    "rms-norm": (lambda rng: nn.RMSNorm(2, rng=rng, dtype="int32"), f"RMSNorm got dtype int32, {FLOATS}"),
    "batch-norm": (lambda rng: nn.BatchNorm(2, rng=rng, dtype=3), f"BatchNorm got dtype 3, {FLOATS}"),
}


@pytest.mark.parametrize(
    ("error", "table", "name"),
    [
        pytest.param(error, table, name, id=name)
        for error, table in (
            (ConfigurationError, BAD_OPTIONS),
            (ArrayTypeError, WRONG_TYPES),
            (DTypeError, WRONG_DTYPES),
        )
        for name in table
    ],
)
def test_wrong_arguments(error, table, name):
    make, text = table[name]
    with pytest.raises(error, match=re.escape(text)):
        make(Generator(0, "numpy"))


def test_sizes_may_be_numpys(device):
    rng, n = Generator(0, device), np.int64(3)
    layers = [nn.Linear(n, n, rng=rng), nn.LayerNorm(n, rng=rng), nn.Embedding(n, n, rng=rng), nn.MLP([n, n], rng=rng)]
    assert nn.parameter_count(layers) == 12 + 6 + 9 + 12


def test_a_subclass_of_sequential_may_take_what_it_likes():
    class Pair(nn.Sequential):
        def __init__(self, first, second):
            super().__init__([first, second])

    assert Pair(ops.relu, ops.relu)(X).min() == 0


@pytest.mark.parametrize(
    "make", [lambda rng: nn.Linear(4, 2, rng=rng), lambda rng: nn.LayerNorm(4, rng=rng),
             lambda rng: nn.RMSNorm(4, rng=rng), lambda rng: nn.BatchNorm(4, rng=rng)],
    ids=["Linear", "LayerNorm", "RMSNorm", "BatchNorm"],
)  # fmt: skip
def test_a_list_is_no_array(make):
    layer = make(Generator(0, "numpy"))
    text = f"{type(layer).__name__} takes an array, got a list; xdev.asarray(x) makes one"
    with pytest.raises(ArrayTypeError, match=re.escape(text)):
        layer([1.0, 2.0, 3.0, 4.0])


def test_dropout_within_a_sequence(device):
    x = xdev.asarray(np.ones((50, 4), "float32"), device=device)
    model = nn.Sequential([nn.Dropout(0.5), nn.Sequential([nn.Dropout(0.0), ops.relu])])
    assert_close(model(x), np.ones((50, 4), "float32"))
    expected = ops.dropout(x, rate=0.5, rng=Generator(2, device))
    assert_close(model(x, rng=Generator(2, device)), expected)


class TestBatchNorm:
    def test_statistics_are_those_of_torch(self, device):
        torch = pytest.importorskip("torch")
        images = np.random.default_rng(1).normal(2.0, 3.0, size=(6, 4, 3, 2)).astype("float32")
        theirs = torch.nn.BatchNorm2d(4)
        ours = nn.BatchNorm(4, rng=Generator(0, device))
        for _ in range(2):
            expected = theirs(torch.from_numpy(images)).detach().numpy()
            y, ours = ours.update(xdev.asarray(images, device=device))
            assert_close(y, expected, rtol=1e-4, atol=1e-5)
        assert_close(ours.mean, theirs.running_mean.numpy(), rtol=1e-5)
        assert_close(ours.variance, theirs.running_var.numpy(), rtol=1e-5)
        theirs.eval()
        y = ours(xdev.asarray(images, device=device))
        assert_close(y, theirs(torch.from_numpy(images)).detach().numpy(), rtol=1e-4, atol=1e-5)

    def test_a_loss_that_returns_the_model(self, device):
        x = xdev.asarray(X, device=device)
        norm = nn.BatchNorm(4, rng=Generator(0, device))

        def loss(m):
            y, m = m.update(x)
            xp = xdev.namespace(y)
            return xp.sum(xp.square(y - 1.0)), m

        (_, new), gradient = xdev.value_and_grad(loss, has_aux=True)(norm)
        assert xdev.tree.structure(new) == xdev.tree.structure(norm)
        assert_close(new.mean, X.mean(0) * 0.1, rtol=1e-5)
        assert not xdev.to_numpy(norm.mean).any()
        assert_close(gradient.bias, np.full(4, -10.0, "float32"), rtol=1e-4)

    def test_one_element_has_no_variance(self, device):
        norm = nn.BatchNorm(4, rng=Generator(0, device))
        with pytest.raises(DataError, match="needs more than one element for each feature, got"):
            norm.update(xdev.asarray(X[:1], device=device))
