"""Draws on every backend: the same numbers, with the dtype, shape and device that were asked for."""

from fractions import Fraction

import numpy as np
import pytest

from xdev.device import device as find_device
from xdev.device import device_of, precision, use
from xdev.errors import DTypeError, XdevError
from xdev.random import Generator, RandomError, distributions, floats, threefry
from xdev.random import fill as fill_module
from xdev.random import generator as generator_module

FLOAT32_MAX = float(np.finfo(np.float32).max)

# Every draw whose numbers are promised to be identical: name, draw, dtype, shape.
EXACT = {
    "bits": (lambda rng: rng.bits((3, 50)), "uint32", (3, 50)),
    "bits without axes": (lambda rng: rng.bits(()), "uint32", ()),
    "uniform": (lambda rng: rng.uniform((70, 1000)), "float32", (70, 1000)),
    "uniform of a range": (lambda rng: rng.uniform(999, low=-0.1, high=0.7), "float32", (999,)),
    "uniform float64": (lambda rng: rng.uniform(1000, dtype="float64"), "float64", (1000,)),
    "uniform float16": (lambda rng: rng.uniform(1000, dtype="float16"), "float16", (1000,)),
    "uniform bfloat16": (lambda rng: rng.uniform(1000, low=-3, high=2, dtype="bfloat16"), "bfloat16", (1000,)),
    "integers": (lambda rng: rng.integers(-3, 12, (7, 11)), "int32", (7, 11)),
    "integers of every int32": (lambda rng: rng.integers(-(2**31), 2**31, 100), "int32", (100,)),
    "integers int64": (lambda rng: rng.integers(2**50, 2**50 + 2**31 + 5, 99, dtype="int64"), "int64", (99,)),
    "integers uint8": (lambda rng: rng.integers(0, 256, 99, dtype="uint8"), "uint8", (99,)),
    "bernoulli": (lambda rng: rng.bernoulli(0.3, (100, 10)), "bool", (100, 10)),
    "permutation": (lambda rng: rng.permutation(100_000), "int32", (100_000,)),
    "choice": (lambda rng: rng.choice(10, (4, 5)), "int32", (4, 5)),
    "choice without replacement": (lambda rng: rng.choice(100, (4, 5), replace=False), "int32", (4, 5)),
    "choice by weight": (lambda rng: rng.choice(4, (40, 5), p=[0.1, 0.2, 0.3, 0.4]), "int32", (40, 5)),
    "choice by weight without replacement": (
        lambda rng: rng.choice(300, (10, 9), replace=False, p=[1 / 300] * 300),
        "int32",
        (10, 9),
    ),
    "exponential": (lambda rng: rng.exponential((7, 9999)), "float32", (7, 9999)),
    "exponential of a scale": (lambda rng: rng.exponential(999, scale=0.3), "float32", (999,)),
    "uniform of every float32": (
        lambda rng: rng.uniform(999, low=-FLOAT32_MAX, high=FLOAT32_MAX),
        "float32",
        (999,),
    ),
    "integers uint64": (lambda rng: rng.integers(2**64 - 2**32, 2**64, 99, dtype="uint64"), "uint64", (99,)),
    "exponential float64": (lambda rng: rng.exponential(70_000, scale=3, dtype="float64"), "float64", (70_000,)),
    "exponential float16": (lambda rng: rng.exponential(999, dtype="float16"), "float16", (999,)),
    "nothing": (lambda rng: rng.integers(0, 3, (0, 4)), "int32", (0, 4)),
    "permutation of nothing": (lambda rng: rng.permutation(0), "int32", (0,)),
    "permutation of one": (lambda rng: rng.permutation(1), "int32", (1,)),
}


def host(device, x):
    return device.backend.to_host(x)


def needs(device, dtype):
    if not device.backend.holds(dtype, device.info):
        pytest.skip(f"{device} does not hold {dtype}")


