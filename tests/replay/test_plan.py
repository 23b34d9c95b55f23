"""Plans of recordings made by hand: what is called, and where arrays lie."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from xdev.replay.plan import ALIGNMENT, make_plan
from xdev.replay.recorder import Call, Memory, Part, Unreplayable, parts_of

F4 = np.dtype("float32")
LARGE = 2048


class Recording:
    """Makes calls; arrays are vectors of float32 unless said otherwise."""

    def __init__(self):
        self.calls = []
        self.count = itertools.count()

    def memory(self, size=16, root=None, place=None):
        return Memory(next(self.count), 4 * size, root, place)

    def part(self, memory, start=0, stop=None, step=1, dtype=F4):
        size = memory.nbytes // 4
        n = len(range(start, size if stop is None else stop, step))
        return Part(memory, 4 * start, (n,), (4 * step,), dtype)

    def argument(self, size=16, place=0):
        return self.part(self.memory(size, np.zeros(size, F4), place))

    def call(self, function, *args, size=16, dtype=F4, name=None):
        result = self.part(self.memory(size), dtype=dtype)
        self.calls.append(Call(name or function.__name__, function, (*args, result), {}, (result,), ()))
        return result

    def write(self, function, *args, into):
        self.calls.append(Call(function.__name__, function, (*args, into), {}, (), (into,)))

    def plan(self, *outputs, copied=0):
        return make_plan(self.calls, list(outputs), copied)


def mixed(*arrays):
    """Stand for a function that is not elementwise."""


def place(plan, part):
    return plan.offsets[part.memory.number]


def test_what_nothing_needs_is_dropped():
    r = Recording()
    x = r.argument()
    a = r.call(np.sin, x)
    r.call(np.cos, a)  # unused
    plan = r.plan(r.call(np.exp, a))
    assert [call.name for call in plan.calls] == ["sin", "exp"]


def test_writes_into_arguments_and_checks_are_kept():
    r = Recording()
    x, y = r.argument(), r.argument(place=1)
    r.calls.append(Call("guard", bool, (r.call(np.sin, y),), {}, (), ()))
    r.write(np.cos, y, into=x)
    assert [call.name for call in r.plan().calls] == ["sin", "guard", "cos"]


def test_checks_after_writes_are_refused():
    r = Recording()
    x = r.argument()
    r.write(np.cos, x, into=x)
    r.calls.append(Call("guard", bool, (x,), {}, (), ()))
    with pytest.raises(Unreplayable, match="checked after arguments have been written"):
        r.plan()


def test_what_is_the_same_each_time_is_kept_from_the_recording():
    r = Recording()
    ones = r.call(np.sin)
    ones.memory.fixed, ones.memory.root = True, np.ones(16, F4)
    plan = r.plan(r.call(np.add, r.argument(), ones))
    assert [call.name for call in plan.calls] == ["add"]
    assert ones.memory.number not in plan.offsets


def test_memory_must_be_written_before_it_is_read():
    r = Recording()
    empty = r.part(r.memory())
    with pytest.raises(Unreplayable, match="add reads memory that nothing wrote"):
        r.plan(r.call(np.add, r.argument(), empty))


def test_adding_to_what_nothing_wrote_is_refused():
    r = Recording()
    seed, x = r.part(r.memory()), r.argument()
    r.calls.append(Call("add", np.add, (seed, x, seed), {}, (), (seed,)))
    with pytest.raises(Unreplayable, match="add reads memory that nothing wrote"):
        r.plan(seed)


def test_an_output_must_be_written():
    r = Recording()
    with pytest.raises(Unreplayable, match="returns memory that nothing wrote"):
        r.plan(r.part(r.memory()))


def test_an_elementwise_result_takes_the_place_of_a_dying_operand():
    r = Recording()
    a = r.call(mixed, r.argument())
    b = r.call(np.sin, a)
    plan = r.plan(r.call(mixed, b))
    assert place(plan, a) == place(plan, b)


@pytest.mark.parametrize(
    "why", ["not elementwise", "read later", "another layout", "another width", "a view of it too"]
)
def test_a_place_is_not_shared(why):
    r = Recording()
    a = r.call(mixed, r.argument(), size=32)
    if why == "not elementwise":
        b = r.call(mixed, a, size=32)
    elif why == "read later":
        b = r.call(np.sin, a, size=32)
    elif why == "another layout":
        b = r.call(np.sin, Part(a.memory, 4 * 31, (32,), (-4,), F4), size=32)
    elif why == "another width":
        b = r.call(np.sin, a, size=32, dtype=np.dtype("float64"))
    else:
        b = r.call(np.add, a, Part(a.memory, 4 * 31, (32,), (-4,), F4), size=32)
    last = r.call(mixed, b, a) if why == "read later" else r.call(mixed, b)
    plan = r.plan(last)
    assert abs(place(plan, a) - place(plan, b)) >= 32 * 4


def test_views_keep_their_memory():
    r = Recording()
    a = r.call(mixed, r.argument())
    b = r.call(mixed, a)
    view = r.part(a.memory, 4, 8)
    plan = r.plan(r.call(mixed, view, b))
    assert place(plan, a) != place(plan, b)


def test_an_output_has_an_array_of_its_own_only_if_it_is_all_of_it():
    r = Recording()
    x = r.argument()
    whole, part, twice = r.call(np.sin, x), r.call(np.cos, x), r.call(np.tan, x)
    plan = r.plan(whole, r.part(part.memory, 2), twice, twice)
    assert set(plan.own) == {whole.memory.number}
    assert set(plan.offsets) == {part.memory.number, twice.memory.number}


def test_small_outputs_are_copied_to_the_caller():
    r = Recording()
    small, large = r.call(np.sin, r.argument()), r.call(np.sin, r.argument(64, place=1), size=64)
    plan = r.plan(small, large, copied=64)
    assert set(plan.own) == {large.memory.number}
    assert set(plan.offsets) == {small.memory.number}


def join(r, pieces, into):
    r.calls.append(Call("concatenate", np.concatenate, (list(pieces),), {"out": into}, (), (into,)))


def joins(plan):
    """Return what is joined: the pieces' sizes, and where they go."""
    found = [call for call in plan.calls if call.name == "concatenate"]
    return [([x.shape[0] for x in call.args[0]], call.writes[0].offset, call.writes[0].shape) for call in found]


