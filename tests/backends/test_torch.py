"""torch's pitfalls, each by name."""

import asyncio
import subprocess
import sys
import threading

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
