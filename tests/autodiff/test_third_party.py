"""Array code of others runs unchanged inside gradients: array-api-extra, einops and SciPy, on every backend.

Requirements: each program takes a matrix of three rows and four columns, of different numbers none of which is 0; its
gradient is that of finite differences of the same program on NumPy's own arrays, for which libraries take other ways.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import array_api_compat
import array_api_extra as xpx
import einops
import einops.array_api
import numpy as np
import pytest

import xdev
from xdev.testing import assert_close

SAMPLE = np.random.default_rng(0).permutation(12).reshape(3, 4) * 0.23 - 1.3
OTHER = np.random.default_rng(1).normal(size=(3, 4))


def weigh(y):
    """Return a scalar that depends on every element in its own way, for the loss of a program."""
    xp = xdev.namespace(y)
    if xp.isdtype(y.dtype, "complex floating"):
        y = xp.real(y) + 0.7 * xp.imag(y)
    weights = xp.asarray(np.linspace(0.3, 1.7, array_api_compat.size(y)), dtype=y.dtype)
    return xp.sum(xp.sin(xp.reshape(y, (-1,)) * weights))


@functools.cache
def expected(program):
    """Return the value of a program and its gradient by finite differences, on NumPy's arrays."""
    value = float(weigh(program(SAMPLE.copy())))
    gradient, h = np.zeros_like(SAMPLE), 1e-6
    for place in np.ndindex(*SAMPLE.shape):
        step = np.zeros_like(SAMPLE)
        step[place] = h
        ahead, behind = (float(weigh(program(SAMPLE + sign * step))) for sign in (1, -1))
        gradient[place] = (ahead - behind) / (2 * h)
    return value, gradient


def check(program, device):
    with xdev.precision("float64"):
        x = device.xp.asarray(SAMPLE.copy())
        value, gradient = xdev.value_and_grad(lambda x: weigh(program(x)))(x)
        assert xdev.device_of(gradient) == device
        assert_close(xdev.to_numpy(x), SAMPLE)
        reference = expected(program)
        assert float(xdev.item(value)) == pytest.approx(reference[0], rel=1e-9)
        assert_close(xdev.to_numpy(gradient), reference[1], rtol=1e-6, atol=1e-6)


TAPE = pytest.mark.xdev_backends(exclude=("torch", "jax"), reason="torch and JAX have gradients of their own")
NATIVE = pytest.mark.xdev_backends(only=("torch", "jax"), reason="on the tape, all programs are run")


def _cast(mask, x):
    return xdev.namespace(x).astype(mask, x.dtype)


def _complex(x):
    return xdev.namespace(x).astype(x, xdev.namespace(x).complex128) * (1.0 + 0.5j)


def _holes(x):
    xp = xdev.namespace(x)
    return xp.where(x > 0.9, xp.nan, x)


def _ints(xp, *numbers):
    return xp.asarray(list(numbers), dtype=xp.int64)


