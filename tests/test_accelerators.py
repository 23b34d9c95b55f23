"""Copies between the host and accelerators, which nobody waits for one by one, and between frameworks on one GPU.

What needs two streams that truly run at once is marked `gpu`; CuPy's part runs on its emulated devices too.
"""

import numpy as np
import pytest

import xdev
from xdev.testing import assert_equal

GPU = pytest.mark.gpu
FRAMEWORKS = [pytest.param("torch", marks=GPU), pytest.param("jax", marks=GPU), "cupy"]
PAIRS = [
    pytest.param(source, target, marks=GPU)
    for source in ("torch", "jax", "cupy")
    for target in ("torch", "jax", "cupy")
    if source != target
]


def accelerator_of(framework):
    """Return the last accelerator of a framework, which is not its current one if there are several."""
    if framework not in xdev.backends():
        pytest.skip(f"{framework} is not installed")
    found = [device for device in xdev.devices() if device.backend == framework and device.kind in ("cuda", "rocm")]
    if not found:
        pytest.skip(f"{framework} has no accelerator here")
    return found[-1]


def busy(device):
    """Return a large matrix of ones that its device still computes."""
    xp = device.xp
    with xdev.use(device):
        x = xp.eye(1024, dtype=xp.float32)
        for _ in range(20):
            x = x @ x
        return x * 0 + 1


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("shape", [(16,), (256, 1024), (64, 64, 64)], ids=str)
def test_the_source_may_be_written_as_soon_as_the_call_returns(framework, shape):
    device = accelerator_of(framework)
    source = np.empty(shape, np.float32)
    for number in range(50):
        source[...] = number
        moved = xdev.to_device(source, device)
        source[...] = -1
        assert_equal(xdev.to_numpy(moved), np.full(shape, number, np.float32))


def test_pinned_memory_of_the_caller_may_be_written_too():
    device = accelerator_of("cupy")
    from cupyx import empty_pinned

    source = empty_pinned((1000,), np.float32)
    for number in range(50):
        source[...] = number
        moved = xdev.to_device(source, device)
        source[...] = -1
        assert_equal(xdev.to_numpy(moved), np.full(1000, number, np.float32))


@GPU
def test_pinned_tensors_of_the_caller_may_be_written_too():
    import torch

    device = accelerator_of("torch")
    source = torch.empty(1 << 20).pin_memory()
    for number in range(50):
        source.fill_(number)
        moved = xdev.to_device(source, device)
        source.fill_(-1)
        assert_equal(xdev.to_numpy(moved), np.full(1 << 20, number, np.float32))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_many_arrays_of_a_busy_device_come_back_whole(framework):
    device = accelerator_of(framework)
    ones = busy(device)
    with xdev.use(device):
        leaves = [ones[:3, n : n + 5] * n for n in range(200)] + [ones[:, :700] * 7, ones[0, 0] * 8, ones[:0] * 9]
        leaves += [xdev.to_device(np.asfortranarray(np.ones((3, 2)) * n), device, dtype="float32") for n in range(3)]
    brought = xdev.to_numpy(leaves)
    for leaf, x in zip(brought, leaves, strict=True):
        assert type(leaf) is np.ndarray
        assert_equal(leaf, xdev.to_numpy(x))
    assert brought[199].tolist() == [[199.0] * 5] * 3
    assert brought[200].shape == (1024, 700)
    assert float(brought[201]) == 8.0


def test_what_comes_to_the_host_is_no_pinned_memory():
    """It would stay pinned as long as somebody keeps it."""
    device = accelerator_of("cupy")
    import cupy

    for x in xdev.to_numpy([xdev.to_device(np.ones(5), device) for _ in range(20)]):
        assert cupy.cuda.runtime.pointerGetAttributes(x.ctypes.data).type != 1
        assert x.flags.writeable


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_frameworks_share_a_gpu_in_the_order_of_their_streams(source, target):
    here, there = accelerator_of(source), accelerator_of(target)
    if not xdev.same_hardware(here, there):
        pytest.skip(f"{here} and {there} are different hardware")
    for number in range(20):
        x = busy(here) * number
        moved = xdev.to_device(x, there)
        assert xdev.device_of(moved) is there
        assert_equal(xdev.to_numpy(moved), np.full((1024, 1024), number, np.float32))


@GPU
@pytest.mark.parametrize("target", ["cupy", "jax"])
def test_a_stream_of_the_callers_own_is_waited_for(target):
    import torch

    here, there = accelerator_of("torch"), accelerator_of(target)
    for number in range(20):
        with torch.cuda.stream(torch.cuda.Stream(here.native)):
            moved = xdev.to_device(busy(here) * number, there)
        assert_equal(xdev.to_numpy(moved), np.full((1024, 1024), number, np.float32))


@GPU
def test_torch_and_cupy_share_memory_and_jax_has_its_own():
    here = accelerator_of("torch")
    x = here.xp.zeros(100)
    for target, shared in (("cupy", True), ("jax", False)):
        there = accelerator_of(target)
        if not xdev.same_hardware(here, there):
            continue
        moved = xdev.to_device(x, there)
        x += 1
        xdev.synchronize(x)
        assert (float(xdev.to_numpy(moved)[0]) == float(x[0])) is shared


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_host_memory_is_not_shared_with_an_accelerator(framework):
    device = accelerator_of(framework)
    with pytest.raises(xdev.CopyRequiredError, match="different hardware"):
        xdev.to_device(np.ones(3), device, copy=False)
    torch_cpu = "torch:cpu" if "torch" in xdev.backends() else "numpy"
    leaves = [xdev.to_device(np.ones(3) * n, torch_cpu) for n in range(20)]
    assert_equal(xdev.to_numpy(xdev.to_device(leaves, device, dtype="float32"))[19], np.full(3, 19, np.float32))
