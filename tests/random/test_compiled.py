"""Draws within `xdev.jit`: the numbers of an eager generator, whatever the compiler makes of sums and products."""

import numpy as np
import pytest

import xdev
from xdev.device import device_of
from xdev.random import Generator
from xdev.random import fill as fill_module

P = [0.1, 0.2, 0.3, 0.4]
FLOAT32_MAX, FLOAT64_MAX = float(np.finfo(np.float32).max), float(np.finfo(np.float64).max)

# Draws whose numbers are the same in a compiled function.
EXACT = {
    "bits": lambda rng: rng.bits((3, 50)),
    "uniform": lambda rng: rng.uniform(100_000),
    "uniform of a range": lambda rng: rng.uniform(100_000, low=-0.1, high=0.7),
    "uniform float16": lambda rng: rng.uniform(1000, low=1, high=3, dtype="float16"),
    "uniform bfloat16": lambda rng: rng.uniform(1000, low=1, high=3, dtype="bfloat16"),
    "integers": lambda rng: rng.integers(-3, 12, (7, 11)),
    "bernoulli": lambda rng: rng.bernoulli(0.3, (100, 10)),
    "permutation": lambda rng: rng.permutation(5000),
    "choice": lambda rng: rng.choice(10, (4, 5)),
    "choice without replacement": lambda rng: rng.choice(100, (4, 5), replace=False),
    "choice by weight": lambda rng: rng.choice(4, 1000, p=P),
    "choice by weight without replacement": lambda rng: rng.choice(5000, 900, replace=False, p=[1 / 5000] * 5000),
    "exponential": lambda rng: rng.exponential(100_000, scale=1.7),
    "uniform of a wide range": lambda rng: rng.uniform(1000, low=-1e38, high=1e38),
    "uniform of every float32": lambda rng: rng.uniform(1000, low=-FLOAT32_MAX, high=FLOAT32_MAX),
    "exponential of a large scale": lambda rng: rng.exponential(1000, scale=1e37),
}
EXACT_64 = {
    "uniform": lambda rng: rng.uniform(100_000, low=-0.1, high=0.7),
    "exponential": lambda rng: rng.exponential(100_000, scale=1.7),
    "uniform of a wide range": lambda rng: rng.uniform(1000, low=-1e200, high=1e200),
    "uniform of every float64": lambda rng: rng.uniform(1000, low=-FLOAT64_MAX, high=FLOAT64_MAX),
    "exponential of a large scale": lambda rng: rng.exponential(1000, scale=1e300),
}
WITHIN_4_ULP = {
    "normal": lambda rng: rng.normal(1_000_000),
    "normal of a large deviation": lambda rng: rng.normal(1000, std=5e37),
    "truncated normal": lambda rng: rng.truncated_normal(1_000_000),
    "truncated normal of a tail": lambda rng: rng.truncated_normal(100_000, low=2.5, high=np.inf),
    "truncated normal of one side": lambda rng: rng.truncated_normal(100_000, low=-0.1, high=3),
}


def ulps(a, b):
    bits = [x.view(f"int{8 * x.dtype.itemsize}").astype(np.int64) for x in (a, b)]
    lowest = np.iinfo(f"int{8 * a.dtype.itemsize}").min
    first, second = (np.where(x < 0, lowest - x, x) for x in bits)
    return int(np.max(np.abs(first - second), initial=0))


def jitted(draw, device):
    """Return a function of a generator alone, compiled: it takes an array as well, by which the backend is known."""
    step, x = xdev.jit(lambda rng, x: (draw(rng), rng)), device.xp.zeros(1)
    return lambda rng: step(rng, x)


def compiled(device, draw):
    """Return a second draw of a compiled function, on the host, and that of an eager generator of NumPy."""
    step = jitted(draw, device)
    _, rng = step(Generator(2**40 + 3, device))
    made, rng = step(rng)
    assert device_of(made) is device
    if not device.backend.capabilities.mutable:
        assert not isinstance(rng._key[0], int)  # it was compiled
    reference = Generator(2**40 + 3, "numpy")
    draw(reference)
    assert rng.state["draws"] == 2
    return device.backend.to_host(made), draw(reference)


@pytest.mark.parametrize("name", EXACT)
def test_exact_draws_are_the_same_when_compiled(device, name):
    dtype = name.split()[-1] if name.endswith("float16") else "float32"
    if not device.backend.holds(dtype, device.info):
        pytest.skip(f"{device} does not hold {dtype}")
    if dtype == "bfloat16":
        made = device.backend.to_host(jitted(EXACT[name], device)(Generator(1, device))[0])
        expected = xdev.device("torch").backend.to_host(EXACT[name](Generator(1, "torch")))
    else:
        made, expected = compiled(device, EXACT[name])
    np.testing.assert_array_equal(made, expected, strict=True)


@pytest.mark.parametrize("name", WITHIN_4_ULP)
def test_normal_draws_agree_to_4_ulp_when_compiled(device, name):
    assert ulps(*compiled(device, WITHIN_4_ULP[name])) <= 4


