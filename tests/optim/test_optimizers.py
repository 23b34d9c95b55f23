"""The optimizers against torch.optim and optax, step by step, on every backend, functional and fused."""

import re

import numpy as np
import pytest

import xdev
from xdev import nn, optim, tree
from xdev.errors import ArrayTypeError, ConfigurationError, GradientError
from xdev.testing import assert_close

STEPS = 7
RNG = np.random.default_rng(0)
PARAMS = [RNG.normal(size=(5, 3)), RNG.normal(size=(4,))]
TARGETS = [RNG.normal(size=(5, 3)), RNG.normal(size=(4,))]

CASES = {
    "sgd": (
        lambda: optim.sgd(0.1),
        lambda torch, p: torch.optim.SGD(p, lr=0.1),
        lambda optax: optax.sgd(0.1),
    ),
    "momentum": (
        lambda: optim.sgd(0.1, momentum=0.9),
        lambda torch, p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda optax: optax.sgd(0.1, momentum=0.9),
    ),
    "nesterov": (
        lambda: optim.sgd(0.1, momentum=0.9, nesterov=True),
        lambda torch, p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda optax: optax.sgd(0.1, momentum=0.9, nesterov=True),
    ),
    "sgd-decay": (
        lambda: optim.sgd(0.1, momentum=0.5, weight_decay=0.1),
        lambda torch, p: torch.optim.SGD(p, lr=0.1, momentum=0.5, weight_decay=0.1),
        lambda optax: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.5)),
    ),
    "adam": (
        lambda: optim.adam(0.05, b1=0.8, b2=0.99),
        lambda torch, p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.99)),
        lambda optax: optax.adam(0.05, b1=0.8, b2=0.99),
    ),
    "adamw": (
        lambda: optim.adamw(0.05, weight_decay=0.1),
        lambda torch, p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
        lambda optax: optax.adamw(0.05, weight_decay=0.1),
    ),
    "clipped": (
        lambda: optim.chain(optim.clip_by_global_norm(0.5), optim.adamw(0.05)),
        None,
        lambda optax: optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.05, weight_decay=1e-2)),
    ),
    "scheduled": (
        lambda: optim.sgd(optim.linear_warmup(0.1, 3, optim.cosine_decay(0.1, 4))),
        None,
        lambda optax: optax.sgd(
            optax.join_schedules([optax.linear_schedule(0, 0.1, 3), optax.cosine_decay_schedule(0.1, 4)], [3])
        ),
    ),
}
"""name -> (xdev's, torch's or None, optax's)"""


def gradients(params):
    """Gradients of a function that is not quadratic, so that mistakes in the state show."""
    return [np.tanh(p - t) * (1 + p * p) for p, t in zip(params, TARGETS, strict=True)]


