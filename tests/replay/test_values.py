"""What depends on values: refused by an explicit jit, eager where nothing was promised, and never baked in."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest

import xdev
from xdev.errors import ReplayWarning, TracedValueError

X = np.arange(12, dtype="float32").reshape(3, 4)
ns = xdev.namespace


def scalar(k):
    return np.asarray(k)


def same(a, b):
    a, b = xdev.tree.leaves(a), xdev.tree.leaves(b)
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True)]
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


def copied(args):
    return [np.array(x) if isinstance(x, np.ndarray) else x for x in args]


def check(f, *calls, **options):
    """Compare a function with what jit makes of it, for lists of arguments; the first two may well be the same."""
    jitted = xdev.jit(f, **options)
    for number, args in enumerate(calls):
        expected, found = f(*copied(args)), jitted(*args)
        assert same(expected, found), f"call {number}: {expected} eagerly, {found} from jit"
    return jitted


READS = {
    "float": (lambda x: x * float(x[0, 0]), r"float\(\)"),
    "int": (lambda x: x * int(x[0, 0]), r"int\(\)"),
    "bool": (lambda x: x if x[0, 0] > 0 else -x, r"bool\(\)"),
    "complex": (lambda x: x * complex(x[0, 0]), r"complex\(\)"),
    "index": (lambda x: [1, 2, 3][ns(x).astype(x[0, 0], ns(x).int32)], r"index\(\)"),
    "range": (lambda x: x * len(range(ns(x).astype(x[0, 1], ns(x).int32))), r"index\(\)"),
    "item": (lambda x: x * xdev.item(x[0, 0]), "needs the value"),
    "repr": (lambda x: len(repr(x)), r"repr\(\)"),
    "print": (lambda x: print(x), r"repr\(\)"),
    "format": (lambda x: f"{x[0, 0]}", r"format\(\)"),
    "format with a specification": (lambda x: f"{x[0, 0]:.2f}", r"format\(\)"),
    "percent": (lambda x: "%f" % x[0, 0], r"float\(\)"),  # noqa: UP031
    "math": (lambda x: x * math.sqrt(x[0, 1]), r"float\(\)"),
    "in": (lambda x: 1.0 in x[0], r"bool\(\)"),
    "max": (lambda x: max(x[0]), r"bool\(\)"),
    "and": (lambda x: x[0, 0] and x, r"bool\(\)"),
    "assert": (lambda x: (None, x)[ns(x).all(x == x)], r"index\(\)|bool\(\)"),
    "while": (lambda x: [0 for _ in iter(lambda: bool(x[0, 0] > 0), False)], r"bool\(\)"),
}


@pytest.mark.parametrize("name", sorted(READS))
def test_reads_are_refused_at_their_line(name):
    f, what = READS[name]
    jitted = xdev.jit(f)
    for _ in range(2):  # and again: the refusal is not forgotten
        with pytest.raises(TracedValueError, match=rf"{what} needs the value|{what}") as found:
            jitted(X)
    assert "test_values.py:" in str(found.value)
    assert "recorded by xdev.jit must not depend on one" in str(found.value)


def test_a_branch_is_told_what_to_write():
    with pytest.raises(
        TracedValueError, match=r"write xp\.where\(condition, a, b\); pass what is fixed through static"
    ):
        xdev.jit(lambda x: x if x[0, 0] > 0 else -x)(X)


INDICES = {
    "slice": lambda x, k: x[k:],
    "slice in a tuple": lambda x, k: x[0, :k],
    "step": lambda x, k: x[:: k + 1],
    "assigned slice": lambda x, k: xdev.at(x)[k:].set(0.0),
    "split": lambda x, k: ns(x).split(x, k + 1, axis=1)[0],
}


@pytest.mark.parametrize("name", sorted(INDICES))
def test_layouts_that_depend_on_values_are_refused(name):
    with pytest.raises(TracedValueError, match=r"needs the value of an array"):
        xdev.jit(INDICES[name])(X, scalar(1))


def written(x, k):
    y = ns(x).asarray(x, copy=True)
    y[k] = 7.0
    return y


GATHERED = {
    "row": lambda x, k: x[k],
    "column": lambda x, k: x[:, k],
    "element": lambda x, k: x[k, k],
    "computed": lambda x, k: x[2 - k, ...],
    "written": written,
    "at": lambda x, k: xdev.at(x)[k].add(1.0),
    "at, a part": lambda x, k: xdev.at(x)[k, 1:].multiply(3.0),
    "gradient": lambda x, k: xdev.grad(lambda x: ns(x).sum(x[k] ** 2))(x),
    "gradient of a column": lambda x, k: xdev.grad(lambda x: ns(x).sum(x[:, k] ** 2))(x),
    "take": lambda x, k: ns(x).take(x, ns(x).reshape(k, (1,)), axis=0),
    "full": lambda x, k: ns(x).full((3,), k),
    "arange": lambda x, k: ns(x).arange(k, k + 3),
    "linspace": lambda x, k: ns(x).linspace(0, k, 4),
}


@pytest.mark.parametrize("kind", [scalar, np.int64])
@pytest.mark.parametrize("name", sorted(GATHERED))
@pytest.mark.filterwarnings("ignore::xdev.errors.ReplayWarning")
def test_an_index_that_is_an_argument(name, kind):
    """Right in each call, the recorded one too, and not that of the recording later."""
    check(GATHERED[name], *[(X, kind(k)) for k in (1, 1, 2, 0, 1)])


SHAPED = {
    "nonzero": lambda x: ns(x).nonzero(x > 3),
    "mask": lambda x: x[x > 3],
    "unique": lambda x: ns(x).unique_values(x),
    "repeat": lambda x: ns(x).repeat(x[:1], ns(x).astype(x[:1], ns(x).int64)),
    "zeros": lambda x: ns(x).zeros(ns(x).astype(x[0], ns(x).int64)) + 1,
    "ones": lambda x: ns(x).ones((ns(x).astype(x[0], ns(x).int64),)) + 1,
    "full": lambda x: ns(x).full((ns(x).astype(x[0], ns(x).int64),), 2.0),
    "eye": lambda x: ns(x).eye(ns(x).astype(x[0], ns(x).int64)),
    "arange": lambda x: ns(x).arange(x[0]),
}


@pytest.mark.parametrize("name", sorted(SHAPED))
@pytest.mark.filterwarnings("ignore::xdev.errors.ReplayWarning")
def test_shapes_that_depend_on_values(name):
    """Refused or right; the result of the recording is never spread over another shape."""
    calls = [(np.asarray(x, "float64"),) for x in ([3, 4, 5], [3, 4, 5], [3, 0, 4], [1, 1, 5], [2, 2, 2])]
    with contextlib.suppress(TracedValueError):
        check(SHAPED[name], *calls)


@pytest.mark.parametrize("name", ["mask", "nonzero", "unique"])
def test_shapes_by_value_run_eagerly_and_say_so_once(name):
    jitted = xdev.jit(SHAPED[name])
    with pytest.warns(ReplayWarning, match=r"eagerly on numpy, without replaying it: .* depends on the values") as told:
        found = [jitted(X[k % 3]) for k in range(4)]
    assert all(same(x, SHAPED[name](X[k % 3])) for k, x in enumerate(found))
    assert len(told) == 1


# -- numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("values", [(2, 2.0, True), (1, True, 1.0), (0.0, -0.0), (True, 1), (0, False, -0.0)])
def test_equal_numbers_that_differ(static, values):
    options = {"static_argnums": 1} if static else {}
    calls = [(np.arange(1, 4), v) for v in values for _ in range(3)]
    check(lambda x, s: x * s, *calls, **options)


def test_equal_tuples_that_differ():
    check(lambda x, s: x * s[0], *[(np.arange(3), (v,)) for v in (2, 2, 2, 2.0, 2.0, True)], static_argnums=1)


def test_keywords_and_flags():
    f = lambda x, *, s=1.0, flag=False: x * s if flag else -x * s  # noqa: E731
    jitted = xdev.jit(f)
    for k in range(4):
        for flag in (True, False, 1, 0):
            assert same(jitted(X, s=np.float32(k), flag=flag), f(X, s=np.float32(k), flag=flag))


def test_the_precision_is_part_of_the_plan():
    f = lambda x: x * ns(x).ones(4) + ns(x).arange(4.0)  # noqa: E731
    jitted = xdev.jit(f)
    for name in ["float32", "float64"] * 3:
        with xdev.precision(name):
            assert same(jitted(X), f(X))


# -- state outside ---------------------------------------------------------------------------------------------


def test_a_counter_is_found():
    count = []

    def f(x):
        count.append(None)
        return x * len(count)

    jitted = xdev.jit(f)
    with pytest.warns(ReplayWarning, match="its results depend on more than its arguments") as told:
        found = [float(jitted(np.ones(1))[0]) for _ in range(5)]
    assert found == [1, 2, 3, 4, 5]
    assert len(told) == 1


def test_a_counter_beside_arrays_is_found():
    count = []

    def f(x):
        count.append(None)
        return x * 2, f"{len(count)} calls"

    jitted = xdev.jit(f)
    with pytest.warns(ReplayWarning, match="its results depend on more than its arguments"):
        assert [jitted(np.ones(1))[1][0] for _ in range(4)] == ["1", "2", "3", "4"]


def test_a_result_is_checked_with_other_arguments():
    """A warm-up with the same arguments twice says nothing about others."""
    hidden = {}

    def f(x):
        return x + np.asarray(hidden["x"])  # reads its argument in a way that nothing can see

    def call(x):
        hidden["x"] = np.array(x)
        return jitted(x)

    jitted = xdev.jit(f)
    with pytest.warns(ReplayWarning, match="its results depend on more"):
        assert [float(call(np.full(1, k))[0]) for k in (1.0, 1.0, 1.0, 2.0, 3.0)] == [2, 2, 2, 4, 6]


def test_captured_arrays_are_read_live():
    held = np.ones(3)
    jitted = xdev.jit(lambda x: (x + held, ns(x).exp(held)))
    for k in range(5):
        held[:] = k
        assert same(jitted(np.zeros(3)), (held + 0.0, np.exp(held)))


def test_a_captured_generator_is_refused():
    rng = xdev.random.Generator(0, "numpy")
    with pytest.raises(xdev.errors.RandomError, match="pass it as an argument and return it"):
        xdev.jit(lambda x: x + rng.normal((3,)))(np.zeros(3))


def test_checks_of_values_are_repeated():
    """Labels and indices out of range are found in a replay, and what comes after works."""
    jitted = xdev.jit(xdev.ops.embedding)
    good, bad = np.asarray([0, 1, 2]), np.asarray([0, 1, 3])
    for indices in (good, good, good[::-1].copy(), good):
        assert same(jitted(X, indices), X[indices])
    with pytest.raises(Exception, match="3") as eager:
        xdev.ops.embedding(X, bad)
    with pytest.raises(type(eager.value)):
        jitted(X, bad)
    assert same(jitted(X, good), X[good])


def test_a_failing_check_in_the_second_call_leaves_the_comparison_to_the_next():
    count = [0]

    def counted(x, indices):
        count[0] += 1
        return xdev.ops.embedding(x, indices) + count[0]

    jitted, good, bad = xdev.jit(counted), np.asarray([0, 1, 2]), np.asarray([0, 1, 3])
    jitted(X, good)
    with pytest.raises(xdev.errors.DataError, match="got 3"):
        jitted(X, bad)
    with pytest.warns(ReplayWarning, match="its results depend on more"):
        found = jitted(X, good[::-1].copy())
    assert same(found, X[good[::-1]] + count[0])
