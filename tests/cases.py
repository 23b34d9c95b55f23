"""Calls of every function that has derivatives: what rules are tested on, and what the coverage table runs.

`CASES` maps a name of the standard to calls of it, each a pair (arguments, function); arguments are pairs
(kind of numbers, shape), and the function takes a namespace and the arrays, None for the plain call. Names with an
underscore at the end are operators and what xdev has in addition.
"""

from __future__ import annotations

import operator

import numpy as np

__all__ = ["CASES", "PARAMETERS", "make"]


def _of(kind):
    return lambda *shape: (kind, shape)


_normal, _positive, _unit, _distinct = _of("normal"), _of("positive"), _of("unit"), _of("distinct")
_zeros_inside, _complex, _singular = _of("zeros"), _of("complex"), _of("singular")


def _sample(kind, shape, rng):
    if kind == "normal":
        return rng.normal(size=shape)
    if kind == "positive":
        return rng.uniform(0.5, 2.0, size=shape)
    if kind == "unit":
        return rng.uniform(-0.8, 0.8, size=shape)
    if kind == "zeros":
        x = rng.uniform(0.5, 2.0, size=shape)
        x.reshape(-1)[1::4] = 0.0
        return x
    if kind == "complex":
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)
    if kind == "singular":
        x = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        x[..., -1, :] = x[..., 0, :] * (0.5 + 1j)
        return x
    size = int(np.prod(shape))
    return (rng.permutation(size) - size / 2 + 0.3).reshape(shape) * 0.37


def _each(name, **kwargs):
    return lambda xp, *arrays: _lookup(xp, name)(*arrays, **kwargs)


def _all(xp, arrays):
    """Join several outputs into one array."""
    return xp.concat([xp.reshape(x, (-1,)) for x in arrays])


def _indices(xp, values, like):
    return xp.asarray(values, dtype=xp.int64)