def ulps(a, b):
    """Return the greatest distance of arrays of one float dtype, in numbers that lie between."""
    bits = [x.view(f"int{8 * x.dtype.itemsize}").astype(np.int64) for x in (a, b)]
    lowest = np.iinfo(f"int{8 * a.dtype.itemsize}").min
    first, second = (np.where(x < 0, lowest - x, x) for x in bits)
    return int(np.max(np.abs(first - second), initial=0))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("view", [True, False], ids=["as it comes", "without NumPy's view"])
def test_draws_are_the_same_everywhere(device, name, view, monkeypatch):
    draw, dtype, shape = EXACT[name]
    needs(device, dtype)
    if not view:
        monkeypatch.setattr(fill_module, "_view", lambda x: None)
    rng = Generator(2**40 + 17, device)
    rng.bits(3)
    made = draw(rng)
    assert device_of(made) is device
    assert made.dtype == device.backend.dtype(dtype)
    assert made.shape == shape
    reference = Generator(2**40 + 17, "numpy" if dtype != "bfloat16" else "torch")
    reference.bits(3)
    expected = host(reference.device, draw(reference))
    np.testing.assert_array_equal(host(device, made), expected, strict=True)


@pytest.mark.parametrize("view", [True, False], ids=["as it comes", "without NumPy's view"])
def test_float32_normals_agree_to_4_ulp(device, view, monkeypatch):
    expected = Generator(3, "numpy").normal(1_000_000)
    if not view:
        monkeypatch.setattr(fill_module, "_view", lambda x: None)
    made = Generator(3, device).normal((1000, 1000))
    assert device_of(made) is device
    assert made.dtype == device.xp.float32
    assert ulps(host(device, made).reshape(-1), expected) <= 4


BOUNDS = [(-2.0, 2.0), (-0.5, 3.0), (1.0, np.inf), (-np.inf, np.inf), (-4.0, -3.0), (0.0, 0.01), (0.5, 1.5)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_truncated_normals_agree_to_4_ulp_and_keep_their_bounds(device, low, high, dtype):
    needs(device, dtype)
    made = Generator(3, device).truncated_normal((100, 1000), low=low, high=high, dtype=dtype)
    assert device_of(made) is device
    assert made.dtype == device.backend.dtype(dtype)
    made = host(device, made)
    assert made.min() >= low
    assert made.max() <= high
    assert np.isfinite(made).all()
    expected = Generator(3, "numpy").truncated_normal((100, 1000), low=low, high=high, dtype=dtype)
    assert ulps(made, expected) <= 4


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.3, np.inf), (-0.7, 0.1)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_scaled_truncated_normals_keep_their_bounds(device, low, high, dtype):
    needs(device, dtype)
    made = Generator(3, device).truncated_normal(20_000, low=low, high=high, mean=0.1, std=0.3, dtype=dtype)
    made = host(device, made).astype(np.float64)
    assert made.min() >= 0.1 + 0.3 * low
    assert made.max() <= 0.1 + 0.3 * high
    plain = host(device, Generator(3, device).truncated_normal(20_000, low=low, high=high, dtype=dtype))
    np.testing.assert_allclose(made, plain.astype(np.float64) * 0.3 + 0.1, atol=0.01)


def test_a_deviation_of_0_gives_the_mean(device):
    made = host(device, Generator(3, device).truncated_normal(9, low=-np.inf, high=np.inf, mean=2.5, std=0.0))
    assert made.tolist() == [2.5] * 9


