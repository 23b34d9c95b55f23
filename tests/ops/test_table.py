"""Every op against float64 oracles: values, gradients and second gradients, on every backend.

A new op without cases fails `test_every_op_has_cases`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import scipy.special

import xdev
from xdev import ops
from xdev.random import Generator
from xdev.testing import assert_close


def draw(*shape, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(size=shape) * scale


def integers(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, n, size=shape).astype(np.int32)


@dataclass(frozen=True, eq=False)  # hashed by identity, for the cache below
class Case:
    """An op, its arguments (float64 and int32), and what it should return, by NumPy and SciPy."""

    op: str
    args: tuple[np.ndarray, ...]
    oracle: Callable[..., np.ndarray]
    kwargs: dict = field(default_factory=dict)
    id: str = ""


# -- oracles -------------------------------------------------------------------------------------------------


def norm(x, weight=None, bias=None, *, eps, centred):
    x = x - x.mean(-1, keepdims=True) if centred else x
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def attend(q, k, v, mask=None, *, causal=False, scale=None):
    s = np.einsum("...id,...jd->...ij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    allowed = np.ones(s.shape, bool)
    if mask is not None and mask.dtype == bool:
        allowed &= mask
    elif mask is not None:
        s = s + mask
    if causal:
        allowed &= np.arange(s.shape[-1]) <= np.arange(s.shape[-2])[:, None]
    e = np.exp(s) * allowed
    total = e.sum(-1, keepdims=True)
    return np.einsum("...ij,...jd->...id", e / np.where(total == 0, 1, total), v)


def pick(logits, labels):
    log_p = logits - scipy.special.logsumexp(logits, axis=-1, keepdims=True)
    return -np.mean(np.take_along_axis(log_p, labels[..., None], -1))


def windows(x, size, stride, padding, dilation=(1, 1), value=0.0):
    """Return the pixels under each window, of shape (batch, channels, height', width', *size)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2), constant_values=value)
    reach = tuple(d * (n - 1) + 1 for d, n in zip(dilation, size, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def correlate(x, w, b=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    under = windows(x, w.shape[2:], stride, padding, dilation)
    y = np.concatenate(
        [
            np.einsum("bchwij,ocij->bohw", part, filters)
            for part, filters in zip(np.split(under, groups, 1), np.split(w, groups, 0), strict=True)
        ],
        axis=1,
    )
    return y if b is None else y + b[:, None, None]


def drop(x, *, rate):
    keep = xdev.to_numpy(Generator(3, "numpy").bernoulli(1 - rate, x.shape))
    return x * keep / (1 - rate)


def half_normal(x):
    return x * 0.5 * (1 + scipy.special.erf(x / np.sqrt(2)))


def half_normal_by_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def bits(logits, targets):
    return np.mean(np.logaddexp(0, logits) - logits * targets)


def dropout_here(x, *, rate):
    """Call `dropout` with a new generator each time, as a gradient needs it."""
    return ops.dropout(x, rate=rate, rng=Generator(3, HERE[0]))


HERE: list = []  # the device of the test that runs; under differentiation an array does not say it everywhere


ALLOWED = np.random.default_rng(5).random((2, 1, 3, 5)) > 0.3
ALLOWED[0, 0, 1] = False  # a query that may look nowhere
X = draw(3, 4)
IMAGE = draw(2, 4, 6, 5)

CASES = [
    Case("relu", (X,), lambda x: np.maximum(x, 0)),
    Case("sigmoid", (draw(3, 4, scale=5),), scipy.special.expit),
    Case("silu", (draw(3, 4, scale=5),), lambda x: x * scipy.special.expit(x)),
    Case("gelu", (draw(3, 4, scale=2),), half_normal),
    Case("gelu", (draw(3, 4, scale=2),), half_normal_by_tanh, {"approximate": True}, "tanh"),
    Case("softmax", (X,), functools.partial(scipy.special.softmax, axis=-1)),
    Case("softmax", (X,), functools.partial(scipy.special.softmax, axis=0), {"axis": 0}, "axis0"),
    Case("softmax", (draw(2, 3, 4),), functools.partial(scipy.special.softmax, axis=(0, 2)), {"axis": (0, 2)}, "2axes"),
    Case("softmax", (X,), scipy.special.softmax, {"axis": None}, "all"),
    Case("log_softmax", (X,), functools.partial(scipy.special.log_softmax, axis=-1)),
    Case("log_softmax", (X,), functools.partial(scipy.special.log_softmax, axis=0), {"axis": 0}, "axis0"),
    Case("log_softmax", (X,), scipy.special.log_softmax, {"axis": None}, "all"),
    Case("logsumexp", (X,), functools.partial(scipy.special.logsumexp, axis=-1)),
    Case(
        "logsumexp", (draw(2, 3, 4),), functools.partial(scipy.special.logsumexp, axis=(0, -1)), {"axis": (0, -1)}, "2"
    ),
    Case(
        "logsumexp",
        (X,),
        functools.partial(scipy.special.logsumexp, axis=None, keepdims=True),
        {"axis": None, "keepdims": True},
        "all",
    ),
    Case("layer_norm", (X, draw(4, seed=1), draw(4, seed=2)), functools.partial(norm, eps=1e-5, centred=True)),
    Case("layer_norm", (draw(2, 3, 4),), functools.partial(norm, eps=0.1, centred=True), {"eps": 0.1}, "plain"),
    Case("rms_norm", (X, draw(4, seed=1)), functools.partial(norm, eps=1e-5, centred=False)),
    Case("rms_norm", (draw(2, 3, 4),), functools.partial(norm, eps=0.1, centred=False), {"eps": 0.1}, "plain"),
    Case("linear", (X, draw(4, 5, seed=1), draw(5, seed=2)), lambda x, w, b: x @ w + b),
    Case("linear", (X, draw(4, 5, seed=1)), lambda x, w: x @ w, id="no bias"),
    Case("linear", (draw(2, 3, 4), draw(4, 5, seed=1), draw(5, seed=2)), lambda x, w, b: x @ w + b, id="3d"),
    Case("linear", (draw(4), draw(4, 5, seed=1), draw(5, seed=2)), lambda x, w, b: x @ w + b, id="1d"),
    Case("embedding", (draw(6, 3), integers(6, 2, 5)), lambda w, i: w[i]),
    Case("embedding", (draw(6, 3), integers(6)), lambda w, i: w[i], id="0d"),
    Case("embedding", (draw(300, 2), integers(7, 20)), lambda w, i: w[i], id="long"),
    Case("one_hot", (integers(6, 2, 5),), lambda x: np.eye(6)[x], {"n": 6}),
    Case("attention", (draw(2, 3, 4), draw(2, 5, 4, seed=1), draw(2, 5, 6, seed=2)), attend),
    Case(
        "attention",
        tuple(draw(2, 3, 5, 4, seed=s) for s in range(3)),
        functools.partial(attend, causal=True, scale=0.3),
        {"causal": True, "scale": 0.3},
        "causal",
    ),
    Case(
        "attention",
        (draw(2, 2, 3, 4), draw(2, 2, 5, 4, seed=1), draw(2, 2, 5, 6, seed=2), ALLOWED),
        attend,
        {},
        "boolean mask",
    ),
    Case(
        "attention",
        (draw(2, 2, 3, 4), draw(2, 2, 5, 4, seed=1), draw(2, 2, 5, 6, seed=2), draw(2, 3, 5, seed=3)),
        functools.partial(attend, causal=True),
        {"causal": True},
        "added mask",
    ),
    Case(
        "conv2d",
        (IMAGE, draw(6, 4, 3, 2, seed=1), draw(6, seed=2)),
        functools.partial(correlate, padding=(1, 1)),
        {"padding": 1},
    ),
    Case(
        "conv2d",
        (IMAGE, draw(6, 2, 2, 3, seed=1)),
        functools.partial(correlate, stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2),
        {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "groups": 2},
        "all options",
    ),
    Case("max_pool2d", (IMAGE,), lambda x: windows(x, (2, 2), (2, 2), (0, 0)).max((-1, -2)), {"size": 2}),
    Case(
        "max_pool2d",
        (IMAGE,),
        lambda x: windows(x, (3, 2), (2, 1), (1, 1), value=-np.inf).max((-1, -2)),
        {"size": (3, 2), "stride": (2, 1), "padding": 1},
        "all options",
    ),
    Case("avg_pool2d", (IMAGE,), lambda x: windows(x, (2, 2), (2, 2), (0, 0)).mean((-1, -2)), {"size": 2}),
    Case(
        "avg_pool2d",
        (IMAGE,),
        lambda x: windows(x, (3, 2), (2, 1), (1, 1)).mean((-1, -2)),
        {"size": (3, 2), "stride": (2, 1), "padding": 1},
        "all options",
    ),
    Case("dropout", (X,), functools.partial(drop, rate=0.4), {"rate": 0.4}),
    Case("cross_entropy", (X, integers(4, 3)), pick),
    Case("cross_entropy", (draw(2, 3, 4), integers(4, 2, 3)), pick, id="3d"),
    Case("cross_entropy", (draw(4), integers(4)), pick, id="1d"),
    Case("mse", (X, draw(3, 4, seed=1)), lambda a, b: np.mean((a - b) ** 2)),
    Case("mse", (draw(), draw(seed=1)), lambda a, b: np.mean((a - b) ** 2), id="0d"),
    Case("binary_cross_entropy_with_logits", (draw(3, 4, scale=4), draw(3, 4, seed=1) ** 2 / 9), bits),
]
DIFFERENTIABLE = [case for case in CASES if case.op != "one_hot"]


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda c: f"{c.op}-{c.id}".rstrip("-"))


def call(case, args):
    if case.op == "dropout":
        return dropout_here(*args, **case.kwargs)
    kwargs = dict(case.kwargs)
    extra = [kwargs.pop(name) for name in ("n", "size") if name in kwargs]
    if case.op == "attention" and len(args) == 4:
        *args, kwargs["mask"] = args
    return getattr(ops, case.op)(*args, *extra, **kwargs)


def place(case, device, dtype):
    HERE[:] = [device]
    return [xdev.asarray(np.asarray(a, dtype) if a.dtype.kind == "f" else a, device=device) for a in case.args]


def floating(case):
    return [k for k, a in enumerate(case.args) if a.dtype.kind == "f"]


def wide(device):
    return "float64" if device.backend.holds("float64", device.info) else "float32"


def scalar(case, args, squared=False):
    """Weight the result of a case, so that every element has its own cotangent; squares have second gradients."""
    y = call(case, args)
    xp = xdev.namespace(y)
    y = xp.square(y) if squared else y
    weights = np.cos(np.arange(np.prod(y.shape, dtype=int)) + 1.0).reshape(y.shape)
    weights = xdev.asarray(weights, device=HERE[0], dtype=str(y.dtype).rpartition(".")[2])
    return xp.sum(xp.multiply(y, weights))


@functools.cache
def expected_gradients(case):
    """Return central differences of the oracle."""
    weights = np.cos(np.arange(np.size(case.oracle(*case.args))) + 1.0)
    found = []
    for k in floating(case):
        gradient = np.zeros(case.args[k].shape)
        for index in np.ndindex(gradient.shape):
            values = []
            for step in (1e-6, -1e-6):
                moved = [np.array(a) for a in case.args]
                moved[k][index] += step
                values.append(np.sum(np.ravel(case.oracle(*moved)) * weights))
            gradient[index] = (values[0] - values[1]) / 2e-6
        found.append(gradient)
    return found


def test_every_op_has_cases():
    assert {case.op for case in CASES} == set(ops.__all__)


@each(CASES)
def test_values(case, device):
    y = call(case, place(case, device, "float32"))
    assert_close(y, case.oracle(*case.args).astype("float32"), rtol=2e-5, atol=2e-6)
    if y.shape:
        assert xdev.device_of(y) == device


@each(CASES)
def test_values_in_float64(case, device):
    if wide(device) != "float64" or case.op == "one_hot":
        pytest.skip("no float64 there, or no choice of dtype")
    y = call(case, place(case, device, "float64"))
    assert_close(y, np.asarray(case.oracle(*case.args)), rtol=1e-11, atol=1e-12)


@each(DIFFERENTIABLE)
def test_gradients(case, device):
    dtype = wide(device)
    args = place(case, device, dtype)

    def loss(varied):
        whole = list(args)
        for k, a in zip(floating(case), varied, strict=True):
            whole[k] = a
        return scalar(case, whole)

    _, gradients = xdev.value_and_grad(loss)([args[k] for k in floating(case)])
    rtol, atol = (1e-5, 1e-7) if dtype == "float64" else (1e-4, 1e-5)
    assert_close(gradients, [g.astype(dtype) for g in expected_gradients(case)], rtol=rtol, atol=atol)


@each(DIFFERENTIABLE)
def test_second_gradients(case, device):
    """Differences of the gradient along a direction are the gradient of the gradient along it."""
    dtype = wide(device)
    args = place(case, device, dtype)
    start = [args[k] for k in floating(case)]
    directions = [
        xdev.asarray(np.sin(np.arange(case.args[k].size) + k).reshape(case.args[k].shape).astype(dtype), device=device)
        for k in floating(case)
    ]

    def loss(varied):
        whole = list(args)
        for k, a in zip(floating(case), varied, strict=True):
            whole[k] = a
        return scalar(case, whole, squared=True)

    def slope(varied):
        total = 0.0
        for g, d in zip(xdev.grad(loss)(varied), directions, strict=True):
            xp = xdev.namespace(g)
            total = xp.add(xp.sum(xp.multiply(g, d)), total)
        return total

    second = xdev.grad(slope)(start)
    step = 1e-6 if dtype == "float64" else 1e-2
    ahead, behind = (
        xdev.grad(loss)([device.xp.add(a, device.xp.multiply(d, s)) for a, d in zip(start, directions, strict=True)])
        for s in (step, -step)
    )
    expected = [
        (xdev.to_numpy(a) - xdev.to_numpy(b)) / np.asarray(2 * step, dtype) for a, b in zip(ahead, behind, strict=True)
    ]
    rtol, atol = (1e-4, 1e-7) if dtype == "float64" else (2e-2, 2e-3)
    assert_close(second, expected, rtol=rtol, atol=atol)
