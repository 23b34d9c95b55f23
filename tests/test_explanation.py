"""Errors of arrays on different devices that a function takes from outside: named, with the line that mends it."""

import functools

import numpy as np
import pytest

import xdev
from xdev import optim
from xdev.explanation import captured
from xdev.registry import backend_of

FORMS = {
    "on the right": lambda x, c, xp: x * c,
    "on the left": lambda x, c, xp: c * x,
    "a function": lambda x, c, xp: xp.multiply(x, c),
    "where": lambda x, c, xp: xp.where(x > 0, x, c),
    "an op": lambda x, c, xp: xdev.ops.mse(x, c),
}
TAKEN = {
    ("numpy", "torch"): ("where",),
    ("numpy", "jax"): tuple(FORMS),
    ("numpy", "strict"): ("on the right", "a function", "where"),
    ("jax", "numpy"): ("on the right", "on the left", "a function", "where"),
}
"""Foreign arrays that a framework takes by itself, as host arrays: nothing is raised."""


def loss_with(c, form):
    def loss(x):
        xp = xdev.namespace(x)
        return xp.sum(FORMS[form](x, c, xp))

    return loss


def raises_about(device, other, name="c", function="loss"):
    return pytest.raises(
        xdev.DeviceMismatchError,
        match=rf"the arguments are on {device}; {name}, which {function} takes from outside, is on {other}\. "
        rf'Move it: {name} = xdev\.to_device\({name}, "{device}"\)',
    )


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")  # NumPy's, on multiplying by a tensor
@pytest.mark.parametrize("form", FORMS)
def test_a_captured_array_of_another_device_is_named(device, form):
    x = device.xp.ones(3, dtype=device.xp.float32)
    for other in xdev.devices():
        if other == device:
            continue
        loss = loss_with(xdev.to_device(np.ones(3, np.float32), other, copy=True), form)
        taken = TAKEN.get((device.backend.name, other.backend.name), ())
        if form in taken and other.kind == "cpu":
            assert backend_of(xdev.grad(loss)(x)) is device.backend
        else:
            with raises_about(device, other):
                xdev.grad(loss)(x)


def foreign(device):
    """An array that no function of that device takes."""
    other = xdev.device("strict:device1" if device.backend != "strict" else "torch:cpu")
    return xdev.to_device(np.ones(3, np.float32), other, copy=True), other


@pytest.mark.parametrize("how", ["grad", "vjp", "jit", "make_step", "fit"])
def test_everything_that_runs_a_users_function_names_it(device, how):
    c, other = foreign(device)
    x = device.xp.ones(3, dtype=device.xp.float32)

    def loss(model, *batch):
        xp = xdev.namespace(model)
        return xp.sum(xp.multiply(model, c))

    optimizer = optim.sgd(0.1)
    with raises_about(device, other):
        if how == "grad":
            xdev.grad(loss)(x)
        elif how == "vjp":
            xdev.vjp(loss, x)
        elif how == "jit":
            xdev.jit(loss)(x)
        elif how == "make_step":
            xdev.make_step(lambda model, batch: loss(model), optimizer)(xdev.TrainState.create(x, optimizer), x)
        else:
            xdev.fit(x, lambda model, batch: loss(model), np.ones((4, 3), np.float32), optimizer=optimizer)


# -- what a function takes from outside -------------------------------------------------------------------------------

TABLE = {"weights": [np.zeros(1), np.zeros(2)]}


def helper(x):
    return x * TABLE["weights"][1]


class Model:
    def __init__(self):
        self.scale = np.zeros(4)

    def loss(self, x):
        return x * self.scale

    def __call__(self, x):
        return helper(x)


def names(function):
    return [name for _, name, _ in captured(function)]


def test_what_a_function_takes_from_outside():
    c, later = np.zeros(3), {"d": np.zeros(5)}
    assert names(lambda x: x * c) == ["c"]
    assert names(lambda x: x * later["d"]) == ["later['d']"]
    assert names(lambda xs: [(lambda x: helper(x) + c)(x) for x in xs]) == [
        "c", "TABLE['weights'][0]", "TABLE['weights'][1]",
    ]  # fmt: skip
    assert names(functools.partial(lambda x, y, *, z: x, c, z=later)) == ["args[0]", "z['d']"]
    assert names(Model()) == ["TABLE['weights'][0]", "TABLE['weights'][1]"]
    assert names(np.sum) == names(len) == names(int) == []


