"""`xdev.at` on every backend, against `jax.numpy`'s own: values, gradients, repeated indices, errors."""

import numpy as np
import pytest

import xdev
from xdev.errors import ArrayTypeError
from xdev.testing import assert_close

jax = pytest.importorskip("jax")

X = np.arange(1.0, 7.0, dtype=np.float32).reshape(2, 3)
V = np.asarray([2.0, 3.0, 4.0], np.float32)
METHODS = ("set", "add", "subtract", "multiply", "divide", "power", "min", "max")
INDICES = {"a row": (0, ...), "slices": (slice(None), slice(0, 3)), "all": (...,)}


def oracle(name, index):
    def loss(x, v):
        chosen = x.at[index]
        return (chosen.add(-v) if name == "subtract" else getattr(chosen, name)(v)).sum() ** 2

    return xdev.to_numpy(jax.value_and_grad(loss, (0, 1))(jax.numpy.asarray(X), jax.numpy.asarray(V)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("index", INDICES)
def test_values_and_gradients(name, index, device):
    def loss(x, v):
        y = getattr(xdev.at(x)[INDICES[index]], name)(v)
        return xdev.namespace(y).sum(y) ** 2

    x, v = xdev.to_device((X, V), device, copy=True)
    found = xdev.value_and_grad(loss, (0, 1))(x, v)
    assert_close(xdev.to_numpy(found), oracle(name, INDICES[index]), rtol=1e-4)
    assert_close(xdev.to_numpy(x), X, rtol=0, atol=0)


@pytest.mark.xdev_backends(exclude=["strict"], reason="the standard has no such index")
@pytest.mark.parametrize("name", ["add", "subtract"])
def test_repeated_indices_add(name, device):
    rows = np.asarray([0, 0, 1], np.int32)

    def loss(x, v):
        y = getattr(xdev.at(x)[xdev.to_device(rows, device)], name)(v)
        return xdev.namespace(y).sum(y * y)

    x, v = xdev.to_device((X, V), device, copy=True)
    sign = 1 if name == "add" else -1
    expected = X.copy()
    np.add.at(expected, rows, sign * V)
    value, (of_x, of_v) = xdev.value_and_grad(loss, (0, 1))(x, v)
    assert_close(xdev.to_numpy(value), np.asarray((expected**2).sum(), np.float32))
    assert_close(xdev.to_numpy(of_x), 2 * expected)
    assert_close(xdev.to_numpy(of_v), sign * 2 * (2 * expected[0] + expected[1]))


def test_masks_and_integers(device):
    x = xdev.to_device(X, device, copy=True)
    mask = xdev.to_device(X > 2, device, copy=True)
    assert xdev.to_numpy(xdev.at(x)[mask].set(0.0)).tolist() == [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    assert xdev.to_numpy(xdev.at(x)[mask].add(1.0)).tolist() == [[1.0, 2.0, 4.0], [5.0, 6.0, 7.0]]
    whole = xdev.to_device(np.asarray([1, 2, 3], np.int32), device, copy=True)
    changed = xdev.at(whole)[1:].max(3)
    assert xdev.to_numpy(changed).tolist() == [1, 3, 3]
    assert changed.dtype == whole.dtype
    assert xdev.to_numpy(whole).tolist() == [1, 2, 3]


def test_within_jit(device):
    x = xdev.to_device(X, device, copy=True)
    assert xdev.to_numpy(xdev.jit(lambda x: xdev.at(x)[0, ...].set(0.0))(x))[0].tolist() == [0.0, 0.0, 0.0]


def test_only_the_values_may_be_differentiated(device):
    x, v = xdev.to_device((X, V), device, copy=True)
    for name, expected in (("set", 2 * V), ("add", 2 * (V + X[0])), ("multiply", 2 * V * X[0] ** 2)):

        def loss(v, name=name):
            y = getattr(xdev.at(x)[0, ...], name)(v)
            return xdev.namespace(y).sum(y * y)

        assert_close(xdev.to_numpy(xdev.grad(loss)(v)), expected)


def test_bad_input():
    with pytest.raises(ArrayTypeError, match=r"at takes an array, got a list; lists become arrays by xdev\.asarray"):
        xdev.at([1, 2])
    with pytest.raises(ArrayTypeError, match=r"at\(x\) needs an index before the update"):
        xdev.at(np.ones(2)).set(3.0)


@pytest.mark.xdev_backends(exclude=["strict"], reason="the standard has no such index")
@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (lambda at, x, v: at.set(v[:2]), [0.0, 1.0, 1.0, 0.0, 2.0, 0.0]),
        (lambda at, x, v: at.set(v[0]), [0.0, 1.0, 1.0, 2.0, 0.0, 0.0]),
        (lambda at, x, v: at.multiply(3.0), [6.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
        (lambda at, x, v: at.power(2.0), [4.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
        (lambda at, x, v: at.add(v[:2]), [2.0, 1.0, 1.0, 2.0, 2.0, 0.0]),
    ],
)
def test_gradients_where_an_index_stands_twice(xp, update, expected):
    index = xp.asarray([0, 0])

    def loss(x, v):
        return xdev.namespace(x).sum(update(xdev.at(x)[index], x, v) * xp.asarray([2.0, 1.0, 1.0]))

    found = xdev.grad(loss, argnums=(0, 1))(xp.asarray([1.0, 2.0, 3.0]), xp.asarray([4.0, 5.0, 6.0]))
    assert [float(g) for gradient in found for g in xdev.to_numpy(gradient)] == expected
