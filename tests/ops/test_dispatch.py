"""Which implementation runs, and what an op says of arrays that it cannot take."""

import re

import numpy as np
import pytest

import xdev
from xdev import ops
from xdev.errors import ArrayTypeError, DataError, DeviceMismatchError, DTypeError
from xdev.ops._dispatch import OPS, Op
from xdev.random import Generator
from xdev.testing import assert_close

X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
NOT_OPS = {"in_range", "scatter_add"}  # kernels that are parts of ops


def test_kernels_belong_to_ops(backend):
    """A kernel under a name that no op has would never run."""
    for name in backend.kernels:
        op, _, part = name.partition(".")
        assert op in OPS or op in NOT_OPS, name
        assert part in ("", "forward", "backward")
        assert part != "forward" or OPS[op]._saves, (
            f"{name}: the kernel {op!r} is the forward pass of an op that saves nothing"
        )


def test_the_generic_implementation_agrees_with_the_kernels(device, monkeypatch):
    x = xdev.asarray(X, device=device)
    labels = xdev.asarray(np.asarray([0, 3, 1], "int32"), device=device)
    square = xdev.asarray(X[:, :3].copy(), device=device)
    image = xdev.asarray(X.reshape(1, 2, 3, 2), device=device)

    def everything():
        return {
            "attention": ops.attention(x, x, x, causal=True),
            "avg_pool2d": ops.avg_pool2d(image, 2, stride=1),
            "conv2d": ops.conv2d(image, image, padding=1),
            "cross_entropy": ops.cross_entropy(x, labels),
            "embedding": ops.embedding(x, xdev.asarray(np.asarray([2, 0], "int32"), device=device)),
            "gelu": ops.gelu(x),
            "layer_norm": ops.layer_norm(x),
            "linear": ops.linear(square, x, x[0, ...]),
            "log_softmax": ops.log_softmax(x),
            "logsumexp": ops.logsumexp(x),
            "max_pool2d": ops.max_pool2d(image, 2, stride=1),
            "mse": ops.mse(x, xdev.namespace(x).zeros_like(x)),
            "relu": ops.relu(x),
            "rms_norm": ops.rms_norm(x),
            "sigmoid": ops.sigmoid(x),
            "silu": ops.silu(x),
            "softmax": ops.softmax(x),
        }

    fast = everything()
    tried = {*fast, *NOT_OPS, "binary_cross_entropy_with_logits"}
    assert {name.partition(".")[0] for name in device.backend.kernels} <= tried
    monkeypatch.setattr(device.backend, "kernels", {})
    assert_close(everything(), fast, rtol=2e-5, atol=2e-6)


def test_a_kernel_is_used(xp, device, monkeypatch):
    monkeypatch.setattr(device.backend, "kernels", {"silu": lambda x: "mine"})
    assert ops.silu(xp.ones(3, dtype=xp.float32)) == "mine"


def test_a_new_op_is_a_line():
    cube = Op("cube", lambda xp, x: xp.pow(x, 3), lambda xp, g, y, x, *, needs: (xp.multiply(g, 3 * x * x),))
    try:
        assert cube(np.asarray(2.0)) == 8.0
        assert xdev.grad(cube)(np.asarray(2.0)) == 12.0
        assert xdev.grad(xdev.grad(cube))(np.asarray(2.0)) == 12.0
        assert repr(cube) == "<op cube>"
    finally:
        del OPS["cube"]


def test_arrays_of_two_frameworks():
    torch = pytest.importorskip("torch")
    with pytest.raises(DeviceMismatchError, match="arrays are on different devices"):
        ops.linear(np.ones((2, 3), "float32"), torch.ones(3, 4))


@pytest.mark.xdev_backends(only=["strict", "jax", "cupy"], reason="the others have one device on this machine")
def test_arrays_on_two_devices(device):
    others = [d for d in xdev.devices() if d.backend == device.backend and d != device]
    if not others:
        pytest.skip("one device")
    with pytest.raises(DeviceMismatchError, match="different devices"):
        ops.linear(xdev.asarray(X, device=device), xdev.asarray(X.T.copy(), device=others[0]))


@pytest.mark.parametrize(
    "name", ["sigmoid", "silu", "gelu", "softmax", "log_softmax", "logsumexp", "layer_norm", "rms_norm"]
)
def test_integers_are_refused(name, device):
    x = xdev.asarray(np.ones((2, 2), "int32"), device=device)
    with pytest.raises(
        DTypeError, match=re.escape(f"{name} takes an array of a real floating dtype, got int32; cast with xp.astype")
    ):
        getattr(ops, name)(x)
    with pytest.raises(ArrayTypeError, match=re.escape(f"{name} takes arrays, got a list; xdev.asarray")):
        getattr(ops, name)([1.0, 2.0])


