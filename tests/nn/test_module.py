"""Modules as trees: what is a child, what is static, and what survives being taken apart."""

import copy
import pickle

import numpy as np
import pytest

import xdev
from xdev import nn, ops, tree
from xdev.random import Generator


class Scale(nn.Module):
    factor: object
    power: int = 2

    def __call__(self, x):
        return (self.factor * x) ** self.power


class Shifted(Scale):
    offset: object = None

    def __call__(self, x):
        return super().__call__(x) + self.offset


class Holder(nn.Module):
    content: object


class Own(nn.Module):
    weight: object

    def __init__(self, n):
        self.weight = np.ones(n)
        self.name = f"own {n}"
        self.extra = np.zeros(2)


class OwnChild(Own):
    pass


class Counted(nn.Module):
    weight: object
    seen: object = nn.buffer()
    more: object = nn.field(default_factory=list, buffer=True)


def linear():
    return nn.Linear(2, 3, rng=Generator(0, "numpy"))


def paths(model):
    found, _, _ = tree.flatten_with_paths(model)
    return [tree.path_string(path, "model") for path in found]


class TestChildren:
    def test_arrays_are_children_and_numbers_static(self):
        model = Scale(np.ones(2))
        assert paths(model) == ["model.factor"]
        assert model.power == 2

    def test_subclass_of_subclass(self):
        model = Shifted(np.ones(2), 3, np.zeros(2))
        assert paths(model) == ["model.factor", "model.offset"]
        assert np.array_equal(model(np.full(2, 2.0)), [8.0, 8.0])

    def test_own_init_and_attributes_it_does_not_declare(self):
        assert paths(Own(3)) == ["model.weight", "model.extra"]
        assert paths(OwnChild(3)) == ["model.weight", "model.extra"]
        assert tree.unflatten(tree.structure(Own(3)), [1, 2]).name == "own 3"

    def test_containers_name_their_items(self):
        model = Holder({"b": [linear(), ops.relu], "a": (np.ones(1), "text", np.zeros(2))})
        assert paths(model) == [
            "model.content['a'][0]",
            "model.content['a'][2]",
            "model.content['b'][0].weight",
            "model.content['b'][0].bias",
        ]

    @pytest.mark.parametrize(
        "content", [1.5, "text", None, ops.relu, [1, 2], {"a": "b"}, (), [], (None, 1), "x" * 3, np.float32, [[1], {}]]
    )
    def test_what_holds_no_array_is_static(self, content):
        model = Holder(content)
        leaves, treedef = tree.flatten(model)
        assert leaves == []
        assert tree.unflatten(treedef, []).content == content
        assert treedef == tree.structure(Holder(content))
        assert hash(treedef) == hash(tree.structure(Holder(content)))

    def test_static_fields_are_compared(self):
        def structure(content):
            return tree.structure(Holder(content))

        assert structure([ops.relu, np.ones(1)]) == structure([ops.relu, np.zeros(3)])
        assert structure([ops.relu, np.ones(1)]) != structure([ops.gelu, np.ones(1)])
        assert structure([1, 2]) != structure([1, 3])
        assert tree.structure(Scale(np.ones(1), 2)) != tree.structure(Scale(np.ones(1), 3))
        assert structure([np.ones(1), 2]) != structure([np.ones(1), np.ones(1)])

    def test_other_nodes_with_arrays_are_children(self):
        rng = Generator(3, "numpy")
        model = Holder(rng)
        assert len(tree.leaves(model)) == 3
        assert tree.map(lambda x: x, model).content.state["key"].tolist() == rng.state["key"].tolist()

    def test_arrays_of_every_backend_are_children(self, xp):
        assert len(tree.leaves(Holder([xp.ones(2), 3.0]))) == 1

    def test_named_tuples_and_dict_keys_of_two_types(self):
        from collections import namedtuple

        Pair = namedtuple("Pair", "left right")
        model = Holder({1: Pair(np.ones(1), "static"), "b": ops.relu})
        again = tree.map(lambda x: x, model)
        assert again.content[1].right == "static"
        assert type(again.content[1]) is Pair
        assert again.content["b"] is ops.relu


