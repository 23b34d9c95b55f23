"""Containers that are no nodes of xdev's trees: dataclasses, modules and optimizers of torch, what JAX registers."""

import dataclasses
from typing import Any

import numpy as np
import pytest

import xdev

from .arrays import host_values, numbers, on


def values():
    return host_values("float32")


# -- dataclasses -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Batch:
    image: Any
    label: Any = None
    name: str = "train"
    transform: Any = max
    made: int = dataclasses.field(default=0, init=False)

    def __post_init__(self):
        self.made += 1


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    names: tuple = ("a", "b")
    words: list = dataclasses.field(default_factory=lambda: ["a"])


def test_a_dataclass_moves_and_keeps_its_type(device):
    batch = Batch(values(), [1, 2, 3], "test")
    for tree_, get in ((batch, lambda moved: moved), ({"b": [batch]}, lambda moved: moved["b"][0])):
        moved = get(xdev.to_device(tree_, device, copy=True))
        assert type(moved) is Batch
        assert moved is not batch
        assert on(moved.image) is device
        assert numbers(moved.image) == values().tolist()
        assert on(moved.label) is device
        assert numbers(moved.label) == [1, 2, 3]
        assert (moved.name, moved.transform, moved.made) == ("test", batch.transform, 1)
    assert type(batch.label) is list


def test_a_frozen_dataclass_and_one_within_another(device):
    x = values()
    moved = xdev.to_device(Frozen({"inner": Frozen(x), "again": [x]}), device, copy=True)
    assert type(moved) is type(moved.x["inner"]) is Frozen
    assert moved.x["inner"].x is moved.x["again"][0]
    assert moved.x["inner"].names == ("a", "b")
    assert on(moved.x["again"][0]) is device


def test_what_a_dataclass_shares_with_the_tree_stays_shared(device):
    x = values()
    both = [x.copy() for _ in range(20)]  # so many that they go the quick way
    node = Batch(both[3])
    moved = xdev.to_device({"x": both, "node": node, "again": node}, device, copy=True)
    assert moved["x"][3] is moved["node"].image
    assert moved["node"] is moved["again"]


def test_a_dataclass_that_is_there_comes_back_itself(device, xp):
    for node in (Batch(xp.ones(2)), Frozen([xp.ones(2)]), Frozen("nothing")):
        assert xdev.to_device({"node": node}, device)["node"] is node
    assert xdev.to_numpy(Batch(xp.ones(2))).image.tolist() == [1, 1]


def test_the_device_of_a_dataclass_is_that_of_its_fields(device):
    x = xdev.to_device(values(), device)
    assert xdev.device_of(Batch(x, [1])) is device
    assert xdev.device_of({"b": [Frozen({"inner": Frozen(x)})]}) is device
    xdev.synchronize(Batch(x))
    with pytest.raises(xdev.ArrayTypeError, match="device_of needs at least one array; tree is a Batch"):
        xdev.device_of(Batch(None))


def test_a_mix_in_a_dataclass_is_named_by_its_field(device):
    if device.is_host:
        pytest.skip("NumPy has one device")
    batch = Batch({"x": xdev.to_device(values(), device)}, values())
    with pytest.raises(xdev.DeviceMismatchError, match=r"tree\[0\]\.image\['x'\].*tree\[0\]\.label"):
        xdev.device_of([batch])


def test_errors_name_the_field(device):
    masked = np.ma.masked_array([1.0])
    with pytest.raises(xdev.TransferError, match=r"^tree\['b'\]\.image\[0\] is a masked array"):
        xdev.to_device({"b": Batch([masked])}, device)
    with pytest.raises(xdev.DTypeError, match=r"^tree\.image\.x has dtype <U1, which is none of numbers"):
        xdev.to_device(Batch(Frozen(np.array(["a"]))), device)
    with pytest.raises(xdev.TransferError, match=r"the argument is a type"):
        xdev.to_device(Batch, device)


@pytest.mark.xdev_backends(exclude=("numpy",), reason="nothing crosses")
def test_the_ledger_names_the_field(device):
    with xdev.track_transfers() as transfers:
        xdev.to_device({"b": Batch(values())}, device)
    assert [record.path for record in transfers.records] == ["tree['b'].image"]


