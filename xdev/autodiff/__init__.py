"""Reverse-mode differentiation over the Array API, for backends without gradients of their own.

Read in this order: `array` (what is traced), `tape` (what is recorded, and the walk back), `record` (functions that
record themselves), `rules/` (tables: the gradients), `namespace` (all functions of the standard), `engine`
(`value_and_grad`, `vjp`), `primitive` (functions with a rule of their own), `custom` (those that users make).
"""

from __future__ import annotations

from .array import TracedArray
from .custom import custom_vjp, remat
from .engine import lift, stop_gradient, value_and_grad, vjp
from .namespace import TracedNamespace, traced_namespace
from .primitive import Primitive
from .rules import CONSTANT, CREATION, DEFINED, ELEMENTWISE, GENERAL, PLAIN

__all__ = [
    "Primitive",
    "TracedArray",
    "TracedNamespace",
    "covered_names",
    "custom_vjp",
    "differentiable_names",
    "lift",
    "remat",
    "stop_gradient",
    "traced_namespace",
    "value_and_grad",
    "vjp",
]


def differentiable_names() -> frozenset[str]:
    """Return the names of the functions that gradients flow through.

    Returns
    -------
    frozenset of str
        The standard's names; those of extensions as "linalg.trace".

    Examples
    --------
    >>> from xdev.autodiff import differentiable_names
    >>> "matmul" in differentiable_names(), "argmax" in differentiable_names()
    (True, False)
    """
    return frozenset(name for name in {*ELEMENTWISE, *GENERAL, *DEFINED} if not name.endswith("_"))


def covered_names() -> frozenset[str]:
    """Return the names of all functions that take traced arrays, those with constant results included.

    Returns
    -------
    frozenset of str
        The standard's names; those of extensions as "linalg.trace".

    Examples
    --------
    >>> from xdev.autodiff import covered_names
    >>> {"matmul", "argmax", "zeros"} <= covered_names()
    True
    """
    return differentiable_names() | CONSTANT | CREATION | PLAIN
