"""Elementwise functions: one partial derivative per argument, or the cotangent itself.

Cotangents are not conjugated: the gradient of a real loss is d/dRe(x) - i d/dIm(x), as JAX has it.
"""

from __future__ import annotations

import cmath
import math
from typing import Any

from ..record import NEG_ONE, ONE, Pullback

__all__ = ["DEFINED", "ELEMENTWISE"]


def _is_complex(xp: Any, x: Any) -> bool:
    return xp.isdtype(x.dtype, "complex floating")  # type: ignore[no-any-return]


def _inverse_root(xp: Any, x: Any, sign: float) -> Any:
    """Return (1 + sign x²)^(-1/2)."""
    return xp.reciprocal(xp.sqrt(xp.add(xp.multiply(xp.square(x), sign), 1.0)))


def _abs(xp: Any, g: Any, y: Any, x: Any) -> Any:
    if not _is_complex(xp, x):
        return xp.multiply(g, xp.sign(x))
    size = xp.where(xp.equal(y, 0.0), xp.ones_like(y), y)
    return xp.multiply(xp.astype(xp.divide(g, size), x.dtype), xp.conj(x))


def _sign(xp: Any, g: Any, y: Any, x: Any) -> Any:
    if not _is_complex(xp, x):
        return xp.zeros_like(x)
    # y = x / |x|, so dy = (dx - y Re(conj(y) dx)) / |x|
    zero = xp.equal(x, 0.0)
    size = xp.astype(xp.where(zero, xp.ones_like(xp.real(x)), xp.abs(x)), x.dtype)
    turn = xp.subtract(g, xp.multiply(xp.astype(xp.real(xp.multiply(g, y)), x.dtype), xp.conj(y)))
    return xp.where(zero, xp.zeros_like(g), xp.divide(turn, size))


def _share(xp: Any, y: Any, x: Any, other: Any) -> Any:
    """Return 1 where `x` was chosen, 1/2 where both were, else 0."""
    return xp.multiply(xp.add(xp.astype(xp.equal(x, y), y.dtype), xp.astype(xp.not_equal(other, y), y.dtype)), 0.5)


def _weight(xp: Any, y: Any, x: Any) -> Any:
    """Return exp(x - y), and 1 where both are infinite."""
    same = xp.equal(x, y)
    return xp.exp(xp.subtract(xp.where(same, xp.zeros_like(y), x), xp.where(same, xp.zeros_like(y), y)))


def _pow_base(xp: Any, g: Any, y: Any, a: Any, b: Any) -> Any:
    if isinstance(b, (int, float, complex)):
        if b == 0:
            return xp.zeros_like(g)
        if b == 2:
            return xp.multiply(g, xp.multiply(a, 2.0))
        return xp.multiply(g, xp.multiply(xp.pow(a, b - 1), b))
    if not hasattr(a, "dtype"):
        a = xp.full_like(y, a)
    zero = xp.equal(b, 0)
    lower = xp.where(zero, xp.ones_like(b), xp.subtract(b, 1))
    return xp.multiply(g, xp.where(zero, xp.zeros_like(y), xp.multiply(xp.pow(a, lower), b)))


def _pow_exponent(xp: Any, g: Any, y: Any, a: Any, b: Any) -> Any:
    if not hasattr(a, "dtype"):
        if a == 0:
            return xp.zeros_like(g)
        log = cmath.log(a) if _is_complex(xp, y) else math.log(a) if a > 0 else math.nan
        return xp.multiply(g, xp.multiply(y, log))
    if not _is_complex(xp, y):
        zero = xp.equal(a, 0)  # 0**b is flat for b > 0
        log = xp.log(xp.astype(xp.where(zero, xp.ones_like(a), a), y.dtype))
    else:
        log = xp.log(xp.astype(a, y.dtype))
    return xp.multiply(g, xp.multiply(y, log))


def _times(xp: Any, g: Any, y: Any, a: Any, b: Any) -> Any:
    return xp.multiply(g, b)


