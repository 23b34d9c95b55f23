"""What the table of coverage says beside the cases of `cases`: functions that are flat, that pass through, and what
a framework does not do.

`FLAT` and `VALUES` map a name to a call of it, a function of a namespace and an array of five floats. Those of `FLAT`
have results that no gradient flows to, those of `VALUES` make or tell something.
"""

from __future__ import annotations

import operator

from .cases import CASES
from .derivatives import flat_orders, orders, passes
from .standard import FUNCTIONS, INSPECTION, METHODS, OPERATORS

__all__ = ["COMPLETE", "FLAT", "FRAMEWORKS", "REASONS", "ROWS", "VALUES", "cell"]

FRAMEWORKS = {"numpy": "NumPy", "cupy": "CuPy", "strict": "strict", "torch": "torch", "jax": "JAX"}


def _ints(xp, x):
    return xp.astype(xp.abs(x) * 10.0, xp.int64)


def _named(name):
    return lambda xp, x: getattr(xp, name)(x)


def _with_reversed(name):
    return lambda xp, x: getattr(xp, name)(x, xp.flip(x))


def _of_bits(name):
    return lambda xp, x: getattr(xp, name)(_ints(xp, x), xp.flip(_ints(xp, x)) % 4)


def _of_signs(name):
    return lambda xp, x: getattr(xp, name)(x > 0.0, xp.flip(x) > 0.0)


def _operator(name):
    """Return a call of an operator with the array on the left, on the right, and in place."""
    f, in_place = getattr(operator, f"__{name}__"), getattr(operator, f"__i{name}__")

    def call(xp, x):
        x, y = (x, xp.flip(x)) if name == "floordiv" else (_ints(xp, x), xp.flip(_ints(xp, x)) % 4)
        return xp.concat([f(x, y), f(3, y + 1), in_place(x + 0, y)])

    return call


def _comparison(name):
    compare = getattr(operator, name)
    return lambda xp, x: xp.concat([compare(x, xp.flip(x)), compare(0.5, x)])


FLAT = {
    **{name: _named(name) for name in ("argmax", "argmin", "argsort", "ceil", "count_nonzero", "floor", "isfinite")},
    **{name: _named(name) for name in ("isinf", "isnan", "round", "signbit", "trunc", "ones_like", "zeros_like")},
    **{name: _with_reversed(name) for name in ("equal", "floor_divide", "greater", "greater_equal", "less")},
    **{name: _with_reversed(name) for name in ("less_equal", "not_equal", "nextafter")},
    **{name: _of_bits(name) for name in ("bitwise_and", "bitwise_or", "bitwise_xor")},
    **{name: _of_bits(name) for name in ("bitwise_left_shift", "bitwise_right_shift")},
    **{name: _of_signs(name) for name in ("logical_and", "logical_or", "logical_xor")},
    "all": lambda xp, x: xp.all(x > -9.0),
    "any": lambda xp, x: xp.any(x > 9.0),
    "bitwise_invert": lambda xp, x: xp.bitwise_invert(_ints(xp, x)),
    "empty_like": lambda xp, x: xp.zeros_like(xp.empty_like(x)),
    "isin": lambda xp, x: xp.isin(_ints(xp, x), _ints(xp, x)[:2]),
    "linalg.matrix_rank": lambda xp, x: xp.linalg.matrix_rank(xp.reshape(x[:4], (2, 2))),
    "logical_not": lambda xp, x: xp.logical_not(x > 0.0),
    "nonzero": lambda xp, x: xp.nonzero(x)[0],
    "searchsorted": lambda xp, x: xp.searchsorted(xp.sort(x), x),
    "unique_all": lambda xp, x: xp.unique_all(x).values,
    "unique_counts": lambda xp, x: xp.unique_counts(x).values,
    "unique_inverse": lambda xp, x: xp.unique_inverse(x).values,
    "unique_values": lambda xp, x: xp.unique_values(x),
    **{f"__{name}__": _operator(name) for name in ("and", "or", "xor", "lshift", "rshift", "floordiv")},
    **{f"__{name}__": _comparison(name) for name in ("eq", "ge", "gt", "le", "lt", "ne")},
    "__invert__": lambda xp, x: ~_ints(xp, x),
}

