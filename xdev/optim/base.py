"""What an optimizer is: a pair of pure functions, as optax has them, and perhaps the name of a fused update.

Requirements: `params` is any tree; floating leaves that no module marks as buffer or frozen are updated, nothing else
is touched; leaves tied within a model stay tied.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import tree
from ..contract import Backend, dtype_name
from ..device import namespace, native_of, scope_of
from ..differentiation import is_complex, is_differentiable
from ..errors import ArrayTypeError, GradientError, a
from ..ops._checks import widen
from ..options import need_number
from ..tree_marks import trainable_mask

__all__ = ["Optimizer", "ScalarOrSchedule", "apply_updates", "chain", "map_trainable"]

ScalarOrSchedule = float | Callable[[Any], Any]


@dataclass(frozen=True)
class Optimizer:
    """A pair of pure functions over trees of parameters.

    Attributes
    ----------
    init : callable
        `init(params) -> state`.
    update : callable
        `update(grads, state, params) -> (updates, state)`; `apply_updates` adds the updates. Of complex parameters it
        takes the conjugates of what `xdev.grad` returns, as optax does; a step gives it those.
    fused : str or None
        The name under which a backend may offer an in-place update that does the same (`Backend.inplace_update`).
    hyper : mapping
        The keyword arguments of the fused update.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]
    fused: str | None = None
    hyper: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "init", _where_arrays_are(self.init))
        object.__setattr__(self, "update", _where_arrays_are(self.update))