ELEMENTWISE: dict[str, tuple[Any, ...]] = {
    # of one array
    "abs": (Pullback(_abs),),
    "acos": (lambda xp, y, x: xp.negative(_inverse_root(xp, x, -1.0)),),
    "acosh": (lambda xp, y, x: xp.reciprocal(xp.multiply(xp.sqrt(xp.subtract(x, 1.0)), xp.sqrt(xp.add(x, 1.0)))),),
    "asin": (lambda xp, y, x: _inverse_root(xp, x, -1.0),),
    "asinh": (lambda xp, y, x: _inverse_root(xp, x, 1.0),),
    "atan": (lambda xp, y, x: xp.reciprocal(xp.add(xp.square(x), 1.0)),),
    "atanh": (lambda xp, y, x: xp.reciprocal(xp.subtract(1.0, xp.square(x))),),
    "conj": (Pullback(lambda xp, g, y, x: xp.conj(g)),),
    "cos": (lambda xp, y, x: xp.negative(xp.sin(x)),),
    "cosh": (lambda xp, y, x: xp.sinh(x),),
    "exp": (lambda xp, y, x: y,),
    "expm1": (lambda xp, y, x: xp.add(y, 1.0),),
    "imag": (Pullback(lambda xp, g, y, x: xp.multiply(xp.astype(g, x.dtype), -1j)),),
    "log": (Pullback(lambda xp, g, y, x: xp.divide(g, x)),),
    "log10": (Pullback(lambda xp, g, y, x: xp.divide(xp.multiply(g, 1.0 / math.log(10.0)), x)),),
    "log1p": (Pullback(lambda xp, g, y, x: xp.divide(g, xp.add(x, 1.0))),),
    "log2": (Pullback(lambda xp, g, y, x: xp.divide(xp.multiply(g, 1.0 / math.log(2.0)), x)),),
    "negative": (NEG_ONE,),
    "positive": (ONE,),
    "real": (Pullback(lambda xp, g, y, x: xp.astype(g, x.dtype)),),
    "reciprocal": (lambda xp, y, x: xp.negative(xp.square(y)),),
    "sign": (Pullback(_sign),),
    "sin": (lambda xp, y, x: xp.cos(x),),
    "sinh": (lambda xp, y, x: xp.cosh(x),),
    "sqrt": (Pullback(lambda xp, g, y, x: xp.divide(xp.multiply(g, 0.5), y)),),
    "square": (lambda xp, y, x: xp.multiply(x, 2.0),),
    "tan": (lambda xp, y, x: xp.add(xp.square(y), 1.0),),
    "tanh": (lambda xp, y, x: xp.subtract(1.0, xp.square(y)),),
    # of two
    "add": (ONE, ONE),
    "atan2": (
        lambda xp, y, a, b: xp.divide(b, xp.add(xp.square(a), xp.square(b))),
        lambda xp, y, a, b: xp.divide(xp.negative(a), xp.add(xp.square(a), xp.square(b))),
    ),
    "copysign": (
        lambda xp, y, a, b: xp.multiply(xp.sign(a), xp.copysign(xp.ones_like(y), b)),
        lambda xp, y, a, b: xp.zeros_like(y),
    ),
    "divide": (
        Pullback(lambda xp, g, y, a, b: xp.divide(g, b)),
        Pullback(lambda xp, g, y, a, b: xp.negative(xp.divide(xp.multiply(g, y), b))),
    ),
    "hypot": (lambda xp, y, a, b: xp.divide(a, y), lambda xp, y, a, b: xp.divide(b, y)),
    "logaddexp": (lambda xp, y, a, b: _weight(xp, y, a), lambda xp, y, a, b: _weight(xp, y, b)),
    "maximum": (lambda xp, y, a, b: _share(xp, y, a, b), lambda xp, y, a, b: _share(xp, y, b, a)),
    "minimum": (lambda xp, y, a, b: _share(xp, y, a, b), lambda xp, y, a, b: _share(xp, y, b, a)),
    "multiply": (Pullback(_times), Pullback(lambda xp, g, y, a, b: xp.multiply(g, a))),
    "pow": (Pullback(_pow_base), Pullback(_pow_exponent)),
    "remainder": (ONE, lambda xp, y, a, b: xp.negative(xp.floor_divide(a, b))),
    "subtract": (ONE, NEG_ONE),
}


def _clip(xp: Any, x: Any, /, min: Any = None, max: Any = None) -> Any:
    if min is None and max is None:
        return xp.positive(x)
    kind = x.dtype
    for bound, pick in ((min, xp.maximum), (max, xp.minimum)):
        if bound is not None:
            x = pick(x, bound)
    return x if x.dtype == kind else xp.astype(x, kind)


DEFINED = {"clip": _clip}
