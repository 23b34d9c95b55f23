"""Losses: means over all positions."""

from __future__ import annotations

import math
from typing import Any

from ..errors import DataError
from ._activations import sigmoid_op
from ._checks import (
    check_floating,
    check_indices,
    check_integer,
    check_same_shape,
    narrow,
    refuse_empty,
    widen,
)
from ._dispatch import Op
from ._linear import is_label

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "mse"]


def _cross_entropy(xp: Any, logits: Any, labels: Any, *, checked: bool) -> Any:
    """Return the loss and the probabilities; a label out of range makes both NaN."""
    wide = widen(xp, logits)
    shifted = xp.subtract(wide, xp.max(wide, axis=-1, keepdims=True))
    e = xp.exp(shifted)
    total = xp.sum(e, axis=-1)
    # A comparison instead of indexing: frameworks disagree about dtypes of indices and about those out of range.
    hot = is_label(xp, labels, wide.shape[-1])
    picked = xp.sum(xp.where(hot, shifted, xp.zeros_like(shifted)), axis=-1)
    each = xp.subtract(xp.log(total), picked)
    p = xp.divide(e, xp.expand_dims(total, axis=-1))
    if not checked:
        # By multiplication, so that gradients become NaN too and no update can hide it.
        factor = xp.where(xp.any(hot, axis=-1), xp.ones_like(total), xp.full_like(total, math.nan))
        each = xp.multiply(each, factor)
        p = xp.multiply(p, xp.expand_dims(factor, axis=-1))
    return narrow(xp, xp.mean(each), logits.dtype), p


def _cross_entropy_rule(xp: Any, g: Any, p: Any, logits: Any, labels: Any, *, needs: Any, checked: bool) -> Any:
    hot = xp.astype(is_label(xp, labels, p.shape[-1]), p.dtype)
    each = xp.multiply(g, 1.0 / max(math.prod(labels.shape), 1))
    return xp.multiply(xp.subtract(p, hot), each), None


_cross_entropy_op = Op("cross_entropy", _cross_entropy, _cross_entropy_rule, saves=True)


def cross_entropy(logits: Any, labels: Any, /) -> Any:
    """Return the mean negative log-probability of labels.

    Parameters
    ----------
    logits : array of shape (..., classes)
        Unnormalised log-probabilities, real floating.
    labels : array of shape (...)
        The right classes, in [0, classes), of any integer dtype.

    Returns
    -------
    array of shape ()
        In nats, of the dtype of `logits`. Half precision is summed in float32.

    Raises
    ------
    DataError
        If the shapes do not fit; if there are no positions; or if a label is out of range and the labels are on a CPU.
        An accelerator would have to be waited for, and under `xdev.jit` there are no values yet: there, the loss and
        its gradient are NaN.
    DTypeError
        If the labels are no integers, or the logits not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> float(ops.cross_entropy(np.zeros((2, 4)), np.asarray([0, 3])).round(4))
    1.3863
    """
    check_floating("cross_entropy", logits, "logits")
    check_integer("cross_entropy", labels, "labels")
    shape = logits.shape
    if labels.shape != shape[:-1] or not shape:
        expected = f"expected labels of shape {tuple(shape[:-1])}" if shape else "expected logits (..., classes)"
        raise DataError(f"labels have shape {tuple(labels.shape)}, logits {tuple(shape)}: {expected}")
    if 0 in shape:
        if shape[-1]:
            refuse_empty("cross_entropy", "logits", shape)
        raise DataError(f"cross_entropy takes logits (..., classes) of at least one class, got shape {tuple(shape)}")
    return _cross_entropy_op(logits, labels, checked=check_indices(labels, shape[-1], "labels"))


def _mse(xp: Any, prediction: Any, target: Any) -> Any:
    difference = xp.subtract(widen(xp, prediction), widen(xp, target))
    return narrow(xp, xp.mean(xp.square(difference)), prediction.dtype), difference


def _mse_rule(xp: Any, g: Any, difference: Any, prediction: Any, target: Any, *, needs: Any) -> Any:
    for_prediction = xp.multiply(difference, xp.multiply(g, 2.0 / max(math.prod(prediction.shape), 1)))
    return for_prediction if needs[0] else None, xp.negative(for_prediction) if needs[1] else None


_mse_op = Op("mse", _mse, _mse_rule, saves=True)


def mse(prediction: Any, target: Any, /) -> Any:
    """Return the mean squared difference.

    Parameters
    ----------
    prediction, target : array
        Real floating, of the same shape: nothing is broadcast.

    Returns
    -------
    array of shape ()
        Of the dtype of `prediction`.

    Raises
    ------
    DataError
        If the shapes differ, or there are no positions.
    DTypeError
        If either is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> float(ops.mse(np.asarray([1.0, 2.0]), np.asarray([1.0, 4.0])))
    2.0
    """
    check_same_shape("mse", prediction, target, ("prediction", "target"))
    return _mse_op(prediction, target)


def _binary(xp: Any, logits: Any, targets: Any) -> Any:
    x, t = widen(xp, logits), widen(xp, targets)
    each = xp.subtract(xp.logaddexp(x, xp.zeros_like(x)), xp.multiply(x, t))
    return narrow(xp, xp.mean(each), logits.dtype)


def _binary_rule(xp: Any, g: Any, y: Any, logits: Any, targets: Any, *, needs: Any) -> Any:
    each = xp.multiply(g, 1.0 / max(math.prod(logits.shape), 1))
    x, t = widen(xp, logits), widen(xp, targets)
    return (
        xp.multiply(xp.subtract(sigmoid_op(x), t), each) if needs[0] else None,
        xp.multiply(xp.negative(x), each) if needs[1] else None,
    )


_binary_op = Op("binary_cross_entropy_with_logits", _binary, _binary_rule)


def binary_cross_entropy_with_logits(logits: Any, targets: Any, /) -> Any:
    """Return the mean cross entropy of independent yes-or-no decisions.

    Parameters
    ----------
    logits : array
        Log-odds, real floating.
    targets : array
        Probabilities in [0, 1], real floating, of the same shape.

    Returns
    -------
    array of shape ()
        In nats, of the dtype of `logits`.

    Raises
    ------
    DataError
        If the shapes differ, or there are no positions.
    DTypeError
        If either is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> float(ops.binary_cross_entropy_with_logits(np.zeros(2), np.asarray([0.0, 1.0])).round(4))
    0.6931
    """
    check_same_shape("binary_cross_entropy_with_logits", logits, targets, ("logits", "targets"))
    return _binary_op(logits, targets)