def test_dtype_casts_what_is_of_its_kind_in_a_dataclass(device):
    moved = xdev.to_device(Batch(values().astype("float64"), np.arange(3, dtype="int32")), device, dtype="float32")
    assert str(moved.image.dtype).rpartition(".")[2] == "float32"
    assert str(moved.label.dtype).rpartition(".")[2] == "int32"


# -- torch -------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def trained(torch):
    """A module with tied and frozen parameters and buffers, and its optimizer after a step."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.ones(4, 3) * torch.arange(4.0)[:, None]).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_module_of_torch_moves_and_the_callers_stays(torch, trained):
    model, _ = trained
    moved = xdev.to_device({"model": model}, "torch:meta")["model"]
    assert type(moved) is type(model)
    assert {x.device.type for x in moved.state_dict().values()} == {"meta"}
    assert {x.device.type for x in model.state_dict().values()} == {"cpu"}
    assert moved[2].weight is moved[0].weight
    assert [p.requires_grad for p in moved.parameters()] == [p.requires_grad for p in model.parameters()]
    assert all(isinstance(p, torch.nn.Parameter) and p.is_leaf for p in moved.parameters())
    assert xdev.to_device(model, "torch:cpu") is model


def test_the_device_of_a_module_and_of_its_optimizer(torch, trained):
    assert xdev.device_of(trained) is xdev.device("torch:cpu")
    assert xdev.device_of({"model": trained[0].to("meta")}) is xdev.device("torch:meta")
    xdev.synchronize(trained[1])


def test_a_copy_of_a_module_shares_nothing(torch, trained):
    model, _ = trained
    copied = xdev.to_device(model, "torch:cpu", copy=True)
    before = {name: x.clone() for name, x in copied.state_dict().items()}
    with torch.no_grad():
        for x in (*model.parameters(), *model.buffers()):
            x.fill_(7)
    assert all(torch.equal(x, before[name]) for name, x in copied.state_dict().items())


def test_a_module_and_its_optimizer_move_together(torch, trained):
    model, optimizer = trained
    for target, copy in (("torch:cpu", True), ("torch:meta", None)):
        moved, its = xdev.to_device((model, optimizer), target, copy=copy)
        kept = [p for p in moved.parameters() if p.requires_grad]
        assert all(a is b for a, b in zip(its.param_groups[0]["params"], kept, strict=True))
        assert [id(p) for p in its.state] == [id(p) for p in kept]
        state = its.state[kept[0]]
        assert state["exp_avg"].device.type == target.partition(":")[2]
        assert state["step"].device.type == "cpu"
        assert its.param_groups[0]["lr"] == 0.1
    copied, its = xdev.to_device((model, optimizer), "torch:cpu", copy=True)
    before = model[0].weight.detach().clone()
    copied(torch.ones(4, 3)).sum().backward()
    its.step()
    assert torch.equal(model[0].weight, before)
    assert not torch.equal(copied[0].weight, before)
    assert xdev.to_device(optimizer, "torch:cpu") is optimizer


@pytest.mark.parametrize("target", ["numpy", "jax", "strict:device1"])
def test_a_module_goes_to_no_other_framework(trained, target):
    pytest.importorskip("array_api_strict" if target.startswith("strict") else target)
    where = xdev.device(target)
    for x in trained:
        with pytest.raises(xdev.TransferError) as caught:
            xdev.to_device({"m": x}, target)
        assert str(caught.value) == (
            f"tree['m'] is {'an' if type(x).__name__[0] in 'AEIOU' else 'a'} {type(x).__name__}, which holds arrays of "
            f'torch alone, and cannot go to {where}; move what it holds: xdev.to_device(x.state_dict(), "{where}")'
        )


def test_the_saved_state_of_a_module_and_of_an_optimizer_goes_everywhere(device, torch, trained):
    model, optimizer = trained
    if not device.backend.holds("int64", device.info):
        model[1].num_batches_tracked = None
    weights = xdev.to_device(model.state_dict(), device)
    assert list(weights) == list(model.state_dict())
    assert numbers(weights["0.weight"]) == model[0].weight.tolist()
    saved = optimizer.state_dict()
    moved = xdev.to_device({"optimizer": saved}, device)["optimizer"]
    assert moved["param_groups"] == saved["param_groups"]
    assert on(moved["state"][0]["exp_avg"]) is device
    fresh = torch.optim.AdamW(optimizer.param_groups[0]["params"], lr=0.5)
    fresh.load_state_dict(xdev.to_device(moved, "torch:cpu"))
    for p, state in optimizer.state.items():
        assert all(torch.equal(state[name], fresh.state[p][name]) for name in state)
    assert fresh.param_groups[0]["lr"] == 0.1


# -- JAX ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registered():
    """Classes as flax and equinox register them: with keys and without, and a dataclass with static fields."""
    tree_util = pytest.importorskip("jax").tree_util

    @tree_util.register_pytree_node_class
    class Plain:
        def __init__(self, weight, activation, size):
            self.weight, self.activation, self.size = weight, activation, size

        def tree_flatten(self):
            return (self.weight, self.activation), self.size

        @classmethod
        def tree_unflatten(cls, size, children):
            return cls(*children, size)

    @tree_util.register_dataclass
    @dataclasses.dataclass
    class Data:
        x: Any
        inner: Any = None
        sizes: Any = dataclasses.field(default=(3, 4), metadata={"static": True})

    return Plain, Data


def test_what_jax_has_registered_moves(device, registered):
    plain, data = registered
    x = values()
    made = plain(x, np.tanh, [1, 2])
    tree_ = {"plain": made, "data": data(x, [made, None, 2.5])}
    moved = xdev.to_device(tree_, device, copy=True)
    assert type(moved["plain"]) is plain
    assert type(moved["data"]) is data
    assert on(moved["plain"].weight) is device
    assert numbers(moved["plain"].weight) == x.tolist()
    assert moved["plain"].weight is moved["data"].x
    assert moved["data"].inner[0] is moved["plain"]
    assert moved["data"].inner[1:] == [None, 2.5]
    assert moved["plain"].activation is np.tanh
    assert moved["plain"].size == [1, 2]
    assert moved["data"].sizes == (3, 4)
    assert xdev.to_device(moved, device)["data"] is moved["data"]


def test_errors_name_the_children_of_what_jax_has_registered(device, registered):
    _, data = registered
    with pytest.raises(xdev.DTypeError, match=r"^tree\['d'\]\.inner\[1\] has dtype <U1"):
        xdev.to_device({"d": data(values(), [1.0, np.array(["a"])])}, device)


# -- many leaves, which go all at once -------------------------------------------------------------------


@dataclasses.dataclass
class Many:
    arrays: list


@pytest.mark.parametrize("count", [8, 9])
def test_arrays_that_nodes_share_stay_shared(device, count):
    arrays = [values() for _ in range(count)]
    tree = {"x": Many(arrays), "y": Many([*arrays]), "z": arrays[0], "w": [arrays[1], 1, 1, True, True]}
    moved = xdev.to_device(tree, device, copy=True)
    assert all(a is b for a, b in zip(moved["x"].arrays, moved["y"].arrays, strict=True))
    assert moved["x"].arrays[0] is moved["z"]
    assert moved["x"].arrays[1] is moved["w"][0]
    assert all(on(x) is device for x in moved["x"].arrays)


def test_nodes_that_make_their_children_anew_keep_them_apart(device):
    """Ids of arrays that are gone are given to others."""

    if device.is_host:
        pytest.skip("what is there stays")

    class Fresh:
        def __init__(self, number):
            self.number = number

    import optree

    optree.register_pytree_node(
        Fresh, lambda x: ((np.full(3, x.number, np.float32),), None), lambda _, children: children[0], namespace="xdev"
    )
    moved = xdev.to_device([Many(Fresh(float(number))) for number in range(20)], device)
    assert [numbers(x.arrays)[0] for x in moved] == [float(number) for number in range(20)]


def test_a_tuple_of_numbers_of_another_class_stays(device):
    class Shape(tuple):
        pass

    shape = Shape((2, 3))
    assert xdev.to_device({"shape": shape, "x": values()}, device)["shape"] is shape
