"""The ledger of transfers and the budget that forbids them."""

import asyncio
import contextvars
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import xdev
from xdev import ledger
from xdev.contract import DeviceInfo
from xdev.ledger_table import ROWS, format_bytes

HERE = str(Path(__file__))
not_the_host = pytest.mark.xdev_backends(exclude="numpy", reason="NumPy is the host: nothing crosses")


def line_of_next_call():
    """The file and line after the one that calls this."""
    frame = sys._getframe(1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno + 1}"


def line_of_this_call():
    """The file and line of the one that calls this."""
    frame = sys._getframe(1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


# -- what is written down ----------------------------------------------------------------------------


@not_the_host
def test_each_crossing_is_one_record(device, xp):
    values = np.ones((4, 5), np.float32)
    with xdev.track_transfers() as t:
        where_in = line_of_next_call()
        moved = xdev.to_device({"a": [values], "n": 1}, device)
        where_out = line_of_next_call()
        xdev.to_numpy(moved)
    there, back = t.records
    assert (there.source, there.target) == ("numpy:cpu:0", str(device))
    assert (back.source, back.target) == (str(device), "numpy:cpu:0")
    assert there.nbytes == back.nbytes == 80
    assert there.path == back.path == "tree['a'][0]"
    assert (there.where, back.where) == (where_in, where_out)
    assert (there.direction, back.direction) == ("to_device", "to_host")
    assert there.seconds >= 0
    assert {there.kind, back.kind} <= {"view", "copy"}
    assert (t.to_device_bytes, t.to_host_bytes, t.between_devices_bytes) == (80, 80, 0)
    assert (t.to_device_count, t.to_host_count, t.between_devices_count) == (1, 1, 0)


def test_kind_tells_views_from_copies(device, xp):
    if device.is_host:
        pytest.skip("nothing crosses")
    x = xp.ones(1024, dtype=xp.float32)
    for copy in (None, True):
        with xdev.track_transfers() as t:
            pulled = xdev.to_numpy(x, copy=copy)
        shared = device.backend.pointer(x) == pulled.ctypes.data
        assert t.records[0].kind == ("view" if shared else "copy")
        assert not (copy and shared)


@not_the_host
def test_views_count_as_what_they_would_cost(device, xp):
    with xdev.track_transfers() as t:
        xdev.to_numpy(xp.ones(100, dtype=xp.float32))
    assert t.to_host_bytes == 400


@not_the_host
def test_what_is_cast_first_crosses_at_its_new_size(device):
    with xdev.track_transfers() as t:
        xdev.to_device(np.ones(100), device, dtype="float32")
    assert t.to_device_bytes == 400


@not_the_host
def test_item_and_asarray_and_lists_cross(device, xp):
    with xdev.track_transfers() as t:
        xdev.item(xp.ones((1,), dtype=xp.float32))
        xdev.asarray([1.0, 2.0, 3.0], dtype="float32", device=device)
        xdev.to_device([1.0, 2.0], device, dtype="float32")
    assert [(r.direction, r.nbytes) for r in t.records] == [("to_host", 4), ("to_device", 12), ("to_device", 8)]
    assert all(r.where.startswith(HERE) for r in t.records)


def test_what_stays_is_not_recorded(device, xp):
    x = xp.ones(3)
    with xdev.track_transfers() as t:
        xdev.to_device({"x": x, "n": 1}, device)
        xdev.to_device(x, device, copy=True)
        xdev.to_device(x, device, dtype="int32")
        _ = x + x
    assert t.records == []


@pytest.mark.xdev_backends(scoped=False)
def test_devices_of_one_framework_are_between_devices(backend):
    listed = [xdev.device(f"{backend.name}:{i.kind}:{i.index}") for i in backend.devices() if i.listed]
    if len(listed) < 2:
        pytest.skip("the backend has one device")
    x = listed[0].xp.ones(10, dtype=listed[0].xp.float32)
    with xdev.track_transfers() as t:
        xdev.to_device(x, listed[1])
    assert [(r.direction, r.nbytes, r.source, r.target) for r in t.records] == [
        ("between_devices", 40, str(listed[0]), str(listed[1]))
    ]


@not_the_host
def test_a_shared_array_is_recorded_once(device):
    x = np.ones(10, np.float32)
    with xdev.track_transfers() as t:
        xdev.to_device([x, x], device)
    assert t.to_device_count == 1


# -- nesting and threads -----------------------------------------------------------------------------


@not_the_host
def test_ledgers_nest(device):
    x = np.ones(10, np.float32)
    with xdev.track_transfers() as outer:
        xdev.to_device(x, device)
        with xdev.track_transfers() as inner:
            xdev.to_device(x, device)
        xdev.to_device(x, device)
    xdev.to_device(x, device)
    assert (outer.to_device_count, inner.to_device_count) == (3, 1)
    assert ledger.active() == ()


@not_the_host
def test_threads_have_ledgers_of_their_own(device):
    barrier = threading.Barrier(2)
    counts = {}

    def work(name, times):
        with xdev.track_transfers() as t:
            barrier.wait()
            for _ in range(times):
                xdev.to_device(np.ones(10, np.float32), device)
            barrier.wait()
        counts[name] = t.to_device_count

    with xdev.track_transfers() as outer:
        threads = [threading.Thread(target=work, args=(n, n)) for n in (2, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == {2: 2, 5: 5}
    assert outer.records == []


@not_the_host
def test_eight_threads_count_exactly(device):
    x = np.ones(10, np.float32)
    start = threading.Barrier(8)
    totals, refused = {}, []

    def work(number):
        there = xdev.to_device(x, device)
        start.wait()
        with xdev.track_transfers() as t, xdev.budget(to_device=500 * 40, to_host_count=500 + number):
            for _ in range(500):
                xdev.to_device(x, device)
                xdev.to_numpy(there)
            try:
                xdev.to_device(x, device)
            except xdev.TransferBudgetExceeded:
                refused.append(number)
            for _ in range(number):
                xdev.to_numpy(there)
        totals[number] = (t.to_device_count, t.to_device_bytes, t.to_host_count, t.to_host_bytes)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals == {n: (500, 20_000, 500 + n, 40 * (500 + n)) for n in range(8)}
    assert sorted(refused) == list(range(8))


@not_the_host
def test_a_budget_that_threads_share_is_spent_exactly(device):
    """Through a copied context, as `asyncio.to_thread` does."""
    x = np.ones(10, np.float32)
    refused = []

    def work():
        for _ in range(100):
            try:
                xdev.to_device(x, device)
            except xdev.TransferBudgetExceeded:
                refused.append(1)

    with xdev.budget(to_device_count=250), xdev.track_transfers() as t:
        threads = [threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (t.to_device_count, len(refused)) == (250, 150)


def test_an_error_closes_the_ledger():
    with pytest.raises(KeyError), xdev.track_transfers():
        raise KeyError
    assert ledger.active() == ()


# -- the budget --------------------------------------------------------------------------------------


@not_the_host
def test_a_budget_of_nothing_raises_before_it_happens(device, monkeypatch):
    x = device.xp.ones(10, dtype=device.xp.float32)
    monkeypatch.setattr(type(device.backend), "to_host", lambda *_: pytest.fail("it crossed"))
    with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded) as caught:
        xdev.to_numpy({"x": x}, copy=bool(where := line_of_this_call()))
    assert str(caught.value) == (
        f"moving tree['x'] from {device} to numpy:cpu:0 would take 40 bytes to host at {where}; the budget is 0 bytes, "
        "of which 0 are spent. Move it out of the block, or raise to_host= in xdev.budget"
    )


@not_the_host
def test_a_budget_is_spent(device):
    x = np.ones(10, np.float32)
    with xdev.budget(to_device=100):
        xdev.to_device(x, device)
        xdev.to_device(x, device)
        with pytest.raises(xdev.TransferBudgetExceeded, match="the budget is 100 bytes, of which 80 are spent"):
            xdev.to_device(x, device)
        xdev.to_device(x[:5], device)
    xdev.to_device(x, device)


@not_the_host
def test_a_budget_limits_its_own_direction_only(device):
    with xdev.budget(to_host=0, between_devices=0):
        moved = xdev.to_device(np.ones(10, np.float32), device)
    with xdev.budget(to_device=0), xdev.track_transfers() as t:
        xdev.to_numpy(moved)
    assert t.to_host_bytes == 40


@not_the_host
def test_budgets_nest_and_the_inner_one_lies_within_the_outer(device):
    x = np.ones(10, np.float32)
    with xdev.budget(to_device=50), xdev.budget(to_device=1000):
        xdev.to_device(x, device)
        with pytest.raises(xdev.TransferBudgetExceeded, match="the budget is 50 bytes"):
            xdev.to_device(x, device)


@not_the_host
def test_what_the_inner_budget_refuses_is_not_charged_to_the_outer(device):
    x = np.ones(10, np.float32)
    with xdev.budget(to_device=40):
        with xdev.budget(to_device=0), pytest.raises(xdev.TransferBudgetExceeded):
            xdev.to_device(x, device)
        xdev.to_device(x, device)


@not_the_host
def test_a_budget_of_crossings(device):
    tree = [np.ones(10, np.float32), np.ones(2, np.float32)]
    with xdev.budget(to_device_count=3, to_device=1000, to_host_count=0):
        xdev.to_device(tree, device)
        with pytest.raises(xdev.TransferBudgetExceeded) as caught:
            xdev.to_device(tree, device)
    assert str(caught.value).startswith(
        f"moving tree[1] from numpy:cpu:0 to {device} would be one more crossing to device at {HERE}:"
    )
    assert str(caught.value).endswith(
        "; the budget is 3, of which 3 are spent. Move it out of the block, or raise to_device_count= in xdev.budget"
    )


@not_the_host
def test_what_a_budget_refuses_is_not_recorded(device):
    with xdev.track_transfers() as t, xdev.budget(to_device=0), pytest.raises(xdev.TransferBudgetExceeded):
        xdev.to_device(np.ones(3, np.float32), device)
    assert t.records == []


@not_the_host
def test_item_counts_against_a_budget(xp):
    x = xp.ones(())
    with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded, match="moving an array from "):
        xdev.item(x)


def test_numpy_is_the_host_and_free():
    with xdev.budget(to_host=0, to_device=0, between_devices=0), xdev.track_transfers() as t:
        xdev.to_numpy(np.ones(3))
        xdev.item(np.ones(()))
        xdev.to_device([1.0], "numpy")
    assert t.records == []


@pytest.mark.parametrize(
    "limits", [{"to_host": -1}, {"to_device": "all"}, {"between_devices": [1]}, {"to_host": float("nan")}]
)
def test_a_budget_that_is_no_number_of_bytes(limits):
    name, value = next(iter(limits.items()))
    with pytest.raises(xdev.TransferError) as caught, xdev.budget(**limits):
        pass
    assert str(caught.value) == f"budget takes numbers of bytes, 0 or more; got {name}={value!r}"


def test_a_budget_that_is_no_number_of_crossings():
    with (
        pytest.raises(
            xdev.TransferError, match=r"^budget takes numbers of crossings, 0 or more; got to_host_count=-1$"
        ),
        xdev.budget(to_host_count=-1),
    ):
        pass


def test_a_budget_without_limits():
    with pytest.raises(xdev.TransferError, match="budget forbids nothing; give to_device="), xdev.budget():
        pass


# -- the table ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """No terminal decides what tests see."""
    monkeypatch.setenv("COLUMNS", "120")


def record(nbytes, where="train.py:7", **other):
    values = {
        "source": "numpy:cpu:0", "target": "torch:cuda:0", "nbytes": nbytes, "seconds": 0.0015, "kind": "copy",
        "path": "tree['x']", "where": where, "direction": "to_device",
    }  # fmt: skip
    return ledger.TransferRecord(**(values | other))


def test_the_table_sums_by_line_and_sorts_by_size():
    t = ledger.Transfers([record(100), record(2**20, "model.py:3"), record(100), record(8, direction="to_host")])
    lines = str(t).splitlines()
    assert lines[0] == "to device 1.0 MiB in 3, to host 8 B in 1, between devices 0 B in 0"
    assert lines[1].split() == ["where", "path", "from", "to", "kind", "times", "bytes", "ms"]
    assert lines[2].split()[:2] == ["model.py:3", "tree['x']"]
    assert lines[2].split()[-2:] == ["MiB", "1.50"]
    assert lines[3].split()[-4:] == ["3", "208", "B", "4.50"]


def test_the_table_fits_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = "tree['encoder']['layers'][11]['attention']['weight']"
    t = ledger.Transfers([record(2**20, "src/model.py:123", path=path), record(100, path="")])
    lines = [line.rstrip() for line in str(t).splitlines()]
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["where,", "path", "from", "to", "kind", "times", "bytes", "ms"]
    assert lines[2].split() == ["src/model.py:123", "numpy:cpu:0", "torch:cuda:0", "copy", "1", "1.0", "MiB", "1.50"]
    assert "".join(line.strip() for line in lines[3:-1]) == path
    assert lines[-1].split()[0] == "train.py:7"


def test_the_table_of_nothing():
    assert str(ledger.Transfers()) == "to device 0 B in 0, to host 0 B in 0, between devices 0 B in 0"


def test_a_long_table_is_cut():
    t = ledger.Transfers([record(n, f"train.py:{n}") for n in range(1, ROWS + 4)])
    assert str(t).splitlines()[-1] == "… and 3 more lines"


def test_paths_in_the_table_are_relative_to_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "\nsrc/model.py:3 " in str(ledger.Transfers([record(1, str(tmp_path / "src" / "model.py:3"))]))


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (2**21, "2.0 MiB"), (2**45, "32768.0 GiB")]
)
def test_bytes_for_people(count, text):
    assert format_bytes(count) == text


