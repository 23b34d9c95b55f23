"""torch's pitfalls, each by name."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

import xdev

torch = pytest.importorskip("torch")


def test_devices_are_normalised():
    cpu = xdev.device("torch:cpu")
    for spec in (torch.device("cpu"), torch.device("cpu", 0), torch.zeros(1).device):
        assert xdev.device(spec) is cpu
    assert xdev.device_of(torch.zeros(1, device="cpu:0")) is cpu
    assert cpu.native == torch.device("cpu")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_a_device_that_is_not_there():
    with pytest.raises(xdev.DeviceError, match=r"device\(type='cuda'\) is not a device of this machine"):
        xdev.device(torch.device("cuda"))
    with pytest.raises(xdev.DeviceError, match="'torch:cuda' is no device of this machine"):
        xdev.device("torch:cuda")


def test_the_meta_device_can_be_named_but_is_not_listed():
    meta = xdev.device("torch:meta")
    assert meta not in xdev.devices()
    assert xdev.device_of(meta.xp.zeros(3)) is meta
    assert xdev.device_of(xdev.to_device(torch.zeros(3), meta)) is meta


@pytest.mark.parametrize("target", ["numpy", "torch:cpu"])
def test_meta_tensors_have_no_values_to_move(target):
    with pytest.raises(xdev.TransferError, match=r"tree\['x'\] cannot be .*: .*meta"):
        xdev.to_device({"x": torch.zeros(3, device="meta")}, target)


def test_sparse_tensors_do_not_cross():
    with pytest.raises(xdev.TransferError, match="the array cannot be brought to the host: "):
        xdev.to_numpy(torch.eye(3).to_sparse())


def test_meta_with_cpu_is_a_mismatch_although_torch_lets_matmul_pass():
    with pytest.raises(xdev.DeviceMismatchError, match=r"tree\[0\] is on torch:cpu:0; tree\[1\] is on torch:meta:0"):
        xdev.device_of([torch.zeros(2, 2), torch.zeros(2, 2, device="meta")])


def test_0d_cpu_tensors_mix_with_any_device():
    meta = torch.zeros(2, device="meta")
    assert xdev.device_of([torch.tensor(1.0), meta]) == "torch:meta:0"
    assert xdev.namespace(torch.tensor(1.0), meta) is xdev.device("torch:meta").xp
    assert xdev.device_of(torch.tensor(1.0)) == "torch:cpu:0"


def test_gradients_conjugates_and_negatives_are_resolved_on_the_way_to_numpy():
    x = torch.tensor([1 + 2j], requires_grad=True)
    assert xdev.to_numpy(x).tolist() == [1 + 2j]
    assert xdev.to_numpy(x.detach().conj()).tolist() == [1 - 2j]
    assert xdev.to_numpy(x.detach().conj().imag).tolist() == [-2]
    assert xdev.item(x) == 1 + 2j


@pytest.mark.parametrize("target", ["jax", "strict", "cupy"])
def test_they_are_resolved_on_the_way_to_others(target):
    pytest.importorskip({"strict": "array_api_strict"}.get(target, target))
    x = torch.tensor([1 + 2j], requires_grad=True)
    try:
        moved = xdev.to_device([x, x.detach().conj(), x.detach().conj().imag], target)
    except xdev.BackendUnavailable as error:
        pytest.skip(str(error))
    assert [xdev.item(y) for y in moved] == [1 + 2j, 1 - 2j, -2]


def test_within_torch_the_graph_stays_connected():
    x = torch.ones(2, requires_grad=True)
    assert xdev.to_device(x, "torch") is x
    y = xdev.to_device(x, "torch", copy=True)
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]
    z = xdev.to_device(x, "torch", dtype="float64")
    assert z.requires_grad
    assert z.dtype == torch.float64


def test_bfloat16_crosses_to_jax_and_back():
    pytest.importorskip("jax")
    x = torch.tensor([1.5, -2.0, float("inf")], dtype=torch.bfloat16)
    back = xdev.to_device(xdev.to_device(x, "jax"), "torch")
    assert back.dtype == torch.bfloat16
    assert torch.equal(back, x)
    assert xdev.to_device(np.ones((), ml_dtypes.bfloat16), "torch").shape == ()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_dtypes_of_ml_dtypes_cross(dtype):
    x = np.array([1.5, -2.0, 0.0], getattr(ml_dtypes, dtype))
    moved = xdev.to_device(x, "torch")
    assert moved.dtype == getattr(torch, dtype)
    assert moved.data_ptr() == x.ctypes.data
    assert xdev.to_device(moved, "numpy", dtype="float32").tolist() == [1.5, -2.0, 0.0]
    assert xdev.item(moved[0]) == 1.5


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_unsigned_integers_that_torch_half_supports_still_move(dtype):
    x = np.array([0, 1, np.iinfo(dtype).max], dtype)
    moved = xdev.to_device(x, "torch", copy=True)
    assert moved.dtype == getattr(torch, dtype)
    assert (xdev.to_numpy(moved) == x).all()


def test_negative_strides_do_not_abort_the_process():
    """torch.from_dlpack aborts on them (pytorch#188023), so this runs in a process of its own."""
    code = """
import numpy as np, xdev
from test_foreign import Foreign
x = np.arange(6.0).reshape(2, 3)[:, ::-1]
print(xdev.to_device(x, "torch").tolist(), xdev.to_device(Foreign(x), "torch").tolist())
xp = xdev.device("torch:cpu").xp
print(xp.from_dlpack(x).tolist(), xp.from_dlpack(Foreign(x)).tolist())
try:
    xdev.to_device(x, "torch", copy=False)
except xdev.CopyRequiredError as error:
    print(error)
"""
    foreign = """
class Foreign:
    def __init__(self, x): self.x = x
    def __dlpack__(self, **options): return self.x.__dlpack__(**options)
    def __dlpack_device__(self): return self.x.__dlpack_device__()
"""
    code = code.replace("from test_foreign import Foreign", foreign)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [
        "[[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]] [[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]",
        "[[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]] [[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]",
        "the array cannot be shared: it has negative strides; leave out copy=False",
    ], done.stderr


def test_a_read_only_array_does_not_become_writable():
    x = np.zeros(3)
    x.flags.writeable = False
    xdev.to_device(x, "torch")[0] = 1
    assert x[0] == 0
    with pytest.raises(xdev.CopyRequiredError, match="it is read-only, and torch would write to it"):
        xdev.to_device(x, "torch", copy=False)


def test_writable_memory_is_shared_with_numpy_both_ways():
    x = np.zeros(3)
    y = xdev.to_device(x, "torch")
    y[0] = 1
    assert x[0] == 1
    xdev.to_numpy(y)[1] = 2
    assert x[1] == 2


def test_the_default_device_does_not_relocate():
    with torch.device("meta"):
        assert xdev.device_of(xdev.to_device(np.zeros(3), "torch:cpu")) == "torch:cpu:0"
        assert xdev.device_of(xdev.device("torch:cpu").xp.zeros(3)) == "torch:cpu:0"
        assert xdev.device_of(xdev.asarray([1, 2], device="torch:cpu")) == "torch:cpu:0"


def test_a_dtype_change_is_no_view():
    with pytest.raises(xdev.CopyRequiredError, match="the array cannot be shared: float32 becomes float64"):
        xdev.to_device(torch.zeros(3), "torch", copy=False, dtype="float64")


# -- implicit crossings ------------------------------------------------------------------------------

READS = {
    "item": (lambda t: t[0].item(), 4),
    "tolist": (lambda t: t.tolist(), 12),
    "numpy": (lambda t: t.numpy(), 12),
    "cpu": (lambda t: t.cpu(), 12),
    "__float__": (lambda t: float(t[0]), 4),
    "__int__": (lambda t: int(t[0]), 4),
    "__bool__": (lambda t: bool(t[0]), 4),
    "__index__": (lambda t: [0, 1, 2][t.int()[0]], 4),
    "__complex__": (lambda t: complex(t[0]), 4),
    "__repr__": (lambda t: str(t), 12),
    "__format__": (lambda t: f"{t[0]:.2f}", 4),
    "__array__": (lambda t: np.asarray(t), 12),
}


def test_every_read_has_a_case():
    from xdev_torch.watch import READS as WATCHED

    assert set(READS) == set(WATCHED)


@pytest.mark.parametrize("name", READS)
def test_what_torch_reads_by_itself_is_seen_once_and_before_it_happens(name):
    read, nbytes = READS[name]
    t = torch.ones(3)
    with xdev.track_transfers() as transfers:
        read(t)
    assert [(r.path, r.nbytes, r.direction) for r in transfers.records] == [(f"torch.Tensor.{name}", nbytes, "to_host")]
    assert transfers.records[0].where.startswith(__file__)
    with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded, match=rf"torch.Tensor.{name} would take"):
        read(t)


