"""Affine maps, and looking up rows."""

from __future__ import annotations

import math
from typing import Any

from ..contract import dtype_name
from ..device import namespace
from ..errors import DataError
from ..namespaces import default_float
from ._checks import check_indices, check_integer
from ._dispatch import Op

__all__ = ["embedding", "linear", "one_hot"]


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


linear_op = Op("linear", _linear, _linear_rule)


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

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.linear(np.ones((1, 2)), np.ones((2, 3)), np.asarray([0.0, 1.0, 2.0]))
    array([[2., 3., 4.]])
    """
    shape = weight.shape
    if len(shape) != 2 or x.ndim < 1 or x.shape[-1] != shape[0]:
        raise DataError(
            f"linear takes x of shape (..., in) and weight of shape (in, out), got {tuple(x.shape)} and {tuple(shape)}"
        )
    if bias is None:
        return linear_op(x, weight)
    if tuple(bias.shape) != (shape[1],):
        raise DataError(f"linear takes a bias of shape ({shape[1]},) here, got {tuple(bias.shape)}")
    return linear_op(x, weight, bias)


def _embedding(xp: Any, weight: Any, indices: Any) -> Any:
    rows = xp.take(weight, xp.reshape(indices, (-1,)), axis=0)
    return xp.reshape(rows, (*indices.shape, weight.shape[1]))


def _embedding_rule(xp: Any, g: Any, y: Any, weight: Any, indices: Any, *, needs: Any) -> Any:
    rows = xp.reshape(g, (math.prod(indices.shape), weight.shape[1]))
    return xp.scatter_(rows, xp.below.reshape(indices, (-1,)), weight.shape[0]), None


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
        If an index is out of range; looked at on CPUs only, since an accelerator would have to be waited for.
    DTypeError
        If the indices are no integers.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.embedding(np.asarray([[1.0], [2.0]]), np.asarray([1, 0, 1]))[:, 0]
    array([2., 1., 2.])
    """
    check_integer("embedding", indices, "indices")
    if len(weight.shape) != 2:
        raise DataError(f"embedding takes a weight of shape (n, width), got {tuple(weight.shape)}")
    check_indices(indices, weight.shape[0], "indices")
    return _embedding_op(weight, indices)


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
        If an integer is out of range; looked at on CPUs only. Elsewhere its row is all 0.
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
    check_indices(x, n, "x")
    xp = namespace(x)
    dtype = getattr(xp, default_float.get() or "float32") if dtype is None else dtype
    return xp.astype(is_label(xp, x, n), dtype)


def is_label(xp: Any, x: Any, n: int) -> Any:
    """Return, for each integer and each of 0, 1, … n - 1, whether they are equal."""
    if dtype_name(x.dtype).startswith("u"):  # frameworks disagree about what unsigned integers can do
        x = xp.astype(x, xp.int32)
    return xp.equal(xp.expand_dims(x, axis=-1), xp.arange(n, dtype=x.dtype))