SQUARE = _normal(3, 4)
# name -> list of (arguments, function of (xp, *arrays)); what comes after "/" only tells cases apart
CASES = {
    "abs": [([_normal(3, 4)], None), ([_complex(3)], None)],
    "acos": [([_unit(3)], None)],
    "acosh": [([("positive", (3,))], lambda xp, x: xp.acosh(xp.add(x, 1.0)))],
    "add": [([_normal(3, 1), _normal(4)], None), ([_normal(3)], lambda xp, x: 2 + x + 1.5)],
    "asin": [([_unit(3)], None)],
    "asinh": [([_normal(3)], None)],
    "atan": [([_normal(3)], None)],
    "atan2": [([_normal(3, 1), _positive(4)], None), ([_positive(3)], lambda xp, x: xp.atan2(x, 2.0))],
    "atanh": [([_unit(3)], None)],
    "clip": [
        ([_distinct(7)], lambda xp, x: xp.clip(x, -0.5, 0.5)),
        ([_distinct(7), _normal(7)], lambda xp, x, lo: xp.clip(x, lo, 2.0)),
        ([_distinct(7), _normal(7)], lambda xp, x, hi: xp.clip(x, max=hi)),
    ],
    "conj": [([_complex(3)], None)],
    "copysign": [([_normal(3), _normal(3)], None)],
    "cos": [([_normal(3)], None), ([_complex(3)], None)],
    "cosh": [([_normal(3)], None)],
    "divide": [
        ([_normal(3, 1), _positive(4)], None),
        ([_positive(3)], lambda xp, x: 2 / x / 3.0),
        ([_complex(3), _complex(3)], None),
    ],
    "exp": [([_normal(3)], None), ([_complex(3)], None)],
    "expm1": [([_normal(3)], None)],
    "hypot": [([_normal(3), _positive(3)], None)],
    "imag": [([_complex(3)], None)],
    "log": [([_positive(3)], None), ([_complex(3)], None)],
    "log10": [([_positive(3)], None)],
    "log1p": [([_positive(3)], None)],
    "log2": [([_positive(3)], None)],
    "logaddexp": [([_normal(3), _normal(3)], None), ([_normal(3)], lambda xp, x: xp.logaddexp(x, 0.0))],
    "maximum": [([_normal(3, 1), _normal(4)], None), ([_distinct(5)], lambda xp, x: xp.maximum(x, 0.1))],
    "minimum": [([_normal(3, 1), _normal(4)], None)],
    "multiply": [
        ([_normal(3, 1), _normal(4)], None),
        ([_normal(3)], lambda xp, x: 2.0 * x * 3),
        ([_complex(3), _complex(3)], None),
        ([_complex(3), _normal(3)], None),
        ([_normal(3)], lambda xp, x: x * x),
    ],
    "negative": [([_normal(3)], None)],
    "positive": [([_normal(3)], None)],
    "pow": [
        ([_positive(3, 1), _normal(4)], None),
        ([_normal(3)], lambda xp, x: x**2),
        ([_normal(3)], lambda xp, x: x**3),
        ([_normal(3)], lambda xp, x: x**0 * xp.sin(x)),
        ([_normal(3)], lambda xp, x: 2.5**x),
        ([_complex(3)], lambda xp, x: (1.5 + 0.5j) ** x + (-0.5) ** x),
        ([_complex(3), _complex(3)], None),
    ],
    "real": [([_complex(3)], None)],
    "reciprocal": [([_positive(3)], None)],
    "remainder": [([_positive(3), _positive(3)], None), ([_normal(3)], lambda xp, x: x % 0.7)],
    "sign": [([_complex(3)], lambda xp, x: xp.multiply(xp.sign(x), x))],
    "sin": [([_normal(3)], None)],
    "sinh": [([_normal(3)], None)],
    "sqrt": [([_positive(3)], None), ([_complex(3)], None)],
    "square": [([_normal(3)], None)],
    "subtract": [([_normal(3, 1), _normal(4)], None), ([_normal(3)], lambda xp, x: 2 - x - 1.5)],
    "tan": [([_unit(3)], None)],
    "tanh": [([_normal(3)], None), ([_complex(3)], None)],
    # statistical
    "cumulative_prod": [
        ([_positive(3, 4)], lambda xp, x: xp.cumulative_prod(x, axis=1)),
        ([_zeros_inside(7)], lambda xp, x: xp.cumulative_prod(x, include_initial=True)),
    ],
    "cumulative_sum": [
        ([_normal(3, 4)], lambda xp, x: xp.cumulative_sum(x, axis=0)),
        ([_normal(4)], lambda xp, x: xp.cumulative_sum(x, include_initial=True)),
    ],
    "max": [
        ([_distinct(3, 4)], _each("max", axis=1)),
        ([_distinct(3, 4)], None),
        ([_distinct(3, 4)], _each("max", axis=(0, 1), keepdims=True)),
    ],
    "mean": [([_normal(3, 4)], _each("mean", axis=0)), ([_normal(3, 4)], _each("mean", axis=-1, keepdims=True))],
    "min": [([_distinct(3, 4)], _each("min", axis=0))],
    "prod": [
        ([_zeros_inside(3, 4)], None),
        ([_zeros_inside(2, 3, 4)], _each("prod", axis=(0, 2))),
        ([_positive(3, 4)], _each("prod", axis=1, keepdims=True)),
    ],
    "std": [([_normal(3, 4)], _each("std", axis=1, correction=1)), ([_normal(3, 4)], None)],
    "sum": [
        ([_normal(3, 4)], _each("sum", axis=(0, -1))),
        ([_normal(3, 4)], _each("sum", axis=1, keepdims=True)),
        ([_normal(3, 4)], _each("sum", axis=0)),
    ],
    "var": [([_normal(3, 4)], _each("var", axis=1, correction=1)), ([_normal(3, 4)], _each("var", keepdims=True))],
    # manipulation
    "astype": [([_normal(3)], lambda xp, x: xp.astype(xp.astype(x, xp.complex128), xp.complex128))],
    "broadcast_arrays": [([_normal(3, 1), _normal(4)], lambda xp, *xs: _all(xp, xp.broadcast_arrays(*xs)))],
    "broadcast_to": [([_normal(3, 1)], lambda xp, x: xp.broadcast_to(x, (2, 3, 4)))],
    "concat": [
        ([_normal(3, 2), _normal(3, 4)], lambda xp, *xs: xp.concat(list(xs), axis=1)),
        ([_normal(3, 2), _normal(3)], lambda xp, *xs: xp.concat(xs, axis=None)),
    ],
    "diff": [
        ([_normal(3, 5)], _each("diff")),
        ([_normal(3, 5), _normal(1, 5)], lambda xp, x, e: xp.diff(x, axis=0, n=2, prepend=e)),
    ],
    "expand_dims": [
        ([_normal(3)], lambda xp, x: xp.expand_dims(x, axis=1)),
        ([_normal(3, 2)], lambda xp, x: xp.expand_dims(x, axis=(0, -1))),
    ],
    "flip": [([_normal(3, 4)], None), ([_normal(3, 4)], _each("flip", axis=1))],
    "meshgrid": [
        ([_normal(3), _normal(4)], lambda xp, *xs: _all(xp, xp.meshgrid(*xs))),
        ([_normal(2), _normal(3), _normal(2)], lambda xp, *xs: _all(xp, xp.meshgrid(*xs, indexing="ij"))),
    ],
    "moveaxis": [([_normal(2, 3, 4)], lambda xp, x: xp.moveaxis(x, 0, -1))],
    "permute_dims": [([_normal(2, 3, 4)], lambda xp, x: xp.permute_dims(x, (2, 0, 1)))],
    "repeat": [
        ([_normal(3, 2)], lambda xp, x: xp.repeat(x, 3, axis=0)),
        ([_normal(3, 2)], lambda xp, x: xp.repeat(x, 2)),
        ([_normal(3, 2)], lambda xp, x: xp.repeat(x, _indices(xp, [2, 0, 3], x), axis=0)),
    ],
    "reshape": [([_normal(3, 4)], lambda xp, x: xp.reshape(x, (2, -1)))],
    "roll": [
        ([_normal(3, 4)], lambda xp, x: xp.roll(x, 2, axis=1)),
        ([_normal(3, 4)], lambda xp, x: xp.roll(x, (1, 2), axis=(0, 1))),
        ([_normal(3, 4)], lambda xp, x: xp.roll(x, 5)),
    ],
    "squeeze": [([_normal(3, 1)], lambda xp, x: xp.squeeze(x, axis=1))],
    "stack": [([_normal(3), _normal(3)], lambda xp, *xs: xp.stack(xs, axis=-1))],
    "tile": [([_normal(3, 2)], lambda xp, x: xp.tile(x, (2, 1, 3))), ([_normal(3, 2)], lambda xp, x: xp.tile(x, (2,)))],
    "tril": [([_normal(3, 4)], _each("tril", k=1))],
    "triu": [([_normal(3, 4)], None)],
    "unstack": [
        ([_normal(3, 4)], lambda xp, x: _all(xp, xp.unstack(x, axis=1))),
        ([_normal(3, 4)], lambda xp, x: xp.unstack(x)[1]),
        ([_normal(3, 4)], lambda xp, x: _all(xp, [row * row for row in x])),
    ],
    # indexing, searching, sorting
    "take": [
        ([_normal(3, 4)], lambda xp, x: xp.take(x, _indices(xp, [0, 2, 2, 1, 2], x), axis=0)),
        ([_normal(3, 4)], lambda xp, x: xp.take(x, _indices(xp, [3, 0, 3], x), axis=1)),
    ],
    "take_along_axis": [
        ([_normal(3, 4)], lambda xp, x: xp.take_along_axis(x, _indices(xp, [[0, 0], [3, 1], [2, 2]], x), axis=1)),
        ([_normal(3, 4)], lambda xp, x: xp.take_along_axis(x, _indices(xp, [[0, 1, 0, 2]] * 2, x), axis=0)),
    ],
    "where": [([_normal(3, 1), _normal(4)], lambda xp, a, b: xp.where(a > b, a, b * b))],
    "sort": [([_distinct(3, 4)], None), ([_distinct(3, 4)], _each("sort", axis=0, descending=True))],
    # products
    "matmul": [
        ([_normal(3, 4), _normal(4, 2)], None),
        ([_normal(4), _normal(4)], None),
        ([_normal(4), _normal(4, 2)], None),
        ([_normal(3, 4), _normal(4)], None),
        ([_normal(2, 3, 4), _normal(4, 2)], None),
        ([_normal(2, 1, 3, 4), _normal(5, 4, 2)], None),
        ([_normal(4), _normal(2, 4, 3)], None),
        ([_normal(2, 3, 4), _normal(4)], None),
        ([_complex(3, 4), _complex(4, 2)], None),
    ],
    "matrix_transpose": [([_normal(2, 3, 4)], None), ([_normal(3, 4)], lambda xp, x: xp.matmul(x.T, x))],
    "tensordot": [
        ([_normal(2, 3, 4), _normal(3, 4, 5)], None),
        ([_normal(2, 3), _normal(3, 2)], _each("tensordot", axes=((0, 1), (1, 0)))),
        ([_normal(2), _normal(3)], _each("tensordot", axes=0)),
    ],
    "vecdot": [([_normal(3, 4), _normal(4)], None), ([_complex(3), _complex(3)], None)],
    "linalg.cross": [([_normal(2, 3), _normal(2, 3)], None)],
    "linalg.diagonal": [([_normal(2, 3, 4)], _each("linalg.diagonal", offset=k)) for k in (0, 1, -1)],
    "linalg.matmul": [([_normal(3, 4), _normal(4, 2)], None)],
    "linalg.matrix_transpose": [([_normal(3, 4)], None)],
    "linalg.outer": [([_normal(3), _normal(4)], None)],
    "linalg.tensordot": [([_normal(2, 3), _normal(3, 2)], lambda xp, a, b: xp.linalg.tensordot(a, b, axes=1))],
    "linalg.trace": [([_normal(2, 3, 3)], None)],
    "linalg.vecdot": [([_normal(3, 4), _normal(3, 4)], None)],
    # decompositions; of vectors whose sign is free, the squares
    "linalg.cholesky": [
        ([_normal(2, 3, 3)], lambda xp, x: xp.linalg.cholesky(_spd(xp, x))),
        ([_normal(3, 3)], lambda xp, x: xp.linalg.cholesky(_spd(xp, x), upper=True)),
        ([_complex(3, 3)], lambda xp, x: xp.linalg.cholesky(_spd(xp, x))),
    ],
    "linalg.det": [
        ([_normal(2, 3, 3)], None),
        ([_complex(3, 3)], None),
        ([_singular(4, 4)], lambda xp, x: xp.linalg.det(xp.real(x))),
        ([_singular(3, 3)], None),
        ([_normal(60, 60)], lambda xp, x: xp.linalg.det(x * 0.13)),  # far below Hadamard's bound, and regular
    ],
    "linalg.eig": [
        ([_normal(4, 4)], lambda xp, x: _all(xp, _squares_of(xp.linalg.eig(x), 0))),
        ([_complex(2, 3, 3)], lambda xp, x: _all(xp, _squares_of(xp.linalg.eig(x), 0))),
    ],
    "linalg.eigvals": [([_normal(4, 4)], None)],
    "linalg.eigh": [
        ([_normal(2, 3, 3)], lambda xp, x: _all(xp, _squares_of(xp.linalg.eigh(_spd(xp, x)), 0))),
        ([_complex(3, 3)], lambda xp, x: _all(xp, _squares_of(xp.linalg.eigh(_spd(xp, x)), 0))),
    ],
    "linalg.eigvalsh": [([_normal(3, 3)], lambda xp, x: xp.linalg.eigvalsh(_spd(xp, x)))],
    "linalg.inv": [([_normal(2, 3, 3)], None), ([_complex(3, 3)], None)],
    "linalg.matrix_norm": [
        *[([_normal(2, 3, 4)], _each("linalg.matrix_norm", ord=o)) for o in ("fro", "nuc", 1, -1, 2, -2)],
        ([_normal(2, 3, 4)], _each("linalg.matrix_norm", ord=np.inf, keepdims=True)),
        ([_normal(2, 3, 4)], _each("linalg.matrix_norm", ord="nuc", keepdims=True)),
    ],
    "linalg.matrix_power": [
        ([_normal(3, 3)], lambda xp, x: xp.linalg.matrix_power(x, 5)),
        ([_normal(3, 3)], lambda xp, x: xp.linalg.matrix_power(x, -2)),
        ([_normal(3, 3)], lambda xp, x: xp.linalg.matrix_power(x, 0) + x),
    ],
    "linalg.pinv": [([_normal(4, 3)], None), ([_normal(2, 3, 4)], None), ([_complex(4, 3)], None)],
    "linalg.qr": [
        ([_normal(4, 3)], lambda xp, x: _all(xp, xp.linalg.qr(x))),
        ([_normal(2, 3, 3)], lambda xp, x: _all(xp, xp.linalg.qr(x, mode="complete"))),
        ([_complex(4, 3)], lambda xp, x: _all(xp, xp.linalg.qr(x))),
        ([_complex(3, 5)], lambda xp, x: _all(xp, xp.linalg.qr(x))),
        ([_normal(2, 2, 4)], lambda xp, x: _all(xp, xp.linalg.qr(x))),
    ],
    "linalg.slogdet": [
        ([_normal(2, 3, 3)], lambda xp, x: xp.linalg.slogdet(x)[1]),
        ([_complex(3, 3)], lambda xp, x: _all(xp, [xp.linalg.slogdet(x)[0] * 1j, xp.linalg.slogdet(x)[1] * (1 + 0j)])),
    ],
    "linalg.solve": [
        ([_normal(3, 3), _normal(3, 2)], None),
        ([_normal(3, 3), _normal(3)], None),
        ([_normal(2, 3, 3), _normal(2, 3, 2)], None),
    ],
    "linalg.svd": [
        ([_normal(4, 3)], lambda xp, x: _all(xp, _squares_of(xp.linalg.svd(x, full_matrices=False), 1))),
        ([_normal(2, 3, 4)], lambda xp, x: _all(xp, _squares_of(xp.linalg.svd(x, full_matrices=False), 1))),
        ([_normal(3, 3)], lambda xp, x: _all(xp, _squares_of(xp.linalg.svd(x), 1))),
        *[([_complex(*shape)], lambda xp, x: _all(xp, _invariants(xp, x))) for shape in ((4, 3), (2, 3, 4))],
    ],
    "linalg.svdvals": [([_normal(4, 3)], None)],
    "linalg.vector_norm": [
        ([_normal(3, 4)], None),
        ([_complex(3, 4)], _each("linalg.vector_norm", axis=1, keepdims=True)),
        *[([_normal(3, 4)], _each("linalg.vector_norm", axis=0, ord=o)) for o in (1, 3, np.inf, -np.inf)],
        ([_normal(3, 4)], lambda xp, x: xp.linalg.vector_norm(x, ord=0) * x),
    ],
    # Fourier transforms
    **{
        f"fft.{name}": [
            ([sample(3, 6)], _each(f"fft.{name}")),
            ([sample(5, 3)], _each(f"fft.{name}", n=7, axis=0, norm="ortho")),
            ([sample(6)], _each(f"fft.{name}", n=4, norm="forward")),
        ]
        for name, sample in (
            ("fft", _complex),
            ("ifft", _complex),
            ("rfft", _normal),
            ("irfft", _complex),
            ("hfft", _complex),
            ("ihfft", _normal),
        )
    },
    **{
        f"fft.{name}": [
            ([sample(2, 3, 4)], _each(f"fft.{name}")),
            ([sample(3, 4)], _each(f"fft.{name}", s=(4, 5), axes=(1, 0), norm="ortho")),
        ]
        for name, sample in (("fftn", _complex), ("ifftn", _complex), ("rfftn", _normal), ("irfftn", _complex))
    },
    "fft.fftshift": [([_normal(3, 5)], None)],
    "fft.ifftshift": [([_normal(3, 5)], _each("fft.ifftshift", axes=1))],
    # creation from traced values
    "asarray": [([_normal(), _normal()], lambda xp, a, b: xp.asarray([a, b]) * 2.0)],
    "full": [([_normal()], lambda xp, x: xp.full((3, 2), x))],
    "full_like": [([_normal()], lambda xp, x: xp.full_like(xp.zeros((3,), dtype=x.dtype), x))],
    "linspace": [([_normal(), _normal()], lambda xp, a, b: xp.linspace(a, b, 5))],
    # indexing by operators
    "getitem_": [
        ([_normal(3, 4)], lambda xp, x: x[1, ...]),
        ([_normal(3, 4)], lambda xp, x: x[1:, None, ::-2]),
        ([_normal(3, 4)], lambda xp, x: x[..., 0]),
        ([_normal(3, 4)], lambda xp, x: x[-1, 2]),
        ([_normal(5)], lambda xp, x: x[_indices(xp, [0, 2, 2, -1, 4], x)]),
        ([_normal(3, 4)], lambda xp, x: x[_indices(xp, [0, 2, 2], x), _indices(xp, [1, 3, 3], x)]),
        ([_distinct(3, 4)], lambda xp, x: x[_fixed_mask(xp)]),
    ],
    "cast_": [],  # what "astype" does between floating dtypes
    "put_": [],  # the transpose of "getitem_", reached by its second derivative
    "scatter_": [],  # likewise
    "setitem_": [
        ([_normal(3, 4), _normal(4)], lambda xp, x, v: _assign(xp, x, (0, ...), v)),
        ([_normal(3, 4), _normal(2, 1)], lambda xp, x, v: _assign(xp, x, (slice(0, 2), slice(1, 3)), v)),
        ([_normal(5), _normal(3)], lambda xp, x, v: _assign(xp, x, (_indices(xp, [3, 0, 3], x),), v)),
        ([_normal(3, 4), _normal(6)], lambda xp, x, v: _assign(xp, x, _fixed_mask(xp), v)),
    ],
    "to_device_": [([_normal(3)], lambda xp, x: x if not hasattr(x, "tape") else x.to_device(x.device))],
}


