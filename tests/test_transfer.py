"""Moving arrays and trees: values, dtypes, sharing, structure, and the errors; every backend to every other."""

import ml_dtypes
import numpy as np
import pytest

import xdev
from xdev.contract import dtype_name
from xdev.device import device_of_array, native_of

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = ("bool", *INTEGERS, "float16", "bfloat16", "float32", "float64", "complex64", "complex128")
LAYOUTS = {
    "whole": lambda xp, x: x,
    "transposed": lambda xp, x: xp.permute_dims(x, (1, 0)),
    "strided": lambda xp, x: x[::2, 1::2],
    "broadcast": lambda xp, x: xp.broadcast_to(x[:1, :], (3, 6)),
    "a row": lambda xp, x: x[1, :],
    "0-d": lambda xp, x: x[1, 2],
    "empty": lambda xp, x: x[:0, :],
}


def host_values(dtype, shape=(4, 6)):
    """Numbers that every dtype holds exactly, some negative where there is a sign."""
    wanted = np.dtype(getattr(ml_dtypes, dtype, dtype))
    numbers = np.arange(np.prod(shape)).reshape(shape) % 13
    if not dtype.startswith("u") and dtype != "bool":
        numbers = numbers - 6
    values = numbers.astype(wanted)
    return values * wanted.type(1 + 2j) if wanted.kind == "c" else values


def targets():
    return xdev.devices()


def read(x):
    """Pull an array to the host by the contract alone."""
    backend, native = native_of(x)
    return backend.to_host(native)


def on(x):
    return device_of_array(*native_of(x))


def same_bits(a, b):
    assert dtype_name(a.dtype) == dtype_name(b.dtype)
    assert tuple(a.shape) == tuple(b.shape)
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def make(device, dtype, shape=(4, 6)):
    """An array with the numbers of `host_values`, or skip if the device holds none such."""
    if not device.backend.holds(dtype, device.info) and not (device.is_host and dtype == "bfloat16"):
        pytest.skip(f"{device} holds no {dtype}")
    values = host_values(dtype, shape)
    return values if device.is_host else device.backend.place(values, device.info, True)


# -- every backend to every other --------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_dtypes_arrive_or_an_error_says_why(device, dtype, layout):
    x = LAYOUTS[layout](device.xp, make(device, dtype))
    expected = LAYOUTS[layout](np, host_values(dtype))
    for target in targets():
        if target is not device and not target.backend.holds(dtype, target.info):
            with pytest.raises(xdev.DTypeError, match=f"the array is {dtype}, which {target} cannot hold; "):
                xdev.to_device(x, target)
            continue
        moved = xdev.to_device(x, target)
        assert on(moved) is target
        same_bits(read(moved), np.asarray(expected))
        if target is device:
            assert moved is x


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_shares_nothing(device, layout):
    for target in targets():
        x = LAYOUTS[layout](device.xp, make(device, "float32"))
        if layout == "broadcast":
            expected = np.array(read(x))
            assert (read(xdev.to_device(x, target, copy=True)) == expected).all()
            continue
        copied = xdev.to_device(x, target, copy=True)
        assert copied is not x
        if device.backend.capabilities.mutable and not isinstance(x, np.generic):
            expected = np.array(read(x))
            x[...] = 77.0
            same_bits(read(copied), expected)
        if target.backend.capabilities.mutable and not isinstance(copied, np.generic):
            before = np.array(read(x))
            with target.scope():
                copied[...] = -88.0
            same_bits(read(x), before)