def _where_arrays_are(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that enters the device of its last argument, for frameworks that compute on a current one."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaf = next((leaf for leaf in tree.leaves(args[-1:]) if is_differentiable(leaf)), None)
        owned = None if leaf is None else native_of(leaf)
        if owned is None or type(owned[0]).scope is Backend.scope:
            return function(*args, **kwargs)
        with scope_of(leaf):
            return function(*args, **kwargs)

    return call


def map_trainable(function: Callable[..., Any], params: Any, *rest: Any, other: Callable[[Any], Any]) -> Any:
    """Map over the leaves that are trained; the others give `other(leaf)`."""
    leaves, treedef = tree.flatten(params)
    mask = trainable_mask(params, treedef)
    columns = [tree.leaves(r) for r in rest]
    for column in columns:
        if len(column) != len(leaves):
            raise GradientError(
                f"the parameters have {_count(leaves)}, and gradients, updates or an optimizer's state for them "
                f"{_count(column)}; an optimizer works on trees of one structure: make its state anew with "
                "optimizer.init(params), and take gradients of these parameters"
            )
    out = []
    for position, (leaf, allowed) in enumerate(zip(leaves, mask, strict=True)):
        if allowed and is_differentiable(leaf):
            out.append(function(leaf, *(column[position] for column in columns)))
        else:
            out.append(other(leaf))
    return tree.unflatten(treedef, out)


def _count(leaves: list[Any]) -> str:
    return f"{len(leaves)} {'leaf' if len(leaves) == 1 else 'leaves'}"


def zeros_like(leaf: Any) -> Any:
    """Return zeros of a leaf's shape and dtype on its device; 0 for what is no array."""
    return namespace(leaf).zeros_like(leaf) if hasattr(leaf, "dtype") else 0


def first_array(params: Any) -> Any:
    """Return the first array of a tree."""
    for leaf in tree.leaves(params):
        if hasattr(leaf, "dtype"):
            return leaf
    raise GradientError(f"the parameters are {a(type(params).__name__)} without any array; there is nothing to train")


def apply_updates(params: Any, updates: Any, /) -> Any:
    """Add updates to parameters.

    Parameters
    ----------
    params : tree
        Parameters or a model.
    updates : tree
        Of the same structure, as an optimizer's `update` returns them.

    Returns
    -------
    tree
        New parameters in their own dtypes; leaves that are not trained come back as they are, and tied leaves tied.

    Raises
    ------
    GradientError
        If the updates have more leaves than the parameters, or fewer.

    Examples
    --------
    >>> import numpy as np
    >>> from xdev import optim
    >>> optim.apply_updates({"w": np.ones(2)}, {"w": np.full(2, -0.5)})
    {'w': array([0.5, 0.5])}
    """
    done: dict[int, Any] = {}

    def add(leaf: Any, update: Any) -> Any:
        if id(leaf) not in done:
            xp = namespace(leaf)
            total = xp.add(leaf, update)
            if total.dtype != leaf.dtype:
                total = xp.astype(total, leaf.dtype)
            done[id(leaf)] = total
        return done[id(leaf)]

    return map_trainable(add, params, updates, other=lambda leaf: leaf)


def chain(*transforms: Any) -> Optimizer:
    """Run transformations one after another.

    Parameters
    ----------
    *transforms : Optimizer
        Each gets the updates of the one before.

    Returns
    -------
    Optimizer
        Its state is the tuple of their states.

    Raises
    ------
    ArrayTypeError
        If one has no `init` and `update`.

    Examples
    --------
    >>> from xdev import optim
    >>> optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-3))
    """
    for position, transform in enumerate(transforms):
        if not (callable(getattr(transform, "init", None)) and callable(getattr(transform, "update", None))):
            got, remedy = a(type(transform).__name__), ""
            if inspect.isfunction(transform):
                got, remedy = f"the function {transform.__name__}", ": call it"
            elif isinstance(transform, list | tuple):
                remedy = ": pass its items one by one"
            raise ArrayTypeError(
                "chain takes optimizers and transformations, such as optim.clip_by_global_norm(1.0), got "
                f"{got} at {position}{remedy}"
            )

    def init(params: Any) -> Any:
        return tuple(transform.init(params) for transform in transforms)

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        states = []
        for transform, its in zip(transforms, state, strict=True):
            grads, new = transform.update(grads, its, params)
            states.append(new)
        return grads, tuple(states)

    return Optimizer(init, update)


def counter(params: Any) -> Any:
    """Return a step count of zero where the parameters are: int32, shape ()."""
    xp = namespace(first_array(params))
    return xp.zeros((), dtype=xp.int32)


def need_rate(owner: str, learning_rate: Any) -> Any:
    """Return a learning rate that can be used; schedules and 0-d arrays as they are."""
    is_array = hasattr(learning_rate, "dtype") and not isinstance(learning_rate, np.generic)
    if callable(learning_rate) or (is_array and learning_rate.shape == ()):
        return learning_rate
    takes = f"{owner} takes learning_rate, a finite number of 0 or more or a schedule"
    return need_number(takes, learning_rate, least=0)


def rate(learning_rate: ScalarOrSchedule, count: Any) -> Any:
    """Return the learning rate of the step numbered `count` from zero."""
    return learning_rate(count) if callable(learning_rate) else learning_rate


def scalar_dtype(xp: Any, params: Any) -> Any:
    """Return the dtype of scalars that go with parameters: real, and float32 at least."""
    names = {dtype_name(x.dtype) for x in tree.leaves(params) if is_differentiable(x)}
    return xp.float64 if names & {"float64", "complex128"} else xp.float32


def squared(x: Any) -> Any:
    """Return `|x|²`, which is real."""
    xp = namespace(x)
    return xp.real(xp.multiply(x, xp.conj(x))) if is_complex(x) else xp.multiply(x, x)


def widened(x: Any) -> Any:
    """Return an array of half precision in float32, another as it is."""
    return x if is_complex(x) else widen(namespace(x), x)


def scaled(x: Any, factor: Any) -> Any:
    """Return `x * factor` in the dtype of `x`; `factor` may be a 0-d array."""
    xp = namespace(x)
    if hasattr(factor, "dtype") and dtype_name(factor.dtype) != dtype_name(x.dtype):
        factor = xp.astype(factor, x.dtype)
    return xp.multiply(x, factor)
