"""Module: a model as a tree of arrays.

Requirements: what is an array, a module, or a container of them is a child; everything else is static and compared
by `==`. Whoever takes a module apart and puts it together again may put anything in the place of an array: such an
instance remembers which places are children, until they are assigned to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, dataclass_transform

from .. import tree
from ..errors import ArrayTypeError, a
from ._layout import CHILD, STATIC, Layout, Plan, covered, fits, plan_of
from ._summary import count, summary

__all__ = ["Module", "buffer", "field", "freeze", "parameter_count", "unfreeze"]

BUFFER = "xdev buffer"
M = TypeVar("M")


def field(*, buffer: bool = False, **options: Any) -> Any:
    """Declare a field of a module, with options as `dataclasses.field` has them.

    Parameters
    ----------
    buffer : bool, default: False
        Whether the field's arrays are no parameters: they get no gradients, no decay and no updates.
    **options
        Passed on to `dataclasses.field`.

    Returns
    -------
    object
        To be assigned in the class body.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> class Shift(xdev.nn.Module):
    ...     offset: object
    ...     scale: float = xdev.nn.field(default=1.0)
    >>> Shift(np.zeros(2)).scale
    1.0
    """
    metadata = {**options.pop("metadata", {}), BUFFER: buffer}
    return dataclasses.field(metadata=metadata, **options)


def buffer(**options: Any) -> Any:
    """Declare a field whose arrays are no parameters, such as batch statistics.

    Parameters
    ----------
    **options
        Passed on to `dataclasses.field`.

    Returns
    -------
    object
        To be assigned in the class body.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> class Counter(xdev.nn.Module):
    ...     seen: object = xdev.nn.buffer()
    >>> xdev.nn.parameter_count(Counter(np.zeros(3)))
    0
    """
    return field(buffer=True, **options)


# -- the class -----------------------------------------------------------------------------------------------


@dataclass_transform(eq_default=False, field_specifiers=(field, buffer, dataclasses.field))
class Module:
    """Base class of models: a subclass is a dataclass and a tree of the arrays that it holds.

    Fields that are arrays, modules, or containers of them are children, and appear under their names in paths such
    as `model.layers[0].weight`. All other fields are static: numbers, strings, functions, also functions in a list of
    modules. A subclass that defines `__init__` is used as it is; others get a dataclass's. Attributes can be
    assigned.

    Notes
    -----
    Two modules have the same structure if their static fields are equal by `==`; a compiled function is compiled
    anew for every other value. Modules themselves compare by identity.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> class Scale(xdev.nn.Module):
    ...     factor: object
    ...     power: int = 2
    ...     def __call__(self, x):
    ...         return (self.factor * x) ** self.power
    >>> model = Scale(np.asarray([1.0, 2.0]))
    >>> model(3.0)
    array([ 9., 36.])
    >>> xdev.tree.leaves(model)
    [array([1., 2.])]
    """

    __slots__ = ("__dict__", "__weakref__", "_xdev_frozen", "_xdev_layout", "_xdev_plans")

    _xdev_plans: dict[str, Plan]
    _xdev_layout: Layout | None
    _xdev_frozen: bool
    _xdev_own_init: bool = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance without memory of being put together from parts."""
        self = object.__new__(cls)
        _remember(self, {}, None, False)
        return self

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls._xdev_own_init = True
        dataclasses.dataclass(eq=False, repr=False, init=not cls._xdev_own_init)(cls)
        tree.register(cls, _flatten, _make_unflatten(cls))

    def __setattr__(self, name: str, value: Any) -> None:
        self._forget(name)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._forget(name)
        object.__delattr__(self, name)

    def _forget(self, name: str) -> None:
        if self._xdev_layout is not None or name in self._xdev_plans:
            plans = {key: plan for key, plan in self._xdev_plans.items() if key != name}
            _remember(self, plans, None, self._xdev_frozen)

    def __xdev_trainable__(self) -> list[bool]:
        """Return, for each child, whether its arrays are parameters."""
        names = _flatten(self)[2]
        buffers = _buffers(type(self))
        return [not self._xdev_frozen and name not in buffers for name in names]

    def __getstate__(self) -> dict[str, Any]:
        return {"fields": dict(self.__dict__), "frozen": self._xdev_frozen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["fields"])
        _remember(self, {}, None, state["frozen"])

    def __repr__(self) -> str:
        return summary(self)


def _buffers(cls: type) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(cls) if f.metadata.get(BUFFER))  # type: ignore[arg-type]


_set_plans, _set_layout, _set_frozen = (
    Module.__dict__[slot].__set__ for slot in ("_xdev_plans", "_xdev_layout", "_xdev_frozen")
)


def _remember(module: Module, plans: dict[str, Plan], layout: Layout | None, frozen: bool) -> None:
    _set_plans(module, plans)
    _set_layout(module, layout)
    _set_frozen(module, frozen)


