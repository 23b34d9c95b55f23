"""Words and probabilities to numbers, by inverting distribution functions in operations that all round alike.

Requirements: elementwise. Compilers contract `a * b + c` into one operation that rounds once. `minus_log32` and
`minus_log64` give the same bits in spite of that, since a sum takes a product `apart` or one that is exact, and so does
`quantile` but for the framework's own logarithm in the tails. `deviate`, which must be fast, lets them contract and
stays within 4 units in the last place.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["apart", "deviate", "minus_log32", "minus_log64", "quantile"]


def apart(xp: Any, product: Any) -> Any:
    """Return a product, of what stays far below 1e30, so that no compiler contracts it with the sum that follows."""
    return xp.minimum(product, 1e30)


# Polynomials, highest power first, fitted by reweighted least squares in float64:
# log(m) in m - 3/4 on [1/2, 1], absolute error 3e-8;
_LOG = (
    -1.6127866101737247,
    1.3112176149679131,
    -0.9129027593356077,
    0.8309537207085463,
    -0.7907394777544262,
    0.790334038746158,
    -0.8888831532288138,
    1.3333323319182884,
    -0.287682081297176,
)
# √2 erfinv(x) / x in w - 5/2 with w = -log(1 - x²) below 5, relative error 6e-9;
_CENTRAL = (
    -1.243237356988539e-08,
    3.2855890256742004e-08,
    6.592640786971233e-07,
    -4.897003658851988e-06,
    -7.019230209165148e-06,
    0.00030878566608582387,
    -0.00177164456075857,
    -0.005907717039383572,
    0.3488020377085169,
    2.1233134785708883,
)
# the same in √w - 3 from there to |x| = 1 - 2**-31, relative error 9e-8.
_TAIL = (
    6.420435651650345e-05,
    -0.00025541234190444573,
    -1.3643652408810777e-05,
    0.00186143550128026,
    -0.005078928700265874,
    0.008145742384879756,
    -0.01080939867776682,
    0.013342508854770055,
    1.416582902675891,
    4.006434573556967,
)


# (log(1 + f) - f) / f² on √½ - 1 <= f <= √2 - 1, relative error of the logarithm 5e-9.
_LOG_NEAR_1 = (
    -0.0763075913080984,
    0.1291072441205716,
    -0.13242629260131056,
    0.14180871313925106,
    -0.16609003321245347,
    0.20002018059085916,
    -0.25001587967268535,
    0.3333332509271169,
    -0.499999882811102,
)
# (log(1 + f) - 2 s) / s in s² with s = f / (2 + f), of fdlibm.
_LOG_OF_RATIO = (
    1.479819860511658591e-01,
    1.531383769920937332e-01,
    1.818357216161805012e-01,
    2.222219843214978396e-01,
    2.857142874366239149e-01,
    3.999999999940941908e-01,
    6.666666666666735130e-01,
)
# log(2) in two parts, of which the first has few bits: its product with an exponent is exact.
_LOG_2_SINGLE = (0.693359375, math.log(2.0) - 0.693359375)
_LOG_2_DOUBLE = (6.93147180369123816490e-01, 1.90821492927058770002e-10)

# The rational functions of AS241: numerator and denominator in 0.180625 - (p - ½)² near the middle,
_MIDDLE = (
    (
        2.5090809287301226727e3,
        3.3430575583588128105e4,
        6.7265770927008700853e4,
        4.5921953931549871457e4,
        1.3731693765509461125e4,
        1.9715909503065514427e3,
        1.3314166789178437745e2,
        3.3871328727963666080e0,
    ),
    (
        5.2264952788528545610e3,
        2.8729085735721942674e4,
        3.9307895800092710610e4,
        2.1213794301586595867e4,
        5.3941960214247511077e3,
        6.8718700749205790830e2,
        4.2313330701600911252e1,
        1.0,
    ),
)
# in √-log(p) - 1.6 from there to p = 1.4e-11,
_SIDE = (
    (
        7.74545014278341407640e-4,
        2.27238449892691845833e-2,
        2.41780725177450611770e-1,
        1.27045825245236838258e0,
        3.64784832476320460504e0,
        5.76949722146069140550e0,
        4.63033784615654529590e0,
        1.42343711074968357734e0,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        1.51986665636164571966e-2,
        1.48103976427480074590e-1,
        6.89767334985100004550e-1,
        1.67638483018380384940e0,
        2.05319162663775882187e0,
        1.0,
    ),
)
# and in √-log(p) - 5 beyond.
_FAR = (
    (
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        1.24266094738807843860e-3,
        2.65321895265761230930e-2,
        2.96560571828504891230e-1,
        1.78482653991729133580e0,
        5.46378491116411436990e0,
        6.65790464350110377720e0,
    ),
    (
        2.04426310338993978564e-15,
        1.42151175831644588870e-7,
        1.84631831751005468180e-5,
        7.86869131145613259100e-4,
        1.48753612908506148525e-2,
        1.36929880922735805310e-1,
        5.99832206555887937690e-1,
        1.0,
    ),
)


def _polynomial(v: Any, coefficients: tuple[float, ...]) -> Any:
    value = v * coefficients[0]
    for coefficient in coefficients[1:-1]:
        value += coefficient
        value *= v
    value += coefficients[-1]
    return value


def _polynomial_apart(xp: Any, v: Any, coefficients: tuple[float, ...]) -> Any:
    value = apart(xp, v * coefficients[0])
    for coefficient in coefficients[1:-1]:
        value += coefficient
        value = apart(xp, value * v)
    value += coefficients[-1]
    return value


def deviate(xp: Any, word: Any) -> Any:
    """Return the float32 number below which a standard normal one lies with probability 1/2 + word / 2**32.

    Words are odd. The logarithms of frameworks differ by some units in the last place. Here theirs only find the
    binary exponent, where a neighbouring one does as well; the rest are operations that all of them round alike.

    References
    ----------
    M. Giles, "Approximating the erfinv function", GPU Computing Gems (2011).
    """
    x = xp.astype(word, xp.float32)
    word = xp.abs(word)
    word ^= 0x7FFFFFFE  # 2**31 - |word|, so that 1 - |x| has its full precision in the tails
    rest = xp.astype(word, xp.float32)
    square = xp.abs(x)
    square *= 2.0**-62
    square += 2.0**-31
    square *= rest  # 1 - x² = (1 - |x|)(1 + |x|)
    exponent = xp.astype(xp.log(square) * (-1.0 / math.log(2.0)), xp.int32)
    square *= xp.astype(xp.ones_like(exponent) << exponent, xp.float32)
    square -= 0.75
    w = xp.astype(exponent, xp.float32)
    w *= math.log(2.0)
    w -= _polynomial(square, _LOG)
    value = xp.where(w < 5.0, _polynomial(w - 2.5, _CENTRAL), _polynomial(xp.sqrt(w) - 3.0, _TAIL))
    x *= 2.0**-31
    value *= x
    return value


def _split(xp: Any, q: Any, lost: Any, steps: tuple[int, ...]) -> tuple[Any, Any]:
    """Return (k, f) such that q is 2**-k (1 + f), with f from √½ - 1 to √2 - 1; all of it is exact.

    Frameworks have no common function for the exponent, and their logarithms round differently next to a power.
    """
    exponent = xp.zeros_like(q)
    for step in steps:
        small = q < 1.4140625 * 2.0**-step
        q = xp.where(small, q * 2.0**step, q)
        exponent += xp.astype(small, q.dtype) * float(step)
    return exponent, xp.where(exponent == 0.0, -lost, q - 1.0)


def minus_log32(xp: Any, q: Any, lost: Any) -> Any:
    """Return -log(q) of float32 numbers from 2**-31 to 1, where `lost` is 1 - q with its full precision."""
    exponent, f = _split(xp, q, lost, (16, 8, 4, 2, 1))
    log = apart(xp, f * _polynomial_apart(xp, f, _LOG_NEAR_1))
    log += 1.0
    log = apart(xp, log * f)
    return exponent * _LOG_2_SINGLE[0] + (apart(xp, exponent * _LOG_2_SINGLE[1]) - log)


def minus_log64(xp: Any, q: Any, lost: Any) -> Any:
    """Return -log(q) of float64 numbers from 2**-53 to 1, where `lost` is 1 - q.

    References
    ----------
    Sun Microsystems, fdlibm 5.3 (1993), e_log.c.
    """
    exponent, f = _split(xp, q, lost, (32, 16, 8, 4, 2, 1))
    s = f / (f + 2.0)
    z = s * s
    log = f - apart(xp, s * (f - apart(xp, z * _polynomial_apart(xp, z, _LOG_OF_RATIO))))
    return exponent * _LOG_2_DOUBLE[0] + (apart(xp, exponent * _LOG_2_DOUBLE[1]) - log)


def quantile(xp: Any, p: Any) -> Any:
    """Return the float64 number below which a standard normal one lies with probability p, between 0 and 1.

    References
    ----------
    M. J. Wichura, "Algorithm AS 241: The percentage points of the normal distribution", Applied Statistics 37
    (1988), 477-484.
    """
    q = p - 0.5
    middle = q * _ratio(xp, 0.180625 - apart(xp, q * q), _MIDDLE)
    r = xp.sqrt(-xp.log(xp.where(q < 0.0, p, 1.0 - p)))
    tail = xp.where(r <= 5.0, _ratio(xp, r - 1.6, _SIDE), _ratio(xp, r - 5.0, _FAR))
    return xp.where(xp.abs(q) <= 0.425, middle, xp.where(q < 0.0, -tail, tail))


def _ratio(xp: Any, v: Any, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Any:
    above, under = coefficients
    return _polynomial_apart(xp, v, above) / _polynomial_apart(xp, v, under)
