"""Differentiation under load: many threads, exceptions at any depth, memory over many steps."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import xdev
from xdev import ops
from xdev.autodiff import Primitive
from xdev.autodiff.tape import Tape
from xdev.errors import GradientError
from xdev.testing import assert_close

TAPE = pytest.mark.xdev_backends(exclude=["torch", "jax"], reason="torch and JAX have no tape of xdev's")


def total(x):
    return xdev.namespace(x).sum(x)


def cubes(x):
    return total(x * x * x)


def vector(xp, *values):
    return xp.asarray(np.asarray(values, np.float32))


@xdev.custom_vjp
def doubled(x):
    return x * 2


doubled.defvjp(lambda x: (doubled(x), x), lambda x, g: (g * x,))
squared = xdev.remat(lambda x: x * x)


# -- threads -------------------------------------------------------------------------------------------------------


def _first(x, k):
    assert_close(xdev.grad(cubes)(x), np.float32([3 * k * k, 3.0]), rtol=1e-4)


def _second(x, k):
    found = xdev.grad(lambda v: total(xdev.grad(lambda w: cubes(w) * k)(v) * v))(x)
    assert_close(found, np.float32([9 * k**3, 9.0 * k]), rtol=1e-4)


def _directions(x, k):
    assert_close(xdev.jvp(lambda v: v * v * k, (x,), (x,))[1], np.float32([2 * k**3, 2.0 * k]), rtol=1e-4)
    value, pull = xdev.vjp(lambda v: v * v, x)
    assert_close(pull(value)[0], np.float32([2 * k**3, 2.0]), rtol=1e-4)


def _rules(x, k):
    assert_close(xdev.grad(lambda v: total(doubled(squared(v))))(x), np.float32([2 * k**3, 2.0]), rtol=1e-4)


def _raises(x, k):
    with pytest.raises(ZeroDivisionError):
        xdev.grad(lambda v: total(v) * xdev.grad(lambda w: cubes(w) * (1 / 0))(v)[0])(x)


def test_64_threads_at_once(xp, device):
    """Each is inside its own differentiation while the others are in theirs."""
    failures = []
    together = threading.Barrier(64, timeout=60)
    works = (_first, _second, _directions, _rules, _raises)

    def work(k):
        try:
            with device.scope():
                x = vector(xp, k / 16, 1.0)

                def meeting(v):
                    together.wait()
                    return cubes(v)

                xdev.grad(meeting)(x)
                for n in range(len(works)):
                    works[(k + n) % len(works)](x, k / 16)
        except BaseException as error:  # noqa: BLE001  all of them are told below
            together.abort()
            failures.append((k, error))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 65)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# -- exceptions ----------------------------------------------------------------------------------------------------


class MineError(Exception):
    pass


def fail(*_, **__):
    raise MineError


@xdev.custom_vjp
def fails_forward(x):
    return x


fails_forward.defvjp(fail, lambda residuals, g: (g,))


@xdev.custom_vjp
def fails_backward(x):
    return x * 1


fails_backward.defvjp(lambda x: (fails_backward(x), None), fail)


def nested(f, depth):
    """Return the gradient of the gradient of ... of `f`, as a loss."""
    return f if depth == 0 else lambda x: total(xdev.grad(nested(f, depth - 1))(x))


FAILURES = {
    "in the function": lambda depth: nested(lambda x: fail(), depth),
    "after a gradient": lambda depth: nested(lambda x: total(xdev.grad(cubes)(x)) + fail(), depth),
    "in a forward rule": lambda depth: nested(lambda x: total(fails_forward(x)), depth),
    "in a backward rule": lambda depth: nested(lambda x: total(fails_backward(x * x)), depth),
    "under remat": lambda depth: nested(lambda x: total(xdev.remat(fail)(x)), depth),
    "in a pullback": lambda depth: nested(lambda x: total(xdev.vjp(fails_backward, x)[1](x)[0]), depth),
    "in a direction": lambda depth: nested(lambda x: total(xdev.jvp(fails_backward, (x,), (x,))[1]), depth),
}


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("place", FAILURES)
def test_exceptions_leave_nothing_behind(xp, place, depth):
    x = vector(xp, 1.0, 2.0)
    with pytest.raises(MineError):
        xdev.grad(FAILURES[place](depth))(x)
    gradient = xdev.grad(cubes)(x)
    assert_close(gradient, np.float32([3, 12]))
    assert not getattr(gradient, "requires_grad", False)
    assert_close(xdev.grad(nested(cubes, 1))(x), np.float32([6, 12]))


@TAPE
@pytest.mark.parametrize("place", [*FAILURES, "in a rule of the tape"])
def test_no_tape_outlives_an_exception(xp, place):
    broken = Primitive("broken", lambda xp, x: xp.multiply(x, 2.0), (lambda xp, g, y, x: fail(),))
    x = vector(xp, 1.0, 2.0)
    loss = FAILURES[place](1) if place in FAILURES else lambda x: total(broken(x))
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(MineError):
            xdev.grad(loss)(x)
        assert not [1 for found in gc.get_objects() if type(found) is Tape]
    finally:
        gc.enable()


# -- memory --------------------------------------------------------------------------------------------------------


def model(xp):
    return {"w": vector(xp, 0.5, -0.5), "b": [vector(xp, 0.1), None]}


def loss(params, x):
    xp = xdev.namespace(x)
    return xp.mean(xp.tanh(x * params["w"] + params["b"][0]) ** 2)


def growth(call, times):
    """Return how many containers and blocks of memory that many calls leave, with nothing that collects cycles."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            call()
        containers, blocks = len(gc.get_objects()), sys.getallocatedblocks()
        for _ in range(times):
            call()
        return len(gc.get_objects()) - containers, sys.getallocatedblocks() - blocks
    finally:
        gc.enable()


