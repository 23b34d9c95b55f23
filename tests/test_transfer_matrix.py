"""Every device to every other, every dtype, every layout: what arrives, what is shared, and what the table says."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import xdev

from . import arrays
from .arrays import DTYPES, LAYOUTS, on
from .outcomes import is_written_through, outcome

COPIES = (None, True, False)


def crossings(device):
    """The devices of the fixture's framework, each with every device of this machine."""
    found = arrays.devices()
    return [(source, target) for source in found if source.backend is device.backend for target in found]


def each(device, dtype):
    """Everything that the matrix says of a framework's arrays of a dtype."""
    for source, target in crossings(device):
        for layout in LAYOUTS:
            for copy in COPIES:
                yield source, target, dtype, layout, copy


def described(source, target, dtype, layout, copy):
    return f"{source} to {target}, {dtype}, {layout}, copy={copy}"


def outcomes(device, dtype):
    """Yield the outcome of each, and fail with all that went wrong."""
    wrong = []
    for cell in each(device, dtype):
        try:
            found = outcome(*cell)
        except Exception as error:  # noqa: BLE001  whatever it is, it is said of which cell
            wrong.append(f"{described(*cell)}: {type(error).__name__}: {error}")
            continue
        if found is not None:
            yield cell, found
    assert not wrong, "\n".join([f"{len(wrong)} of them:", *wrong[:20]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_right_values_arrive_or_an_error_says_why(device, dtype):
    wrong = []
    for (source, target, _, layout, copy), found in outcomes(device, dtype):
        pair = source.backend.name, target.backend.name
        if source is target:
            fits = found == ("copy" if copy else "same")
        elif dtype in arrays.LACKS[target.backend.name]:
            fits = found == "DTypeError"
        elif copy is None:
            fits = found in ("copy", "empty") or (found == "view" and set(pair) == {"numpy", "torch"})
        elif copy:
            fits = found == "copy"
        else:
            fits = found in ("view", "CopyRequiredError", "empty")
        if not fits:
            wrong.append(f"{described(source, target, dtype, layout, copy)}: {found}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copy_is_not_written_through(device, dtype):
    wrong = [
        described(*cell)
        for cell, found in outcomes(device, dtype)
        if cell[-1] and found == "copy" and is_written_through(*cell[:4])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_layouts_move_in_one_tree(device, dtype):
    """Trees of many leaves may take quicker ways, which must come to the same."""
    for source, target in crossings(device):
        if dtype in arrays.LACKS[target.backend.name]:
            continue
        for copy in (None, True):
            made = {name: arrays.case(source, dtype, name) for name in LAYOUTS}
            made = {name: case for name, case in made.items() if case is not None}
            again = {f"{name} again": arrays.case(source, dtype, name) for name in made}
            both = made | again
            moved = xdev.to_device({name: case.x for name, case in both.items()}, target, copy=copy)
            for name, case in both.items():
                arrays.write(case.base, source)
                what = described(source, target, dtype, name, copy)
                alone = outcome(source, target, dtype, name.removesuffix(" again"), copy)
                assert on(moved[name]) is target, what
                assert tuple(moved[name].shape) == case.expected.shape, what
                if alone == "copy":
                    assert arrays.numbers(moved[name]) == case.expected.tolist(), what


# -- the table in the documentation --------------------------------------------------------------------

spec = importlib.util.spec_from_file_location(
    "transfer_table", Path(__file__).parents[1] / "docs" / "transfer_table.py"
)
transfer_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(transfer_table)
WRITE_AGAIN = "run `python docs/transfer_table.py`"


def written():
    return transfer_table.cells_of(transfer_table.PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_table_says_what_happens_to_a_dtype(device, dtype):
    cells = written()
    for source, target in crossings(device):
        cell = transfer_table.by_dtype(source, target, dtype)
        assert cells[dtype, str(source), str(target)] == cell, WRITE_AGAIN


def test_the_table_says_what_happens_to_a_layout(device):
    cells = written()
    for source, target in crossings(device):
        for layout in LAYOUTS:
            cell = transfer_table.by_layout(source, target, layout)
            shown = cells.get((f"From {source}", layout, str(target)))
            if source is not target and shown is None:
                assert "view" not in cell, f"{source} to {target}, {layout}: {cell}; {WRITE_AGAIN}"
            elif source is not target:
                assert shown == cell, f"{source} to {target}, {layout}; {WRITE_AGAIN}"


def test_the_table_is_as_it_is_written():
    if len(arrays.devices()) < len(arrays.DEVICES):
        pytest.skip("it has devices that this machine has not")
    assert transfer_table.page() == transfer_table.PAGE.read_text(encoding="utf-8"), WRITE_AGAIN


# -- no copy -----------------------------------------------------------------------------------------


def test_large_arrays_are_shared_by_numpy_and_torch():
    torch = pytest.importorskip("torch")
    x = np.zeros(64 * 2**20 // 4, np.float32)
    for copy in (None, False):
        shared = xdev.to_device(x, "torch:cpu", copy=copy)
        assert shared.data_ptr() == x.ctypes.data
        assert xdev.to_numpy(shared, copy=copy).ctypes.data == x.ctypes.data
    y = torch.zeros(64 * 2**20 // 4)
    for copy in (None, False):
        assert xdev.to_numpy(y, copy=copy).ctypes.data == y.data_ptr()
        assert xdev.to_numpy([y], copy=copy)[0].ctypes.data == y.data_ptr()


def aligned(count, offset=0):
    """An array of float32 that begins so many bytes after a multiple of 64."""
    memory = np.zeros(4 * count + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    return memory[start : start + 4 * count].view(np.float32)


@pytest.mark.parametrize("other", ["numpy", "torch:cpu"])
def test_copy_false_shares_with_jax_what_is_aligned(other):
    for name in ("jax", other.partition(":")[0]):
        pytest.importorskip(name)
    x = xdev.to_device(aligned(2**20), other)
    shared = xdev.to_device(x, "jax:cpu:0", copy=False)
    assert shared.unsafe_buffer_pointer() == xdev.backend_of(x).pointer(x)
    with pytest.raises(xdev.CopyRequiredError, match="JAX shares contiguous memory aligned to 64 bytes only"):
        xdev.to_device(xdev.to_device(aligned(2**20, 4), other), "jax:cpu:0", copy=False)


def test_copy_false_shares_what_jax_has_with_numpy_to_read():
    jax = pytest.importorskip("jax")
    x = jax.device_put(np.ones(2**20, np.float32), jax.devices("cpu")[0])
    shared = xdev.to_device(x, "numpy", copy=False)
    assert shared.ctypes.data == x.unsafe_buffer_pointer()
    assert not shared.flags.writeable
    assert xdev.to_numpy(x).ctypes.data != x.unsafe_buffer_pointer()
    assert xdev.to_numpy(x).flags.writeable


# -- JAX copies late, and aliases where it documents a copy --------------------------------------------

TIMES = 500


@pytest.mark.parametrize("offset", [0, 4], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("copy", [True, None])
@pytest.mark.parametrize("other", ["numpy", "torch:cpu"])
def test_what_is_written_after_a_copy_into_jax_does_not_arrive(other, copy, offset):
    for name in ("jax", other.partition(":")[0]):
        pytest.importorskip(name)
    x = xdev.to_device(aligned(65536, offset), other)
    for time in range(TIMES):
        x[...] = time
        moved = xdev.to_device(x, "jax:cpu:0", copy=copy)
        x[...] = -1
        assert (np.asarray(moved) == time).all(), f"the time numbered {time}"


@pytest.mark.parametrize("target", ["jax:cpu:0", "jax:cpu:1"])
def test_what_is_written_after_a_copy_within_jax_does_not_arrive(target):
    """An array of JAX may itself stand on NumPy's memory, if `copy=False` was said."""
    pytest.importorskip("jax")
    if target not in xdev.devices():
        pytest.skip(f"there is no {target}")
    x = aligned(65536)
    for time in range(TIMES):
        x[...] = time
        shared = xdev.to_device(x, "jax:cpu:0", copy=False)
        moved = xdev.to_device(shared, target, copy=True)
        x[...] = -1
        assert (np.asarray(moved) == time).all(), f"the time numbered {time}"


@pytest.mark.parametrize("target", ["numpy", "torch:cpu"])
def test_what_is_written_into_a_copy_out_of_jax_stays_there(target):
    jax = pytest.importorskip("jax")
    if target != "numpy":
        pytest.importorskip("torch")
    x = jax.device_put(np.ones(65536, np.float32), jax.devices("cpu")[0])
    for copy in (True, None):
        for time in range(TIMES // 2):
            moved = xdev.to_device(x, target, copy=copy)
            moved[...] = time
        assert (np.asarray(x) == 1).all()
