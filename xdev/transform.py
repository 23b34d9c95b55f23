"""Gradients and compilation of functions of trees: native where the backend offers it, else xdev's own reverse mode.

Requirements: arguments are trees; gradients have their structure, dtypes and device; only floating and complex leaves
that no module marks as buffer or frozen are differentiated, the others get zeros. Errors that come of arrays on
different devices are told as such.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from . import autodiff, registry, tree
from .contract import Backend, dtype_name
from .device import common_device, native_of, scope_of
from .differentiation import (
    Split,
    argument_numbers,
    check_function,
    constants,
    differentiate,
    fitting_cotangent,
    locked,
    named,
    names_of,
    selected,
    take_apart,
)
from .errors import GradientError, a
from .explanation import explained
from .floating import holding

__all__ = ["grad", "stop_gradient", "value_and_grad", "vjp"]


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Make a function that returns the value of `f` and its gradient.

    Parameters
    ----------
    f : callable
        Takes trees of arrays and returns a real scalar array, or `(scalar, auxiliary)` with `has_aux`.
    argnums : int or sequence of int, default: 0
        The arguments to differentiate.
    has_aux : bool, default: False
        Whether `f` also returns an auxiliary tree, which passes through.

    Returns
    -------
    callable
        Takes what `f` takes; returns `(value, gradient)`, or `((value, auxiliary), gradient)`. The gradient has the
        structure, dtypes and device of its argument (a tuple of them for several argnums), shares no memory with
        anything, and is never overwritten by a later call.

    Raises
    ------
    ArrayTypeError
        If `argnums` are no integers.
    GradientError
        When called: if the loss is not a real floating scalar array, or nothing can be differentiated.
    DeviceMismatchError
        When called: if the arguments, or arrays that `f` takes from outside, are on different devices.

    Warns
    -----
    UserWarning
        When called: if the loss depends on none of the arrays that it is differentiated by; their gradients are zero.
        Of some of them no word is said. JAX does not tell within another gradient.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> def loss(w, x):
    ...     xp = xdev.namespace(w, x)
    ...     return xp.sum((w * x) ** 2)
    >>> value, gradient = xdev.value_and_grad(loss)(np.asarray([1.0, 2.0]), np.asarray([3.0, 1.0]))
    >>> float(value), gradient
    (13.0, array([18.,  4.]))
    """
    check_function(f, "value_and_grad")
    single = isinstance(argnums, int)
    numbers = argument_numbers("argnums", argnums)

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        picked = selected(f, args, numbers)
        split = Split.of(picked)
        backend = common_backend(split.leaves, args, kwargs, "value_and_grad")
        aux_box: list[Any] = []

        def of_leaves(leaves: list[Any]) -> tuple[Any, list[Any]]:
            full = list(constants(backend, args))
            for number, tree_ in zip(numbers, split.join(leaves, backend), strict=True):
                full[number] = tree_
            out = f(*full, **constants(backend, kwargs))
            value, aux = _value_and_aux(out, has_aux)
            arrays, rebuild = take_apart(aux)
            aux_box.append(rebuild)
            return value, arrays

        given = tree.leaves((args, kwargs))
        wide, locks = holding(backend, given), locked(backend, given)
        with explained(backend, named(args, kwargs), f), scope_of(split.leaves[0]), wide, locks:
            names = lambda: names_of(split.leaves, [named(args, {})[number] for number in numbers])  # noqa: E731
            value, arrays, gradients = differentiate(backend, of_leaves, split.leaves, names)
            result = split.join_gradients(gradients)
        locks.free(arrays)
        gradient = result[0] if single else tuple(result)
        return ((value, aux_box[-1](arrays)), gradient) if has_aux else (value, gradient)

    return wrapped


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Make a function that returns the gradient of `f`.

    Parameters
    ----------
    f : callable
        As in `value_and_grad`.
    argnums : int or sequence of int, default: 0
        The arguments to differentiate.
    has_aux : bool, default: False
        Whether `f` also returns an auxiliary tree.

    Returns
    -------
    callable
        Returns the gradient, or `(gradient, auxiliary)` with `has_aux`.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> cube = lambda x: x**3
    >>> float(xdev.grad(xdev.grad(cube))(np.asarray(2.0)))
    12.0
    """
    check_function(f, "grad")
    both = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapped


def vjp(f: Callable[..., Any], *args: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Return the value of `f` and the function that pulls cotangents back to its arguments.

    Parameters
    ----------
    f : callable
        Takes trees of arrays and returns a tree of arrays.
    *args : trees of arrays
        Where to evaluate it.

    Returns
    -------
    value : tree
        `f(*args)`.
    pullback : callable
        Takes a cotangent of the value's structure and returns a tuple of gradients, one an argument; it can be
        called more than once.

    Raises
    ------
    GradientError
        If nothing can be differentiated; from the pullback, if the cotangent does not fit the value.
    DeviceMismatchError
        If the arguments, or arrays that `f` takes from outside, are on different devices.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> value, pullback = xdev.vjp(lambda x: x * x, np.asarray([1.0, 2.0]))
    >>> pullback(np.asarray([1.0, 1.0]))
    (array([2., 4.]),)
    """
    check_function(f, "vjp")
    split = Split.of(args)
    backend = common_backend(split.leaves, args, {}, "vjp")
    box: list[Callable[[list[Any]], Any]] = []
    on_tape = type(backend).vjp is Backend.vjp

    def of_leaves(leaves: list[Any]) -> list[Any]:
        arrays, rebuild = take_apart(f(*split.join(leaves, backend, copies=on_tape)))
        box.append(rebuild)
        return arrays

    with explained(backend, named(args, {}), f), scope_of(split.leaves[0]), holding(backend, split.leaves):
        native = backend.vjp(of_leaves, split.leaves)
        outputs, pull = autodiff.vjp(of_leaves, split.leaves) if native is NotImplemented else native
    value = box[-1](outputs)
    paths, parts, expected = tree.flatten_with_paths(value)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        leaves, treedef = tree.flatten(cotangent)
        if treedef != expected:
            raise GradientError(f"the cotangent has structure {treedef}, expected that of the value, {expected}")
        roots = lambda: [*named(args, {}), ("cotangent", cotangent)]  # noqa: E731
        wide = holding(backend, [*split.leaves, *parts])
        with explained(backend, roots, f), scope_of(split.leaves[0]), wide:
            pulled = [
                fitting_cotangent(c, y, tree.path_string(path, "cotangent"))
                for c, y, path in zip(leaves, parts, paths, strict=True)
                if native_of(y) is not None
            ]
            return tuple(split.join_gradients(pull(pulled)))

    return value, pullback


