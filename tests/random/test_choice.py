"""What is chosen: items of arrays, by weight, with and without replacement; the same on every backend."""

import numpy as np
import pytest

import xdev
from xdev.device import device_of
from xdev.ledger import track_transfers
from xdev.random import Generator, RandomError

LIMIT = 1e-4
WEIGHTS = np.asarray([0.5, 0.0, 0.25, 0.2, 0.05], np.float32)


def host(device, x):
    return device.backend.to_host(x)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", [(), 3, (2, 2), (0, 3)])
def test_items_are_chosen_along_the_first_axis(device, replace, weighted, shape):
    items = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)
    p = WEIGHTS if weighted else None
    rng, places = Generator(8, device), Generator(8, "numpy")
    made = rng.choice(xdev.to_device(items, device), shape, replace=replace, p=p)
    assert device_of(made) is device
    assert made.dtype == device.xp.float32
    expected = items[places.choice(5, shape, replace=replace, p=p)]
    np.testing.assert_array_equal(host(device, made), expected, strict=True)
    assert rng.state["draws"] == places.state["draws"] == 1


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_weights_of_every_dtype_and_place_choose_the_same(device, replace, dtype):
    p = np.tile(np.asarray([1, 2, 3, 10]) / 256, 16)  # exact in each of them
    expected = Generator(8, "numpy").choice(64, 50, replace=replace, p=p)
    made = Generator(8, device).choice(64, 50, replace=replace, p=p.astype(np.dtype(dtype)))
    np.testing.assert_array_equal(host(device, made), expected)
    if device.backend.holds(dtype, device.info):
        wide = xdev.to_device(p.astype(np.float32), device)
        there = device.xp.astype(wide, device.backend.dtype(dtype))
        made = Generator(8, device).choice(64, 50, replace=replace, p=there)
        np.testing.assert_array_equal(host(device, made), expected)


def test_lists_of_weights_are_taken(device):
    made = Generator(8, device).choice(3, 20, p=[0, 1, 0])
    assert host(device, made).tolist() == [1] * 20


def test_weights_from_the_host_are_a_recorded_crossing(device):
    with track_transfers() as ledger:
        Generator(8, device).choice(5, 9, p=WEIGHTS)
    assert ledger.to_device_bytes == (0 if device.is_host else 20)
    p = xdev.to_device(WEIGHTS, device)
    with track_transfers() as ledger, xdev.budget(to_device=0, to_host=0):
        Generator(8, device).choice(5, 9, p=p)
        Generator(8, device).choice(5, 3, p=p, replace=False)
    assert not ledger.records


def test_choices_have_their_probability():
    stats = pytest.importorskip("scipy.stats")
    made = Generator(5, "numpy").choice(5, 1_000_000, p=WEIGHTS)
    counts = np.bincount(made, minlength=5)
    possible = WEIGHTS > 0
    assert counts[1] == 0
    expected = WEIGHTS[possible].astype(np.float64)
    assert stats.chisquare(counts[possible], expected / expected.sum() * made.size).pvalue > LIMIT


def test_many_small_weights_have_their_probability():
    stats = pytest.importorskip("scipy.stats")
    p = np.random.default_rng(0).random(1000)
    p /= p.sum()
    counts = np.bincount(Generator(5, "numpy").choice(1000, 1_000_000, p=p), minlength=1000)
    assert stats.chisquare(counts, p * 1_000_000).pvalue > LIMIT


def test_orders_without_replacement_have_their_probability():
    stats = pytest.importorskip("scipy.stats")
    p = [0.6, 0.3, 0.1]
    seen = {}
    rng = Generator(5, "numpy")
    for _ in range(6000):
        order = tuple(rng.choice(3, 2, replace=False, p=p).tolist())
        seen[order] = seen.get(order, 0) + 1
    expected = {(i, j): p[i] * p[j] / (1 - p[i]) for i in range(3) for j in range(3) if i != j}
    assert set(seen) == set(expected)
    assert stats.chisquare([seen[key] for key in expected], [6000 * v for v in expected.values()]).pvalue > LIMIT


