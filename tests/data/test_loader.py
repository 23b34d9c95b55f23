"""The loader: the same batches in the same order on every backend."""

import numpy as np
import pytest

import xdev
from xdev.data import Loader
from xdev.errors import DataError, DTypeError
from xdev.testing import assert_close


def test_batches_are_the_same_everywhere(device):
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    y = np.arange(10, dtype=np.int32)
    here = Loader((x, y), batch_size=4, shuffle=True, seed=3, device=device)
    reference = Loader((x, y), batch_size=4, shuffle=True, seed=3, device="numpy")
    for _ in range(2):
        for batch, expected in zip(here, reference, strict=True):
            assert xdev.device_of(batch) == device
            assert_close(batch, expected, rtol=0, atol=0)


def test_data_on_the_device_is_gathered_there(xp, device):
    x = xp.reshape(xp.arange(20, dtype=xp.float32), (10, 2))
    with xdev.track_transfers() as transfers:
        rows = [xdev.to_numpy(b) for b in Loader(x, batch_size=4, shuffle=True, seed=1)]
    assert sorted(np.concatenate(rows)[:, 0].tolist()) == list(range(0, 20, 2))
    if not device.is_host:
        assert transfers.to_device_bytes == 40  # ten int32 row numbers, and no row


def test_epochs_differ_and_can_be_resumed(device):
    loader = Loader(np.arange(32), batch_size=32, shuffle=True, seed=0, device=device)
    first, second = (xdev.to_numpy(next(iter(loader))).tolist() for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(32))
    again = Loader(np.arange(32), batch_size=32, shuffle=True, seed=0, device=device)
    again.epoch = 1
    assert xdev.to_numpy(next(iter(again))).tolist() == second


def test_last_batch_is_smaller_or_left_out():
    assert [len(b) for b in Loader(np.arange(10), batch_size=4)] == [4, 4, 2]
    assert len(Loader(np.arange(10), batch_size=4)) == 3
    assert [len(b) for b in Loader(np.arange(10), batch_size=4, drop_last=True)] == [4, 4]
    assert len(Loader(np.arange(10), batch_size=4, drop_last=True)) == 2
    assert [len(b) for b in Loader(np.arange(10))] == [10]


def test_lists_of_numbers_are_arrays(device):
    loader = Loader({"x": [[1.0, 2.0], [3.0, 4.0]], "y": [0, 1]}, batch_size=1, device=device)
    batch = next(iter(loader))
    assert tuple(batch["x"].shape) == (1, 2)
    assert tuple(batch["y"].shape) == (1,)


def test_floats_are_cast_to_the_models_dtype_and_it_says_so(device):
    loader = Loader((np.ones((4, 2)), np.arange(4)), batch_size=2, device=device, dtype="float32")
    x, _ = next(iter(loader))
    assert x.dtype == device.xp.float32
    assert "data[0]: float64 cast to float32" in loader.notes


def test_integers_that_fit_are_narrowed_where_the_device_has_no_64_bits(device):
    narrow = not device.backend.holds("int64", device.info)
    loader = Loader(np.arange(4), batch_size=2, device=device)
    assert loader.notes == (["data: int64 cast to int32"] if narrow else [])
    if narrow:
        with pytest.raises(DTypeError, match=r"data has values from 0 to 1099511627776, and .* do not fit int32"):
            Loader(np.asarray([0, 2**40]), device=device)


@pytest.mark.parametrize(
    ("data", "kwargs", "text"),
    [
        (
            {"x": np.ones((4, 2)), "y": np.ones(3)},
            {},
            r"leading axes disagree: data\['x'\] has length 4, data\['y'\] has 3",
        ),
        ((), {}, "data is an empty tuple"),
        (np.ones((0, 2)), {}, "data has length 0"),
        (np.float32(3), {}, "data is a single number; every array of the data needs a leading axis"),
        (np.ones(4), {"batch_size": 5}, "batch_size=5 is more than the 4 rows of the data; use at most 4"),
        (np.ones(4), {"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        (np.ones(4), {"batch_size": 2.0}, "batch_size must be a positive integer, got 2.0"),
        (np.ones(4), {"batch_size": True}, "batch_size must be a positive integer, got True"),
        ({"x": np.ones(4), "s": "abc"}, {}, "data holds a str"),
    ],
)
def test_bad_data_is_told(data, kwargs, text):
    with pytest.raises(DataError, match=text):
        Loader(data, **kwargs)


def test_data_on_several_devices_is_told():
    with pytest.raises(xdev.DeviceMismatchError, match=r"data\[0\] is on numpy:cpu:0; data\[1\] is on strict"):
        Loader((np.ones(4), xdev.device("strict").xp.ones(4)))
