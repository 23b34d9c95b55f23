"""Derivatives beyond the gradient: `jvp`, `jacobian`, `hessian` and `hvp`, all made of `vjp`.

Requirements: the same numbers on every backend; trees wherever arrays can stand; what is not differentiated has zeros.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from . import tree
from .contract import dtype_name
from .device import namespace, native_of
from .differentiation import Split, argument_numbers, check_function, constants, is_differentiable, selected
from .errors import GradientError, a
from .floating import holding
from .transform import common_backend, grad, vjp

__all__ = ["hessian", "hvp", "jacobian", "jvp"]


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """Return the value of `f` and its derivative in a direction.

    The pullback of `f` is linear; its own pullback is the derivative, at the cost of two reverse passes.

    Parameters
    ----------
    f : callable
        Takes trees of arrays and returns a tree of arrays.
    primals : sequence of trees
        The arguments at which to evaluate it.
    tangents : sequence of trees
        The direction: for each argument a tree of its structure, with arrays of its arrays' shapes and dtypes. What
        stands in the place of leaves that are not differentiated is not looked at, and of tied leaves only the first.

    Returns
    -------
    value : tree
        `f(*primals)`.
    tangent : tree
        The derivative in that direction, of the value's structure.

    Raises
    ------
    GradientError
        If primals and tangents do not fit, or nothing can be differentiated.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.jvp(lambda x: x**3, (np.asarray([2.0]),), (np.asarray([1.0]),))
    (array([8.]), array([12.]))
    """
    check_function(f, "jvp")
    primals, tangents = _arguments(primals, "primals"), _arguments(tangents, "tangents")
    _check_tangents(primals, tangents)
    split = Split.of(primals)
    common_backend(split.leaves, primals, {}, "jvp")
    with _holding(split.leaves):
        value, pull = vjp(f, *primals)
        leaves, treedef = tree.flatten(value)
        zeros = [namespace(y).zeros_like(y) if hasattr(y, "dtype") else y for y in leaves]
        moving = [n for n, y in enumerate(leaves) if is_differentiable(y)]
        if not moving:
            return value, tree.unflatten(treedef, zeros)

        def pulled(*cotangents: Any) -> list[Any]:
            full = list(zeros)
            for n, cotangent in zip(moving, cotangents, strict=True):
                full[n] = cotangent
            return split.pick(pull(tree.unflatten(treedef, full)))

        _, push = vjp(pulled, *(zeros[n] for n in moving))
        for n, tangent in zip(moving, push(split.pick(tangents)), strict=True):
            zeros[n] = tangent
        return value, tree.unflatten(treedef, zeros)


def jacobian(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """Make a function that returns the derivatives of all elements of `f` by all elements of an argument.

    Parameters
    ----------
    f : callable
        Takes trees of arrays and returns a tree of arrays.
    argnums : int or sequence of int, default: 0
        The arguments to differentiate by.

    Returns
    -------
    callable
        Takes what `f` takes. Returns the tree of `f`'s value which holds, for each array of shape `m`, the tree of the
        argument (a tuple of them for several argnums), with an array of shape `m + n` for each of its arrays of shape
        `n`. It pulls back one element of the value after another.

    Raises
    ------
    GradientError
        When called: if `f` does not return arrays alone, or nothing can be differentiated.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.jacobian(lambda x: x * x)(np.asarray([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """
    check_function(f, "jacobian")
    return _jacobian(f, argnums)


def _jacobian(f: Callable[..., Any], argnums: int | Sequence[int], gradients: bool = False) -> Callable[..., Any]:
    """Make what `jacobian` does; if `f` gives gradients, what has none in them stands for itself."""
    single = isinstance(argnums, int)
    numbers = argument_numbers("argnums", argnums)

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        chosen = selected(f, args, numbers)
        split = Split.of(chosen)

        def of_chosen(*chosen: Any) -> Any:
            full = list(constants(backend, args))
            for number, x in zip(numbers, chosen, strict=True):
                full[number] = x
            return f(*full, **constants(backend, kwargs))

        backend = common_backend(split.leaves, args, kwargs, "jacobian")
        with _holding(split.leaves):
            value, pull = vjp(of_chosen, *chosen)
            leaves, treedef = tree.flatten(value)
            rows = []
            for number, leaf in enumerate(leaves):
                if is_differentiable(leaf):
                    row = _rows_of(leaf, functools.partial(_pull_one, pull, leaves, treedef, number))
                    rows.append(row[0] if single else row)
                elif gradients:
                    rows.append(leaf)
                else:
                    kind = f"an array of {dtype_name(leaf.dtype)}" if hasattr(leaf, "dtype") else a(type(leaf).__name__)
                    raise GradientError(f"jacobian takes functions that return floating arrays, and one is {kind}")
            return rows[0] if tree.is_leaf(value) else tree.unflatten(treedef, rows)

    return wrapped


def _pull_one(pull: Callable[..., Any], leaves: list[Any], treedef: Any, number: int, cotangent: Any) -> Any:
    """Pull back a cotangent of one of several arrays."""
    full = [namespace(y).zeros_like(y) if hasattr(y, "dtype") else y for y in leaves]
    full[number] = cotangent
    return pull(tree.unflatten(treedef, full))


def _rows_of(y: Any, pull: Callable[[Any], Any]) -> Any:
    """Return the derivatives of an array: those of its elements, stacked in its shape."""
    xp = namespace(y)
    shape = tuple(y.shape)
    size = math.prod(shape)
    if not size:
        return tree.map(lambda g: _stacked(xp, [g], shape), pull(xp.zeros_like(y)))
    numbers = xp.reshape(xp.arange(size), shape)
    pulled = [pull(xp.astype(xp.equal(numbers, n), y.dtype)) for n in range(size)]
    return tree.map(lambda *gs: _stacked(xp, gs, shape), *pulled)


def _stacked(xp: Any, gradients: Sequence[Any], shape: tuple[int, ...]) -> Any:
    """Stack the gradients of the elements of an array of that shape; what is not differentiated stands for itself."""
    first = gradients[0]
    if not is_differentiable(first):
        return first
    if not math.prod(shape):
        return xp.zeros((*shape, *first.shape), dtype=first.dtype)
    return xp.reshape(xp.stack(list(gradients)), (*shape, *first.shape))


def hessian(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """Make a function that returns the second derivatives of a loss.

    Parameters
    ----------
    f : callable
        Takes trees of arrays and returns a real scalar array.
    argnums : int or sequence of int, default: 0
        The arguments to differentiate by.

    Returns
    -------
    callable
        Takes what `f` takes. Returns the tree of the argument (a tuple of them for several argnums), which holds trees
        of it in turn: arrays of shape `m + n` for each two arrays of shapes `m` and `n`.

    Raises
    ------
    GradientError
        When called: if the loss is not a real floating scalar, or nothing can be differentiated.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.hessian(lambda x: xdev.namespace(x).sum(x**3))(np.asarray([1.0, 2.0]))
    array([[ 6.,  0.],
           [ 0., 12.]])
    """
    check_function(f, "hessian")
    return _jacobian(grad(f, argnums), argnums, gradients=True)


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, ...]:
    """Return the product of the second derivatives of a loss with a direction, without forming them.

    Parameters
    ----------
    f : callable
        Takes trees of arrays and returns a real scalar array.
    primals : sequence of trees
        The arguments at which to evaluate it.
    tangents : sequence of trees
        The direction, as in `jvp`.

    Returns
    -------
    tuple of trees
        The product, a tree of each argument's structure. It costs about two gradients.

    Raises
    ------
    GradientError
        If primals and tangents do not fit, the loss is not a real floating scalar, or nothing can be differentiated.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.hvp(lambda x: xdev.namespace(x).sum(x**3), (np.asarray([1.0, 2.0]),), (np.asarray([1.0, 1.0]),))
    (array([ 6., 12.]),)
    """
    check_function(f, "hvp")
    primals, tangents = _arguments(primals, "primals"), _arguments(tangents, "tangents")
    _check_tangents(primals, tangents)
    split = Split.of(primals)
    common_backend(split.leaves, primals, {}, "hvp")
    with _holding(split.leaves):
        gradient, pull = vjp(grad(f, tuple(range(len(primals)))), *primals)
        nothing = tree.map(lambda g: namespace(g).zeros_like(g) if hasattr(g, "dtype") else g, gradient)
        return pull(tuple(split.once(tangents, nothing)))


def _holding(leaves: list[Any]) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which their framework holds arrays as wide as these."""
    owned = native_of(leaves[0]) if leaves else None
    return contextlib.nullcontext() if owned is None else holding(owned[0], leaves)


# -- checks ------------------------------------------------------------------------------------------


def _arguments(given: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(given, tuple | list):
        raise GradientError(f"{name} is {a(type(given).__name__)}, expected a tuple with one entry an argument: (x,)")
    return tuple(given)


def _check_tangents(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> None:
    if len(primals) != len(tangents):
        raise GradientError(
            f"there are {len(primals)} primals and {len(tangents)} tangents; give one for each argument"
        )
    expected, found = tree.structure(primals), tree.structure(tangents)
    if expected != found:
        raise GradientError(f"the tangents have structure {found}, expected that of the primals, {expected}")
    paths = tree.flatten_with_paths(primals)[0]
    for path, x, t in zip(paths, tree.leaves(primals), tree.leaves(tangents), strict=True):
        if not is_differentiable(x):
            continue
        here, there = _kind(x), _kind(t)
        if here != there:
            raise GradientError(
                f"{tree.path_string(path, 'tangents')} is {there}, expected {here}, as its primal; a direction has the "
                "shapes and dtypes of the arguments"
            )


def _kind(x: Any) -> str:
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        return a(type(x).__name__)
    return f"{dtype_name(x.dtype)} of shape {tuple(x.shape)}"