ODD = {
    "string": "w",
    "bool": True,
    "number": 3.0,
    "path": ("model", 1),
    "object": object(),
    "array": np.ones(1),
}


class TestOddLeaves:
    @pytest.mark.parametrize("leaf", [v for k, v in ODD.items() if k != "path"], ids=[k for k in ODD if k != "path"])
    @pytest.mark.parametrize(
        "make",
        [
            lambda: Scale(np.ones(2)),
            lambda: Holder([linear(), ops.relu, {"a": np.ones(1), "b": 3}]),
            lambda: nn.MLP([2, 3, 1], rng=Generator(0, "numpy")),
            lambda: nn.freeze(linear()),
            lambda: Own(2),
        ],
    )
    def test_any_leaf_keeps_the_structure(self, make, leaf):
        leaves, treedef = tree.flatten(make())
        odd = tree.unflatten(treedef, [leaf] * len(leaves))
        again, structure = tree.flatten(odd)
        assert structure == treedef
        assert all(x is leaf for x in again)
        assert tree.structure(tree.map(lambda x: x, odd)) == treedef
        assert paths(odd) == paths(make())

    def test_none_is_a_node_as_in_a_dictionary(self):
        model = tree.map(lambda _: None, Scale(np.ones(2)))
        assert tree.leaves(model) == []
        assert tree.structure(model) == tree.structure(Scale(None))

    def test_masks_of_a_model_have_its_structure(self):
        model = Holder([linear(), ops.relu])
        mask = tree.map(lambda x: x.ndim > 1, model)
        assert tree.leaves(mask) == [True, False]
        both = tree.map(lambda x, m: x if m else None, model, mask)
        assert both.content[0].bias is None

    def test_assignment_forgets_one_field_only(self):
        model = tree.map(lambda _: "w", Shifted(np.ones(2), 2, np.ones(1)))
        model.factor = 5.0
        assert tree.leaves(model) == ["w"]
        assert model.factor == 5.0
        model.factor = np.ones(4)
        assert len(tree.leaves(model)) == 2

    def test_a_list_may_grow_after_being_put_together(self):
        model = tree.map(lambda x: x, Holder([linear(), ops.relu]))
        model.content.append(linear())
        assert len(tree.leaves(model)) == 4

    def test_items_may_be_replaced_after_being_put_together(self):
        model = tree.map(lambda x: x, Holder([linear(), linear(), 3.0]))
        model.content[0] = ops.relu
        assert len(tree.leaves(model)) == 2
        model = tree.map(lambda x: x, model)
        model.content[2] = np.ones(1)
        assert len(tree.leaves(model)) == 3
        model.content.append("text")
        assert len(tree.leaves(model)) == 3

    def test_a_static_list_may_get_arrays(self):
        model = tree.map(lambda x: x, Counted(np.ones(1), np.ones(1)))
        model.more.append(np.ones(2))
        assert len(tree.leaves(model)) == 3

    def test_assigning_a_static_field_changes_the_structure(self):
        model = tree.map(lambda x: x, Scale(np.ones(1), 2))
        model.power = 3
        assert tree.structure(model) == tree.structure(Scale(np.ones(1), 3))
        del model.power
        assert tree.structure(model) != tree.structure(Scale(np.ones(1), 3))


