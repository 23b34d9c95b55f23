"""Traced arrays are arrays of the standard: what passes for the framework's own passes for them, with the same results.

Requirements: `calls` are made on the framework's arrays, on constants of the traced kind, and under differentiation;
values, dtypes, shapes and devices are equal, and what the framework refuses is refused.
"""

from __future__ import annotations

import copy
import operator
import pickle
import re

import array_api_compat
import array_api_strict
import numpy as np
import pytest

from xdev.autodiff import TracedArray, lift, vjp
from xdev.device import device_of, namespace
from xdev.errors import ArrayTypeError, ConfigurationError, NoGradientRule
from xdev.registry import find_backend
from xdev.testing import assert_close
from xdev.transfer import to_numpy

from ..cases import CASES, PARAMETERS, make

pytestmark = pytest.mark.xdev_backends(
    exclude=("torch", "jax"), scoped=False, reason="torch and JAX have gradients of their own"
)


# -- one call, three ways ---------------------------------------------------------------------------------------


def unwrap(x):
    """Return a result with what is inside its traced arrays."""
    if isinstance(x, TracedArray):
        return unwrap(x.__xdev_value__)
    if isinstance(x, tuple | list):
        return [unwrap(item) for item in x]
    return x


def differentiated(call, arrays):
    """Return the result of a call under differentiation by those of its arrays that have derivatives."""
    inexact = [x.dtype.name if hasattr(x.dtype, "name") else str(x.dtype) for x in arrays]
    inexact = ["float" in name or "complex" in name for name in inexact]
    kept = []

    def function(leaves):
        leaves = iter(leaves)
        full = [next(leaves) if yes else lift(x) for x, yes in zip(arrays, inexact, strict=True)]
        kept.append(unwrap(call(namespace(*full), *full)))
        return []

    vjp(function, [x for x, yes in zip(arrays, inexact, strict=True) if yes])
    return kept[0]


def three_ways(call, device, arrays):
    """Return the results of a call on plain arrays, on traced constants, and under differentiation.

    What the framework refuses, as the strict one does beyond the standard, traced arrays may take or refuse.
    """
    constants = [lift(x) for x in arrays]
    ways = [
        lambda: call(device.xp, *[device.xp.asarray(x, copy=True) for x in arrays]),
        lambda: call(namespace(*constants), *constants),
        lambda: differentiated(call, arrays),
    ]
    results = []
    with device.scope():
        for way in ways:
            try:
                results.append(unwrap(way()))
            except Exception:
                if results or device.backend.name == "numpy":
                    raise
    return results


def same(found, expected, device):
    """Compare two results; what is no array is equal."""
    if isinstance(expected, list):
        assert isinstance(found, list)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            same(a, b, device)
    elif find_backend(expected) is device.backend:
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert device_of(found) == device
        assert_close(to_numpy(found), to_numpy(expected), rtol=1e-11, atol=1e-11)
    elif isinstance(expected, str | bool | int | float | complex | type(None)):
        assert type(found) is type(expected)
        assert found == expected or found != found
    else:
        assert str(found) == str(expected)


def check(call, device, arrays):
    plain, *others = three_ways(call, device, arrays) or [None]
    for found in others:
        same(found, plain, device)


CASE = pytest.mark.parametrize(("name", "k"), PARAMETERS, ids=[f"{name}-{k}" for name, k in PARAMETERS])


@CASE
def test_functions_with_derivatives_have_their_values(name, k, device):
    samples, call = make(name, k)
    check(call, device, [device.xp.asarray(x) for x in samples])


# -- functions without derivatives, and corners of the others ------------------------------------------------------

