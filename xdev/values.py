"""Numbers of Python on their way to arrays: what a list of numbers is, and the dtype that it gets.

Requirements: NumPy only; a number is never changed on the way, other than by rounding to the float dtype in force.
"""

from __future__ import annotations

import difflib
from typing import Any, NoReturn

import numpy as np

from .contract import dtype_name
from .device import Device
from .errors import DTypeError, TransferError
from .floating import default_float

__all__ = [
    "NUMBERS",
    "check_numeric",
    "host_dtype",
    "host_values",
    "is_array_list",
    "is_text_list",
    "kind_of",
    "kind_rank",
    "numbers_as",
    "wanted_dtype",
]

NUMBERS = (bool, int, float, complex)
_LEAVES = (*NUMBERS, np.number, np.bool_)
_TEXT = (str, bytes, np.str_, np.bytes_)
_KINDS = {
    "bool": ("bool",),
    "integer": ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    "floating": (
        "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
        "float16", "bfloat16", "float32", "float64", "float96", "float128", "longdouble",
    ),
    "complex": ("complex32", "complex64", "complex128", "complex192", "complex256", "clongdouble"),
}  # fmt: skip
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
_NO_NUMBERS = (np.object_, np.flexible, np.datetime64, np.timedelta64)
_COMPLEX = {"float32": "complex64", "float64": "complex128"}


def kind_of(dtype: str) -> str | None:
    """Return bool, integer, floating or complex; None for what is no number, such as strings and dates."""
    return _KIND_OF.get(dtype)


def kind_rank(dtype: str) -> int:
    """Return the place of a dtype's kind in the order in which kinds take each other in: bool first, complex last."""
    kind = _KIND_OF.get(dtype)
    return len(_KINDS) if kind is None else list(_KINDS).index(kind)


def check_numeric(dtype: np.dtype, what: str) -> None:
    """Refuse strings, objects, dates and records, which NumPy has and no other framework."""
    if dtype.kind not in "biufc" and (dtype.kind == "T" or issubclass(dtype.type, _NO_NUMBERS)):
        refuse_dtype(dtype, what)


def refuse_dtype(dtype: Any, what: str) -> NoReturn:
    """Raise for a dtype that is none of numbers."""
    raise DTypeError(
        f"{what} has dtype {dtype}, which is none of numbers and cannot be moved; turn it into numbers first"
    )


def wanted_dtype(dtype: Any) -> str:
    """Return the name of a dtype that a caller asked for, or raise if there is none such."""
    name = dtype_name(dtype)
    if name in _KIND_OF:
        return name
    close = difflib.get_close_matches(name, _KIND_OF, 1)
    hint = f"; did you mean {close[0]!r}?" if close else '; write one such as "float32", "bfloat16" or "int64"'
    raise DTypeError(f"dtype={dtype!r} is no dtype of numbers{hint}")


