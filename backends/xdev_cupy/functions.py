"""The functions that kernels and optimizers are made of; who records them gives another module of these names.

Requirements: half precision is computed in float32 (`S`, the wide type of a kernel); nothing waits for the device.
Kernels of one result make it themselves, or write into what they get beside their operands; reductions take `out=`.
"""

from __future__ import annotations

from typing import Any

from cupy import ElementwiseKernel, ReductionKernel, add, array, copyto, empty, matmul, multiply, reshape, zeros

__all__ = [
    "adamw", "add", "array", "attend", "cast", "centred", "copyto", "count_up", "cross_entropy", "cross_entropy_back",
    "empty", "exp_sum", "factors", "gelu", "gelu_tanh", "inverse_deviation", "log_softmax", "log_softmax_back",
    "matmul", "momentum", "multiply", "normal", "normal_back", "product_mean", "product_sum", "relu_back", "reshape",
    "row_max", "row_max_finite", "row_mean", "row_sum", "select", "sgd", "sigmoid", "sigmoid_back", "silu",
    "silu_back", "softmax", "softmax_back", "square_mean", "sum_by_place", "weighted_mean", "zeros",
]  # fmt: skip

_WIDE = """
template <typename T> struct xdev_wide { typedef float type; };
template <> struct xdev_wide<double> { typedef double type; };
"""


def _each(name: str, inputs: str, outputs: str, code: str) -> Any:
    """Return an elementwise kernel that computes in S, the wide type of X."""
    code = f"typedef xdev_wide<X>::type S; {code}"
    return ElementwiseKernel(inputs, outputs, code, f"xdev_{name}", preamble=_WIDE)


def _reduce(name: str, inputs: str, each: str, join: str, end: str, identity: str) -> Any:
    """Return a reduction in the type of its result, Y, which is the wide one."""
    return ReductionKernel(inputs, "Y y", each, join, end, identity, f"xdev_{name}")


def cast(x: Any, dtype: Any) -> Any:
    """Return an array in a dtype; the same one if it has it."""
    return x if x.dtype == dtype else x.astype(dtype)


select = ElementwiseKernel("bool c, X x, Y y", "T z", "z = c ? T(x) : T(y);", "xdev_select")

sum_by_place = ElementwiseKernel(
    "raw I places, raw int64 order, raw X rows, int64 count, int64 width",
    "X y",
    # Places are in order: each element of the result finds where its own begin, and adds their rows as they came.
    """
    const long long place = i / width, column = i % width;
    long long low = 0, high = count;
    while (low < high) {
        const long long middle = (low + high) / 2;
        if ((long long)places[middle] < place) low = middle + 1; else high = middle;
    }
    X sum = X(0);
    for (; low < count && (long long)places[low] == place; ++low) sum += rows[order[low] * width + column];
    y = sum;
    """,
    "xdev_sum_by_place",
)

# -- activations -------------------------------------------------------------------------------------------------

relu_back = ElementwiseKernel("G g, Y y", "G z", "z = y > Y(0) ? g : G(g * G(0));", "xdev_relu_back")
gelu = _each(
    "gelu",
    "X x",
    "X y, W slope",
    """
    const S a = S(x), near = min(max(a, S(-40)), S(40));
    const S cdf = S(0.5) * erfc(near * S(-0.70710678118654752440));
    y = X(a * cdf);
    slope = a == a ? W(cdf + near * S(0.39894228040143267794) * exp(S(-0.5) * near * near)) : W(a);
    """,
)
gelu_tanh = _each(
    "gelu_tanh",
    "X x",
    "X y, W slope",
    """
    const S root = S(0.79788456080286535588), c = S(0.044715), a = S(x), near = min(max(a, S(-40)), S(40));
    const S cdf = S(0.5) * (S(1) + tanh(root * near * (S(1) + c * near * near)));
    y = X(a * cdf);
    slope = a == a ? W(cdf + near * cdf * (S(1) - cdf) * S(2) * root * (S(1) + S(3) * c * near * near)) : W(a);
    """,
)
_SIGMOID = "const S a = S(x), e = exp(-abs(a)), p = (a >= S(0) ? S(1) : e) / (S(1) + e);"
sigmoid = _each("sigmoid", "X x", "X y", f"{_SIGMOID} y = X(p);")
sigmoid_back = _each("sigmoid_back", "G g, X y", "G z", "const S p = S(y); z = G(S(g) * p * (S(1) - p));")
silu = _each("silu", "X x", "X y, W s", f"{_SIGMOID} y = X(a * p); s = W(p);")
silu_back = _each(
    "silu_back", "G g, W s, X x", "G z", "const S p = S(s); z = G(S(g) * p * (S(1) + S(x) * (S(1) - p)));"
)

# -- rows --------------------------------------------------------------------------------------------------------

