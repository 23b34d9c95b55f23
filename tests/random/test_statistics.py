"""What the numbers are: exact formulas against Python's integers, distributions against SciPy."""

import math

import numpy as np
import pytest

from xdev.random import Generator, distributions, inversion
from xdev.random.threefry import words

stats = pytest.importorskip("scipy.stats")
special = pytest.importorskip("scipy.special")

KEY = (0x13198A2E, 0x03707344)
PAIRS = [words(KEY, (0, i)) for i in range(50)]
LIMIT = 1e-4  # of a test's p-value; the seeds are fixed, so that a test that passes once always does


@pytest.mark.parametrize("n", [1, 2, 3, 255, 2**16 - 1, 2**16, 2**16 + 1, 10**9, 2**31, 2**32 - 1, 2**32])
def test_integers_are_the_whole_part_of_n_times_a_64_bit_fraction(xp, backend, n):
    made = backend.to_host(distributions.below(xp, KEY, 0, len(PAIRS), n)).astype(np.int64) & 0xFFFFFFFF
    assert made.tolist() == [(((high << 32) | low) * n) >> 64 for high, low in PAIRS]


@pytest.mark.parametrize("bits", [8, 11, 24])
def test_uniform_numbers_are_the_highest_bits(xp, backend, bits):
    made = backend.to_host(distributions.uniform32(xp, KEY, 0, len(PAIRS), bits))
    assert made.tolist() == [((high ^ low) >> (32 - bits)) / 2**bits for high, low in PAIRS]


@pytest.mark.parametrize("stream", [0, 1])
def test_float64_uniform_numbers_have_53_bits(stream):
    pairs = [words(KEY, (stream << 31, i)) for i in range(50)]
    made = distributions.uniform64(np, KEY, 0, len(pairs), stream)
    assert made.tolist() == [(((high >> 5) << 26) | (low >> 6)) / 2**53 for high, low in pairs]


@pytest.mark.parametrize("threshold", [0, 1, 2**31, 2**32 - 1, 2**32])
def test_events_happen_when_a_word_is_below_the_threshold(xp, backend, threshold):
    made = backend.to_host(distributions.less(xp, KEY, 0, len(PAIRS), threshold))
    assert made.tolist() == [(high ^ low) < threshold for high, low in PAIRS]


@pytest.mark.parametrize("wide", [True, False])
def test_permutations_sort_pairs_of_words(xp, backend, device, wide):
    wide = wide and backend.holds("int64", device.info)
    made = backend.to_host(distributions.permutation(xp, KEY, 0, len(PAIRS), wide)).tolist()
    signed = [tuple((word ^ 2**31) for word in pair) for pair in PAIRS]
    assert made == sorted(range(len(PAIRS)), key=lambda i: signed[i])


@pytest.mark.parametrize("wide", [True, False])
def test_equal_first_words_are_decided_by_the_second(xp, backend, device, wide, monkeypatch):
    wide = wide and backend.holds("int64", device.info)
    first, second = [3, 1, 3, 1, 3], [2, 5, 1, 4, 0]

    def rows(xp, *_):
        return xp.asarray(first, dtype=xp.int32), xp.asarray(second, dtype=xp.int32)

    monkeypatch.setattr(distributions, "counted", rows)
    assert backend.to_host(distributions.permutation(xp, KEY, 0, 5, wide)).tolist() == [3, 1, 4, 2, 0]