def _spd(xp, x):
    """Return a symmetric, positive definite matrix."""
    h = xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x
    return xp.matmul(x, xp.matrix_transpose(h)) + xp.eye(x.shape[-1], dtype=x.dtype)


def _invariants(xp, x):
    """Return what does not depend on the phases that a decomposition is free to choose."""
    u, s, vh = xp.linalg.svd(x, full_matrices=False)
    scale = xp.astype(xp.asarray([1.0, 2.0, 4.0]), u.dtype)
    return [*(xp.astype(part, u.dtype) for part in _squares_of((u, s, vh), 1)), xp.matmul(u * scale, vh)]


def _squares_of(parts, kept):
    return [part if k == kept else abs(part) ** 2 for k, part in enumerate(parts)]


def _fixed_mask(xp):
    return xp.asarray([[True, False, True, False], [False, True, True, True], [False, False, False, True]])


def _assign(xp, x, key, value):
    y = x * 2.0
    if hasattr(y, "at"):
        y = y.at[key].set(value)
    else:
        y[key] = value
    return y * y


def _function(name, call):
    if call is not None:
        return call
    return lambda xp, *arrays: _lookup(xp, name)(*arrays)


def _lookup(xp, name):
    for part in name.split("."):
        xp = getattr(xp, part)
    return xp


