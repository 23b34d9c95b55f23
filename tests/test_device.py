"""Naming, finding and comparing devices; the default device; the device of trees."""

import copy
import pickle
import threading

import numpy as np
import pytest

import xdev
from xdev import registry
from xdev.contract import DeviceInfo
from xdev.device import device_of_array
from xdev_numpy.backend import NumpyBackend


class Accelerated(NumpyBackend):
    """A pretended framework with two accelerators, a CPU and a device that is not listed."""

    name = "acme"
    framework = "acme_framework"
    is_host = False
    priority = -5
    kind = "cuda"

    def owns(self, x):
        return False

    def devices(self):
        return [
            DeviceInfo(kind=self.kind, index=0, handle="a0", hardware=f"{self.kind}:0", name="Acme 1000"),
            DeviceInfo(kind=self.kind, index=1, handle="a1", hardware=f"{self.kind}:1"),
            DeviceInfo(kind="cpu", index=0, handle="host", hardware="cpu"),
            DeviceInfo(kind="shadow", index=0, handle="shadow", listed=False),
        ]


@pytest.fixture
def register():
    """Register backends for one test."""
    made = []

    def add(**attributes):
        cls = type("Made", (Accelerated,), attributes)
        xdev.register(cls)
        made.append(cls.name)
        return xdev.backend(cls.name)

    yield add
    for name in made:
        registry.unregister(name)


@pytest.fixture
def only(monkeypatch):
    """Let only these backends count."""
    return lambda *names: monkeypatch.setenv("XDEV_BACKENDS", ",".join(names))


# -- the grammar -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("numpy", "numpy:cpu:0"),
        ("numpy:cpu", "numpy:cpu:0"),
        ("numpy:cpu:0", "numpy:cpu:0"),
        ("numpy:0", "numpy:cpu:0"),
        ("acme", "acme:cuda:0"),
        ("acme:cuda", "acme:cuda:0"),
        ("acme:cuda:1", "acme:cuda:1"),
        ("acme:1", "acme:cuda:1"),
        ("acme:gpu", "acme:cuda:0"),
        ("acme:gpu:1", "acme:cuda:1"),
        ("acme:cpu", "acme:cpu:0"),
        ("acme:shadow", "acme:shadow:0"),
        ("cuda", "acme:cuda:0"),
        ("cuda:1", "acme:cuda:1"),
        ("gpu", "acme:cuda:0"),
        ("gpu:1", "acme:cuda:1"),
        ("cpu", "numpy:cpu:0"),
        ("cpu:0", "numpy:cpu:0"),
    ],
)
def test_good_names(spec, name, register, only):
    register()
    only("numpy", "acme")
    assert str(xdev.device(spec)) == name


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            "nmpy:cpu",
            r"'nmpy:cpu' begins with 'nmpy', neither a backend nor a kind of device; did you mean 'numpy:cpu'\?",
        ),
        ("numpi", r"did you mean 'numpy'\? Backends: numpy, acme; kinds: cpu, cuda, rocm, mps, xpu, tpu, gpu"),
        ("NumPy", r"did you mean 'numpy'\?"),
        ("cudda:1", r"did you mean 'cuda:1'\?"),
        (" cuda", r"did you mean 'cuda'\?"),
        ("none", r"'none' begins with 'none'.*; the default is xdev.device\(\), without a name. Backends: numpy"),
        ("auto", r"the default is xdev.device\(\), without a name"),
        ("cuda:x", r"'cuda:x' is not a device; did you mean 'cuda'\? Write backend\[:kind\[:index\]\] or kind"),
        ("acme::1", r"'acme::1' is not a device; did you mean 'acme'\? Write backend"),
        (
            "acme:cuda:99",
            r"'acme:cuda:99' is no device of this machine; did you mean 'acme:cuda:.'\? acme has acme:cuda:0",
        ),
        ("qqqq", r"'qqqq' begins with 'qqqq', neither a backend nor a kind of device\. Backends"),
        ("qqqq:cuda:1", r"begins with 'qqqq'"),
        ("shadow", r"begins with 'shadow'"),
        ("", r"'' is not a device\. Write backend\[:kind\[:index\]\] or kind\[:index\], such as \"torch\""),
        ("0", "'0' is not a device"),
        (":", "':' is not a device"),
        ("numpy:", r"'numpy:' is not a device; did you mean 'numpy'\?"),
        ("numpy:cpu:", "is not a device"),
        ("numpy:cpu:0:0", "is not a device"),
        ("numpy:0:cpu", "is not a device"),
        ("numpy:cpu:-1", "is not a device"),
        ("numpy:cpu:one", "is not a device"),
        ("numpy:cpu:²", "is not a device"),
        ("numpy:cpu cpu", "is not a device"),
        ("cpu:cuda", "is not a device"),
        (
            "numpy:cuda",
            r"'numpy:cuda' is no device of this machine; did you mean 'numpy:cpu:0'\? numpy has numpy:cpu:0",
        ),
        ("acme:cuda:7", r"did you mean 'acme:cuda:.'\? acme has acme:cuda:0, acme:cuda:1, acme:cpu:0$"),
        ("acme:tpu", "acme has acme:cuda:0"),
        ("tpu", r"no usable backend has a device 'tpu'.* Here are .*cpu:0.*, and `xdev devices` says more"),
        ("cuda:7", "no usable backend has a device 'cuda:7'"),
        ("cpu:77", r"no usable backend has a device 'cpu:77'; did you mean 'cpu:\d'\? Here are "),
    ],
)
def test_bad_names(spec, text, register, only):
    register()
    only("numpy", "acme")
    with pytest.raises(xdev.DeviceError, match=text):
        xdev.device(spec)


