"""Functions whose gradient the user shapes: `custom_vjp` gives the rule, `remat` computes anew what backward needs.

Requirements: native where the backend offers it, else one record on xdev's own tape; trees wherever arrays can stand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import autodiff, tree
from .contract import Backend, dtype_name
from .device import namespace, native_of
from .differentiation import is_differentiable, take_apart
from .errors import ArrayTypeError, GradientError, a
from .floating import default_as, default_float, holding

__all__ = ["custom_vjp", "remat"]

Leaves = list[Any]


def remat(f: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that keeps its arguments for backward, and nothing that it computes on the way.

    Backward runs `f` again. Of a chain of n layers in groups of √n, each within `remat`, memory holds about 2√n
    results instead of n, for the time of one forward pass more [1]_.

    Parameters
    ----------
    f : callable
        Takes and returns trees of arrays: a function, or a module. It must not keep state: a generator is passed in and
        returned, as in `jit`, and one that is only drawn from stays where it was. Arrays that shall be differentiated
        are arguments, or in the module.

    Returns
    -------
    callable
        The same function.

    Raises
    ------
    GradientError
        When called: if `f` takes an array under differentiation from outside, where xdev's own tape would not know it.

    References
    ----------
    .. [1] T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training deep nets with sublinear memory cost", 2016.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> square = xdev.remat(lambda x: x * x)
    >>> xdev.grad(lambda x: xdev.namespace(x).sum(square(x)))(np.asarray([1.0, 2.0]))
    array([2., 4.])
    """

    @functools.wraps(f, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        arrays, rebuild = take_apart((f, args, kwargs))
        if not arrays:
            return f(*args, **kwargs)
        box: list[Callable[[Leaves], Any]] = []
        dtype = default_float.get()

        def of_arrays(arrays: Leaves) -> Leaves:
            function, args, kwargs = rebuild(arrays)
            with default_as(dtype):  # backward may run elsewhere
                out, rebuild_out = take_apart(function(*args, **kwargs))
            box[:] = [rebuild_out]
            return out

        backend = _backend_of(arrays)
        native = backend.remat(of_arrays)
        with holding(backend, arrays):
            out = autodiff.remat(of_arrays, arrays) if native is NotImplemented else native(arrays)
        return box[0](out)

    return wrapped


class custom_vjp:  # noqa: N801  a decorator, used like a function
    """A function with a gradient rule of its own; `defvjp` gives the rule.

    Parameters
    ----------
    f : callable
        Takes trees of arrays by position and returns a tree of arrays.

    Raises
    ------
    GradientError
        When differentiated: if there is no rule, or it gives cotangents that do not fit the arguments.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> @xdev.custom_vjp
    ... def clipped(x, limit):
    ...     return x
    >>> def forward(x, limit):
    ...     return clipped(x, limit), limit
    >>> def backward(limit, g):
    ...     return xdev.namespace(g).clip(g, -limit, limit), None
    >>> clipped.defvjp(forward, backward)
    >>> xdev.grad(lambda x: clipped(x, 0.5) ** 2)(np.asarray(2.0))
    array(0.5)
    """

    def __init__(self, f: Callable[..., Any]) -> None:
        if not callable(f):
            raise ArrayTypeError(f"custom_vjp takes a function, got {a(type(f).__name__)}")
        self._function = f
        self._forward: Callable[..., Any] | None = None
        self._backward: Callable[..., Any] | None = None
        functools.update_wrapper(self, f)

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """Give the rule.

        Parameters
        ----------
        forward : callable
            Takes what the function takes; returns `(value, residuals)`, the latter a tree that backward gets. It calls
            the function for the value, so that higher orders follow the rule too.
        backward : callable
            `backward(residuals, cotangent)` returns a tuple with the cotangent of each argument, a tree of its
            structure; None where there is none. Written with functions of `xdev.namespace`, it is differentiated for
            higher orders.

        Raises
        ------
        ArrayTypeError
            If one of them cannot be called.
        """
        for word, rule in (("forward", forward), ("backward", backward)):
            if not callable(rule):
                raise ArrayTypeError(
                    f"defvjp takes two functions, forward and backward; {word} is {a(type(rule).__name__)}"
                )
        self._forward, self._backward = forward, backward

    def __call__(self, *args: Any) -> Any:
        """Compute the function."""
        arrays, rebuild = take_apart(args)
        if not arrays:
            return self._function(*args)
        if self._forward is None or self._backward is None:
            raise GradientError(
                f"{self.__name__} has no gradient rule yet; give it one: {self.__name__}.defvjp(forward, backward)"
            )
        rule = _Rule(self.__name__, self._function, self._forward, self._backward, args, rebuild)
        backend = _backend_of(arrays)
        native = backend.custom_vjp(rule.function, rule.forward, rule.backward)
        with holding(backend, arrays):
            if native is NotImplemented:
                out = autodiff.custom_vjp(self.__name__, rule.function, rule.forward, rule.backward, arrays)
            else:
                out = native(arrays)
        return rule.rebuild_value(out)

    __name__: str


class _Rule:
    """A rule for trees as one for lists of arrays, for one call."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        forward: Callable[..., Any],
        backward: Callable[..., Any],
        args: tuple[Any, ...],
        rebuild: Callable[[Leaves], Any],
    ) -> None:
        self._name, self._function, self._forward, self._backward = name, function, forward, backward
        self._args = args
        self._rebuild = rebuild
        self.rebuild_value: Callable[[Leaves], Any] = lambda out: out
        self._rebuild_residuals: Callable[[Leaves], Any] = lambda out: out

    def function(self, arrays: Leaves) -> Leaves:
        out, self.rebuild_value = take_apart(self._function(*self._rebuild(arrays)))
        return out

    def forward(self, arrays: Leaves) -> tuple[Leaves, Leaves]:
        both = self._forward(*self._rebuild(arrays))
        if not isinstance(both, tuple) or len(both) != 2:
            raise GradientError(
                f"the forward rule of {self._name} returns (value, residuals); got {a(type(both).__name__)}"
            )
        out, self.rebuild_value = take_apart(both[0])
        residuals, self._rebuild_residuals = take_apart(both[1])
        return out, residuals

    def backward(self, residuals: Leaves, cotangents: Leaves) -> Leaves:
        """Return the cotangent of each array among the arguments, None where there is none."""
        found = self._backward(self._rebuild_residuals(residuals), self.rebuild_value(cotangents))
        if not isinstance(found, tuple) or len(found) != len(self._args):
            count = f"a tuple of {len(found)}" if isinstance(found, tuple) else a(type(found).__name__)
            raise GradientError(
                f"the backward rule of {self._name} returns a tuple with a cotangent for each of the {len(self._args)} "
                f"arguments, None where there is none; got {count}"
            )
        pulled: Leaves = []
        for number, (arg, part) in enumerate(zip(self._args, found, strict=True)):
            leaves, treedef = tree.flatten(arg)
            parts = [None] * len(leaves) if part is None else self._parts(part, treedef, number)
            pulled += [c for leaf, c in zip(leaves, parts, strict=True) if native_of(leaf) is not None]
        arrays = [leaf for leaf in tree.leaves(self._args) if native_of(leaf) is not None]
        return [
            self._fitting(c, x, cotangents, place) if c is not None and is_differentiable(x) else None
            for place, (c, x) in enumerate(zip(pulled, arrays, strict=True))
        ]

    def _fitting(self, cotangent: Any, x: Any, cotangents: Leaves, place: int) -> Any:
        """Return a cotangent as an array like its argument; a number for an argument without axes."""
        shape, dtype = tuple(x.shape), dtype_name(x.dtype)
        if isinstance(cotangent, int | float | complex) and not hasattr(cotangent, "dtype") and shape == ():
            return namespace(cotangents[0]).full((), cotangent, dtype=x.dtype)
        got = a(type(cotangent).__name__)
        if hasattr(cotangent, "dtype") and hasattr(cotangent, "shape"):
            got = f"{dtype_name(cotangent.dtype)} of shape {tuple(cotangent.shape)}"
            theirs, ours = native_of(cotangent), native_of(x)
            if theirs is not None and ours is not None and theirs[0] is not ours[0]:
                got += f" on {theirs[0]}"
            elif tuple(cotangent.shape) == shape and dtype_name(cotangent.dtype) == dtype:
                return cotangent
        raise GradientError(
            f"the backward rule of {self._name} gave {got} for array {place} of the arguments, which is {dtype} of "
            f"shape {shape}; cotangents are like the arguments"
        )

    def _parts(self, part: Any, treedef: tree.TreeDef, number: int) -> Leaves:
        leaves, found = tree.flatten(part)
        if found != treedef:
            raise GradientError(
                f"the backward rule of {self._name} gave a cotangent of structure {found} for args[{number}], which "
                f"has {treedef}"
            )
        return leaves


def _backend_of(arrays: Leaves) -> Backend:
    """Return the backend that has gradients to tell: that of what is traced, or else not of the host, or else any."""
    owners = [owned[0] for x in arrays if (owned := native_of(x)) is not None]
    for x, owner in zip(arrays, owners, strict=True):
        if hasattr(type(x), "__xdev_value__"):
            return owner
    return next((owner for owner in owners if not owner.is_host), owners[0])
