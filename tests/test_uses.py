"""Seven programs, one per kind of user, as they would write them."""

import numpy as np
import pytest

import xdev
from xdev import nn, ops, optim
from xdev.errors import BackendUnavailable, TransferBudgetExceeded
from xdev.testing import assert_close


def usable(spec):
    try:
        return xdev.device(spec)
    except BackendUnavailable as error:
        pytest.skip(str(error))


# 1 ------------------------------------------------------------------------------------------------------


def standardise(x, /, *, eps=1e-6):
    xp = xdev.namespace(x)
    centred = x - xp.mean(x, axis=0)
    scale = xp.std(x, axis=0) + eps
    bins = xp.linspace(0, 1, 5, dtype=x.dtype)
    return centred / scale, bins


def test_a_library_author_ports_a_numpy_function(xp, device):
    x = xp.asarray(np.arange(12.0, dtype=np.float32).reshape(4, 3))
    y, bins = standardise(x)
    assert xdev.device_of((y, bins)) == device
    assert y.dtype == bins.dtype == xp.float32


# 2 ------------------------------------------------------------------------------------------------------


def test_selecting_a_backend_and_a_device(backend, capsys):
    assert isinstance(xdev.device(), xdev.Device)
    device = xdev.device(backend.name)
    xp = device.xp
    x = xp.zeros((1000, 64), dtype=xp.float32)
    noise = xdev.random.Generator(0, device).normal((1000, 64))
    print(device, xdev.device_of(x), [str(d) for d in xdev.devices()])
    assert str(device) in capsys.readouterr().out
    assert xdev.device_of((x, noise)) == device
    reference = xdev.random.Generator(0, "numpy").normal((1000, 64))
    np.testing.assert_allclose(xdev.to_numpy(noise), reference, rtol=1e-6, atol=1e-6)


# 3 ------------------------------------------------------------------------------------------------------


def test_placing_and_pulling_accounted(capsys):
    usable("torch")
    batch = {"image": np.zeros((32, 64), np.float32), "label": [1, 2, 3, 4] * 8}
    with xdev.track_transfers() as transfers:
        on_device = xdev.to_device(batch, "torch:cpu")
        back = xdev.to_numpy(on_device)
    print(transfers)
    text = capsys.readouterr().out
    for word in ("image", "label", "torch:cpu:0", "numpy:cpu:0", "view", "test_uses.py:"):
        assert word in text
    assert transfers.to_device_bytes == transfers.to_host_bytes == 32 * 64 * 4 + 32 * 8
    assert back["label"].tolist() == [1, 2, 3, 4] * 8
    with xdev.budget(to_host=0):
        total = on_device["image"].sum()
        with pytest.raises(TransferBudgetExceeded, match=r"test_uses\.py:"):
            total.item()


# 4 ------------------------------------------------------------------------------------------------------


def test_a_training_script_one_loop_for_all(backend):
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x_train, y_train, x_test, y_test = x[:1400] / 16, y[:1400], x[1400:] / 16, y[1400:]
    device = xdev.device(backend.name)
    model = nn.MLP([64, 256, 10], rng=xdev.random.Generator(0, device))
    result = xdev.fit(
        model, lambda m, b: ops.cross_entropy(m(b[0]), b[1]), (x_train, y_train),
        optimizer=optim.adamw(1e-3), epochs=10, batch_size=128, device=device, seed=0,
    )  # fmt: skip
    scores = xdev.predict(result.model, x_test)  # NumPy, on the host
    assert isinstance(scores, np.ndarray)
    assert (scores.argmax(1) == y_test).mean() > 0.85
    assert "steps" in str(result.timing)


# 5 ------------------------------------------------------------------------------------------------------


def test_a_cupy_user_wants_gradients():
    device = usable("cupy")
    other = usable("cupy:1") if len([d for d in xdev.devices() if d.backend == "cupy"]) > 1 else device
    import cupy as cp

    def energy(params, x):
        xp = xdev.namespace(x)
        return xp.sum(xp.tanh(x @ params["w"] + params["b"]) ** 2)

    with cp.cuda.Device(other.index):
        params = {"w": cp.ones((3, 2)), "b": cp.zeros(2)}
        x = cp.arange(12.0).reshape(4, 3)
    value, grads = xdev.value_and_grad(energy)(params, x)
    assert xdev.device_of((value, grads)) == other
    t = np.tanh(np.arange(12.0).reshape(4, 3) @ np.ones((3, 2)))
    assert_close(grads["b"], (2 * t * (1 - t**2)).sum(0))


# 6 ------------------------------------------------------------------------------------------------------


def test_a_jax_user_keeps_optax():
    device = usable("jax")
    optax = pytest.importorskip("optax")
    model = nn.MLP([4, 8, 2], rng=xdev.random.Generator(0, device))
    step = xdev.make_step(lambda m, b: ops.mse(m(b[0]), b[1]), optax.adamw(1e-3))
    state = xdev.TrainState.create(model, optax.adamw(1e-3))
    batch = (device.xp.ones((3, 4)), device.xp.zeros((3, 2)))
    state, first = step(state, batch)
    state, second = step(state, batch)
    assert xdev.item(second["loss"]) < xdev.item(first["loss"])


def test_a_torch_checkpoint_becomes_jax_arrays(tmp_path):
    usable("torch")
    usable("jax")
    import torch

    torch_model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    before = xdev.to_numpy(torch_model.state_dict(), copy=True)
    weights = xdev.to_device(before, "jax:cpu")
    xdev.save(tmp_path / "weights.safetensors", weights)
    again = xdev.load(tmp_path / "weights.safetensors", device="torch:cpu")
    for name, array in before.items():
        assert again[name].dtype == torch.float32
        np.testing.assert_array_equal(again[name].numpy(), array)


# 7 ------------------------------------------------------------------------------------------------------


def test_standardise(xp, device):
    x = xp.asarray(np.random.default_rng(0).normal(size=(8, 3)).astype("float32"))
    y, _bins = standardise(x)
    assert xdev.device_of(y) == device
    assert_close(xp.mean(y, axis=0), xp.zeros(3, dtype=xp.float32), atol=1e-5)
