"""Normalisation over the last axis."""

from __future__ import annotations

from typing import Any

from ..errors import DataError
from ._checks import check_arrays, check_floating, narrow, widen
from ._dispatch import Op

__all__ = ["layer_norm", "rms_norm"]


def _scaled(xp: Any, normal: Any, weight: Any, bias: Any, dtype: Any) -> Any:
    if weight is not None:
        normal = xp.multiply(normal, weight)
    if bias is not None:
        normal = xp.add(normal, bias)
    return narrow(xp, normal, dtype)


def _layer_norm(xp: Any, x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    wide = widen(xp, x)
    centred = xp.subtract(wide, xp.mean(wide, axis=-1, keepdims=True))
    variance = xp.mean(xp.square(centred), axis=-1, keepdims=True)
    inverse = xp.divide(1.0, xp.sqrt(xp.add(variance, eps)))
    normal = xp.multiply(centred, inverse)
    return _scaled(xp, normal, weight, bias, x.dtype), (normal, inverse)


def _sum_rows(xp: Any, x: Any) -> Any:
    return xp.sum(xp.reshape(x, (-1, x.shape[-1])), axis=0)


def _norm_rule(
    xp: Any, g: Any, saved: Any, x: Any, weight: Any, bias: Any, *, needs: Any, eps: float, centred: bool
) -> Any:
    normal, inverse = saved
    g = widen(xp, g)
    for_x = None
    if needs[0]:
        inner = g if weight is None else xp.multiply(g, weight)
        along = xp.multiply(normal, xp.mean(xp.multiply(inner, normal), axis=-1, keepdims=True))
        for_x = xp.subtract(inner, along)
        if centred:
            for_x = xp.subtract(for_x, xp.mean(inner, axis=-1, keepdims=True))
        for_x = xp.multiply(for_x, inverse)
    return (
        for_x,
        _sum_rows(xp, xp.multiply(g, normal)) if needs[1] else None,
        _sum_rows(xp, g) if needs[2] else None,
    )


def _layer_norm_rule(xp: Any, g: Any, saved: Any, *args: Any, needs: Any, eps: float) -> Any:
    return _norm_rule(xp, g, saved, *args, needs=needs, eps=eps, centred=True)


_layer_norm_op = Op("layer_norm", _layer_norm, _layer_norm_rule, saves=True, unused=(0,))


def _check(op: str, x: Any, **parameters: Any) -> None:
    check_floating(op, x)
    if x.ndim == 0:
        raise DataError(f"{op} takes x of shape (..., width), got (); it works along the last axis")
    for name, parameter in parameters.items():
        try:
            fits = parameter is None or parameter.shape == x.shape[-1:]
        except AttributeError:
            check_arrays(op, **{name: parameter})
            raise
        if not fits:
            raise DataError(
                f"{op} of x with shape {tuple(x.shape)} takes {name} of shape {tuple(x.shape[-1:])}, "
                f"got {tuple(parameter.shape)}"
            )


def layer_norm(x: Any, /, weight: Any = None, bias: Any = None, *, eps: float = 1e-5) -> Any:
    """Bring each vector along the last axis to mean 0 and variance 1, then scale and shift it.

    Parameters
    ----------
    x : array of shape (..., width)
        Real floating.
    weight, bias : array of shape (width,), optional
        Factors and summands.
    eps : float, default: 1e-5
        Added to the variance.

    Returns
    -------
    array
        Of the shape and dtype of `x`. Half precision is summed in float32.

    Raises
    ------
    DataError
        If `x` has no axis, or `weight` or `bias` does not have its width.
    DTypeError
        If `x` is not real floating.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.layer_norm(np.asarray([[1.0, 3.0]]), eps=0.0)
    array([[-1.,  1.]])
    """
    _check("layer_norm", x, weight=weight, bias=bias)
    return _layer_norm_op(x, weight, bias, eps=eps)


def _rms_norm(xp: Any, x: Any, weight: Any, *, eps: float) -> Any:
    wide = widen(xp, x)
    inverse = xp.divide(1.0, xp.sqrt(xp.add(xp.mean(xp.square(wide), axis=-1, keepdims=True), eps)))
    normal = xp.multiply(wide, inverse)
    return _scaled(xp, normal, weight, None, x.dtype), (normal, inverse)


def _rms_norm_rule(xp: Any, g: Any, saved: Any, x: Any, weight: Any, *, needs: Any, eps: float) -> Any:
    return _norm_rule(xp, g, saved, x, weight, None, needs=(*needs, False), eps=eps, centred=False)[:2]


_rms_norm_op = Op("rms_norm", _rms_norm, _rms_norm_rule, saves=True, unused=(0,))


def rms_norm(x: Any, /, weight: Any = None, *, eps: float = 1e-5) -> Any:
    """Divide each vector along the last axis by its root mean square, then scale it.

    Parameters
    ----------
    x : array of shape (..., width)
        Real floating.
    weight : array of shape (width,), optional
        Factors.
    eps : float, default: 1e-5
        Added to the mean square.

    Returns
    -------
    array
        Of the shape and dtype of `x`. Half precision is summed in float32.

    Raises
    ------
    DataError
        If `x` has no axis, or `weight` does not have its width.
    DTypeError
        If `x` is not real floating.

    References
    ----------
    B. Zhang, R. Sennrich, "Root mean square layer normalization", arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.rms_norm(np.asarray([[2.0, -2.0]]), eps=0.0)
    array([[ 1., -1.]])
    """
    _check("rms_norm", x, weight=weight)
    return _rms_norm_op(x, weight, eps=eps)