EXTRA = {
    "angle of real numbers": lambda x: xpx.angle(x) + x,
    "angle": lambda x: xpx.angle(_complex(x) + 0.3, deg=True) * 0.01,
    "apply_where": lambda x: xpx.apply_where(x > 0, x, lambda a: xdev.namespace(a).log(a), lambda a: a * a),
    "apply_where of two": lambda x: xpx.apply_where(x > 0, (x, x * 2.0), lambda a, b: a * b, fill_value=0.5),
    "apply_where filled": lambda x: xpx.apply_where(x > 0, x, lambda a: a * a, fill_value=-x),
    "argpartition": lambda x: xdev.namespace(x).sort(
        xdev.namespace(x).take_along_axis(x, xpx.argpartition(x, 1, axis=-1)[:, :2], axis=-1), axis=-1
    ),
    "at add": lambda x: xpx.at(x * 1.0)[1:, ...].add(x[:-1, ...]),
    "at add a copy": lambda x: xpx.at(x)[1:, ...].add(2.0, copy=True) * x,
    "at divide": lambda x: xpx.at(x * 1.0)[0, ...].divide(x[1, ...]),
    "at max": lambda x: xpx.at(x * 1.0)[0, ...].max(x[1, ...]),
    "at min of a mask": lambda x: xpx.at(x * 1.0)[x > 0].min(0.5),
    "at multiply": lambda x: xpx.at(x * 1.0, (0, ...)).multiply(x[1, ...]),
    "at power": lambda x: xpx.at(x * 1.0)[:, 1].power(3.0),
    "at set": lambda x: xpx.at(x * 1.0)[:, 1:3].set(x[:, :2] * x[:, 2:]),
    "at set a copy": lambda x: xpx.at(x)[0, 0].set(2.0, copy=True) * x,
    "at set a mask": lambda x: xpx.at(x * 1.0)[x > 0].set(0.5),
    "at subtract": lambda x: xpx.at(x * 1.0)[..., 0].subtract(x[..., 1]),
    "atleast_nd": lambda x: [xpx.atleast_nd(x[0, 0], ndim=1) * x, xpx.atleast_nd(x, ndim=4)][1],
    "cov": lambda x: xpx.cov(x),
    "cov of weights": lambda x: xpx.cov(x, axis=0, correction=0, aweights=x[:, 0] ** 2),
    "cov of stacks": lambda x: xpx.cov(xdev.namespace(x).stack([x, x * x])),
    "create_diagonal": lambda x: xpx.create_diagonal(x[0, :], offset=-1),
    "create_diagonal of stacks": lambda x: xpx.create_diagonal(x),
    "default_dtype": lambda x: xdev.namespace(x).astype(x, xpx.default_dtype(xdev.namespace(x), "complex floating")),
    "deg2rad": lambda x: xpx.deg2rad(x * 30.0),
    "diag_indices": lambda x: x[:, :3][xpx.diag_indices(3, xp=xdev.namespace(x))],
    "isclose": lambda x: _cast(xpx.isclose(x, x[0, 0], atol=0.5), x) * x,
    "isin": lambda x: _cast(xpx.isin(x, x[1:, 0]), x) * x,
    "kron": lambda x: xpx.kron(x, x[:2, :2]),
    "kron of a number": lambda x: xpx.kron(x[0, 0], x),
    "lazy_apply": lambda x: xpx.lazy_apply(lambda a: a * a, x, shape=(3, 4), dtype=x.dtype, xp=xdev.namespace(x)),
    "nan_to_num": lambda x: xpx.nan_to_num(_holes(x)),
    "nanmax": lambda x: xpx.nanmax(_holes(x), axis=0),
    "nanmean": lambda x: xpx.nanmean(_holes(x), axis=1),
    "nanmin": lambda x: xpx.nanmin(_holes(x), axis=1),
    "nansum": lambda x: xpx.nansum(_holes(x)),
    "nunique": lambda x: x * _cast(xpx.nunique(x), x),
    "one_hot": lambda x: xpx.one_hot(xdev.namespace(x).argmax(x, axis=1), 4, dtype=x.dtype) * x,
    "pad": lambda x: xpx.pad(x, ((1, 0), (0, 2)), constant_values=0.5),
    "partition": lambda x: xdev.namespace(x).max(xpx.partition(x, 1, axis=-1)[:, :2], axis=-1),
    "rad2deg": lambda x: xpx.rad2deg(x * 0.01),
    "searchsorted": lambda x: x * _cast(xpx.searchsorted(xdev.namespace(x).sort(x, axis=-1), x, side="right"), x),
    "setdiff1d": lambda x: x * xpx.setdiff1d(xdev.namespace(x).sign(x[0, :]), x[0, :2])[0],
    "sinc": lambda x: xpx.sinc(x),
    "tril_indices": lambda x: x[xpx.tril_indices(3, m=4, xp=xdev.namespace(x))],
    "triu_indices": lambda x: x[xpx.triu_indices(3, m=4, offset=1, xp=xdev.namespace(x))],
    "union1d": lambda x: x * xpx.union1d(xdev.namespace(x).sign(x[0, :]), xdev.namespace(x).sign(x[1, :]))[0],
    "unravel_index": lambda x: x[xpx.unravel_index(_ints(xdev.namespace(x), 1, 5, 11, 5), (3, 4))],
}
OLD = {
    "broadcast_shapes": lambda x: xdev.namespace(x).broadcast_to(x, xpx.broadcast_shapes((3, 4), (2, 1, 1))),
    "expand_dims": lambda x: xpx.expand_dims(x, axis=(0, 2)),
}


@TAPE
@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:DeprecationWarning")
@pytest.mark.parametrize("name", EXTRA | OLD)
def test_array_api_extra(name, device):
    check((EXTRA | OLD)[name], device)


