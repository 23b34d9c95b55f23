"""The generator: state, copies, children, the pytree, and compiled functions."""

import copy
import pickle

import numpy as np
import pytest

import xdev
from xdev import tree
from xdev.device import device as find_device
from xdev.device import device_of
from xdev.random import Generator, RandomError, tracing
from xdev.testing import assert_equal


def host(device, x):
    return device.backend.to_host(x)


def compiled(device, function):
    """Compile a function of a generator, as `xdev.jit` does: trees outside, lists of arrays inside."""

    def call(rng):
        leaves, structure = tree.flatten(rng)
        structures = []

        def flat(arrays):
            with tracing(object()):
                out, structure_out = tree.flatten(function(tree.unflatten(structure, arrays)))
            structures.append(structure_out)
            return out

        out = jitted(device, flat)(leaves)
        return tree.unflatten(structures[-1], out)

    return call


def jitted(device, function):
    return device.backend.jit(function)


def on_device(rng):
    """Return a generator whose words are arrays, as where it came out of a compiled function."""
    xp = rng.device.xp
    leaves, structure = tree.flatten(rng)
    return tree.unflatten(structure, [xp.astype(xp.asarray(int(x), dtype=xp.int32), xp.uint32) for x in leaves])


def draws(rng):
    return [rng.bits(3), rng.normal((2, 2)), rng.integers(0, 10, 4)]


def same(device, actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(host(device, a), host(device, b), rtol=5e-7)


def test_a_state_goes_on_where_it_was_saved(device):
    rng = Generator(2**63 + 5, device)
    rng.normal(10)
    state = rng.state
    assert state["key"].dtype == np.uint32
    assert state["key"].tolist() == [2**31, 5]
    assert state["draws"] == 1
    expected = draws(rng)
    same(device, draws(Generator.from_state(state, device)), expected)


def test_a_state_crosses_backends(device):
    rng = Generator(9, "numpy")
    rng.bits(2)
    other = Generator.from_state(rng.state, device)
    np.testing.assert_array_equal(host(device, other.bits(5)), rng.bits(5))
    assert other.state["draws"] == rng.state["draws"] == 2


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"got \{\}, expected the state of a generator, a dict of 'key' \(two uint32\) and 'draws'"),
        (5, r"got 5, expected the state of a generator"),
        ({"key": [1, 2, 3], "draws": 0}, r"expected the state of a generator"),
        ({"key": [1, -2], "draws": 0}, r"has words outside of 0 to 2\*\*32 - 1; it is damaged"),
    ],
)
def test_other_things_than_states_are_refused(state, message):
    with pytest.raises(RandomError, match=message):
        Generator.from_state(state, "numpy")


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda rng: pickle.loads(pickle.dumps(rng))], ids=["copy", "deep", "pickle"]
)
def test_copies_go_their_own_way(device, duplicate):
    rng = Generator(1, device)
    rng.bits(1)
    twin = duplicate(rng)
    assert twin.device is device
    same(device, draws(twin), draws(rng))


def test_draws_differ_and_depend_on_their_number_alone():
    one, other = Generator(4, "numpy"), Generator(4, "numpy")
    one.normal((5, 5))
    other.permutation(3)
    np.testing.assert_array_equal(one.bits(9), other.bits(9))
    assert not np.array_equal(one.bits(9), one.bits(9))


def test_splitting_is_reproducible_and_advances(device):
    rng, again = Generator(4, device), Generator(4, device)
    for child, twin in zip(rng.split(3), again.split(3), strict=True):
        assert child.device is device
        same(device, draws(child), draws(twin))
    assert rng.state["draws"] == 1
    assert Generator(4, device).split(0) == []


def test_generators_end_before_they_repeat():
    rng = Generator.from_state({"key": [0, 1], "draws": 2**32 - 1}, "numpy")
    rng.bits(1)
    with pytest.raises(RandomError, match=r"this generator has made 2\*\*32 draws, all it can; go on with another"):
        rng.bits(1)


def test_what_has_ended_is_no_tree(device):
    rng = Generator.from_state({"key": [0, 7], "draws": 2**32}, device)
    message = r"this generator has made 2\*\*32 draws, all it can; go on with another seed"
    with pytest.raises(RandomError, match=message):
        xdev.jit(lambda rng, x: rng.bits(3))(rng, device.xp.zeros(1))
    with pytest.raises(RandomError, match=message):
        tree.leaves([rng])
    assert copy.copy(rng).state["draws"] == pickle.loads(pickle.dumps(rng)).state["draws"] == 2**32