def test_float64_normals_agree(device):
    needs(device, "float64")
    made = Generator(3, device).normal(10_000, mean=2.0, std=0.5, dtype="float64")
    expected = Generator(3, "numpy").normal(10_000, mean=2.0, std=0.5, dtype="float64")
    np.testing.assert_allclose(host(device, made), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_normals_are_rounded_float32_ones(device, dtype):
    needs(device, dtype)
    made = Generator(3, device).normal(1000, dtype=dtype)
    assert made.dtype == device.backend.dtype(dtype)
    wide = host(device, Generator(3, device).normal(1000))
    np.testing.assert_array_equal(host(device, made), wide.astype(host(device, made).dtype))


def test_means_and_deviations_are_applied(device):
    plain = host(device, Generator(3, device).normal(1000))
    made = host(device, Generator(3, device).normal(1000, mean=3.0, std=2.0))
    np.testing.assert_array_equal(made, plain * np.float32(2.0) + np.float32(3.0))


def test_a_dtype_can_be_the_framework_s_own(device):
    xp = device.xp
    assert Generator(0, device).uniform(3, dtype=xp.float32).dtype == xp.float32
    assert Generator(0, device).integers(0, 9, 3, dtype=xp.uint8).dtype == xp.uint8


def test_precision_sets_the_default(device):
    needs(device, "float64")
    with precision("float64"):
        assert Generator(0, device).normal(3).dtype == device.xp.float64
        assert Generator(0, device).uniform(3).dtype == device.xp.float64
    assert Generator(0, device).normal(3).dtype == device.xp.float32


def test_the_device_is_the_current_one_by_default(device):
    with use(device):
        rng = Generator(0)
    assert rng.device is device


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(1.0, 2.0, "float32"), (255.0, 256.0, "bfloat16"), (7.0, 8.0, "float16")]
)
def test_uniform_numbers_stay_below_the_upper_end(device, low, high, dtype):
    needs(device, dtype)
    made = host(device, Generator(0, device).uniform(100_000, low=low, high=high, dtype=dtype)).astype(np.float64)
    assert made.min() >= low
    assert made.max() < high


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_and_impossible_events(device, p):
    assert np.all(host(device, Generator(0, device).bernoulli(p, 1000)) == bool(p))


def test_a_draw_neither_crosses_nor_synchronizes(device):
    from xdev.ledger import budget, track_transfers

    rng = Generator(0, device)
    with track_transfers() as ledger, budget(to_host=0, to_device=0):
        for name, (draw, dtype, _) in EXACT.items():
            if "by weight" not in name and device.backend.holds(dtype, device.info):
                draw(rng)
    assert not ledger.records


# -- what is refused ---------------------------------------------------------------------------------

