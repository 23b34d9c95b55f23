"""The pitfalls that several frameworks share, or in which they differ, each by name."""

import os
import subprocess
import sys

import array_api_compat
import array_api_extra as xpx
import numpy as np
import pytest

import xdev
from xdev import nn, ops, optim
from xdev.testing import assert_close

taped = pytest.mark.xdev_backends(only=("numpy", "strict", "cupy"), reason="those that xdev itself differentiates")

# -- repeated indices --------------------------------------------------------------------------------

PICKED = [1, 1, 2, 1]
ADDED = [0.0, 3.0, 1.0]

GATHER = {
    "take": lambda x, i: xdev.namespace(x).take(x, i),
    "take of a row": lambda x, i: xdev.namespace(x).take(xdev.namespace(x).reshape(x, (1, 3)), i, axis=1),
    "take_along_axis": lambda x, i: xdev.namespace(x).take_along_axis(x, i),
    "x[index]": lambda x, i: x[i],
    "embedding": lambda x, i: ops.embedding(xdev.namespace(x).reshape(x, (3, 1)), i),
}


@pytest.mark.parametrize("name", GATHER)
def test_the_gradient_of_what_is_taken_several_times_adds_all(device, xp, name):
    if name == "take_along_axis" and not hasattr(xp, name):
        pytest.skip("an older standard")
    index = xp.asarray(PICKED, dtype=xp.int32 if device.backend == "jax" else xp.int64)
    x = xp.asarray([1.0, 2.0, 3.0], dtype=xp.float32)
    gradient = xdev.grad(lambda x: xdev.namespace(x).sum(GATHER[name](x, index)))(x)
    assert xdev.to_numpy(gradient).tolist() == ADDED


def test_in_place_addition_at_repeated_indices_is_the_frameworks_own(device, xp):
    """NumPy and torch add once, and nothing here rests on it; JAX has no such addition."""
    if device.backend not in ("numpy", "torch", "cupy"):
        pytest.skip("arrays are immutable, or not indexed so")
    x = xp.zeros(3, dtype=xp.float32)
    x[xp.asarray(PICKED)] += 1.0
    assert xdev.to_numpy(x).tolist() == [0, 1, 1]


# -- bfloat16 in files -------------------------------------------------------------------------------


def test_bfloat16_is_saved_and_loaded_whatever_numpy_knows(device, xp, tmp_path):
    if not device.backend.holds("bfloat16", device.info):
        pytest.skip(f"{device} holds no bfloat16")
    x = xdev.to_device([1.5, -2.0, 3.25], device, dtype="bfloat16")
    xdev.save(tmp_path / "x", {"x": x})
    loaded = xdev.load(tmp_path / "x", device=device)["x"]
    assert loaded.dtype == x.dtype
    assert xdev.to_device(loaded, "numpy", dtype="float32").tolist() == [1.5, -2, 3.25]
    assert xdev.load(tmp_path / "x", device="numpy", dtype="float32")["x"].tolist() == [1.5, -2, 3.25]


# -- bits of products --------------------------------------------------------------------------------


def test_products_agree_within_the_tolerance_and_perhaps_not_to_the_bit(device):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(64, 64)).astype("float32") for _ in range(2))
    there = [xdev.to_device(x, device) for x in (a, b)]
    assert_close(xdev.namespace(there[0]).matmul(*there), a @ b, atol=1e-4)
    assert_close(xdev.namespace(there[0]).matmul(*there), (a.astype("float64") @ b).astype("float32"), atol=1e-4)


# -- functions of libraries on arrays under differentiation ------------------------------------------

LIBRARY = {
    "at.set": (lambda x, xp: xpx.at(x * 1.0, 1).set(5.0) * x, [2, 5, 6]),
    "at.set of an argument": (lambda x, xp: xpx.at(x, 1).set(5.0) * 3.0, [3, 0, 3]),
    "at.add": (lambda x, xp: xpx.at(x * 1.0, 1).add(5.0) * x, [2, 9, 6]),
    "apply_where": (lambda x, xp: xpx.apply_where(x > 1.5, x, lambda y: y * y, lambda y: y, xp=xp), [1, 4, 6]),
    "pad": (lambda x, xp: xpx.pad(x, 1, xp=xp) * 2.0, [2, 2, 2]),
}