def test_attributes_of_objects_are_not_searched():
    """An object that is no tree is nobody's array; what it holds stays unknown, and the framework's error stands."""
    assert names(Model().loss) == []


def test_a_name_without_a_value_is_passed_over():
    def outer():
        def loss(x):
            return x * later

        found = names(loss)
        later = np.zeros(3)
        return found, names(loss), later

    assert outer()[:2] == ([], ["later"])


def test_an_array_that_the_error_does_not_speak_of_is_not_blamed(device):
    """A host array beside the function is no reason for an error of shapes."""
    if device.is_host:
        pytest.skip("the host's own")
    table = np.zeros(7)

    def loss(x):
        assert table.shape == (7,)
        xp = xdev.namespace(x)
        return xp.sum(xp.matmul(x, xp.ones((5, 2))))

    with pytest.raises(Exception) as caught:  # noqa: PT011  each framework raises its own
        xdev.grad(loss)(device.xp.ones(3))
    assert not isinstance(caught.value, xdev.DeviceMismatchError)


@pytest.mark.parametrize("mistake", ["attribute", "len"])
def test_an_error_of_something_else_stays_what_it_is(device, mistake):
    table, _ = foreign(device)

    def loss(x):
        assert table.shape == (3,)
        return xdev.namespace(x).summ(x) if mistake == "attribute" else len(3)

    with pytest.raises(AttributeError if mistake == "attribute" else TypeError) as caught:
        xdev.grad(loss)(device.xp.ones(3, dtype=device.xp.float32))
    assert not isinstance(caught.value, xdev.DeviceMismatchError)


@pytest.mark.xdev_backends(exclude=["numpy"], reason="the host's own")
def test_a_local_array_does_not_explain_an_error_of_the_users(device):
    other = np.ones(2, np.float32)

    def loss(x):
        mine = other
        raise ValueError(f"my own error after {mine.sum()}")

    with pytest.raises(ValueError, match=r"^my own error after 2"):
        xdev.grad(loss)(xdev.to_device(np.ones(2, np.float32), device))


@pytest.mark.xdev_backends(only=["jax"], reason="the others do not mix with arrays of the host")
def test_an_argument_on_its_way_to_the_host_does_not_blame_an_array_of_the_host(device):
    mean = np.ones(2, np.float32)
    with pytest.raises(xdev.TracedValueError, match=r"^a function of NumPy needs the value of an array"):
        xdev.grad(lambda w: (w * mean).sum() + np.asarray(w).sum())(device.xp.ones(2))


@pytest.mark.parametrize("mistake", ["a call", "a text"])
def test_a_mistake_beside_a_foreign_array_is_the_users_own(device, mistake):
    other, _ = foreign(device)

    def loss(x):
        mine = other
        if mistake == "a text":
            raise ValueError(f"expected {type(mine)} of {mine.shape}")
        return int("x")

    with pytest.raises(ValueError, match=r"expected|invalid literal") as caught:
        xdev.grad(loss)(device.xp.ones(3, dtype=device.xp.float32))
    assert not isinstance(caught.value, xdev.DeviceMismatchError)


@pytest.mark.xdev_backends(only=["torch"], reason="its operators go through __array__")
def test_an_operator_of_the_host_is_told_and_a_conversion_is_not(device):
    mean = np.ones(2, np.float32)
    x = device.xp.ones(2)
    with raises_about(device, "numpy:cpu:0", name="mean", function="left"):

        def left(w):
            return (mean * w).sum()

        xdev.grad(left)(x)
    with pytest.raises(RuntimeError, match=r"Can't call numpy\(\)"):
        xdev.grad(lambda w: (w * device.xp.asarray(mean)).sum() + float(np.asarray(w).sum()))(x)


def test_a_backend_translates_errors_of_its_framework(device, monkeypatch):
    class TranslatedError(RuntimeError):
        pass

    def translate(self, error):
        return TranslatedError(f"told: {error}") if isinstance(error, ValueError) else None

    monkeypatch.setattr(type(device.backend), "translate_error", translate)

    def loss(x):
        raise ValueError("raw")

    with pytest.raises(TranslatedError, match=r"^told: raw$") as caught:
        xdev.grad(loss)(device.xp.ones(3))
    assert isinstance(caught.value.__cause__, ValueError)