# By name, calls of it, apart by "|", with arrays of floats (f, g), integers (i, j), unsigned ones (u), booleans (b) and
# complex numbers (c).
CONSTANT = {
    "all": "xp.all(b) | xp.all(f, axis=1, keepdims=True)",
    "any": "xp.any(b, axis=(0, 1)) | xp.any(i, axis=0)",
    "arange": "xp.arange(5) | xp.arange(1, 7, 2, dtype=xp.float32) | xp.arange(0, 4.0, 0.5, device=f.device)",
    "argmax": "xp.argmax(f) | xp.argmax(i, axis=-1) | xp.argmax(f, axis=0, keepdims=True)",
    "argmin": "xp.argmin(f) | xp.argmin(i, axis=-1, keepdims=True)",
    "argsort": "xp.argsort(f, axis=0) | xp.argsort(i, descending=True) | xp.argsort(j, stable=True)",
    "bitwise_and": "xp.bitwise_and(i, j) | xp.bitwise_and(b, True) | xp.bitwise_and(3, u)",
    "bitwise_invert": "xp.bitwise_invert(i) | xp.bitwise_invert(b)",
    "bitwise_left_shift": "xp.bitwise_left_shift(i, j) | xp.bitwise_left_shift(u, 1)",
    "bitwise_or": "xp.bitwise_or(i, j) | xp.bitwise_or(b, False)",
    "bitwise_right_shift": "xp.bitwise_right_shift(i, j) | xp.bitwise_right_shift(u, 1)",
    "bitwise_xor": "xp.bitwise_xor(i, j) | xp.bitwise_xor(b, True)",
    "broadcast_shapes": "xp.broadcast_shapes(f.shape, (2, 1, 1)) | xp.broadcast_shapes(f.shape)",
    "can_cast": "xp.can_cast(xp.int8, xp.int64) | xp.can_cast(f, xp.float32) | xp.can_cast(f.dtype, xp.complex128)",
    "ceil": "xp.ceil(f) | xp.ceil(i)",
    "count_nonzero": "xp.count_nonzero(i) | xp.count_nonzero(b, axis=0, keepdims=True)",
    "empty": "xp.empty((2, 0)) | xp.empty(3, dtype=xp.int8).shape",
    "empty_like": "xp.empty_like(f[:0, :], dtype=xp.float32) | xp.empty_like(i).dtype",
    "equal": "xp.equal(f, g) | xp.equal(i, 2) | xp.equal(True, b) | xp.equal(c, 1j)",
    "eye": "xp.eye(3) | xp.eye(2, 4, k=1, dtype=xp.int64)",
    "fft.fftfreq": "xp.fft.fftfreq(5, d=0.5)",
    "fft.rfftfreq": "xp.fft.rfftfreq(6, dtype=xp.float32, device=f.device)",
    "finfo": "[getattr(xp.finfo(f.dtype), name) for name in ('bits', 'eps', 'max', 'min')] | xp.finfo(f).bits",
    "floor": "xp.floor(f) | xp.floor(i)",
    "floor_divide": "xp.floor_divide(f, g) | xp.floor_divide(i, 2) | xp.floor_divide(7.0, g)",
    "from_dlpack": "xp.from_dlpack(i)",
    "greater": "xp.greater(f, g) | xp.greater(i, 1) | xp.greater(0.5, f)",
    "greater_equal": "xp.greater_equal(f, g) | xp.greater_equal(i, 1)",
    "iinfo": "[getattr(xp.iinfo(i.dtype), name) for name in ('bits', 'max', 'min')] | xp.iinfo(u).max",
    "isdtype": "xp.isdtype(f.dtype, 'real floating') | xp.isdtype(i.dtype, ('bool', xp.int8))",
    "isfinite": "xp.isfinite(f / (f - f)) | xp.isfinite(i) | xp.isfinite(c)",
    "isin": "xp.isin(i, j) | xp.isin(f, f[0, ...], invert=True) | xp.isin(2, i) | xp.isin(i, 2)",
    "isinf": "xp.isinf(f / (f - f)) | xp.isinf(c)",
    "isnan": "xp.isnan((f - f) / (f - f)) | xp.isnan(c)",
    "less": "xp.less(f, g) | xp.less(i, 1) | xp.less(0, i)",
    "less_equal": "xp.less_equal(f, g) | xp.less_equal(i, 1)",
    "linalg.matrix_rank": "xp.linalg.matrix_rank(f, rtol=1e-9)",
    "logical_and": "xp.logical_and(b, ~b) | xp.logical_and(b, True)",
    "logical_not": "xp.logical_not(b)",
    "logical_or": "xp.logical_or(b, ~b) | xp.logical_or(False, b)",
    "logical_xor": "xp.logical_xor(b, b[:1, :])",
    "nextafter": "xp.nextafter(f, g) | xp.nextafter(f, 0.0)",
    "nonzero": "xp.nonzero(i) | xp.nonzero(f > 0.0)",
    "not_equal": "xp.not_equal(f, g) | xp.not_equal(i, 2)",
    "ones": "xp.ones((2, 3)) | xp.ones(2, dtype=xp.bool) | xp.ones(())",
    "ones_like": "xp.ones_like(f) | xp.ones_like(i, dtype=xp.float32) | xp.ones_like(b)",
    "result_type": "xp.result_type(f, g) | xp.result_type(i, xp.int8) | xp.result_type(xp.float32, 1.0)"
    "| xp.result_type(f, 1) | xp.result_type(i, 2) | xp.result_type(f, 1j)",
    "round": "xp.round(f) | xp.round(i) | xp.round(c)",
    "searchsorted": "xp.searchsorted(xp.sort(f[0, ...]), g[0, ...], side='right')"
    "| xp.searchsorted(xp.sort(i[0, ...]), j) | xp.searchsorted(f[0, ...], g[0, ...], sorter=xp.argsort(f[0, ...]))"
    "| xp.searchsorted(xp.sort(f[0, ...]), 0.25)",
    "signbit": "xp.signbit(f)",
    "trunc": "xp.trunc(f) | xp.trunc(i)",
    "unique_all": "xp.unique_all(i) | xp.unique_all(f).counts",
    "unique_counts": "xp.unique_counts(i) | xp.unique_counts(b).values",
    "unique_inverse": "xp.unique_inverse(i) | xp.unique_inverse(f).inverse_indices",
    "unique_values": "xp.unique_values(i) | xp.unique_values(f)",
    "zeros": "xp.zeros((2, 3)) | xp.zeros(2, dtype=xp.complex64) | xp.zeros(())",
    "zeros_like": "xp.zeros_like(f) | xp.zeros_like(c, dtype=xp.int8)",
    "__array_namespace_info__": "info.capabilities() | str(info.default_dtypes(device=f.device))"
    "| f.device in info.devices() | sorted(info.dtypes(kind='integral', device=f.device))",
}
CORNERS = {
    "constants": "[xp.e, xp.pi, xp.inf, xp.nan, xp.newaxis]",
    "dtypes": "f.dtype == xp.float64 | b.dtype == xp.bool | c.dtype == xp.complex128 | i.dtype == xp.int64"
    "| xp.uint8 == u.dtype",
    "integers": "xp.abs(i) | xp.negative(i) | xp.positive(u) | xp.square(i) | xp.sign(i) | xp.add(i, j)"
    "| xp.multiply(u, u) | xp.maximum(i, 2) | xp.minimum(3, i) | xp.remainder(i, 3) | xp.pow(i, 2) | xp.clip(i, 1, 3)"
    "| xp.where(b, i, j) | xp.where(b, i, 0) | i @ j.mT | xp.sort(i) | xp.flip(i) | xp.cumulative_sum(i, axis=1)"
    "| xp.cumulative_prod(i, axis=0) | xp.diff(i) | xp.linalg.trace(i) | xp.linalg.diagonal(i) | xp.vecdot(i, j)"
    "| xp.linalg.outer(i[0, ...], j[0, ...]) | xp.tensordot(i, j, axes=((0, 1), (0, 1))) | xp.conj(i)"
    "| xp.meshgrid(i[0, ...], j[0, ...])",
    "booleans": "xp.where(b, b, ~b) | xp.concat([b, b], axis=1) | xp.reshape(b, (-1,)) | xp.flip(b)"
    "| xp.tile(b, (2, 1)) | xp.tril(b) | xp.astype(b, xp.float32) | xp.astype(b, xp.int8) | xp.repeat(b, 2, axis=0)"
    "| xp.roll(b, 1) | xp.unstack(b)",
    "dtypes of sums": "xp.sum(i) | xp.sum(xp.astype(i, xp.int8)) | xp.prod(u, axis=0) | xp.sum(f, dtype=xp.float32)"
    "| xp.prod(f, dtype=xp.complex128) | xp.cumulative_sum(xp.astype(i, xp.int16), axis=0) | xp.mean(f) | xp.max(i)"
    "| xp.sum(xp.astype(f, xp.float32)) | xp.sum(f, axis=()) | xp.cumulative_sum(f, axis=1, dtype=xp.float32)"
    "| xp.min(u) | xp.cumulative_prod(f, axis=1, dtype=xp.float32) | xp.sum(u) | xp.prod(xp.astype(i, xp.int16))",
    "scalars beside arrays": "xp.where(b, f, 0.0) | xp.where(b, 1, f) | xp.where(f > 0.0, 1.5, g) | xp.maximum(f, 0)"
    "| xp.maximum(0.5, f) | xp.minimum(xp.astype(f, xp.float32), 0.25) | xp.clip(f, 0) | xp.clip(f, max=0.5)"
    "| xp.clip(f, -0.5, g) | xp.clip(f) | xp.clip(xp.astype(f, xp.float32), 0.1, 0.7) | xp.add(f, 1)"
    "| xp.subtract(1, f) | xp.pow(2.0, f) | xp.pow(g, 0.5) | xp.atan2(f, 1.0) | xp.hypot(3.0, f)"
    "| xp.copysign(f, -1.0) | xp.logaddexp(0.0, f) | xp.divide(f, 2) | xp.remainder(f, 0.7) | xp.multiply(c, 2)"
    "| xp.multiply(1j, c) | xp.multiply(xp.astype(f, xp.float32), 2)",
    "axes": "xp.expand_dims(f, axis=(0, 2)) | xp.expand_dims(f, axis=-1) | xp.permute_dims(f, (-1, 0))"
    "| xp.diff(f, n=0) | xp.moveaxis(f, (0, 1), (1, 0)) | xp.squeeze(f[:1, :], axis=0)"
    "| xp.squeeze(f[None, :1, :], axis=(0, 1)) | xp.flip(f, axis=(0, -1)) | xp.roll(f, (1, 2), axis=(0, -1))"
    "| xp.sum(f, axis=-1) | xp.max(f, axis=(-2, -1)) | xp.stack([f, g], axis=-1) | xp.concat((f, g), axis=-2)"
    "| xp.repeat(f, 2) | xp.repeat(f, j[0, :3], axis=0) | xp.take(f[0, ...], j[0, ...])"
    "| xp.take(f, j[0, ...], axis=-1) | xp.take(f, j[0, 0], axis=0) | xp.take_along_axis(f, j, axis=-1)"
    "| xp.unstack(f, axis=-1) | xp.reshape(f, (2, -1), copy=True) | xp.broadcast_to(f, (2, *f.shape))"
    "| xp.tile(f, (2, 1, 1)) | xp.std(f, axis=0) | xp.var(f, axis=(0, 1), correction=1.0) | xp.vecdot(f, g, axis=0)"
    "| xp.linalg.vector_norm(f, axis=(0, 1)) | xp.linalg.cross(f[:, :3], g[:, :3])"
    "| xp.linalg.matrix_power(f[:, :3], 1) | xp.sort(f, descending=True, stable=True)",
    "conversions": "xp.astype(f, xp.float32) | xp.astype(f, xp.int64) | xp.astype(f, xp.complex64)"
    "| xp.astype(i, xp.float64) | xp.astype(f, xp.float64, copy=False) | xp.asarray(f) | xp.asarray(f, copy=True)"
    "| xp.asarray(i, dtype=xp.float32) | xp.asarray([1, 2]) | xp.asarray([[True], [False]]) | xp.asarray(1.5)"
    "| xp.full((2,), 3) | xp.full(2, True) | xp.full_like(f, 2) | xp.full_like(i, 2)"
    "| xp.full_like(f, 2, dtype=xp.int64) | xp.linspace(0, 1, 4) | xp.real(c)"
    "| xp.linspace(0.0, 1.0, 4, endpoint=False, dtype=xp.float32) | xp.imag(c) | xp.conj(c) | xp.conj(f)",
    "indexing": "f[0, 1] | f[..., 1:3] | f[None, :, ::-1] | f[b] | f[f > 0.0] | f[xp.newaxis, ...] | i[1, ...]"
    "| b[:, 0] | f[-1, -1] | f[0, ...][j[0, ...]] | f[j[0, :2], j[1, :2]] | f[j[0, 0] - j[0, 0], ...] | f[0, 0][()]"
    "| c[..., 0]",
    "assignment": "assigned(f, (0, ...), 1.5) | assigned(f, (0, ...), 2) | assigned(f, (slice(1), 0), g[:1, 1])"
    "| assigned(f, b, 0.0) | assigned(f, f > 0.0, 0.5) | assigned(f, ..., g) | assigned(i, (0, 0), 7)"
    "| assigned(b, (..., 0), False) | assigned(f, b, f[b] * 2.0) | assigned(c, (0, ...), f[0, ...])"
    "| assigned(xp.zeros(3), 1, f[0, 0]) | assigned(xp.asarray(f, copy=True), (0, ...), 0.0)"
    "| assigned(f, (1, 2), i[0, 0] * 1.0)",
    "iteration": "list(f) | [row[0] for row in i] | len(f) | f.shape | f.ndim | f.size | f[:0, :].size"
    "| next(iter(f)) | [int(k) for k in i[0, ...]] | int(i[0, 1]) in i[0, ...] | -1.0 in f[0, ...]",
    "attributes": "f.T | f.mT | f[None, ...].mT | f.dtype | f.device | bool(b[0, 0]) | int(i[0, 0]) | float(f[0, 0])"
    "| complex(c[0, 0]) | complex(f[0, 0]) | operator.index(i[0, 0]) | [10, 20, 30][j[0, 0]] | list(range(j[0, 0]))"
    "| aac.to_device(f, f.device) | aac.device(f) == f.device | aac.size(f) | aac.is_array_api_obj(f)"
    "| aac.is_lazy_array(f) | aac.is_writeable_array(f)",
}