@pytest.mark.parametrize("name", EXACT_64)
def test_exact_float64_draws_are_the_same_when_compiled(device, name):
    with xdev.precision("float64"):
        if not device.backend.holds("float64", device.info):
            pytest.skip(f"{device} does not hold float64")
        made, expected = compiled(device, EXACT_64[name])
    assert made.dtype == np.float64
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("name", WITHIN_4_ULP)
def test_float64_normal_draws_agree_to_4_ulp_when_compiled(device, name):
    with xdev.precision("float64"):
        if not device.backend.holds("float64", device.info):
            pytest.skip(f"{device} does not hold float64")
        made, expected = compiled(device, WITHIN_4_ULP[name])
        eager = device.backend.to_host(WITHIN_4_ULP[name](Generator(5, device)))
    assert made.dtype == np.float64
    if name.startswith("normal"):  # Box and Muller: a cosine near 0 keeps no relative precision
        np.testing.assert_allclose(made, expected, rtol=1e-13, atol=1e-14)
        return
    assert ulps(made, expected) <= 4
    with xdev.precision("float64"):
        assert ulps(eager, WITHIN_4_ULP[name](Generator(5, "numpy"))) <= 4


def test_normals_of_a_mean_are_the_scaled_ones_when_compiled(device):
    made, _ = jitted(lambda rng: rng.normal(100_000, mean=3.0, std=0.7), device)(Generator(1, device))
    plain, _ = jitted(lambda rng: rng.normal(100_000), device)(Generator(1, device))
    expected = device.backend.to_host(plain) * np.float32(0.7) + np.float32(3.0)
    assert ulps(device.backend.to_host(made), expected) == 0


def test_exact_draws_are_the_same_without_views(device, monkeypatch):
    monkeypatch.setattr(fill_module, "_view", lambda x: None)
    made, expected = compiled(device, EXACT["exponential"])
    np.testing.assert_array_equal(made, expected)


# -- where numbers are made ------------------------------------------------------------------------------


def test_numbers_of_a_compiled_function_are_on_the_generator_s_device(device):
    step = xdev.jit(lambda rng, x: (rng.normal(3), rng.split(1)[0], rng))
    for unused in (device.xp.ones(3), device.backend.xp.ones(3)):  # the second is where the framework makes it
        rng = Generator(7, device)
        for _ in range(2):
            made, child, rng = step(rng, unused)
            assert rng.device is child.device is device
            assert device_of(made) is device
            assert device_of(rng.normal(2)) is device
            assert device_of(child.bits(2)) is device


def test_a_generator_that_passes_through_draws_on_its_device(device):
    elsewhere = xdev.device(device.backend.name)
    x = elsewhere.xp.ones(3)
    step = xdev.jit(lambda rng, x: (x + 1, rng))
    rng = Generator(7, device)
    for _ in range(2):  # what draws later keeps nothing from going on
        made, rng = step(rng, x)
        assert device_of(made) is elsewhere
        assert rng.device is device
        drawn = rng.bits(2)
        assert device_of(drawn) is device
    reference = Generator(7, "numpy")
    reference.bits(2)
    np.testing.assert_array_equal(device.backend.to_host(drawn), reference.bits(2))


def test_a_generator_of_the_first_device_follows_the_arrays(device):
    """As those that are divided over several devices, of which no single one can make the numbers."""
    rng, x = Generator(7, device.backend.name), device.xp.ones(3)
    if device.backend.capabilities.mutable and rng.device is not device:
        pytest.skip(f"{device} compiles nothing")
    step = xdev.jit(lambda rng, x: (rng.uniform(3) + x, rng))
    for _ in range(2):
        made, rng = step(rng, x)
        assert device_of(made) is device
        assert device_of(rng.bits(2)) is rng.device


def test_arrays_elsewhere_are_a_mismatch(device):
    elsewhere = xdev.device(device.backend.name)
    if elsewhere is device or not device.backend.capabilities.lazy:
        pytest.skip(f"{device} compiles nothing, or is the only one")
    step = xdev.jit(lambda rng, x: rng.uniform(3) + x)
    with pytest.raises(xdev.DeviceMismatchError, match="arrays are on different devices"):
        step(Generator(7, device), elsewhere.xp.ones(3))


def test_weights_on_the_device_are_drawn_from_when_compiled(device):
    p = xdev.to_device(np.asarray(P, np.float32), device)

    def draw(rng, p, items):
        return [rng.choice(items, 50, p=p), rng.choice(4, 3, replace=False, p=p)], rng

    items = device.xp.asarray([3, 5, 7, 9], dtype=device.xp.int32)
    made, _ = xdev.jit(draw)(Generator(1, device), p, items)
    reference = Generator(1, "numpy")
    host = np.asarray(P, np.float32)
    expected = [
        np.asarray([3, 5, 7, 9], np.int32)[reference.choice(4, 50, p=host)],
        reference.choice(4, 3, replace=False, p=host),
    ]
    for a, b in zip(made, expected, strict=True):
        np.testing.assert_array_equal(device.backend.to_host(a), b)
