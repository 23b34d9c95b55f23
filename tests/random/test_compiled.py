"""Draws within `xdev.jit`: the numbers of an eager generator, whatever the compiler makes of sums and products."""

import numpy as np
import pytest

import xdev
from xdev.random import Generator
from xdev.random import fill as fill_module

P = [0.1, 0.2, 0.3, 0.4]

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
}
EXACT_64 = {
    "uniform": lambda rng: rng.uniform(100_000, low=-0.1, high=0.7),
    "exponential": lambda rng: rng.exponential(100_000, scale=1.7),
}
WITHIN_4_ULP = {
    "normal": lambda rng: rng.normal(1_000_000),
    "truncated normal": lambda rng: rng.truncated_normal(1_000_000),
    "truncated normal of a tail": lambda rng: rng.truncated_normal(100_000, low=2.5, high=np.inf),
    "truncated normal of one side": lambda rng: rng.truncated_normal(100_000, low=-0.1, high=3),
}


def ulps(a, b):
    bits = [x.view(f"int{8 * x.dtype.itemsize}").astype(np.int64) for x in (a, b)]
    lowest = np.iinfo(f"int{8 * a.dtype.itemsize}").min
    first, second = (np.where(x < 0, lowest - x, x) for x in bits)
    return int(np.max(np.abs(first - second), initial=0))


def compiled(device, draw):
    """Return a second draw of a compiled function, on the host, and that of an eager generator of NumPy."""
    step = xdev.jit(lambda rng: (draw(rng), rng))
    _, rng = step(Generator(2**40 + 3, device))
    made, rng = step(rng)
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
        step = xdev.jit(lambda rng: (EXACT[name](rng), rng))
        made = device.backend.to_host(step(Generator(1, device))[0])
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
    if name == "normal":  # Box and Muller: a cosine near 0 keeps no relative precision
        np.testing.assert_allclose(made, expected, rtol=1e-13, atol=1e-14)
        return
    assert ulps(made, expected) <= 4
    with xdev.precision("float64"):
        assert ulps(eager, WITHIN_4_ULP[name](Generator(5, "numpy"))) <= 4


def test_normals_of_a_mean_are_the_scaled_ones_when_compiled(device):
    def both(rng):
        return rng.normal(100_000, mean=3.0, std=0.7), rng

    step = xdev.jit(both)
    made, _ = step(Generator(1, device))
    plain, _ = xdev.jit(lambda rng: (rng.normal(100_000), rng))(Generator(1, device))
    expected = device.backend.to_host(plain) * np.float32(0.7) + np.float32(3.0)
    assert ulps(device.backend.to_host(made), expected) == 0


def test_exact_draws_are_the_same_without_views(device, monkeypatch):
    monkeypatch.setattr(fill_module, "_view", lambda x: None)
    made, expected = compiled(device, EXACT["exponential"])
    np.testing.assert_array_equal(made, expected)


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
