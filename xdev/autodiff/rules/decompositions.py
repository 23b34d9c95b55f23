"""Inverses, decompositions and norms of matrices.

With H the conjugate transpose, the formulas are written for conjugated cotangents, and conjugated back. Gradients
of functions of symmetric matrices are symmetric.

References
----------
.. [1] M. Giles, "Collected matrix derivative results for forward and reverse mode algorithmic differentiation", 2008.
.. [2] I. Murray, "Differentiation of the Cholesky decomposition", 2016.
.. [3] J. Townsend, "Differentiating the singular value decomposition", 2016.
.. [4] G. Golub and V. Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares problems", 1973.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..array import unwrap
from ..record import Pullback, no_gradient

__all__ = ["DEFINED", "ELEMENTWISE", "GENERAL"]


def _h(xp: Any, x: Any) -> Any:
    return xp.matrix_transpose(_conj(xp, x))


def _conj(xp: Any, x: Any) -> Any:
    return xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x


def _real(xp: Any, x: Any) -> Any:
    return xp.real(x) if xp.isdtype(x.dtype, "complex floating") else x


def _product(xp: Any, *factors: Any) -> Any:
    result = factors[0]
    for factor in factors[1:]:
        result = xp.matmul(result, factor)
    return result


def _columns(xp: Any, x: Any, scale: Any) -> Any:
    """Return the matrix with its columns scaled."""
    return xp.multiply(x, xp.expand_dims(scale, axis=-2))


def _symmetric(xp: Any, x: Any) -> Any:
    return xp.multiply(xp.add(x, _h(xp, x)), 0.5)


def _eye(xp: Any, n: int, x: Any) -> Any:
    return xp.eye(n, dtype=x.dtype)


def _conjugated(rule: Callable[..., Any]) -> Any:
    """Return a rule for cotangents as they are here, from one that takes and gives conjugated ones."""

    def pull(xp: Any, g: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        g = [_conj(xp, part) for part in g] if type(g) is list else _conj(xp, g)
        return _conj(xp, rule(xp, g, y, *args, **kwargs))

    return pull


def _inv(xp: Any, g: Any, y: Any, x: Any, /) -> Any:
    return xp.negative(_product(xp, xp.matrix_transpose(y), g, xp.matrix_transpose(y)))


def _scaled(xp: Any, x: Any, scale: Any) -> Any:
    """Return the transposed inverse, each matrix times its scale."""
    inverse = xp.matrix_transpose(xp.linalg.inv(x))
    return xp.multiply(inverse, xp.expand_dims(xp.expand_dims(scale, axis=-1), axis=-1))


def _det(xp: Any, g: Any, y: Any, x: Any, /) -> Any:
    """Multiply the cotangent by the cofactors: det(x) x⁻ᵀ, and by products of matrices where one is singular."""
    below, n, eye = xp.below, x.shape[-1], _eye(xp, x.shape[-1], x)
    lengths = below.sqrt(below.sum(below.square(below.abs(unwrap(x))), axis=-1))
    limit = float(below.finfo(lengths.dtype).eps) ** 0.5 if n <= 8 else 0.0  # of large ones only what is exactly 0
    singular = below.less_equal(below.abs(unwrap(y)), below.multiply(below.prod(lengths, axis=-1), limit))
    singular, scale = below.expand_dims(singular, axis=(-2, -1)), xp.expand_dims(g, axis=(-2, -1))
    regular = _scaled(xp, xp.where(singular, eye, x), xp.multiply(g, y))
    if not below.any(singular):
        return regular
    matrix, adjugate = xp.where(singular, x, eye), xp.add(xp.zeros_like(x), eye)
    for k in range(1, n):  # Faddeev and LeVerrier's; loses digits for more than 30 rows
        adjugate = xp.matmul(matrix, adjugate)
        trace = xp.sum(xp.multiply(adjugate, eye), axis=(-2, -1), keepdims=True)
        adjugate = xp.subtract(xp.multiply(xp.multiply(trace, eye), 1.0 / k), adjugate)
    return xp.where(singular, xp.multiply(xp.matrix_transpose(adjugate), scale), regular)


def _slogdet(xp: Any, g: Any, y: Any, x: Any, /) -> Any:
    scale = g[1]
    if xp.isdtype(x.dtype, "complex floating"):  # the sign turns by the imaginary part of tr(x⁻¹ dx)
        turn = xp.astype(xp.imag(xp.multiply(g[0], y[0])), x.dtype)
        scale = xp.add(xp.astype(scale, x.dtype), xp.multiply(turn, 1j))
    return _scaled(xp, x, scale)


def _solve_a(xp: Any, g: Any, y: Any, a: Any, b: Any) -> Any:
    gb = _solve_b(xp, g, y, a, b)
    if b.ndim == 1:
        gb, y = xp.expand_dims(gb, axis=-1), xp.expand_dims(y, axis=-1)
    return xp.negative(xp.matmul(gb, xp.matrix_transpose(y)))


def _solve_b(xp: Any, g: Any, y: Any, a: Any, b: Any) -> Any:
    t = xp.matrix_transpose(a)
    if b.ndim > 1:
        return xp.linalg.solve(t, g)
    return xp.getitem_(xp.linalg.solve(t, xp.expand_dims(g, axis=-1)), (..., 0))


def _cholesky(xp: Any, g: Any, y: Any, x: Any, /, *, upper: bool = False) -> Any:
    low, g = (_h(xp, y), _h(xp, g)) if upper else (y, g)
    half = xp.subtract(xp.ones_like(x), xp.multiply(_eye(xp, x.shape[-1], x), 0.5))
    inner = xp.tril(xp.multiply(xp.matmul(_h(xp, low), g), half))
    inverse = xp.linalg.inv(low)
    return _symmetric(xp, _product(xp, _h(xp, inverse), inner, inverse))


def _gaps(xp: Any, values: Any) -> Any:
    """Return 1 / (values[j] - values[i]), and 0 where they are equal: only vectors have no derivative there."""
    return _inverse(xp, xp.subtract(xp.expand_dims(values, axis=-2), xp.expand_dims(values, axis=-1)))


def _inverse(xp: Any, x: Any) -> Any:
    """Return 1 / x, and 0 where x is."""
    zero = xp.astype(xp.equal(x, 0.0), x.dtype)
    return xp.divide(xp.subtract(1.0, zero), xp.add(x, zero))


def _diagonal(xp: Any, values: Any) -> Any:
    return xp.multiply(xp.expand_dims(values, axis=-1), _eye(xp, values.shape[-1], values))


def _eigh(xp: Any, g: Any, y: Any, x: Any, /) -> Any:
    values, vectors = y
    turn = xp.multiply(xp.matmul(_h(xp, vectors), g[1]), _gaps(xp, values))
    return _symmetric(xp, _product(xp, vectors, xp.add(turn, _diagonal(xp, g[0])), _h(xp, vectors)))


def _qr(xp: Any, g: Any, y: Any, x: Any, /, *, mode: str = "reduced") -> Any:
    q, r = y
    rows, columns = x.shape[-2:]
    if mode == "complete" and rows > columns:
        raise no_gradient("linalg.qr", f" in the mode 'complete' for matrices of shape {(rows, columns)}")
    if rows < columns:  # x = [a, b] and r = [u, v], with a = q u and b = q v
        (a, b), (u, _), (gu, gv) = (_split(xp, z, rows) for z in (x, r, g[1]))
        ga = _qr(xp, [xp.add(g[0], xp.matmul(b, _h(xp, gv))), gu], (q, u), a)
        return xp.concat([ga, xp.matmul(q, gv)], axis=-1)
    m = xp.subtract(xp.matmul(r, _h(xp, g[1])), xp.matmul(_h(xp, g[0]), q))
    low = xp.tril(m, k=-1)
    m = xp.add(xp.add(low, _h(xp, low)), xp.multiply(xp.astype(_real(xp, m), m.dtype), _eye(xp, columns, r)))
    return xp.matmul(xp.add(g[0], xp.matmul(q, m)), _h(xp, xp.linalg.inv(r)))


def _split(xp: Any, x: Any, columns: int) -> tuple[Any, Any]:
    return xp.getitem_(x, (..., slice(columns))), xp.getitem_(x, (..., slice(columns, None)))


def _svd(xp: Any, g: Any, y: Any, x: Any, /, *, full_matrices: bool = True) -> Any:
    u, s, vh = y
    if u.shape[-1] != s.shape[-1] or vh.shape[-2] != s.shape[-1]:
        raise no_gradient("linalg.svd", " with full_matrices=True unless matrices are square")
    v, gv = _h(xp, vh), _h(xp, g[2])
    gaps, inverse = _gaps(xp, xp.square(s)), _inverse(xp, s)

    def skew(inner: Any) -> Any:
        return xp.multiply(xp.subtract(inner, _h(xp, inner)), gaps)

    turn = xp.matmul(_h(xp, u), g[0])
    core = xp.add(_columns(xp, skew(turn), s), xp.multiply(xp.expand_dims(s, axis=-1), skew(xp.matmul(vh, gv))))
    core = xp.add(core, _diagonal(xp, g[1]))
    if xp.isdtype(x.dtype, "complex floating"):  # the phases of u and v turn together
        phases = xp.multiply(_eye(xp, s.shape[-1], s), xp.expand_dims(inverse, axis=-1))
        core = xp.add(core, xp.multiply(xp.multiply(xp.imag(turn), phases), 1j))
    result = _product(xp, u, core, vh)
    if u.shape[-2] > s.shape[-1]:  # the part of the cotangent outside the columns of u
        outside = xp.subtract(g[0], _product(xp, u, _h(xp, u), g[0]))
        result = xp.add(result, xp.matmul(_columns(xp, outside, inverse), vh))
    if v.shape[-2] > s.shape[-1]:
        outside = xp.subtract(gv, _product(xp, v, vh, gv))
        result = xp.add(result, xp.matmul(_columns(xp, u, inverse), _h(xp, outside)))
    return result


def _eig(xp: Any, g: Any, y: Any, x: Any, /) -> Any:
    values, vectors = y
    h = _h(xp, vectors)
    turn = xp.matmul(h, g[1])
    length = xp.multiply(xp.astype(_real(xp, turn), turn.dtype), _eye(xp, turn.shape[-1], turn))  # stays 1
    turn = xp.multiply(xp.subtract(turn, _product(xp, h, vectors, length)), _conj(xp, _gaps(xp, values)))
    return xp.linalg.solve(h, xp.matmul(xp.add(turn, _diagonal(xp, g[0])), h))


def _pinv(xp: Any, g: Any, y: Any, x: Any, /, *, rtol: Any = None) -> Any:
    yh, gh = _h(xp, y), _h(xp, g)
    left = xp.subtract(gh, _product(xp, x, y, gh))
    right = xp.subtract(gh, _product(xp, gh, y, x))
    result = xp.add(_product(xp, left, y, yh), _product(xp, yh, y, right))
    return xp.subtract(result, _product(xp, yh, g, yh))


def _vector_norm(xp: Any, x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    how = {"axis": axis, "keepdims": keepdims}
    if ord == 2:
        return xp.sqrt(xp.sum(xp.square(xp.abs(x)), **how))
    if ord == 0:
        return xp.sum(xp.astype(xp.not_equal(x, 0.0), xp.abs(x).dtype), **how)
    if abs(ord) == math.inf:
        return (xp.max if ord > 0 else xp.min)(xp.abs(x), **how)
    return xp.pow(xp.sum(xp.pow(xp.abs(x), ord), **how), 1.0 / ord)


def _matrix_norm(xp: Any, x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    if ord == "fro":
        return _vector_norm(xp, x, axis=(-2, -1), keepdims=keepdims)
    if ord in ("nuc", 2, -2):
        values = xp.linalg.svdvals(x)
        values = xp.expand_dims(values, axis=-1) if keepdims else values
        pick = {"nuc": xp.sum, 2: xp.max, -2: xp.min}[ord]
        return pick(values, axis=-2 if keepdims else -1, **({"keepdims": True} if keepdims else {}))
    axis = -2 if abs(ord) == 1 else -1
    sums = xp.sum(xp.abs(x), axis=axis, keepdims=True)
    return (xp.max if ord > 0 else xp.min)(sums, axis=(-2, -1), keepdims=keepdims)


def _matrix_power(xp: Any, x: Any, n: int, /) -> Any:
    if n < 0:
        return _matrix_power(xp, xp.linalg.inv(x), -n)
    if n == 0:
        return xp.add(xp.zeros_like(x), _eye(xp, x.shape[-1], x))
    if n == 1:
        return x
    half = _matrix_power(xp, x, n // 2)
    return _product(xp, half, half, x) if n % 2 else xp.matmul(half, half)


ELEMENTWISE: dict[str, Any] = {"linalg.solve": (Pullback(_solve_a), Pullback(_solve_b))}
GENERAL: dict[str, Any] = {
    "linalg.cholesky": (_conjugated(_cholesky),),
    "linalg.det": (_det,),
    "linalg.eig": (_conjugated(_eig),),
    "linalg.eigh": (_conjugated(_eigh),),
    "linalg.inv": (_inv,),
    "linalg.pinv": (_conjugated(_pinv),),
    "linalg.qr": (_conjugated(_qr),),
    "linalg.slogdet": (_slogdet,),
    "linalg.svd": (_conjugated(_svd),),
}
DEFINED: dict[str, Any] = {
    "linalg.eigvals": lambda xp, x, /: xp.linalg.eig(x)[0],
    "linalg.eigvalsh": lambda xp, x, /: xp.linalg.eigh(x)[0],
    "linalg.matrix_norm": _matrix_norm,
    "linalg.matrix_power": _matrix_power,
    "linalg.svdvals": lambda xp, x, /: xp.linalg.svd(x, full_matrices=False)[1],
    "linalg.vector_norm": _vector_norm,
}
