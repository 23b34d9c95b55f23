"""NumPy's pitfalls, each by name; those that need no more than a line stand in `test_others`."""

import math

import numpy as np
import pytest

import xdev
from xdev import optim
from xdev.contract import dtype_name

# -- dtypes ------------------------------------------------------------------------------------------


def test_the_host_is_the_one_device():
    assert [str(info.handle) for info in xdev.backend("numpy").devices()] == ["cpu"]
    for name in ("numpy:1", "numpy:cuda", "numpy:gpu"):
        with pytest.raises(xdev.DeviceError, match="numpy has numpy:cpu:0"):
            xdev.device(name)


def test_a_python_float_keeps_float32_and_a_numpy_scalar_does_not():
    x = np.ones(2, np.float32)
    assert (x * (1 / math.sqrt(64))).dtype == np.float32
    assert (x * (1 / np.sqrt(64))).dtype == np.float64
    assert (x + np.ones(2, np.int32)).dtype == np.float64


def scaled(model, batch):
    """A loss in which a NumPy scalar makes float64 of everything."""
    x, y = batch
    return xdev.ops.mse(x @ model["w"] * (1 / np.sqrt(4)), y)


def test_parameters_stay_float32_whatever_a_loss_promotes_to():
    x, y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    model = {"w": np.full((3, 2), 0.5, np.float32)}
    value, gradient = xdev.value_and_grad(scaled)(model, (x, y))
    assert value.dtype == np.float64
    assert gradient["w"].dtype == np.float32
    for optimizer in (optim.sgd(0.1), optim.adamw(0.1)):
        with pytest.warns(xdev.errors.PromotionWarning, match=r"the loss .* is float64, and the model is float32"):
            result = xdev.fit(model, scaled, (x, y), optimizer=optimizer, epochs=3, batch_size=2)
        assert result.model["w"].dtype == np.float32


def test_integers_beside_float32_are_cast_by_hand():
    """As the table of promotions in the documentation says of portable code."""
    x, counts = np.ones(2, np.float32), np.ones(2, np.int32)
    xp = xdev.namespace(x)
    assert (xp.astype(counts, x.dtype) * x).dtype == np.float32


# -- what does not cross by itself -------------------------------------------------------------------


@pytest.mark.xdev_backends(only=("torch", "jax"), reason="those that compute in bfloat16")
def test_bfloat16_crosses_although_numpys_dlpack_has_none(device, xp):
    x = xp.asarray([1.5, -2.0, 0.25], dtype=xp.bfloat16)
    with pytest.raises((BufferError, RuntimeError, TypeError)):
        np.from_dlpack(x)
    values = xdev.to_device(x, "numpy", dtype="float32")
    assert values.tolist() == [1.5, -2, 0.25]
    back = xdev.to_device(values, device, dtype="bfloat16")
    assert dtype_name(back.dtype) == "bfloat16"
    assert xdev.to_device(back, "numpy", dtype="float32").tolist() == [1.5, -2, 0.25]


@pytest.mark.xdev_backends(exclude="numpy", reason="there nothing crosses")
@pytest.mark.parametrize("dtype", [">i2", ">f4", ">f8", ">c8"])
def test_the_other_byte_order_arrives_as_numbers(device, dtype):
    x = np.asarray([1, 2, 3], dtype)
    with pytest.raises(BufferError):
        x.__dlpack__()
    name = dtype_name(x.dtype.newbyteorder("="))
    if not device.backend.holds(name, device.info):
        pytest.skip(f"{device} holds no {name}")
    moved = xdev.to_device({"x": x}, device)["x"]
    assert dtype_name(moved.dtype) == name
    assert xdev.to_numpy(moved).tolist() == [1, 2, 3]
    with pytest.raises(xdev.CopyRequiredError):
        xdev.to_device(x, device, copy=False)


# -- memory ------------------------------------------------------------------------------------------


@pytest.fixture
def scatters(monkeypatch):
    """Count the scatters that gradients make."""
    kernels, calls = xdev.backend("numpy").kernels, []
    scatter = kernels["scatter_add"]

    def counted(*args):
        calls.append(1)
        return scatter(*args)

    monkeypatch.setitem(kernels, "scatter_add", counted)
    return calls


@pytest.mark.parametrize(
    "key", [1, -1, slice(1, 3), slice(None, None, -2), (slice(2), 1), (..., None, 0), None], ids=repr
)
def test_the_gradient_of_basic_indexing_is_a_view(scatters, key):
    x = np.arange(12.0).reshape(4, 3)
    expected = np.zeros_like(x)
    expected[key] += 2.0
    gradient = xdev.grad(lambda x: xdev.namespace(x).sum(2 * x[key]))(x)
    assert gradient.tolist() == expected.tolist()
    assert not scatters


def test_the_gradient_of_other_indices_is_a_scatter(scatters):
    gradient = xdev.grad(lambda x: xdev.namespace(x).sum(x[np.asarray([1, 1, 0])]))(np.ones(3))
    assert gradient.tolist() == [1, 2, 0]
    assert scatters
