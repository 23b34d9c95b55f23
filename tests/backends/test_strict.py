"""The pitfalls of array-api-strict, each by name; those that need no more than a line stand in `test_others`."""

import numpy as np
import pytest

import xdev
from xdev.testing import assert_close

strict = pytest.importorskip("array_api_strict")

CPU, OTHER = "strict:cpu", "strict:device1"
X = np.arange(6.0).reshape(2, 3) + 1


@pytest.fixture(params=[CPU, OTHER])
def place(request):
    """A device of strict."""
    return xdev.device(request.param)


# -- what only strict is strict about ----------------------------------------------------------------


def test_vecdot_takes_negative_axes_only_and_so_do_the_rules(place):
    x = place.xp.asarray(X)
    with pytest.raises(ValueError, match="axis must be negative"):
        place.xp.vecdot(x, x, axis=0)
    y = place.xp.asarray(X + 7)
    for axis in (-1, -2):

        def total(x, axis=axis):
            xp = xdev.namespace(x)
            return xp.sum(xp.vecdot(x, y, axis=axis)) + xp.sum(xp.linalg.vecdot(x, y, axis=axis))

        gradient = xdev.grad(total)(x)
        assert xdev.device_of(gradient) is place
        assert_close(gradient, 2 * (X + 7))


def test_constants_stand_on_the_right_of_a_traced_array(place):
    x, c = place.xp.asarray([1.0, 2.0]), place.xp.asarray([3.0, 5.0])
    with pytest.raises(xdev.GradientError, match="an array captured from outside goes on the right of an operator"):
        xdev.grad(lambda x: xdev.namespace(x).sum(c * x))(x)
    for f in (
        lambda x: xdev.namespace(x).sum(x * c),
        lambda x: xdev.namespace(x).sum(xdev.namespace(x).multiply(c, x)),
        lambda x: xdev.namespace(x).sum(xdev.namespace(x).asarray(c) * x),
    ):
        assert_close(xdev.grad(f)(x), np.asarray([3.0, 5.0]))


def test_operators_refuse_other_types_and_functions_of_xdev_name_them(place):
    x = place.xp.asarray([1.0, 2.0])
    for other in (np.ones(2), np.float64(2)):
        with pytest.raises(TypeError, match="Expected Array or Python scalar"):
            x * other
    with pytest.raises(xdev.DeviceMismatchError, match=r"arrays\[1\] is on numpy:cpu:0"):
        xdev.namespace(x, np.ones(2))


# -- devices that pretend ----------------------------------------------------------------------------


def test_a_mix_of_its_devices_is_named():
    x, y = (xdev.device(name).xp.ones(2) for name in (CPU, OTHER))
    with pytest.raises(ValueError, match="two different devices"):
        x + y
    with pytest.raises(xdev.DeviceMismatchError, match=r'arrays\[1\] = xdev\.to_device\(arrays\[1\], "strict:cpu:0"\)'):
        xdev.namespace(x, y)
    with pytest.raises(xdev.DeviceMismatchError, match="strict:device1:0"):
        xdev.value_and_grad(lambda a, b: xdev.namespace(a).sum(a * b))(x, y)


def test_numpy_cannot_read_what_is_off_the_host_and_xdev_counts_it():
    x = xdev.device(OTHER).xp.asarray([1.0, 2.0])
    with pytest.raises(RuntimeError, match="Can't convert array"):
        np.asarray(x)
    assert np.from_dlpack(x).tolist() == [1, 2]  # which strict lets through
    with xdev.track_transfers() as transfers:
        pulled = xdev.to_numpy(x)
    assert [(r.direction, r.kind, r.nbytes) for r in transfers.records] == [("to_host", "copy", 16)]
    pulled[0] = 9
    assert xdev.to_numpy(x).tolist() == [1, 2]
    with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded, match="from strict:device1:0 to numpy"):
        xdev.to_numpy(x)


@pytest.mark.parametrize("narrow", ["no_float64", "no_x64"])
def test_a_device_without_float64_gets_what_it_holds(narrow):
    if narrow not in [info.kind for info in xdev.backend("strict").devices()]:
        pytest.skip("an older array-api-strict")
    device = xdev.device(f"strict:{narrow}")
    made = xdev.to_device({"list": [1.5, 2.5], "x": np.ones(2, np.float32)}, device, dtype="float32")
    assert {str(x.dtype) for x in made.values()} == {"array_api_strict.float32"}
    assert xdev.device_of(made) is device
    gradient = xdev.grad(lambda x: xdev.namespace(x).sum(x * x))(made["list"])
    assert xdev.device_of(gradient) is device
    assert xdev.to_numpy(gradient).tolist() == [3, 5]
    assert xdev.device_of(xdev.random.Generator(0, device).normal(3)) is device
