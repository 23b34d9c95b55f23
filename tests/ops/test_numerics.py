"""Half precision, large and infinite arguments, and the conventions where a function has a corner."""

import ml_dtypes
import numpy as np
import pytest
import scipy.special

import xdev
from xdev import ops
from xdev.ops._erf import erf
from xdev.testing import assert_close

X = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")

KEEPING = {
    "relu": ops.relu,
    "sigmoid": ops.sigmoid,
    "silu": ops.silu,
    "gelu": ops.gelu,
    "gelu by tanh": lambda x: ops.gelu(x, approximate=True),
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "logsumexp": ops.logsumexp,
    "layer_norm": ops.layer_norm,
    "rms_norm": ops.rms_norm,
    "attention": lambda x: ops.attention(x, x, x, causal=True),
    "mse": lambda x: ops.mse(x, xdev.namespace(x).zeros_like(x)),
    "cross_entropy": lambda x: ops.cross_entropy(
        x, xdev.asarray(np.asarray([1, 0, 7], "int32"), device=xdev.device_of(x))
    ),
    "linear": lambda x: ops.linear(x, xdev.namespace(x).ones_like(x)[:2, :].T),
}


def half(device, dtype):
    if not device.backend.holds(dtype, device.info):
        pytest.skip(f"no {dtype} there")
    return xdev.asarray(X.astype(dtype if dtype == "float16" else ml_dtypes.bfloat16), device=device)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", KEEPING)
def test_half_precision_is_kept(name, dtype, device):
    x = half(device, dtype)
    if name == "linear" and device.backend.name == "strict":
        pytest.skip("no half precision there")
    y = KEEPING[name](x)
    assert y.dtype == x.dtype
    y, x = (xdev.to_numpy(device.xp.astype(a, device.xp.float32)) for a in (y, x))
    expected = xdev.to_numpy(KEEPING[name](x))
    tolerance = 4e-3 if dtype == "float16" else 3e-2
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in KEEPING if name not in ("cross_entropy", "linear")])
def test_gradients_of_half_precision_are_half(name, device):
    x = half(device, "float16")

    def total(x):
        xp = xdev.namespace(x)
        return xp.sum(xp.square(KEEPING[name](x)))

    gradient = xdev.grad(total)(x)
    assert gradient.dtype == x.dtype
    expected = xdev.to_numpy(xdev.grad(total)(xdev.asarray(X, device=device)))
    np.testing.assert_allclose(xdev.to_numpy(gradient).astype("float32"), expected, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("name", KEEPING)
def test_float32_never_becomes_float64(name, device):
    x = xdev.asarray(X, device=device)
    assert KEEPING[name](x).dtype == x.dtype


def test_sums_of_half_precision_do_not_overflow(device):
    x = half(device, "float16")
    big = device.xp.multiply(device.xp.ones_like(x), 60000.0)
    zero = device.xp.zeros_like(x)
    assert_close(ops.softmax(big)[0, 0], np.float16(0.125), check_dtype=False)
    assert xdev.item(ops.mse(device.xp.add(zero, 16.0), zero)) == 256.0
    assert np.isfinite(xdev.to_numpy(ops.layer_norm(device.xp.multiply(x, 1000.0)))).all()


def test_large_arguments(device):
    x = xdev.asarray(np.asarray([-1e30, -1e4, -80.0, 0.0, 80.0, 1e4, 1e30], "float32"), device=device)
    one, zero = np.float32(1), np.float32(0)
    assert_close(ops.sigmoid(x), np.asarray([0, 0, np.exp(-80.0), 0.5, 1, 1, 1], "float32"), atol=0)
    for op in (ops.relu, ops.gelu, ops.silu):
        y = xdev.to_numpy(op(x))
        assert np.allclose(y, np.maximum(xdev.to_numpy(x), 0)), op
    pair = xdev.asarray(np.asarray([[1e30, 1e30], [-1e30, 1e30]], "float32"), device=device)
    assert_close(ops.softmax(pair), np.asarray([[0.5, 0.5], [zero, one]], "float32"))
    assert_close(ops.log_softmax(pair)[0, 0], np.float32(-np.log(2)))
    assert_close(ops.logsumexp(pair), np.asarray([1e30, 1e30], "float32"))


def test_infinite_arguments(device):
    inf = np.inf
    x = xdev.asarray(np.asarray([[-inf, -inf], [-inf, 1.0]], "float32"), device=device)
    assert_close(ops.logsumexp(x), np.asarray([-inf, 1.0], "float32"))
    part = xdev.asarray(np.asarray([[-inf, 0.0, 0.0]], "float32"), device=device)
    assert_close(ops.softmax(part), np.asarray([[0.0, 0.5, 0.5]], "float32"))
    gradient = xdev.grad(lambda x: device_sum(ops.logsumexp(x)))(part)
    assert_close(gradient, np.asarray([[0.0, 0.5, 0.5]], "float32"))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_softmax_of_nothing_but_minus_infinity_is_nan(device):
    x = xdev.asarray(np.full((1, 3), -np.inf, "float32"), device=device)
    assert np.isnan(xdev.to_numpy(ops.softmax(x))).all()


def device_sum(x):
    return xdev.namespace(x).sum(x)


def test_the_gradient_of_relu_at_zero_is_zero(device):
    x = xdev.asarray(np.asarray([-1.0, 0.0, 2.0], "float32"), device=device)
    assert_close(xdev.grad(lambda x: device_sum(ops.relu(x)))(x), np.asarray([0.0, 0.0, 1.0], "float32"))


def test_relu_keeps_nan_and_integers(device):
    x = xdev.asarray(np.asarray([np.nan, -1.0], "float32"), device=device)
    assert_close(ops.relu(x), np.asarray([np.nan, 0.0], "float32"))
    assert_close(ops.relu(xdev.asarray(np.asarray([-1, 2], "int32"), device=device)), np.asarray([0, 2], "int32"))


def test_the_gradient_of_max_pooling_goes_to_the_first_of_equals(device):
    x = xdev.asarray(np.ones((1, 1, 2, 2), "float32"), device=device)
    gradient = xdev.grad(lambda x: device_sum(ops.max_pool2d(x, 2)))(x)
    assert_close(gradient, np.asarray([[[[1, 0], [0, 0]]]], "float32"))


@pytest.mark.parametrize(("dtype", "ulps"), [("float32", 2), ("float64", 4)])
def test_error_function(dtype, ulps):
    """Against SciPy, on the standard's functions."""
    x = np.concatenate([np.linspace(-7, 7, 20_001), np.geomspace(1e-30, 30, 5_000)]).astype(dtype)
    expected = scipy.special.erf(x.astype("float64"))
    y = erf(np, x)
    assert y.dtype == x.dtype
    assert np.max(np.abs(y - expected) / np.spacing(np.abs(expected).astype(dtype))) <= ulps
    assert np.isnan(erf(np, np.asarray([np.nan], dtype))).all()
    assert np.array_equal(erf(np, np.asarray([-np.inf, 0, np.inf], dtype)), [-1, 0, 1])