def test_a_large_copy_is_done_before_the_source_is_written(device):
    """JAX copies asynchronously, and aliases memory that is aligned to 64 bytes where it documents a copy."""
    for target in targets():
        for copy in (True, None):
            for _ in range(3):
                x = make(device, "float32", (65536,))
                expected = np.array(read(x))
                moved = xdev.to_device(x, target, copy=copy)
                if device.backend.capabilities.mutable and (copy or not target.backend.capabilities.mutable):
                    x[...] = 77.0
                    same_bits(read(moved), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copy_false_shares_or_raises(device, layout):
    for target in targets():
        x = LAYOUTS[layout](device.xp, make(device, "float32"))
        try:
            shared = xdev.to_device(x, target, copy=False)
        except xdev.CopyRequiredError as error:
            refused = str(error)
        else:
            refused = ""
        if refused:
            assert refused.startswith("the array cannot be shared: ")
            assert refused.endswith("; leave out copy=False")
            assert target is not device
            continue
        if target is device:
            assert shared is x
        same_bits(read(shared), np.asarray(LAYOUTS[layout](np, host_values("float32"))))
        writable = device.backend.capabilities.mutable and not isinstance(x, np.generic)
        if 0 not in x.shape and writable and layout != "broadcast":
            x[...] = 77.0
            assert (read(shared) == 77.0).all()


def test_copy_none_never_lets_one_side_write_what_the_other_thinks_immutable(device):
    for target in targets():
        mutable = device.backend.capabilities.mutable, target.backend.capabilities.mutable
        if mutable == (True, True) or target is device:
            continue
        x = make(device, "float32", (1024,))
        moved = xdev.to_device(x, target)
        for written, other, may_write in ((x, moved, mutable[0]), (moved, x, mutable[1])):
            if may_write:
                before = np.array(read(other))
                with on(written).scope():
                    written[...] = 77.0
                same_bits(read(other), before)


def test_numpy_and_mutable_frameworks_on_a_cpu_may_share(device):
    if device.hardware != "cpu" or not device.backend.capabilities.mutable:
        pytest.skip("its memory is its own")
    x = make(device, "float32")
    pulled = xdev.to_numpy(x)
    x[...] = 77.0
    assert (pulled == 77.0).all()
    snapshot = xdev.to_numpy(x, copy=True)
    x[...] = 88.0
    assert (snapshot == 77.0).all()


# -- NumPy's special arrays --------------------------------------------------------------------------


def read_only(x):
    x.flags.writeable = False
    return x


SPECIAL = {
    "read-only": lambda: read_only(host_values("float32")),
    "reversed": lambda: host_values("float32")[::-1, ::-2],
    "big-endian": lambda: host_values("float32").astype(">f4"),
    "big-endian complex": lambda: host_values("complex64").astype(">c8"),
    "broadcast": lambda: np.broadcast_to(np.float32([1, 2]), (3, 2)),
    "Fortran order": lambda: np.asfortranarray(host_values("float32")),
    "0-d": lambda: np.array(3.0, np.float32),
    "scalar": lambda: np.float32(3.0),
    "no rows": lambda: np.zeros((0, 3), np.float32),
    "a subclass": lambda: host_values("float32").view(np.matrix),
    "unaligned": lambda: np.frombuffer(b"\x00" + host_values("float32").tobytes(), np.float32, offset=1),
    "odd strides": lambda: np.zeros(4, [("a", "u1"), ("b", "f4")])["b"],
    "memory map": lambda: np.memmap("/dev/zero", np.float32, "r", shape=(3,)),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", SPECIAL)
def test_numpys_special_arrays_arrive(device, name):
    x = SPECIAL[name]()
    expected = np.array(x, dtype=x.dtype.newbyteorder("="))
    for copy in (None, True):
        moved = xdev.to_device(x, device, copy=copy)
        if device.is_host:
            assert (moved is x) == (copy is None)
        else:
            same_bits(read(moved), expected)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", SPECIAL)
def test_numpys_special_arrays_are_not_shared_where_that_is_unsafe(device, name):
    x = SPECIAL[name]()
    if device.is_host:
        assert xdev.to_device(x, device, copy=False) is x
        return
    safe = name in ("Fortran order", "0-d", "no rows", "a subclass", "unaligned")
    try:
        shared = xdev.to_device(x, device, copy=False)
    except xdev.CopyRequiredError:
        return
    assert safe
    assert x.size == 0 or device.backend.pointer(shared) == x.ctypes.data


def test_a_read_only_array_is_not_made_writable(device):
    x = read_only(np.zeros(1024, np.float32))
    moved = xdev.to_device(x, device)
    if device.backend.capabilities.mutable and not device.is_host:
        with device.scope():
            moved[...] = 1.0
    assert (x == 0.0).all()


BAD_DTYPES = {
    "strings": np.array(["a", "b"]),
    "bytes": np.array([b"a"]),
    "objects": np.array([1, "a"], dtype=object),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "records": np.zeros(2, [("a", "f4"), ("b", "i4")]),
}


@pytest.mark.parametrize("name", BAD_DTYPES)
def test_what_is_no_number_does_not_move(device, name):
    x = BAD_DTYPES[name]
    text = "has dtype .*, which is none of numbers and cannot be moved; turn it into numbers first"
    with pytest.raises(xdev.DTypeError, match=rf"tree\['x'\] {text}"):
        xdev.to_device({"x": x}, device)
    for move in (
        lambda: xdev.to_device(x, device),
        lambda: xdev.to_device(x, device, copy=True),
        lambda: xdev.to_device(x[:1], device),
        lambda: xdev.asarray(x, device=device),
    ):
        with pytest.raises(xdev.DTypeError, match=f"the array {text}"):
            move()


@pytest.mark.parametrize("name", BAD_DTYPES)
def test_what_is_no_number_is_refused_on_the_host_too(name):
    for take in (xdev.asarray, xdev.to_numpy, lambda x: xdev.to_device(x, "numpy"), lambda x: xdev.item(x[-1:])):
        with pytest.raises(xdev.DTypeError, match=r"the array has dtype .*, which is none of numbers"):
            take(BAD_DTYPES[name])


@pytest.mark.parametrize("dtype", [*DTYPES, "longdouble", "int4", "float8_e5m2"])
def test_numbers_of_any_dtype_stay_on_the_host(dtype):
    x = np.ones(3).astype(getattr(ml_dtypes, dtype, dtype))
    assert xdev.to_device(x, "numpy") is x
    assert xdev.to_numpy({"x": x})["x"] is x


def test_a_masked_array_does_not_lose_its_mask(device):
    with pytest.raises(xdev.TransferError, match=r"tree\['x'\] is a masked array: fill it first, x.filled\(0\)"):
        xdev.to_device({"x": np.ma.masked_array([1.0, 2.0], [True, False])}, device)


def test_what_leaves_a_pretended_device_shares_nothing_with_it():
    x = xdev.to_device(np.zeros(3), "strict:device1")
    pulled = xdev.to_numpy(x)
    pulled[0] = 9
    assert xdev.to_numpy(x)[0] == 0
