"""Moving arrays: NumPy's special arrays, what is no number, and what the host and pretended devices share."""

import numpy as np
import pytest

import xdev

from .arrays import DTYPES, host_dtype, host_values, read, same_bits

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
    x = np.ones(3).astype(host_dtype(dtype))
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


@pytest.mark.xdev_backends(exclude=("numpy",), reason="the host's own")
def test_a_snapshot_of_the_host_does_not_change(device):
    x = device.backend.place(host_values("float32"), device.info, True)
    snapshot = xdev.to_numpy(x, copy=True)
    assert snapshot.flags.writeable
    if device.backend.capabilities.mutable:
        with device.scope():
            x[...] = 88.0
    same_bits(snapshot, host_values("float32"))


def test_what_is_read_from_strict_is_shared_only_to_be_read():
    x = xdev.to_device(np.zeros(3), "strict:cpu")
    xdev.to_numpy(x)[0] = 9
    assert xdev.to_numpy(x)[0] == 0
    shared = xdev.to_numpy(x, copy=False)
    x[0] = 7.0
    assert shared[0] == 7
    assert not shared.flags.writeable


@pytest.mark.parametrize(
    ("values", "dtype", "text"),
    [
        ([70000], "float16", "has 70000, which float16 cannot hold"),
        ([1e20], "int32", r"has 1e\+20, which int32 cannot hold"),
        ([float("nan")], "int32", "has nan, which int32 cannot hold"),
        ([-1.0], "uint8", r"has -1\.0, which uint8 cannot hold"),
        ([1j], "float32", r"has 1j, which float32 cannot hold"),
    ],
)
def test_numbers_are_only_rounded(values, dtype, text):
    with pytest.raises(xdev.DTypeError, match=text):
        xdev.asarray(values, dtype=dtype, device="numpy")


def test_numbers_that_fit_another_kind():
    assert xdev.asarray([2.7, -2.7], dtype="int8", device="numpy").tolist() == [2, -2]
    assert xdev.asarray([1 + 0j], dtype="float32", device="numpy").tolist() == [1.0]
    assert xdev.asarray([True, False], dtype="int8", device="numpy").tolist() == [1, 0]
    assert xdev.asarray([0.5, 0.0], dtype="bool", device="numpy").tolist() == [True, False]
    assert xdev.asarray([2**63], dtype="uint64", device="numpy").tolist() == [2**63]


def test_numbers_in_a_dtype_that_numpy_lacks():
    with pytest.raises(xdev.DTypeError, match="bfloat16, which numpy:cpu:0 cannot hold"):
        xdev.asarray([1.5], dtype="bfloat16", device="numpy")
    with xdev.precision("bfloat16"), pytest.raises(xdev.DTypeError, match="bfloat16, which numpy:cpu:0 cannot hold"):
        xdev.to_device([1.5], "numpy")


def test_arrays_are_cast_on_the_host_to_what_the_device_holds(device):
    if device.is_host or not device.backend.holds("bfloat16", device.info):
        pytest.skip("no bfloat16 there")
    moved = xdev.to_device(np.asarray([1.0, 3.0]), device, dtype="bfloat16")
    assert "bfloat16" in str(moved.dtype)
    assert xdev.to_numpy(xdev.to_device(moved, device, dtype="float32")).tolist() == [1.0, 3.0]


def test_a_cast_that_a_framework_does_not_know_is_told():
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(xdev.DTypeError, match="the array is complex64, which strict does not cast to float32"):
        xdev.to_device(strict.asarray([1j], dtype=strict.complex64), "strict", dtype="float32")
