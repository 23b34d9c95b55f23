"""assert_close and assert_equal: what they accept, what they refuse, and how they say so."""

import numpy as np
import pytest

import xdev.testing
from xdev import registry
from xdev.device import from_handle
from xdev.testing import assert_close, assert_equal
from xdev.testing.compare import TOLERANCES

DTYPES = ("bool", "int8", "int32", "int64", "uint8", *TOLERANCES)


def message(check, *args, **kwargs):
    with pytest.raises(AssertionError) as caught:
        check(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("check", [assert_close, assert_equal])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_arrays_pass_whatever_the_dtype(device, backend, dtype, check):
    if not backend.holds(dtype, device.info):
        pytest.skip(f"{backend} does not hold {dtype}")
    host = np.arange(6).reshape(2, 3).astype(np.dtype(_host_dtype(dtype)))
    x = backend.place(host, device.info, True)
    check({"x": [x]}, {"x": [x]})
    check(x, host)


def _host_dtype(name):
    import ml_dtypes

    return getattr(ml_dtypes, name, name)


def test_worst_element_is_named(xp, device):
    x = xp.asarray([[1.0, 2.0], [3.0, 4.0]], dtype=xp.float32)
    y = xp.asarray([[1.0, 2.5], [4.0, 4.0]], dtype=xp.float32)
    assert message(assert_close, {"w": [x]}, {"w": [y]}) == (
        f"actual['w'][0]: 2 of 4 elements differ by more than rtol=1e-05, atol=1e-06 (float32 on {device})\n"
        "worst at [1, 0]: got 3.0, expected 4.0; they differ by 1, allowed 4.1e-05"
    )


@pytest.mark.parametrize(
    ("actual", "expected", "text"),
    [
        (np.zeros(3), np.zeros(4), "actual: got shape (3,), expected (4,)"),
        (
            np.zeros(3),
            np.zeros(3, np.float32),
            "actual: got dtype float64, expected float32; check_dtype=False allows that",
        ),
        (np.zeros(1), 0.0, "actual: got shape (1,), expected ()"),
        (
            np.asarray([1, 5]),
            np.asarray([1, 7]),
            "actual: 1 of 2 elements differ (int64 on numpy:cpu:0)\n"
            "worst at [1]: got 5, expected 7; they differ by 2, allowed 0",
        ),
        (
            1.0,
            1.5,
            "actual: 1 of 1 element differ by more than rtol=1e-09, atol=1e-12 (Python numbers)\n"
            "it is a scalar: got 1.0, expected 1.5; they differ by 0.5, allowed 1.5e-09",
        ),
        ([1.0, "a"], [1.0, "b"], "actual[1]: got 'a', expected 'b'"),
        (np.zeros(2), "zeros", "actual: got an array of numpy, expected 'zeros' of type str"),
        ("zeros", np.zeros(2), "actual: got 'zeros' of type str, expected an array of numpy"),
        (
            {"a": 1.0, "b": 2.0},
            {"a": 1.0, "c": [2.0]},
            "the trees have different structures; extra: actual['b']; missing: actual['c'][0]",
        ),
    ],
)
def test_message(actual, expected, text):
    assert message(assert_close, actual, expected) == text


def test_lists_and_tuples_differ():
    text = message(assert_close, [1.0], (1.0,))
    assert text.startswith("the trees have different structures; got PyTreeSpec([*]")


def test_namespace_is_checked_before_everything_else(xp):
    other = registry.backend("strict") if xp.__name__ != "array_api_strict" else registry.backend("torch")
    expected = other.place(np.zeros(4), other.devices()[0], True)
    x = xp.zeros(3)
    text = message(assert_close, x, expected)
    name = registry.backend_of(x)
    assert text == f"actual: got an array of {name}, expected an array of {other}; check_namespace=False allows that"


def test_values_compare_across_namespaces_when_asked():
    strict = registry.backend("strict")
    assert_close(np.ones(3), strict.place(np.ones(3), strict.devices()[0], True), check_namespace=False)


def test_device_is_checked_before_dtype(backend, device):
    others = [info for info in backend.devices() if info.listed and info.handle != device.info.handle]
    if not others:
        pytest.skip(f"{backend} has one device")
    there = from_handle(backend, others[0].handle)
    x = backend.place(np.zeros(3, np.float32), device.info, True)
    y = backend.place(np.zeros(3, np.int32), there.info, True)
    assert message(assert_close, x, y) == f"actual: is on {device}, expected on {there}; check_device=False allows that"
    assert_close(x, backend.place(np.zeros(3, np.float32), there.info, True), check_device=False)


def test_numpy_expectations_are_oracles(xp):
    x = xp.asarray([1.0, 2.0], dtype=xp.float32)
    assert_close(x, np.asarray([1.0, 2.0], np.float32))
    assert_close(xp.sum(x), 3.0)
    assert "got dtype float32, expected float64" in message(assert_close, x, np.asarray([1.0, 2.0]))
    assert_close(x, np.asarray([1.0, 2.0]), check_dtype=False)


def test_a_number_is_no_array_of_a_framework():
    strict = registry.backend("strict")
    expected = strict.place(np.asarray(1.0), strict.devices()[0], True)
    assert message(assert_close, 1.0, expected) == (
        "actual: got a Python number, expected an array of strict; check_namespace=False allows that"
    )


@pytest.mark.parametrize("dtype", sorted(TOLERANCES))
def test_default_tolerance_separates_rounding_from_error(dtype):
    # The oracle: the spacing of the dtype's numbers at 1.
    import ml_dtypes

    wanted = np.dtype(_host_dtype(dtype))
    spacing = float(ml_dtypes.finfo(wanted).eps if hasattr(ml_dtypes, dtype) else np.finfo(wanted).eps)
    one = np.ones(3, wanted)
    assert_close((one + np.asarray(spacing, wanted)).astype(wanted), one)
    rtol, atol = TOLERANCES[dtype]
    far = (one * np.asarray(1 + 2 * (rtol + atol) + spacing, wanted)).astype(wanted)
    assert "3 of 3 elements differ" in message(assert_close, far, one)


def test_the_coarser_tolerance_rules_when_dtypes_differ():
    x = np.asarray([1.0])
    assert_close(x * (1 + 1e-3), x.astype(np.float16), check_dtype=False)


def test_given_tolerances_replace_the_defaults():
    assert_close(np.asarray([1.0]), np.asarray([1.1]), atol=0.2)
    assert_close(np.asarray([10.0]), np.asarray([11.0]), rtol=0.2)
    assert_close(np.asarray([10]), np.asarray([11]), atol=1)
    message(assert_close, np.asarray([1.0]), np.asarray([1.0 + 1e-12]), rtol=0.0, atol=0.0)


def test_nan_equals_nan_unless_told():
    x = np.asarray([1.0, np.nan])
    assert_close(x, x.copy())
    assert "worst at [1]: got nan, expected nan" in message(assert_close, x, x.copy(), equal_nan=False)
    assert "worst at [1]: got nan, expected 2.0" in message(assert_close, x, np.asarray([1.0, 2.0]))


@pytest.mark.parametrize("finite", [0.0, 1e30, -np.inf, np.nan])
def test_infinity_equals_itself_alone(finite):
    infinite = np.asarray([np.inf])
    assert_close(infinite, infinite.copy())
    message(assert_close, np.asarray([finite]), infinite)
    message(assert_close, infinite, np.asarray([finite]))


@pytest.mark.parametrize(("a", "b"), [(2**63 - 1, 2**63 - 2), (-(2**63), 2**63 - 1)])
def test_large_integers_are_compared_exactly(a, b):
    message(assert_close, np.asarray([a]), np.asarray([b]))


def test_complex_values():
    x = np.asarray([1 + 2j])
    assert_close(x, x * (1 + 1e-11))
    assert "got (1+2j), expected (1-2j)" in message(assert_close, x, x.conj())


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (np.asarray([0.0]), np.asarray([-0.0]), False),
        (np.asarray([np.nan]), np.asarray([-np.nan]), True),
        (np.asarray([1.0]), np.asarray([np.nextafter(1.0, 2.0)]), False),
        (np.asarray(1.0), 1.0, True),
        (np.asarray(1.0), 1.5, False),
        (np.zeros((0, 3)), np.zeros((0, 3)), True),
        (np.asarray([1j]), np.asarray([1j]), True),
        (np.asarray([True, False]), np.asarray([True, True]), False),
    ],
)
def test_assert_equal_compares_bits(a, b, same):
    if same:
        assert_equal(a, b)
    else:
        assert "of 1 element differ" in message(assert_equal, a, b).replace("2 elements", "1 element")


def test_assert_equal_finds_one_bit_on_every_backend(xp):
    x = xp.asarray([1.0, 2.0], dtype=xp.float32)
    assert_equal(x, x)
    y = xp.asarray([1.0, float(np.nextafter(np.float32(2.0), np.float32(3.0)))], dtype=xp.float32)
    assert "worst at [1]: got 2.0, expected 2.0000002" in message(assert_equal, x, y)


def test_empty_arrays_agree(xp):
    assert_close(xp.zeros((0, 2)), xp.zeros((0, 2)))
    assert "got shape (0, 2), expected (2, 0)" in message(assert_close, xp.zeros((0, 2)), xp.zeros((2, 0)))


def test_non_contiguous_arrays_agree_to_the_bit():
    x = np.arange(12.0).reshape(3, 4)
    assert_equal(x.T[::2], np.ascontiguousarray(x.T[::2]))


def test_public_names_are_those_of_all():
    assert set(xdev.testing.__all__) <= set(dir(xdev.testing))
    with pytest.raises(AttributeError, match=r"module 'xdev.testing' has no attribute 'assert_almost'"):
        xdev.testing.assert_almost  # noqa: B018  the access is what is tested
