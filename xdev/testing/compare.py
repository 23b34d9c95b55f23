"""Comparing trees of arrays: backend, device, dtype, shape, then values; the error names the worst element.

Requirements: NumPy does the arithmetic, on host copies; what crosses here is not counted as a transfer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from .. import tree
from ..contract import Backend, dtype_name
from ..device import device_of_array, native_of

__all__ = ["TOLERANCES", "assert_close", "assert_equal"]

TOLERANCES: dict[str, tuple[float, float]] = {
    "float8_e4m3fn": (1.5e-1, 1e-2),
    "float8_e5m2": (3e-1, 1e-2),
    "bfloat16": (2e-2, 1e-3),
    "float16": (2e-3, 1e-4),
    "float32": (1e-5, 1e-6),
    "float64": (1e-9, 1e-12),
    "complex64": (1e-5, 1e-6),
    "complex128": (1e-9, 1e-12),
}
"""The default (rtol, atol) of each dtype, some units in the last place; all others are compared exactly."""

NUMBERS = (bool, int, float, complex)
Host = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Checks:
    """What is compared, and how closely; `exact` asks for the same bits."""

    namespace: bool
    device: bool
    dtype: bool
    exact: bool = False
    rtol: float | None = None
    atol: float | None = None
    equal_nan: bool = True


def assert_close(
    actual: Any,
    expected: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = True,
    check_device: bool = True,
    check_dtype: bool = True,
    check_namespace: bool = True,
) -> None:
    """Check that two trees of arrays agree: in structure, backend, device, dtype, shape, and values.

    Parameters
    ----------
    actual : array, number or tree of them
        What the code under test returned, on any backend.
    expected : array, number or tree of them
        What it should have returned. An array of NumPy is taken as an oracle: the backend and the device of
        `actual` are then not compared. A Python number has a value and the shape (), and no dtype either.
    rtol, atol : float, optional
        Elements may differ by `atol + rtol * abs(expected)`. The defaults go by dtype, the coarser one
        where two meet (`xdev.testing.compare.TOLERANCES`); integers and booleans are compared exactly.
    equal_nan : bool
        Whether NaN equals NaN.
    check_device, check_dtype, check_namespace : bool
        Whether device, dtype and backend must be the same.

    Raises
    ------
    AssertionError
        At the first leaf that differs: its path in the tree, what differs, the worst element and its values.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.testing import assert_close
    >>> assert_close({"x": np.asarray([1.0, 2.0])}, {"x": np.asarray([1.0, 2.0 + 1e-12])})
    >>> assert_close(np.asarray([1.0, 2.0]), np.asarray([1.0, 2.5]), rtol=0.1)
    Traceback (most recent call last):
    ...
    AssertionError: actual: 1 of 2 elements differ by more than rtol=0.1, atol=1e-12 (float64 on numpy:cpu:0)
    worst at [1]: got 2.0, expected 2.5; they differ by 0.5, allowed 0.25
    """
    __tracebackhide__ = True
    checks = Checks(check_namespace, check_device, check_dtype, False, rtol, atol, equal_nan)
    for path, a, e in _pairs(actual, expected):
        _compare_leaf(path, a, e, checks)


def assert_equal(
    actual: Any,
    expected: Any,
    *,
    check_device: bool = True,
    check_dtype: bool = True,
    check_namespace: bool = True,
) -> None:
    """Check that two trees of arrays are the same to the bit; NaNs are equal, 0.0 and -0.0 are not.

    Parameters
    ----------
    actual : array, number or tree of them
        What the code under test returned, on any backend.
    expected : array, number or tree of them
        What it should have returned; NumPy arrays and numbers are oracles, as in `assert_close`.
    check_device, check_dtype, check_namespace : bool
        Whether device, dtype and backend must be the same; values of two dtypes are compared as numbers.

    Raises
    ------
    AssertionError
        At the first leaf that differs, as `assert_close`.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev.testing import assert_equal
    >>> assert_equal(np.asarray([1.0, np.nan]), np.asarray([1.0, np.nan]))
    """
    __tracebackhide__ = True
    checks = Checks(check_namespace, check_device, check_dtype, exact=True)
    for path, a, e in _pairs(actual, expected):
        _compare_leaf(path, a, e, checks)


def _pairs(actual: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the path and the two values of each leaf, when the trees have the same structure."""
    __tracebackhide__ = True
    paths, a_leaves, a_structure = tree.flatten_with_paths(actual)
    e_paths, e_leaves, e_structure = tree.flatten_with_paths(expected)
    names = [tree.path_string(path, "actual") for path in paths]
    if a_structure != e_structure:
        e_names = [tree.path_string(path, "actual") for path in e_paths]
        extra = [name for name in names if name not in e_names]
        missing = [name for name in e_names if name not in names]
        found = [f"{what}: {', '.join(some)}" for what, some in (("extra", extra), ("missing", missing)) if some]
        detail = "; ".join(found) or f"got {a_structure}, expected {e_structure}"
        raise AssertionError(f"the trees have different structures; {detail}")
    yield from zip(names, a_leaves, e_leaves, strict=True)


