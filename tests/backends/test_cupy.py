"""CuPy's pitfalls, each by name; those that need no more than a line stand in `test_others`."""

import asyncio

import numpy as np
import pytest

import xdev

pytestmark = pytest.mark.xdev_backends(only="cupy", reason="it is CuPy's pitfall", scoped=False)


@pytest.fixture
def devices(backend):
    """Every device of CuPy."""
    return [xdev.device(f"cupy:{info.index}") for info in backend.devices()]


@pytest.fixture
def off(backend, devices):
    """A device that is not the current one."""
    if len(devices) < 2:
        pytest.skip("needs two devices")
    return next(device for device in devices if device.index != backend.cupy.cuda.runtime.getDevice())


# -- the current device ------------------------------------------------------------------------------

OFF = {
    "x * 2": lambda x, xp: xp.multiply(x, 2),
    "sum": lambda x, xp: xp.sum(x),
    "exp": lambda x, xp: xp.exp(x),
    "concat": lambda x, xp: xp.concat([x, x]),
    "where": lambda x, xp: xp.where(xp.greater(x, 1), x, -1.0),
    "matmul": lambda x, xp: xp.matmul(x, x),
    "tensordot": lambda x, xp: xp.tensordot(x, x, axes=1),
    "vecdot": lambda x, xp: xp.vecdot(x, x),
    "zeros_like": lambda x, xp: xp.zeros_like(x),
    "empty_like": lambda x, xp: xp.empty_like(x),
    "full_like": lambda x, xp: xp.full_like(x, 2.0),
    "copy": lambda x, xp: xp.asarray(x, copy=True),
    "astype": lambda x, xp: xp.astype(x, xp.float32),
    "sort": lambda x, xp: xp.sort(x),
    "take": lambda x, xp: xp.take(x, xp.asarray([1, 0])),
    "reshape": lambda x, xp: xp.reshape(x, (1, 9)),
    "tril": lambda x, xp: xp.tril(x),
    "linalg.inv": lambda x, xp: xp.linalg.inv(xp.eye(3)),
    "fft": lambda x, xp: xp.fft.fft(x),
}


@pytest.mark.parametrize("name", OFF)
def test_functions_of_the_namespace_work_off_the_current_device(backend, off, name):
    xp = off.xp
    x = xp.reshape(xp.arange(9.0), (3, 3))
    assert OFF[name](x, xdev.namespace(x)).data.device_id == off.index
    assert backend.cupy.cuda.runtime.getDevice() != off.index


def test_operators_off_the_current_device_need_its_scope(off):
    """What CuPy does by itself: some raise, some land elsewhere without a word."""
    if "emulation" not in off.name.lower():
        pytest.skip("where one GPU may read another's memory, less of it raises")
    x = off.xp.ones((2, 2))
    with pytest.raises(ValueError, match="different from the current device"):
        x * 2
    silent = [lambda: x @ x.T, lambda: x.copy()]
    assert all(made().data.device_id != off.index for made in silent)
    with xdev.use(off):
        assert all(made().data.device_id == off.index for made in (*silent, lambda: x * 2, lambda: -x))


def test_xdevs_own_work_is_done_where_the_arrays_are(backend, off):
    def loss(w, x):
        return xdev.namespace(w).sum(xdev.ops.relu(x @ w) * 2)

    xp = off.xp
    w, x = xp.ones((3, 2), dtype=xp.float32), xp.ones((4, 3), dtype=xp.float32)
    value, gradient = xdev.value_and_grad(loss)(w, x)
    compiled = xdev.jit(loss)(w, x)
    model = xdev.nn.Linear(3, 2, rng=xdev.random.Generator(0, off))
    copied = xdev.to_device({"w": w, "again": w}, off, copy=True)
    result = xdev.fit(
        model,
        lambda m, batch: xdev.ops.mse(m(batch[0]), batch[1]),
        (np.ones((8, 3), np.float32), np.ones((8, 2), np.float32)),
        optimizer=xdev.optim.adamw(0.1),
        batch_size=4,
    )
    for made in (value, gradient, compiled, model.weight, copied["w"], result.model.weight):
        assert made.data.device_id == off.index
    assert xdev.item(value) == 48
    assert backend.cupy.cuda.runtime.getDevice() != off.index