def _operators():
    """Return cases of the operators that have derivatives: the array on the left, on the right, and in place."""
    cases = {f"__{name}__": [([_normal(3)], lambda xp, x, f=f: f(x))] for name, f in _OF_ONE.items()}
    for name in ("add", "sub", "mul", "truediv", "pow", "mod", "matmul"):
        f, in_place = getattr(operator, name), getattr(operator, f"i{name}")
        shape = (3, 3) if name == "matmul" else (3,)
        arguments = [_positive(*shape), _positive(*shape)]
        cases[f"__{name}__"] = [
            (arguments, lambda xp, x, y, f=f: f(x, y)),
            (arguments, lambda xp, x, y, f=in_place: f(x * 1.0, y)),
        ]
        if name != "matmul":
            cases[f"__{name}__"].append(([_positive(3)], lambda xp, x, f=f: f(2.5, x)))
    return cases


_OF_ONE = {"abs": operator.abs, "neg": operator.neg, "pos": operator.pos}
CASES |= _operators()
CASES |= {"mT": [([_normal(2, 3, 4)], lambda xp, x: x.mT)], "T": [([_normal(3, 4)], lambda xp, x: x.T)]}
PARAMETERS = [(name, k) for name, cases in CASES.items() for k in range(len(cases))]


def make(name, k):
    """Return the arguments of a case, as NumPy's arrays of float64 and complex128, and its function."""
    arguments, call = CASES[name][k]
    rng = np.random.default_rng([ord(c) for c in name] + [k])
    return [_sample(kind, shape, rng) for kind, shape in arguments], _function(name, call)
