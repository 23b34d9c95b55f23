"""The ledger of transfers and the budget that forbids them."""

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


@pytest.mark.parametrize("limits", [{"to_host": -1}, {"to_device": "all"}, {"between_devices": [1]}])
def test_a_budget_that_is_no_number_of_bytes(limits):
    name, value = next(iter(limits.items()))
    with pytest.raises(xdev.TransferError) as caught, xdev.budget(**limits):
        pass
    assert str(caught.value) == f"budget takes numbers of bytes, 0 or more; got {name}={value!r}"


def test_a_budget_without_limits():
    with pytest.raises(xdev.TransferError, match="budget forbids nothing; give to_device="), xdev.budget():
        pass


# -- the table ---------------------------------------------------------------------------------------


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
            backend.callback("Loud.read", x)
            with ledger.muted():
                backend.callback("Loud.read", x)
        assert [(r.path, r.nbytes, r.direction) for r in t.records] == [("Loud.read", 16, "to_host")]
        with (
            xdev.budget(to_host=15),
            pytest.raises(xdev.TransferBudgetExceeded, match=r"Loud\.read would take 16 bytes"),
        ):
            backend.callback("Loud.read", x)
    finally:
        from xdev import registry

        registry.owners.pop(Loud, None)
        registry.unregister("loud")
