"""Random trees of arrays in random layouts, moved between random devices: what must hold of every such move.

Requirements: Hypothesis. The sources are the devices of the fixture's backend and the host; the targets are all that
this machine has. Arrays are made and read without xdev.
"""

from collections import namedtuple
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

import xdev
from xdev.contract import dtype_name
from xdev.moving import FEW

from . import arrays
from .arrays import DTYPES, LACKS, host_values, make, numbers, on, write

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402  after the check that it is there
from hypothesis import strategies as st  # noqa: E402

NAMES = st.sampled_from("abc")
steady = settings(
    max_examples=30, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Box:
    content: Any
    note: Any = "a note"


# -- arrays ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """An array, the memory beneath it, where it is, and its values made independently."""

    x: Any
    base: Any
    device: Any
    dtype: str
    expected: np.ndarray


def strided(xp, x):
    return x[(..., *[slice(None, None, 2)] * x.ndim)]


def negative(xp, x):
    return x[(..., *[slice(None, None, -1)] * x.ndim)]


def fortran(xp, x):
    return xp.permute_dims(x, tuple(reversed(range(x.ndim))))


def broadcast(xp, x):
    return xp.broadcast_to(x, (2, *x.shape[:-1], 3)) if x.ndim and x.shape[-1] == 1 else xp.broadcast_to(x, x.shape)


def whole(xp, x):
    return x


def read_only(xp, x):
    x = x[...]
    x.flags.writeable = False
    return x


LAYOUTS = {
    "numpy": (whole, fortran, strided, negative, broadcast, read_only),
    "torch": (whole, fortran, strided, broadcast),
    "strict": (whole, fortran, strided, negative, broadcast),
    "cupy": (whole, fortran, strided, negative, broadcast),
    "jax": (whole,),  # its arrays are compact, and each view of another shape would be compiled
}


def build(device, dtype, layout, shape):
    """An array of that layout in memory of its own."""
    values = np.asarray(host_values(dtype, tuple(shape)))
    base = make(device, values)
    with device.scope():
        x = layout(device.backend.xp, base)
    return Made(x, base, device, dtype, values if layout is read_only else np.array(layout(np, values)))


@st.composite
def recipes(draw, devices, held_by=None):
    """What `build` takes: an array on one of the devices, of a dtype that another backend holds too, if it is given."""
    device = draw(st.sampled_from(devices))
    framework = device.backend.name
    lacks = (LACKS[framework] if framework != "numpy" else set()) | (LACKS[held_by] if held_by else set())
    dtype = draw(st.sampled_from([dtype for dtype in DTYPES if dtype not in lacks]))
    layout = draw(st.sampled_from(LAYOUTS[framework]))
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    return device, dtype, layout, [*shape[:-1], 1] if layout is broadcast and shape else shape


# -- trees -------------------------------------------------------------------------------------------


@st.composite
def trees(draw, devices, held_by=None):
    """A tree of arrays, of which each may stand in several places, None and numbers; or of many arrays."""
    drawn = draw(st.lists(recipes(devices, held_by), min_size=1, max_size=3))
    if draw(st.booleans()):  # so many that they may go another way, if none stands twice
        made = [build(*recipe) for recipe in drawn for _ in range(FEW)] + [build(*drawn[0])]
        return {"many": [each.x for each in made], "none": None}, made
    made = [build(*recipe) for recipe in drawn]
    array = st.sampled_from([Leaf(each.x) for each in made])
    number = st.none() | st.integers(-9, 9) | st.sampled_from([True, 0.5, 2j])
    nodes = st.recursive(
        array | number,
        lambda child: (
            st.dictionaries(NAMES, child, max_size=3)
            | st.lists(child, max_size=2).map(tuple)
            # An array comes first: a list of nothing but numbers is an array itself.
            | st.tuples(array, st.lists(child, max_size=3)).map(lambda parts: [parts[0], *parts[1]])
            | st.builds(Pair, child, child)
            | st.builds(Box, child)
        ),
        max_leaves=10,
    )
    tree = uncovered(draw(st.tuples(nodes, nodes, array)))
    there = {id(leaf) for leaf, _ in pairs(tree, tree)}
    return tree, [each for each in made if id(each.x) in there]


@dataclass(frozen=True, eq=False)
class Leaf:
    """An array on its way through Hypothesis, which would compare and print it."""

    x: Any

    def __repr__(self):
        return f"Leaf({dtype_name(self.x.dtype)}{tuple(self.x.shape)})"


def children(node):
    """What a container holds, by key, or None if it is a leaf."""
    if isinstance(node, dict):
        return node
    if isinstance(node, Pair):
        return node._asdict()
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    return {field.name: getattr(node, field.name) for field in fields(node)} if isinstance(node, Box) else None


def uncovered(node):
    if isinstance(node, Leaf):
        return node.x
    held = children(node)
    if held is None:
        return node
    new = {key: uncovered(child) for key, child in held.items()}
    if isinstance(node, dict):
        return new
    return type(node)(new.values()) if type(node) in (list, tuple) else type(node)(**new)


def pairs(a, b):
    """Yield the arrays of a tree with what stands in their places in another of the same structure."""
    assert type(a) is type(b) or hasattr(a, "dtype"), (a, b)
    held, other = children(a), children(b)
    if held is not None:
        assert list(held) == list(other)
        for key, child in held.items():
            yield from pairs(child, other[key])
    elif hasattr(a, "dtype"):
        yield a, b
    else:
        assert a is b or a == b


# -- what must hold ----------------------------------------------------------------------------------


def targets():
    """Any device of any backend."""
    backends = {}
    for each in arrays.devices():
        backends.setdefault(each.backend.name, []).append(each)
    return st.sampled_from(list(backends.values())).flatmap(st.sampled_from)


def sources(device):
    """The devices of the fixture's backend, and the host."""
    return [each for each in arrays.devices() if each.backend is device.backend or each.is_host]


@given(data=st.data())
@steady
def test_what_comes_back_is_what_went_or_an_error_says_why(device, data):
    tree, made = data.draw(trees(sources(device)))
    target = data.draw(targets())
    lost = [
        each
        for each in made
        for source, to in ((each.device, target), (target, xdev.device("numpy")))
        if source is not to and each.dtype in LACKS[to.backend.name]
    ]
    if lost:
        with pytest.raises(xdev.DTypeError, match=r"^tree\S* is \w+, which \S+ cannot hold; "):
            xdev.to_numpy(xdev.to_device(tree, target))
        return
    moved = xdev.to_device(tree, target)
    back = xdev.to_numpy(moved)
    expected = {id(each.x): each.expected for each in made}
    for (before, there), (_, here) in zip(pairs(tree, moved), pairs(tree, back), strict=True):
        wanted = expected[id(before)]
        assert on(there) is target
        assert isinstance(here, np.ndarray)
        assert dtype_name(there.dtype) == dtype_name(here.dtype) == dtype_name(wanted.dtype)
        assert tuple(there.shape) == here.shape == wanted.shape
        assert numbers(there) == here.tolist() == wanted.tolist()


@given(data=st.data(), copy=st.sampled_from([None, True]))
@steady
def test_what_is_shared_stays_shared_and_nothing_else_is(device, data, copy):
    target = data.draw(targets())
    tree, made = data.draw(trees(sources(device), target.backend.name))
    found = {}
    for before, after in pairs(tree, xdev.to_device(tree, target, copy=copy)):
        assert found.setdefault(id(before), after) is after
    assert len(found) == len(made)
    assert len({id(after) for after in found.values()}) == len(made)


@given(data=st.data())
@steady
def test_what_is_there_comes_back_as_the_same_objects(device, data):
    tree, _ = data.draw(trees([device]))
    for target in (device, str(device)):
        assert all(after is before for before, after in pairs(tree, xdev.to_device(tree, target)))


@given(data=st.data())
@steady
def test_a_copy_is_written_through_by_neither_side(device, data):
    target = data.draw(targets())
    tree, made = data.draw(trees(sources(device), target.backend.name))
    expected = {id(each.x): each.expected.tolist() for each in made}
    first, second = (xdev.to_device(tree, target, copy=True) for _ in range(2))
    for before, after in pairs(tree, first):
        write(after, target)
        assert numbers(before) == expected[id(before)]
    for each in made:
        write(each.base, each.device)
    for before, after in pairs(tree, second):
        assert numbers(after) == expected[id(before)]


@given(data=st.data(), copy=st.sampled_from([None, True]))
@steady
def test_the_ledger_counts_each_array_that_moved_once(device, data, copy):
    target = data.draw(targets())
    tree, made = data.draw(trees(sources(device), target.backend.name))
    moving = [each for each in made if each.device is not target]
    with xdev.track_transfers() as transfers:
        xdev.to_device(tree, target, copy=copy)
    counted = {"to_device": 0, "to_host": 0, "between_devices": 0}
    for each in moving:
        direction = "to_device" if each.device.is_host else "to_host" if target.is_host else "between_devices"
        counted[direction] += each.expected.nbytes
    assert len(transfers.records) == len(moving)
    assert {name: getattr(transfers, f"{name}_bytes") for name in counted} == counted
    assert all(record.target == str(target) for record in transfers.records)
    limits = {name: nbytes - 1 for name, nbytes in counted.items() if nbytes}
    if limits:
        with pytest.raises(xdev.TransferBudgetExceeded), xdev.budget(**limits):
            xdev.to_device(tree, target, copy=copy)