def assigned(x, key, value):
    """Return an array after an assignment, and another of its values, which stays as it was."""
    other = namespace(x).asarray(x, copy=True)
    x[key] = value
    return [x, other]


def sample(device):
    rng = np.random.default_rng(5)
    xp = device.xp
    i = rng.integers(1, 6, size=(3, 4))
    return [
        xp.asarray(rng.normal(size=(3, 4))),
        xp.asarray(rng.uniform(0.5, 2.0, size=(3, 4))),
        xp.asarray(i),
        xp.asarray(rng.integers(0, 3, size=(3, 4))),
        xp.asarray(i.astype(np.uint8)),
        xp.asarray(rng.normal(size=(3, 4)) > 0),
        xp.asarray(rng.normal(size=(3, 4)) + 1j * rng.normal(size=(3, 4))),
    ]


def evaluated(text):
    """Return the function of a namespace and the seven arrays that computes an expression."""
    code = compile(text.strip(), text, "eval")
    known = {"assigned": assigned, "operator": operator, "aac": array_api_compat}

    def call(xp, *arrays):
        return eval(
            code, known | {"xp": xp, "info": xp.__array_namespace_info__()} | dict(zip("fgijubc", arrays, strict=True))
        )

    return call


CALLS = CONSTANT | CORNERS


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CALLS)
def test_calls_have_the_frameworks_results(name, device):
    arrays = sample(device)
    for text in re.split(r"\| ?(?=[^|])", CALLS[name]):
        call = evaluated(text)
        try:
            check(call, device, arrays)
        except Exception as error:
            raise AssertionError(text) from error