def test_pieces_of_a_join_are_written_there():
    r = Recording()
    flat = r.memory(48)
    pieces = [r.call(mixed, r.argument(place=k)) for k in range(3)]
    join(r, pieces, r.part(flat))
    plan = r.plan(r.call(mixed, r.part(flat), size=48))
    assert [call.name for call in plan.calls] == ["mixed"] * 4
    assert [call.results[0].memory for call in plan.calls[:3]] == [flat] * 3
    assert [call.results[0].offset for call in plan.calls[:3]] == [0, 64, 128]
    assert set(plan.own) | set(plan.offsets) == {flat.number, plan.outputs[0].memory.number}


@pytest.mark.parametrize(
    ("why", "left"),
    [
        ("read later", [([16], 64, (16,))]),
        ("returned", [([16], 64, (16,))]),
        ("an argument", [([16], 64, (16,))]),
        ("another dtype", [([16], 64, (16,))]),
        ("a part", [([16], 64, (16,))]),
        ("gaps", [([16], 64, (16,))]),
        ("twice", [([16], 128, (16,))]),
        ("into an argument", [([16, 16, 16], 0, (48,))]),
        ("met before", [([16, 16, 16], 0, (48,))]),
        ("all arguments", [([16, 16, 16], 0, (48,))]),
    ],
)
def test_other_pieces_are_joined(why, left):
    r = Recording()
    x = r.argument()
    into = r.argument(48, place=1) if why == "into an argument" else r.part(r.memory(48))
    if why == "met before":
        r.write(mixed, x, into=r.part(into.memory, 0, 1))
    pieces = [x] * 3 if why == "all arguments" else [r.call(mixed, x) for _ in range(3)]
    if why == "an argument":
        pieces[1] = x
    elif why == "another dtype":
        pieces[1] = r.call(mixed, x, dtype=np.dtype("int32"))
    elif why == "a part":
        pieces[1] = r.part(r.call(mixed, x, size=32).memory, 0, 16)
    elif why == "gaps":
        pieces[1] = r.part(r.call(mixed, x, size=32).memory, 0, 32, 2)
    elif why == "twice":
        pieces[2] = pieces[1]
    join(r, pieces, into)
    last = r.call(mixed, into, *([pieces[1]] if why == "read later" else ()))
    plan = r.plan(last, *([pieces[1]] if why == "returned" else ()))
    assert joins(plan) == left


