"""CuPy's pitfalls, each by name; those that need no more than a line stand in `test_others`."""

import asyncio
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

import xdev
from xdev import nn, ops, optim

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


# -- kernels -----------------------------------------------------------------------------------------

KERNELS = {
    "attention": lambda x, labels: ops.attention(x[None], x[None], x[None], causal=True),
    "cross_entropy": ops.cross_entropy,
    "gelu": lambda x, labels: ops.gelu(x),
    "layer_norm": lambda x, labels: ops.layer_norm(x),
    "linear": lambda x, labels: ops.linear(x, x.T),
    "log_softmax": lambda x, labels: ops.log_softmax(x),
    "mse": lambda x, labels: ops.mse(x, x),
    "relu": lambda x, labels: ops.relu(x),
    "scatter_add": lambda x, labels: xdev.grad(lambda x: xdev.namespace(x).sum(ops.embedding(x, labels)))(x),
    "sigmoid": lambda x, labels: ops.sigmoid(x),
    "silu": lambda x, labels: ops.silu(x),
    "softmax": lambda x, labels: ops.softmax(x),
}


def test_each_kernel_has_a_case(backend):
    """The other op that it has kernels of is made of those here."""
    assert {name.partition(".")[0] for name in backend.kernels} <= set(KERNELS)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_work_off_the_current_device(backend, off, name):
    xp = off.xp
    x, labels = xp.asarray(_numbers(3, 4)), xp.asarray(np.array([0, 2, 0], np.int32))
    with off.scope():
        expected = KERNELS[name](x, labels)
    found = KERNELS[name](x, labels)
    assert found.data.device_id == off.index
    assert _bits(found) == _bits(expected)
    assert backend.cupy.cuda.runtime.getDevice() != off.index


def test_a_kernel_tells_arrays_on_two_devices(devices):
    if len(devices) < 2:
        pytest.skip("needs two devices")
    x, w = (device.xp.ones((2, 2)) for device in devices[:2])
    with pytest.raises(xdev.DeviceMismatchError, match="different devices"):
        ops.linear(x, w)


def _numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _bits(tree):
    return [x.tobytes() for x in xdev.tree.leaves(xdev.to_numpy(tree))]


# -- recorded and replayed ---------------------------------------------------------------------------


def _gradients(params, x, labels, rng, calls):
    calls.append(1)

    def loss(params):
        y = ops.linear(x, params["w"], params["b"])
        y = ops.layer_norm(ops.dropout(ops.gelu(y), rate=0.25, rng=rng), params["s"], params["b"])
        y = xdev.namespace(y).reshape(y, (2, 4, 6))
        y = ops.attention(y, y, ops.silu(y), causal=True) + ops.relu(y)
        xp = xdev.namespace(y)
        return ops.cross_entropy(xp.reshape(xp.concat([y[:1, ...], y[1:, ...] * 2], axis=0), (8, 6)), labels)

    return xdev.value_and_grad(loss)(params)


def test_jit_replays_on_each_device_with_the_bits_of_eager_calls(devices):
    calls = []
    compiled = xdev.jit(lambda params, x, labels, rng: _gradients(params, x, labels, rng, calls))
    kept = []
    for n in range(6):
        for device in devices:
            asarray = device.xp.asarray
            params = {"w": asarray(_numbers(5, 6) + n), "b": asarray(_numbers(6)), "s": asarray(_numbers(6) - n)}
            x, labels = asarray(_numbers(8, 5) * n), asarray(np.arange(8, dtype=np.int32) % 6)
            with device.scope():
                expected = _gradients(params, x, labels, xdev.random.Generator(n, device), [])
            found = compiled(params, x, labels, xdev.random.Generator(n, device))
            assert all(leaf.data.device_id == device.index for leaf in xdev.tree.leaves(found))
            assert _bits(found) == _bits(expected)
            kept.append((found, _bits(found), (params, x, labels)))  # the arguments too, so that each has its own place
    assert len(calls) == 2 * len(devices)  # recorded, and once more to check the replay
    assert all(_bits(found) == bits for found, bits, _ in kept)


