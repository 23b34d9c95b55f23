"""Every rule against finite differences, to second order, and against the gradients of JAX and torch."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import xdev
from xdev.autodiff import differentiable_names
from xdev.autodiff.rules import DEFINED, ELEMENTWISE, GENERAL
from xdev.testing import assert_close

from ..cases import CASES, PARAMETERS, make
from ..coverage import REASONS
from ..derivatives import compiled, derivatives, loss, orders

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.xdev_backends(
    exclude=("torch", "jax"), scoped=False, reason="torch and JAX have gradients of their own"
)
CASE = pytest.mark.parametrize(("name", "k"), PARAMETERS, ids=[f"{name}-{k}" for name, k in PARAMETERS])
BEYOND_STRICT = {("setitem_", 2): "the standard assigns to no arrays of integers"}
FIRST_ONLY = {("linalg.det", "torch"), ("linalg.eigvals", "jax")}
"""What the table of reasons says of these is about second derivatives."""
NOT_TORCHS = {
    ("getitem_", 1): "it has no negative steps",
    ("setitem_", 2): "its gradient goes to every value that went to one place",
    ("__mod__", 2): "it has no derivative of a number modulo a tensor",
}


def _skip_what_is_not_there(name, k, device):
    framework = device.backend.name
    if framework == "strict" and (name, k) in BEYOND_STRICT:
        pytest.skip(BEYOND_STRICT[name, k])
    if (name, framework) in REASONS:
        pytest.skip(REASONS[name, framework])


def _devices(device):
    """Return the device, and the framework's default one where that is another."""
    return {device, xdev.device(device.backend.name)}


@CASE
def test_derivatives_are_those_of_finite_differences(name, k, device):
    _skip_what_is_not_there(name, k, device)
    for each in _devices(device):
        assert orders(name, k, each) == 3, f"{each}: {derivatives(name, k, each).error}"


@functools.cache
def _of_jax(name, k):
    samples, call = make(name, k)
    with jax.enable_x64(True):
        arrays = [jax.numpy.asarray(x) for x in samples]
        return [np.asarray(g) for g in compiled(jax.grad(lambda xs: loss(call, xs)))(arrays)]


@functools.cache
def _of_torch(name, k):
    samples, call = make(name, k)
    with xdev.precision("float64"):
        arrays = [torch.asarray(x).requires_grad_() for x in samples]
        gradients = torch.autograd.grad(loss(call, arrays), arrays)
    return [g.resolve_conj().conj().resolve_conj().numpy() for g in gradients]


@pytest.mark.parametrize("oracle", ["jax", "torch"])
@CASE
def test_gradients_on_numpy_are_those_of_other_frameworks(name, k, oracle):
    if oracle == "torch" and (name, k) in NOT_TORCHS:
        pytest.skip(f"torch: {NOT_TORCHS[name, k]}")
    if (name, oracle) in REASONS and name in differentiable_names() and (name, oracle) not in FIRST_ONLY:
        pytest.skip(f"{oracle}: {REASONS[name, oracle]}")
    expected = {"jax": _of_jax, "torch": _of_torch}[oracle](name, k)
    for g, e in zip(derivatives(name, k, xdev.device("numpy")).found[1], expected, strict=True):
        assert_close(g, e, rtol=1e-9, atol=1e-9)


@CASE
def test_derivatives_are_those_on_numpy(name, k, device):
    """To second order, with the shapes and dtypes of the arguments and on their device."""
    _skip_what_is_not_there(name, k, device)
    samples = make(name, k)[0]
    expected = derivatives(name, k, xdev.device("numpy")).found
    for each in _devices(device):
        found = derivatives(name, k, each)
        assert found.devices == {each}
        assert_close(found.found[0], expected[0], rtol=1e-9)
        for gradients, others in zip(found.found[1:], expected[1:], strict=True):
            for g, e, x in zip(gradients, others, samples, strict=True):
                assert (g.shape, g.dtype) == (x.shape, x.dtype)
                assert_close(g, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted({*ELEMENTWISE, *GENERAL, *DEFINED}))
def test_every_rule_has_a_case(name):
    assert name in CASES