NAMES = [
    *(
        n
        for n in array_api_strict.__all__
        if n not in ("linalg", "fft", "__array_api_version__", "__version__", "Device")
    ),
    *(f"{part}.{n}" for part in ("linalg", "fft") for n in getattr(array_api_strict, part).__all__),
]


def test_every_name_of_the_standard_is_called():
    callables = [
        name
        for name in NAMES
        if callable(operator.attrgetter(name)(array_api_strict))
        and not name.endswith(("_array_api_strict_flags", "ArrayAPIStrictFlags"))
        and not hasattr(operator.attrgetter(name)(array_api_strict), "_np_dtype")
    ]
    assert len(callables) > 150
    assert not set(callables) - {*CASES, *CONSTANT}


def test_the_namespace_has_every_name_of_the_standard(device):
    xp = lift(device.xp.zeros(2)).__array_namespace__()
    for name in NAMES:
        if "strict" not in name.lower():
            operator.attrgetter(name)(xp)
            assert name.rpartition(".")[2] in dir(
                operator.attrgetter(name.rpartition(".")[0])(xp) if "." in name else xp
            )


# -- what is refused ----------------------------------------------------------------------------------------------

REFUSED = [
    "b + b", "i & 1.5", "f & f", "~f", "f @ f", "f + f[:2, :]", "xp.reshape(f, (5, 5))", "f[7, 0]",
    "xp.concat([f, f[0, ...]])", "xp.nothing(f)", "f.nothing", "xp.asarray([1.0, 'a'])", "bool(f)", "float(f)",
    "int(f)", "operator.index(f[0, 0])", "len(f[0, 0])", "list(f[0, 0])", "hash(f)", "f + 'a'", "f + None", "i + 0.5",
    "xp.add(i, 1.5)", "xp.maximum(i, 0.5)",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_the_framework_refuses_is_refused(text, device):
    call, arrays = evaluated(text), sample(device)
    with device.scope():
        try:
            call(device.xp, *arrays)
        except Exception as error:  # noqa: BLE001  each framework raises its own
            kinds = (type(error), *(kind for kind in (TypeError, ValueError, IndexError) if isinstance(error, kind)))
        else:
            return  # a framework may take more than the standard says
        with pytest.raises(kinds):
            call(namespace(lift(arrays[0])), *map(lift, arrays))
        with pytest.raises(kinds):
            differentiated(call, arrays)


# -- operators ----------------------------------------------------------------------------------------------------

ARITHMETIC = "add sub mul truediv pow mod floordiv"
BITWISE = "and_ or_ xor"
OPERATORS = {
    "f": f"{ARITHMETIC} lt le gt ge eq ne",
    "i": "add sub mul mod floordiv pow lshift rshift and_ or_ xor lt le gt ge eq ne",
    "b": f"{BITWISE} eq ne",
}
SCALARS = {"f": (2.0, 3, 0.5), "i": (2, 3), "b": (True, False)}


def operands(device, kind):
    _, g, i, j, _, b, _ = sample(device)
    with device.scope():
        return {"f": (g, g + 0.5), "i": (i, j + 1), "b": (b, ~b)}[kind]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in OPERATORS.items() for name in names.split()]
)
def test_operators(kind, name, device):
    operate = getattr(operator, name)
    x, y = operands(device, kind)
    native_left = device.backend.name != "strict"  # which refuses foreign types on its right

    def call(xp, a, b):
        return [
            operate(a, b),
            operate(a, y),
            operate(x, b) if native_left else operate(a, b),
            operate(a, a),
            *[operate(a, scalar) for scalar in SCALARS[kind]],
            *[operate(scalar, a) for scalar in SCALARS[kind] if (kind, name, scalar) != ("i", "pow", 3)],
        ]

    with device.scope():
        check(call, device, [x, y])


