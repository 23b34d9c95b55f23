"""Pytrees: a thin module over optree, in the namespace "xdev".

Requirements: dicts, lists, tuples, namedtuples and registered classes are nodes, `None` is an empty node,
everything else is a leaf. Dictionaries are walked in sorted key order, as JAX does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import optree

__all__ = [
    "Path",
    "TreeDef",
    "flatten",
    "flatten_with_paths",
    "is_leaf",
    "leaves",
    "map",
    "one_level",
    "path_string",
    "register",
    "steps",
    "structure",
    "unflatten",
    "unique",
]

NAMESPACE = "xdev"
TreeDef = optree.PyTreeSpec
Path = optree.PyTreeAccessor
IsLeaf = Callable[[Any], bool] | None


def flatten(tree: Any, is_leaf: IsLeaf = None) -> tuple[list[Any], TreeDef]:
    """Return the leaves of a tree, in order, and its structure."""
    return optree.tree_flatten(tree, is_leaf, namespace=NAMESPACE)


def flatten_with_paths(tree: Any, is_leaf: IsLeaf = None) -> tuple[list[Path], list[Any], TreeDef]:
    """Return the path of each leaf, the leaves, and the structure."""
    return optree.tree_flatten_with_accessor(tree, is_leaf, namespace=NAMESPACE)


def unflatten(treedef: TreeDef, leaves: Iterable[Any]) -> Any:
    """Return the tree of that structure with these leaves."""
    return optree.tree_unflatten(treedef, leaves)


def leaves(tree: Any, is_leaf: IsLeaf = None) -> list[Any]:
    """Return the leaves of a tree, in order."""
    return optree.tree_leaves(tree, is_leaf, namespace=NAMESPACE)


def is_leaf(x: Any) -> bool:
    """Return whether `x` is no container."""
    return optree.tree_is_leaf(x, namespace=NAMESPACE)


def one_level(node: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """Return the children of a container, and the key, position or field name of each."""
    found = optree.tree_flatten_one_level(node, namespace=NAMESPACE)
    names = node._fields if optree.is_namedtuple(node) else found.entries
    return list(found.children), tuple(names)


def steps(path: Path) -> tuple[Any, ...]:
    """Return the keys, positions and field names of a path."""
    return tuple(step.field if isinstance(step, optree.NamedTupleEntry) else step.entry for step in path)


def structure(tree: Any, is_leaf: IsLeaf = None) -> TreeDef:
    """Return the structure of a tree."""
    return optree.tree_structure(tree, is_leaf, namespace=NAMESPACE)


def map(function: Callable[..., Any], tree: Any, *rest: Any, is_leaf: IsLeaf = None) -> Any:
    """Return the tree with `function` applied to each leaf (and the leaves of `rest` at the same places)."""
    return optree.tree_map(function, tree, *rest, is_leaf=is_leaf, namespace=NAMESPACE)


def register(
    cls: type,
    flatten_node: Callable[[Any], tuple[Iterable[Any], Hashable, Iterable[Any]]],
    unflatten_node: Callable[[Any, Iterable[Any]], Any],
) -> None:
    """Make instances of `cls` tree nodes: `flatten_node` gives (children, static data, field names)."""
    optree.register_pytree_node(
        cls,
        flatten_node,  # type: ignore[arg-type]  # optree types the names as entries of a protocol
        unflatten_node,
        path_entry_type=optree.GetAttrEntry,
        namespace=NAMESPACE,
    )


def path_string(path: Path, root: str = "") -> str:
    """Return a path as one would write it: `batch['x'][0].weight`."""
    return path.codify(root)


def unique(items: list[Any]) -> tuple[list[Any], list[int]]:
    """Return the distinct objects (by identity, in order) and, for each item, its place among them."""
    places: dict[int, int] = {}
    distinct: list[Any] = []
    index = []
    for item in items:
        place = places.setdefault(id(item), len(distinct))
        if place == len(distinct):
            distinct.append(item)
        index.append(place)
    return distinct, index