def torch_trajectory(make):
    torch = pytest.importorskip("torch")
    params = [torch.tensor(p, requires_grad=True) for p in PARAMS]
    optimizer = make(torch, params)
    for _ in range(STEPS):
        for p, g in zip(params, gradients([p.detach().numpy() for p in params]), strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
    return [p.detach().numpy() for p in params]


def optax_trajectory(make):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    with jax.enable_x64(True):
        params = [jax.numpy.asarray(p) for p in PARAMS]
        optimizer = make(optax)
        state = optimizer.init(params)
        for _ in range(STEPS):
            grads = [jax.numpy.asarray(g) for g in gradients([np.asarray(p) for p in params])]
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return [np.asarray(p) for p in params]


def xdev_trajectory(optimizer, device, dtype):
    params = [xdev.asarray(p, dtype=dtype, device=device) for p in PARAMS]
    state = optimizer.init(params)
    for _ in range(STEPS):
        grads = [
            xdev.asarray(g, dtype=dtype, device=device)
            for g in gradients([xdev.to_numpy(p).astype(np.float64) for p in params])
        ]
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    return xdev.to_numpy(params)


@pytest.fixture(scope="module")
def oracles():
    found = {}
    for name, (_, make_torch, make_optax) in CASES.items():
        expected = optax_trajectory(make_optax)
        if make_torch is not None:
            np.testing.assert_allclose(torch_trajectory(make_torch)[0], expected[0], rtol=1e-6, err_msg=name)
        found[name] = expected
    return found


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_torch_and_optax(name, device, oracles):
    with device.backend.precision("float64"):
        params = xdev_trajectory(CASES[name][0](), device, "float64")
    for actual, expected in zip(params, oracles[name], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_step_gives_the_same_numbers(name, device, oracles):
    """The whole step, which updates in place where the backend has a fused update."""

    def loss(params, targets):
        xp = xdev.namespace(params[0])
        return sum((0.1 * xp.sum((p - t) ** 4) for p, t in zip(params, targets, strict=True)), start=0.0)

    with device.backend.precision("float64"):
        optimizer = CASES[name][0]()
        params = [xdev.asarray(p, device=device) for p in PARAMS]
        targets = [xdev.asarray(t, device=device) for t in TARGETS]
        state = xdev.TrainState.create(params, optimizer)
        step = xdev.make_step(loss, optimizer)
        expected = [np.asarray(p) for p in PARAMS]
        host_state = optimizer.init(expected)
        for _ in range(STEPS):
            state, _ = step(state, targets)
            grads = [0.4 * (p - t) ** 3 for p, t in zip(expected, TARGETS, strict=True)]
            updates, host_state = optimizer.update(grads, host_state, expected)
            expected = optim.apply_updates(expected, updates)
        assert_close(state.model, expected, rtol=1e-9)
        assert_close(tree.leaves(state.opt_state), tree.leaves(host_state), rtol=1e-9)
        assert_close(xdev.to_numpy(params), PARAMS, rtol=0, atol=0)  # the caller's model never changes


def test_float32_stays_float32(xp, device):
    for make, _, _ in CASES.values():
        optimizer = make()
        params = {"w": xp.asarray(np.float32([1.0, 2.0]))}
        state = optimizer.init(params)
        updates, state = optimizer.update(params, state, params)
        new = optim.apply_updates(params, updates)
        assert new["w"].dtype == xp.float32
        floats = [x for x in tree.leaves(state) if xdev.contract.dtype_name(x.dtype) != "int32"]
        assert all(x.dtype == xp.float32 for x in floats)
        assert xdev.device_of((state, new)) == device


def test_buffers_and_frozen_leaves_and_integers_are_left_alone(xp, device):
    class Scaled(nn.Module):
        weight: object
        scale: object = nn.buffer()

    one = lambda: xp.asarray(np.float32([1.0]))  # noqa: E731
    model = {"live": Scaled(one(), one()), "cold": nn.freeze(Scaled(one(), one())), "n": xp.asarray(np.int32([1]))}
    optimizer = optim.adamw(0.1, weight_decay=0.5)
    grads = tree.map(lambda x: x, model)
    updates, _ = optimizer.update(grads, optimizer.init(model), model)
    new = optim.apply_updates(model, updates)
    assert float(xdev.item(new["live"].weight)) < 1
    assert new["live"].scale is model["live"].scale
    assert new["cold"].weight is model["cold"].weight
    assert new["n"] is model["n"]


def test_tied_leaves_stay_tied(xp):
    class Tied(nn.Module):
        a: object
        b: object

    shared = xp.asarray(np.float32([1.0]))
    model = Tied(shared, shared)
    optimizer = optim.sgd(0.1)
    grads = xdev.grad(lambda m: xdev.namespace(m.a).sum(m.a * m.a * m.b))(model)
    assert_close(grads.a, np.float32([3.0]))  # both ways to the one array, added up
    updates, _ = optimizer.update(grads, optimizer.init(model), model)
    new = optim.apply_updates(model, updates)
    assert new.a is new.b
    assert_close(new.a, np.float32([0.7]))


def test_global_norm_counts_a_shared_array_once(xp):
    x = xp.asarray(np.float32([3.0, 4.0]))
    assert_close(optim.global_norm([x, x]), np.float32(5.0))


# -- what goes wrong -----------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
RATE = "takes learning_rate, a finite number of 0 or more or a schedule, got"
NORM = "clip_by_global_norm takes max_norm, a finite number above 0, got"

BAD_OPTIONS = {
    "rate-text": (lambda: optim.sgd("x"), f"sgd {RATE} 'x'"),
    "rate-none": (lambda: optim.adam(None), f"adam {RATE} None"),
    "rate-bool": (lambda: optim.sgd(True), f"sgd {RATE} True"),
    "rate-negative": (lambda: optim.adamw(-1e-3), f"adamw {RATE} -0.001"),
    "rate-nan": (lambda: optim.sgd(NAN), f"sgd {RATE} nan"),
    "rate-infinite": (lambda: optim.sgd(INF), f"sgd {RATE} inf"),
    "rate-numpy": (lambda: optim.sgd(np.float32(NAN)), f"sgd {RATE} nan"),
    "rate-array": (lambda: optim.sgd(np.ones(3)), f"sgd {RATE} an array of shape (3,)"),
    "momentum": (lambda: optim.sgd(0.1, momentum=1), "sgd takes momentum, a number in [0, 1), got 1"),
    "momentum-text": (lambda: optim.sgd(0.1, momentum="x"), "sgd takes momentum, a number in [0, 1), got 'x'"),
    "nesterov": (lambda: optim.sgd(0.1, nesterov=True), "nesterov=True looks ahead along the momentum; give momentum"),
    "decay": (lambda: optim.sgd(0.1, weight_decay=-1), "sgd takes weight_decay, a finite number of 0 or more, got -1"),
    "adamw-decay": (
        lambda: optim.adamw(0.1, weight_decay=INF),
        "adamw takes weight_decay, a finite number of 0 or more, got inf",
    ),
    "b1": (lambda: optim.adam(0.1, b1=1.0), "adam takes b1, a number in [0, 1), got 1.0"),
    "b2": (lambda: optim.adamw(0.1, b2=-0.5), "adamw takes b2, a number in [0, 1), got -0.5"),
    "eps": (lambda: optim.adam(0.1, eps=-1e-8), "adam takes eps, a finite number of 0 or more, got -1e-08"),
    "clip-zero": (lambda: optim.clip_by_global_norm(0), f"{NORM} 0; leave it out of the chain to pass gradients"),
    "clip-negative": (lambda: optim.clip_by_global_norm(-1), f"{NORM} -1;"),
    "clip-nan": (lambda: optim.clip_by_global_norm(NAN), f"{NORM} nan;"),
    "clip-infinite": (lambda: optim.clip_by_global_norm(INF), f"{NORM} inf;"),
    "scale": (lambda: optim.scale(NAN), "scale takes a factor, a finite number, got nan"),
    "warmup-peak": (
        lambda: optim.linear_warmup("x", 3),
        "linear_warmup takes peak, a finite number of 0 or more, got 'x'",
    ),
    "warmup-steps": (lambda: optim.linear_warmup(0.1, 2.5), "linear_warmup takes steps, an int of 0 or more, got 2.5"),
    "cosine-peak": (
        lambda: optim.cosine_decay(-0.1, 3),
        "cosine_decay takes peak, a finite number of 0 or more, got -0.1",
    ),
    "cosine-steps": (lambda: optim.cosine_decay(0.1, -3), "cosine_decay takes steps, an int of 0 or more, got -3"),
    "cosine-end": (
        lambda: optim.cosine_decay(0.1, 3, end=-1),
        "cosine_decay takes end, a finite number of 0 or more, got -1",
    ),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_told(name):
    make, text = BAD_OPTIONS[name]
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        make()


def test_the_ends_of_the_limits_are_taken():
    optim.sgd(0, momentum=0, weight_decay=0)
    optim.adamw(0.0, b1=0, b2=0.0, eps=0, weight_decay=0)
    optim.linear_warmup(0, 0, optim.cosine_decay(0, np.int64(0), 0))


def test_a_rate_may_be_an_array(xp, device):
    params = {"w": xp.asarray(np.float32([1.0, 2.0]))}
    optimizer = optim.sgd(xp.asarray(np.float32(0.5)))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert_close(updates["w"], np.float32([-0.5, -1.0]))


def test_numbers_of_numpy_leave_the_dtype_alone(xp):
    params = [xp.asarray(np.float32([1.0, 2.0]))]
    optimizer = optim.adamw(np.float64(0.1), eps=np.float64(1e-8), weight_decay=np.float64(0.1))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates[0].dtype == xp.float32


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: optim.chain(optim.scale(1.0), 3), "got an int at 1"),
        (lambda: optim.chain(optim.adamw), "got the function adamw at 0: call it"),
        (lambda: optim.chain([optim.sgd(0.1)]), "got a list at 0: pass its items one by one"),
    ],
    ids=["number", "function", "list"],
)
def test_chain_takes_transformations(make, text):
    start = "chain takes optimizers and transformations, such as optim.clip_by_global_norm(1.0), "
    with pytest.raises(ArrayTypeError, match=re.escape(start + text)):
        make()