def test_other_operators(device):
    def call(xp, f, i, b):
        return [-f, +f, abs(f), -i, +i, abs(-i), ~i, ~b, f @ f.T, f[0, ...] @ f[1, ...], (f @ f.T)[0, 0]]

    arrays = sample(device)
    check(call, device, [arrays[0], arrays[2], arrays[5]])


IN_PLACE = [
    *[("f", f"i{name}") for name in ARITHMETIC.split()],
    *[("i", name) for name in ("iadd", "isub", "imul", "ifloordiv", "imod", "ipow", "ilshift", "irshift")],
    *[(kind, name) for kind in "ib" for name in ("iand", "ior", "ixor")],
]


@pytest.mark.parametrize(("kind", "name"), IN_PLACE)
def test_operators_in_place_rebind(kind, name, device):
    operate = getattr(operator, name)
    x, y = operands(device, kind)
    before = to_numpy(device.xp.asarray(x, copy=True))

    def call(xp, a, b):
        results = []
        for other in (b, y if isinstance(b, TracedArray) else b, SCALARS[kind][0]):
            changed = xp.asarray(a, copy=True)
            alias = changed
            changed = operate(changed, other)
            results.append(changed)
            if isinstance(a, TracedArray):
                assert changed is not alias
                same(unwrap(alias), device.xp.asarray(before), device)
        return results

    check(call, device, [x, y])
    assert_close(to_numpy(x), before)


