"""Creation on a device: whichever function of the standard it is, no array of the host is made on the way."""

import gc
import math
import tracemalloc

import pytest

import xdev
from xdev.device import device_of_array
from xdev.namespaces import CREATION

ROWS, COLUMNS = 1024, 1024
NBYTES = ROWS * COLUMNS * 4
FAR_BELOW = NBYTES // 4
"""Bytes that Python and NumPy may take meanwhile: their objects, and what a framework needs to compile."""

CREATE = {
    "arange": lambda xp, x: xp.arange(ROWS * COLUMNS, dtype=xp.float32),
    "asarray": lambda xp, x: xp.asarray(x),
    "asarray, copied": lambda xp, x: xp.asarray(x, copy=True),
    "empty": lambda xp, x: xp.empty((ROWS, COLUMNS), dtype=xp.float32),
    "empty_like": lambda xp, x: xp.empty_like(x),
    "eye": lambda xp, x: xp.eye(ROWS, COLUMNS, dtype=xp.float32),
    "from_dlpack": lambda xp, x: xp.from_dlpack(x),
    "full": lambda xp, x: xp.full((ROWS, COLUMNS), 2.5, dtype=xp.float32),
    "full_like": lambda xp, x: xp.full_like(x, 2.5),
    "linspace": lambda xp, x: xp.linspace(0.0, 1.0, ROWS * COLUMNS, dtype=xp.float32),
    "meshgrid": lambda xp, x: xp.meshgrid(x[0, :], x[:, 0])[1],
    "ones": lambda xp, x: xp.ones((ROWS, COLUMNS), dtype=xp.float32),
    "ones_like": lambda xp, x: xp.ones_like(x),
    "tril": lambda xp, x: xp.tril(x),
    "triu": lambda xp, x: xp.triu(x, k=1),
    "zeros": lambda xp, x: xp.zeros((ROWS, COLUMNS), dtype=xp.float32),
    "zeros_like": lambda xp, x: xp.zeros_like(x),
}


def where(x):
    return device_of_array(xdev.backend_of(x), x)


def created(name, xp, x):
    """An array of 4 MiB on the namespace's device, of one that is there."""
    made = CREATE[name](xp, x)
    xdev.synchronize(made)
    assert math.prod(made.shape) * 4 == NBYTES
    assert made.dtype == xp.float32
    return made


def test_every_creation_function_has_a_case():
    names = {name.partition(",")[0] for name in CREATE}
    assert names >= CREATION
    assert names >= {"empty_like", "full_like", "meshgrid", "ones_like", "tril", "triu", "zeros_like"}


@pytest.mark.xdev_backends(exclude=("numpy", "strict"), reason="its arrays are themselves the host's", scoped=False)
@pytest.mark.parametrize("name", CREATE)
def test_no_host_array_is_made_on_the_way(device, xp, name):
    """NumPy tells Python's tracer of its memory, and the frameworks' own is no matter of it."""
    with device.scope():
        x = xp.ones((ROWS, COLUMNS), dtype=xp.float32)
        created(name, xp, x)  # what is compiled and looked up the first time
    gc.collect()
    tracemalloc.start()
    try:
        with device.scope():
            made = created(name, xp, x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert where(made) is device
    assert peak < FAR_BELOW, f"{peak:,} bytes"


def test_the_tracer_would_see_a_host_array(device, xp):
    """Else the test above would show nothing."""
    x = xp.ones((ROWS, COLUMNS), dtype=xp.float32)
    tracemalloc.start()
    try:
        xdev.to_device(xdev.to_numpy(x, copy=True), device, copy=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak >= NBYTES


@pytest.mark.xdev_backends(scoped=False)
@pytest.mark.parametrize("name", CREATE)
def test_nothing_crosses(device, xp, name):
    with device.scope():
        x = xp.ones((ROWS, COLUMNS), dtype=xp.float32)
        with xdev.budget(to_host=0, to_device=0, between_devices=0), xdev.track_transfers() as transfers:
            made = created(name, xp, x)
    assert where(made) is device
    assert transfers.records == []


@pytest.mark.xdev_backends(scoped=False)
@pytest.mark.parametrize("name", CREATE)
def test_it_lands_on_the_namespaces_device_whatever_device_is_current(backend, name):
    listed = [xdev.device(f"{backend.name}:{info.kind}:{info.index}") for info in backend.devices() if info.listed]
    for device in listed:
        with device.scope():
            x = device.xp.ones((ROWS, COLUMNS), dtype=device.xp.float32)
            columns = x[0, :], x[:, 0]
        for current in listed:
            with current.scope():
                made = device.xp.meshgrid(*columns)[1] if name == "meshgrid" else created(name, device.xp, x)
                assert where(made) is device, f"{current} is current"


def test_a_device_without_memory_creates_what_no_host_could_hold():
    """torch's meta device has shapes alone: 4 TiB cannot have been elsewhere."""
    pytest.importorskip("torch")
    device = xdev.device("torch:meta")
    xp, rows = device.xp, 2**20
    x = xp.ones((rows, rows), dtype=xp.float32)
    for made in (
        x,
        xp.arange(rows * rows, dtype=xp.float32),
        xp.asarray(x),
        xp.asarray(x, copy=True),
        xp.empty((rows, rows)),
        xp.empty_like(x),
        xp.eye(rows),
        xp.full((rows, rows), 2.5),
        xp.full_like(x, 2.5),
        xp.linspace(0.0, 1.0, rows * rows),
        xp.meshgrid(x[0, :], x[:, 0])[0],
        xp.ones_like(x),
        xp.tril(x),
        xp.triu(x),
        xp.zeros((rows, rows)),
        xp.zeros_like(x),
    ):
        assert where(made) is device
        assert made.nbytes == 4 * rows * rows