# -- implicit crossings ------------------------------------------------------------------------------

SCALARS = {"float": float, "int": int, "bool": bool, "complex": complex, "str": str}


@not_the_host
@pytest.mark.parametrize("name", SCALARS)
def test_reading_an_array_in_python_is_seen_once_and_before_it_happens(device, name):
    x = device.xp.ones((), dtype=device.xp.float32)
    with xdev.track_transfers() as t:
        where = line_of_next_call()
        SCALARS[name](x)
    assert [(r.nbytes, r.direction, r.source, r.target, r.kind) for r in t.records] == [
        (4, "to_host", str(device), "numpy:cpu:0", "copy")
    ]
    assert t.records[0].where == where
    assert t.records[0].seconds > 0
    assert t.records[0].path.rpartition(".")[2].startswith("__")
    with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded, match="would take 4 bytes to host at "):
        SCALARS[name](x)
    SCALARS[name](x)


@not_the_host
def test_nested_blocks_and_an_inner_one_without_implicit_crossings(device):
    x = device.xp.ones((), dtype=device.xp.float32)
    with xdev.track_transfers() as outer:
        with xdev.track_transfers() as inner, xdev.track_transfers(implicit=False) as explicit:
            float(x)
            xdev.item(x)
        float(x)
    assert (outer.to_host_count, inner.to_host_count, explicit.to_host_count) == (3, 2, 1)