REFUSED = {
    "seed of text": (lambda rng: Generator("0", "numpy"), r"the seed is '0', a str, expected an integer: Generator\(0"),
    "seed of float": (lambda rng: Generator(1.5, "numpy"), r"the seed is 1\.5, a float, expected an integer"),
    "negative seed": (lambda rng: Generator(-1, "numpy"), r"the seed is -1, expected 0 to 2\*\*64 - 1; take it modulo"),
    "long seed": (lambda rng: Generator(2**64, "numpy"), r"the seed is 18446744073709551616, expected"),
    "negative shape": (lambda rng: rng.bits((2, -1)), r"got the shape \(2, -1\), expected integers of 0 or more"),
    "shape of float": (lambda rng: rng.normal(2.5), r"got the shape 2\.5, expected integers of 0 or more, such as"),
    "shape of floats": (lambda rng: rng.uniform((2.5, 1)), r"got the shape \(2\.5, 1\)"),
    "empty interval": (lambda rng: rng.uniform(3, low=1, high=1), r"uniform got low=1\.0 and high=1\.0, expected"),
    "endless interval": (lambda rng: rng.uniform(3, high=np.inf), r"uniform got low=0\.0 and high=inf, expected fin"),
    "no number": (
        lambda rng: rng.uniform(3, low=1 + 1e-12, high=1 + 2e-12),
        r"between which there is no float32; widen",
    ),
    "low of text": (lambda rng: rng.uniform(3, low="a"), r"low is a str, expected a number"),
    "negative deviation": (lambda rng: rng.normal(3, std=-1), r"normal got mean=0\.0 and std=-1\.0, expected finite"),
    "infinite mean": (lambda rng: rng.normal(3, mean=np.inf), r"normal got mean=inf"),
    "mean that is no number": (
        lambda rng: rng.normal(3, mean=np.nan),
        r"normal got mean=nan and std=1\.0, expected fin",
    ),
    "end that float32 does not hold": (
        lambda rng: rng.uniform(3, low=-1e39),
        r"uniform got low=-1e\+39 and high=1\.0, so that numbers may reach 1e\+39, and float32 holds up to 3\.4e\+38; "
        r"draw smaller ones, or pass a wider dtype, such as 'float64'",
    ),
    "end that float16 does not hold": (
        lambda rng: rng.uniform(3, high=1e5, dtype="float16"),
        r"may reach 1e\+05, and float16 holds up to 6\.55e\+04; draw",
    ),
    "endless float64 interval": (lambda rng: rng.uniform(3, low=-np.inf, dtype="float64"), r"low=-inf and high=1\.0"),
    "large deviation": (
        lambda rng: rng.normal(3, std=1e38),
        r"normal got mean=0\.0 and std=1e\+38, so that numbers may reach 6\.24e\+38, and float32 holds",
    ),
    "large mean": (lambda rng: rng.normal(3, mean=-1e39), r"normal got mean=-1e\+39 and std=1\.0, so that numbers may"),
    "large float64 deviation": (
        lambda rng: rng.normal(3, std=1e308, dtype="float64"),
        r"may reach inf, and float64 holds up to 1\.8e\+308; draw smaller ones$",
    ),
    "large float16 deviation": (
        lambda rng: rng.normal(3, std=20_000, dtype="float16"),
        r"may reach 1\.25e\+05, and float16 holds up to",
    ),
    "large scale": (
        lambda rng: rng.exponential(3, scale=1e38),
        r"exponential got scale=1e\+38, so that numbers may reach 2\.15e\+39, and float32 holds up to",
    ),
    "large float64 scale": (
        lambda rng: rng.exponential(3, scale=1e307, dtype="float64"),
        r"exponential got scale=1e\+307",
    ),
    "large deviation of a truncated one": (
        lambda rng: rng.truncated_normal(3, std=2e38),
        r"truncated_normal got mean=0\.0 and std=2e\+38, so that numbers may reach 4e\+38",
    ),
    "empty range": (lambda rng: rng.integers(3, 3, 5), r"integers got low=3 and high=3, expected low < high"),
    "long range": (lambda rng: rng.integers(0, 2**32 + 1, 5, dtype="int64"), r"expected low < high <= low \+ 2\*\*32"),
    "range of floats": (lambda rng: rng.integers(0.0, 3, 5), r"low is 0\.0, a float, expected an integer"),
    "probability": (lambda rng: rng.bernoulli(1.5, 3), r"bernoulli got p=1\.5, expected a probability from 0 to 1"),
    "probabilities": (
        lambda rng: rng.bernoulli(np.ones(3), 3),
        r"p is a ndarray, expected a number; for an array of probabilities write rng\.uniform\(p\.shape\) < p",
    ),
    "no scale": (lambda rng: rng.exponential(3, scale=0), r"exponential got scale=0\.0, expected a positive number"),
    "scale of text": (lambda rng: rng.exponential(3, scale="a"), r"scale is a str, expected a number"),
    "bounds in the wrong order": (
        lambda rng: rng.truncated_normal(3, low=1, high=-1),
        r"truncated_normal got low=1\.0 and high=-1\.0, expected low < high",
    ),
    "bound that is no number": (lambda rng: rng.truncated_normal(3, high=np.nan), r"low=-2\.0 and high=nan, expected"),
    "deviation of a truncated one": (
        lambda rng: rng.truncated_normal(3, std=-1),
        r"truncated_normal got mean=0\.0 and std=-1\.0, expected finite numbers with std >= 0",
    ),
    "improbable interval": (
        lambda rng: rng.truncated_normal(3, low=5, high=6),
        r"low=5\.0 and high=6\.0, between which a normal number lies with probability 2\.9e-07: too few float32 "
        r"numbers are made there; widen the interval, or pass dtype='float64'",
    ),
    "narrow interval": (
        lambda rng: rng.truncated_normal(3, low=1, high=1 + 1e-13, dtype="float64"),
        r"too few float64 numbers are made there; widen the interval, or shift the interval to the centre",
    ),
    "negative n": (lambda rng: rng.permutation(-1), r"permutation got n=-1, expected 0 or more"),
    "large n": (lambda rng: rng.permutation(2**31), r"permutation got n=2147483648, expected less than 2\*\*31"),
    "n of float": (lambda rng: rng.permutation(3.0), r"n of permutation is 3\.0, a float, expected an integer: rng"),
    "negative split": (lambda rng: rng.split(-2), r"split got n=-2, expected 0 or more"),
    "choice": (lambda rng: rng.choice(3, 4, replace=False), r"choice got shape \(4,\), 4 of 3 items; draw fewer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_are_refused_and_draw_nothing(name):
    call, message = REFUSED[name]
    rng = Generator(0, "numpy")
    with pytest.raises(RandomError, match=message) as caught:
        call(rng)
    assert isinstance(caught.value, XdevError)
    assert isinstance(caught.value, ValueError)
    assert rng.state["draws"] == 0


REFUSED_DTYPES = {
    "integer uniform": (lambda rng: rng.uniform(3, dtype="int32"), "uniform got dtype int32, expected one of bfloat16"),
    "float integers": (lambda rng: rng.integers(0, 3, 3, dtype="float32"), "integers got dtype float32, expected one"),
    "not held": (lambda rng: rng.normal(3, dtype="bfloat16"), "numpy:cpu:0 does not hold bfloat16; pass another"),
    "too narrow": (
        lambda rng: rng.integers(0, 300, 3, dtype="uint8"),
        r"integers from 0 to 299 do not fit uint8, which holds 0 to 255; pass a wider dtype",
    ),
    "negative unsigned": (
        lambda rng: rng.integers(-1, 3, 3, dtype="uint32"),
        "integers from -1 to 2 do not fit uint32",
    ),
}


@pytest.mark.parametrize("name", REFUSED_DTYPES)
def test_dtypes_that_do_not_fit_are_refused(name):
    call, message = REFUSED_DTYPES[name]
    with pytest.raises(DTypeError, match=message):
        call(Generator(0, "numpy"))


def words(rng, size):
    """Return the two words for each element of the next draw, in Python's integers."""
    key = threefry.words(tuple(map(int, rng.state["key"])), (0, rng.state["draws"]))
    return [threefry.words(key, (0, i)) for i in range(size)]


@pytest.fixture
def wide():
    """Let 64-bit numbers exist where a framework must be told."""
    with precision("float64"):
        yield


@pytest.mark.parametrize("name", generator_module.INTEGERS)
@pytest.mark.usefixtures("wide")
def test_integers_at_the_ends_of_a_dtype_are_those_of_python(device, name):
    needs(device, name)
    low, high = int(np.iinfo(name).min), int(np.iinfo(name).max) + 1
    ranges = [(low, low + 10), (high - 10, high), (low, min(high, low + 2**32)), (max(low, high - 2**32), high)]
    if name == "uint64":
        ranges += [(2**63, 2**63 + 10), (2**63 - 5, 2**63 + 5), (2**63 - 2**31, 2**63 + 2**31), (2**63 - 1, 2**63)]
    for shape in (40, 1, ()):
        for first, end in ranges:
            rng = Generator(2**50 + 11, device)
            size = 40 if shape == 40 else 1
            expected = [first + (((x0 << 32 | x1) * (end - first)) >> 64) for x0, x1 in words(rng, size)]
            if end - first == 2**32:
                expected = [first + x0 for x0, _ in words(rng, size)]
            made = rng.integers(first, end, shape, dtype=name)
            assert device_of(made) is device
            assert made.dtype == device.backend.dtype(name)
            made = host(device, made)
            assert made.shape == ((shape,) if isinstance(shape, int) else shape)
            assert made.reshape(-1).tolist() == expected


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-1e38, 1e38, "float32"),
        (-3e38, 3e38, "float32"),
        (-3.4e38, 1.0, "float32"),
        (-FLOAT32_MAX, FLOAT32_MAX, "float32"),
        (-65504.0, 65504.0, "float16"),
        (-3e38, 3e38, "bfloat16"),
        (-1.7e308, 1.7e308, "float64"),
    ],
)
@pytest.mark.usefixtures("wide")
def test_uniform_numbers_of_wide_ranges_are_spread_over_them(device, low, high, dtype):
    """The oracle scales the numbers of [0, 1) as exact fractions."""
    needs(device, dtype)
    rng = Generator(3, device)
    made = host(device, rng.uniform(2000, low=low, high=high, dtype=dtype)).astype(np.float64)
    plain = host(device, Generator(3, device).uniform(2000, dtype=dtype)).astype(np.float64)
    epsilon = 2.0 ** -(distributions.PRECISION[dtype] - 1)
    unit = Fraction(high) - Fraction(low)
    for x, u in zip(made.tolist(), plain.tolist(), strict=True):
        assert x < high
        assert abs(Fraction(x) - Fraction(low) - Fraction(u) * unit) <= 2 * Fraction(epsilon) * unit