def host_dtype(name: str) -> np.dtype:
    """Return NumPy's dtype of that name; those that NumPy lacks are ml_dtypes'."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        found: np.dtype = np.dtype(getattr(ml_dtypes, name))
        return found


def is_array_list(node: Any) -> bool:
    """Return whether a node of a tree is a (nested) list of numbers, or of strings, and so a leaf and no container."""
    return type(node) is list and _holds_values(node) and _first(node) is not None


def is_text_list(node: Any) -> bool:
    """Return whether a (nested) list or tuple begins with a string."""
    return isinstance(_first(list(node)), _TEXT)


def _holds_values(node: list[Any]) -> bool:
    if node and type(node[0]) is list:
        return all(type(child) is list and _holds_values(child) for child in node)
    return all(isinstance(child, _LEAVES) for child in node) or all(isinstance(child, _TEXT) for child in node)


def _first(node: Any) -> Any:
    """Return the first value in nested lists, or None if all are empty."""
    if type(node) is not list:
        return node
    return next((found for found in map(_first, node) if found is not None), None)


def host_values(obj: Any, path: Any) -> np.ndarray:
    """Return numbers of Python as a NumPy array; raise for what is no number."""
    what = str(path) if path is not None else "the argument"
    if isinstance(obj, list | tuple) and is_text_list(obj):
        raise TransferError(
            f"{what} is a list of strings, and only numbers can be moved; turn them into numbers first, as "
            "numpy.unique(x, return_inverse=True) does, or take them out of the tree"
        )
    if not isinstance(obj, (*_LEAVES, list, tuple)):
        kind = "masked array: fill it first, x.filled(0)" if isinstance(obj, np.ma.MaskedArray) else type(obj).__name__
        raise TransferError(
            f"{what} is a {kind}; arrays, numbers and lists of numbers can be moved. "
            "Take it out of the tree, or turn it into numbers first"
        )
    try:
        values = np.asarray(obj)
    except ValueError as error:
        raise TransferError(f"{what} is ragged: its rows differ in length; pad them to one length") from error
    except OverflowError as error:
        raise DTypeError(f"{what} has an integer beyond 64 bits") from error
    if values.dtype.kind == "O" and isinstance(_first(list(obj) if isinstance(obj, tuple) else obj), int):
        raise DTypeError(f"{what} has an integer beyond 64 bits; write it as a float if rounding is fine")
    if values.dtype.kind not in "biufc":
        raise TransferError(f"{what} is a list of objects that are no numbers; turn them into numbers first")
    if values.dtype.kind == "f" and values.size and np.max(np.abs(values)) >= 2.0**63 and _all_integers(obj):
        raise DTypeError(
            f"{what} has integers on both sides of what 64 bits hold; write them as floats if rounding is fine"
        )
    return values


def _all_integers(node: Any) -> bool:
    return all(map(_all_integers, node)) if isinstance(node, list | tuple) else isinstance(node, int | np.integer)


def numbers_as(values: np.ndarray, dtype: str | None, target: Device, path: Any) -> np.ndarray:
    """Return numbers in a dtype, by default the target's for their kind; raise where they do not fit."""
    what = str(path) if path is not None else "the argument"
    asked = dtype is not None
    if dtype is None:
        dtype = _default_dtype(values.dtype.kind, target)
    with np.errstate(all="ignore"):
        real = values.dtype.kind != "c" or kind_of(dtype) == "complex"
        fitted = (values if real else values.real).astype(host_dtype(dtype))
    reason = "" if asked else f", the default of {target},"
    if values.dtype.kind in "iu" and kind_of(dtype) == "integer" and not np.array_equal(fitted, values):
        raise DTypeError(
            f"{what} has integers from {values.min()} to {values.max()}, which {dtype}{reason} cannot hold; "
            f"say {'another' if asked else ''} dtype=".replace("  ", " ")
        )
    if values.dtype.kind in "fc" or kind_of(dtype) in ("floating", "complex"):
        lost = _lost(values, fitted)
        if lost.any():
            raise DTypeError(
                f"{what} has {values[lost].flat[0]}, which {dtype}{reason} cannot hold; "
                f"say {'another' if asked else ''} dtype=".replace("  ", " ")
            )
    return fitted


def _lost(values: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Return which numbers became something else than what rounding makes of them, which for integers is truncation."""
    if values.dtype.kind == "c" and kind_of(dtype_name(fitted.dtype)) != "complex":
        return np.asarray((values.imag != 0) | _lost(values.real, fitted))
    if fitted.dtype.kind not in "biu":
        return np.asarray(np.isfinite(values) & ~np.isfinite(fitted))
    if fitted.dtype.kind == "b":
        return np.zeros(values.shape, bool)
    limits, whole = np.iinfo(fitted.dtype), np.trunc(values)
    return np.asarray(~((whole >= limits.min) & (whole < float(limits.max) + 1)))


def _default_dtype(kind: str, target: Device) -> str:
    if kind == "b":
        return "bool"
    wanted = default_float.get()
    if wanted is not None and kind == "f":
        return wanted
    if wanted in _COMPLEX and kind == "c":
        return _COMPLEX[wanted]
    word = {"i": "integral", "u": "integral", "f": "real floating", "c": "complex floating"}[kind]
    return dtype_name(target.xp.__array_namespace_info__().default_dtypes()[word])
