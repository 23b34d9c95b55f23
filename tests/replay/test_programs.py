"""Random programs replayed 20 times with fresh inputs: the bits of the eager run, and nothing overwritten."""

from __future__ import annotations

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402  after the check that it is there
from hypothesis import strategies as st  # noqa: E402

import xdev  # noqa: E402
from xdev import ops  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
REPLAYS = 20
N = 4
"""Rows and columns; larger ones are placed and bound in other ways: see SMALL and COPIED in xdev/replay."""


def _copy(xp, x):
    return xp.asarray(x, copy=True)


def _set_row(xp, a, b, c):
    y = _copy(xp, a)
    y[c.n, :] = b[0, :]
    y[:, 1] += 1.0
    return y


def _shifted(xp, a, b, c):
    y = _copy(xp, a)
    y[1:, :] = y[:-1, :]
    return y + b


def _set_gathered(xp, a, b, c):
    y = _copy(xp, a)
    y[c.k, :] = b[0, :]
    return y


def _written_after_it_was_read(xp, a, b, c):
    y = _copy(xp, a)
    row = _copy(xp, y[c.n, :])
    y[c.n, :] = 0.25
    return y + row * b


def _embedded(xp, a, b, c):
    return ops.embedding(a, c.k) * b


def _convolved(xp, a, b, c):
    x = xp.reshape(a, (1, 1, N, N))
    y = ops.conv2d(x, xp.reshape(b[:3, :3], (1, 1, 3, 3)), b[0, :1], padding=1)
    return xp.reshape(y, (N, N)) * 0.3


def _pooled(pool):
    return lambda xp, a, b, c: a + pool(xp.reshape(b, (1, 1, N, N)), 2, stride=1, padding=1)[0, 0, :N, :N]