def test_normals_are_exact_to_5_ulp_over_the_whole_range(xp, backend, monkeypatch):
    exponents = np.linspace(0.0, 31.0, 20_000)
    near_zero = np.exp2(exponents).astype(np.int64)
    word = np.concatenate([near_zero, 2**31 - near_zero, [2**31 - 1, 1]]).clip(0, 2**31 - 1) | 1
    word = np.concatenate([word, -word])

    def chosen(xp, *_):
        return xp.asarray(word.astype(np.int32), dtype=xp.int32, copy=True)

    monkeypatch.setattr(distributions, "words32", chosen)
    made = backend.to_host(distributions.normal32(xp, KEY, 0, len(word))).astype(np.float64)
    x = word / 2.0**31
    tail = -np.sign(word) * special.ndtri((2.0**31 - np.abs(word)) / 2.0**32)
    expected = np.where(np.abs(x) < 0.25, math.sqrt(2.0) * special.erfinv(x), tail)
    assert np.max(np.abs(made - expected) / np.spacing(np.abs(expected).astype(np.float32))) <= 5
    assert 6.2 < made.max() < 6.3


def test_uniform_numbers_are_uniform():
    made = Generator(1, "numpy").uniform(1_000_000)
    assert made.min() >= 0
    assert made.max() < 1
    assert stats.kstest(made, "uniform").pvalue > LIMIT


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normals_are_normal(dtype):
    made = Generator(1, "numpy").normal(1_000_000, dtype=dtype).astype(np.float64)
    assert stats.kstest(made, "norm").pvalue > LIMIT
    # The standard error of the k-th moment of a normal sample is sqrt((m_2k - m_k**2) / n).
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(made**power) - moment) < 4 * math.sqrt(variance / made.size)
    assert np.sum(np.abs(made) > 4.5) == pytest.approx(6.8, abs=3 * math.sqrt(6.8))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponentials_are_exponential(dtype):
    made = Generator(2, "numpy").exponential(1_000_000, dtype=dtype).astype(np.float64)
    assert made.min() >= 0
    assert stats.kstest(made, "expon").pvalue > LIMIT
    for power in (1, 2, 3):
        moment, variance = math.factorial(power), math.factorial(2 * power) - math.factorial(power) ** 2
        assert abs(np.mean(made**power) - moment) < 4 * math.sqrt(variance / made.size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("low", "high"), [(-2, 2), (-0.5, 3), (1, np.inf), (-np.inf, np.inf), (-np.inf, -3), (3.5, 4.5), (0.5, 0.51)]
)
def test_truncated_normals_are_truncated_normal(dtype, low, high):
    made = Generator(4, "numpy").truncated_normal(1_000_000, low=low, high=high, dtype=dtype).astype(np.float64)
    expected = stats.truncnorm(low, high)
    assert stats.kstest(made, expected.cdf).pvalue > LIMIT
    mean, variance = expected.stats("mv")
    assert abs(made.mean() - mean) < 4 * math.sqrt(variance / made.size)


@pytest.mark.parametrize(("low", "high"), [(7, 9), (-30, -20), (36, 36.5)])
def test_float64_truncated_normals_reach_far_tails(low, high):
    made = Generator(4, "numpy").truncated_normal(100_000, low=low, high=high, dtype="float64")
    # scipy.stats.truncnorm is less precise here than the logarithms of the tail's probabilities.
    tail = special.log_ndtr(-np.abs(made))
    ends = sorted(float(special.log_ndtr(-abs(end))) for end in (low, high))
    fraction = np.exp(tail - ends[1]) - math.exp(ends[0] - ends[1])
    assert stats.kstest(fraction / -math.expm1(ends[0] - ends[1]), "uniform").pvalue > LIMIT


@pytest.mark.parametrize("name", ["minus_log32", "minus_log64"])
def test_logarithms_are_exact_to_3_ulp(xp, backend, device, name):
    dtype, bits = ("float32", 31) if name.endswith("32") else ("float64", 53)
    if not backend.holds(dtype, device.info):
        pytest.skip(f"{device} does not hold {dtype}")
    small = np.exp2(np.linspace(-bits, -1e-9, 50_000)).astype(dtype)
    one = small.dtype.type(1)
    for q, lost in ((small, one - small), (one - small, small)):
        inside = (q > 0) & (lost > 0) & (q < 1) & (lost < 1)
        q, lost = q[inside], lost[inside]
        made = backend.to_host(getattr(inversion, name)(xp, xp.asarray(q, copy=True), xp.asarray(lost, copy=True)))
        wide = np.longdouble
        expected = np.where(q < 0.5, -np.log(q.astype(wide)), -np.log1p(-lost.astype(wide)))
        assert np.max(np.abs(made - expected) / np.spacing(expected.astype(dtype))) <= 3


