"""Complex parameters: gradients of one convention, and updates downhill, with optax's numbers on every backend."""

import jax
import numpy as np
import optax
import pytest

import xdev
from xdev import optim
from xdev.testing import assert_close

Z = np.asarray([1 + 2j, 3 - 1j, -0.5j], np.complex64)
W = np.asarray([0.5, -2.0, 1.0], np.float32)

OPTIMIZERS = {
    "sgd": (lambda: optim.sgd(0.1), lambda: optax.sgd(0.1)),
    "momentum": (lambda: optim.sgd(0.1, momentum=0.9), lambda: optax.sgd(0.1, momentum=0.9)),
    "adam": (lambda: optim.adam(0.1), lambda: optax.adam(0.1)),
    "adamw": (lambda: optim.adamw(0.1), lambda: optax.adamw(0.1, weight_decay=1e-2)),
    "clipped": (
        lambda: optim.chain(optim.clip_by_global_norm(0.5), optim.adam(0.1)),
        lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1)),
    ),
}


def energy(model):
    """A real function of complex and of real numbers."""
    z, w = model["z"], model["w"]
    xp = xdev.namespace(z, w)
    return xp.sum(xp.real(z * xp.conj(z)) * 0.5 + xp.real(z) * w - xp.imag(z * z))


def model_on(device):
    return xdev.to_device({"z": Z, "w": W}, device, copy=True)


def test_gradients_follow_one_convention(device):
    found = xdev.grad(energy)(model_on(device))
    expected = jax.grad(energy)({"z": jax.numpy.asarray(Z), "w": jax.numpy.asarray(W)})
    assert_close(xdev.to_numpy(found), jax.tree.map(np.asarray, expected), rtol=1e-6)


def test_second_derivatives_follow_it_too(device):
    def slope(z):
        g = xdev.grad(lambda z: energy({"z": z, "w": xdev.stop_gradient(model_on(device)["w"])}))(z)
        xp = xdev.namespace(g)
        return xp.sum(xp.real(g) * xp.imag(g))

    def slope_by_jax(z):
        g = jax.grad(lambda z: energy({"z": z, "w": jax.numpy.asarray(W)}))(z)
        return (g.real * g.imag).sum()

    found = xdev.grad(slope)(model_on(device)["z"])
    assert_close(xdev.to_numpy(found), np.asarray(jax.grad(slope_by_jax)(jax.numpy.asarray(Z))), rtol=1e-5)


def test_pullbacks_follow_it_too(device):
    cotangent = np.asarray([1j, 2.0, 1 - 1j], np.complex64)
    _, pull = xdev.vjp(lambda z: z * z, model_on(device)["z"])
    _, expected = jax.vjp(lambda z: z * z, jax.numpy.asarray(Z))
    found = pull(xdev.to_device(cotangent, device))[0]
    assert_close(xdev.to_numpy(found), np.asarray(expected(jax.numpy.asarray(cotangent))[0]), rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_downhill_with_the_numbers_of_optax(device, name):
    mine, theirs = (make() for make in OPTIMIZERS[name])
    state = xdev.TrainState.create(model_on(device), mine)
    step = xdev.make_step(lambda model, batch: energy(model), mine)
    p = {"z": jax.numpy.asarray(Z), "w": jax.numpy.asarray(W)}
    s = theirs.init(p)
    for _ in range(5):
        state, _ = step(state, ())
        # optax wants the conjugate: the direction in which the loss grows.
        updates, s = theirs.update(jax.tree.map(jax.numpy.conj, jax.grad(energy)(p)), s, p)
        p = optax.apply_updates(p, updates)
    # optax computes 1 - b2**t in float32, which is off by 3e-5.
    assert_close(xdev.to_numpy(state.model), jax.tree.map(np.asarray, p), rtol=1e-4, atol=2e-5)


@pytest.mark.xdev_backends(only=["jax"], reason="optax works on JAX arrays alone")
def test_optax_itself_goes_downhill(device):
    optimizer = optax.sgd(0.05)
    state = xdev.TrainState.create(model_on(device), optimizer)
    step = xdev.make_step(lambda model, batch: energy({**model, "w": xdev.stop_gradient(model["w"])}), optimizer)
    losses = []
    for _ in range(4):
        state, metrics = step(state, ())
        losses.append(float(metrics["loss"]))
    assert losses == sorted(losses, reverse=True)


def test_the_norm_of_complex_gradients_is_real(device):
    norm = optim.global_norm(model_on(device))
    assert_close(norm, np.sqrt((abs(Z) ** 2).sum() + (W**2).sum()).astype("float32"), rtol=1e-6)
