"""The pitfalls of NumPy, CuPy and array-api-strict, each by name."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

import xdev
from xdev.contract import dtype_name

cupy = pytest.mark.xdev_backends(only="cupy", reason="it is CuPy's pitfall", scoped=False)
strict = pytest.mark.xdev_backends(only="strict", reason="it is array-api-strict's pitfall")


# -- NumPy -------------------------------------------------------------------------------------------


def test_numpy_scalars_are_arrays_of_no_device():
    numpy = xdev.backend("numpy")
    assert numpy.owns(np.float64(1))
    assert numpy.has_no_device(np.float64(1))
    assert not numpy.has_no_device(np.array(1.0))


def test_numpy_float64_is_a_float_and_still_an_array():
    """np.float64 is a subclass of float."""
    assert xdev.namespace(np.float64(1)) is xdev.device("numpy").xp
    assert xdev.device_of(np.float64(1)) == "numpy:cpu:0"


def test_masked_arrays_are_not_numpys_here():
    assert not xdev.backend("numpy").owns(np.ma.masked_array([1.0]))


def test_numpy_stays_big_endian_where_nothing_moves():
    x = np.ones(2, ">f4")
    assert xdev.to_device(x, "numpy") is x
    assert xdev.to_numpy(x, copy=True).dtype == x.dtype


# -- CuPy --------------------------------------------------------------------------------------------


@cupy
def test_creation_off_the_current_device(backend):
    for info in backend.devices():
        xp = xdev.device(f"cupy:{info.index}").xp
        x = xp.ones((2, 2))
        assert x.data.device_id == info.index
        for y in (xp.matmul(x, x), xp.zeros_like(x), xp.sum(x), xp.exp(x), xp.concat([x, x])):
            assert y.data.device_id == info.index


@cupy
def test_copies_and_pulls_off_the_current_device(backend):
    for info in backend.devices():
        device = xdev.device(f"cupy:{info.index}")
        x = device.xp.asarray([1.0, 2.0])
        assert xdev.to_device(x, device, copy=True).data.device_id == info.index
        assert xdev.to_device(x, device, dtype="float32").data.device_id == info.index
        assert xdev.to_numpy(x).tolist() == [1, 2]
        assert xdev.item(x[:1]) == 1
        for other in backend.devices():
            moved = xdev.to_device(x, f"cupy:{other.index}")
            assert moved.data.device_id == other.index
            assert xdev.to_numpy(moved).tolist() == [1, 2]


@cupy
def test_the_current_device_is_as_before_whatever_happens(backend):
    current = backend.cupy.cuda.runtime.getDevice
    before = current()
    *_, last = backend.devices()
    device = xdev.device(f"cupy:{last.index}")
    with xdev.use(device):
        assert current() == last.index
    with pytest.raises(ValueError, match=r"broadcast|shapes"):
        device.xp.add(device.xp.ones(2), device.xp.ones(3))
    xdev.synchronize(device)
    assert device.memory() is not None
    assert current() == before


@cupy
def test_native_device_objects_are_equal_not_identical(backend):
    for info in backend.devices():
        assert xdev.device(backend.cupy.cuda.Device(info.index)).info is info


@cupy
def test_the_source_may_be_written_at_once(device):
    for _ in range(5):
        x = np.zeros(65536, np.float32)
        moved = xdev.to_device(x, device)
        x[...] = 1.0
        assert float(xdev.to_numpy(moved).sum()) == 0.0


@cupy
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "uint16", "uint64", "bool"])
def test_holds_tells_the_truth(device, dtype):
    values = np.ones(3, getattr(ml_dtypes, dtype, dtype))
    if not device.backend.holds(dtype, device.info):
        with pytest.raises((TypeError, ValueError)):
            device.backend.place(values, device.info, True)
        return
    x = device.backend.place(values, device.info, True)
    assert dtype_name(x.dtype) == dtype
    assert (device.backend.to_host(x) == values).all()
    with device.scope():
        assert dtype_name((x + x).dtype) in (dtype, "int64")
    assert dtype_name(xdev.to_device(np.ones(3), device, dtype=dtype).dtype) == dtype


@cupy
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float128", "str"])
def test_what_it_does_not_hold(device, dtype):
    assert not device.backend.holds(dtype, device.info)


@cupy
def test_a_mismatch_of_its_own_is_recognised(backend):
    *_, last = backend.devices()
    if len(backend.devices()) < 2:
        pytest.skip("needs two devices")
    x = xdev.device(f"cupy:{last.index}").xp.ones(2)
    with backend.cupy.cuda.Device(0), pytest.raises(ValueError, match="device") as caught:
        x + x
    assert backend.is_device_mismatch(caught.value)


# -- array-api-strict --------------------------------------------------------------------------------


@strict
def test_strict_devices_that_lack_float64_say_so(backend):
    for kind, dtype in (("no_float64", "float64"), ("no_x64", "int64")):
        if kind not in [info.kind for info in backend.devices()]:
            pytest.skip("an older array-api-strict")
        device = xdev.device(f"strict:{kind}")
        assert device not in xdev.devices()
        with pytest.raises(xdev.DTypeError, match=f"is {dtype}, which strict:{kind}:0 cannot hold"):
            xdev.to_device(np.ones(2, dtype), device)
        assert xdev.device_of(xdev.to_device(np.ones(2, np.float32), device)) is device


@strict
def test_strict_arrays_leave_a_device_only_when_asked(device, xp):
    x = xp.ones((2,))
    assert xdev.to_numpy(x).tolist() == [1, 1]
    other = xdev.device("strict:cpu")
    moved = xdev.to_device(x, other)
    assert xdev.device_of(moved) is other
    moved[0] = 5
    assert xdev.to_numpy(x).tolist() == [1, 1] or other is device


@strict
def test_a_mismatch_of_stricts_is_recognised(backend, xp):
    y = xdev.device("strict:cpu").xp.ones(2)
    with pytest.raises(ValueError, match="device") as caught:
        xp.ones(2) + y
    assert backend.is_device_mismatch(caught.value)


# -- every backend -----------------------------------------------------------------------------------


def test_every_backend_keeps_the_contract(backend):
    from xdev.testing import check_backend

    assert [str(result) for result in check_backend(backend) if not result.passed] == []


def test_every_backend_says_which_implicit_transfers_it_sees(backend):
    assert backend.capabilities.visible_transfers
    assert backend.capabilities.visible_transfers != "none"


def test_capabilities_match_what_arrays_do(backend, xp):
    x = xp.ones(3)
    if backend.capabilities.mutable:
        x[0] = 2.0
        assert xdev.item(x[0]) == 2.0
    else:
        with pytest.raises(TypeError):
            x[0] = 2.0
    assert not backend.capabilities.has_bfloat16 or (xp.ones(2, dtype=xp.bfloat16) * 2.0).dtype == xp.bfloat16


# -- machines that lack something --------------------------------------------------------------------


class NoDriverError(Exception):
    """Stands for CUDARuntimeError."""


def runtime(count):
    def get_device_count():
        if isinstance(count, Exception):
            raise count
        return count

    return SimpleNamespace(CUDARuntimeError=NoDriverError, getDeviceCount=get_device_count, is_hip=False)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (
            NoDriverError("cudaErrorInsufficientDriver"),
            r"CuPy is installed but finds no usable GPU \(cudaErrorInsufficientDriver\). It needs an NVIDIA driver",
        ),
        (0, "CuPy is installed but finds no GPU; check CUDA_VISIBLE_DEVICES"),
    ],
)
def test_cupy_without_a_gpu_says_why(count, text):
    pytest.importorskip("cupy")
    from xdev_cupy.backend import CupyBackend

    backend = CupyBackend()
    backend.cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime(count)))
    with pytest.raises(xdev.BackendUnavailable, match=text):
        backend.devices()


@pytest.mark.parametrize(("version", "held"), [("13.6.0", False), ("14.2.0", True)])
def test_cupy_holds_bfloat16_since_14(version, held):
    pytest.importorskip("cupy")
    from xdev_cupy.backend import CupyBackend

    backend = CupyBackend()
    backend.cupy = SimpleNamespace(__version__=version)
    assert backend.holds("bfloat16", None) is held


def test_jax_without_a_platform_says_what_to_set():
    pytest.importorskip("jax")
    from xdev_jax.backend import JaxBackend

    def devices(*_):
        raise RuntimeError("Unable to initialize backend 'cuda'")

    backend = JaxBackend()
    backend.jax = SimpleNamespace(devices=devices)
    with pytest.raises(xdev.BackendUnavailable, match=r"finds no device: Unable to .*JAX_PLATFORMS=cpu uses the CPU"):
        backend.devices()


def test_an_accelerator_of_jax_comes_before_its_cpu():
    pytest.importorskip("jax")
    from xdev_jax.backend import JaxBackend

    def native(platform, number):
        client = SimpleNamespace(platform_version="cuda 12")
        return SimpleNamespace(platform=platform, id=number, device_kind=f"a {platform}", client=client)

    lists = {None: [native("gpu", 0), native("gpu", 1)], "cpu": [native("cpu", 0)]}
    backend = JaxBackend()
    backend.jax = SimpleNamespace(
        devices=lambda platform=None: lists[platform], sharding=SimpleNamespace(SingleDeviceSharding=lambda d: id(d))
    )
    assert [(i.kind, i.index, i.hardware) for i in backend.devices()] == [
        ("cuda", 0, "cuda:0"),
        ("cuda", 1, "cuda:1"),
        ("cpu", 0, "cpu"),
    ]