@taped
@pytest.mark.parametrize("name", LIBRARY)
def test_libraries_that_assign_into_traced_arrays_are_right(device, xp, name):
    """array-api-compat takes them for writable arrays of no framework; their assignment is functional."""
    f, expected = LIBRARY[name]
    x = xp.asarray([1.0, 2.0, 3.0])
    seen = []

    def total(x):
        traced = xdev.namespace(x)
        seen.append((array_api_compat.is_numpy_array(x), array_api_compat.is_writeable_array(x)))
        return traced.sum(f(x, traced))

    assert xdev.to_numpy(xdev.grad(total)(x)).tolist() == expected
    assert seen == [(False, True)]
    assert xdev.to_numpy(x).tolist() == [1, 2, 3]


SCIPY = """
import numpy as np, scipy.special as special, xdev
from xdev import ops

pairs = ((special.softmax, ops.softmax), (special.log_softmax, ops.log_softmax), (special.logsumexp, ops.logsumexp))
for name in ("numpy", "strict:device1"):
    device = xdev.device(name)
    x = device.xp.asarray([1.0, 2.0, 4.0])
    for theirs, ours in pairs:
        assert xdev.device_of(theirs(x)) is device
        totals = [lambda x, f=f: xdev.namespace(x).sum(f(x) * x) for f in (theirs, ours)]
        a, b = (xdev.to_numpy(xdev.grad(total)(x)) for total in totals)
        assert np.allclose(a, b), (name, ours)
    for function in (special.expit, special.gammaln):  # NumPy's, whatever the array
        try:
            xdev.grad(lambda x: xdev.namespace(x).sum(function(x)))(x)
        except (TypeError, xdev.GradientError) as error:
            assert "xdev.ops" in str(error), error
        else:
            raise SystemExit(f"{function} went through")
    assert xdev.device_of(ops.sigmoid(x)) is device
    assert np.allclose(xdev.to_numpy(ops.sigmoid(x)), special.expit(xdev.to_numpy(x)))
print("right")
"""


def test_functions_of_scipy():
    """softmax and logsumexp follow the standard where SCIPY_ARRAY_API is set, as it must be before SciPy is loaded."""
    for module in ("scipy", "array_api_strict"):
        pytest.importorskip(module)
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCIPY], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.stdout == "right\n", done.stderr


# -- NumPy's functions on arrays of others -----------------------------------------------------------


@pytest.mark.xdev_backends(exclude=("numpy", "cupy"), reason="their own, or CuPy's, which hands on to itself")
def test_numpys_functions_on_other_arrays_are_hidden_transfers(backend):
    """On a host's device they go through, on JAX unseen; the functions of `xdev.namespace` stay where they are."""
    device = xdev.device(f"{backend.name}:cpu")
    x = device.xp.asarray([0.0, 1.0])
    with xdev.budget(to_host=0, to_device=0):
        assert xdev.device_of(xdev.namespace(x).sin(x)) is device
    with xdev.track_transfers() as transfers:
        through = np.asarray(x)
    assert type(through) is np.ndarray
    assert len(transfers.records) == (0 if backend == "jax" else 1)
    if backend == "jax":
        assert type(np.sin(x)) is np.ndarray
        assert "not np.asarray" in backend.capabilities.visible_transfers
    else:
        with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded):
            np.asarray(x)


# -- snapshots ---------------------------------------------------------------------------------------


def test_a_snapshot_needs_a_copy_where_steps_write_in_place(device, xp):
    """A view of the parameters changes with them; `copy=True`, `state.copy()` and a saved file do not."""
    optimizer = optim.adamw(0.1)
    state = xdev.TrainState.create(nn.Linear(3, 2, rng=xdev.random.Generator(0, device)), optimizer)
    step = xdev.make_step(lambda model, batch: ops.mse(model(batch[0]), batch[1]), optimizer)
    batch = xp.ones((4, 3), dtype=xp.float32), xp.zeros((4, 2), dtype=xp.float32)
    before = xdev.to_numpy(state.model.weight).tolist()
    view, copied, kept = xdev.to_numpy(state.model), xdev.to_numpy(state.model, copy=True), state.copy()
    state, _ = step(state, batch)
    after = xdev.to_numpy(state.model.weight).tolist()
    assert before != after
    assert view.weight.tolist() == (after if device.backend in ("numpy", "torch") else before)
    assert copied.weight.tolist() == before
    assert xdev.to_numpy(kept.model.weight).tolist() == before
