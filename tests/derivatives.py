"""Values and derivatives of the calls of `cases` on any device, and what they should be.

Requirements: what they should be comes of NumPy's values by finite differences: first derivatives of the values, second
ones of the first. Everything is in float64 and complex128, and found once a process.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

import xdev
from xdev.device import device_of_array, native_of

from .cases import make

__all__ = ["Derivatives", "compiled", "derivatives", "flat_orders", "orders", "passes"]

WEIGHTS = np.random.default_rng(7).uniform(0.3, 1.0, size=500)
STEP = 1e-6


@dataclass(frozen=True)
class Derivatives:
    """What a loss on a device is, as NumPy's arrays.

    Attributes
    ----------
    found : list
        The value, the gradient by each argument, and the gradient of that gradient along fixed directions; fewer
        where an error came.
    error : Exception or None
        That error.
    devices : set
        Where the first gradient was.
    """

    found: list
    error: Exception | None = None
    devices: frozenset = frozenset()


def loss(call, arrays):
    """Return a real scalar that depends on all outputs with different weights, not linearly."""
    xp = xdev.namespace(*arrays)
    y = call(xp, *arrays)
    if xp.isdtype(y.dtype, "complex floating"):
        y = xp.add(xp.real(y), xp.multiply(xp.imag(y), 0.7))
    weights = WEIGHTS[: int(np.prod(y.shape))].reshape(tuple(y.shape))
    return xp.sum(xp.sin(xp.multiply(y, xp.asarray(weights, dtype=y.dtype))))


def along(gradient, directions):
    """Return Re(sum of gradient times direction)."""
    total = None
    for g, d in zip(gradient, directions, strict=True):
        xp = xdev.namespace(g)
        product = xp.multiply(g, d)
        part = xp.sum(xp.real(product) if xp.isdtype(product.dtype, "complex floating") else product)
        total = part if total is None else xp.add(total, part)
    return total


def _steps(samples):
    rng = np.random.default_rng(3)
    return [[rng.normal(size=np.shape(x)) for x in samples] for _ in range(2)]


def compiled(f):
    """Return `f` compiled by JAX with few passes over the code: a third of the time of call by call."""
    import jax

    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    quick = jax.jit(f, compiler_options=options)

    def call(*args):
        try:
            return quick(*args)
        except Exception:  # noqa: BLE001  what works only outside, such as masks, is done there or raises again
            return f(*args)

    return call


def nested(f, arrays, directions, device):
    """Return the derivatives of `f`, which takes a list of arrays and returns (value, auxiliary)."""
    gradient = xdev.value_and_grad(f, has_aux=True)

    def bent(xs):
        value, first = gradient(xs)
        return along(first, directions), (value, first)

    def to_second_order(xs):
        (_, (value, first)), second = xdev.value_and_grad(bent, has_aux=True)(xs)
        return value, first, second

    error, on_jax = None, device.backend.name == "jax"
    for attempt in (to_second_order, gradient, lambda xs: (f(xs),)):
        try:
            (value, aux), *rest = (compiled(attempt) if on_jax else attempt)(arrays)
        except Exception as raised:  # noqa: BLE001  whatever a framework raises is what happens
            error = error or raised
            continue
        where = frozenset(_device(x) for x in rest[0]) if rest else frozenset()
        return Derivatives(xdev.to_numpy([value, *rest]), error, where), aux
    return Derivatives([], error), None


def _device(x):
    return device_of_array(*native_of(x))


@functools.cache
def derivatives(name, k, device):
    """Return the loss of a case on a device, its gradient, and the gradient of that."""
    samples, call = make(name, k)
    with xdev.precision("float64"), device.scope():
        arrays = [device.xp.asarray(x) for x in samples]
        directions = [device.xp.asarray(d) for d in _steps(samples)[0]]
        return nested(lambda xs: (loss(call, xs), ()), arrays, directions, device)[0]


@functools.cache
def _expected(name, k):
    """Return the loss of a case on NumPy, and its first and second derivative along fixed steps."""
    samples, call = make(name, k)
    directions, tangents = _steps(samples)
    values, slopes = [], []
    gradient = xdev.value_and_grad(lambda xs: loss(call, xs))
    for step in (STEP, -STEP):
        shifted = [np.asarray(x + step * t) for x, t in zip(samples, tangents, strict=True)]
        value, slope = gradient(shifted)
        values.append(float(value))
        slopes.append(float(along(slope, directions)))
    differences = [(ahead - behind) / (2 * STEP) for ahead, behind in (values, slopes)]
    return [float(loss(call, [np.asarray(x) for x in samples])), *differences]


def orders(name, k, device):
    """Return how many of value, first and second derivative of a case are right on a device, in this order."""
    tangents = _steps(make(name, k)[0])[1]
    right = 0
    for found, wanted in zip(derivatives(name, k, device).found, _expected(name, k), strict=False):
        number = float(along(found, tangents)) if right else float(found)
        if not abs(number - wanted) <= (2e-6 if right else 1e-9) * max(1.0, abs(wanted)):
            break
        right += 1
    return right


FLAT_SAMPLE = np.random.default_rng(5).normal(size=5) * 2


def flat_orders(call, device):
    """Return how many of value, first and second derivative of a function are right, if it is flat.

    The loss is its sum times the sum of squares, so that the derivatives are those of the squares.
    """

    def f(xs):
        xp = xdev.namespace(*xs)
        y = call(xp, *xs)
        total = xp.sum(xp.astype(xp.reshape(y, (-1,)), xs[0].dtype))
        return xp.multiply(total, xp.sum(xp.square(xs[0]))), y

    expected = np.asarray(call(xdev.device("numpy").xp, FLAT_SAMPLE))
    total = np.sum(expected.astype(np.float64))
    with xdev.precision("float64"), device.scope():
        xs = [device.xp.asarray(FLAT_SAMPLE)]
        ones = [device.xp.ones((5,), dtype=xs[0].dtype)]
        got = nested(f, xs, ones, device)[0].found
        value = xdev.to_numpy(call(device.xp, *xs))
    wanted = [total * np.sum(FLAT_SAMPLE**2), [2 * total * FLAT_SAMPLE], [2 * total * np.ones(5)]]
    right = int(value.shape == expected.shape and np.array_equal(value, expected))
    while right and right < len(got) and np.allclose(got[right], wanted[right], rtol=1e-9, atol=1e-12):
        right += 1
    return right


def passes(call, device):
    """Return 1 if a function gives under differentiation what it gives on NumPy, else 0."""

    def f(x):
        xp = xdev.namespace(x)
        return xp.sum(xp.square(x)), call(xp, x)

    with xdev.precision("float64"), device.scope():
        try:
            got = xdev.to_numpy(xdev.grad(f, has_aux=True)(device.xp.asarray(FLAT_SAMPLE))[1])
        except Exception:  # noqa: BLE001  whatever a framework raises is what happens
            return 0
    wanted = call(xdev.device("numpy").xp, FLAT_SAMPLE)
    return int(np.array_equal(np.asarray(got), np.asarray(wanted)))
