"""Affine maps, and looking up rows."""

from __future__ import annotations

import math
from typing import Any

from ..contract import dtype_name
from ..device import namespace
from ..errors import ConfigurationError, DataError
from ..floating import default_float
from ._checks import check_arrays, check_indices, check_integer, is_integer
from ._dispatch import Op

__all__ = ["embedding", "linear", "one_hot"]

_LARGEST = {"int8": 127, "int16": 32767}


def _linear(xp: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    y = xp.matmul(x, weight)
    return y if bias is None else xp.add(y, bias)


def _linear_rule(xp: Any, g: Any, y: Any, x: Any, weight: Any, bias: Any = None, *, needs: Any) -> Any:
    rows = xp.reshape(g, (-1, g.shape[-1]))
    for_x = xp.matmul(g, xp.matrix_transpose(weight)) if needs[0] else None
    for_weight = None
    if needs[1]:
        for_weight = xp.matmul(xp.matrix_transpose(xp.reshape(x, (-1, x.shape[-1]))), rows)
    for_bias = xp.sum(rows, axis=0) if len(needs) > 2 and needs[2] else None
    return for_x, for_weight, for_bias


linear_op = Op("linear", _linear, _linear_rule, unused=(-1,))


def linear(x: Any, weight: Any, bias: Any = None, /) -> Any:
    """Return `x @ weight + bias`.

    Parameters
    ----------
    x : array of shape (..., in)
        Floating.
    weight : array of shape (in, out)
        Of the dtype of `x`.
    bias : array of shape (out,), optional
        Of the dtype of `x`.

    Returns
    -------
    array of shape (..., out)
        New.

    Raises
    ------
    DataError
        If the shapes do not fit.
    ArrayTypeError
        If an argument is no array.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.linear(np.ones((1, 2)), np.ones((2, 3)), np.asarray([0.0, 1.0, 2.0]))
    array([[2., 3., 4.]])
    """
    try:
        shape = weight.shape
        fits = len(shape) == 2 and x.ndim >= 1 and x.shape[-1] == shape[0]
        bias_fits = bias is None or not fits or tuple(bias.shape) == (shape[1],)
    except AttributeError:
        check_arrays("linear", x=x, weight=weight, bias=bias)
        raise
    if not fits:
        raise DataError(
            f"linear takes x of shape (..., in) and weight of shape (in, out), got {tuple(x.shape)} and {tuple(shape)}"
        )
    if bias is None:
        return linear_op(x, weight)
    if not bias_fits:
        raise DataError(f"linear takes a bias of shape ({shape[1]},) here, got {tuple(bias.shape)}")
    return linear_op(x, weight, bias)


def _embedding(xp: Any, weight: Any, indices: Any, *, checked: bool = True) -> Any:
    places = xp.reshape(indices, (-1,))
    if checked:
        rows = xp.take(weight, places, axis=0)
    else:
        places, valid = _within(xp, places, weight.shape[0])
        rows = xp.take(weight, places, axis=0)
        numbers = dtype_name(weight.dtype).startswith(("float", "bfloat", "complex"))
        rows = xp.where(valid, rows, xp.full_like(rows, math.nan if numbers else 0))
    return xp.reshape(rows, (*indices.shape, weight.shape[1]))


def _within(xp: Any, places: Any, n: int) -> tuple[Any, Any]:
    """Return places in [0, n), and for each row whether that is where it was: frameworks disagree about the others."""
    places = _signed(xp, places, n)
    zeros = xp.zeros_like(places)
    valid = xp.logical_and(xp.greater_equal(places, zeros), xp.less(places, xp.full_like(places, n)))
    return xp.where(valid, places, zeros), xp.expand_dims(valid, axis=-1)


def _embedding_rule(xp: Any, g: Any, y: Any, weight: Any, indices: Any, *, needs: Any, checked: bool = True) -> Any:
    rows = xp.reshape(g, (math.prod(indices.shape), weight.shape[1]))
    places = xp.below.reshape(indices, (-1,))
    if not checked:
        places, valid = _within(xp.below, places, weight.shape[0])
        rows = xp.where(valid, rows, xp.zeros_like(rows))
    return xp.scatter_(rows, places, weight.shape[0]), None


_embedding_op = Op("embedding", _embedding, _embedding_rule)


def embedding(weight: Any, indices: Any, /) -> Any:
    """Return rows of a table; gradients of rows that are taken several times are summed.

    Parameters
    ----------
    weight : array of shape (n, width)
        The table.
    indices : array of an integer dtype, of any shape
        Which rows; in [0, n).

    Returns
    -------
    array of shape indices.shape + (width,)
        New.

    Raises
    ------
    DataError
        If the weight is no table; or if an index is out of range and the indices are on a CPU. An accelerator would
        have to be waited for, and under `xdev.jit` there are no values yet: there, the row is NaN (0 if the table is
        of integers) and gets no gradient; torch ends the process's use of a GPU with an assertion of its own.
    DTypeError
        If the indices are no integers.
    ArrayTypeError
        If an argument is no array.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.embedding(np.asarray([[1.0], [2.0]]), np.asarray([1, 0, 1]))[:, 0]
    array([2., 1., 2.])
    """
    check_integer("embedding", indices, "indices")
    try:
        is_table = len(weight.shape) == 2
    except AttributeError:
        check_arrays("embedding", weight=weight)
        raise
    if not is_table:
        raise DataError(f"embedding takes a weight of shape (n, width), got {tuple(weight.shape)}")
    if check_indices(indices, weight.shape[0], "indices"):
        return _embedding_op(weight, indices)
    if weight.shape[0] == 0 and 0 not in indices.shape:
        raise DataError(f"embedding takes a weight of at least one row, got shape {tuple(weight.shape)}")
    return _embedding_op(weight, indices, checked=False)


def one_hot(x: Any, n: int, /, *, dtype: Any = None) -> Any:
    """Return 1 at the place that each integer names, 0 elsewhere.

    Parameters
    ----------
    x : array of an integer dtype, of any shape
        In [0, n).
    n : int
        Length of the new last axis.
    dtype : dtype, optional
        Of the result; float32, or what `xdev.precision` says.

    Returns
    -------
    array of shape x.shape + (n,)
        New; without gradient.

    Raises
    ------
    DataError
        If an integer is out of range; looked at on CPUs only. Elsewhere, and under `xdev.jit`, its row is all 0.
    ConfigurationError
        If `n` is no positive int.
    DTypeError
        If `x` is no integer array.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.one_hot(np.asarray([1, 0]), 3)
    array([[0., 1., 0.],
           [1., 0., 0.]], dtype=float32)
    """
    check_integer("one_hot", x, "x")
    if type(n) is not int or n < 1:
        n = _count(n)
    check_indices(x, n, "x")
    xp = namespace(x)
    dtype = getattr(xp, default_float.get() or "float32") if dtype is None else dtype
    return xp.astype(is_label(xp, x, n), dtype)


def _count(n: Any) -> int:
    if is_integer(n) and n > 0:
        return int(n)
    raise ConfigurationError(f"one_hot takes n, the length of the new axis, as a positive int, got {n!r}")


def _signed(xp: Any, x: Any, n: int) -> Any:
    """Return integers in a dtype that has 0, 1, … n and can be negative; one out of range stays so."""
    name = dtype_name(x.dtype)  # frameworks disagree about what unsigned integers can do
    if name == "uint64":
        return xp.astype(x, xp.int64)
    if name.startswith("u") or n > _LARGEST.get(name, n):
        return xp.astype(x, xp.int32)
    return x


def is_label(xp: Any, x: Any, n: int) -> Any:
    """Return, for each integer and each of 0, 1, … n - 1, whether they are equal."""
    x = _signed(xp, x, n)
    return xp.equal(xp.expand_dims(x, axis=-1), xp.arange(n, dtype=x.dtype))
