"""Checking gradients by central differences.

Requirements: the function is called twice for each element that is tried, so large arrays are sampled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import tree
from ..contract import Backend, dtype_name
from ..device import device_of_array, native_of
from ..errors import GradientError
from ..transform import value_and_grad

__all__ = ["check_gradients"]

STEPS: dict[str, tuple[float, float, float]] = {
    "float32": (5e-3, 2e-2, 2e-3),
    "float64": (6e-6, 1e-6, 1e-8),
}
"""By dtype: the step (the cube root of the precision: rounding and curvature weigh the same), rtol, atol."""


def check_gradients(
    function: Callable[..., Any],
    /,
    *args: Any,
    rtol: float | None = None,
    atol: float | None = None,
    samples: int = 16,
    seed: int = 0,
) -> None:
    """Compare the gradient of `function(*args)` with central differences, for all arguments.

    Parameters
    ----------
    function : callable
        Returns a real scalar array; must compute the same each time it is called.
    *args : tree of arrays
        Arguments; their float32 and float64 leaves are varied, all others stay as they are.
    rtol, atol : float, optional
        Tolerances; defaults by dtype, since a difference of float32 values has few digits.
    samples : int
        Elements of each leaf that are tried; all of them where there are no more.
    seed : int
        Chooses the elements.

    Raises
    ------
    AssertionError
        If they disagree: the path of the argument, the element, and both derivatives.
    GradientError
        If no leaf is float32 or float64.

    References
    ----------
    J. Nocedal, S. Wright, Numerical Optimization, 2nd ed., section 8.1: the step of a central difference.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> from xdev.testing import check_gradients
    >>> def energy(x):
    ...     xp = xdev.namespace(x)
    ...     return xp.sum(xp.tanh(x) ** 2)
    >>> check_gradients(energy, np.linspace(-1, 1, 5))
    """
    __tracebackhide__ = True
    paths, leaves, structure = tree.flatten_with_paths(args)
    varied = [position for position, leaf in enumerate(leaves) if _dtype(leaf) in STEPS]
    if not varied:
        raise GradientError("check_gradients needs a float32 or float64 array among its arguments, to vary it")

    def of_varied(some: list[Any]) -> Any:
        whole = list(leaves)
        for position, leaf in zip(varied, some, strict=True):
            whole[position] = leaf
        return function(*tree.unflatten(structure, whole))

    start = [leaves[position] for position in varied]
    _, gradients = value_and_grad(of_varied)(start)
    rng = np.random.default_rng(seed)
    for number, (position, x) in enumerate(zip(varied, start, strict=True)):
        host, gradient = _to_host(x), _to_host(gradients[number]).reshape(-1)
        step, default_rtol, default_atol = STEPS[_dtype(x)]
        relative = default_rtol if rtol is None else rtol
        absolute = default_atol if atol is None else atol
        evaluate = functools.partial(_with_leaf, of_varied, start, number)
        for element in map(int, rng.permutation(host.size)[:samples]):
            got, wanted = float(gradient[element]), _central_difference(evaluate, x, host, element, step)
            allowed = absolute + relative * abs(wanted)
            if not abs(got - wanted) <= allowed:
                index = ", ".join(str(int(i)) for i in np.unravel_index(element, host.shape))
                where = tree.path_string(paths[position], "args") + (f"[{index}]" if index else "")
                raise AssertionError(
                    f"the derivative for {where} is {got:.6g}, central differences give {wanted:.6g} "
                    f"(they differ by {abs(got - wanted):.3g}, allowed {allowed:.3g})"
                )


def _with_leaf(function: Callable[[list[Any]], Any], start: list[Any], number: int, leaf: Any) -> float:
    return float(_to_host(function([*start[:number], leaf, *start[number + 1 :]])))


def _central_difference(evaluate: Callable[[Any], float], x: Any, host: Any, element: int, step: float) -> float:
    step *= max(1.0, abs(float(host.reshape(-1)[element])))
    values, places = [], []
    for change in (step, -step):
        moved = np.array(host, copy=True, order="C")
        moved.reshape(-1)[element] += change
        places.append(float(moved.reshape(-1)[element]))  # as rounded: the step that was really taken
        values.append(evaluate(_like(x, moved)))
    return (values[0] - values[1]) / (places[0] - places[1])


def _owned(x: Any) -> tuple[Backend, Any]:
    owned = native_of(x)
    if owned is None:
        raise GradientError(f"check_gradients needs a scalar array of the function, got {x!r}")
    return owned


def _to_host(x: Any) -> Any:
    backend, native = _owned(x)
    return backend.to_host(native)


def _dtype(x: Any) -> str:
    owned = native_of(x)
    return "" if owned is None else dtype_name(owned[1].dtype)


def _like(x: Any, host: Any) -> Any:
    """Return a host array where `x` is."""
    backend, native = _owned(x)
    device = device_of_array(backend, native)
    if device is None:
        raise GradientError("check_gradients runs outside jit: its arguments have no values there")
    return backend.place(host, device.info, copy=True)
