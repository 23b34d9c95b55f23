"""check_gradients: right gradients pass, wrong ones are named, integers are left alone."""

import numpy as np
import pytest

import xdev
from xdev.errors import GradientError
from xdev.testing import check_gradients


def energy(params, x):
    xp = xdev.namespace(x)
    return xp.sum(xp.tanh(x @ params["w"] + params["b"]) ** 2)


def arguments(xp):
    rng = np.random.default_rng(0)
    make = lambda *shape: xp.asarray(rng.normal(size=shape).astype("float32"))  # noqa: E731  one line, used thrice
    return {"w": make(3, 2), "b": make(2)}, make(4, 3)


def test_right_gradients_pass(xp):
    check_gradients(energy, *arguments(xp))


def test_float64_is_checked_closely():
    check_gradients(lambda x: xdev.namespace(x).sum(x**3), np.linspace(-2, 2, 5), rtol=1e-7)


def test_wrong_gradient_is_named():
    def half_hidden(tree):
        # Constant for the gradient but not for the differences, as where a path through it was forgotten.
        return (tree["x"] * xdev.stop_gradient(tree["x"]))[1]

    with pytest.raises(AssertionError) as caught:
        check_gradients(half_hidden, {"x": np.asarray([1.0, 3.0])})
    assert str(caught.value).startswith(
        "the derivative for args[0]['x'][1] is 3, central differences give 6 (they differ by 3, allowed "
    )


def test_every_element_of_small_leaves_is_tried_and_samples_of_large_ones():
    calls = []

    def counted(x):
        calls.append(1)
        return xdev.namespace(x).sum(x * x)

    check_gradients(counted, np.ones((2, 3)))
    assert len(calls) == 1 + 2 * 6
    calls.clear()
    check_gradients(counted, np.ones(100), samples=4)
    assert len(calls) == 1 + 2 * 4


def test_integers_are_not_varied():
    check_gradients(lambda x, n: xdev.namespace(x).sum(x * n), np.ones(2), np.asarray([3, 4]))
    with pytest.raises(GradientError, match="needs a float32 or float64 array among its arguments"):
        check_gradients(lambda n: n, np.asarray(3))


def test_a_function_that_returns_no_array_is_refused():
    with pytest.raises((GradientError, xdev.errors.ArrayTypeError)):
        check_gradients(lambda x: 1.0, np.ones(2))
