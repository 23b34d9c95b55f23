"""Marks on trees: which leaves may be trained, as far as the nodes that hold them say.

Requirements: a registered class may have a method `__xdev_trainable__`, which returns one bool per child, in the
order in which it flattens; False excludes every leaf below that child. A node without it excludes nothing. The
marks are part of a tree's structure: trees of equal structure have equal masks.
"""

from __future__ import annotations

from typing import Any

import optree

from . import tree

__all__ = ["trainable_mask"]


_masks: dict[tree.TreeDef, tuple[bool, ...]] = {}
"""The masks of structures met before; walking a tree costs three times as much as flattening it."""


def trainable_mask(tree_: Any, /, treedef: tree.TreeDef | None = None) -> list[bool]:
    """Return, for each leaf of a tree, whether it may get gradients, decay and updates by its marks.

    Parameters
    ----------
    tree_ : tree
        Any tree; `xdev.nn.Module` marks buffers and frozen modules.
    treedef : TreeDef, optional
        Its structure, if it is at hand.

    Returns
    -------
    list of bool
        In the order of `xdev.tree.leaves`. Dtypes are not looked at.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> class Scale(xdev.nn.Module):
    ...     factor: object
    ...     count: object = xdev.nn.buffer()
    >>> xdev.nn.trainable_mask([Scale(np.ones(2), np.zeros(1)), np.ones(3)])
    [True, False, True]
    """
    treedef = tree.structure(tree_) if treedef is None else treedef
    try:
        found = _masks.get(treedef)
    except TypeError:  # static data of somebody's node that does not hash
        return _walked(tree_)
    if found is None:
        if len(_masks) >= 256:
            _masks.clear()
        found = _masks[treedef] = tuple(_walked(tree_))
    return list(found)


def _walked(tree_: Any) -> list[bool]:
    mask: list[bool] = []
    _walk(tree_, True, mask)
    return mask


def _walk(node: Any, allowed: bool, mask: list[bool]) -> None:
    if tree.is_leaf(node):
        mask.append(allowed)
        return
    children = optree.tree_flatten_one_level(node, namespace=tree.NAMESPACE)[0]
    marks = type(node).__xdev_trainable__(node) if hasattr(type(node), "__xdev_trainable__") else None
    for position, child in enumerate(children):
        _walk(child, allowed and (marks is None or marks[position]), mask)
