"""Arrays that backward needs cannot be written to until the gradient is there, and can again afterwards."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

import xdev
from xdev.testing import assert_close
from xdev.transfer import to_numpy

pytestmark = pytest.mark.xdev_backends(only=("numpy", "strict"), scoped=False, reason="their arrays can be locked")

SAYS = "an array was written to that backward needs.*Write to a copy"


def _sum(x):
    return xdev.namespace(x).sum(x)


@pytest.mark.parametrize("write", ["item", "in place"])
def test_a_captured_array_is_not_written_to(xp, write):
    scale = xp.ones(3)

    def loss(x):
        y = x * scale
        if write == "item":
            scale[0] = 5.0
        else:
            scale[...] *= 5.0
        return _sum(y)

    with pytest.raises(xdev.GradientError, match=SAYS):
        xdev.grad(loss)(xp.ones(3))
    scale[0] = 2.0
    assert to_numpy(scale)[0] == 2.0


@pytest.mark.parametrize("which", [0, 1])
def test_arguments_are_not_written_to(xp, which):
    args = [xp.ones(3), xp.ones(3)]

    def loss(x, y):
        product = x * y
        args[which][0] = 5.0
        return _sum(product)

    with pytest.raises(xdev.GradientError, match=SAYS):
        xdev.grad(loss)(*args)
    args[which][0] = 2.0


def test_an_index_is_not_written_to(xp):
    index = xp.asarray([0, 2])

    def loss(x):
        chosen = xdev.namespace(x).take(x, index, axis=0)
        index[0] = 1
        return _sum(chosen)

    with pytest.raises(xdev.GradientError, match=SAYS):
        xdev.grad(loss)(xp.ones(3))


def test_what_backward_does_not_need_may_be_written_to(xp):
    shift = xp.ones(3)

    def loss(x):
        y = x + shift
        shift[0] = 5.0
        return _sum(y * y)

    assert_close(to_numpy(xdev.grad(loss)(xp.ones(3))), np.full(3, 4.0))


def test_a_pullback_keeps_its_arrays(xp):
    x = xp.asarray([1.0, 2.0])
    value, pull = xdev.vjp(lambda x: xdev.namespace(x).exp(x), x)
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 0.0
    value[...] = 0.0  # the value is the caller's own
    assert_close(to_numpy(pull(xp.ones(2))[0]), np.exp([1.0, 2.0]))
    del pull
    gc.collect()
    x[0] = 0.0


def test_everything_opens_after_an_exception(xp):
    x, scale = xp.ones(3), xp.ones(3)

    def loss(x):
        _sum(x * scale)
        raise KeyError("stop")

    with pytest.raises(KeyError):
        xdev.grad(loss)(x)
    x[0], scale[0] = 2.0, 2.0


def test_nested_differentiations_open_once_all_are_done(xp):
    x, scale = xp.ones(3), xp.ones(3)
    assert_close(to_numpy(xdev.grad(lambda x: _sum(xdev.grad(lambda x: _sum(x**3 * scale))(x)))(x)), np.full(3, 6.0))
    x[0], scale[0] = 2.0, 2.0


@pytest.mark.xdev_backends(only=("numpy",), reason="views and flags are NumPy's", scoped=False)
class TestNumpy:
    def test_what_was_read_only_stays_so(self):
        x = np.ones(3)
        x.flags.writeable = False
        xdev.grad(_sum)(x)
        assert not x.flags.writeable

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_a_view_and_its_base_open_in_either_order(self, order):
        base = np.ones(4)
        arrays = [base, base[1:]]
        first, second = (arrays[k] for k in order)
        xdev.grad(lambda x: _sum(x * first[:3]) + _sum(x * second[:3] * first[0] * second[0]))(np.ones(3))
        assert base.flags.writeable
        assert arrays[1].flags.writeable

    def test_a_view_whose_base_another_keeps_opens_later(self):
        base = np.ones(4)
        view = base[1:]
        _, pull_view = xdev.vjp(lambda x: x * 2.0, view)
        _, pull_base = xdev.vjp(lambda x: x * 2.0, base)
        del pull_view
        assert not view.flags.writeable
        del pull_base
        assert base.flags.writeable
        xdev.grad(_sum)(np.ones(2))
        assert view.flags.writeable

    def test_memory_of_others_is_left_alone(self):
        x = np.frombuffer(bytearray(24), dtype=np.float64)
        xdev.grad(lambda x: _sum(x * x))(x)
        assert x.flags.writeable

    def test_threads_share_arrays(self):
        x, scale = np.ones(100), np.full(100, 3.0)
        wrong = []

        def work():
            for _ in range(50):
                gradient = xdev.grad(lambda x: _sum(x * x * scale))(x)
                if not np.array_equal(gradient, np.full(100, 6.0)):
                    wrong.append(gradient)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert x.flags.writeable
        assert scale.flags.writeable