def test_matmul_in_place_rebinds(device):
    def call(xp, a):
        a = xp.asarray(a, copy=True)
        a @= a
        return a

    check(call, device, [device.xp.asarray(np.random.default_rng(0).normal(size=(3, 3)))])


# -- the namespace, and libraries that ask for it --------------------------------------------------------------------


def test_the_namespace_is_found_by_the_standards_ways(xp, device):
    x = lift(xp.ones((2, 3)))
    traced = namespace(x)
    assert x.__array_namespace__() is x.__array_namespace__(api_version="2025.12") is traced
    assert array_api_compat.array_namespace(x, 1.0, None, x) is traced
    assert array_api_compat.array_namespace(x, use_compat=False) is traced
    with pytest.raises(ConfigurationError, match=r"api_version='2099.12' is no version .* one of 2021.12, 2022.12"):
        x.__array_namespace__(api_version="2099.12")
    with pytest.raises(TypeError, match="Multiple namespaces"):
        array_api_compat.array_namespace(x, xp.ones(2))


def test_the_namespace_is_none_of_a_framework_that_libraries_know(xp):
    traced = namespace(lift(xp.ones(2)))
    questions = [
        getattr(array_api_compat, n) for n in dir(array_api_compat) if n.startswith("is_") and n.endswith("_namespace")
    ]
    assert len(questions) > 5
    assert not any(question(traced) for question in questions)
    assert traced.__name__ == f"xdev.autodiff.namespace({xp.__name__})"


