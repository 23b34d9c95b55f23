"""The conformance kit: every backend keeps the contract, and a plug-in that breaks it is found out."""

import types

import numpy as np
import pytest

from xdev import registry
from xdev.contract import Backend, DeviceInfo
from xdev.errors import UnknownBackendError
from xdev.namespaces import CREATION
from xdev.testing import check_backend
from xdev.testing.conformance import CHECKS, CREATE


@pytest.mark.parametrize("check", CHECKS)
def test_backend_keeps_the_contract(device, check):
    CHECKS[check](device)


def test_check_backend_runs_every_check_on_every_listed_device(backend):
    results = check_backend(backend)
    devices = [info for info in backend.devices() if info.listed]
    assert [str(result) for result in results if not result.passed] == []
    assert len(results) == 1 + len(devices) * len(CHECKS)
    assert str(results[0]) == f"ok      devices on {backend}"


def test_every_creation_function_has_a_call():
    assert set(CREATE) == CREATION - {"from_dlpack"}


def test_unknown_backend_is_refused():
    with pytest.raises(UnknownBackendError, match="did you mean 'numpy'"):
        check_backend("nunpy")


class Fake:
    """An array of the plug-ins below: NumPy's, in a type of its own."""

    def __init__(self, data):
        self.data = np.asarray(data)
        self.shape, self.dtype, self.ndim = self.data.shape, self.data.dtype, self.data.ndim

    def __add__(self, other):
        return Fake(self.data + other.data)

    def __mul__(self, other):
        return Fake(self.data * other.data)

    def __setitem__(self, index, value):
        self.data[index] = value


def namespace():
    """Return NumPy's functions, taking and giving Fake arrays."""

    def wrap(function):
        def wrapped(*args, device=None, **kwargs):
            return Fake(function(*(a.data if isinstance(a, Fake) else a for a in args), **kwargs))

        return wrapped

    names = [*CREATE, "full_like", "empty_like", "ones_like", "zeros_like", "sum"]
    functions = {name: wrap(getattr(np, name)) for name in names}
    return types.SimpleNamespace(__name__="fake", **functions, float32=np.float32, int32=np.int32, bool=np.bool_)


class Honest(Backend):
    """A plug-in that keeps the contract with what is required and nothing else."""

    name = "fake"
    framework = "numpy"

    def __init__(self):
        self.xp = namespace()

    def owns(self, x):
        return isinstance(x, Fake)

    def devices(self):
        return [DeviceInfo(kind="cpu", index=0, handle="cpu")]

    def device_of(self, x):
        return "cpu"

    def place(self, x, info, copy):
        return Fake(np.array(x.data if isinstance(x, Fake) else x, copy=True))

    def to_host(self, x):
        return x.data

    def holds(self, dtype, info):
        return dtype in ("bool", "int32", "float32")

    def clone(self, x):
        return Fake(x.data.copy())


def broken(**methods):
    return type("Broken", (Honest,), methods)


BROKEN = {
    "no devices": (broken(devices=lambda self: []), "devices on fake", "devices() returned nothing"),
    "twins": (
        broken(devices=lambda self: [DeviceInfo(kind="cpu", index=0, handle=h) for h in (1, 2)]),
        "devices on fake",
        "kind and index must be unique together, got cpu:0, cpu:0",
    ),
    "worst first": (
        broken(devices=lambda self: [DeviceInfo(kind=k, index=0, handle=k) for k in ("cpu", "cuda")]),
        "devices on fake",
        "accelerators come before CPUs, best first; got cpu:0, cuda:0",
    ),
    "greedy": (broken(owns=lambda self, x: True), "owns on fake:cpu:0", "owns() must be false of NoneType"),
    "lost": (
        broken(device_of=lambda self, x: "gpu"),
        "device_of on fake:cpu:0",
        "device_of() must give 'cpu' there",
    ),
    "aliasing": (
        broken(place=lambda self, x, info, copy: x if isinstance(x, Fake) else Fake(x)),
        "copies on fake:cpu:0",
        "place(copy=True), after its source was written, has the values",
    ),
    "shared clone": (
        broken(clone=lambda self, x: Fake(x.data)),
        "clone on fake:cpu:0",
        "the argument of clone(), after the copy was written, has the values",
    ),
    "list on the host": (
        broken(to_host=lambda self, x: [1.0]),
        "to_host on fake:cpu:0",
        "to_host() must return a numpy.ndarray",
    ),
    "zeros for many": (
        broken(place_all=lambda self, arrays, info, copy: [Fake(np.zeros((2, 3))) for _ in arrays]),
        "many at once on fake:cpu:0",
        "place_all() must give None for what is no array of NumPy",
    ),
    "impossible memory": (
        broken(memory=lambda self, info: (1, 2)),
        "memory on fake:cpu:0",
        "memory() must give (total, free) in bytes, got (1, 2)",
    ),
    "wrong gradient": (
        broken(value_and_grad=lambda self, f, leaves: (*f(leaves), leaves)),
        "value_and_grad on fake:cpu:0",
        "the gradient of value_and_grad() has the values",
    ),
    "raises": (
        broken(wait=lambda self, x: 1 / 0),
        "wait on fake:cpu:0",
        "raised ZeroDivisionError: division by zero",
    ),
}


@pytest.fixture
def register():
    """Register a plug-in for the length of a test."""
    added = []

    def add(plugin):
        registry.register(plugin)
        added.append(plugin.name)
        return plugin.name

    yield add
    for name in added:
        registry.unregister(name)


def test_a_plugin_of_a_third_party_passes(register):
    assert [str(r) for r in check_backend(register(Honest)) if not r.passed] == []


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_found_and_named(register, fault):
    plugin, where, message = BROKEN[fault]
    failed = {r.name: r.message for r in check_backend(register(plugin)) if not r.passed}
    assert message in failed[where]
