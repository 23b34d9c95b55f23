"""float64 in training: that of JAX after its block has ended, and that which comes in by accident."""

import re
import warnings

import numpy as np
import pytest

import xdev
from xdev import optim
from xdev.contract import dtype_name

only_jax = pytest.mark.xdev_backends(only="jax", reason="only there float64 exists within the block alone")


def name_of(x):
    return dtype_name(x.dtype)


def held(device, name):
    with device.backend.precision(name):
        return device.backend.holds(name, device.info)


# -- float64 after the block -------------------------------------------------------------------------

THIRD = 1 / 3  # has no exact float32


def wide_model(device):
    with xdev.precision("float64"):
        rng = xdev.random.Generator(0, device)
        return xdev.nn.Sequential([xdev.nn.Linear(3, 4, rng=rng), xdev.ops.gelu, xdev.nn.Linear(4, 1, rng=rng)])


def loss_of(model, batch):
    return xdev.ops.mse(model(batch[0]), batch[1])


def data_of():
    x = np.random.default_rng(0).normal(size=(8, 3)) * THIRD
    return x, x.sum(axis=1, keepdims=True)


def trained_on_the_host(steps, optimizer):
    """Return the model after some steps on the host, whose float64 no block can end."""
    model, batch = xdev.to_device(wide_model(xdev.device("numpy")), "numpy"), data_of()
    state, step = xdev.TrainState.create(model, optimizer), xdev.make_step(loss_of, optimizer)
    for _ in range(steps):
        state, _ = step(state, batch)
    return xdev.tree.leaves(state.model)


def check(leaves, expected, exact=1e-12):
    for x, y in zip(xdev.tree.leaves(leaves), expected, strict=True):
        assert name_of(x) == "float64"
        np.testing.assert_allclose(xdev.to_numpy(x), y, rtol=exact, atol=exact)