def test_warmup_takes_a_schedule_to_go_on_with():
    text = "linear_warmup takes after, a schedule such as optim.cosine_decay(0.1, 1000), got a float; leave it out"
    with pytest.raises(ArrayTypeError, match=re.escape(text)):
        optim.linear_warmup(0.1, 3, 0.1)


def test_parameters_without_arrays_are_told():
    with pytest.raises(GradientError, match="the parameters are a dict without any array; there is nothing to train"):
        optim.adamw(0.1).init({"w": 3})
    with pytest.raises(GradientError, match=r"global_norm needs at least one floating array, got \[\]"):
        optim.global_norm([])


def test_trees_of_other_structure_are_told(xp):
    x = xp.asarray(np.float32([1.0]))
    optimizer = optim.adam(0.1)
    text = r"the parameters have {}, and gradients, updates or an optimizer's state for them {}; .* optimizer\.init"
    with pytest.raises(GradientError, match=text.format("1 leaf", "2 leaves")):
        optim.apply_updates([x], [x, x])
    with pytest.raises(GradientError, match=text.format("2 leaves", "1 leaf")):
        optimizer.update([x, x], optimizer.init([x]), [x, x])


def test_the_norm_of_half_precision_does_not_overflow(xp, device):
    """torch's clip_grad_norm_ has the norm 600 and the gradient 0.5 here; 300² is beyond float16."""
    if not device.backend.holds("float16", device.info):
        pytest.skip("no float16 there")
    grads = [xp.asarray([300.0] * 4, dtype=xp.float16)]
    assert float(optim.global_norm(grads)) == 600.0
    clip = optim.clip_by_global_norm(1.0)
    (clipped,), _ = clip.update(grads, clip.init(grads), grads)
    assert clipped.dtype == xp.float16
    assert_close(clipped, xp.asarray([0.5] * 4, dtype=xp.float16))


def test_integers_before_the_parameters_do_not_matter(xp):
    optimizer = optim.adamw(0.1)
    params = {"a": xp.asarray([1], dtype=xp.int32), "w": xp.asarray([1.0, 2.0], dtype=xp.float32)}
    grads = {"a": xp.asarray([0], dtype=xp.int32), "w": xp.asarray([1.0, 2.0], dtype=xp.float32)}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    alone, _ = optimizer.update([grads["w"]], optimizer.init([params["w"]]), [params["w"]])
    assert_close(updates["w"], alone[0], rtol=0, atol=0)


@pytest.mark.xdev_backends(scoped=False)
@pytest.mark.parametrize("name", ["sgd", "adamw", "clip"])
def test_updates_work_off_the_current_device(name, device):
    optimizer = {
        "sgd": optim.sgd(0.1, momentum=0.9), "adamw": optim.adamw(0.1), "clip": optim.clip_by_global_norm(1.0)
    }[name]  # fmt: skip
    params = [xdev.to_device(np.ones(3, np.float32), device)]
    (update,), _ = optimizer.update(params, optimizer.init(params), params)
    assert xdev.device_of(update) is device