def _heads(xp, x, apart):
    if apart:
        return xp.reshape(x, (1, 2, N, N // 2))
    return xp.permute_dims(xp.reshape(x, (1, N, 2, N // 2)), (0, 2, 1, 3))


def _attended(causal):
    def step(xp, a, b, c):
        q, k = (_heads(xp, x, causal) for x in (a, b))
        return xp.reshape(ops.attention(q, k, q, causal=causal), (N, N))

    return step


def _masked_attention(xp, a, b, c):
    q = xp.reshape(a, (1, 1, N, N))
    return ops.attention(q, q, xp.reshape(b, (1, 1, N, N)), mask=c.m)[0, 0, ...]


def _dropped(xp, a, b, c):
    return ops.dropout(a, rate=0.4, rng=c.rng)


def _drawn(xp, a, b, c):
    return a + xp.astype(c.rng.normal((N, N)), a.dtype) * 0.1


def _permuted(xp, a, b, c):
    return xp.take(a, c.rng.permutation(N), axis=0) + b


def _rematerialised(xp, a, b, c):
    return xdev.remat(lambda x, y: xp.tanh(x @ y))(a, b)


@xdev.custom_vjp
def _doubled(x):
    return 2.0 * x


_doubled.defvjp(lambda x: (2.0 * x, x), lambda saved, g: (3.0 * g * saved,))


def _nested(xp, a, b, c):
    def inner(x):
        xp = xdev.namespace(x)
        return xp.sum(xp.sin(x) * b)

    return xdev.grad(inner)(a)


def _pulled_back(xp, a, b, c):
    _, pull = xdev.vjp(lambda x: xdev.namespace(x).tanh(x) * b, a)
    return pull(a + b)[0]


def _tame_gram(xp, a):
    a = xp.tanh(a)
    return a @ a.T


def _solved(xp, a, b, c):
    return xp.linalg.solve(_tame_gram(xp, a) + 9.0 * xp.eye(N, dtype=a.dtype), b)


# Each takes the namespace, two arrays of shape (N, N) and what else there is, and returns one of that shape.
STEPS = {
    "add": lambda xp, a, b, c: a + b,
    "mul": lambda xp, a, b, c: a * b * 0.5,
    "row": lambda xp, a, b, c: a - b[0],
    "divide": lambda xp, a, b, c: a / (1.0 + b * b),
    "self": lambda xp, a, b, c: a * a - a,
    "sin": lambda xp, a, b, c: xp.sin(a) + xp.cos(b),
    "exp": lambda xp, a, b, c: xp.exp(-abs(a)),
    "log": lambda xp, a, b, c: xp.log1p(xp.square(a)),
    "power": lambda xp, a, b, c: a**2 + 0.1 * b**3,
    "clip": lambda xp, a, b, c: xp.clip(a, -0.5, 0.5) * b,
    "floor": lambda xp, a, b, c: a - xp.floor(b),
    "maximum": lambda xp, a, b, c: xp.maximum(a, 0.3) + xp.minimum(a, b),
    "where": lambda xp, a, b, c: xp.where(a > b, a, 0.7 * b),
    "mask": lambda xp, a, b, c: xp.where(c.m & (a > 0), a, b),
    "count": lambda xp, a, b, c: a + xp.astype(xp.sum(xp.astype(a > b, xp.int32), axis=0), a.dtype),
    "integers": lambda xp, a, b, c: a * xp.astype(c.k * 2 - c.n, a.dtype),
    "matmul": lambda xp, a, b, c: xp.tanh(a @ b),
    "gram": lambda xp, a, b, c: xp.tanh(a @ a.T),
    "vector": lambda xp, a, b, c: a * xp.expand_dims(a @ b[:, 1], axis=1),
    "tensordot": lambda xp, a, b, c: xp.tanh(xp.tensordot(a, b, axes=([0], [1]))),
    "transpose": lambda xp, a, b, c: a.T,
    "permute": lambda xp, a, b, c: xp.reshape(xp.permute_dims(xp.reshape(a, (2, N // 2, N)), (1, 0, 2)), (N, N)),
    "reshape": lambda xp, a, b, c: xp.reshape(xp.reshape(a.T, (-1,))[::-1], (N, N)) - b,
    "slices": lambda xp, a, b, c: xp.concat([a[: c.n, :], b[c.n :, :]], axis=0),
    "strides": lambda xp, a, b, c: xp.concat([a[::2, ::-1], b[1::2, :]], axis=0),
    "columns": lambda xp, a, b, c: xp.concat([a, b], axis=1)[:, c.n : c.n + N],
    "stack": lambda xp, a, b, c: xp.stack([a, b])[c.n % 2],
    "unstack": lambda xp, a, b, c: xp.stack(xp.unstack(a, axis=1)[::-1], axis=0) + b,
    "broadcast": lambda xp, a, b, c: xp.broadcast_to(a[0], (N, N)) * b,
    "flip": lambda xp, a, b, c: xp.flip(a, axis=c.n % 2),
    "roll": lambda xp, a, b, c: xp.roll(a, c.n, axis=0) + b,
    "repeat": lambda xp, a, b, c: xp.repeat(a[: N // 2, :], 2, axis=0) + xp.tile(b[:, : N // 2], (1, 2)),
    "take": lambda xp, a, b, c: xp.take(a, c.k, axis=0) + b,
    "gather": lambda xp, a, b, c: a[c.k, :] * b[:, c.k],
    "along": lambda xp, a, b, c: xp.take_along_axis(a, xp.argsort(b, axis=1), axis=1),
    "sort": lambda xp, a, b, c: xp.sort(a, axis=0) + b,
    "argmax": lambda xp, a, b, c: a + xp.astype(xp.argmax(b, axis=0), a.dtype),
    "cumulative": lambda xp, a, b, c: xp.cumulative_sum(a, axis=0) * 0.1,
    "diff": lambda xp, a, b, c: xp.diff(a, axis=0, prepend=b[:1, :]),
    "triangle": lambda xp, a, b, c: xp.tril(a) + xp.triu(b, k=1),
    "sum": lambda xp, a, b, c: a + xp.sum(b, axis=c.n % 2, keepdims=True),
    "mean": lambda xp, a, b, c: a * xp.mean(b),
    "variance": lambda xp, a, b, c: (a - xp.mean(a, axis=1, keepdims=True)) / (1.0 + xp.var(b, axis=0)),
    "max": lambda xp, a, b, c: a - xp.max(b, axis=1, keepdims=True) + xp.min(b),
    "prod": lambda xp, a, b, c: a + 0.1 * xp.prod(b, axis=1),
    "constants": lambda xp, a, b, c: a * xp.ones((N, N), dtype=a.dtype) + xp.arange(N, dtype=a.dtype),
    "zeros": lambda xp, a, b, c: xp.zeros_like(a) + b,
    "cast": lambda xp, a, b, c: xp.astype(xp.astype(a, xp.float64) * 0.3, a.dtype) + b,
    "narrow": lambda xp, a, b, c: a + xp.astype(xp.astype(b, xp.int32), a.dtype),
    "copy": lambda xp, a, b, c: xp.asarray(a, dtype=xp.float64, copy=True),
    "complex": lambda xp, a, b, c: xp.real(xp.exp(1j * xp.astype(a, xp.complex128))) + b,
    "set row": _set_row,
    "overlap": _shifted,
    "set gathered": _set_gathered,
    "written after it was read": _written_after_it_was_read,
    "at": lambda xp, a, b, c: xdev.at(a)[c.n].add(b[0]),
    "at set": lambda xp, a, b, c: xdev.at(a)[:, c.n].set(b[:, 0]),
    "at repeated": lambda xp, a, b, c: xdev.at(a)[c.k].add(xp.astype(b, a.dtype)),
    "at multiplied": lambda xp, a, b, c: xdev.at(a)[1:, 0].multiply(0.5) + b,
    "relu": lambda xp, a, b, c: ops.relu(a) + b,
    "gelu": lambda xp, a, b, c: ops.gelu(a, approximate=c.n % 2 == 0),
    "silu": lambda xp, a, b, c: ops.silu(a) * ops.sigmoid(b),
    "softmax": lambda xp, a, b, c: ops.softmax(a, axis=c.n % 2),
    "log_softmax": lambda xp, a, b, c: ops.log_softmax(a) + ops.logsumexp(b, keepdims=True),
    "layer_norm": lambda xp, a, b, c: ops.layer_norm(a, b[0], b[1]),
    "rms_norm": lambda xp, a, b, c: ops.rms_norm(a, b[0]),
    "linear": lambda xp, a, b, c: ops.linear(a, b, a[0]) * 0.3,
    "cross_entropy": lambda xp, a, b, c: b + ops.cross_entropy(a, c.k),
    "binary": lambda xp, a, b, c: b * ops.binary_cross_entropy_with_logits(a, xp.astype(c.m, a.dtype)),
    "mse": lambda xp, a, b, c: a * ops.mse(a, b),
    "one_hot": lambda xp, a, b, c: a * xp.astype(ops.one_hot(c.k, N), a.dtype),
    "embedding": _embedded,
    "conv2d": _convolved,
    "max_pool2d": _pooled(ops.max_pool2d),
    "avg_pool2d": _pooled(ops.avg_pool2d),
    "attention": _attended(False),
    "causal attention": _attended(True),
    "masked attention": _masked_attention,
    "dropout": _dropped,
    "normal": _drawn,
    "permutation": _permuted,
    "remat": _rematerialised,
    "custom_vjp": lambda xp, a, b, c: _doubled(a) + b,
    "stop_gradient": lambda xp, a, b, c: a * xdev.stop_gradient(b),
    "grad": _nested,
    "vjp": _pulled_back,
    "solve": _solved,
    "cholesky": lambda xp, a, b, c: xp.linalg.cholesky(_tame_gram(xp, a) + 9.0 * xp.eye(N, dtype=a.dtype)) + b,
    "norm": lambda xp, a, b, c: a / (1.0 + xp.linalg.vector_norm(b)),
}
TAMED = {"self", "power", "linear", "mul", "prod", "at repeated", "custom_vjp", "log_softmax", "vjp"}


class Others:
    """What steps take beside their two arrays."""

    def __init__(self, k, m, rng, n):
        self.k, self.m, self.rng, self.n = k, m, rng, n


def run(program, arrays, k, m, rng):
    """Return all arrays of a program."""
    values = list(arrays)
    xp = xdev.namespace(values[0])
    for name, i, j, n in program:
        y = STEPS[name](xp, values[i % len(values)], values[j % len(values)], Others(k, m, rng, n))
        values.append(xp.tanh(y) if name in TAMED else y)
    return values


def of_values(program):
    def f(arrays, k, m, rng):
        return run(program, arrays, k, m, rng)[-3:], rng

    return f


def of_gradients(program):
    def f(arrays, k, m, rng):
        def loss(xs):
            xp = xdev.namespace(xs["a"])
            values = run(program, [xs["a"], xs["b"]], k, m, rng)
            mixed = xp.mean(values[-1] * values[-2]) + xp.sum(xp.sin(values[-1])) + xp.sum(xs["a"] * xs["b"])
            return mixed, {"last": values[-1], "nothing": None}

        return xdev.value_and_grad(loss, has_aux=True)({"a": arrays[0], "b": arrays[1]}), rng

    return f


LAYOUTS = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "rows": lambda x: np.broadcast_to(x[0], x.shape),
}


def inputs(seed, layouts, dtypes):
    """Return fresh arguments: two arrays, indices and a mask."""
    draw = np.random.default_rng(seed)
    arrays = []
    for layout, dtype in zip(layouts, dtypes, strict=True):
        x = LAYOUTS[layout](draw.normal(size=(N, N)).astype(dtype))
        x.flags.writeable = False
        arrays.append(x)
    return arrays, draw.integers(0, N, size=N), draw.random((N, N)) < 0.5


def bits(out):
    return [(np.asarray(x).dtype.str, np.asarray(x).shape, np.asarray(x).tobytes()) for x in xdev.tree.leaves(out)]


def check_replayed(f, layouts, dtypes, calls=2, replays=REPLAYS):
    """Compare a function, 20 times with fresh inputs, to what is recorded; it may run `calls` times for that."""
    counted = []

    def g(*args):
        counted.append(None)
        return f(*args)

    jitted = xdev.jit(g)
    plain, other = (xdev.random.Generator(3, "numpy") for _ in range(2))
    kept = []
    for seed in range(replays):
        args = inputs(seed, layouts, dtypes)
        expected, plain = f(*args, plain)
        found, other = jitted(*args, other)
        assert bits(found) == bits(expected), f"call {seed}"
        kept.append((found, bits(expected)))
    assert [bits(found) for found, _ in kept] == [expected for _, expected in kept], "a result was overwritten"
    assert len(counted) == calls


programs = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3)),
    min_size=1,
    max_size=9,
)
layouts = st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=2, max_size=2)
dtypes = st.sampled_from([("float32", "float32"), ("float64", "float64"), ("float32", "float64")])
quickly = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_each_step(name):
    check_replayed(of_gradients([(name, 0, 1, 1)]), ["C", "C"], ("float32", "float32"), replays=4)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_each_step_in_other_orders(name):
    """Gradients by the same rules whatever the order in memory; both the eager and the replayed ones."""
    f = of_gradients([(name, 0, 1, 1)])
    rng = lambda: xdev.random.Generator(3, "numpy")  # noqa: E731
    for layout in ("Fortran", "strided", "reversed"):
        arrays, k, m = inputs(0, [layout, layout], ("float64", "float64"))
        expected, _ = f([np.array(x, order="C") for x in arrays], k, m, rng())
        found, _ = f(arrays, k, m, rng())
        for x, y in zip(xdev.tree.leaves(found), xdev.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12, err_msg=layout)


@pytest.fixture(params=[4, 20, 64])
def size(request, monkeypatch):
    monkeypatch.setitem(globals(), "N", request.param)


@quickly
@given(programs, layouts, dtypes)
def test_values(size, program, layouts, dtypes):
    check_replayed(of_values(program), layouts, dtypes)


@quickly
@given(programs, layouts, st.sampled_from(["float32", "float64"]))
def test_gradients(size, program, layouts, dtype):
    check_replayed(of_gradients(program), layouts, (dtype, dtype))


@settings(quickly, max_examples=5)
@given(programs)
def test_results_are_the_next_arguments(size, program):
    """Outputs that come back as inputs are neither overwritten nor mixed up."""
    f, jitted = of_gradients(program), xdev.jit(of_gradients(program))
    plain, other = (xdev.random.Generator(3, "numpy") for _ in range(2))
    (a, b), k, m = inputs(0, ["C", "C"], ("float32", "float32"))
    ours = theirs = [a, b]
    for _ in range(8):
        ((_, _), g), plain = f(ours, k, m, plain)
        ours = [np.tanh(g["b"]), g["a"] / 4]
        ((_, _), g), other = jitted(theirs, k, m, other)
        theirs = [np.tanh(g["b"]), g["a"] / 4]
        assert bits(ours) == bits(theirs)
