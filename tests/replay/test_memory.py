"""Who owns what: results that are kept, arguments that share memory, threads, nesting, and what is freed."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref

import numpy as np
import pytest

import xdev
from xdev.errors import ReplayWarning
from xdev.replay.kept import KEPT, PATIENCE

ns = xdev.namespace


def both(x):
    return ns(x).sin(x), ns(x).cos(x)


KEEPERS = {
    "array": lambda x: x,
    "part": lambda x: x[5:],
    "transposed": lambda x: x.reshape(30, -1).T,
    "memoryview": memoryview,
    "buffer": np.frombuffer,
    "dlpack": np.from_dlpack,
    "strided": lambda x: np.lib.stride_tricks.as_strided(x, (10,), (8,)),
    "other dtype": lambda x: x.view("int64"),
}


@pytest.mark.parametrize("size", [300, 6000])
def test_what_a_caller_keeps_is_never_overwritten(size):
    jitted, draw, kept = xdev.jit(both), random.Random(0), []
    for k in range(200):
        x = np.random.default_rng(k).normal(size=size)
        for found, expected in zip(jitted(x), (np.sin(x), np.cos(x)), strict=True):
            assert np.array_equal(found, expected)
            keep = KEEPERS[draw.choice(sorted(KEEPERS))]
            if draw.random() < 0.5:
                kept.append((keep(found), bytes(np.ascontiguousarray(keep(found)).tobytes())))
        del found
        while len(kept) > 5:
            kept.pop(draw.randrange(5))
        assert all(np.ascontiguousarray(x).tobytes() == expected for x, expected in kept)


@pytest.mark.parametrize("size", [4, 6000])
def test_results_can_be_written_to(size):
    """Also those that are the same in each call, and those that are an argument."""
    held = np.ones(size)
    jitted = xdev.jit(lambda x: (x, x[1:], ns(x).ones(size), held, x * 2))
    for k in range(6):
        x = np.full(size, float(k))
        out = jitted(x)
        assert [float(y[0]) for y in out] == [k, k, 1, 1, 2 * k]
        assert not any(np.shares_memory(y, z) for y in out for z in (x, held))
        for y in out:
            y[...] = -9


@pytest.mark.parametrize("size", [4, 6000])
def test_arguments_that_share_memory(size):
    f = lambda a, b: (a + b, a * 2, b[::-1])  # noqa: E731
    jitted = xdev.jit(f)
    for k in range(5):
        x = np.arange(2.0 * size) + k
        for a, b in [(x, x), (x[:size], x[size:]), (x[:size], x[1 : size + 1]), (x, x[:])]:
            for found, expected in zip(jitted(a, b), f(a, b), strict=True):
                assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", [4, 6000])
def test_an_argument_changed_in_place_is_read_anew(size):
    jitted, x = xdev.jit(lambda x: x * 2), np.zeros(size)
    for k in range(6):
        x[:] = k
        assert jitted(x)[-1] == 2 * k


def test_two_that_change_places():
    jitted = xdev.jit(lambda a, b: (b, a, a + b))
    a, b = np.zeros(5000), np.ones(5000)
    for k in range(5):
        a, b, c = jitted(a, b)
        assert (a[0], b[0], c[0]) == ((k + 1) % 2, k % 2, 1)


def test_arrays_without_elements_and_axes():
    f = lambda x, y: (x * 2, ns(x).sum(x), x @ x.T, ns(x).concat([x, x]), y + 1, y)  # noqa: E731
    jitted = xdev.jit(f)
    for k in range(5):
        x, y = np.zeros((0, 3)), np.asarray(float(k))
        for found, expected in zip(jitted(x, y), f(x, y), strict=True):
            assert np.shape(found) == np.shape(expected)
            assert np.array_equal(found, expected)


def test_trees_and_what_is_no_array():
    f = lambda t: {"a": None, "b": (t["x"] * 2, [t["x"], 1, True, "q", 2.5]), "c": t["n"]}  # noqa: E731
    jitted = xdev.jit(f)
    for k in range(4):
        t = {"x": np.full(2, float(k)), "n": None, "s": "text"}
        assert repr(jitted(t)) == repr(f(t))


def test_arguments_without_arrays_and_results_without():
    assert xdev.jit(lambda x: x * 2)(3) == 6
    jitted = xdev.jit(lambda x: x.shape)
    assert [jitted(np.zeros(n)) for n in (1, 2, 2, 1, 2)] == [(1,), (2,), (2,), (1,), (2,)]


def test_one_jit_within_another():
    inner = xdev.jit(lambda x: x * 3)
    outer = xdev.jit(lambda x: inner(x) + 1)
    assert [float(outer(np.full(1, k))[0]) for k in (1.0, 2.0, 3.0, 4.0)] == [4, 7, 10, 13]
    assert float(inner(np.ones(1))[0]) == 3


def test_within_a_gradient():
    jitted = xdev.jit(lambda x: x * x)
    for k in range(4):
        x = np.full(3, float(k))
        assert np.array_equal(xdev.grad(lambda x: ns(x).sum(jitted(x)))(x), 2 * x)
        assert np.array_equal(jitted(x), x * x)


def test_what_an_outer_gradient_follows_keeps_it():
    """In the recorded call too."""
    x, box = np.arange(3.0), []
    jitted = xdev.jit(lambda x: x * box[0])

    def loss(w):
        box[:] = [w]
        return ns(w).sum(jitted(x)) + 0 * ns(w).sum(w)

    gradient = xdev.grad(loss)
    with pytest.warns(ReplayWarning, match="a differentiation outside of it follows"):
        found = [gradient(np.ones(3)) for _ in range(4)]
    assert all(np.array_equal(g, x) for g in found)


def test_exceptions_leave_it_as_it_was():
    fails = [True]

    def f(x):
        if fails[0]:
            raise KeyError("mine")
        return x * 2

    jitted = xdev.jit(f)
    with pytest.raises(KeyError, match="mine"):
        jitted(np.ones(2))
    fails[0] = False
    assert [float(jitted(np.full(2, k))[0]) for k in (1.0, 2.0, 3.0)] == [2, 4, 6]
    divide = xdev.jit(lambda x: 1 / x)
    for k in range(1, 5):
        divide(np.full(2, float(k)))
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="divide"):
        divide(np.zeros(2))
    assert divide(np.full(2, 4.0))[0] == 0.25


def test_layouts_are_kept_within_bounds():
    calls = []

    def f(x):
        calls.append(x.shape)
        return x + 1

    jitted = xdev.jit(f)
    for _ in range(4):
        for n in range(KEPT):
            assert jitted(np.zeros(n + 1)).shape == (n + 1,)
    assert len(calls) == 2 * KEPT
    jitted(np.zeros(KEPT + 1))  # drops the oldest
    jitted(np.zeros(KEPT))
    assert len(calls) == 2 * KEPT + 1
    jitted(np.zeros(1))
    assert len(calls) == 2 * KEPT + 2


@pytest.mark.parametrize("changing", ["shape", "number"])
def test_patience_ends_where_no_layout_comes_back(changing):
    jitted = xdev.jit(lambda x, s: x * s)
    calls = [(np.ones(k + 1), 2) if changing == "shape" else (np.ones(1), k) for k in range(PATIENCE + 20)]
    with pytest.warns(ReplayWarning, match="are others in each call") as told:
        found = [jitted(*args)[0] for args in calls]
    assert found == [s for _, s in calls]
    assert len(told) == 1


def test_threads():
    f = lambda x: ns(x).sin(x) * 2 + ns(x).sum(x)  # noqa: E731
    jitted, wrong = xdev.jit(f), []

    def work(seed):
        draw = np.random.default_rng(seed)
        for _ in range(100):
            x = draw.normal(size=int(draw.integers(1, KEPT + 4)))
            try:
                if not np.array_equal(jitted(x), f(x)):
                    wrong.append(x)
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_what_it_holds_is_freed_without_a_collection():
    gc.collect()
    gc.disable()
    try:
        jitted = xdev.jit(lambda x, y: (x, y * 2, ns(x).sum(x + y)))
        first = np.ones(10_000), np.ones(10_000)
        gone = [weakref.ref(x) for x in first]
        jitted(*first)
        del first
        for _ in range(3):
            jitted(np.zeros(10_000), np.zeros(10_000))
        assert [ref() for ref in gone] == [None, None], "the arguments of the recording are the caller's"
        programs = [weakref.ref(x) for x in gc.get_objects() if type(x).__name__ == "Program"]
        assert programs
        before = sum(ref() is not None for ref in programs)
        del jitted
        assert sum(ref() is not None for ref in programs) == before - 1
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint16", "int32", "int64", "float16", "float64", "complex64", ">f4"]
)
def test_dtypes(dtype):
    f = lambda x: (ns(x).sum(x), ns(x).prod(x), x[::-1], ns(x).astype(x, ns(x).complex128) / 2, x == x)  # noqa: E731
    jitted = xdev.jit(f)
    for k in range(4):
        x = (np.arange(4) + k).astype(dtype)
        for found, expected in zip(jitted(x), f(x), strict=True):
            assert np.asarray(found).dtype == np.asarray(expected).dtype
            assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


FORMS = {
    "positional axis": lambda x: ns(x).sum(x, 0),
    "initial value": lambda x: ns(x).sum(x, axis=0, initial=1.0),
    "largest": lambda x: ns(x).max(x, axis=1, initial=0.0),
    "copied to integers": lambda x: ns(x).asarray(x, dtype=ns(x).int32, copy=True) + 1,
}


@pytest.mark.parametrize("name", sorted(FORMS))
def test_forms_of_calls(name):
    jitted = xdev.jit(FORMS[name])
    for k in range(4):
        x = np.random.default_rng(k).normal(size=(3, 4))
        assert np.array_equal(jitted(x), FORMS[name](x))