@not_the_host
def test_each_task_sees_its_own_reads_once(device):
    """torch's hook leaks into the tasks beside; what is counted does not."""
    x = device.xp.ones((), dtype=device.xp.float32)

    async def work(times):
        with xdev.track_transfers() as t:
            for _ in range(times):
                await asyncio.sleep(0)
                float(x)
        return t.to_host_count

    async def several():
        return await asyncio.gather(work(1), work(3), work(2))

    assert asyncio.run(several()) == [1, 3, 2]
    with xdev.track_transfers() as t:
        float(x)
    assert t.to_host_count == 1


@not_the_host
def test_a_thread_with_a_copied_context_writes_into_its_ledger(device):
    x = device.xp.ones((), dtype=device.xp.float32)

    def work():
        with xdev.track_transfers():  # hooks this thread
            float(x)
        xdev.item(x)

    with xdev.track_transfers() as t:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        thread.start()
        thread.join()
    assert t.to_host_count == 2


@not_the_host
def test_a_traced_array_read_in_python_is_seen(device):
    x = device.xp.ones((), dtype=device.xp.float32)
    reads = {"float": float, "int": int, "bool": bool, "complex": complex, "repr": repr}
    from xdev.autodiff.array import constant

    for name, read in reads.items():
        traced = constant(constant(x, device.xp), device.xp)  # two levels, as in a gradient of a gradient
        with xdev.track_transfers() as t:
            where = line_of_next_call()
            read(traced)
        assert [(r.path, r.nbytes, r.where) for r in t.records] == [(f"{name}() of a traced array", 4, where)]
        with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded) as caught:
            read(traced)
        assert str(caught.value).startswith(f"{name}() of a traced array would take 4 bytes to host at {HERE}:")