VALUES = {
    "__array_namespace_info__": lambda xp, x: ([hasattr(xp.__array_namespace_info__(), name) for name in INSPECTION]),
    "__bool__": lambda xp, x: bool(x[1] > 0.0),
    "__complex__": lambda xp, x: complex(x[1]),
    "__float__": lambda xp, x: float(x[1]),
    "__index__": lambda xp, x: operator.index(xp.astype(x[1] * 0.0 + 3.0, xp.int64)),
    "__int__": lambda xp, x: int(x[1] * 10.0),
    "arange": lambda xp, x: xp.arange(3),
    "asarray": lambda xp, x: xp.asarray([1.0, 2.0]),
    "broadcast_shapes": lambda xp, x: list(xp.broadcast_shapes((3, 1), x.shape)),
    "can_cast": lambda xp, x: xp.can_cast(xp.float32, x.dtype),
    "empty": lambda xp, x: list(xp.empty((2, 3)).shape),
    "eye": lambda xp, x: xp.eye(2, 3),
    "fft.fftfreq": lambda xp, x: xp.fft.fftfreq(5),
    "fft.rfftfreq": lambda xp, x: xp.fft.rfftfreq(5),
    "finfo": lambda xp, x: float(xp.finfo(x.dtype).eps),
    "from_dlpack": lambda xp, x: xp.from_dlpack(xp.ones((3,))),
    "full": lambda xp, x: xp.full((3,), 2.0),
    "full_like": lambda xp, x: xp.full_like(x, 2.0),
    "iinfo": lambda xp, x: int(xp.iinfo(xp.int32).max),
    "isdtype": lambda xp, x: xp.isdtype(x.dtype, "real floating"),
    "linspace": lambda xp, x: xp.linspace(0.0, 1.0, 3),
    "ones": lambda xp, x: xp.ones((3,)),
    "result_type": lambda xp, x: xp.result_type(x, xp.float32) == x.dtype,
    "zeros": lambda xp, x: xp.zeros((3,)),
}

ROWS = {
    **FUNCTIONS,
    "Arrays": (
        "T",
        "mT",
        *(name for name in METHODS if name not in ("__array_namespace__", "__dlpack__", "__dlpack_device__")),
        *OPERATORS,
    ),
}
"""The rows of the table; of an array, what is more than its shape."""

DETACHED = "torch makes a new tensor of the values, without a word"
REFUSED = "NoGradientRule: the framework has no derivative, not even zero"
REASONS = {
    ("asarray", "torch"): f"of a list of tensors; {DETACHED}: use `xp.stack`",
    ("full", "torch"): "takes numbers only: use `xp.broadcast_to`",
    ("full_like", "torch"): "takes numbers only: use `xp.broadcast_to`",
    ("linspace", "torch"): f"between tensors; {DETACHED}",
    ("floor_divide", "torch"): REFUSED,
    ("nextafter", "torch"): "torch takes the derivative by the first argument for one",
    ("nextafter", "jax"): REFUSED,
    ("unique_all", "torch"): "not in torch",
    ("unique_counts", "torch"): REFUSED,
    ("unique_inverse", "torch"): REFUSED,
    ("unique_values", "torch"): REFUSED,
    ("__floordiv__", "torch"): REFUSED,
    ("__mod__", "torch"): "but for a number modulo a tensor: NoGradientRule",
    ("__getitem__", "torch"): "but for negative steps, which torch has not",
    ("__setitem__", "torch"): "but where an index stands twice: torch sends the gradient to all of its values",
    ("__setitem__", "strict"): "but for arrays of integers as indices, which the standard has not",
    ("__float__", "jax"): "TracedValueError, which says how: `float(xdev.stop_gradient(x))`",
    ("__complex__", "jax"): "TracedValueError, which says how: `complex(xdev.stop_gradient(x))`",
    ("__index__", "cupy"): "not in CuPy",
    ("sign", "jax"): "JAX takes the derivative of a complex sign for zero, which it is not",
    ("linalg.det", "torch"): "but for second derivatives of singular complex matrices, which are wrong",
    ("linalg.eig", "jax"): "NoGradientRule: only eigenvalues have derivatives, and only first ones",
    ("linalg.eigvals", "jax"): "NoGradientRule: first derivatives only",
    ("linalg.eig", "cupy"): "not run: the emulated GPU of the tests has no such solver",
    ("linalg.eigvals", "cupy"): "not run: the emulated GPU of the tests has no such solver",
}
"""Why a cell of the table is not complete, by function and framework."""
CALLED = {"__getitem__": "getitem_", "__setitem__": "setitem_", "to_device": "to_device_"}
"""Under which names of `cases` methods are."""
COMPLETE = {"v 1 2", "v 0 0", "v"}


def cell(name, device, most=None):
    """Return what the table says of a function on a device: what is right of value, first and second derivative.

    `most` limits how many calls of `cases` are tried.
    """
    case = CALLED.get(name, name)
    if CASES.get(case):
        counts = {orders(case, k, device) for k in range(len(CASES[case][:most]))}
        if name in VALUES and 0 in counts and passes(VALUES[name], device):
            counts = counts - {0} | {1}
        return "part" if len(counts) > 1 else ("–", "v – –", "v 1 –", "v 1 2")[counts.pop()]
    if name in FLAT:
        try:
            count = flat_orders(FLAT[name], device)
        except Exception:  # noqa: BLE001  whatever a framework raises is what happens
            count = 0
        return ("–", "v – –", "v 0 –", "v 0 0")[count]
    return "v" if passes(VALUES[name], device) else "–"
