"""Which implementation runs, and what an op says of arrays that it cannot take."""

import re

import numpy as np
import pytest

import xdev
from xdev import ops
from xdev.errors import ArrayTypeError, ConfigurationError, DataError, DeviceMismatchError, DTypeError
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
        (
            lambda: ops.layer_norm(x[0, 0]),
            "layer_norm takes x of shape (..., width), got (); it works along the last axis",
        ),
        (lambda: ops.rms_norm(x[0, 0]), "rms_norm takes x of shape (..., width), got ()"),
        (lambda: ops.conv2d(x, x), "conv2d takes x of shape (batch, channels, height, width), got (3, 4)"),
        (lambda: ops.max_pool2d(x, 2), "max_pool2d takes x of shape (batch, channels, height, width), got (3, 4)"),
        (lambda: ops.avg_pool2d(x, 2), "avg_pool2d takes x of shape (batch, channels, height, width), got (3, 4)"),
        (
            lambda: ops.max_pool2d(xp.zeros((1, 1, 2, 2)), 3),
            "max_pool2d: a window of size (3, 3), dilation (1, 1) and padding (0, 0) does not fit into an image of "
            "(2, 2); take a smaller window, or more padding",
        ),
        (lambda: ops.avg_pool2d(xp.zeros((1, 1, 2, 2)), 3), "avg_pool2d: a window of size (3, 3)"),
    ]
    for call, text in bad:
        with pytest.raises(DataError, match=re.escape(text)):
            call()


@pytest.mark.parametrize(
    ("shape", "filters", "options", "text"),
    [
        ((2, 4, 4), (3, 2, 3, 3), {}, "x of shape (batch, channels, height, width), got (2, 4, 4)"),
        ((1, 2, 4, 4), (2, 3, 3), {}, "weight of shape (out, channels / groups, rows, columns), got (2, 3, 3)"),
        (
            (1, 3, 4, 4),
            (3, 2, 3, 3),
            {},
            "weight of shape (out, channels / groups, rows, columns) = (out, 3, rows, columns) here, got (3, 2, 3, 3) "
            "with x of shape (1, 3, 4, 4) and groups=1",
        ),
        (
            (1, 3, 4, 4),
            (4, 1, 3, 3),
            {"groups": 2},
            "channels that groups divide, got 3 channels in x of shape (1, 3, 4, 4) and groups=2",
        ),
        (
            (1, 2, 4, 4),
            (3, 1, 3, 3),
            {"groups": 2},
            "filters that groups divide, got 3 filters in weight of shape (3, 1, 3, 3) and groups=2",
        ),
        ((1, 2, 4, 4), (3, 2, 3, 3), {"groups": 0}, "groups as a positive int, got 0"),
        ((1, 2, 4, 4), (3, 2, 3, 3), {"groups": 1.0}, "groups as a positive int, got 1.0"),
        ((1, 2, 4, 4), (3, 2, 3, 3), {"groups": True}, "groups as a positive int, got True"),
        (
            (1, 2, 4, 4),
            (3, 2, 0, 3),
            {},
            "at least one filter of at least one pixel, got weight of shape (3, 2, 0, 3)",
        ),
        ((1, 2, 4, 4), (3, 2, 3, 3), {"stride": 0}, "stride as an int or a pair of ints of at least 1, got 0"),
        ((1, 2, 4, 4), (3, 2, 3, 3), {"stride": 1.5}, "stride as an int or a pair of ints of at least 1, got 1.5"),
        ((1, 2, 4, 4), (3, 2, 3, 3), {"stride": (1,)}, "stride as an int or a pair of ints of at least 1, got (1,)"),
        ((1, 2, 4, 4), (3, 2, 3, 3), {"stride": True}, "stride as an int or a pair of ints of at least 1, got True"),
        ((1, 2, 4, 4), (3, 2, 3, 3), {"padding": -1}, "padding as an int or a pair of ints of at least 0, got -1"),
        (
            (1, 2, 4, 4),
            (3, 2, 3, 3),
            {"padding": "same"},
            "padding as an int or a pair of ints of at least 0, got 'same'",
        ),
        ((1, 2, 4, 4), (3, 2, 3, 3), {"dilation": 0}, "dilation as an int or a pair of ints of at least 1, got 0"),
    ],
)
def test_convolutions_that_do_not_fit(device, shape, filters, options, text):
    error = ConfigurationError if options and "that groups divide" not in text else DataError
    with pytest.raises(error, match=f"^{re.escape(f'conv2d takes {text}')}$"):
        ops.conv2d(device.xp.ones(shape), device.xp.ones(filters), **options)


def test_a_filter_larger_than_the_padded_image(device):
    text = (
        "conv2d: a window of size (7, 7), dilation (1, 1) and padding (1, 1) does not fit into an image of (4, 4); "
        "take a smaller window, or more padding"
    )
    with pytest.raises(DataError, match=re.escape(text)):
        ops.conv2d(device.xp.ones((1, 2, 4, 4)), device.xp.ones((3, 2, 7, 7)), padding=1)


