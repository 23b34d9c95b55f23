"""JAX's errors, told as what they are in a function that runs on every backend."""

from __future__ import annotations

import re
from typing import Any

from xdev.errors import TracedValueError, XdevError, no_rule

__all__ = ["translate"]

_NO_RULE = re.compile(
    "(ifferentiation|ranspose) rule .*not implemented|JVP not implemented|not support JVP|^Derivatives of|"
    "everse-mode differentiation does not work"
)
_PASSED = frozenset({"jax", "jaxlib", "xdev", "xdev_jax", "array_api_compat", "contextlib", "numpy"})
"""Packages in which no line of the user's is."""
_STATIC = "pass what is fixed through static_argnums of xdev.jit"
_READ = f"keep it an array and read it outside; {_STATIC}; or leave out {{it}} and read xdev.stop_gradient(x)"


def translate(jax: Any, error: Exception) -> Exception | None:
    """Return what an error of JAX shall be told as; None if it stays."""
    text = str(error)
    if isinstance(error, XdevError):
        return None
    if _NO_RULE.search(text):
        return no_rule("jax", error)
    if isinstance(error, jax.errors.UnexpectedTracerError):
        return TracedValueError(
            "a traced array was used after the differentiation or compilation that made it had returned; return it as "
            "an auxiliary output (has_aux=True) instead of storing it"
        )
    found = _asked_for(jax.errors, error, text)
    if found is None:
        return None
    what, remedy = found
    if "for checkpoint" in text:
        why, it = "there is none yet while JAX traces the function for xdev.remat", "xdev.remat"
    elif _while_compiling(jax, error, text):
        why = "there is none yet while JAX compiles the function, as xdev.jit, make_step, fit and evaluate do"
        it = "xdev.jit"
    else:
        why, it = "JAX gives none under differentiation", ""
        remedy = "read xdev.stop_gradient(x), as in float(xdev.stop_gradient(x))"
    return TracedValueError(f"{what} needs the value of an array{_place(error)}, and {why}: {remedy.format(it=it)}")


def _asked_for(errors: Any, error: Exception, text: str) -> tuple[str, str] | None:
    """Return what asked for a value that is not known, and what to do instead."""
    if isinstance(error, errors.TracerBoolConversionError):
        return "if, while, and, or, not or bool()", f"write xp.where(condition, a, b); {_STATIC}; or leave out {{it}}"
    if isinstance(error, errors.NonConcreteBooleanIndexError):
        return "x[mask]", "its shape would depend on it; write xp.where(mask, x, 0), or leave out {it}"
    if isinstance(error, errors.TracerIntegerConversionError) or "concrete values of integer type" in text:
        return "range(), an index or a shape", f"take sizes from shapes; {_STATIC}; or leave out {{it}}"
    if isinstance(error, errors.TracerArrayConversionError):
        return "a function of NumPy", f"call functions of xp = xdev.namespace(x); {_READ}"
    if re.match("unsupported format string passed to .*Tracer", text):
        return "a format", _READ
    if not isinstance(error, errors.ConcretizationTypeError):
        return None
    name = re.search(r"with the `(\w+)` function|(\w+)\(\) method|(jnp\.\w+)(?:\(\)| argument)", text)
    return f"{next(filter(None, name.groups()))}()" if name else "a function", _READ


def _while_compiling(jax: Any, error: Exception, text: str) -> bool:
    """Return whether a compilation is or was under way, rather than a differentiation alone."""
    known = isinstance(error, jax.errors.NonConcreteBooleanIndexError) or "DynamicJaxprTracer" in text
    return known or "while tracing the function" in text or isinstance(jax.numpy.zeros(()), jax.core.Tracer)


def _place(error: Exception) -> str:
    """Return the line that raised, of the innermost file that is neither JAX's nor xdev's."""
    place = ""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _PASSED:
            place = f" ({frame.f_code.co_filename}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return place