@pytest.mark.parametrize("spec", [0, True, 3.5, object(), b"numpy", ["numpy"], np.dtype("f4")])
def test_what_is_no_device(spec):
    text = (
        f"{spec!r} is not a device of this machine; give a name such as 'torch:cuda:0', an xdev.Device, or a device of "
        "a framework that is imported; `xdev devices` lists what there is"
    )
    with pytest.raises(xdev.DeviceError) as caught:
        xdev.device(spec)
    assert str(caught.value) == text


def test_devices_of_frameworks():
    torch = pytest.importorskip("torch")
    assert xdev.device(torch.device("cpu")) == "torch:cpu:0"
    with pytest.raises(xdev.DeviceError, match=r"device\(type='hpu'\) is not a device of this machine; give a name"):
        xdev.device(torch.device("hpu"))


def test_unusable_backends_are_named_when_a_kind_is_not_found(register, only):
    def devices(self):
        raise xdev.BackendUnavailable("acme is installed, but its driver is not")

    register(devices=devices)
    only("acme", "numpy")
    with pytest.raises(xdev.DeviceError, match="acme is installed, but its driver is not"):
        xdev.device("cuda")
    assert xdev.device() == "numpy:cpu:0"
    assert [str(d) for d in xdev.devices()] == ["numpy:cpu:0"]


# -- Device ------------------------------------------------------------------------------------------


def test_names_round_trip_and_devices_are_single_objects(backend):
    for info in backend.devices():
        device = xdev.device(f"{backend.name}:{info.kind}:{info.index}")
        assert xdev.device(str(device)) is device
        assert xdev.device(device) is device
        assert xdev.device(device.native) is device or isinstance(device.native, str)
        assert pickle.loads(pickle.dumps(device)) is device
        assert copy.copy(device) is device
        assert copy.deepcopy([device])[0] is device
        assert device == str(device)
        assert device != "nothing"
        assert hash(device) == hash(str(device))
        assert {device: 1}[str(device)] == 1
        assert repr(device) == f"xdev.device('{device}')"


def test_attributes(device, backend):
    assert device.backend is backend
    assert (device.kind, device.index) == (device.info.kind, device.info.index)
    assert device.is_host == (backend.name == "numpy")
    assert device.members == ()
    assert device.is_accelerator == (device.kind != "cpu" and backend.name != "strict")
    assert isinstance(device.name, str)


def test_a_device_is_immutable_and_not_made_by_hand():
    device = xdev.device("numpy")
    with pytest.raises(AttributeError, match=r"devices are immutable; xdev.device\(...\) finds another"):
        device.kind = "cuda"
    with pytest.raises(TypeError, match="devices are not made but found"):
        xdev.Device("numpy")