@pytest.mark.xdev_backends(only=["numpy"], reason="10,000 steps take the others too long")
def test_memory_is_flat_over_ten_thousand_steps(xp):
    params, x = model(xp), vector(xp, 1.0, 2.0)
    step = xdev.value_and_grad(loss)
    containers, blocks = growth(lambda: step(params, x), 10_000)
    assert containers < 100
    assert blocks < 5_000  # Python keeps up to 2,000 tuples of each length for later


def _refused(f):
    def call(x):
        try:
            f(x)
        except (GradientError, MineError):
            return
        raise AssertionError("it was not refused")

    return call


STEPS = {
    "auxiliary": lambda x: xdev.value_and_grad(lambda x: (cubes(x), {"x": x * 2, "n": 3}), has_aux=True)(x),
    "second order": lambda x: xdev.grad(nested(cubes, 1))(x),
    "third order": lambda x: xdev.grad(nested(cubes, 2))(x),
    "vjp": lambda x: xdev.vjp(lambda x: {"y": x * x}, x)[1]({"y": x}),
    "jvp": lambda x: xdev.jvp(lambda x: x * x, (x,), (x,)),
    "hessian": lambda x: xdev.hessian(cubes)(x),
    "hvp": lambda x: xdev.hvp(cubes, (x,), (x,)),
    "remat": lambda x: xdev.grad(nested(lambda x: total(squared(squared(x))), 1))(x),
    "custom_vjp": lambda x: xdev.grad(nested(lambda x: total(doubled(x)), 1))(x),
    "several outputs": lambda x: xdev.grad(lambda x: sum(list(xdev.namespace(x).unstack(x * x))))(x),
    "an update": lambda x: xdev.grad(lambda x: cubes(xdev.at(x)[0].set(3.0)))(x),
    "jit": lambda x: xdev.jit(xdev.grad(cubes))(x),
    "an exception": _refused(xdev.grad(lambda x: nested(fail, 1)(x * x))),
    "no scalar": _refused(xdev.grad(lambda x: x * x)),
    "a foreign function": _refused(xdev.grad(lambda x: memoryview(x))),
    "a constant": lambda x: xdev.vjp(lambda x: xdev.stop_gradient(x), x)[1](x),
}


@TAPE
@pytest.mark.parametrize("name", STEPS)
def test_no_reference_cycles(xp, name):
    x = vector(xp, 1.0, 2.0)
    containers, _ = growth(lambda: STEPS[name](x), 50)
    assert containers < 25


@TAPE
def test_no_reference_cycles_in_training(xp):
    optimizer = xdev.optim.adam(1e-3)
    state = xdev.TrainState.create(model(xp), optimizer)
    step, x = xdev.make_step(loss, optimizer), vector(xp, 1.0, 2.0)

    def train():
        nonlocal state
        state, _ = step(state, x)

    assert growth(train, 50)[0] < 25


@TAPE
def test_the_tape_lets_go_of_what_no_gradient_needs(xp):
    held = []

    def loss(weight):
        y = ops.linear(xp.ones((5, 3)), weight)
        held.append(weakref.ref(y.__xdev_value__))
        z = ops.gelu(y)
        del y
        assert held[0]() is None
        return xdev.namespace(z).sum(z)

    gradient = xdev.grad(loss)(xp.full((3, 2), 0.25))
    assert_close(gradient, xp.full((3, 2), 5 * 0.9992257), rtol=1e-5, atol=0)  # the slope at 0.75
