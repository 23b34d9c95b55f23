"""Arrays that backward needs cannot be written to until the gradient is there, and can again afterwards."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import xdev
from xdev.locking import Locks
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


@pytest.mark.xdev_backends(only=("numpy", "strict", "cupy"), scoped=False, reason="the others have pullbacks")
def test_a_pullback_goes_by_the_arrays_that_it_met(xp):
    x, scale, number = xp.asarray([1.0, 2.0]), xp.asarray([3.0, 4.0]), xp.asarray([2, 2])
    value, pull = xdev.vjp(lambda t: xdev.namespace(t["x"]).exp(t["x"]) * (t["x"] * scale), {"x": x, "n": number})
    for array in (x, scale, value):
        array[...] = 0.0
    at, factor = np.asarray([1.0, 2.0]), np.asarray([3.0, 4.0])
    assert_close(to_numpy(pull(xp.ones(2))[0]["x"]), np.exp(at) * factor * (1 + at))


@pytest.mark.xdev_backends(only=("numpy", "strict", "cupy"), scoped=False, reason="the others have pullbacks")
def test_a_pullback_goes_by_the_constants_that_it_met(xp):
    x, n = xp.asarray([1.0, 2.0]), xp.asarray([0, 1])
    _, pull = xdev.vjp(lambda t: xdev.namespace(t["x"]).take(t["x"], t["n"], axis=0) ** 2, {"x": x, "n": n})
    n[...] = 1
    assert_close(to_numpy(pull(xp.ones(2))[0]["x"]), np.asarray([2.0, 4.0]))


def test_functions_that_need_no_values_lock_nothing(xp):
    buffer = xp.zeros(2)

    def loss(x):
        total = 0.0
        for i in range(3):
            buffer[...] = float(i)
            total = (
                total + _sum(xdev.namespace(x).concat([x, buffer])) + _sum(xdev.namespace(x).where(x > 0, x, buffer))
            )
        return total

    assert_close(to_numpy(xdev.grad(loss)(xp.ones(2))), np.full(2, 6.0))


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

    def test_the_memory_of_a_view_is_not_written_to(self):
        weights = np.ones((2, 2))

        def loss(x):
            y = x @ weights.T
            weights[:] = 5.0
            return _sum(y)

        with pytest.raises(xdev.GradientError, match=SAYS):
            xdev.grad(loss)(np.ones(2))
        assert weights.flags.writeable

    def test_the_last_of_several_opens(self):
        base = np.ones(4)
        view = base[1:]
        first, second = Locks(), Locks()
        first.keep(view)
        second.keep(base)
        second.keep(view)
        first.release()
        assert not base.flags.writeable
        assert not view.flags.writeable
        second.release()
        assert base.flags.writeable
        assert view.flags.writeable
        first.release()

    def test_a_writable_view_of_a_read_only_array_is_left_alone(self):
        base = np.ones(4)
        view = base[:2]
        base.flags.writeable = False
        xdev.grad(_sum)(view)
        assert view.flags.writeable

    def test_views_that_come_out_can_be_written_to(self):
        x = np.ones(3)
        (_, aux), _ = xdev.value_and_grad(lambda x: (_sum(x), x[:2]), has_aux=True)(x)
        aux += 1.0
        assert x[0] == 2.0

    def test_an_interrupt_leaves_nothing_locked(self, monkeypatch):
        arrays = [np.ones(3) for _ in range(4)]
        kept = []

        def interrupted(self, x, keep=Locks.keep):
            kept.append(keep(self, x))
            if len(kept) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(Locks, "keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            xdev.grad(lambda *xs: _sum(xs[0]))(*arrays)
        assert all(x.flags.writeable for x in arrays)

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

    @pytest.mark.parametrize("error", [ValueError("account is read-only"), type("Own", (ValueError,), {})("read-only")])
    def test_errors_of_others_stay_what_they_are(self, error):
        def loss(x):
            raise error

        with pytest.raises(ValueError, match="read-only") as caught:
            xdev.grad(loss)(np.ones(2))
        assert caught.value is error