def test_devices_of_two_threads_are_one_object(register):
    backend = register()
    barrier = threading.Barrier(4)
    found = []

    def find():
        barrier.wait()
        found.append(xdev.device(f"{backend.name}:cuda:1"))

    threads = [threading.Thread(target=find) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_hardware_is_shared_by_frameworks(register):
    register()
    register(name="zenith")
    assert xdev.same_hardware("acme:cuda:1", "zenith:cuda:1")
    assert not xdev.same_hardware("acme:cuda:0", "zenith:cuda:1")
    assert xdev.same_hardware("acme:cpu", "numpy")
    assert xdev.device("acme:shadow").hardware == "acme:shadow:0"  # it says none: then it is its own


def test_memory_is_in_bytes(device):
    memory = device.memory()
    assert 0 <= memory.free <= memory.total
    assert memory.total > 2**27
    host = xdev.device("numpy").memory().total
    if not device.is_accelerator:  # a device of array-api-strict only pretends not to be the host's memory
        assert memory.total == host


def test_every_listed_device_says_its_hardware_and_memory():
    for device in xdev.devices():
        assert device.hardware
        assert device.memory().total > 0
        assert xdev.same_hardware(device, "numpy") == (device.kind == "cpu")


def test_a_forgotten_backend_is_not_found_by_a_remembered_name(register):
    register()
    assert xdev.device("acme:cuda:1")
    registry.unregister("acme")
    with pytest.raises(xdev.DeviceError, match="begins with 'acme'"):
        xdev.device("acme:cuda:1")


# -- the best device ---------------------------------------------------------------------------------


def test_an_accelerator_is_best_however_low_its_backend(register, only):
    register()
    only("numpy", "acme")
    assert xdev.device() == "acme:cuda:0"
    assert [str(d) for d in xdev.devices()] == ["acme:cuda:0", "acme:cuda:1", "numpy:cpu:0", "acme:cpu:0"]


def test_without_an_accelerator_the_first_backend_is_best(only):
    only("numpy", "torch")
    assert xdev.device() == "numpy:cpu:0"


def test_the_search_ends_at_the_first_accelerator(register, only):
    def start(self):
        raise AssertionError("this backend was loaded although an accelerator was found before")

    register()
    xdev.register(type("Never", (Accelerated,), {"name": "never", "__init__": start}))
    try:
        only("acme", "never")
        assert xdev.device() == "acme:cuda:0"
    finally:
        registry.unregister("never")


def test_no_usable_backend(register, only):
    def devices(self):
        raise xdev.BackendUnavailable("none")

    register(devices=devices)
    only("acme")
    with pytest.raises(xdev.DeviceError, match="no backend is usable; `xdev doctor` says why"):
        xdev.device()


# -- device_of ---------------------------------------------------------------------------------------


def test_device_of_an_array_and_of_trees(device, xp):
    x = xp.ones((2, 3))
    assert xdev.device_of(x) is device
    assert xdev.device_of({"a": [x, 1.0, None], "b": (x, 2j, True, "text")}) is device
    assert xdev.device_of([x, np.float32(1)]) is device


def test_numpy_scalars_alone_are_on_the_host():
    assert xdev.device_of(np.float32(1)) == "numpy:cpu:0"
    assert xdev.device_of([np.float32(1), 2]) == "numpy:cpu:0"


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (None, "device_of needs at least one array; tree is None"),
        ([], "tree is an empty list"),
        ({"a": None}, "tree is an empty dict"),
        ({"a": 1, "b": "c"}, "tree is a dict whose 2 leaves are no arrays"),
        (3, "tree is a int"),
        ("text", "tree is a str"),
    ],
)
def test_device_of_trees_without_arrays(tree, text):
    with pytest.raises(xdev.ArrayTypeError, match=text):
        xdev.device_of(tree)


@pytest.mark.xdev_backends(exclude="numpy", reason="the other device is NumPy's")
def test_a_mix_names_paths_devices_and_the_line_that_mends_it(device, xp):
    tree = {"a": [xp.ones(2)], "b": {"c": np.ones(2, np.float32)}}
    with pytest.raises(xdev.DeviceMismatchError) as caught:
        xdev.device_of(tree)
    assert str(caught.value) == (
        f"arrays are on different devices: tree['a'][0] is on {device}; tree['b']['c'] is on numpy:cpu:0. "
        f"Move one: tree['b']['c'] = xdev.to_device(tree['b']['c'], \"{device}\")"
    )
    exec(str(caught.value).partition("Move one: ")[2], {"xdev": xdev, "tree": tree})
    assert xdev.device_of(tree) is device


def test_device_of_array_knows_every_listed_device(backend):
    for info in backend.devices():
        if info.listed:
            x = xdev.device(f"{backend.name}:{info.kind}:{info.index}").xp.zeros(2)
            assert device_of_array(backend, x).info is info


# -- synchronize -------------------------------------------------------------------------------------


def test_synchronize_takes_arrays_trees_devices_and_names(device, xp):
    xdev.synchronize(xp.ones(3))
    xdev.synchronize({"a": [xp.ones(3), 1, None]})
    xdev.synchronize(device)
    xdev.synchronize(str(device))
    xdev.synchronize()


def test_precision_takes_dtype_objects(device):
    with xdev.precision(np.float32):
        assert device.xp.zeros(2).dtype == device.xp.float32


def test_synchronize_takes_arrays_and_devices_alone(device):
    xdev.synchronize({"x": device.xp.zeros(2), "n": 3})
    xdev.synchronize(device)
    with pytest.raises(xdev.ArrayTypeError, match="synchronize takes arrays, trees of them, or a device; got 3"):
        xdev.synchronize(3)