def stop_gradient(tree_: Any, /) -> Any:
    """Return a tree whose arrays are constants to every gradient.

    Parameters
    ----------
    tree_ : array or tree
        What no gradient shall flow through.

    Returns
    -------
    array or tree
        The same values; may share memory.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> float(xdev.grad(lambda x: x * xdev.stop_gradient(x))(np.asarray(3.0)))
    3.0
    """

    def stop(leaf: Any) -> Any:
        backend = registry.find_backend(leaf)
        if backend is not None:
            return backend.stop_gradient(leaf)
        return autodiff.stop_gradient(leaf) if hasattr(type(leaf), "__xdev_value__") else leaf

    return tree.map(stop, tree_)


def common_backend(leaves: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> Backend:
    """Return the backend of what is differentiated; refuse arguments of others."""
    if not leaves:
        raise GradientError(
            f"{what} found no array of a floating or complex dtype in the arguments to differentiate "
            f"({_summary(args)}); cast integers first, and pass lists of numbers through xdev.asarray"
        )
    backend = registry.backend_of(leaves[0])
    for leaf in tree.leaves((args, kwargs)):
        owner = registry.find_backend(leaf)
        if owner is not None and owner is not backend and not owner.has_no_device(leaf):
            common_device(named(args, kwargs), what)
    return backend


def _value_and_aux(out: Any, has_aux: bool) -> tuple[Any, Any]:
    if not has_aux:
        if isinstance(out, tuple | list):
            raise GradientError(
                f"value_and_grad needs a scalar loss, got {a(type(out).__name__)} of {len(out)}; "
                "has_aux=True takes (loss, auxiliary)"
            )
        return out, ()
    if not isinstance(out, tuple) or len(out) != 2:
        raise GradientError(f"has_aux=True needs (loss, auxiliary), got {a(type(out).__name__)}")
    return out


def _summary(args: tuple[Any, ...]) -> str:
    words = []
    for leaf in tree.leaves(args)[:4]:
        dtype = getattr(leaf, "dtype", None)
        words.append(type(leaf).__name__ if dtype is None else dtype_name(dtype))
    return ", ".join(words) or "there are no leaves"