@pytest.mark.parametrize("optimizer", [optim.sgd(0.1), optim.adamw(0.1)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("made", ["within", "outside"])
def test_steps_of_a_float64_model_go_on_after_the_block(device, optimizer, made):
    if not held(device, "float64"):
        pytest.skip("no float64 there")
    model = wide_model(device)
    with xdev.precision("float64"):
        batch = xdev.to_device(data_of(), device)
        within = xdev.TrainState.create(model, optimizer)
    state = within if made == "within" else xdev.TrainState.create(model, optimizer)
    step = xdev.make_step(loss_of, optimizer)
    for _ in range(2):
        state, metrics = step(state, batch)
        state = state.copy()
    assert name_of(metrics["loss"]) == "float64"
    with xdev.precision("float64"):
        state, _ = step(state, batch)
    state, _ = step(state, batch)
    check(state.model, trained_on_the_host(4, optimizer))
    floats = {name_of(x) for x in xdev.tree.leaves(state.opt_state) if "float" in name_of(x)}
    assert floats <= {"float64"}


def test_fit_evaluate_and_predict_of_a_float64_model_after_the_block(device):
    if not held(device, "float64"):
        pytest.skip("no float64 there")
    model, data = wide_model(device), data_of()
    result = xdev.fit(model, loss_of, data, optimizer=optim.sgd(0.1), epochs=3, validation=data)
    expected = trained_on_the_host(3, optim.sgd(0.1))
    check(result.model, expected)
    check(result.state.model, expected)
    host = xdev.to_numpy(result.model)
    scores = xdev.evaluate(result.model, loss_of, data)
    assert scores["loss"] == pytest.approx(float(loss_of(host, data)), rel=1e-13)
    assert scores["loss"] == pytest.approx(result.history[-1]["val_loss"], rel=1e-13)
    predicted = xdev.predict(result.model, data[0], batch_size=3)
    assert predicted.dtype == np.float64
    np.testing.assert_allclose(predicted, host(data[0]), rtol=1e-13)
    with xdev.precision("float64"):
        x = xdev.to_device(data[0], device)
    tripled = xdev.predict(lambda x: 3 * x, x, device=device)
    assert tripled.tolist() == (3 * data[0]).tolist()


def test_functions_of_float64_arrays_after_the_block(device, xp):
    if not held(device, "float64"):
        pytest.skip("no float64 there")
    with xdev.precision("float64"):
        x = xp.asarray([THIRD, 2 * THIRD])
        z = xp.astype(x, xp.float32)

    def f(tree_):
        own = xdev.namespace(tree_["x"])
        return own.sum(tree_["x"] ** 2) * 1.5

    exact = 1.5 * (THIRD**2 + (2 * THIRD) ** 2)
    for call in (f, xdev.jit(f)):
        value, gradient = xdev.value_and_grad(call)({"x": x, "z": z, "n": 1})
        check(value, [exact], 1e-15)
        check(gradient["x"], [[3 * THIRD, 6 * THIRD]], 1e-15)
        assert name_of(gradient["z"]) == "float32"
    check(
        xdev.grad(lambda a, b: xdev.namespace(a).sum(a * b))(z * 1, x) if False else xdev.grad(f)({"x": x}),
        [[1.0, 2.0]],
    )
    twice = xdev.jit(f)
    for _ in range(2):
        check(twice({"x": x}), [exact], 1e-15)
    assert name_of(twice({"x": z})) == "float32"
    second = xdev.grad(lambda a: xdev.namespace(a).sum(xdev.grad(lambda b: xdev.namespace(b).sum(b**3))(a)))(x)
    check(second, [[6 * THIRD, 12 * THIRD]], 1e-15)
    value, pullback = xdev.vjp(lambda a: a * 2, x)
    check(value, [[2 * THIRD, 4 * THIRD]], 1e-15)
    check(pullback(x)[0], [[2 * THIRD, 4 * THIRD]], 1e-15)
    leaf, frozen = xdev.grad(lambda t: xdev.namespace(t[0]).sum(t[0]))([z, x])
    assert (name_of(leaf), name_of(frozen)) == ("float32", "float64")


@only_jax
def test_float64_of_jax_decays_in_arithmetic_after_the_block(device, xp):
    with xdev.precision("float64"):
        x = xp.asarray([THIRD])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of them warn
        for compute in (lambda x: x + 1, xp.sum, lambda x: x + xp.ones(1), xdev.ops.relu):
            assert name_of(compute(x)) == "float32"
    model = wide_model(device)
    assert {name_of(x) for x in xdev.tree.leaves(model)} == {"float64"}


@only_jax
def test_the_doctor_warns_of_float64_arrays_outside_of_the_block(backend, xp):
    def found():
        return [f for f in backend.diagnose() if "outside of the block in which it computes in 64 bits" in f.what]

    before = len(found())
    with xdev.precision("float64"):
        x = xp.zeros(1000)
        assert not found()
    (finding,) = found()
    assert finding.level == "warning"
    pattern = r"JAX has (an array|\d+ arrays) of [\w, ]*float64[\w, ]* \(\d+ bytes\) outside of the block in which it"
    assert re.match(pattern, finding.what)
    assert int(re.search(r"\((\d+) bytes\)", finding.what).group(1)) >= x.nbytes == 8000
    assert finding.remedy == (
        'Compute with them within `with xdev.precision("float64"):`, or take them out of it by xdev.to_numpy.'
    )
    del x
    assert len(found()) == before


# -- float64 by accident -----------------------------------------------------------------------------

HALF = np.sqrt(0.5)
CONSTANT = np.asarray([0.25, 0.5, 0.75])
numpy_like = pytest.mark.xdev_backends(only=("numpy", "cupy"), reason="NumPy's scalars promote so there alone")


def narrow(xp):
    return {"w": xp.ones(3, dtype=xp.float32)}


def xp_sum(x):
    return xdev.namespace(x).sum(x)


def flat(batch):
    return xdev.namespace(batch).reshape(batch, (3,))


def by_scalar(model, batch):
    return xdev.ops.mse(model["w"] * HALF, flat(batch))


def by_array(model, batch):
    return xdev.ops.mse(model["w"] * CONSTANT, flat(batch))


def by_creation(model, batch):
    xp = xdev.namespace(batch)
    return xdev.ops.mse(model["w"] + xp.zeros(3), flat(batch))


def by_python(model, batch):
    return xdev.ops.mse(model["w"] * float(HALF) * 0.5**0.5, batch)


def one_step(model, loss, batch, optimizer=None):
    optimizer = optimizer or optim.sgd(0.1)
    step = xdev.make_step(loss, optimizer)
    return step, step(xdev.TrainState.create(model, optimizer), batch)


@numpy_like
@pytest.mark.parametrize("loss", [by_scalar, by_array, by_creation], ids=lambda f: f.__name__)
def test_float64_by_accident_raises_in_tests(backend, xp, loss):
    if loss is by_array and backend.name != "numpy":
        pytest.skip("arrays of NumPy are on another device")
    cause = {by_scalar: "HALF is float64", by_array: "CONSTANT is float64"}.get(loss, "something in it is float64")
    line = loss.__code__.co_firstlineno
    text = (
        f"the loss ({__file__}:{line}) is float64, and the model is float32: {cause}, and float64 scalars and arrays "
        "of NumPy make float64 of what they meet. Python floats do not: write x * 0.5**0.5 or x * float(np.sqrt(0.5)), "
        "not x * np.sqrt(0.5), and cast arrays to x.dtype"
    )
    batch = xp.zeros(3, dtype=xp.float32)
    with pytest.raises(xdev.errors.PromotionWarning, match=f"^{re.escape(text)}$"):
        xdev.fit(narrow(xp), loss, batch[None, :], batch_size=1, optimizer=optim.sgd(0.1), epochs=2)
    with pytest.raises(xdev.errors.PromotionWarning, match=f"^{re.escape(text)}$"):
        one_step(narrow(xp), loss, batch)


@numpy_like
def test_a_float64_batch_of_a_float32_model_is_named(xp):
    batch = {"x": xp.zeros(3), "n": 3}
    with pytest.raises(xdev.errors.PromotionWarning, match=r"is float32: batch\['x'\] is float64, and float64 scalars"):
        one_step(narrow(xp), lambda m, b: xp_sum(m["w"] * b["x"]), batch)
    result = xdev.fit(narrow(xp), lambda m, b: xdev.ops.mse(m["w"], b[0]), batch["x"][None], optimizer=optim.sgd(0.1))
    assert name_of(result.model["w"]) == "float32"  # fit casts its data


@numpy_like
def test_a_buffer_that_becomes_float64_is_told(device, xp):
    def loss(model, batch):
        leaves, treedef = xdev.tree.flatten(model)
        wide = xdev.tree.unflatten(treedef, leaves)
        wide.mean = model.mean * HALF
        return xdev.namespace(batch).sum(model.weight * batch), {}, wide

    with pytest.raises(
        xdev.errors.PromotionWarning,
        match=r"the step made float64 of an array of the model that was float32, in the loss \(.*\) or the optimizer: ",
    ):
        one_step(xdev.nn.BatchNorm(3, device=device), loss, xp.ones(3, dtype=xp.float32))


def test_python_floats_and_intended_float64_are_silent(device, xp):
    batch = xp.zeros(3, dtype=xp.float32)
    for _ in range(2):
        _, (state, metrics) = one_step(narrow(xp), by_python, batch)
    assert (name_of(state.model["w"]), name_of(metrics["loss"])) == ("float32", "float32")
    if held(device, "float64"):
        with xdev.precision("float64"):
            _, (state, metrics) = one_step({"w": xp.ones(3)}, by_python, xp.zeros(3))
        assert name_of(state.model["w"]) == name_of(metrics["loss"]) == "float64"


@pytest.mark.xdev_backends(exclude="strict", reason="it has no half precision")
def test_half_precision_with_a_float32_loss_is_silent(device, xp):
    def loss(model, batch):
        own = xdev.namespace(model["w"])
        return own.sum(own.astype(model["w"], own.float32) * batch)

    for dtype in ("float16", "bfloat16"):
        if held(device, dtype):
            model = {"w": xp.ones(3, dtype=device.backend.dtype(dtype))}
            _, (state, metrics) = one_step(model, loss, xp.ones(3, dtype=xp.float32))
            assert (name_of(state.model["w"]), name_of(metrics["loss"])) == (dtype, "float32")


@numpy_like
def test_it_is_told_in_the_first_step_alone_and_at_the_callers_line(xp):
    batch = xp.zeros(3, dtype=xp.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step, (state, _) = one_step(narrow(xp), by_scalar, batch)
        for _ in range(3):
            state, metrics = step(state, batch)
    (warning,) = caught
    assert warning.category is xdev.errors.PromotionWarning
    assert warning.filename == __file__
    assert name_of(metrics["loss"]) == "float64"
    assert name_of(state.model["w"]) == "float32"


@pytest.mark.parametrize(("settings", "outcome"), [("", "failed"), ("filterwarnings = ignore", "passed")])
def test_the_plug_in_raises_it_unless_a_suite_says_otherwise(pytester, settings, outcome):
    pytester.makepyfile(
        """
        import numpy as np, xdev
        from xdev import optim

        def test_fit():
            x = np.ones((4, 2), np.float32)
            loss = lambda m, b: xdev.ops.mse(m["w"] * np.sqrt(0.5), b)
            xdev.fit({"w": x}, loss, x, optimizer=optim.sgd(0.1), device="numpy")
        """
    )
    pytester.makeini(f"[pytest]\n{settings}\n")
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(**{outcome: 1})