def test_impossible_items_are_never_chosen(device):
    for replace, size in ((True, 1000), (False, 4)):
        made = host(device, Generator(3, device).choice(5, size, p=WEIGHTS, replace=replace))
        assert 1 not in made.tolist()
    assert sorted(made.tolist()) == [0, 2, 3, 4]


REFUSED = {
    "nothing": (lambda rng: rng.choice(0, 3), r"choice got nothing to draw from, and shape \(3,\); pass at least one"),
    "negative": (lambda rng: rng.choice(-2, 3), r"choice got n=-2, expected 0 or more"),
    "list": (
        lambda rng: rng.choice([1, 2], 3),
        r"choice got a list to draw from, expected an integer or an array: rng\.choice\(10, 3\), or rng\.choice\(xdev",
    ),
    "float": (lambda rng: rng.choice(2.0, 3), r"choice got a float to draw from, expected an integer or an array"),
    "no axis": (lambda rng: rng.choice(np.asarray(2.0), 3), r"choice got an array without axes, expected"),
    "too few": (lambda rng: rng.choice(np.ones(3), 4, replace=False), r"choice got shape \(4,\), 4 of 3 items; draw"),
    "p of text": (lambda rng: rng.choice(2, 3, p="ab"), r"p of choice is a str, expected 2 probabilities, or None"),
    "p of texts": (lambda rng: rng.choice(2, 3, p=["a", "b"]), r"p of choice is a list of <U1, expected 2 probabilit"),
    "ragged p": (lambda rng: rng.choice(2, 3, p=[[1], 2]), r"p of choice is a list of object, expected 2 probabiliti"),
    "long p": (lambda rng: rng.choice(2, 3, p=[0.1] * 10), r"p of choice has shape \(10,\), expected \(2,\), a probab"),
    "negative p": (lambda rng: rng.choice(2, 3, p=[1.5, -0.5]), r"p of choice has -0\.5 at place 1, expected probabil"),
    "p with NaN": (lambda rng: rng.choice(2, 3, p=[np.nan, 1]), r"p of choice has nan at place 0, expected probabil"),
    "p of counts": (
        lambda rng: rng.choice(2, 3, p=[3, 5]),
        r"p of choice has the sum 8, expected 1; divide it by its sum: p / p\.sum\(\)",
    ),
    "too few that are possible": (
        lambda rng: rng.choice(3, 3, p=[0.5, 0.5, 0], replace=False),
        r"choice got 2 probabilities that are not 0 in units of 2\*\*-30, fewer than the 3 that it draws without repla",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_are_refused_and_draw_nothing(name):
    call, message = REFUSED[name]
    rng = Generator(0, "numpy")
    with pytest.raises(RandomError, match=message):
        call(rng)
    assert rng.state["draws"] == 0


@pytest.mark.xdev_backends(exclude="numpy", reason="there, NumPy arrays are on the device")
def test_items_and_weights_from_elsewhere_are_refused(device):
    rng = Generator(0, device)
    with pytest.raises(xdev.DeviceMismatchError, match=r"choice got an array on numpy:cpu:0, expected the generator's"):
        rng.choice(np.ones(3), 2)
    p = xdev.to_device(np.asarray([0.5, 0.5], np.float32), device)
    text = rf'choice got p on {device}, expected the generator\'s device, numpy:cpu:0; write xdev.to_device\(x, "numpy'
    with pytest.raises(xdev.DeviceMismatchError, match=text):
        Generator(0, "numpy").choice(2, 2, p=p)
    with pytest.raises(RandomError, match=r"p of choice has dtype .*int32, expected a floating one: probabilities"):
        rng.choice(2, 2, p=device.xp.asarray([0, 1], dtype=device.xp.int32))
    assert rng.state["draws"] == 0


def test_gradients_flow_to_the_items(device):
    def loss(x, rng):
        chosen = rng.choice(x, 2, replace=False, p=[0.5, 0.0, 0.5])
        return xdev.namespace(chosen).sum(chosen * chosen)

    x = device.xp.asarray([1.0, 2.0, 3.0], dtype=device.xp.float32)
    made = xdev.grad(loss)(x, Generator(0, device))
    assert host(device, made).tolist() == [2.0, 0.0, 6.0]
