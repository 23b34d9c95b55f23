"""`xdev bench`: the arithmetic of crossovers, the clock, what is left out, and what the two commands say and refuse."""

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import xdev
from xdev import registry
from xdev.cli import app
from xdev.cli import app as commands
from xdev.cli.bench import advice, contenders, crossover, mine, picture, timing, verdict, words
from xdev.cli.bench.work import KINDS
from xdev.errors import ConfigurationError, DeviceError

PNG = b"\x89PNG\r\n\x1a\n"


def invoke(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def said(result):
    """The text of a result, as if lines did not end."""
    return " ".join((result.stdout + result.stderr).split())


def spread(middle, far=0.0):
    return timing.Spread(middle - far, middle, middle + far)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(crossover, "SETTLE", 0.0)
    monkeypatch.setattr(crossover, "busy", list)
    monkeypatch.setattr(mine, "busy", list)


# -- words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 ns"), (2e-9, "2.00 ns"), (1.234e-6, "1.23 µs"), (56.78e-6, "56.8 µs"), (0.9994e-3, "999 µs"),
        (0.0425, "42.5 ms"), (1.0, "1.00 s"), (123.4, "123 s"), (float("nan"), "– ns"),
    ],
)  # fmt: skip
def test_durations_in_words(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1"), (90.7, "91"), (4000, "4000"), (16_000, "16k"), (138_234.0, "138k"), (10**6, "1M"), (2.5e9, "2.5G")],
)
def test_sizes_in_words(count, text):
    assert words.size(count) == text


@pytest.mark.parametrize(("count", "text"), [(2048, "2048"), (2048.0, "2000"), (138_234.0, "140k"), (83.6, "84")])
def test_interpolated_sizes_have_two_digits(count, text):
    assert words.about(count) == text


@pytest.mark.parametrize(
    ("text", "sizes"), [("64", (64,)), ("256, 64,256", (64, 256)), ("4k,1M,", (4000, 1_000_000)), ("1G", (10**9,))]
)
def test_sizes_are_read(text, sizes):
    assert words.parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", ",", "0", "-4", "1.5", "k", "4kk", "²", "many"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"--sizes.*give positive integers such as 64,256,4k,1M"):
        words.parse_sizes(text)