class TestMarks:
    def test_buffers(self):
        model = Counted(np.ones(2), np.zeros(1), [np.ones(1), np.ones(1)])
        assert nn.trainable_mask(model) == [True, False, False, False]
        assert nn.parameter_count(model) == 2

    def test_masks_go_with_the_structure_whatever_the_leaves(self):
        model = [Counted(np.ones(2), np.zeros(1)), np.ones(3), {"a": nn.freeze(linear())}]
        expected = [True, False, True, False, False]
        assert nn.trainable_mask(model) == expected
        assert nn.trainable_mask(tree.map(lambda _: "x", model)) == expected

    def test_freezing_a_part(self):
        model = nn.MLP([2, 3, 3, 1], rng=Generator(0, "numpy"))
        before = tree.structure(model)
        model.layers[0] = nn.freeze(model.layers[0])
        assert nn.trainable_mask(model) == [False, False, True, True, True, True]
        assert tree.structure(model) != before
        free = nn.unfreeze(model)
        assert all(nn.trainable_mask(free))
        assert tree.structure(free) == before
        assert nn.trainable_mask(model)[0] is False

    def test_freezing_copies_the_module_and_shares_the_arrays(self):
        model = nn.Sequential([linear(), ops.relu])
        frozen = nn.freeze(model)
        assert all(nn.trainable_mask(model))
        assert not any(nn.trainable_mask(frozen))
        assert frozen.layers[0].weight is model.layers[0].weight
        frozen.layers.pop()
        assert len(model.layers) == 2
        assert nn.parameter_count(frozen) == nn.parameter_count(model) == 9

    def test_freezing_a_tree_of_modules(self):
        assert nn.trainable_mask(nn.freeze({"a": linear(), "b": np.ones(1)})) == [False, False, True]
        with pytest.raises(xdev.ArrayTypeError, match="freeze takes a module or a tree of modules, got a ndarray with"):
            nn.freeze(np.ones(2))

    def test_marks_survive_transformations(self):
        model = Counted(np.ones(2), np.zeros(1))
        assert nn.trainable_mask(tree.map(lambda x: x, nn.freeze(model))) == [False, False]

    def test_gradients_of_buffers_and_frozen_modules_are_zero(self, device):
        rng = Generator(0, device)
        x = rng.normal((4, 2))
        model = nn.Sequential([nn.freeze(nn.Linear(2, 3, rng=rng)), ops.gelu, nn.Linear(3, 1, rng=rng)])
        gradient = xdev.grad(lambda m: xdev.namespace(m(x)).sum(m(x)))(model)
        assert not xdev.to_numpy(gradient.layers[0].weight).any()
        assert xdev.to_numpy(gradient.layers[2].weight).all()

    def test_tied_arrays_count_once(self):
        w = np.ones((2, 2))
        assert nn.parameter_count(Holder([Scale(w), Scale(w)])) == 4


class TestObjects:
    def test_equality_is_identity_and_modules_hash(self):
        a, b = Scale(np.ones(2)), Scale(np.ones(2))
        assert a == a
        assert a != b
        assert len({a, b}) == 2

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies(self, copied):
        model = nn.freeze(nn.Sequential([linear(), ops.relu]))
        again = copied(model)
        assert tree.structure(again) == tree.structure(model)
        assert np.array_equal(again.layers[0].weight, model.layers[0].weight)
        again.layers = []
        assert len(model.layers) == 2

    def test_attributes_can_be_assigned(self):
        model = linear()
        model.bias = None
        assert paths(model) == ["model.weight"]
        del model.bias
        assert paths(model) == ["model.weight"]

    def test_missing_and_unknown_arguments(self):
        with pytest.raises(TypeError, match="factor"):
            Scale()
        with pytest.raises(TypeError, match="nothing"):
            Scale(np.ones(1), nothing=1)

    def test_summary(self):
        model = nn.Sequential([linear(), ops.relu, nn.freeze(linear())])
        assert repr(model).splitlines() == [
            "Sequential: 18 parameters",
            "  layers[0]: Linear",
            "    weight: (2, 3) float32",
            "    bias: (3,) float32",
            "  layers[1]: relu",
            "  layers[2]: Linear, frozen",
            "    weight: (2, 3) float32",
            "    bias: (3,) float32",
        ]
        assert repr(Counted(np.ones(1), np.zeros(2))).splitlines() == [
            "Counted: 1 parameter",
            "  weight: (1,) float64",
            "  seen: (2,) float64 (buffer)",
            "  more: []",
        ]
        assert repr(tree.map(lambda _: "w", linear())).splitlines() == [
            "Linear: 0 parameters",
            "  weight: 'w'",
            "  bias: 'w'",
        ]