def test_quantiles_are_those_of_scipy():
    p = np.concatenate([np.exp2(np.linspace(-1000, -1, 20_000)), 1 - np.exp2(np.linspace(-53, -1.01, 20_000))])
    made, expected = inversion.quantile(np, p), special.ndtri(p)
    np.testing.assert_allclose(made, expected, rtol=3e-15, atol=1e-15)


@pytest.mark.parametrize("n", [2, 10, 1000])
def test_integers_are_equally_likely(n):
    counts = np.bincount(Generator(n, "numpy").integers(0, n, 1_000_000), minlength=n)
    assert stats.chisquare(counts).pvalue > LIMIT


@pytest.mark.parametrize("p", [0.001, 0.3, 0.5, 0.999])
def test_events_have_their_probability(p):
    happened = int(np.sum(Generator(7, "numpy").bernoulli(p, 1_000_000)))
    assert stats.binomtest(happened, 1_000_000, p).pvalue > LIMIT


def test_orders_are_equally_likely():
    rng = Generator(3, "numpy")
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(4800):
        order = tuple(rng.permutation(4).tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 24
    assert stats.chisquare(list(seen.values())).pvalue > LIMIT


def test_permutations_are_permutations(device):
    made = device.backend.to_host(Generator(3, device).permutation(10_000))
    np.testing.assert_array_equal(np.sort(made), np.arange(10_000))


def test_draws_and_children_are_uncorrelated():
    rng = Generator(5, "numpy")
    streams = [rng.normal(100_000), rng.normal(100_000), *(child.normal(100_000) for child in rng.split(6))]
    off_diagonal = np.corrcoef(streams) - np.eye(len(streams))
    assert np.max(np.abs(off_diagonal)) < 5 / math.sqrt(100_000)


def test_streams_do_not_overlap():
    """Words of one stream are not those of another from some place on: no two in a row are shared."""
    rng = Generator(6, "numpy")
    streams = [rng.bits(20_000) for _ in range(4)]
    streams += [child.bits(20_000) for child in rng.split(20)]
    streams += [child.bits(20_000) for first in rng.split(3) for child in first.split(3)]
    words = np.stack(streams).astype(np.uint64)
    pairs = (words[:, :-1] << np.uint64(32)) | words[:, 1:]
    assert np.unique(pairs).size == pairs.size  # by chance, two of these are equal once in 80 million seeds


@pytest.mark.parametrize("bit", [0, 7, 15, 24, 31])
def test_bits_of_neighbouring_seeds_draws_and_places_are_independent(bit):
    words = np.stack([Generator(seed, "numpy").bits(50_000) for seed in range(20)])
    bits = ((words >> np.uint32(bit)) & 1).astype(np.int64)
    assert stats.binomtest(int(bits.sum()), bits.size).pvalue > LIMIT
    for one, other in ((bits[:-1], bits[1:]), (bits[:, :-1], bits[:, 1:])):
        assert stats.binomtest(int((one == other).sum()), one.size).pvalue > LIMIT


def test_no_key_occurs_twice():
    parent = Generator(0, "numpy")
    keys = [parent._next_key() for _ in range(100)]
    for child in parent.split(100):
        keys += [tuple(map(int, child.state["key"])), *(child._next_key() for _ in range(20))]
        for grandchild in child.split(5):
            keys += [tuple(map(int, grandchild.state["key"])), *(grandchild._next_key() for _ in range(20))]
    keys += [parent._next_key() for _ in range(100)]
    assert len(set(keys)) == len(keys)