@pytest.mark.parametrize(
    ("listed", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_in_sentences(listed, text):
    assert words.joined(listed) == text


# -- who wins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "rival", "expected"),
    [
        (spread(1.0), spread(2.0), 1),
        (spread(2.0), spread(1.0), -1),
        (spread(1.0), spread(1.0), 0),
        (spread(1.0, 0.6), spread(2.0, 0.5), 0),  # the quartiles overlap
        (spread(1.0, 0.4), spread(2.0, 0.5), 1),
        (timing.Spread(0.9, 1.0, 1.5), timing.Spread(1.5, 2.0, 9.0), 0),  # and here they touch
    ],
)
def test_ahead_means_beyond_the_quartiles(own, rival, expected):
    assert verdict.compare(own, rival) == expected
    assert verdict.compare(rival, own) == -expected


@pytest.mark.parametrize(
    ("own", "rival", "expected"),
    [
        ((4.0, 4.0), (1.0, 16.0), 20.0),  # in logarithms, the middle of 10 and 40
        ((4.0, 4.0), (2.0, 4.0**2), 10 * 4 ** (1 / 3)),
        ((1.0, 16.0), (4.0, 4.0), 20.0),
        ((1.0, 1.0), (2.0, 2.0), None),
        ((1.0, 1.0), (1.0, 2.0), None),
    ],
)
def test_lines_cross_in_logarithms(own, rival, expected):
    found = verdict.crossing((10, 40), own, rival)
    assert found == (None if expected is None else pytest.approx(expected))


def test_leaders_are_those_whom_nobody_beats():
    assert verdict.leaders([spread(1.0), spread(2.0), None]) == [0]
    assert verdict.leaders([spread(1.0, 0.2), spread(1.1, 0.2), spread(3.0)]) == [0, 1]
    assert verdict.leaders([None, None]) == []


SIZES = (10, 40, 160, 640)
FLAT = (4.0, 4.0, 4.0, 4.0)
VERDICTS = {
    "at every size": ((1, 1, 1, 1), 0.0),
    "never up to 640": ((9, 9, 9, 9), 0.0),
    "from 20 on": ((16, 1, 1, 1), 0.0),  # the medians cross between 10 and 40
    "from 320 on": ((16, 16, 16, 1), 0.0),
    "from 160 on": ((16, 3.9, 1, 1), 0.2),  # ahead at 40 too, within the spread
    "up to 80": ((1, 1, 16, 16), 0.0),
    "up to 40": ((1, 1, 3.9, 9), 0.2),
    "up to 40, then level": ((1, 1, 3.9, 4.1), 0.2),
    "from 20 to 160, then level": ((16, 1, 1, 4.1), 0.2),
    "from 20 to 80": ((16, 1, 16, 16), 0.0),
    "at 40 only": ((4, 1, 4, 9), 0.0),
    "level from 160 on": ((9, 9, 4.1, 3.9), 0.2),
    "level throughout": (FLAT, 0.0),
    "from 80 on": ((1, 16, 16 / 16, 1), 0.0),  # lost in between: only the last stretch counts
}


@pytest.mark.parametrize(("text", "case"), VERDICTS.items())
def test_verdicts(text, case):
    own, far = case
    found = verdict.judge(SIZES, [spread(t, far) for t in own], [[spread(t, far) for t in FLAT]])
    assert found.text(SIZES[-1]) == text


def test_every_kind_of_verdict_is_tried():
    kinds = {
        verdict.judge(SIZES, [spread(t, far) for t in own], [[spread(t, far) for t in FLAT]]).kind
        for own, far in VERDICTS.values()
    }
    assert kinds == set(verdict.Kind.__args__)


def test_of_several_rivals_the_best_at_each_size_counts():
    rivals = [[spread(t) for t in (1, 9, 9, 9)], [spread(t) for t in (9, 1, 9, 9)]]
    assert verdict.judge(SIZES, [spread(4.0)] * 4, rivals).text(640) == "from 96 on"
    assert verdict.judge(SIZES, [spread(0.5)] * 4, rivals).kind == "always"


def test_a_device_that_failed_does_not_win_and_loses_to_who_did_not():
    gone = [spread(1.0), spread(1.0), None, None]
    whole = [spread(4.0)] * 4
    assert verdict.judge(SIZES, gone, [whole]).text(640) == "up to 40"
    assert verdict.judge(SIZES, whole, [gone]).text(640) == "from 160 on"
    assert verdict.judge((10,), [spread(1.0)], [[None]]).kind == "always"


def test_a_verdict_in_json():
    assert verdict.Verdict("from", 20.0).as_dict() == {
        "kind": "from", "size": 20.0, "until": None, "then_level": False,
    }  # fmt: skip


# -- the clock ---------------------------------------------------------------------------------------


class Clock:
    """Time that passes when somebody works or sleeps."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)

    def plan(self, **options):
        return timing.Plan(clock=self, sleep=self.sleep, **{"settle": 0.0, "rounds": 9, **options})


def cases_of(clock, log, costs, **options):
    """Cases that take so many seconds a call, and five at the first."""

    def build(name, cost):
        where, first = xdev.device(name), [5.0]

        def call(_):
            clock.now += first.pop() if first else cost
            log.append(name)

        return where, lambda: timing.Case(where, (), call, **options)

    return [build(name, cost) for name, cost in costs.items()]


def test_the_first_call_is_apart_and_rounds_take_turns():
    pytest.importorskip("array_api_strict")
    clock, log = Clock(), []
    costs = {"numpy:cpu:0": 1.0, "strict:cpu:0": 2.0}
    found = timing.measure(cases_of(clock, log, costs), clock.plan(seconds=36.0, rounds=9, settle=0.5))
    for name, cost in costs.items():
        point = found.points[xdev.device(name)]
        assert point.first == 5.0
        assert point.call == timing.Spread(cost, cost, cost) == point.moved
        assert point.rounds == 9
        assert (point.bytes_there, point.bytes_back) == (0, 0)
    # Who begins alternates, and nobody sleeps where the same framework goes on.
    assert clock.slept == [0.5] * (1 + 9 + 1)
    turns = [name for number, name in enumerate(log) if number == 0 or log[number - 1] != name]
    assert turns[-10:] == ["numpy:cpu:0", "strict:cpu:0"] * 5


def test_slow_work_gets_few_rounds():
    clock, log = Clock(), []
    plan = clock.plan(seconds=1.0, rounds=9, fewest=5)
    (point,) = timing.measure(cases_of(clock, log, {"numpy:cpu:0": 10.0}), plan).points.values()
    assert point.rounds == 5
    assert log == ["numpy:cpu:0"] * (1 + 1 + 5)  # the first, one to warm up, and the rounds


def test_noise_is_in_the_quartiles():
    assert timing.Spread.of([5.0, 1.0, 2.0, 3.0, 4.0]) == timing.Spread(2.0, 3.0, 4.0)
    assert timing.Spread.of([1.0]) == timing.Spread(1.0, 1.0, 1.0)


def test_each_call_is_waited_for_unless_they_queue_up(monkeypatch):
    waits = []
    monkeypatch.setattr(timing, "synchronize", waits.append)
    for queued in (False, True):
        clock = Clock()
        plan = clock.plan(seconds=30.0, rounds=3, fewest=1)
        waits.clear()
        timing.measure(cases_of(clock, [], {"numpy:cpu:0": 1.0}, queued=queued), plan)
        looked_at = [waits.count(xdev.device("numpy")), len(waits)]
        assert looked_at[0] == looked_at[1]
        if not queued:
            each = len(waits)
    assert len(waits) < each


def test_what_fails_leaves_the_others_alone(device):
    def build():
        raise RuntimeError("no\nkernel")

    calls = itertools.count()

    def later():
        if next(calls) == 8:
            raise MemoryError("too large")

    plan = timing.Plan(seconds=0.0, rounds=5, settle=0.0)
    here = xdev.device("numpy")
    found = timing.measure([(device, build)], plan)
    assert found.failures == {device: "RuntimeError: no kernel"}
    assert not found.points
    found = timing.measure([(here, lambda: timing.Case(here, (), lambda _: later()))], plan)
    assert found.failures == {here: "MemoryError: too large"}
    assert not found.points


def test_transfers_are_measured_apart(device):
    x = np.ones((3, 5), np.float32)

    def build():
        return timing.Case(device, (x,), lambda placed: device.xp.sum(placed[0], axis=0), checked=True)

    (point,) = timing.measure([(device, build)], timing.Plan(seconds=0.0, rounds=5, settle=0.0)).points.values()
    assert (point.bytes_there, point.bytes_back) == (60, 20)
    assert (point.there.middle > 0, point.back.middle > 0) == (not device.is_host,) * 2
    assert not point.writes
    np.testing.assert_array_equal(point.result, np.full(5, 3, np.float32))


# -- what is timed -----------------------------------------------------------------------------------


def test_the_command_line_names_every_kind_of_work():
    assert [each.value for each in sys.modules[commands.registered_callback.callback.__module__].Work] == list(KINDS)


@pytest.mark.parametrize("work", KINDS.values(), ids=KINDS)
def test_work_gives_the_same_on_every_device(work, device):
    results = []
    for where in (xdev.device("numpy"), device):
        inputs = work.inputs(work.sizes[0])
        case = work.case(work.sizes[0], inputs, where)
        placed = xdev.to_device(inputs, where)
        with xdev.use(where):
            result = [case.call(placed) for _ in range(3)][-1]
        assert xdev.device_of(result) == where
        results.append(xdev.to_numpy(result))
    expected, got = results
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5 * np.max(np.abs(expected)))


@pytest.mark.parametrize("work", KINDS.values(), ids=KINDS)
def test_sizes_rise_and_fit_side_by_side(work):
    assert list(work.sizes) == sorted(set(work.sizes))
    assert 4 <= len(work.sizes) <= 8
    leaves = xdev.tree.leaves(work.inputs(work.sizes[0]))
    assert {leaf.dtype.name for leaf in leaves} <= {"float32", "int32"}


# -- on which devices --------------------------------------------------------------------------------


@pytest.fixture
def imitated():
    """Register a backend with a real device, another of the same name, and an emulated one."""

    class Imitated(type(xdev.backend("numpy"))):
        name = "imitated"
        framework = "no_such_framework"
        is_host = False
        priority = -1

        def devices(self):
            names = ("of one kind", "of one kind", "EMULATED by the CPU")
            return [
                xdev.DeviceInfo(kind="cuda", index=number, handle=("imitated", number), name=name)
                for number, name in enumerate(names)
            ]

    xdev.register(Imitated)
    yield
    registry.unregister("imitated")


def test_emulated_devices_and_checkers_are_left_out(imitated):
    found = contenders.choose(())
    chosen = [str(where) for where in found.devices]
    assert chosen[0] == "imitated:cuda:0"
    assert "numpy:cpu:0" in chosen
    reasons = dict(found.left_out)
    assert reasons["imitated:cuda:2"].startswith("emulated, and an emulation's speed says nothing")
    assert reasons["imitated:cuda:1"] == "the same hardware as imitated:cuda:0 by its name; --device times it"
    for where in xdev.devices():
        assert (str(where) in chosen) != (str(where) in reasons)
        if where.backend == "strict":
            assert reasons[str(where)].startswith("they check code and are not for speed")
        elif "emulat" in where.name.lower():
            assert reasons[str(where)] == contenders.EMULATED


def test_named_devices_are_timed_in_that_order(imitated):
    found = contenders.choose(("imitated:cuda:1, numpy", "imitated:1"))
    assert [str(where) for where in found.devices] == ["imitated:cuda:1", "numpy:cpu:0"]
    assert not found.left_out
    assert contenders.choose(("numpy,all",)).devices[0] == "numpy:cpu:0"


def test_a_named_checker_is_timed():
    pytest.importorskip("array_api_strict")
    assert [str(where) for where in contenders.choose(("strict",)).devices] == ["strict:cpu:0"]


def test_an_emulated_device_is_not_even_timed_when_it_is_named(imitated):
    assert [str(where) for where in contenders.choose(("imitated:2,numpy",)).devices] == ["numpy:cpu:0"]
    with pytest.raises(DeviceError, match=r"no device to time\. imitated:cuda:2: emulated.*`xdev doctor` says more"):
        contenders.choose(("imitated:2",))


@pytest.mark.parametrize(("name", "text"), [(",", "--device is empty"), ("torhc", "did you mean 'torch'")])
def test_wrong_names_of_devices_are_refused(name, text):
    with pytest.raises(DeviceError, match=text):
        contenders.choose((name,))
    assert invoke("crossover", "--device", name).exit_code == 2


class Place:
    """A device as the arithmetic sees it."""

    def __init__(self, name):
        self.name = name
        self.is_host = name.startswith("numpy")
        self.is_accelerator = "cuda" in name

    def __str__(self):
        return self.name


@pytest.mark.parametrize(
    ("names", "reference"),
    [
        (("torch:cuda:0", "torch:cpu:0", "numpy:cpu:0"), "numpy:cpu:0"),
        (("torch:cuda:0", "jax:cpu:0", "torch:cpu:0"), "jax:cpu:0"),
        (("torch:cuda:0", "jax:cuda:0"), "jax:cuda:0"),
    ],
)
def test_the_host_is_what_others_are_compared_with(names, reference):
    assert str(contenders.reference_of(map(Place, names))) == reference


# -- xdev bench crossover ----------------------------------------------------------------------------


def some():
    """The names of NumPy and of one other device."""
    found = [str(where) for where in contenders.choose(()).devices if not where.is_host]
    return ["numpy:cpu:0", *found[:1]] if found else ["numpy:cpu:0"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "new" / "picture.png"
    options = ("--work", "matmul", "--work", "train", "--quick", "--seconds", "0", "--device", ",".join(some()))
    with pytest.MonkeyPatch.context() as patched:
        for kind in ("matmul", "train"):
            patched.setitem(KINDS, kind, _with_sizes(KINDS[kind], (1, 2, 3, 4)))
        result = invoke("crossover", *options, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), out


def _with_sizes(work, sizes):
    return dataclasses.replace(work, sizes=sizes)


def test_crossover_as_json(ran):
    content, _ = ran
    assert set(content) == {"devices", "left_out", "seconds", "rounds", "work", "picture", "notes"}
    assert [entry["device"] for entry in content["devices"]] == some()
    assert (content["seconds"], content["rounds"]) == (0.0, crossover.QUICK_ROUNDS)
    assert [entry["work"] for entry in content["work"]] == ["matmul", "train"]
    for entry in content["work"]:
        assert entry["sizes"] == [2, 4]
        assert entry["reference"] == "numpy:cpu:0"
        assert not entry["failures"]
        assert [(p["size"], p["device"]) for p in entry["points"]] == [(n, name) for n in (2, 4) for name in some()]
        for point in entry["points"]:
            low, high = point["call_quartiles"]
            assert 0 < low <= point["call_seconds"] <= high
            assert point["first_call_seconds"] > 0
            assert point["to_host_bytes"] > 0
            if point["device"] == "numpy:cpu:0":
                assert point["moved_seconds"] == point["call_seconds"]
        for judged in entry["verdicts"]:
            for place in ("data_there", "moved"):
                assert set(judged[place]) == {"against_reference", "fastest_of_all"}
                assert (judged[place]["against_reference"] is None) == (judged["device"] == "numpy:cpu:0")
                assert judged[place]["fastest_of_all"]["kind"] in verdict.Kind.__args__


def test_the_picture_is_one(ran):
    pytest.importorskip("matplotlib")
    content, out = ran
    assert content["picture"] == str(out)
    assert out.read_bytes().startswith(PNG)


def test_crossover_as_tables(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    sizes = ",".join(map(str, range(1, 11)))  # more than stand side by side
    names = some()
    result = invoke("crossover", "--work", "reduction", "--sizes", sizes, "--seconds", "0", "--device", ",".join(names))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert f"{10 * len(names)} points of 0 s and more, on {', '.join(names)}" in lines
    assert sum(line.startswith("n = ") for line in lines) == 2
    assert "faster than" in result.stdout or len(names) == 1
    written = list(Path("runs").glob("crossover-*.png")) if Path("runs").exists() else []
    assert [line for line in lines if line.startswith("picture: ")] == [f"picture: {path}" for path in written]


def test_a_lone_device_has_no_rivals(tmp_path):
    options = ("--work", "matmul", "--sizes", "2,4", "--seconds", "0", "--device", "numpy")
    result = invoke("crossover", *options, "--out", tmp_path / "one.png")
    assert result.exit_code == 0
    assert "faster than" not in result.stdout
    content = json.loads(invoke("crossover", *options, "--out", tmp_path / "one.png", "--json").stdout)
    assert content["work"][0]["verdicts"] == []


def test_without_matplotlib_there_are_tables(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    monkeypatch.chdir(tmp_path)
    result = invoke("crossover", "--work", "matmul", "--sizes", "2", "--seconds", "0", "--device", "numpy")
    assert result.exit_code == 0
    assert "matmul: the product" in result.stdout
    assert result.stdout.splitlines()[-1] == picture.MISSING
    assert not list(tmp_path.iterdir())


def test_a_device_that_fails_at_a_size_takes_no_part_at_larger_ones(monkeypatch, tmp_path):
    whole = KINDS["matmul"].case

    def case(n, inputs, where):
        if n >= 3 and not where.is_host:
            raise MemoryError(f"no room for {n}")
        return whole(n, inputs, where)

    monkeypatch.setitem(KINDS, "matmul", dataclasses.replace(KINDS["matmul"], case=case))
    names = some()
    if len(names) == 1:
        pytest.skip("NumPy is the only device here")
    options = ("--work", "matmul", "--sizes", "2,3,4", "--seconds", "0", "--device", ",".join(names))
    options = (*options, "--out", tmp_path / "x.png")
    (entry,) = json.loads(invoke("crossover", *options, "--json").stdout)["work"]
    assert entry["failures"] == [{"device": names[1], "size": 3, "reason": "MemoryError: no room for 3"}]
    assert sorted((p["size"], p["device"]) for p in entry["points"] if p["size"] > 2) == [(3, names[0]), (4, names[0])]
    assert f"{names[1]} failed at 3: MemoryError: no room for 3" in said(invoke("crossover", *options))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--sizes", "4,x", "--work", "matmul"), "--sizes: 'x' is no size"),
        (("--sizes", "4"), "--sizes mean something else for each kind of work; name one kind with --work (matmul,"),
        (("--work", "sorting"), "'sorting' is not one of"),
        (("--seconds", "-1"), "greater than or equal to 0"),
        (("--out", "picture.xyz"), "--out picture.xyz: a picture's name ends with one of ."),
        (("--out", "picture"), "--out picture: a picture's name ends with one of ."),
        (("--out", "file/picture.png"), "cannot write to file/picture.png"),
    ],
)
def test_what_crossover_refuses(options, text, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    result = invoke("crossover", *options)
    assert result.exit_code == 2
    assert text in re.sub(r"[│╭╮╰╯─]", "", said(result))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(crossover, "cores", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (0.3, 0, 0), raising=False)
    assert crossover.busy() == []
    monkeypatch.setattr("os.getloadavg", lambda: (3.14, 0, 0), raising=False)
    assert crossover.busy()[0].startswith("This machine was busy: 3.1 processes on 2 cores as it began.")


# -- xdev bench mine ---------------------------------------------------------------------------------

CODE = """
import numpy as np
import xdev

def inputs():
    return np.ones((4, 3), np.float32), np.ones(3, np.float32)

def product(x, w):
    print("not to be seen")
    return {"y": x @ w, "rows": 4}

def needs(x, w, b):
    return x

def fails(x, w):
    if xdev.device_of(x).is_host:
        return x
    raise RuntimeError("no kernel")

def fails_everywhere(x, w):
    raise RuntimeError("no kernel")

def differs(x, w):
    return x if xdev.device_of(x).is_host else x + 1

def doubles():
    return np.ones(3), np.arange(3)

def added(x, n):
    x += 1
    return x + n

def made(device):
    return device.xp.ones(7, dtype=device.xp.float32)

def current():
    return xdev.device().xp.ones(7, dtype=xdev.device().xp.float32)

def nothing(x, w):
    return None

def broken():
    return 1 / 0

number = 3
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("code.py").write_text(CODE, encoding="utf-8")
    return "code.py"


def timed(target, *options, device=None):
    device = ",".join(some()) if device is None else device
    result = invoke("mine", target, "--seconds", "0", "--device", device, "--json", *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_mine_times_a_function_everywhere(code):
    content = timed("code.py:product")
    assert set(content) == {
        "function", "inputs", "points", "failures", "left_out", "recommended", "why", "notes",
    }  # fmt: skip
    assert content["inputs"] == ["float32 (4, 3)", "float32 (3,)"]
    assert [point["device"] for point in content["points"]] == some()
    assert content["recommended"] in some()
    assert content["why"].startswith(f"{content['recommended']}: ")


def test_mine_in_words(code, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = invoke("mine", "code.py:product", "--seconds", "0", "--device", ",".join(some()))
    assert result.exit_code == 0
    assert result.stdout.startswith("code.py:product with float32 (4, 3), ")
    assert "not to be seen" not in result.output
    assert " a call" in said(result)
    table = [line for line in result.stdout.splitlines() if ":cpu:0" in line and "µs" in line]
    assert table
    assert max(map(len, table)) <= 80


def test_mine_runs_on_every_device(code, device):
    if "emulat" in device.name.lower():
        assert invoke("mine", "code.py:product", "--device", device).exit_code == 2
        return
    (point,) = timed("code.py:product", device=str(device))["points"]
    assert (point["to_device_bytes"] >= 60, point["to_host_bytes"] >= 16) == (True, True)


@pytest.mark.parametrize("name", ["made", "current"])
def test_functions_that_take_a_device_or_nothing(code, name):
    content = timed(f"code.py:{name}")
    assert content["inputs"] == []
    assert [point["to_device_bytes"] for point in content["points"]] == [0] * len(some())
    assert [point["to_host_bytes"] for point in content["points"]] == [28] * len(some())
    assert not [note for note in content["notes"] if note.startswith("Results differ")]


def test_a_function_may_return_nothing(code):
    assert [point["to_host_bytes"] for point in timed("code.py:nothing")["points"]] == [0] * len(some())


def test_inputs_of_another_name_and_dtype(code):
    content = timed("code.py:added", "--inputs", "doubles")
    assert content["inputs"] == ["float64 (3,)", "int64 (3,)"]
    assert not content["failures"]  # 64 bits are held everywhere
    assert [point["to_device_bytes"] for point in content["points"]] == [48] * len(some())
    assert content["notes"][0].startswith("It writes into its inputs on numpy:cpu:0")
    narrow = timed("code.py:added", "--inputs", "doubles", "--dtype", "float32")
    assert narrow["points"][0]["to_device_bytes"] == 36


def test_a_function_that_compiles(code):
    if xdev.backends()[0].name == "numpy":
        pytest.skip("NumPy is the only backend here")
    pytest.importorskip("jax")
    (note,) = timed("code.py:product", device="jax:cpu")["notes"]
    assert note == "It was not compiled for jax:cpu:0, unless it does so itself; --jit compiles it."
    assert timed("code.py:product", "--jit", device="jax:cpu")["notes"] == []


def test_a_device_that_cannot_do_it_is_a_line(code):
    names = some()
    if len(names) == 1:
        pytest.skip("NumPy is the only device here")
    content = timed("code.py:fails")
    assert content["failures"] == [{"device": names[1], "reason": "RuntimeError: no kernel"}]
    assert content["recommended"] == "numpy:cpu:0"
    result = invoke("mine", "code.py:fails_everywhere", "--seconds", "0", "--device", "numpy")
    assert result.exit_code == 1
    assert "numpy:cpu:0 failed: RuntimeError: no kernel" in result.stdout
    assert result.stdout.splitlines()[-1] == "it ran on no device"


def test_results_that_differ_are_told(code):
    names = some()
    if len(names) == 1:
        pytest.skip("NumPy is the only device here")
    note = f"Results differ: {names[1]} gives numbers up to 1.0e+00 of the largest away from those of numpy:cpu:0."
    assert note in timed("code.py:differs")["notes"]


@pytest.mark.parametrize(
    ("target", "options", "text"),
    [
        (
            "folder/other.py:f",
            (),
            "folder/other.py is not there. Give a file and a function in it, as in FILE.py:function",
        ),
        ("cod.py:f", (), "cod.py is not there; did you mean code.py?"),
        ("folder:f", (), "folder is a folder."),
        ("text.txt:f", (), "text.txt is no file of Python; give one whose name ends with .py"),
        ("wrong.py:f", (), "wrong.py does not run: ZeroDivisionError: division by zero (line 2)"),
        ("ends.py:f", (), 'ends.py does not run: it ends the program; put that under `if __name__ == "__main__":`'),
        ("empty.py:f", (), "empty.py has no function 'f'; it has none"),
        ("code.py", (), "name the function to time, as in code.py:function; it has inputs, product, needs,"),
        ("code.py:produkt", (), "code.py has no function 'produkt'; did you mean 'product'?"),
        ("code.py:number", (), "'number' in code.py is an int, expected a function; it has inputs, product,"),
        ("code.py:product", ("--inputs", "input"), "code.py has no function 'input'; did you mean 'inputs'?"),
        ("code.py:product", ("--inputs", "broken"), "broken() in code.py failed: ZeroDivisionError: division by zero"),
        (
            "code.py:needs",
            (),
            "needs(x, w, b) cannot be called with what inputs() in code.py returned, 2 arguments: missing a required "
            "argument: 'b'. A tuple is the arguments, anything else the only one",
        ),
        ("bare.py:f", (), "f in bare.py takes x and y, and the file has no function inputs() that makes them. Add one"),
        ("code.py:made", ("--jit",), "--jit compiles a function of arrays, and code.py:made takes none"),
        ("code.py:made", ("--device", "numpy:7"), "'numpy:7' is no device of this machine"),
    ],
)
def test_what_mine_refuses(code, target, options, text):
    Path("folder").mkdir()
    Path("text.txt").touch()
    Path("empty.py").touch()
    Path("wrong.py").write_text("x = 1\n1 / 0\n", encoding="utf-8")
    Path("ends.py").write_text("raise SystemExit\n", encoding="utf-8")
    Path("bare.py").write_text("def f(x, y, z=1):\n    return x\n", encoding="utf-8")
    result = invoke("mine", target, *options)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert text in said(result)


# -- the recommendation ------------------------------------------------------------------------------

MIB = 2**20


def point(name, call, moving=(0.0, 0.0), *, far=0.0, shared=False, sizes=(4 * MIB, MIB)):
    there, back = moving
    return timing.Point(
        device=Place(name),
        call=spread(call, far),
        there=spread(there),
        back=spread(back),
        moved=spread(call + there + back, far),
        first=1.0,
        bytes_there=sizes[0],
        bytes_back=sizes[1],
        shared=shared,
        rounds=9,
    )


HOST = point("numpy:cpu:0", 4e-3)
ADVICE = {
    "alone": ([HOST], "numpy:cpu:0: 4.00 ms a call; there is no other device to compare it with."),
    "the host": (
        [point("torch:cuda:0", 8e-3), HOST, point("jax:cpu:0", 6e-3)],
        "numpy:cpu:0: 4.00 ms a call, 1.50 times faster than jax:cpu:0 (6.00 ms). The data is there already, so "
        "nothing has to move.",
    ),
    "level with the host": (
        [point("torch:cpu:0", 3.9e-3, far=0.2e-3), HOST],
        "numpy:cpu:0: 4.00 ms a call; torch:cpu:0 (3.90 ms) is level with it within the spread. The data is there "
        "already, so nothing has to move.",
    ),
    "from the first call on": (
        [point("torch:cuda:0", 1e-3, (0.3e-3, 0.1e-3)), HOST],
        "torch:cuda:0: 1.00 ms a call, 4.00 times faster than numpy:cpu:0 (4.00 ms). Moving 4.0 MiB there and 1.0 MiB "
        "back costs 400 µs a call, so it pays from the first call on, even if each call moves its data.",
    ),
    "only if it stays": (
        [point("torch:cuda:0", 1e-3, (9e-3, 1e-3)), HOST],
        "torch:cuda:0: 1.00 ms a call, 4.00 times faster than numpy:cpu:0 (4.00 ms). Moving 4.0 MiB there and 1.0 MiB "
        "back costs 10.0 ms a call, and a call there gains 3.00 ms: it pays only if the data stays there, for 4 calls "
        "or more. If each call moves its data, numpy:cpu:0 is faster: 4.00 ms, against 11.0 ms.",
    ),
    "another if it moves": (
        [point("torch:cuda:0", 1e-3, (9e-3, 1e-3)), point("torch:cpu:0", 2e-3, (1e-5, 1e-5), shared=True), HOST],
        "torch:cuda:0: 1.00 ms a call, 4.00 times faster than numpy:cpu:0 (4.00 ms). Moving 4.0 MiB there and 1.0 MiB "
        "back costs 10.0 ms a call, and a call there gains 3.00 ms: it pays only if the data stays there, for 4 calls "
        "or more. If each call moves its data, torch:cpu:0 is faster: 2.02 ms, moving included, against 11.0 ms.",
    ),
    "shared memory": (
        [point("torch:cpu:0", 2e-3, (1e-5, 1e-5), shared=True), HOST],
        "torch:cpu:0: 2.00 ms a call, 2.00 times faster than numpy:cpu:0 (4.00 ms). It computes on the host's own "
        "memory: handing 4.0 MiB there and 1.0 MiB back over costs 20.0 µs a call, so it pays from the first call on, "
        "even if each call moves its data.",
    ),
    "two of a kind": (
        [point("torch:cuda:0", 1e-3, far=1e-4), point("cupy:cuda:0", 1.05e-3, far=1e-4), point("jax:cuda:0", 2e-3)],
        "torch:cuda:0: 1.00 ms a call, 2.00 times faster than jax:cuda:0 (2.00 ms); cupy:cuda:0 (1.05 ms) is level "
        "with it within the spread. Moving 4.0 MiB there and 1.0 MiB back costs 0.00 ns a call, if the data "
        "begins on the host and the result is wanted there.",
    ),
    "nothing moves": (
        [point("torch:cuda:0", 1e-3, sizes=(0, 0)), HOST],
        "torch:cuda:0: 1.00 ms a call, 4.00 times faster than numpy:cpu:0 (4.00 ms). Nothing has to move.",
    ),
}


@pytest.mark.parametrize(("points", "text"), ADVICE.values(), ids=ADVICE)
def test_recommendations(points, text):
    best, why = advice.recommend(points)
    assert why == text
    assert why.startswith(str(best.device))


def of(name, result):
    return dataclasses.replace(HOST, device=Place(name), result=result)


ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("got", "expected", "text"),
    [
        (ONES, ONES, ""),
        (ONES * np.float32(1 + 1e-5), ONES, ""),
        (ONES * 2, ONES * 4, "numbers up to 5.0e-01 of the largest away from those of"),
        (ONES, np.ones(4, np.float32), "the shape (3,), and (4,) on"),
        (ONES, np.ones(3), "float32, and float64 on"),
        ((ONES, ONES), ONES, "2 arrays, and 1 on"),
        (ONES * np.nan, ONES * np.nan, ""),
        (ONES * np.inf, ONES * np.inf, ""),
        (ONES * np.nan, ONES, "NaN or infinities where there are none on"),
        (np.float32(2.0), np.float32(2.0), ""),
        (np.arange(3), np.arange(3) + 1, "numbers up to 3.3e-01 of the largest away from those of"),
        (ONES * 1j, ONES * 1j, ""),
        (None, None, ""),
        ({"a": 3, "b": "text"}, {"a": 3, "b": "other"}, ""),
    ],
)
def test_differences(got, expected, text):
    found = mine.differences([of("torch:cpu:0", got), of("numpy:cpu:0", expected)])
    assert found == ([f"Results differ: torch:cpu:0 gives {text} numpy:cpu:0."] if text else [])


# -- laziness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["crossover", "mine"])
def test_help(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "--device" in result.stdout


def test_nothing_is_loaded_before_it_is_needed():
    late = ("xdev.cli.bench", "matplotlib")
    code = f"import sys, xdev, xdev.cli; print([name for name in sys.modules if name.startswith({late})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
