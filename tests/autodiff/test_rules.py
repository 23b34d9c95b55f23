"""Every rule against finite differences and JAX, to second order; every name of the standard has its place."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest

from xdev import autodiff
from xdev.autodiff import value_and_grad
from xdev.autodiff.rules import CONSTANT, CREATION, DEFINED, ELEMENTWISE, GENERAL, PLAIN
from xdev.device import device_of, namespace
from xdev.testing import assert_close
from xdev.transfer import to_numpy

from ..cases import CASES, PARAMETERS, make

jax = pytest.importorskip("jax")

pytestmark = pytest.mark.xdev_backends(
    exclude=("torch", "jax"), scoped=False, reason="torch and JAX have gradients of their own"
)


CASE = pytest.mark.parametrize(("name", "k"), PARAMETERS, ids=[f"{name}-{k}" for name, k in PARAMETERS])


def _loss(call, arrays, weights):
    """Return a real scalar that depends on all outputs with different weights, not linearly."""
    xp = namespace(*arrays) if not isinstance(arrays[0], jax.Array) else jax.numpy
    y = call(xp, *arrays)
    if xp.isdtype(y.dtype, "complex floating"):
        y = xp.add(xp.real(y), xp.multiply(xp.imag(y), 0.7))
    w = xp.asarray(weights[: y.size].reshape(y.shape), dtype=y.dtype)
    return xp.sum(xp.sin(xp.multiply(y, w)))


NOT_JAXS = {"sign"}
"""JAX takes the derivative of the complex sign for zero, which it is not."""
WEIGHTS = np.random.default_rng(7).uniform(0.3, 1.0, size=500)


def _gradient(call, arrays):
    return value_and_grad(lambda xs: (_loss(call, xs, WEIGHTS), None), arrays)


def _along(gradient, directions):
    """Return Re(sum of gradient times direction)."""
    total = None
    for g, d in zip(gradient, directions, strict=True):
        xp = namespace(g)
        product = xp.multiply(g, d)
        part = xp.sum(xp.real(product) if xp.isdtype(product.dtype, "complex floating") else product)
        total = part if total is None else xp.add(total, part)
    return total


@CASE
def test_gradients_are_jaxs(name, k, device):
    samples, call = make(name, k)
    arrays = [device.xp.asarray(x) for x in samples]
    value, _, gradient = _gradient(call, arrays)
    assert device_of(value) == device
    with jax.enable_x64(True):
        expected = jax.value_and_grad(lambda *xs: _loss(call, xs, WEIGHTS), argnums=tuple(range(len(samples))))(
            *map(jax.numpy.asarray, samples)
        )
    assert_close(float(to_numpy(value)), float(expected[0]), rtol=1e-9, atol=1e-9)
    for g, e, x in zip(gradient, expected[1], arrays, strict=True):
        assert g.shape == x.shape
        assert g.dtype == x.dtype
        assert device_of(g) == device
        if name not in NOT_JAXS:
            assert_close(to_numpy(g), np.asarray(e), rtol=1e-9, atol=1e-9)


@CASE
def test_derivatives_are_those_of_finite_differences(name, k, device):
    samples, call = make(name, k)
    arrays = [device.xp.asarray(x) for x in samples]
    rng = np.random.default_rng(3)
    directions = [device.xp.asarray(rng.normal(size=np.shape(x))) for x in samples]
    second = value_and_grad(lambda xs: (_along(_gradient(call, xs)[2], directions), None), arrays)[2]
    h = 1e-6
    tangents = [rng.normal(size=np.shape(x)) for x in samples]
    values, firsts = [], []
    for sign in (1, 0, -1):
        shifted = [device.xp.asarray(x + sign * h * t) for x, t in zip(samples, tangents, strict=True)]
        value, _, gradient = _gradient(call, shifted)
        values.append(float(to_numpy(value)))
        firsts.append(float(to_numpy(_along(gradient, directions))))
        if sign == 0:
            first = gradient
    for derivative, sides in ((first, values), (second, firsts)):
        numeric = (sides[0] - sides[2]) / (2 * h)
        analytic = sum(float(np.sum(np.real(to_numpy(d) * t))) for d, t in zip(derivative, tangents, strict=True))
        assert abs(analytic - numeric) <= 2e-6 * max(1.0, abs(numeric)), (analytic, numeric)


@pytest.mark.parametrize("name", sorted({*ELEMENTWISE, *GENERAL, *DEFINED}))
def test_every_rule_has_a_case(name):
    assert name in CASES


STANDARD = sorted(
    name
    for name in array_api_strict.__all__
    if callable(getattr(array_api_strict, name))
    and "flags" not in name.lower()
    and name not in ("Device", "linalg", "fft")
    and not isinstance(getattr(array_api_strict, name), type)
)


@pytest.mark.parametrize(
    "name",
    [f"linalg.{n}" for n in array_api_strict.linalg.__all__ if not n.startswith("_")]
    + [f"fft.{n}" for n in array_api_strict.fft.__all__ if not n.startswith("_")],
)
def test_every_function_of_the_extensions_is_in_one_table(name):
    assert sum(name in t for t in (ELEMENTWISE, GENERAL, DEFINED, CONSTANT, PLAIN, CREATION)) == 1


@pytest.mark.parametrize("name", [n for n in STANDARD if not hasattr(getattr(array_api_strict, n), "_np_dtype")])
def test_every_function_of_the_standard_is_in_one_table(name):
    homes = [t for t in (ELEMENTWISE, GENERAL, DEFINED, CONSTANT, PLAIN, CREATION) if name in t]
    assert len(homes) == 1, f"{name} is in {len(homes)} tables"
    assert name in autodiff.covered_names()