def test_every_function_of_array_api_extra_is_called():
    names = set(xpx.__all__) - {"__version__", "testing"}
    assert {name.partition(" ")[0] for name in (*EXTRA, *OLD)} == names


@TAPE
@pytest.mark.parametrize("copy", [None, False, True])
def test_at_writes_to_traced_arrays_unless_it_copies(copy, device):
    def program(x):
        y = x * 1.0
        z = xpx.at(y)[0, ...].set(x[1, ...], copy=copy)
        assert (z is y) is (copy is not True)
        return y * x + z

    check(program, device)


EINOPS = {
    "rearrange": lambda x: einops.rearrange(x, "a (b c) -> c (a b)", b=2),
    "rearrange a list": lambda x: einops.rearrange([x, x * x], "k a b -> a (b k)"),
    "reduce mean": lambda x: einops.reduce(x, "a (b c) -> b", "mean", c=2),
    "reduce max": lambda x: einops.reduce(x, "a b -> b", "max"),
    "reduce prod": lambda x: einops.reduce(x, "a b -> a", "prod"),
    "reduce by a function": lambda x: einops.reduce(
        x, "a b -> a 1", lambda y, axes: xdev.namespace(y).sum(y * y, axis=axes)
    ),
    "repeat": lambda x: einops.repeat(x, "a b -> a r (b s)", r=2, s=3),
    "einsum": lambda x: einops.einsum(x, x, "a b, c b -> a c"),
    "einsum of batches": lambda x: einops.einsum(
        einops.rearrange(x, "a (b c) -> a b c", b=2), x, "a ... c, a d -> d ... c"
    ),
    "einsum of a trace": lambda x: einops.einsum(x[:, :3], "i i -> i"),
    "einsum of three": lambda x: einops.einsum(x, x[:, 0], x[0, :], "a b, a, b ->"),
    "pack": lambda x: einops.pack([x, x[:, 0], x[:, :2] * x[:, 2:]], "a *")[0],
    "unpack": lambda x: einops.unpack(x, [(), (3,)], "a *")[1] ** 2,
    "parse_shape": lambda x: x * einops.parse_shape(x, "a _")["a"],
}


@TAPE
@pytest.mark.parametrize("name", EINOPS)
def test_einops(name, device):
    check(EINOPS[name], device)