def _compare_leaf(path: str, actual: Any, expected: Any, checks: Checks) -> None:
    __tracebackhide__ = True
    a, e = native_of(actual), native_of(expected)
    if a is None and e is None:
        _compare_objects(path, actual, expected, checks)
        return
    for owned, value in ((a, actual), (e, expected)):
        if owned is None and not isinstance(value, NUMBERS):
            _fail(path, f"got {_kind(actual)}, expected {_kind(expected)}")
    if e is not None and not e[0].is_host:
        _compare_places(path, a, e, checks)
    if a is not None and e is not None and checks.dtype:
        got, wanted = dtype_name(a[1].dtype), dtype_name(e[1].dtype)
        if got != wanted:
            _fail(path, f"got dtype {got}, expected {wanted}; check_dtype=False allows that")
    where = "a Python number" if a is None else f"{dtype_name(a[1].dtype)} on {device_of_array(*a)}"
    _compare_values(path, _to_host(a, actual), _to_host(e, expected), where, checks)


def _compare_places(path: str, a: tuple[Backend, Any] | None, e: tuple[Backend, Any], checks: Checks) -> None:
    __tracebackhide__ = True
    if a is None or a[0] is not e[0]:
        if checks.namespace:
            got = "a Python number" if a is None else f"an array of {a[0]}"
            _fail(path, f"got {got}, expected an array of {e[0]}; check_namespace=False allows that")
    elif checks.device and not e[0].has_no_device(e[1]):
        got_device, wanted_device = device_of_array(*a), device_of_array(*e)
        if got_device is not wanted_device:
            _fail(path, f"is on {got_device}, expected on {wanted_device}; check_device=False allows that")


def _compare_objects(path: str, actual: Any, expected: Any, checks: Checks) -> None:
    __tracebackhide__ = True
    if isinstance(actual, NUMBERS) and isinstance(expected, NUMBERS):
        _compare_values(path, np.asarray(actual), np.asarray(expected), "Python numbers", checks)
    elif actual is not expected and not (type(actual) is type(expected) and actual == expected):
        _fail(path, f"got {actual!r}, expected {expected!r}")


def _compare_values(path: str, a: Host, e: Host, where: str, checks: Checks) -> None:
    __tracebackhide__ = True
    if a.shape != e.shape:
        _fail(path, f"got shape {a.shape}, expected {e.shape}")
    if checks.exact:
        wrong, rule = _different_bits(a, e), "differ"
        rtol = atol = 0.0
    else:
        rtol, atol = _tolerances(a, e, checks)
        rule = f"differ by more than rtol={rtol:g}, atol={atol:g}" if rtol or atol else "differ"
        wrong = np.zeros(a.shape, bool)
    with np.errstate(all="ignore"):
        wide_a, wide_e = _wide(a), _wide(e)
        difference = np.abs(wide_a - wide_e)
        allowed = atol + rtol * np.abs(wide_e)
        if not checks.exact:
            fine = (a == e) | (np.isfinite(difference) & (difference <= allowed) if rtol or atol else False)
            if checks.equal_nan:
                fine |= np.isnan(wide_a) & np.isnan(wide_e)
            wrong = ~fine
    if not wrong.any():
        return
    score = np.where(wrong, np.where(np.isnan(difference), np.inf, difference), -1.0)
    worst = np.unravel_index(int(np.argmax(score)), score.shape)
    at = f"worst at [{', '.join(map(str, worst))}]" if worst else "it is a scalar"
    by = "" if checks.exact else f"; they differ by {difference[worst]:.3g}, allowed {allowed[worst]:.3g}"
    _fail(
        path,
        f"{int(wrong.sum())} of {wrong.size} element{'s' if wrong.size > 1 else ''} {rule} ({where})\n"
        f"{at}: got {a[worst]}, expected {e[worst]}{by}",
    )


def _tolerances(a: Host, e: Host, checks: Checks) -> tuple[float, float]:
    names = [dtype_name(x.dtype) for x in (a, e)]
    rtol = max(TOLERANCES.get(name, (0.0, 0.0))[0] for name in names)
    atol = max(TOLERANCES.get(name, (0.0, 0.0))[1] for name in names)
    return rtol if checks.rtol is None else checks.rtol, atol if checks.atol is None else checks.atol


def _different_bits(a: Host, e: Host) -> Host:
    if a.dtype != e.dtype:
        return np.asarray(a != e) & ~(np.isnan(_wide(a)) & np.isnan(_wide(e)))
    shape = (*a.shape, a.dtype.itemsize)
    a_bytes, e_bytes = (np.ascontiguousarray(x).view(np.uint8).reshape(shape) for x in (a, e))
    differ = (a_bytes != e_bytes).any(axis=-1)
    return np.asarray(differ) & ~(np.isnan(_wide(a)) & np.isnan(_wide(e)))


def _wide(x: Host) -> Host:
    """Return `x` in the widest arithmetic: float64 holds every narrower float, those of ml_dtypes too."""
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def _to_host(owned: tuple[Backend, Any] | None, value: Any) -> Host:
    return np.asarray(value) if owned is None else owned[0].to_host(owned[1])


def _kind(value: Any) -> str:
    owned = native_of(value)
    return f"an array of {owned[0]}" if owned is not None else f"{value!r} of type {type(value).__name__}"


def _fail(path: str, what: str) -> NoReturn:
    __tracebackhide__ = True
    raise AssertionError(f"{path}: {what}")
