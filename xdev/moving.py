"""One leaf, or the leaves of a tree, on the way to a device: what each is, and who moves it.

Requirements: one array that stands twice in a tree moves once, in containers that only a framework knows too. Paths
are worked out only where somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy as shallow_copy
from typing import Any

import numpy as np

from . import ledger, registry, tree
from .contract import Backend, Node, dtype_name
from .crossing import cast, cross, refuse_held, stay, take_in
from .device import ACCELERATORS, Device, Spec, device_of_array, find_in, host, native_of, parse
from .device import device as find_device
from .errors import CopyRequiredError, TransferError, a
from .nodes import is_saved_optimizer, open_node
from .values import NUMBERS, host_values, is_array_list, is_text_list, kind_of, numbers_as

__all__ = ["Target", "exports", "from_numbers", "move", "move_tree", "moves_whole", "target_of"]

Target = Callable[[Backend | None], Any]
"""The Device for arrays of a backend (None: for what has no framework yet); None leaves a traced array where it is."""

owners = registry.owners  # looked up where tenths of a microsecond count


# -- where to ----------------------------------------------------------------------------------------


def target_of(spec: Any) -> Target:
    """Return where arrays of each backend go for a specification, which may leave the framework open."""
    if isinstance(spec, str):
        parsed = parse(spec)
        if parsed.backend is None:
            return _keeping_framework(parsed)
    found = find_device(spec)
    return lambda backend: found


def _keeping_framework(spec: Spec) -> Target:
    found: dict[Backend | None, Device] = {}

    def target(backend: Backend | None) -> Device:
        if backend not in found:
            mine = None if backend is None else find_in(backend, spec)
            found[backend] = mine or find_device(spec.text)
        return found[backend]

    return target


# -- what stands in trees ----------------------------------------------------------------------------


def moves_whole(node: Any) -> bool:
    """Return whether a node is moved as one: a list of numbers, what knows how to move itself, what must be opened."""
    cls = type(node)
    if cls is list:
        return is_array_list(node)
    if cls is dict:
        return is_saved_optimizer(node)
    return cls not in owners and hasattr(cls, "__xdev_to_device__")


def exports(x: Any) -> bool:
    """Return whether an object hands out its memory by a protocol that all frameworks know."""
    cls = type(x)
    if isinstance(x, np.ma.MaskedArray):
        return False  # its export would lose the mask
    return hasattr(cls, "__dlpack__") or hasattr(cls, "__cuda_array_interface__")


def move(x: Any, target: Target, copy: bool | None, dtype: str | None, path: Any, alone: bool) -> Any:
    """Move one leaf; an array `alone` is cast to `dtype`, one in a tree only if that is of its kind."""
    backend = registry.find_backend(x)
    if backend is None:
        return _move_other(x, target, copy, dtype, path, alone)
    source = device_of_array(backend, x)
    to = target(backend)
    if dtype is not None and not alone and kind_of(dtype) != kind_of(dtype_name(x.dtype)):
        dtype = None
    if source is None:
        return _move_traced(x, backend, to, copy, dtype, path)
    if source is to and dtype is None:
        return stay(x, backend, copy, path)
    return cross(x, backend, source, to, copy, path, dtype)


def _move_traced(x: Any, backend: Backend, to: Device | None, copy: bool | None, dtype: str | None, path: Any) -> Any:
    """Move an array that its framework traces, as under jit: it has no device, and no values yet."""
    x = cast(x, backend, dtype)
    if to is None:
        return x
    if to.backend is not backend:
        raise TransferError(
            f"{path or 'the array'} is being traced by {backend}, as under jit, and has no values that could go to "
            f"{to}; move it outside, or return it"
        )
    return backend.place(x, to.info, copy)


def _move_other(x: Any, target: Target, copy: bool | None, dtype: str | None, path: Any, alone: bool) -> Any:
    """Move what no backend owns: numbers, lists of numbers, traced arrays, arrays of unknown frameworks."""
    if hasattr(type(x), "__xdev_to_device__"):
        moved = x.__xdev_to_device__(target(x.device.backend))
        return shallow_copy(x) if copy and moved is x else moved
    if hasattr(type(x), "__xdev_value__"):
        return _move_differentiated(x, target, dtype, alone)
    if isinstance(x, NUMBERS) or (isinstance(x, tuple) and all(isinstance(n, NUMBERS) for n in x)):
        return x  # the latter are tuples of another class, such as the shape of a tensor
    if exports(x):
        taken = take_in(x, target(None), copy, path, dtype if alone else None)
        return taken if alone or dtype is None else move(taken, target, None, dtype, path, False)
    if path is None or isinstance(path, _Path):
        node = open_node(x)
        if node is not None:
            return _move_node(node, x, target, copy, dtype, path)
        if path is not None and path.within and _may_stay(x):
            return x
    values = host_values(x, path)
    if copy is False:
        raise CopyRequiredError(f"{path or 'the argument'} is a list, which shares memory with no array")
    if dtype is not None and not alone and kind_of(dtype) != kind_of(dtype_name(values.dtype)):
        dtype = None
    return from_numbers(values, target(None), dtype, path)


def _may_stay(x: Any) -> bool:
    """Return whether a node may hold `x` beside its arrays: names, functions, options."""
    return is_text_list(x) if isinstance(x, list | tuple) else not isinstance(x, np.ndarray)


def _move_differentiated(x: Any, target: Target, dtype: str | None, alone: bool) -> Any:
    """Move an array that xdev differentiates, within its framework: a gradient does not cross frameworks."""
    backend, native = native_of(x) or (None, None)
    to = target(backend)
    if to is None or device_of_array(backend, native) is to:  # type: ignore[arg-type]  # it holds an array
        moved = x
    elif to.backend is backend:
        moved = x.to_device(to.native)
    else:
        raise TransferError(
            f"an array under differentiation is on {backend} and cannot go to {to}: gradients do not cross "
            "frameworks. Move it before, or take it out with xdev.stop_gradient"
        )
    if dtype is None or dtype_name(x.dtype) == dtype or not (alone or kind_of(dtype) == kind_of(dtype_name(x.dtype))):
        return moved
    return moved.__array_namespace__().astype(moved, backend.dtype(dtype))  # type: ignore[union-attr]  # as above


def from_numbers(values: np.ndarray, target: Device, dtype: str | None, path: Any) -> Any:
    """Return numbers of Python as an array on a device."""
    fitted = numbers_as(values, dtype, target, path)
    name = dtype_name(fitted.dtype)
    if not target.backend.holds(name, target.info):
        refuse_held(name, name, target, path)
    if target.is_host:
        return fitted
    return cross(fitted, host().backend, host(), target, None, path)


# -- trees -------------------------------------------------------------------------------------------


class _Path:
    """The path of the leaf at hand, worked out only where somebody asks, and what was moved on the way so far.

    Attributes
    ----------
    moved : dict
        What became of each leaf, by its id; and what nodes keep for one another.
    within : bool
        Whether it stands in a node that a framework or a class declares, and which may hold what cannot move.
    """

    def __init__(self, root: Any, prefix: Any = "tree", moved: dict[Any, Any] | None = None) -> None:
        self.root = root
        self.position = 0
        self.prefix = prefix
        self.within = moved is not None
        self.moved: dict[Any, Any] = {} if moved is None else moved

    def __str__(self) -> str:
        return tree.path_string(tree.flatten_with_paths(self.root, moves_whole)[0][self.position], str(self.prefix))


class _Step:
    """The path of a child of an opened node."""

    def __init__(self, parent: Any, step: str) -> None:
        self.parent, self.step = parent, step

    def __str__(self) -> str:
        return f"{'tree' if self.parent is None else self.parent}{self.step}"


def move_tree(tree_: Any, target: Target, copy: bool | None, dtype: str | None, path: _Path | None = None) -> Any:
    """Move the leaves of a tree; `path` says where it stands, if it stands in another."""
    leaves, treedef = tree.flatten(tree_, moves_whole)
    path = _Path(tree_) if path is None else path
    moved = path.moved
    if len(leaves) > FEW and dtype is None and copy is not False and not ledger.active():
        classes = set(map(type, leaves))
        if len(classes) == 1 and not path.within and len(set(map(id, leaves))) == len(leaves):
            out = _all_at_once(leaves, target, copy)
            if type(None) not in set(map(type, out)):
                return tree.unflatten(treedef, out)
            moved.update((id(leaf), done) for leaf, done in zip(leaves, out, strict=True) if done is not None)
        _move_many(leaves, classes, target, copy, moved)
    moved["alive", id(leaves)] = leaves  # what was moved is known by its id until all has
    for position, leaf in enumerate(leaves):
        if id(leaf) not in moved:
            path.position = position
            moved[id(leaf)] = move(leaf, target, copy, dtype, path, False)
    out = [moved[id(leaf)] for leaf in leaves]
    if path.within and all(done is leaf for done, leaf in zip(out, leaves, strict=True)):
        return tree_  # so that the node, too, comes back as the same object
    return tree.unflatten(treedef, out)


def _move_many(leaves: list[Any], classes: set[type], target: Target, copy: bool | None, moved: dict[Any, Any]) -> None:
    """Move the ordinary arrays among leaves, each once, and note what became of them."""
    for cls in classes:
        if cls in owners and owners[cls] is not None:
            same = list({id(leaf): leaf for leaf in leaves if type(leaf) is cls and id(leaf) not in moved}.values())
            done = _all_at_once(same, target, copy)
            moved.update((id(leaf), to) for leaf, to in zip(same, done, strict=True) if to is not None)


def _all_at_once(leaves: list[Any], target: Target, copy: bool | None) -> list[Any]:
    """Move arrays of one type at the price of the framework's own calls; None stands for each that goes alone.

    Those that two frameworks may share on an accelerator do.
    """
    backend = owners.get(type(leaves[0])) if leaves else None
    to = None if backend is None else target(backend)
    if backend is None or to is None or backend is to.backend or (not backend.is_host and to.kind in ACCELERATORS):
        return [None] * len(leaves)
    if backend.is_host:
        moved: list[Any] = to.backend.place_all(leaves, to.info, copy)
    elif to.is_host:
        moved = backend.to_host_all(leaves, copy)
    else:
        moved = to.backend.place_all(backend.to_host_all(leaves, None), to.info, copy)
    return moved


FEW = 8
"""Leaves up to which each is moved by itself."""


# -- nodes that only a framework, or a class, knows ------------------------------------------------------


def _move_node(node: Node, x: Any, target: Target, copy: bool | None, dtype: str | None, path: Any) -> Any:
    """Move what a node holds, and put it together again; the same object comes back if nothing moved."""
    if node.backend is not None and (to := target(node.backend)).backend is not node.backend:
        raise TransferError(
            f"{path or 'the argument'} is {a(type(x).__name__)}, which holds arrays of {node.backend} alone, and "
            f'cannot go to {to}; move what it holds: xdev.to_device({node.instead}, "{to}")'
        )
    moved = {} if path is None else path.moved
    moved["alive", id(node)] = node  # children made for this are known by their ids until all has moved
    children = {}
    for step, child in node.children.items():
        below = _Path(child, _Step(path, step), moved)
        children[step] = move_tree(child, target, copy, dtype, below)
    if all(children[step] is child for step, child in node.children.items()):
        return x
    return node.rebuild(children, moved)