def test_what_stays_is_joined_run_by_run():
    r = Recording()
    x, flat = r.argument(), r.memory(16 * 6)
    made = [r.call(mixed, x) for _ in range(2)]
    join(r, [x, x, made[0], x, made[1], x], r.part(flat))
    plan = r.plan(r.call(mixed, r.part(flat)))
    assert joins(plan) == [([16, 16], 0, (32,)), ([16], 192, (16,)), ([16], 320, (16,))]
    assert [call.results[0].offset for call in plan.calls[:2]] == [128, 256]


def test_pieces_of_what_is_a_piece_move_with_it():
    r = Recording()
    inner, outer = r.memory(32), r.memory(48)
    a = r.call(mixed, r.argument())
    join(r, [a, r.argument(place=1)], r.part(inner))
    join(r, [r.argument(place=2), r.part(inner)], r.part(outer))
    plan = r.plan(r.call(mixed, r.part(outer), size=48))
    (made,) = plan.calls[0].results
    assert (made.memory, made.offset) == (outer, 64)
    assert joins(plan) == [([16], 128, (16,)), ([16], 0, (16,))]


def copy(r, source, name="asarray"):
    result = Part(r.memory(source.nbytes // 4), 0, source.shape, (4,), source.dtype)
    r.calls.append(Call(name, np.copyto, (result, source), {}, (result,), ()))
    return result


def test_a_copy_is_what_it_is_a_copy_of():
    r = Recording()
    x = r.argument(32)
    a, b = copy(r, r.part(x.memory, 16, 32)), copy(r, r.call(mixed, x))
    plan = r.plan(r.call(mixed, a, b))
    assert [call.name for call in plan.calls] == ["mixed", "mixed"]
    assert plan.calls[1].args[:2] == (r.part(x.memory, 16, 32), plan.calls[0].results[0])


@pytest.mark.parametrize("why", ["written to", "source written to", "returned", "strided", "another function"])
def test_a_copy_stays(why):
    r = Recording()
    x = r.argument(32)
    source = r.call(mixed, x, size=32)
    part = r.part(source.memory, 0, 32, 2) if why == "strided" else r.part(source.memory, 0, 16)
    a = copy(r, part, "kernel copies" if why == "another function" else "asarray")
    if why == "written to":
        r.write(mixed, x, into=a)
    if why == "source written to":
        r.write(mixed, x, into=r.part(source.memory, 16, 32))
    plan = r.plan(r.call(mixed, a, source), *([a] if why == "returned" else ()))
    assert any(call.function is np.copyto for call in plan.calls)


def test_a_copy_of_a_copy_stays_if_the_first_source_is_written_to():
    r = Recording()
    x = r.argument()
    source = r.call(mixed, x)
    b = copy(r, copy(r, source))
    r.write(mixed, x, into=source)
    plan = r.plan(r.call(mixed, b, source))
    assert sum(call.function is np.copyto for call in plan.calls) == 1


def test_a_source_lives_as_long_as_a_copy_of_its_copy():
    r = Recording()
    x = r.argument()
    source = r.call(mixed, x)
    b = copy(r, copy(r, source))
    others = [r.call(mixed, x) for _ in range(3)]
    plan = r.plan(r.call(mixed, b, *others))
    assert len({plan.offsets[call.results[0].memory.number] for call in plan.calls[:4]}) == 4


def test_a_source_may_be_written_to_after_the_last_read_of_its_copy():
    r = Recording()
    x = r.argument()
    source = r.call(mixed, x)
    y = r.call(mixed, copy(r, source))
    r.write(mixed, x, into=source)
    plan = r.plan(r.call(mixed, y, source))
    assert not any(call.function is np.copyto for call in plan.calls)


def test_what_a_copy_is_of_lives_as_long_as_the_copy():
    r = Recording()
    x = r.argument()
    source = r.call(mixed, x)
    a = copy(r, source)
    others = [r.call(mixed, x) for _ in range(3)]
    plan = r.plan(r.call(mixed, a, *others))
    places = {plan.offsets[call.results[0].memory.number] for call in plan.calls[:4]}
    assert len(places) == 4


def test_what_is_copied_to_the_caller_lives_to_the_end():
    r = Recording()
    x = r.argument()
    a = r.call(mixed, x)
    view = r.part(a.memory, 2)
    others = [r.call(mixed, x)]
    for _ in range(5):
        others.append(r.call(mixed, others[-1]))
    plan = r.plan(view, others[-1])
    assert place(plan, a) not in {place(plan, b) for b in others[:-1]}


def _lives(plan):
    """Return (first, last) call that touches each memory in the arena, from the calls alone."""
    lives = {}
    for n, call in enumerate(plan.calls):
        for part in (*parts_of(call.args), *call.results, *call.writes):
            if part.memory.number in plan.offsets:
                first, _ = lives.get(part.memory.number, (n, n))
                lives[part.memory.number] = first, n
    for part in plan.outputs:
        if part.memory.number in lives:
            lives[part.memory.number] = lives[part.memory.number][0], len(plan.calls)
    return lives


def _overlap(plan, nbytes):
    """Return pairs of memories that share bytes while both are alive, and the call where one follows the other."""
    lives = _lives(plan)
    for a, b in itertools.combinations(sorted(lives, key=lambda k: lives[k]), 2):
        low, high = sorted((plan.offsets[a], plan.offsets[b]))
        lower = a if plan.offsets[a] == low else b
        if low + nbytes[lower] > high and lives[a][1] >= lives[b][0]:
            yield a, b, lives[a][1] if lives[a][1] == lives[b][0] else None


@pytest.mark.parametrize("seed", range(60))
def test_what_is_alive_never_overlaps(seed):
    draw = random.Random(seed)
    r = Recording()
    arrays = [r.argument(16), r.argument(LARGE, place=1)]
    for _ in range(draw.randint(2, 60)):
        size = draw.choice([1, 16, 17, 500, LARGE // 4, LARGE, 3000])
        like = [x for x in arrays if x.memory.nbytes == 4 * size and len(x.shape) == 1 and x.shape[0] == size]
        if like and draw.random() < 0.6:
            arrays.append(r.call(np.add, draw.choice(like), draw.choice(like), size=size))
        elif draw.random() < 0.2 and arrays[-1].memory.planned:
            r.write(np.sin, draw.choice(arrays), into=arrays[-1])
        else:
            arrays.append(r.call(mixed, draw.choice(arrays), draw.choice(arrays[-3:]), size=size))
        if draw.random() < 0.2:
            arrays.append(r.part(arrays[-1].memory, 0, None, 2))
    plan = r.plan(*draw.sample(arrays[2:], min(3, len(arrays) - 2)))
    nbytes = {part.memory.number: part.memory.nbytes for part in arrays}
    for number, offset in plan.offsets.items():
        assert offset % ALIGNMENT == 0
        assert offset + nbytes[number] <= plan.nbytes
    for a, b, at in _overlap(plan, nbytes):
        assert at is not None, f"memories {a} and {b} are alive at once in the same place"
        call = plan.calls[at]
        (result,) = call.results
        assert result.memory.number == b, call
        assert call.function is np.add, call
        read = [part for part in parts_of(call.args) if part.memory.number == a]
        assert all(part[1:] == result[1:] for part in read), call
        assert plan.offsets[a] == plan.offsets[b]


def test_the_arena_is_smaller_than_all_arrays():
    r = Recording()
    x = r.argument(LARGE)
    for _ in range(50):
        x = r.call(mixed, x, size=LARGE)
    plan = r.plan(r.call(mixed, x))
    assert plan.nbytes == 2 * 4 * LARGE
