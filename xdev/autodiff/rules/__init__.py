"""What each function's gradient is: tables keyed by the Array API's names.

========== ==========================================================================================
table      entry
========== ==========================================================================================
ELEMENTWISE one partial derivative per array: `ONE`, `NEG_ONE`, a function (xp, y, *args), or a `Pullback`
           of a function (xp, g, y, *args) that gives the cotangent itself; products and `solve` are of this form too
GENERAL    one function (xp, g, y, *args, **kwargs) -> cotangent per leading argument, None where there is none;
           for an argument that is a list of arrays it returns a list of cotangents
DEFINED    a function (xp, *args, **kwargs) that computes the function with others
CONSTANT   names of functions whose result no gradient flows through
PLAIN      names of functions that answer about dtypes, shapes and devices
CREATION   names of functions that make arrays
INTERNAL   functions (xp, *args) that the standard has no name for; theirs end in an underscore
========== ==========================================================================================

The engine multiplies partial derivatives with the cotangent, sums over broadcast axes, casts to the dtype of the
argument, and calls a rule only for an argument that needs it. Rules are written with functions, not operators,
on arrays: they run on any backend, on traced arrays (for higher orders), on any device. Numbers in them are
Python's, never a framework's scalars, which would promote float32.
"""

from __future__ import annotations

from typing import Any

from . import constant, decompositions, elementwise, fourier, indexing, linear_algebra, manipulation, statistical

__all__ = [
    "CONSTANT", "CREATION", "DEFINED", "ELEMENTWISE", "FRESH", "GENERAL", "INTERNAL", "PLAIN", "SHAPES_ONLY",
    "WITH_ARRAYS",
]  # fmt: skip

Table = dict[str, Any]
MODULES = (constant, decompositions, elementwise, fourier, indexing, linear_algebra, manipulation, statistical)


def _merge(table: str) -> Table:
    return {name: rule for module in MODULES for name, rule in getattr(module, table, {}).items()}


ELEMENTWISE: Table = _merge("ELEMENTWISE")
GENERAL: Table = _merge("GENERAL")
DEFINED: Table = _merge("DEFINED")
INTERNAL: Table = indexing.INTERNAL
CONSTANT, PLAIN, CREATION = constant.CONSTANT, constant.PLAIN, constant.CREATION
WITH_ARRAYS = frozenset({"concat", "getitem_", "repeat", "scatter_", "stack", "take", "take_along_axis"})
"""Functions of GENERAL that differentiate one argument and take further arrays, or a list of them."""
FRESH = frozenset({*indexing.FRESH, *statistical.FRESH})
"""Functions of GENERAL whose cotangents are always new arrays, so that a gradient needs no copy."""
SHAPES_ONLY = frozenset({"concat", "setitem_", "stack", "where"})
"""Functions of GENERAL whose rules use no values of the arguments that have one."""