def test_copies_are_assigned_to_apart(xp):
    x = xp.asarray([1.0, 2.0])

    def function(leaves):
        (v,) = leaves
        ns = namespace(v)
        copies = [copy.copy(v), copy.deepcopy(v), ns.asarray(v, copy=True), ns.astype(v, v.dtype), ns.positive(v)]
        copies += copy.deepcopy({"v": [v]})["v"]
        for c in copies:
            assert type(c) is TracedArray
            assert c.tape is v.tape
            c[0] = 7.0
            assert float(c[0]) == 7.0
            assert float(v[0]) == 1.0
        assert ns.asarray(v) is v
        return [sum(copies[1:], copies[0]) * v]

    (y,), pullback = vjp(function, [x])
    assert_close(y, xp.asarray([42.0, 24.0]))
    assert_close(pullback([xp.ones(2)])[0], xp.asarray([42.0, 24.0]))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (pickle.dumps, "an array under differentiation cannot be pickled; call functions of xp = xdev.namespace"),
        (np.asarray, "cannot become a NumPy array; call functions of xp = xdev.namespace"),
        (np.sum, r"numpy.sum does not know arrays under differentiation; call functions of xp = xdev.namespace"),
        (lambda x: np.stack([x, x]), "numpy.stack does not know arrays under differentiation"),
        (lambda x: len(x[0]), r"len\(\) of an array without dimensions"),
        (lambda x: iter(x[0]), "iteration over an array without dimensions"),
    ],
)
def test_what_leaves_the_tape_says_so(xp, use, message):
    with pytest.raises(ArrayTypeError, match=message):
        vjp(lambda xs: [use(xs[0])], [xp.ones(2)])


def test_ufuncs_do_not_take_traced_arrays(xp):
    with pytest.raises(TypeError, match="TracedArray"):
        vjp(lambda xs: [np.sin(xs[0])], [xp.ones(2)])


@pytest.mark.xdev_backends(only=("numpy", "cupy"), reason="array-api-strict has no function beyond the standard")
def test_a_function_beyond_the_standard_takes_constants(xp, device):
    x = xp.asarray([1.0, 2.0])
    with device.scope():
        assert_close(unwrap(namespace(lift(x)).nan_to_num(lift(x))), x)
        with pytest.raises(NoGradientRule, match=r"xp\.nan_to_num has no gradient rule"):
            vjp(lambda xs: [namespace(xs[0]).nan_to_num(xs[0])], [x])
