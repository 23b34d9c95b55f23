"""Functional updates: a new array in which some elements are others, whether arrays can be written to or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import array_api_extra

from . import autodiff, registry
from .device import namespace, native_of, scope_of
from .differentiation import is_differentiable, on_tape
from .errors import ArrayTypeError, a
from .transform import stop_gradient, vjp

__all__ = ["At", "at"]


def at(x: Any, /) -> At:
    """Choose elements of an array to update: `xdev.at(x)[index].set(value)`.

    Parameters
    ----------
    x : array
        Of any framework, under differentiation and `jit` too. It stays as it is.

    Returns
    -------
    At
        Takes an index, then one of `set`, `add`, `subtract`, `multiply`, `divide`, `power`, `min`, `max`.

    Raises
    ------
    ArrayTypeError
        If `x` is no array.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.at(np.zeros(3))[1:].set(7.0)
    array([0., 7., 7.])
    >>> xdev.at(np.zeros(3))[np.asarray([0, 0, 2])].add(1.0)
    array([2., 0., 1.])
    """
    if native_of(x) is None:
        raise ArrayTypeError(f"at takes an array, got {a(type(x).__name__)}; lists become arrays by xdev.asarray")
    return At(x)


class At:
    """Elements of an array that `at` has chosen.

    Each method returns a new array of the shape, dtype and device of the old one; what it is given broadcasts to the
    elements. An index is one of the array's own framework: numbers, slices, `...`, arrays of integers or booleans.
    Where one element is chosen several times, `add` and `subtract` take all into account; which of several the others
    take is not defined.
    """

    __slots__ = ("_index", "_x")

    def __init__(self, x: Any, index: Any = None) -> None:
        self._x = x
        self._index = index

    def __getitem__(self, index: Any) -> At:
        return At(self._x, (index,))

    def _chosen(self) -> Any:
        if self._index is None:
            raise ArrayTypeError("at(x) needs an index before the update: xdev.at(x)[index].set(value)")
        return self._index[0]

    def set(self, value: Any, /) -> Any:
        """Return the array with these values in the chosen places."""
        x, index = _beside(self._x, value), self._chosen()
        backend = registry.find_backend(x)
        with scope_of(x):
            if backend is None or not backend.capabilities.mutable:
                return array_api_extra.at(x)[index].set(value, copy=True, xp=namespace(x))
            if not on_tape(backend) and _may_repeat(index):
                value = _last_ones(x, index, value)
            made = backend.clone(x)
            made[index] = value
            return made

    def _apply(self, operate: Callable[[Any, Any, Any], Any], value: Any) -> Any:
        # Not by an operator in place, after which torch has no gradient of some.
        x = _beside(self._x, value)
        with scope_of(x):
            return self.set(operate(namespace(x), x[self._chosen()], value))

    def add(self, value: Any, /) -> Any:
        """Return the array with values added in the chosen places."""
        index = self._chosen()
        if not _may_repeat(index) or not is_differentiable(self._x):
            return self._apply(lambda xp, x, v: x + v, value)
        # What reads elements, transposed, is what adds to them.
        x = _beside(self._x, value)
        with scope_of(x):
            chosen, pull = vjp(lambda x: x[index], x)
            return x + pull(namespace(x).zeros_like(chosen) + value)[0]

    def subtract(self, value: Any, /) -> Any:
        """Return the array with values subtracted in the chosen places."""
        return self.add(-value)

    def multiply(self, value: Any, /) -> Any:
        """Return the array with the chosen elements multiplied by values."""
        return self._apply(lambda xp, x, v: x * v, value)

    def divide(self, value: Any, /) -> Any:
        """Return the array with the chosen elements divided by values."""
        return self._apply(lambda xp, x, v: x / v, value)

    def power(self, value: Any, /) -> Any:
        """Return the array with the chosen elements raised to a power."""
        return self._apply(lambda xp, x, v: x**v, value)

    def min(self, value: Any, /) -> Any:
        """Return the array with the smaller of the chosen elements and values."""
        return self._apply(lambda xp, x, v: xp.minimum(x, v), value)

    def max(self, value: Any, /) -> Any:
        """Return the array with the larger of the chosen elements and values."""
        return self._apply(lambda xp, x, v: xp.maximum(x, v), value)


def _beside(x: Any, value: Any) -> Any:
    """Return an array in the form in which it knows the value: as a constant, if only that is differentiated."""
    return autodiff.lift(x) if hasattr(type(value), "__xdev_value__") else x


def _last_ones(x: Any, index: Any, value: Any) -> Any:
    """Return values of which those that others replace, in the same place, have no gradient."""
    if native_of(value) is None:
        return value
    xp, shape = namespace(x), x[index].shape
    numbers = xp.reshape(xp.arange(math.prod(shape)), shape)
    board = xp.zeros(x.shape, dtype=numbers.dtype)
    board[index] = numbers
    return xp.where(board[index] == numbers, value, stop_gradient(value))


def _may_repeat(index: Any) -> bool:
    """Return whether an index has arrays in it, which may name an element twice."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(native_of(part) is not None for part in parts)
