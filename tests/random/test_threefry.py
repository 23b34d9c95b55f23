"""The words of Threefry: against published vectors, `jax.random`, and each other on every backend."""

import numpy as np
import pytest

from xdev.random import Generator, RandomError, threefry_bits
from xdev.random import fill as fill_module
from xdev.random.distributions import words32
from xdev.random.fill import BLOCK, BUCKETED, THREADED, fill
from xdev.random.threefry import arrays, counted, signed, words

# kat_vectors of Random123 for threefry2x32 with 20 rounds: counter, key, output.
VECTORS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]
KEYS = [(0, 0), (0, 42), (0x13198A2E, 0x03707344), (0xFFFFFFFF, 0x80000000)]


def host(device, x):
    return device.backend.to_host(x)


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_words_on_the_host_are_the_published_ones(counter, key, expected):
    assert words(key, counter) == expected


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
@pytest.mark.parametrize("key_in_arrays", [False, True])
def test_words_in_arrays_are_the_published_ones(device, counter, key, expected, key_in_arrays):
    xp = device.xp

    def word(value):
        return xp.asarray([signed(value)], dtype=xp.int32)

    made = arrays(tuple(map(word, key)) if key_in_arrays else key, word(counter[0]), word(counter[1]))
    assert tuple(int(host(device, x)[0]) & 0xFFFFFFFF for x in made) == expected


@pytest.mark.parametrize("start", [0, 2**31 - 3, 2**31, 2**32 - 3, 2**32, 2**40 + 2**31 + 5])
@pytest.mark.parametrize("stream", [0, 1])
def test_counters_are_64_bits_wide(device, start, stream):
    made = counted(device.xp, (1, 2), start, start + 3, stream)
    rows = np.stack([host(device, x) for x in made]).view(np.uint32)
    for column, counter in enumerate(range(start, start + 3)):
        high = (counter >> 32) | (stream << 31)
        assert tuple(rows[:, column].tolist()) == words((1, 2), (high, counter & 0xFFFFFFFF))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("shape", [(), 5, (3, 4, 5), (0, 3)])
def test_bits_of_a_key_equal_those_of_jax(device, key, shape):
    jax = pytest.importorskip("jax")
    expected = jax.random.bits(jax.random.wrap_key_data(np.asarray(key, dtype=np.uint32)), shape)
    made = host(device, threefry_bits(key, shape, device))
    assert made.dtype == np.uint32
    np.testing.assert_array_equal(made, np.asarray(expected))


def test_bits_of_a_seed_equal_those_of_jax(device):
    jax = pytest.importorskip("jax")
    rng = Generator(1234, device)
    for draw in range(3):
        expected = jax.random.bits(jax.random.fold_in(jax.random.key(1234), draw), (4, 7))
        np.testing.assert_array_equal(host(device, rng.bits((4, 7))), np.asarray(expected))


def test_children_of_a_seed_have_the_keys_of_jax():
    jax = pytest.importorskip("jax")
    rng = Generator(1234, "numpy")
    rng.bits(1)
    expected = jax.random.split(jax.random.fold_in(jax.random.key(1234), 1), 3)
    made = np.stack([child.state["key"] for child in rng.split(3)])
    np.testing.assert_array_equal(made, np.asarray(jax.random.key_data(expected)))


# Sizes at which the way of computing changes: blocks, threads, compiled lengths.
@pytest.mark.parametrize("size", [1, 1023, 1025, BLOCK - 1, BLOCK + 1, 3 * BLOCK, THREADED + 7, BUCKETED + 7])
def test_long_draws_begin_as_short_ones(device, size):
    whole = host(device, threefry_bits((5, 7), size, device))
    assert whole.shape == (size,)
    np.testing.assert_array_equal(whole[:100], host(device, threefry_bits((5, 7), min(size, 100), device)))
    last = words((5, 7), (0, size - 1))
    assert int(whole[-1]) == last[0] ^ last[1]


def test_threads_blocks_and_plain_arrays_give_the_same_words(device, monkeypatch):
    size = 3 * BLOCK + 5
    expected = threefry_bits((5, 7), size, "numpy")
    monkeypatch.setattr(fill_module, "THREADED", 1)
    monkeypatch.setattr(fill_module, "_processors", lambda: 3)
    np.testing.assert_array_equal(host(device, threefry_bits((5, 7), size, device)), expected)
    monkeypatch.setattr(fill_module, "_view", lambda x: None)
    np.testing.assert_array_equal(host(device, threefry_bits((5, 7), size, device)), expected)


def test_a_key_that_lies_on_the_device_gives_the_same_words(device):
    xp = device.xp
    key = (xp.asarray([5], dtype=xp.int32), xp.asarray([7], dtype=xp.int32))
    made = fill(device, key, BLOCK + 3, words32, (), "uint32")
    np.testing.assert_array_equal(host(device, made), threefry_bits((5, 7), BLOCK + 3, "numpy"))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (5, r"got the key 5, expected two integers: threefry_bits\(\(0, 42\)"),
        ((1, 2, 3), r"got the key \(1, 2, 3\), expected two integers"),
        ((0.5, 1), r"a key's word is 0\.5, a float, expected an integer"),
        ((0, 2**32), r"got the key \(0, 4294967296\), expected two integers from 0 to 2\*\*32 - 1"),
    ],
)
def test_bad_keys_are_refused(key, message):
    with pytest.raises(RandomError, match=message):
        threefry_bits(key, 3, "numpy")