def test_a_generator_is_a_tree_of_three_words(device):
    rng = Generator(2**40, device)
    rng.bits(1)
    paths, leaves, structure = tree.flatten_with_paths({"rng": rng})
    assert [tree.path_string(path, "t") for path in paths] == [
        "t['rng'].key_high",
        "t['rng'].key_low",
        "t['rng'].draws",
    ]
    assert leaves == [256, 0, 1]
    assert all(isinstance(leaf, np.uint32) for leaf in leaves)
    same(device, draws(tree.unflatten(structure, leaves)["rng"]), draws(rng))
    assert tree.structure(Generator(0, "numpy")) == tree.structure(Generator(1, "numpy"))


def test_a_generator_moves_with_its_state(device):
    rng = Generator(7, "numpy")
    rng.bits(3)
    moved = rng.__xdev_to_device__(device)
    assert moved.device is device
    rng = Generator.from_state(rng.state, "numpy")
    np.testing.assert_array_equal(host(device, moved.bits(4)), rng.bits(4))


def others(device):
    """Return the devices that can be computed on, those of other frameworks and of this one."""
    return [there for there in map(find_device, xdev.devices()) if there is not device]


def test_words_that_are_arrays_move_with_a_generator(device):
    reference = Generator(7, "numpy")
    reference.bits(3)
    expected = [reference.bits(4), reference.integers(0, 10, 5)]
    for there in others(device):
        rng = on_device(Generator(7, device))
        rng.bits(3)
        moved = xdev.to_device({"rng": rng}, there)["rng"]
        assert moved.device is there
        for made, wanted in zip([moved.bits(4), moved.integers(0, 10, 5)], expected, strict=True):
            assert device_of(made) is there
            np.testing.assert_array_equal(host(there, made), wanted)
        assert moved.state["draws"] == 3
        assert rng.state["draws"] == 1
        moved.normal(2)
        moved.split(2)[1].normal(2)


def test_a_generator_on_its_device_stays_the_same_object(device):
    for rng in (Generator(7, device), on_device(Generator(7, device))):
        assert xdev.to_device(rng, device) is rng
        moved = xdev.to_device([rng, {"again": rng}], device)
        assert moved[0] is moved[1]["again"] is rng


def crossings(device):
    return 0 if device.is_host else 3


def test_reading_the_state_is_a_crossing(device):
    rng = on_device(Generator(7, device))
    with xdev.track_transfers() as ledger:
        assert rng.state["key"].tolist() == [0, 7]
        assert ledger.to_host_count == crossings(device)
        pickle.dumps(rng)
        assert ledger.to_host_count == 2 * crossings(device)
        copy.deepcopy(rng)
        assert ledger.to_host_bytes == 4 * ledger.to_host_count == 4 * len(ledger.records)
    with xdev.track_transfers() as ledger:
        _ = Generator(7, device).state
    assert not ledger.records


def test_a_budget_forbids_reading_the_state(device):
    if device.is_host:
        pytest.skip("what is on the host is not brought there")
    rng = on_device(Generator(7, device))
    for read in (lambda: rng.state, lambda: pickle.dumps(rng), lambda: xdev.to_device(rng, "numpy")):
        with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded, match="would take 4 bytes to host"):
            read()


def test_moving_within_a_framework_reads_nothing(device):
    rng = on_device(Generator(7, device))
    for there in others(device):
        if there.backend is device.backend:
            with xdev.track_transfers() as ledger:
                xdev.to_device(rng, there)
            assert (ledger.between_devices_count, ledger.to_host_count) == (3, 0)


def test_words_without_values_are_not_read(device):
    if device.backend.capabilities.mutable:
        pytest.skip(f"{device} traces nothing")
    x = device.xp.zeros(1)
    message = f"the words of a generator are being traced by {device.backend}, as under jit, and have no values"
    for use in (lambda rng: rng.state["draws"], lambda rng: xdev.to_device(rng, "numpy").bits(1)):
        with pytest.raises(xdev.TransferError, match=message):
            xdev.jit(lambda rng, x, use=use: use(rng) + x)(Generator(0, device), x)


def test_a_generator_says_what_it_is():
    assert repr(Generator(7, "numpy")) == "<Generator on numpy:cpu:0, key (0, 7), 0 draws>"