def test_shapes_that_do_not_fit(device):
    x = xdev.asarray(X, device=device)
    xp = device.xp
    bad = [
        (
            lambda: ops.linear(x, x),
            "linear takes x of shape (..., in) and weight of shape (in, out), got (3, 4) and (3, 4)",
        ),
        (lambda: ops.linear(x, x.T, x[0, :]), "linear takes a bias of shape (3,) here, got (4,)"),
        (lambda: ops.layer_norm(x, x[:, 0]), "layer_norm of x with shape (3, 4) takes weight of shape (4,), got (3,)"),
        (lambda: ops.attention(x, x.T, x), "attention takes q (..., length, head_dim)"),
        (
            lambda: ops.embedding(x[0, :], xp.zeros(2, dtype=xp.int32)),
            "embedding takes a weight of shape (n, width), got (4,)",
        ),
        (lambda: ops.conv2d(x, x), "conv2d takes x of shape (batch, channels, height, width)"),
        (lambda: ops.max_pool2d(x, 2), "max_pool2d takes x of shape (batch, channels, height, width), got (3, 4)"),
        (lambda: ops.max_pool2d(xp.zeros((1, 1, 2, 2)), 3), "does not fit into an image of (2, 2)"),
    ]
    for call, text in bad:
        with pytest.raises(DataError, match=re.escape(text)):
            call()


def test_options_out_of_range(device):
    image = device.xp.zeros((1, 1, 4, 4))
    with pytest.raises(
        ValueError, match=re.escape("max_pool2d takes size as an int or a pair of ints of at least 1, got 0")
    ):
        ops.max_pool2d(image, 0)
    with pytest.raises(ValueError, match="avg_pool2d takes padding of at most half the size"):
        ops.avg_pool2d(image, 2, padding=2)
    with pytest.raises(
        ValueError, match=re.escape("conv2d takes stride as an int or a pair of ints of at least 1, got 1.5")
    ):
        ops.conv2d(image, image, stride=1.5)


class TestDropout:
    def test_the_same_elements_everywhere(self, device):
        x = xdev.asarray(np.ones((100, 7), "float32"), device=device)
        expected = ops.dropout(np.ones((100, 7), "float32"), rate=0.25, rng=Generator(1, "numpy"))
        y = ops.dropout(x, rate=0.25, rng=Generator(1, device))
        assert_close(y, expected)
        assert abs(xdev.to_numpy(y).mean() - 1) < 0.1

    def test_rate_zero_changes_and_draws_nothing(self, device):
        x, rng = xdev.asarray(X, device=device), Generator(1, device)
        assert ops.dropout(x, rate=0, rng=rng) is x
        assert rng.state["draws"] == 0

    def test_what_it_refuses(self, device):
        x = xdev.asarray(X, device=device)
        with pytest.raises(ValueError, match=re.escape("dropout takes a rate in [0, 1), got 1")):
            ops.dropout(x, rate=1, rng=Generator(0, device))
        with pytest.raises(TypeError, match=re.escape("dropout takes rng=, an xdev.random.Generator, got a NoneType")):
            ops.dropout(x, rate=0.5, rng=None)


@pytest.mark.parametrize("size", [3, 300])
@pytest.mark.parametrize("shape", [(20,), (20, 5), (20, 2, 3), (0, 4)])
def test_scatter_add(shape, size, backend, device):
    kernel = backend.kernels.get("scatter_add")
    if kernel is None:
        pytest.skip("no kernel")
    rng = np.random.default_rng(0)
    values, places = rng.normal(size=shape).astype("float32"), rng.integers(-size, size, shape[0]).astype("int32")
    expected = np.zeros((size, *shape[1:]), "float32")
    np.add.at(expected, places, values)
    assert_close(
        kernel(xdev.asarray(values, device=device), xdev.asarray(places, device=device), size), expected, atol=1e-5
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "uint64"])
def test_in_range(dtype, backend, device):
    kernel = backend.kernels.get("in_range")
    if kernel is None or not backend.holds(dtype, device.info):
        pytest.skip("no kernel or no such dtype")

    def ask(*indices):
        return kernel(xdev.asarray(np.asarray(indices, "int64").astype(dtype), device=device), 5)

    assert ask(0, 4) or dtype == "uint64"
    assert not ask(0, 5)
    assert not ask(0, -1)
