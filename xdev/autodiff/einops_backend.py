"""einops on traced arrays: einops finds its backends among the subclasses of one class, so importing this is enough.

Requirements: imported only where einops is loaded; every step is a function of the traced namespace.
"""

from __future__ import annotations

import math
from typing import Any

from einops._backends import AbstractBackend

from ..device import namespace
from .array import TracedArray

__all__ = ["TracedBackend"]


class TracedBackend(AbstractBackend):  # type: ignore[misc]  # einops is Any to mypy
    """What einops calls, on traced arrays; beside the first, others may be the framework's own."""

    framework_name = "xdev"

    def is_appropriate_type(self, tensor: Any) -> bool:
        return type(tensor) is TracedArray

    def to_numpy(self, x: TracedArray) -> Any:
        return x.__array__()  # raises, and says what to do

    def reshape(self, x: Any, shape: Any) -> Any:
        return namespace(x).reshape(x, tuple(shape))

    def transpose(self, x: TracedArray, axes: Any) -> Any:
        return x.xp.permute_dims(x, tuple(axes))

    def reduce(self, x: TracedArray, operation: str, axes: Any) -> Any:
        return getattr(x.xp, operation)(x, axis=tuple(axes))

    def stack_on_zeroth_dimension(self, tensors: Any) -> Any:
        return tensors[0].xp.stack(tensors)

    def add_axis(self, x: TracedArray, new_position: int) -> Any:
        return x.xp.expand_dims(x, axis=new_position)

    def tile(self, x: TracedArray, repeats: Any) -> Any:
        return x.xp.tile(x, tuple(repeats))

    def concat(self, tensors: Any, axis: int) -> Any:
        return tensors[0].xp.concat(tensors, axis=axis)

    def is_float_type(self, x: TracedArray) -> bool:
        return x.xp.isdtype(x.dtype, "real floating")  # type: ignore[no-any-return]

    def einsum(self, pattern: str, *arrays: Any) -> Any:
        inputs, out = pattern.split("->")
        terms = inputs.split(",")
        hidden = [x.ndim + 3 - len(term) if "..." in term else 0 for x, term in zip(arrays, terms, strict=True)]
        dots = "".join(map(chr, range(256, 256 + max(hidden))))  # a letter for each axis of the ellipsis
        terms = [term.replace("...", dots[len(dots) - n :]) for term, n in zip(terms, hidden, strict=True)]
        out = out.replace("...", dots)
        xp = arrays[0].xp
        x, axes = _diagonal(xp, arrays[0], terms[0])
        for k, y in enumerate(arrays[1:], start=1):
            x, axes = _contract(xp, x, axes, *_diagonal(xp, y, terms[k]), out + "".join(terms[k + 1 :]))
        x, axes = _keep(xp, x, axes, out)
        return xp.permute_dims(x, tuple(map(axes.index, out)))


def _diagonal(xp: Any, x: Any, axes: str) -> tuple[Any, str]:
    """Take the diagonal over axes of one letter."""
    while repeated := next((axis for axis in axes if axes.count(axis) > 1), ""):
        i = axes.index(repeated)
        x = xp.linalg.diagonal(xp.moveaxis(xp.moveaxis(x, axes.index(repeated, i + 1), -1), i, -1))
        axes = axes.replace(repeated, "", 2) + repeated
    return x, axes


def _keep(xp: Any, x: Any, axes: str, wanted: str) -> tuple[Any, str]:
    """Sum over the axes that nobody wants."""
    over = tuple(k for k, axis in enumerate(axes) if axis not in wanted)
    return xp.sum(x, axis=over) if over else x, "".join(axis for axis in axes if axis in wanted)


def _contract(xp: Any, x: Any, a: str, y: Any, b: str, wanted: str) -> tuple[Any, str]:
    """Multiply two arrays with these axes, and sum over those of both that nobody wants."""
    (x, a), (y, b) = _keep(xp, x, a, wanted + b), _keep(xp, y, b, wanted + a)
    batch, inner = ([axis for axis in a if axis in b and (axis in wanted) is kept] for kept in (True, False))
    left, right = [axis for axis in a if axis not in b], [axis for axis in b if axis not in a]

    def matrices(z: Any, axes: str, rows: list[str], columns: list[str]) -> tuple[Any, Any]:
        z = xp.permute_dims(z, tuple(map(axes.index, batch + rows + columns)))
        split = len(batch) + len(rows)
        shape = z.shape[: len(batch)], z.shape[len(batch) : split], z.shape[split:]
        return xp.reshape(z, (*shape[0], math.prod(shape[1]), math.prod(shape[2]))), shape

    (x, (_, rows, _)), (y, (_, _, columns)) = matrices(x, a, left, inner), matrices(y, b, inner, right)
    product = xp.matmul(x, y)
    return xp.reshape(product, (*product.shape[:-2], *rows, *columns)), "".join(batch + left + right)