@NATIVE
@pytest.mark.parametrize(
    "program",
    [
        *(EXTRA[name] for name in ("apply_where", "at add a copy", "cov", "kron")),
        *(EINOPS[name] for name in ("rearrange", "reduce mean", "einsum")),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.asarray:UserWarning")
def test_the_same_programs_run_on_native_gradients(program, device):
    check(program, device)


@pytest.mark.xdev_backends(
    exclude=("strict", "cupy", "torch"), reason="einops passes lists as shapes, and takes arrays with a namespace"
)
def test_einops_of_the_standard(device):
    def program(x):
        of = einops.array_api
        packed, shapes = of.pack([of.rearrange(of.repeat(x, "a b -> a b r", r=2), "a b r -> (r a) b"), x * x], "* b")
        return of.reduce(of.unpack(packed, shapes, "* b")[0], "(a 2) b -> b", "max")

    check(program, device)


def test_einops_knows_nothing_of_xdev_before_a_gradient():
    code = """
        import sys
        import numpy as np
        import xdev

        def f(x):
            if "einops" in sys.modules:
                return sys.modules["einops"].reduce(x * x, "a ->", "sum")
            return xdev.namespace(x).sum(x * x)

        assert xdev.grad(f)(np.ones(2)).tolist() == [2, 2]
        assert "einops" not in sys.modules and "xdev.autodiff.einops_backend" not in sys.modules
        import einops
        assert xdev.grad(f)(np.ones(2)).tolist() == [2, 2]
        sys.modules["einops"] = None
        assert xdev.grad(lambda x: xdev.namespace(x).sum(x))(np.ones(2)).tolist() == [1, 1]
    """
    run(textwrap.dedent(code))


# -- constants, and derivatives of higher order --------------------------------------------------------------------

BESIDE = {
    "cov": lambda x, c: xpx.cov(x, aweights=c[0, :] ** 2),
    "apply_where": lambda x, c: xpx.apply_where(c > 0, (x, c), lambda a, b: a * b, fill_value=c),
    "at": lambda x, c: xpx.at(c)[0, ...].set(x[0, ...], copy=True) * x,
    "kron": lambda x, c: xpx.kron(c[:2, :2], x),
    "einsum": lambda x, c: einops.einsum(c, x, "a b, c b -> a c"),
    "pack": lambda x, c: einops.pack([c, x], "* b")[0],
}


@TAPE
@pytest.mark.parametrize("name", BESIDE)
def test_arguments_that_are_not_differentiated_are_constants(name, device):
    x, c = device.xp.asarray(SAMPLE), device.xp.asarray(OTHER)
    gradient = xdev.grad(lambda x, c: weigh(BESIDE[name](x, c)))(x, c)
    program = functools.partial(lambda c, x: BESIDE[name](x, c), OTHER)
    assert_close(xdev.to_numpy(gradient), expected(program)[1], rtol=1e-6, atol=1e-6)


@TAPE
def test_einops_takes_captured_arrays_after_the_first(device):
    c = device.xp.asarray(OTHER)
    for program in (
        lambda x, c: einops.einsum(x, c, "a b, c b -> a c"),
        lambda x, c: einops.einsum(x, c, "a b, a b ->"),
        lambda x, c: einops.rearrange([x, c], "k a b -> (a k) b"),
        lambda x, c: einops.pack([x, c], "* b")[0],
    ):
        gradient = xdev.grad(lambda x, program=program: weigh(program(x, c)))(device.xp.asarray(SAMPLE))
        reference = expected(functools.partial(lambda program, x: program(x, OTHER), program))[1]
        assert_close(xdev.to_numpy(gradient), reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("program", [EXTRA["cov"], EINOPS["einsum"]])
def test_second_derivatives(program, device):
    with xdev.precision("float64"):
        x, d = device.xp.asarray(SAMPLE), device.xp.asarray(OTHER)
        product = xdev.hvp(lambda x: weigh(program(x)), (x,), (d,))[0]
        gradient, h = xdev.grad(lambda x: weigh(program(x))), 1e-6
        ahead, behind = (gradient(SAMPLE + sign * h * OTHER) for sign in (1, -1))
        assert_close(xdev.to_numpy(product), (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-6)


# -- SciPy, which takes arrays of other libraries if that is said before it is imported ------------------------------


def scipy_programs():
    from scipy import fft, integrate, special, stats

    return [
        lambda x: special.softmax(x, axis=1),
        lambda x: special.logsumexp(x, axis=1, keepdims=True),
        lambda x: special.log_softmax(x, axis=0),
        lambda x: special.logsumexp(x),
        lambda x: special.logsumexp(x, axis=0, b=x * x + 1.0),
        lambda x: stats.gmean(x * x, axis=0),
        lambda x: stats.zscore(x, axis=1),
        lambda x: stats.kurtosis(x, axis=1),
        lambda x: integrate.trapezoid(x * x, axis=1),
        lambda x: fft.rfft(x),
    ]


def check_scipy(spec):
    """Run SciPy's functions on a device; in a process of its own, with SCIPY_ARRAY_API=1."""
    device = xdev.device(spec)
    # Of torch SciPy writes to what backward needs, in all but the first; each takes JAX seconds.
    count = {"torch": 1, "jax": 2}.get(device.backend.name)
    for program in scipy_programs()[:count]:
        check(program, device)
    if count is None:
        from scipy import special

        check(lambda x: special.logsumexp(_complex(x), axis=0), device)
        x = device.xp.asarray(SAMPLE)
        with pytest.raises(xdev.errors.ArrayTypeError, match="cannot become a NumPy array; call functions of xp"):
            xdev.grad(lambda x: weigh(special.expit(x)))(x)  # compiled, for NumPy's arrays alone
        gradient = xdev.grad(lambda x: weigh(special.softmax(x, axis=1)))
        product = xdev.hvp(lambda x: weigh(special.softmax(x, axis=1)), (x,), (device.xp.asarray(OTHER),))[0]
        h = 1e-6
        ahead, behind = (gradient(SAMPLE + sign * h * OTHER) for sign in (1, -1))
        assert_close(xdev.to_numpy(product), (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-6)


def run(code):
    """Run code in a process of its own, in which SciPy takes arrays of other libraries."""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment)
    assert done.returncode == 0, done.stderr


def test_scipy(device):
    run(f"from tests.autodiff import test_third_party; test_third_party.check_scipy({str(device)!r})")