def _children(module: Module, layout: Layout) -> list[Any] | None:
    """Return the children by a layout, or None if it is none of the module's any more."""
    values = module.__dict__
    for value in layout.static:
        if type(value) in (list, dict) and plan_of(value) is not STATIC:
            return None
    children = []
    for name, plan in zip(layout.names, layout.plans, strict=True):
        value = values[name]
        if plan is not CHILD:
            if not fits(value, plan):
                return None
            value = covered(value, plan)
        children.append(value)
    return children


def _flatten(module: Module) -> tuple[list[Any], Layout, tuple[str, ...]]:
    known_layout = module._xdev_layout
    if known_layout is not None:
        known_children = _children(module, known_layout)
        if known_children is not None:
            return known_children, known_layout, known_layout.names
    values, known = module.__dict__, module._xdev_plans
    names, plans, children, static_names, static = [], [], [], [], []
    declared = [f.name for f in dataclasses.fields(module) if f.name in values]  # type: ignore[arg-type]
    for name in (*declared, *(name for name in values if name not in declared)):
        value = values[name]
        plan = known.get(name)
        if plan is None or not fits(value, plan):
            plan = plan_of(value)
        if plan is STATIC:
            static_names.append(name)
            static.append(value)
        else:
            names.append(name)
            plans.append(plan)
            children.append(covered(value, plan))
    layout = Layout(tuple(names), tuple(plans), tuple(static_names), tuple(static), module._xdev_frozen)
    return children, layout, layout.names


def _make_unflatten(cls: type[Module]) -> Callable[[Layout, Iterable[Any]], Any]:
    def unflatten(layout: Layout, children: Iterable[Any]) -> Any:
        made = object.__new__(cls)
        values = made.__dict__
        values.update(zip(layout.names, children, strict=True))
        values.update(layout.statics)
        _set_plans(made, layout.plans_by_name)
        _set_layout(made, layout)
        _set_frozen(made, layout.frozen)
        return made

    return unflatten


# -- functions of models -------------------------------------------------------------------------------------


def _with_frozen(tree_: Any, frozen: bool, deep: bool) -> Any:
    """Return a copy of a tree with the flag on its modules: on the topmost, or on all."""

    def mark(node: Any) -> Any:
        if not isinstance(node, Module):
            return node
        leaves, treedef = tree.flatten(node)
        made = tree.unflatten(treedef, leaves)
        if deep:
            for name in _flatten(made)[2]:
                made.__dict__[name] = tree.map(mark, made.__dict__[name], is_leaf=_is_module)
        _remember(made, made._xdev_plans, None, frozen)
        return made

    return tree.map(mark, tree_, is_leaf=_is_module)


def _is_module(x: Any) -> bool:
    return isinstance(x, Module)


def freeze(module: M, /) -> M:
    """Return a copy whose arrays get no gradients, no decay and no updates.

    Parameters
    ----------
    module : Module or tree of modules
        What to freeze.

    Returns
    -------
    Module or tree of modules
        A copy that shares the arrays.

    Raises
    ------
    ArrayTypeError
        If there is no module in it.

    Examples
    --------
    >>> import xdev
    >>> layer = xdev.nn.Linear(2, 3, rng=xdev.random.Generator(0, "numpy"))
    >>> xdev.nn.trainable_mask(xdev.nn.freeze(layer))
    [False, False]
    """
    if not any(map(_is_module, tree.leaves(module, is_leaf=_is_module))):
        raise ArrayTypeError(
            f"freeze takes a module or a tree of modules, got {a(type(module).__name__)} without any; "
            "an array is kept constant with xdev.stop_gradient"
        )
    return _with_frozen(module, True, deep=False)  # type: ignore[no-any-return]


def unfreeze(module: M, /) -> M:
    """Return a copy in which no module is frozen.

    Parameters
    ----------
    module : Module or tree of modules
        What `freeze` returned, or a model that has it somewhere.

    Returns
    -------
    Module or tree of modules
        A copy that shares the arrays; buffers stay buffers.

    Examples
    --------
    >>> import xdev
    >>> layer = xdev.nn.freeze(xdev.nn.Linear(2, 3, rng=xdev.random.Generator(0, "numpy")))
    >>> xdev.nn.trainable_mask(xdev.nn.unfreeze(layer))
    [True, True]
    """
    return _with_frozen(module, False, deep=True)  # type: ignore[no-any-return]


def parameter_count(model: Any, /) -> int:
    """Return the number of parameters of a model, frozen ones included; tied arrays count once.

    Parameters
    ----------
    model : tree
        A module or any tree of arrays.

    Returns
    -------
    int
        Elements of the floating and complex arrays that are no buffers.

    Examples
    --------
    >>> import xdev
    >>> xdev.nn.parameter_count(xdev.nn.MLP([64, 256, 10], rng=xdev.random.Generator(0, "numpy")))
    19210
    """
    return count(model)