def test_the_current_device_leaks_into_other_tasks_and_xdevs_does_not(backend, devices, off):
    """CuPy's current device belongs to the thread; what xdev's namespaces create lands where they say."""
    here = next(device for device in devices if device is not off)
    current, seen = backend.cupy.cuda.runtime.getDevice, {}

    async def user():
        with xdev.use(off):
            await asyncio.sleep(0)
            seen["user"] = xdev.device()

    async def sibling():
        seen["current"] = current()
        seen["device"] = xdev.device()
        seen["made"] = [where.xp.ones(2).data.device_id for where in (here, off)]
        seen["sum"] = xdev.namespace(here.xp.ones(2)).sum(here.xp.ones(2)).data.device_id

    async def both():
        await asyncio.gather(user(), sibling())

    before = xdev.device()
    asyncio.run(both())
    assert seen["current"] == off.index  # the leak
    assert seen["user"] is off
    assert seen["device"] is before
    assert seen["made"] == [here.index, off.index]
    assert seen["sum"] == here.index
    assert current() == here.index


# -- NumPy -------------------------------------------------------------------------------------------


def test_numpy_cannot_read_its_arrays_and_xdev_can(device):
    x = device.xp.asarray([1.0, 2.0])
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        np.asarray(x)
    assert xdev.to_numpy(x).tolist() == xdev.to_device({"x": x}, "numpy")["x"].tolist() == [1, 2]
    assert xdev.asarray(x, device="numpy").tolist() == [1, 2]


@pytest.mark.parametrize(
    "count",
    [1, 20],
)
def test_bfloat16_is_refused_by_numpy_however_many_arrays_there_are(device, count):
    if not device.backend.holds("bfloat16", device.info):
        pytest.skip("an older CuPy")
    tree = [xdev.to_device([1.5, 2.5], device, dtype="bfloat16") for _ in range(count)]
    with pytest.raises(xdev.DTypeError, match=r"^tree\[0\] is bfloat16, which numpy:cpu:0 cannot hold; say dtype="):
        xdev.to_numpy(tree)


def test_arrays_of_numpy_are_not_converted_by_the_way(device):
    x, y = device.xp.ones(2), np.ones(2)
    with device.scope(), pytest.raises(TypeError, match="Unsupported type"):
        x + y
    with pytest.raises(xdev.DeviceMismatchError, match=r"arrays\[1\] is on numpy:cpu:0"):
        xdev.namespace(x, y)
    with pytest.raises(xdev.DeviceMismatchError):
        xdev.ops.linear(device.xp.ones((2, 2)), np.ones((2, 2)))
    moved = xdev.to_device(y, device)
    with device.scope():
        assert xdev.to_numpy(x + moved).tolist() == [2, 2]


def test_what_asarray_takes_from_the_host_may_be_written_at_once(device):
    for take in (device.xp.asarray, device.xp.from_dlpack, lambda x: xdev.asarray(x, device=device)):
        for _ in range(5):
            x = np.zeros(65536, np.float32)
            moved = take(x)
            x[...] = 1.0
            assert float(xdev.to_numpy(moved).sum()) == 0.0


# -- the standard ------------------------------------------------------------------------------------


def test_its_namespace_says_what_the_standard_asks(backend, device):
    assert not hasattr(backend.cupy, "__array_namespace_info__")
    info = device.xp.__array_namespace_info__()
    assert {"float32", "float64", "complex64", "int64", "bool"} <= set(info.dtypes())
    assert device.native in info.devices()
    assert info.default_dtypes()["real floating"] == np.float64


def test_device_of_creation_is_not_dropped(devices):
    """array-api-compat's functions ignore `device=` (array-api-compat#293)."""
    for device in devices:
        for other in devices:
            for name, args in (("zeros", (2,)), ("ones", (2,)), ("full", (2, 1.0)), ("arange", (2,)), ("eye", (2,))):
                made = getattr(device.xp, name)(*args, device=other.native)
                assert made.data.device_id == other.index


def test_a_foreign_array_of_another_device_comes_over():
    cupy = pytest.importorskip("cupy")
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one device")

    class Foreign:
        def __init__(self, x):
            self.x = x
            self.dtype = x.dtype

        @property
        def __cuda_array_interface__(self):
            return self.x.__cuda_array_interface__

    with cupy.cuda.Device(1):
        x = cupy.ones(3)
    moved = xdev.to_device(Foreign(x), "cupy:cuda:0")
    assert moved.device.id == 0
    assert xdev.to_numpy(moved).tolist() == [1.0, 1.0, 1.0]
