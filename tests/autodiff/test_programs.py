"""Random programs against JAX: values, gradients, and second derivatives along a direction."""

from __future__ import annotations

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis")
jax = pytest.importorskip("jax")

from hypothesis import HealthCheck, given, settings  # noqa: E402  after the check that it is there
from hypothesis import strategies as st  # noqa: E402

from xdev.autodiff import value_and_grad  # noqa: E402
from xdev.device import namespace  # noqa: E402
from xdev.testing import assert_close  # noqa: E402
from xdev.transfer import to_numpy  # noqa: E402

SHAPE = (3, 3)


def _complex(xp, x):
    return xp.astype(x, xp.complex128)


def _turn(xp, x):
    """Return exp(ix)."""
    return xp.exp(_complex(xp, x) * 1j)


# Each takes the namespace and two arrays of shape (3, 3), and returns one of that shape.
STEPS = {
    "add": lambda xp, a, b: a + b,
    "subtract_row": lambda xp, a, b: a - b[0, ...],
    "multiply": lambda xp, a, b: a * b,
    "divide": lambda xp, a, b: a / (1.0 + b * b),
    "matmul": lambda xp, a, b: 0.3 * (a @ b),
    "vector": lambda xp, a, b: a * xp.expand_dims(a @ b[:, 1], axis=1),
    "tanh": lambda xp, a, b: xp.tanh(a),
    "sin": lambda xp, a, b: xp.sin(a * b),
    "exp": lambda xp, a, b: xp.exp(-xp.square(a)),
    "sqrt": lambda xp, a, b: xp.sqrt(xp.square(a) + 1.0),
    "softmax": lambda xp, a, b: xp.exp(a - xp.max(a, axis=1, keepdims=True)) / (1.0 + xp.sum(xp.exp(b), axis=0)),
    "standardise": lambda xp, a, b: (a - xp.mean(a, axis=0)) / (xp.std(a, axis=0) + 1.0),
    "where": lambda xp, a, b: xp.where(a > b, a, 2.0 * b),
    "maximum": lambda xp, a, b: xp.maximum(a, b),
    "transpose": lambda xp, a, b: a.T + b,
    "concat": lambda xp, a, b: xp.concat([a[1:, :], b[:1, :]], axis=0),
    "take": lambda xp, a, b: xp.take(a, xp.asarray([2, 0, 2]), axis=0) * b,
    "stack": lambda xp, a, b: xp.stack([a[0, ...], b[1, ...], a[0, ...]], axis=1),
    "unstack": lambda xp, a, b: xp.stack(xp.unstack(a, axis=1)[::-1], axis=0) + b,
    "cumulative_sum": lambda xp, a, b: xp.cumulative_sum(a, axis=1) * 0.5,
    "cumulative_prod": lambda xp, a, b: xp.cumulative_prod(a, axis=0),
    "prod": lambda xp, a, b: a + xp.prod(b, axis=1, keepdims=True),
    "sort": lambda xp, a, b: xp.sort(a, axis=0),
    "power": lambda xp, a, b: a**3 * 0.1,
    "roll": lambda xp, a, b: xp.roll(a, 1, axis=0) + xp.flip(b),
    "reshape": lambda xp, a, b: xp.reshape(xp.reshape(a, (9,))[::-1], SHAPE) - b,
    "triangle": lambda xp, a, b: xp.tril(a) + xp.triu(b, k=1),
    "diff": lambda xp, a, b: xp.diff(a, axis=0, prepend=b[:1, :]),
    "clip": lambda xp, a, b: xp.clip(a, -0.8, 0.9) * b,
    "repeat": lambda xp, a, b: xp.repeat(a[:1, :], 3, axis=0) + b,
    "log_add": lambda xp, a, b: xp.logaddexp(a, b) - xp.atan2(a, 2.0 + b * b),
    "length": lambda xp, a, b: a / (1.0 + xp.linalg.vector_norm(b, axis=1, keepdims=True)),
    "solve": lambda xp, a, b: xp.linalg.solve(0.3 * a + 3.0 * xp.eye(3), b),
    "det": lambda xp, a, b: a * xp.linalg.det(0.3 * b + xp.eye(3)),
    "cholesky": lambda xp, a, b: xp.linalg.cholesky(a @ a.T + 2.0 * xp.eye(3)) + b,
    "cross": lambda xp, a, b: xp.linalg.cross(a, b),
    "convolve": lambda xp, a, b: xp.real(xp.fft.ifft(xp.fft.fft(_complex(xp, a), axis=0) * _turn(xp, b), axis=0)),
    "spectrum": lambda xp, a, b: xp.fft.irfft(xp.fft.rfft(a, axis=1) * (0.5 + 0.3j), n=3, axis=1) + b,
}
programs = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8
)


def run(xp, program, arrays):
    """Run a program: each step reads two of the arrays made so far; the last result is summed up."""
    made = list(arrays)
    for step, i, j in program:
        made.append(xp.tanh(STEPS[step](xp, made[i % len(made)], made[j % len(made)])))
    return xp.sum(made[-1] * made[-1] + 0.5 * made[-1]) + xp.sum(arrays[0] * arrays[1])


def gradients(program, arrays):
    return value_and_grad(lambda xs: (run(namespace(xs[0]), program, xs), None), arrays)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(program=programs)
@pytest.mark.xdev_backends(only=("numpy", "strict"), reason="hundreds of kernels to compile elsewhere")
def test_random_programs_have_the_derivatives_that_jax_gives(program, xp):
    rng = np.random.default_rng(len(program))
    samples = [rng.normal(size=SHAPE), rng.normal(size=SHAPE)]
    direction = rng.normal(size=SHAPE)
    arrays = [xp.asarray(x) for x in samples]
    value, _, found = gradients(program, arrays)

    def along(xs):
        return namespace(xs[0]).sum(gradients(program, xs)[2][0] * xp.asarray(direction)), None

    second = value_and_grad(along, arrays)[2]
    with jax.enable_x64(True):
        f = lambda *xs: run(jax.numpy, program, xs)  # noqa: E731
        inputs = [jax.numpy.asarray(x) for x in samples]
        expected, first = jax.value_and_grad(f, argnums=(0, 1))(*inputs)
        bent = jax.grad(lambda *xs: jax.numpy.sum(jax.grad(f)(*xs) * direction), argnums=(0, 1))(*inputs)
    assert_close(float(to_numpy(value)), float(expected), rtol=1e-9)
    for ours, theirs in ((found, first), (second, bent)):
        for g, e in zip(ours, theirs, strict=True):
            assert_close(to_numpy(g), np.asarray(e), rtol=1e-8, atol=1e-8)
