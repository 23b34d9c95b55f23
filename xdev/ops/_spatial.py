"""Convolution and pooling of images, batch × channels × height × width.

The generic implementations go over the places of the window: each is a strided slice of the padded image, and its
gradient goes back into that slice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import ConfigurationError, DataError
from ._checks import check_arrays, check_floating, is_integer
from ._dispatch import Op

__all__ = ["avg_pool2d", "conv2d", "max_pool2d"]

Pair = tuple[int, int]


class Window(NamedTuple):
    """A window that slides over an image; lengths in pixels, (vertical, horizontal)."""

    size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def output(self, shape: tuple[int, ...]) -> Pair:
        """Return how often it fits into an image of shape (..., height, width)."""
        rows, columns = (
            (n + 2 * p - d * (size - 1) - 1) // s + 1 for n, size, s, p, d in zip(shape[-2:], *self, strict=True)
        )
        return rows, columns

    def places(self, output: Pair) -> Iterator[tuple[Any, ...]]:
        """Yield, for each place in the window, the index of its pixels in the padded image."""
        for place in itertools.product(range(self.size[0]), range(self.size[1])):
            yield (
                slice(None),
                slice(None),
                *(
                    slice(k * d, k * d + s * (n - 1) + 1, s)
                    for k, d, s, n in zip(place, self.dilation, self.stride, output, strict=True)
                ),
            )


def _pad(xp: Any, x: Any, padding: Pair, value: float) -> Any:
    for axis, width in zip((2, 3), padding, strict=True):
        if width:
            shape = tuple(width if k == axis else n for k, n in enumerate(x.shape))
            edge = xp.full(shape, value, dtype=x.dtype)
            x = xp.concat([edge, x, edge], axis=axis)
    return x


def _unpad(x: Any, padding: Pair) -> Any:
    rows, columns = padding
    if not rows and not columns:
        return x
    return x[:, :, rows : x.shape[2] - rows, columns : x.shape[3] - columns]


def _padded_shape(x: Any, padding: Pair) -> tuple[int, ...]:
    return (*x.shape[:2], x.shape[2] + 2 * padding[0], x.shape[3] + 2 * padding[1])


# -- convolution ---------------------------------------------------------------------------------------------


def columns_of(xp: Any, x: Any, window: Window, groups: int) -> Any:
    """Return the pixels under each window, of shape (batch, groups, channels × size, outputs)."""
    padded = _pad(xp, x, window.padding, 0.0)
    output = window.output(x.shape)
    taken = xp.stack([padded[place] for place in window.places(output)], axis=2)
    batch, channels = x.shape[:2]
    return xp.reshape(taken, (batch, groups, channels // groups * math.prod(window.size), math.prod(output)))


def _conv2d(xp: Any, x: Any, weight: Any, bias: Any = None, *, window: Window, groups: int) -> Any:
    columns = columns_of(xp, x, window, groups)
    kernel = xp.reshape(weight, (groups, weight.shape[0] // groups, -1))
    y = xp.reshape(xp.matmul(kernel, columns), (x.shape[0], weight.shape[0], *window.output(x.shape)))
    return y if bias is None else xp.add(y, xp.reshape(bias, (1, -1, 1, 1)))


def _conv2d_rule(
    xp: Any,
    g: Any,
    y: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    needs: Any,
    window: Window,
    groups: int,
) -> Any:
    batch, channels = x.shape[:2]
    output = window.output(x.shape)
    rows = xp.reshape(g, (batch, groups, weight.shape[0] // groups, math.prod(output)))
    for_x = for_weight = for_bias = None
    if needs[0]:
        kernel = xp.reshape(weight, (groups, weight.shape[0] // groups, -1))
        parts = xp.matmul(xp.matrix_transpose(kernel), rows)
        parts = xp.reshape(parts, (batch, channels, math.prod(window.size), *output))
        shape = _padded_shape(x, window.padding)
        for number, place in enumerate(window.places(output)):
            part = xp.put_(parts[:, :, number, :, :], place, shape)
            for_x = part if for_x is None else xp.add(for_x, part)
        for_x = _cropped(xp, for_x, window.padding)
    if needs[1]:
        columns = columns_of(xp, x, window, groups)
        each = xp.matmul(rows, xp.matrix_transpose(columns))
        for_weight = xp.reshape(xp.sum(each, axis=0), weight.shape)
    if len(needs) > 2 and needs[2]:
        for_bias = xp.sum(g, axis=(0, 2, 3))
    return for_x, for_weight, for_bias


def _cropped(xp: Any, x: Any, padding: Pair) -> Any:
    """Undo padding; a new array, since cotangents must share memory with nothing."""
    return xp.asarray(_unpad(x, padding), copy=True) if any(padding) else x


_conv2d_op = Op("conv2d", _conv2d, _conv2d_rule)


def _pair(op: str, name: str, value: Any, least: int) -> Pair:
    if type(value) is int and value >= least:
        return value, value
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or not all(is_integer(n) and n >= least for n in pair):
        raise ConfigurationError(f"{op} takes {name} as an int or a pair of ints of at least {least}, got {value!r}")
    return int(pair[0]), int(pair[1])


def _check_filters(x: Any, weight: Any, groups: Any) -> None:
    """Refuse images and filters that do not fit each other, saying why."""
    check_arrays("conv2d", x=x, weight=weight)
    if not is_integer(groups) or groups < 1:
        raise ConfigurationError(f"conv2d takes groups as a positive int, got {groups!r}")
    shape, filters = tuple(x.shape), tuple(weight.shape)
    why = ""
    if len(shape) != 4:
        why = f"x of shape (batch, channels, height, width), got {shape}"
    elif len(filters) != 4:
        why = f"weight of shape (out, channels / groups, rows, columns), got {filters}"
    elif shape[1] % groups:
        why = f"channels that groups divide, got {shape[1]} channels in x of shape {shape} and {groups=}"
    elif filters[1] * groups != shape[1]:
        why = (
            f"weight of shape (out, channels / groups, rows, columns) = (out, {shape[1] // groups}, rows, columns) "
            f"here, got {filters} with x of shape {shape} and {groups=}"
        )
    elif filters[0] % groups:
        why = f"filters that groups divide, got {filters[0]} filters in weight of shape {filters} and {groups=}"
    elif 0 in filters:
        why = f"at least one filter of at least one pixel, got weight of shape {filters}"
    if why:
        raise DataError(f"conv2d takes {why}")


def _check_image(op: str, x: Any, window: Window) -> None:
    check_floating(op, x)
    if x.ndim != 4:
        raise DataError(f"{op} takes x of shape (batch, channels, height, width), got {tuple(x.shape)}")
    if min(window.output(x.shape)) < 1:
        raise DataError(
            f"{op}: a window of size {window.size}, dilation {window.dilation} and padding {window.padding} does not "
            f"fit into an image of {tuple(x.shape[2:])}; take a smaller window, or more padding"
        )


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    /,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Any:
    """Slide filters over images (a cross-correlation, as in every framework).

    Parameters
    ----------
    x : array of shape (batch, channels, height, width)
        The images, real floating.
    weight : array of shape (out, channels / groups, rows, columns)
        The filters.
    bias : array of shape (out,), optional
        Summands.
    stride, padding, dilation : int or pair of int
        Steps between windows, zeros added on each side, and steps within a window, in pixels: (vertical, horizontal).
    groups : int, default: 1
        Into how many groups channels and filters are divided; each filter sees its group only.

    Returns
    -------
    array of shape (batch, out, height', width')
        With height' = (height + 2 padding - dilation (rows - 1) - 1) // stride + 1.

    Raises
    ------
    DataError
        If the shapes do not fit, or `groups` does not divide channels and filters.
    ConfigurationError
        If `stride`, `padding` or `dilation` is no int or pair of ints in range, or `groups` no positive int.
    DTypeError
        If `x` is not real floating.
    ArrayTypeError
        If an argument is no array.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.conv2d(np.ones((1, 1, 4, 4)), np.ones((2, 1, 3, 3)), padding=1)[0, 0]
    array([[4., 6., 6., 4.],
           [6., 9., 9., 6.],
           [6., 9., 9., 6.],
           [4., 6., 6., 4.]])
    """
    try:
        out, each, rows, columns = weight.shape
        fits = x.ndim == 4 and type(groups) is int and each * groups == x.shape[1] and out and rows and columns
    except (AttributeError, ValueError):
        fits = False
    if not fits or groups < 1 or out % groups:
        _check_filters(x, weight, groups)
    window = Window(
        (weight.shape[2], weight.shape[3]),
        _pair("conv2d", "stride", stride, 1),
        _pair("conv2d", "padding", padding, 0),
        _pair("conv2d", "dilation", dilation, 1),
    )
    _check_image("conv2d", x, window)
    if bias is None:
        return _conv2d_op(x, weight, window=window, groups=int(groups))
    check_arrays("conv2d", bias=bias)
    if tuple(bias.shape) != (weight.shape[0],):
        raise DataError(f"conv2d takes a bias of shape ({weight.shape[0]},) here, got {tuple(bias.shape)}")
    return _conv2d_op(x, weight, bias, window=window, groups=int(groups))


# -- pooling -------------------------------------------------------------------------------------------------


def _max_pool2d(xp: Any, x: Any, *, window: Window) -> Any:
    padded = _pad(xp, x, window.padding, -math.inf)
    y = None
    for place in window.places(window.output(x.shape)):
        y = padded[place] if y is None else xp.maximum(y, padded[place])
    return xp.asarray(y, copy=True) if math.prod(window.size) == 1 else y


def _max_pool2d_rule(xp: Any, g: Any, y: Any, x: Any, *, needs: Any, window: Window) -> Any:
    """Send each cotangent to the first of the largest pixels."""
    padded = _pad(xp, x, window.padding, -math.inf)
    free = xp.ones_like(y)
    for_x = None
    for place in window.places(window.output(x.shape)):
        chosen = xp.multiply(xp.astype(xp.equal(padded[place], y), y.dtype), free)
        free = xp.subtract(free, chosen)
        part = xp.put_(xp.multiply(g, chosen), place, padded.shape)
        for_x = part if for_x is None else xp.add(for_x, part)
    return (_cropped(xp, for_x, window.padding),)


_max_pool2d_op = Op("max_pool2d", _max_pool2d, _max_pool2d_rule)


def _avg_pool2d(xp: Any, x: Any, *, window: Window) -> Any:
    padded = _pad(xp, x, window.padding, 0.0)
    y = None
    for place in window.places(window.output(x.shape)):
        y = padded[place] if y is None else xp.add(y, padded[place])
    return xp.multiply(y, 1.0 / math.prod(window.size))


def _avg_pool2d_rule(xp: Any, g: Any, y: Any, x: Any, *, needs: Any, window: Window) -> Any:
    each = xp.multiply(g, 1.0 / math.prod(window.size))
    shape = _padded_shape(x, window.padding)
    for_x = None
    for place in window.places(window.output(x.shape)):
        part = xp.put_(each, place, shape)
        for_x = part if for_x is None else xp.add(for_x, part)
    return (_cropped(xp, for_x, window.padding),)


_avg_pool2d_op = Op("avg_pool2d", _avg_pool2d, _avg_pool2d_rule)


def _pool_window(op: str, size: Any, stride: Any, padding: Any) -> Window:
    pair = _pair(op, "size", size, 1)
    window = Window(
        pair,
        pair if stride is None else _pair(op, "stride", stride, 1),
        _pair(op, "padding", padding, 0),
        (1, 1),
    )
    if any(2 * p > n for p, n in zip(window.padding, pair, strict=True)):
        raise ConfigurationError(f"{op} takes padding of at most half the size {pair}, got {padding!r}")
    return window


def max_pool2d(x: Any, /, size: int | Pair, *, stride: int | Pair | None = None, padding: int | Pair = 0) -> Any:
    """Return the largest pixel of each window.

    Parameters
    ----------
    x : array of shape (batch, channels, height, width)
        Real floating.
    size : int or pair of int
        Of the window, in pixels: (vertical, horizontal).
    stride : int or pair of int, optional
        Steps between windows; `size` if it is not given.
    padding : int or pair of int, default: 0
        Added on each side, and never the largest.

    Returns
    -------
    array of shape (batch, channels, height', width')
        With height' = (height + 2 padding - rows) // stride + 1. The gradient goes to the first of equal pixels.

    Raises
    ------
    DataError
        If the window does not fit.
    ConfigurationError
        If `size`, `stride` or `padding` is no int or pair of ints in range.
    DTypeError
        If `x` is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    window = _pool_window("max_pool2d", size, stride, padding)
    _check_image("max_pool2d", x, window)
    return _max_pool2d_op(x, window=window)


def avg_pool2d(x: Any, /, size: int | Pair, *, stride: int | Pair | None = None, padding: int | Pair = 0) -> Any:
    """Return the mean of each window; padding counts as pixels of value 0.

    Parameters
    ----------
    x : array of shape (batch, channels, height, width)
        Real floating.
    size : int or pair of int
        Of the window, in pixels: (vertical, horizontal).
    stride : int or pair of int, optional
        Steps between windows; `size` if it is not given.
    padding : int or pair of int, default: 0
        Zeros added on each side.

    Returns
    -------
    array of shape (batch, channels, height', width')
        With height' = (height + 2 padding - rows) // stride + 1.

    Raises
    ------
    DataError
        If the window does not fit.
    ConfigurationError
        If `size`, `stride` or `padding` is no int or pair of ints in range.
    DTypeError
        If `x` is not real floating.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import ops
    >>> ops.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    window = _pool_window("avg_pool2d", size, stride, padding)
    _check_image("avg_pool2d", x, window)
    return _avg_pool2d_op(x, window=window)