def _step_of(device, optimizer):
    state = xdev.TrainState.create(nn.MLP([5, 8, 6], rng=xdev.random.Generator(0, device)), optimizer)
    step = xdev.make_step(lambda model, batch: ops.cross_entropy(model(batch[0]), batch[1]), optimizer)
    batches = [(device.xp.asarray(_numbers(8, 5) + n), device.xp.asarray(np.arange(8) % 6)) for n in range(6)]
    return state, step, batches


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.adamw(0.01, weight_decay=0.1),
        optim.sgd(0.1),
        optim.sgd(0.1, momentum=0.9, weight_decay=0.1),
        optim.sgd(0.1, momentum=0.9, nesterov=True),
    ],
    ids=["adamw", "sgd", "momentum", "nesterov"],
)
def test_steps_replay_with_the_bits_of_eager_ones(backend, devices, optimizer, monkeypatch):
    def run(device):
        state, step, batches = _step_of(device, optimizer)
        losses = []
        for batch in batches:
            state, metrics = step(state, batch)
            losses.append(metrics["loss"])
        return _bits([losses, state.model]), xdev.to_numpy([losses, state.model])

    replayed = [run(device)[0] for device in devices]
    monkeypatch.setattr(backend, "replay", None)
    assert replayed == [run(device)[0] for device in devices]
    expected = run(devices[0])[1]
    monkeypatch.setattr(type(backend), "inplace_update", xdev.Backend.inplace_update)
    for x, y in zip(*(xdev.tree.leaves(tree) for tree in (run(devices[0])[1], expected)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)  # by the optimizer's own functions


def test_no_step_reads_from_the_device(device):
    """Neither when it is recorded, nor when it is checked, nor when it is replayed."""
    state, step, batches = _step_of(device, optim.adamw(0.01))
    with xdev.budget(to_host=0), xdev.track_transfers() as crossed:
        for batch in batches:
            state, _ = step(state, batch)
    assert crossed.to_host_bytes == 0
    assert xdev.item(state.opt_state.count) == len(batches)


def test_outputs_that_are_held_by_their_memory_alone_are_not_written_to(backend, device):
    double = xdev.jit(lambda x: x * 2)
    strided = backend.cupy.lib.stride_tricks.as_strided
    with device.scope():
        held = []
        for n in range(6):
            x = device.xp.asarray(np.full(3, n, np.float32))
            held.append(strided(double(x), (3,), (4,)))  # which has no base
        assert [int(xdev.item(x[0])) for x in held] == [0, 2, 4, 6, 8, 10]


def test_each_stream_has_plans_of_its_own(backend, device):
    """Memory is used again in the order of one stream."""
    calls = []

    def f(x):
        calls.append(1)
        return xdev.namespace(x).exp(x * 2) + 1

    compiled = xdev.jit(f)
    with device.scope():
        streams = [backend.cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
        x = device.xp.asarray(_numbers(3))
        xdev.synchronize(device)
        for _ in range(4):
            for stream in streams:
                with stream:
                    y = compiled(x)
                stream.synchronize()
                assert _bits(y) == _bits(device.xp.exp(x * 2) + 1)
    assert len(calls) == 4


COUNTED = """
import sys
import numpy as np
import xdev
from xdev import nn, ops, optim

device = xdev.device("cupy:0")
optimizer = optim.adamw(1e-3)
state = xdev.TrainState.create(nn.MLP([64, 256, 256, 10], rng=xdev.random.Generator(0, device)), optimizer)
step = xdev.make_step(lambda model, batch: ops.cross_entropy(model(batch[0]), batch[1]), optimizer)
numbers = np.random.default_rng(0)
x = device.xp.asarray(numbers.normal(size=(128, 64)).astype(np.float32))
labels = device.xp.asarray(numbers.integers(0, 10, 128))
for n in range(4):
    print("step", file=sys.stderr, flush=True)
    state, metrics = step(state, (x, labels))
"""


def test_launches_of_a_step(monkeypatch):
    """Besides eight products of matrices: 22 in a step of three layers, 6 of them AdamW; 146 without kernels."""
    if importlib.util.find_spec("cupy_cpu_emulation") is None:
        pytest.skip("the emulation prints launches, CUDA does not")
    monkeypatch.setenv("CPUEMU_TRACE", "1")
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True)
    first, *_, last = done.stderr.split("step\n")[1:]
    assert last.count("cpuemu: launch") <= 22
    assert first.count("cpuemu: launch") <= 25