@pytest.mark.xdev_backends(only=("strict", "cupy"), reason="these are differentiated by xdev's tape")
def test_a_budget_within_a_differentiated_function(device):
    def loss(x):
        return xdev.namespace(x).sum(x * x) if float(xdev.namespace(x).sum(x)) > 0 else x

    x = device.xp.ones(3, dtype=device.xp.float32)
    with xdev.track_transfers() as t:
        xdev.value_and_grad(loss)(x)
    assert [r.path for r in t.records] == ["float() of a traced array"]
    with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded, match="of a traced array would take"):
        xdev.value_and_grad(loss)(x)


def test_a_class_that_is_watched_gets_its_own_methods_back(backend):
    cls = type(xdev.device(backend.name).xp.ones(1))
    before = {name: getattr(cls, name) for name in ("__float__", "__repr__", "__array__", "item") if hasattr(cls, name)}
    own = set(vars(cls))
    for _ in range(2):
        with pytest.raises(KeyError), xdev.track_transfers(), xdev.budget(to_host=1):
            raise KeyError
        assert {name: getattr(cls, name) for name in before} == before
        assert set(vars(cls)) == own


class Stranger:
    """An array of a framework that xdev has never heard of."""

    def __init__(self, values):
        self.values = values
        self.dtype = values.dtype

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


