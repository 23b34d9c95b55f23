"""Trees: which objects are containers, the order of leaves, and how paths are written."""

import collections

import numpy as np
import pytest

from xdev import tree

Point = collections.namedtuple("Point", ["x", "y"])


class Box:
    def __init__(self, content, label):
        self.content, self.label = content, label


tree.register(
    Box,
    lambda box: ((box.content,), box.label, ("content",)),
    lambda label, children: Box(*children, label),
)

NESTED = {"b": [1, (2, None)], "a": Point(3, Box(4, "static"))}


def test_leaves_come_in_sorted_order_and_none_is_no_leaf():
    assert tree.leaves(NESTED) == [3, 4, 1, 2]


def test_paths_are_written_as_python_would():
    paths = [tree.path_string(path, "tree") for path in tree.flatten_with_paths(NESTED)[0]]
    assert paths == ["tree['a'].x", "tree['a'].y.content", "tree['b'][0]", "tree['b'][1][0]"]


def test_steps_name_fields_and_keys():
    steps = [tree.steps(path) for path in tree.flatten_with_paths(NESTED)[0]]
    assert steps == [("a", "x"), ("a", "y", "content"), ("b", 0), ("b", 1, 0)]


def test_unflatten_restores_types_and_static_data():
    leaves, treedef = tree.flatten(NESTED)
    again = tree.unflatten(treedef, leaves)
    assert type(again["a"]) is Point
    assert again["a"].y.label == "static"
    assert again["b"] == [1, (2, None)]


def test_structures_differ_where_static_data_do():
    assert tree.structure(Box(1, "a")) == tree.structure(Box(2, "a"))
    assert tree.structure(Box(1, "a")) != tree.structure(Box(1, "b"))


def test_map_takes_further_trees():
    assert tree.map(lambda x, y: x + y, {"a": [1, 2]}, {"a": [10, 20]}) == {"a": [11, 22]}


@pytest.mark.parametrize(
    ("node", "children", "names"),
    [
        ([5, 6], [5, 6], (0, 1)),
        ({"b": 1, "a": 2}, [2, 1], ("a", "b")),
        (Point(1, 2), [1, 2], ("x", "y")),
        (Box(7, None), [7], ("content",)),
    ],
)
def test_one_level(node, children, names):
    assert tree.one_level(node) == (children, names)


def test_unique_goes_by_identity_not_equality():
    x, y = np.zeros(2), np.zeros(2)
    distinct, places = tree.unique([x, y, x])
    assert places == [0, 1, 0]
    assert distinct[0] is x
    assert distinct[1] is y


def test_is_leaf():
    assert tree.is_leaf(np.zeros(1))
    assert not tree.is_leaf([])
    assert not tree.is_leaf(Box(1, 1))
