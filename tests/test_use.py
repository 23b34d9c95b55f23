"""The default device: `xdev.use`, and the environment variable XDEV_DEVICE."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading

import pytest

import xdev
from xdev import registry
from xdev.contract import DeviceInfo
from xdev_numpy.backend import NumpyBackend


class Accelerated(NumpyBackend):
    """A pretended framework with two accelerators."""

    name = "acme"
    framework = "acme_framework"
    is_host = False
    priority = -5

    def owns(self, x):
        return False

    def devices(self):
        return [DeviceInfo(kind="cuda", index=i, handle=f"a{i}") for i in (0, 1)]


@pytest.fixture
def register():
    """Register the pretended framework for one test."""

    def add(**attributes):
        xdev.register(type("Made", (Accelerated,), attributes))

    yield add
    registry.unregister("acme")


def test_use_nests_and_ends(register):
    register()
    before = xdev.device()
    with xdev.use("acme:cuda:1") as outer:
        assert xdev.device() is outer
        with xdev.use("numpy") as inner:
            assert xdev.device() is inner
        assert xdev.device() is outer
    assert xdev.device() is before


def test_use_ends_when_an_error_leaves_it():
    before = xdev.device()
    with pytest.raises(KeyError), xdev.use("numpy"):
        raise KeyError
    assert xdev.device() is before


def test_use_of_a_bad_name_changes_nothing():
    before = xdev.device()
    with pytest.raises(xdev.DeviceError), xdev.use("nothing"):
        pass
    assert xdev.device() is before


def test_use_decorates_functions():
    @xdev.use("numpy")
    def where():
        return xdev.device()

    assert where() == "numpy:cpu:0"
    assert where() == "numpy:cpu:0"


def test_use_enters_the_scope_of_the_backend(register):
    entered = []

    class Scope:
        def __enter__(self):
            entered.append("in")

        def __exit__(self, *_):
            entered.append("out")

    register(scope=lambda self, info: Scope())
    with xdev.use("acme"):
        assert entered == ["in"]
    assert entered == ["in", "out"]


def test_use_is_local_to_a_thread(register):
    register()
    seen = []
    with xdev.use("acme:cuda:1"):
        thread = threading.Thread(target=lambda: seen.append(xdev.device()))
        thread.start()
        thread.join()
    assert seen != ["acme:cuda:1"]


def test_use_goes_where_a_context_goes(register):
    """As contextvars do: into a copied context, a task, and `asyncio.to_thread`; never back."""
    register()
    seen = []

    def look():
        seen.append(str(xdev.device()))
        with xdev.use("numpy"):
            seen.append(str(xdev.device()))

    async def work():
        await asyncio.to_thread(look)
        await asyncio.create_task(asyncio.sleep(0, look()))

    with xdev.use("acme:cuda:1"):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(look,))
        thread.start()
        thread.join()
        asyncio.run(work())
        assert str(xdev.device()) == "acme:cuda:1"
    assert seen == ["acme:cuda:1", "numpy:cpu:0"] * 3


def test_many_threads_use_many_devices(register):
    register()
    names = ["acme:cuda:0", "acme:cuda:1", "numpy:cpu:0"] * 3
    barrier, seen = threading.Barrier(len(names)), {}

    def work(number):
        with xdev.use(names[number]):
            barrier.wait()
            seen[number] = [str(xdev.device()) for _ in range(50)]
            barrier.wait()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {number: [name] * 50 for number, name in enumerate(names)}


def test_use_is_local_to_an_asyncio_task(register):
    register()

    async def work(name, seen):
        with xdev.use(name):
            await asyncio.sleep(0)
            seen.append(str(xdev.device()))
            await asyncio.sleep(0)
            seen.append(str(xdev.device()))

    async def both():
        first, second = [], []
        await asyncio.gather(work("acme:cuda:1", first), work("numpy", second))
        return first, second

    assert asyncio.run(both()) == (["acme:cuda:1"] * 2, ["numpy:cpu:0"] * 2)


def test_xdev_device_is_the_default(monkeypatch, register):
    register()
    monkeypatch.setenv("XDEV_DEVICE", "acme:1")
    assert xdev.device() == "acme:cuda:1"
    with xdev.use("numpy"):
        assert xdev.device() == "numpy:cpu:0"
    monkeypatch.setenv("XDEV_DEVICE", "")
    assert xdev.device()


def test_a_bad_xdev_device_says_where_it_came_from(monkeypatch):
    monkeypatch.setenv("XDEV_DEVICE", "numpi")
    with pytest.raises(xdev.DeviceError, match=r"XDEV_DEVICE=numpi: 'numpi' begins with .*did you mean 'numpy'"):
        xdev.device()


def test_xdev_device_of_a_missing_framework(monkeypatch):
    code = "import sys; sys.modules['torch'] = None; import xdev; xdev.device()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XDEV_DEVICE": "torch"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "BackendUnavailable: XDEV_DEVICE=torch: backend 'torch' is not installed" in done.stderr