# -- compiled functions ------------------------------------------------------------------------------


def use(rng):
    first = rng.normal((3, 2))
    children = rng.split(2)
    second = [children[0].uniform(4), children[1].integers(0, 100, 5), rng.permutation(6)]
    return [first, *second], rng


def test_a_generator_passes_through_a_compiled_function(device):
    step = compiled(device, use)
    rng, eager = Generator(11, device), Generator(11, device)
    for _ in range(3):
        values, rng = step(rng)
        expected, eager = use(eager)
        same(device, values, expected)
        assert rng.state["draws"] == eager.state["draws"]
    np.testing.assert_array_equal(host(device, rng.bits(7)), host(device, eager.bits(7)))
    same(device, draws(rng.split(2)[1]), draws(eager.split(2)[1]))


def test_words_on_the_device_draw_the_same(device):
    rng, expected = on_device(Generator(2**35 + 3, device)), Generator(2**35 + 3, device)
    same(device, use(rng)[0], use(expected)[0])
    assert rng.state["draws"] == expected.state["draws"]
    assert copy.copy(rng).state["draws"] == rng.state["draws"]


def test_a_captured_generator_is_refused(device):
    rng = Generator(0, device)
    step = compiled(device, lambda _: rng.normal(3))
    message = r"drawn from in a compiled function, which would repeat the same .* pass it as an argument and return it"
    with pytest.raises(RandomError, match=message):
        step(Generator(0, device))
    assert rng.state["draws"] == 0


@pytest.mark.parametrize("taken", [copy.copy, lambda rng: xdev.to_device(rng, "numpy")], ids=["copied", "moved"])
def test_copies_of_a_captured_generator_are_refused(device, taken):
    rng = Generator(0, device)
    with pytest.raises(RandomError, match=r"drawn from in a compiled function, which would repeat"):
        xdev.jit(lambda x: taken(rng).uniform(1) + x)(device.xp.zeros(1))


def test_a_captured_generator_is_refused_where_only_the_framework_knows(device):
    if device.backend.capabilities.mutable:
        pytest.skip(f"{device} traces nothing")
    rng = Generator(0, device)
    with pytest.raises(RandomError, match=r"drawn from in a compiled function"):
        jitted(device, lambda leaves: [rng.normal(3) + leaves[0]])([device.xp.zeros(3)])


def test_a_generator_is_an_argument_of_a_gradient(device):
    def loss(x, rng):
        xp = xdev.namespace(x)
        return xp.sum(x * rng.normal(3)) + xp.sum(xp.take(x, rng.permutation(3))) + xp.sum(rng.uniform(3))

    gradient = xdev.grad(loss)(device.xp.zeros(3, dtype=device.xp.float32), Generator(5, device))
    np.testing.assert_allclose(host(device, gradient), Generator(5, "numpy").normal(3) + 1, rtol=1e-6)


def test_a_generator_made_inside_is_used_inside_only(device):
    kept = []

    def function(rng):
        inner = Generator(5, device)
        kept.append(inner)
        return inner.uniform(3), rng

    value, _ = compiled(device, function)(Generator(0, device))
    same(device, [value], [Generator(5, device).uniform(3)])
    with pytest.raises(RandomError, match=r"made while a function was compiled is used outside .* return it"):
        kept[0].bits(1)


def test_tracing_ends_with_its_block():
    rng = Generator(0, find_device("numpy"))
    with pytest.raises(ZeroDivisionError), tracing(object()):
        _ = 1 / 0
    assert rng.bits(2).shape == (2,)


def test_generators_in_trees_move_to_a_device(device):
    rng = Generator(3, "numpy")
    rng.bits(2)
    moved = xdev.to_device({"rng": rng, "x": [1.0, 2.0]}, device)["rng"]
    rng = copy.copy(rng)  # on its own device it is not moved
    assert moved.device == device
    assert_equal(moved.uniform(4), xdev.to_numpy(rng.uniform(4)))
    assert xdev.to_device(Generator(3, "numpy"), device).device == device


def test_a_copy_of_a_generator_is_a_stream_of_its_own(device):
    rng = Generator(3, device)
    copied = xdev.to_device({"rng": rng}, device, copy=True)["rng"]
    assert copied is not rng
    first = rng.bits(4)
    assert_equal(copied.bits(4), first)