@not_the_host
def test_foreign_arrays_are_recorded_like_the_rest(device):
    x = Stranger(np.ones(10, np.float32))
    with xdev.track_transfers() as t:
        xdev.to_device({"x": x}, device)
        xdev.asarray(x, device=device)
    assert [(r.source, r.target, r.nbytes, r.path, r.direction) for r in t.records] == [
        ("numpy:cpu:0", str(device), 40, "tree['x']", "to_device"),
        ("numpy:cpu:0", str(device), 40, "", "to_device"),
    ]
    assert all(r.where.startswith(HERE) for r in t.records)
    with xdev.budget(to_device=39), pytest.raises(xdev.TransferBudgetExceeded, match="would take 40 bytes to device"):
        xdev.to_device(x, device)


def test_a_backend_reports_what_its_framework_does_by_itself():
    """Through the hook alone, as any plug-in can."""
    from xdev_numpy.backend import NumpyBackend

    class Loud(np.ndarray):
        pass

    class LoudBackend(NumpyBackend):
        name = "loud"
        is_host = False

        def owns(self, x):
            return isinstance(x, Loud)

        def devices(self):
            return [DeviceInfo(kind="cuda", index=0, handle="cpu", hardware="cuda:0")]

        def watch_transfers(self, callback):
            import contextlib

            @contextlib.contextmanager
            def watch():
                self.callback = callback
                yield

            return watch()

    backend = LoudBackend()
    xdev.register(backend)
    try:
        x = np.ones(4, np.float32).view(Loud)
        assert xdev.device_of(x) == "loud:cuda:0"
        with xdev.track_transfers() as t:
            with backend.callback("Loud.read", x), backend.callback("Loud.part_of_it", x):
                pass
            with ledger.muted(), backend.callback("Loud.read", x):
                pass
            with backend.callback("Loud.share", x, "view"):
                pass
            with pytest.raises(KeyError), backend.callback("Loud.fails", x):
                raise KeyError
        assert [(r.path, r.nbytes, r.direction, r.kind) for r in t.records] == [
            ("Loud.read", 16, "to_host", "copy"),
            ("Loud.share", 16, "to_host", "view"),
        ]
        with (
            xdev.budget(to_host=15),
            pytest.raises(xdev.TransferBudgetExceeded, match=r"Loud\.read would take 16 bytes"),
            backend.callback("Loud.read", x),
        ):
            pytest.fail("it happened")
    finally:
        from xdev import registry

        registry.owners.pop(Loud, None)
        registry.unregister("loud")


def test_what_fails_is_not_charged(device):
    if device.is_host or device.backend.capabilities.mutable:
        pytest.skip("it shares, or it is refused before")
    x = device.xp.ones(3, dtype=device.xp.float32)
    with xdev.budget(between_devices=12, to_host=12):
        with pytest.raises(xdev.CopyRequiredError):
            xdev.to_device(x, "torch:cpu", copy=False)
        xdev.to_device(x, "torch:cpu")


def test_blocks_may_end_in_any_order(device, xp):
    if device.is_host:
        pytest.skip("nothing crosses")
    x = xp.ones(3)
    outer, inner = xdev.budget(to_host=0), xdev.track_transfers()
    outer.__enter__()
    ledger = inner.__enter__()
    outer.__exit__(None, None, None)
    xdev.to_numpy(x)
    inner.__exit__(None, None, None)
    xdev.to_numpy(x)
    assert ledger.to_host_count == 1


def test_a_foreign_array_that_comes_to_the_host_is_counted():
    class Foreign:
        def __init__(self):
            self.values = np.ones(3, np.float32)

        def __dlpack__(self, **kwargs):
            return self.values.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return self.values.__dlpack_device__()

    with xdev.track_transfers() as transfers:
        assert xdev.to_numpy(Foreign()).tolist() == [1.0, 1.0, 1.0]
    assert (transfers.to_host_bytes, transfers.to_host_count) == (12, 1)
    with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded, match="from tests to numpy"):
        xdev.to_numpy(Foreign())