@pytest.mark.parametrize("name", READS)
def test_each_thread_that_enters_a_block_is_watched(name):
    read, nbytes = READS[name]
    seen = {}

    def work(times):
        with xdev.track_transfers() as transfers:
            for _ in range(times):
                read(torch.ones(3))
        seen[times] = transfers.to_host_bytes

    threads = [threading.Thread(target=work, args=(times,)) for times in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {1: nbytes, 2: 2 * nbytes, 3: 3 * nbytes}


def test_print_is_seen(capsys):
    with xdev.track_transfers() as transfers:
        print(torch.ones(3))
    assert capsys.readouterr().out == "tensor([1., 1., 1.])\n"
    assert [(r.path, r.nbytes) for r in transfers.records] == [("torch.Tensor.__repr__", 12)]


@pytest.mark.parametrize("name", READS)
def test_a_read_that_copies_nothing_is_a_view(name):
    with xdev.track_transfers() as transfers:
        READS[name][0](torch.ones(3))
    assert transfers.records[0].kind == ("view" if name in ("numpy", "cpu", "__array__") else "copy")


@pytest.mark.parametrize("to", [("cpu",), (torch.device("cpu"),), (torch.ones(1),)], ids=["name", "device", "tensor"])
def test_to_the_cpu_is_seen_where_it_leaves_a_device(to):
    with xdev.budget(to_host=0):
        torch.ones(3).to(*to)  # where nothing moves
        x = torch.ones(3, device="meta")
        x.to(torch.float64)
        with pytest.raises(xdev.TransferBudgetExceeded, match=r"torch\.Tensor\.to would take 12 bytes to host"):
            x.to(*to)


def test_what_cpu_returned_is_on_the_host():
    t = torch.ones(3)
    with xdev.track_transfers() as transfers:
        t.detach().cpu().numpy()
    assert [r.path for r in transfers.records] == ["torch.Tensor.cpu"]
    with xdev.track_transfers() as transfers:
        t.numpy()
    assert len(transfers.records) == 1


def test_what_xdev_moves_is_not_counted_twice():
    with xdev.track_transfers() as transfers:
        xdev.to_numpy(torch.ones(3))
        xdev.item(torch.ones(()))
    assert [r.path for r in transfers.records] == ["", ""]


def test_a_watch_does_not_count_for_a_sibling_task():
    """torch's function modes leak into other asyncio tasks; the ledgers of this context do not."""

    async def watched():
        with xdev.track_transfers() as transfers:
            await asyncio.sleep(0)
            torch.ones(3).tolist()
            await asyncio.sleep(0)
        return transfers

    async def sibling():
        await asyncio.sleep(0)
        torch.ones(5).tolist()

    async def both():
        return (await asyncio.gather(watched(), sibling()))[0]

    assert asyncio.run(both()).to_host_bytes == 12


def test_only_ordinary_tensors_of_the_cpu_pass_through_pinned_memory():
    from xdev_torch import pinned

    x = torch.ones(3, dtype=torch.complex64)
    assert pinned.may_send(x, "cuda")
    assert not pinned.may_send(x, "mps")
    assert not pinned.may_send(torch.ones(3, requires_grad=True), "cuda")  # its gradient must find the way back
    assert not pinned.may_send(x.conj(), "cuda")
    assert not pinned.may_send(torch.ones(0), "cuda")
    assert not pinned.may_send(torch.ones(2, 2).to_sparse(), "cuda")
    assert not pinned.may_send(torch.ones(3, device="meta"), "cuda")
    assert not pinned.may_send(torch.empty(2**24), "cuda")  # 64 MiB
    assert not pinned.may_fetch(x)  # it is on the host


# -- machines with accelerators, and what torch does by default ------------------------------------------


class Accelerated:
    """torch on a machine with two accelerators of a kind, or with none."""

    def __init__(self, kind):
        self.accelerator = SimpleNamespace(
            current_accelerator=lambda: torch.device(kind) if kind else None,
            is_available=lambda: kind is not None,
            device_count=lambda: 2,
            current_device_index=lambda: 1,
        )
        if kind:
            setattr(self, kind, SimpleNamespace(get_device_name=lambda index: f"number {index}"))

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def machine():
    """torch's backend on a machine that has such accelerators."""
    from xdev_torch.backend import TorchBackend

    def backend(kind):
        made = TorchBackend()
        made.torch = Accelerated(kind)
        return made

    return backend


def test_a_device_without_a_number_is_the_current_one(machine):
    assert torch.device("cuda") != torch.device("cuda:0")
    assert torch.device("cuda") != "cuda"
    backend = machine("cuda")
    handles = [backend.handle_of(torch.device(name)) for name in ("cuda:0", "cuda:1", "cuda", "cpu", "cpu:0")]
    assert [str(handle) for handle in handles] == ["cuda:0", "cuda:1", "cuda:1", "cpu", "cpu"]
    assert [(i.kind, i.index) for i in backend.devices() if i.listed] == [("cuda", 0), ("cuda", 1), ("cpu", 0)]


def test_a_build_for_the_cpu_has_no_current_accelerator(machine):
    assert [(i.kind, i.index) for i in machine(None).devices()] == [("cpu", 0), ("meta", 0)]
    assert machine(None).handle_of(torch.device("cuda")) is None


def test_mps_holds_no_float64(machine):
    backend = machine("mps")
    mps, _, cpu, _ = backend.devices()
    for dtype, held in (("float64", False), ("complex128", False), ("float32", True), ("bfloat16", True)):
        assert backend.holds(dtype, mps) is held
        assert backend.holds(dtype, cpu)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_gpu_is_a_word_of_xdevs_alone():
    with pytest.raises(RuntimeError, match="Expected one of cpu, cuda"):
        torch.device("gpu")
    with pytest.raises(
        xdev.DeviceError, match=r"'torch:gpu' is no device of this machine; did you mean 'torch:cpu:0'\?"
    ):
        xdev.device("torch:gpu")


def test_the_default_device_of_a_thread_changes_nothing_here():
    cpu = xdev.device("torch:cpu")
    x = torch.ones(3)
    with torch.device("meta"):
        assert torch.asarray([1.0]).device.type == "meta"
        for made in (
            cpu.xp.asarray(x),
            cpu.xp.asarray(np.ones(3)),
            cpu.xp.from_dlpack(np.ones(3)),
            cpu.xp.arange(3),
            xdev.asarray(x),
            xdev.asarray(np.float32(2), device=cpu),
            xdev.asarray([x, x]),
            xdev.random.Generator(0, cpu).normal(3),
            xdev.random.Generator(0, cpu).permutation(3),
            xdev.grad(lambda x: (x * x).sum())(x),
            xdev.ops.softmax(x),
            xdev.nn.Linear(2, 2, rng=xdev.random.Generator(0, cpu)).weight,
        ):
            assert made.device.type == "cpu"
        assert xdev.to_device(x, cpu) is x
        assert xdev.device_of(x) is cpu
        assert xdev.to_numpy(x).tolist() == [1, 1, 1]


# -- DLPack, NumPy, slices ---------------------------------------------------------------------------------


def test_dlpack_is_not_seen_as_its_capabilities_say():
    assert "not DLPack" in xdev.backend("torch").capabilities.visible_transfers
    with xdev.track_transfers() as transfers:
        np.from_dlpack(torch.ones(3))
    assert transfers.records == []


def test_from_dlpack_makes_nothing_writable_that_is_not():
    xp = xdev.device("torch:cpu").xp
    x = np.zeros(3)
    x.flags.writeable = False
    xp.from_dlpack(x)[0] = 1
    assert x.tolist() == [0, 0, 0]


def test_what_dlpack_does_not_export_moves():
    x = torch.tensor([1 + 2j], requires_grad=True)
    for y, expected in ((x, 1 + 2j), (x.detach().conj(), 1 - 2j)):
        with pytest.raises(BufferError, match="Can't export"):
            y.__dlpack__()
        assert xdev.to_device(y, "numpy").tolist() == [expected]
    negated = x.detach().conj().imag
    assert np.from_dlpack(negated).tolist() == [2]  # torch exports it without its sign
    for target in ("numpy", "jax", "strict", "cupy"):
        with contextlib.suppress(xdev.BackendError):
            assert xdev.item(xdev.to_device(negated, target)) == -2


def test_arrays_of_numpy_in_operators():
    """torch takes NumPy's scalars, and its arrays on one side; here the mix is an error on both."""
    x, y = torch.ones(2), np.ones(2, np.float32)
    assert (x * np.float32(2)).tolist() == (np.float32(2) * x).tolist() == [2, 2]
    assert xdev.namespace(x, np.float32(2)) is xdev.namespace(np.float32(2), x) is xdev.device("torch:cpu").xp
    with pytest.raises(TypeError, match="unsupported operand"):
        y * x
    for mix in ((x, y), (y, x)):
        with pytest.raises(xdev.DeviceMismatchError, match=r'= xdev\.to_device\(arrays\[\d\], "'):
            xdev.namespace(*mix)
        with pytest.raises(xdev.DeviceMismatchError):
            xdev.value_and_grad(lambda a, b: (a * b).sum())(*mix)


def test_what_steps_backwards():
    x = torch.arange(4.0)
    with pytest.raises(ValueError, match="step must be greater than zero"):
        x[::-1]
    xp = xdev.namespace(x)
    assert xp.flip(x).tolist() == [3, 2, 1, 0]
    assert xdev.grad(lambda x: (xp.flip(x) * torch.arange(4.0)).sum())(x).tolist() == [3, 2, 1, 0]
    assert xdev.to_device(np.arange(4.0)[::-1], "torch").tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_xdevs_own_work_needs_nothing_that_unsigned_integers_lack(dtype):
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(2, dtype=getattr(torch, dtype)) << 1
    drawn = xdev.random.Generator(0, "torch:cpu").integers(0, 1000, 5, dtype=dtype)
    assert drawn.dtype == getattr(torch, dtype)
    assert xdev.to_numpy(drawn).tolist() == xdev.random.Generator(0, "numpy").integers(0, 1000, 5).tolist()
    assert xdev.to_numpy([drawn])[0].dtype == np.dtype(dtype)
    assert xdev.item(drawn[:1]) == int(xdev.to_numpy(drawn)[0])
    assert xdev.to_numpy(xdev.to_device(drawn, "torch", dtype="int64")).tolist() == xdev.to_numpy(drawn).tolist()


def test_parameters_of_torch_train_as_other_tensors_do():
    model = {"t": torch.nn.Parameter(torch.tensor(3.0))}
    optimizer = xdev.optim.chain(xdev.optim.sgd(1.0))
    result = xdev.fit(model, lambda m, b: m["t"], np.zeros(3, np.float32), optimizer=optimizer, batch_size=1)
    assert result.losses == [3.0, 2.0, 1.0]
    assert not result.model["t"].requires_grad  # or every step would stay connected to all before it
    assert model["t"].item() == 3.0
    value, _ = xdev.value_and_grad(lambda t: t)(model["t"])
    assert value.data_ptr() != model["t"].data_ptr()


def test_gradients_within_those_of_torch_func():
    gradient = xdev.grad(lambda w: (w**3).sum())
    x = torch.arange(3.0)
    assert torch.equal(torch.func.jacrev(gradient)(x), torch.diag(6 * x))
    assert torch.equal(torch.func.grad(lambda w: gradient(w).sum())(x), 6 * x)


def test_sparse_gradients_are_of_the_form_of_their_argument():
    def loss(weight):
        return torch.nn.functional.embedding(torch.tensor([1, 1]), weight, sparse=True).sum()

    gradient = xdev.grad(loss)(torch.ones(3, 2))
    assert gradient.tolist() == [[0.0, 0.0], [2.0, 2.0], [0.0, 0.0]]
    result = xdev.fit({"w": torch.ones(3, 2)}, lambda m, b: loss(m["w"]), torch.ones(1), optimizer=xdev.optim.sgd(0.25))
    assert result.model["w"].tolist() == [[1.0, 1.0], [0.5, 0.5], [1.0, 1.0]]


def test_gradients_that_overlap_in_memory_come_apart():
    def loss(a, b):
        z = torch.zeros(4)
        return (torch.slice_scatter(z, a, 0, 0, 2) + torch.slice_scatter(z, b, 0, 1, 3)).sum()

    of_a, of_b = xdev.grad(loss, argnums=(0, 1))(torch.ones(2), torch.ones(2))
    of_a.fill_(7.0)
    assert of_b.tolist() == [1.0, 1.0]


def test_auxiliary_output_of_a_constant_loss_is_detached():
    with pytest.warns(UserWarning, match=r"depends on none of the arrays .* args\[0\]"):
        (_, aux), _ = xdev.value_and_grad(lambda w: (torch.zeros(()), (w * w).sum()), has_aux=True)(torch.ones(2))
    assert np.asarray(aux) == 2.0


def test_what_is_handed_to_another_framework_on_a_gpu_is_resolved():
    from xdev.crossing import _adopt

    handed = []
    to = SimpleNamespace(backend=SimpleNamespace(adopt=lambda x, info: handed.append(x)), info=None)
    x = torch.tensor([1 + 2j])
    for y in (x.conj(), x.conj().imag):
        _adopt(y, xdev.backend("torch"), to, None, None)
    assert len(handed) == 2
    assert not any(y.is_conj() or y.is_neg() for y in handed)


ODD = {
    "one element backwards": lambda: np.zeros(1, np.float32)[::-1],
    "a row backwards": lambda: np.zeros((1, 3), np.float32)[::-1],
    "nothing backwards": lambda: np.zeros((0, 3), np.float32)[::-1, ::-1],
    "a field": lambda: np.zeros(1, [("a", "f4"), ("b", "f4"), ("c", "u1")])["b"],
    "a field of a row": lambda: np.zeros((1, 2), [("a", "f4"), ("b", "f4"), ("c", "u1")])["b"][:, :1],
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("count", [1, 20])
def test_the_stride_of_an_axis_that_is_not_walked_does_not_matter(name, count):
    """NumPy passes over it when it says that an array is contiguous, and torch does not."""
    expected = ODD[name]().tolist()
    for _ in range(2):  # the type of the arrays is known from the first time on
        moved = xdev.to_device([ODD[name]() for _ in range(count)], "torch")
        assert all(x.tolist() == expected for x in moved)