@pytest.mark.parametrize(
    ("draw", "dtype"),
    [
        (lambda rng, dtype: rng.normal(100_000, mean=3e37, std=4.9e37, dtype=dtype), "float32"),
        (lambda rng, dtype: rng.normal(100_000, std=2e307, dtype=dtype), "float64"),
        (lambda rng, dtype: rng.normal(100_000, std=10_000, dtype=dtype), "float16"),
        (lambda rng, dtype: rng.exponential(100_000, scale=1.5e37, dtype=dtype), "float32"),
        (lambda rng, dtype: rng.exponential(100_000, scale=4.8e306, dtype=dtype), "float64"),
        (lambda rng, dtype: rng.truncated_normal(100_000, std=1.7e38, dtype=dtype), "float32"),
        (lambda rng, dtype: rng.truncated_normal(100_000, low=5, high=np.inf, std=1.7e307, dtype=dtype), "float64"),
    ],
)
@pytest.mark.usefixtures("wide")
def test_the_largest_numbers_that_are_drawn_are_finite(device, draw, dtype):
    needs(device, dtype)
    assert np.isfinite(host(device, draw(Generator(3, device), dtype))).all()


@pytest.mark.parametrize(
    ("kernel", "reach"),
    [
        ("normal32", floats.NORMAL_32),
        ("normal64", floats.NORMAL_64),
        ("exponential32", floats.EXPONENTIAL_32),
        ("exponential64", floats.EXPONENTIAL_64),
    ],
)
def test_no_word_gives_a_number_beyond_the_reach(kernel, reach, monkeypatch):
    """The extreme words are put in the place of what Threefry gives."""
    extremes = np.asarray([0, -1, 1, -2, 2**31 - 1, -(2**31), 1 - 2**31, 2**31 - 2], np.int32)
    first, second = (x.reshape(-1) for x in np.meshgrid(extremes, extremes))
    monkeypatch.setattr(distributions, "counted", lambda *_: (first.copy(), second.copy()))
    if kernel.endswith("32"):
        monkeypatch.setattr(distributions, "words32", lambda *_: first.copy())
    made = np.abs(getattr(distributions, kernel)(find_device("numpy").xp, (0, 0), 0, first.size))
    assert 0.98 * reach <= made.max() <= reach


def test_every_integer_dtype_can_be_drawn(device):
    for name in generator_module.INTEGERS:
        if device.backend.holds(name, device.info):
            made = host(device, Generator(0, device).integers(3, 101, 50, dtype=name))
            assert made.dtype == name
            np.testing.assert_array_equal(made, Generator(0, "numpy").integers(3, 101, 50))


def test_the_device_can_be_named():
    assert Generator(0, "numpy").device is find_device("numpy")
