"""Memory that is used again: never while anybody holds the array, or a view of it."""

import threading

import numpy as np
import pytest

import xdev
from xdev import ops
from xdev_numpy.buffers import KEPT, SMALLEST, empty

SHAPE, DTYPE = (SMALLEST // 4 + 1,), np.dtype("float32")


def address(x):
    return x.__array_interface__["data"][0]


def test_an_array_that_nobody_holds_is_given_out_again():
    x = empty(SHAPE, DTYPE)
    before = address(x)
    del x
    assert before in {address(y) for y in [empty(SHAPE, DTYPE) for _ in range(8)]}


@pytest.mark.parametrize("hold", [lambda x: x, lambda x: x[1:], memoryview, lambda x: {"deep": [x.reshape(-1, 1)]}])
def test_what_is_held_is_left_alone(hold):
    held = []
    for number in range(20):  # more than are kept
        x = empty(SHAPE, DTYPE)
        x[...] = number
        held.append(hold(x))
        del x
    for number, kept in enumerate(held):
        kept = kept["deep"][0] if isinstance(kept, dict) else kept
        assert (np.asarray(kept) == number).all()


def test_results_of_kernels_are_never_overwritten():
    x = np.random.default_rng(0).normal(size=(128, 256)).astype("float32")
    w = np.random.default_rng(1).normal(size=(256, 256)).astype("float32")

    def loss(w, x):
        return xdev.namespace(w).sum(ops.relu(ops.linear(x, w)) ** 2)

    results = [(ops.relu(ops.linear(x * k, w)), *xdev.value_and_grad(loss)(w, x * k)) for k in (1.0, 2.0, 3.0, 4.0)]
    for k, (y, _, gradient) in zip((1.0, 2.0, 3.0, 4.0), results, strict=True):
        expected = np.maximum((x * np.float32(k)) @ w, 0)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gradient, (x * np.float32(k)).T @ (2 * expected), rtol=1e-3, atol=1e-2)


def test_threads_do_not_share():
    seen = []

    def work(number):
        for _ in range(50):
            x = empty(SHAPE, DTYPE)
            x[...] = number
            seen.append(bool((x == number).all()))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen)


def test_small_and_huge_arrays_are_not_kept():
    for shape in ((4,), (KEPT // 8,)):
        first = empty(shape, DTYPE)
        second = empty(shape, DTYPE)
        assert address(first) != address(second)