def test_pairs_may_be_lists_of_any_integers(device):
    image, filters = device.xp.ones((1, 1, 5, 4)), device.xp.ones((1, 1, 2, 2))
    y = ops.conv2d(image, filters, stride=[np.int64(2), 1], padding=np.int32(1), groups=np.int64(1))
    assert_close(y, ops.conv2d(image, filters, stride=(2, 1), padding=1))
    assert_close(ops.max_pool2d(image, [2, 1]), ops.max_pool2d(image, (2, 1)))


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    ("size", "options", "text"),
    [
        (0, {}, "size as an int or a pair of ints of at least 1, got 0"),
        (2.0, {}, "size as an int or a pair of ints of at least 1, got 2.0"),
        (2, {"stride": 0}, "stride as an int or a pair of ints of at least 1, got 0"),
        (2, {"padding": -1}, "padding as an int or a pair of ints of at least 0, got -1"),
        (2, {"padding": 2}, "padding of at most half the size (2, 2), got 2"),
    ],
)
def test_pools_that_do_not_fit(device, name, size, options, text):
    with pytest.raises(ConfigurationError, match=f"^{re.escape(f'{name} takes {text}')}$"):
        getattr(ops, name)(device.xp.ones((1, 1, 4, 4)), size, **options)


def test_what_is_no_array_is_named(device):
    x = xdev.asarray(X, device=device)
    image = device.xp.ones((1, 1, 4, 4))
    bad = {
        "linear takes x as an array, got a list": lambda: ops.linear([[1.0]], x),
        "linear takes weight as an array, got a float": lambda: ops.linear(x, 1.0),
        "linear takes bias as an array, got a tuple": lambda: ops.linear(x, x.T, (1.0,)),
        "embedding takes weight as an array, got a list": lambda: ops.embedding(
            [[1.0]], xdev.asarray([0], device=device)
        ),
        "layer_norm takes bias as an array, got an int": lambda: ops.layer_norm(x, None, 1),
        "rms_norm takes weight as an array, got a list": lambda: ops.rms_norm(x, [1.0]),
        "attention takes k as an array, got a list": lambda: ops.attention(x, [1.0], x),
        "attention takes mask as an array, got a bool": lambda: ops.attention(x, x, x, mask=True),
        "conv2d takes x as an array, got a list": lambda: ops.conv2d([1.0], image),
        "conv2d takes bias as an array, got a float": lambda: ops.conv2d(image, image, 1.0),
        "max_pool2d takes arrays, got a list": lambda: ops.max_pool2d([1.0], 2),
    }
    for text, call in bad.items():
        with pytest.raises(ArrayTypeError, match=f"^{text}; xdev.asarray\\(x\\) makes one$"):
            call()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
class TestAxes:
    @pytest.mark.parametrize("axis", [2, -3, 1.0, -1.0, True, "a", (0, 7), (0, 0), (0, -2), (0, None), [0, 1]])
    def test_what_is_no_axis(self, name, axis, device):
        x = xdev.asarray(X, device=device)
        text = (
            f"{name} of x with shape (3, 4) takes an int from -2 to 1, a tuple of different ones, or None; "
            f"got axis={axis!r}"
        )
        with pytest.raises(ConfigurationError, match=f"^{re.escape(text)}$"):
            getattr(ops, name)(x, axis=axis)

    @pytest.mark.parametrize("axis", [-1, 0, (0,)])
    def test_an_array_without_axes_has_none(self, name, axis, device):
        x = xdev.asarray(X, device=device)[0, 0]
        text = re.escape(f"{name} of x with shape () takes axis=None; got axis={axis!r}")
        with pytest.raises(ConfigurationError, match=f"^{text}$"):
            getattr(ops, name)(x, axis=axis)

    def test_an_array_without_axes_is_a_whole(self, name, device):
        x = xdev.asarray(X, device=device)
        expected = {"softmax": np.float32(1), "log_softmax": np.float32(0), "logsumexp": X[0, 0]}[name]
        assert_close(getattr(ops, name)(x[0, 0], axis=None), expected)
        gradient = xdev.grad(lambda x: getattr(ops, name)(x[0, 0], axis=None))(x)
        assert_close(gradient[0, 0], np.float32(name == "logsumexp"))

    def test_integers_of_numpy_and_no_axes(self, name, device):
        x = xdev.asarray(X, device=device)
        op = getattr(ops, name)
        assert_close(op(x, axis=np.int64(0)), op(x, axis=0))
        assert_close(op(x, axis=(np.int64(1), -2)), op(x, axis=None), rtol=1e-5)
        assert_close(op(x, axis=()), {"softmax": X / X, "log_softmax": X * 0, "logsumexp": X}[name])


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
        with pytest.raises(ConfigurationError, match=re.escape("dropout takes a rate in [0, 1), got 1")):
            ops.dropout(x, rate=1, rng=Generator(0, device))
        with pytest.raises(ConfigurationError, match=re.escape("dropout takes a rate in [0, 1), got 'a half'")):
            ops.dropout(x, rate="a half", rng=Generator(0, device))
        with pytest.raises(
            ArrayTypeError, match=re.escape("dropout takes rng=, an xdev.random.Generator, got a NoneType")
        ):
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