_MEAN = "y = a / Y(_in_ind.size() / _out_ind.size())"
_LARGER = "(a > b || a != a) ? a : b"
row_max = _reduce("row_max", "X x", "Y(x)", _LARGER, "y = a", "-INFINITY")
row_max_finite = _reduce("row_max_finite", "X x", "Y(x)", _LARGER, "y = isfinite(a) ? a : Y(0)", "-INFINITY")
row_sum = _reduce("row_sum", "X x", "Y(x)", "a + b", "y = a", "0")
row_mean = _reduce("row_mean", "X x", "Y(x)", "a + b", _MEAN, "0")
square_mean = _reduce("square_mean", "X x", "Y(x) * Y(x)", "a + b", _MEAN, "0")
exp_sum = _reduce("exp_sum", "X x, M m", "exp(Y(x) - Y(m))", "a + b", "y = a", "0")
product_sum = _reduce("product_sum", "G g, X x", "Y(g) * Y(x)", "a + b", "y = a", "0")
product_mean = _reduce("product_mean", "G g, X x", "Y(g) * Y(x)", "a + b", _MEAN, "0")
weighted_mean = _reduce("weighted_mean", "G g, X x, W w", "Y(g) * Y(x) * Y(w)", "a + b", _MEAN, "0")

# -- softmax and losses ------------------------------------------------------------------------------------------

softmax = _each(
    "softmax", "X x, M m, W sum, bool empty", "Y y", "y = empty && sum == W(0) ? Y(0) : Y(exp(S(x) - S(m)) / S(sum));"
)
softmax_back = _each(
    "softmax_back", "G g, X y, W inner, float64 scale", "Z z", "z = Z((S(g) - S(inner)) * S(y) * S(scale));"
)
log_softmax = _each("log_softmax", "X x, M m, W sum", "Y y", "y = Y(S(x) - S(m) - log(S(sum)));")
log_softmax_back = _each("log_softmax_back", "G g, X y, W sum", "Z z", "z = Z(S(g) - exp(S(y)) * S(sum));")
cross_entropy = _each(
    "cross_entropy",
    "X x, W m, W sum, L label, int64 width",
    "W p, raw W each",
    # A label out of range makes both NaN.
    """
    const S shifted = S(x) - S(m), nothing = S(0) / S(0);
    const bool known = label >= L(0) && (long long)label < width;
    const long long column = i % width;
    p = W(known ? exp(shifted) / S(sum) : nothing);
    if (column == (known ? (long long)label : 0)) each[i / width] = W(known ? log(S(sum)) - shifted : nothing);
    """,
)
cross_entropy_back = _each(
    "cross_entropy_back",
    "G g, X p, L label, int64 width, float64 share",
    "Z z",
    "z = Z((S(p) - ((long long)label == i % width ? S(1) : S(0))) * (S(g) * S(share)));",
)

# -- normalisation -----------------------------------------------------------------------------------------------

inverse_deviation = _reduce(
    "inverse_deviation",
    "X x, M m, float64 eps",
    "(Y(x) - Y(m)) * (Y(x) - Y(m))",
    "a + b",
    "y = Y(1) / sqrt(a / Y(_in_ind.size() / _out_ind.size()) + Y(eps))",
    "0",
)
normal = _each(
    "normal",
    "X x, N m, N inverse, W w, B b, bool scales, bool shifts",
    "X y, N n",
    """
    const S a = (S(x) - S(m)) * S(inverse);
    n = N(a);
    y = X((scales ? a * S(w) : a) + (shifts ? S(b) : S(0)));
    """,
)
normal_back = _each(
    "normal_back",
    "G g, X n, X inverse, W w, bool scales, X along, X across",
    "X z",
    "z = X(((scales ? S(g) * S(w) : S(g)) - S(n) * S(along) - S(across)) * S(inverse));",
)
centred = ElementwiseKernel("X x, Y t", "Z z", "z = Z(x) - Z(t);", "xdev_centred")

# -- attention ---------------------------------------------------------------------------------------------------

attend = _each(
    "attend",
    "X x, M mask, bool free, bool adds, bool causal, int64 length, int64 source, float64 scale",
    "Y y",
    """
    const bool seen = (free || adds || mask != M(0)) && !(causal && i % source > i / source % length);
    y = seen ? Y(S(x) * S(scale) + (adds ? S(mask) : S(0))) : Y(-INFINITY);
    """,
)

# -- optimizers --------------------------------------------------------------------------------------------------

count_up = ElementwiseKernel("int32 step", "C count", "count += step;", "xdev_count_up")
factors = ElementwiseKernel(
    "int32 step, float64 rate, float64 b1, float64 b2, float64 eps, float64 decay",
    "C count, raw T c",
    """
    count += step;
    const double n = count, root = sqrt(-expm1(n * log(b2)));
    c[0] = T(1 - b1); c[1] = T(1 - b2); c[2] = T(eps * root);
    c[3] = T(rate * root / -expm1(n * log(b1))); c[4] = T(1 - rate * decay);
    """,
    "xdev_adamw_factors",
)
adamw = ElementwiseKernel(
    "G g, raw T c",
    "T p, T m, T v",
    """
    const T d = T(g);
    m += c[0] * (d - m);
    v += c[1] * (d * d - v);
    p = p * c[4] - m / (sqrt(v) + c[2]) * c[3];
    """,
    "xdev_adamw",
)
sgd = ElementwiseKernel("G g, float64 rate, float64 decay", "T p", "p -= T(rate) * (T(g) + T(decay) * p);", "xdev_sgd")
momentum = ElementwiseKernel(
    "G g, float64 rate, float64 decay, float64 momentum, bool nesterov",
    "T p, T v",
    """
    const T d = T(g) + T(decay) * p;
    v = T(momentum) * v + d;
    p -= T(rate) * (nesterov ? d + T(momentum) * v : v);
    """,
    "xdev_momentum",
)
