"""What losses refuse, and what becomes of labels that cannot be looked at."""

import re

import numpy as np
import pytest

import xdev
from xdev import ops
from xdev.errors import ArrayTypeError, DataError, DTypeError
from xdev.testing import assert_close

LOGITS = np.random.default_rng(0).normal(size=(4, 10)).astype("float32")
LABELS = np.asarray([1, 9, 0, 3], "int32")


def put(x, device):
    return xdev.asarray(x, device=device)


def has_no_unsigned(device, dtype):
    return not device.backend.holds(dtype, device.info)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_labels_of_any_integer_dtype(dtype, device):
    if has_no_unsigned(device, dtype):
        pytest.skip(f"no {dtype} there")
    expected = ops.cross_entropy(LOGITS, LABELS)
    assert_close(ops.cross_entropy(put(LOGITS, device), put(LABELS.astype(dtype), device)), expected, rtol=1e-6)


def test_shapes_of_labels(device):
    text = "labels have shape (3,), logits (4, 10): expected labels of shape (4,)"
    with pytest.raises(DataError, match=re.escape(text)):
        ops.cross_entropy(put(LOGITS, device), put(LABELS[:3], device))
    with pytest.raises(DataError, match=re.escape("labels have shape (4, 1)")):
        ops.cross_entropy(put(LOGITS, device), put(LABELS[:, None], device))
    with pytest.raises(DataError, match=re.escape("expected logits (..., classes)")):
        ops.cross_entropy(put(LOGITS[0, 0], device), put(LABELS[0], device))


def test_dtypes_of_labels(device):
    text = "cross_entropy takes labels of an integer dtype, got float32; cast labels with xp.astype"
    with pytest.raises(DTypeError, match=text):
        ops.cross_entropy(put(LOGITS, device), put(LABELS.astype("float32"), device))
    with pytest.raises(DTypeError, match="cross_entropy takes logits of a real floating dtype, got int32"):
        ops.cross_entropy(put(LOGITS.astype("int32"), device), put(LABELS.astype("int32"), device))
    with pytest.raises(ArrayTypeError, match="cross_entropy takes labels as an array, got a list"):
        ops.cross_entropy(put(LOGITS, device), [1, 2, 3, 4])


@pytest.mark.parametrize("wrong", [12, 10, -1])
def test_labels_out_of_range_are_named_or_make_everything_nan(wrong, device):
    labels = LABELS.copy()
    labels[3] = wrong
    x, y = put(LOGITS, device), put(labels.astype("int32"), device)
    if device.kind == "cpu":
        with pytest.raises(DataError, match=re.escape(f"labels must be in [0, 10), got {wrong} at index (3,)")):
            ops.cross_entropy(x, y)
        return
    value, gradient = xdev.value_and_grad(lambda x: ops.cross_entropy(x, y))(x)
    assert np.isnan(xdev.item(value))
    assert np.isnan(xdev.to_numpy(gradient)[3]).all()


@pytest.mark.parametrize("wrong", [12, -1])
def test_unchecked_labels_out_of_range_make_loss_and_gradient_nan(wrong, device):
    """What happens under compilation and on accelerators."""
    from xdev.ops._losses import _cross_entropy_op

    if device.is_host:
        pytest.skip("the host's labels are always checked")
    labels = LABELS.copy()
    labels[2] = wrong
    x, y = put(LOGITS, device), put(labels.astype("int32"), device)
    value, gradient = xdev.value_and_grad(lambda x: _cross_entropy_op(x, y, checked=False))(x)
    assert np.isnan(xdev.item(value))
    assert np.isnan(xdev.to_numpy(gradient)[2]).all()
    right = put(LABELS.astype("int32"), device)
    assert_close(_cross_entropy_op(x, right, checked=False), ops.cross_entropy(LOGITS, LABELS), rtol=1e-6)


def test_labels_under_jit(device):
    loss = xdev.jit(lambda x, y: ops.cross_entropy(x, y))
    x = put(LOGITS, device)
    good, bad = put(LABELS.astype("int32"), device), put((LABELS + 5).astype("int32"), device)
    assert_close(loss(x, good), ops.cross_entropy(LOGITS, LABELS), rtol=1e-6)
    try:
        value = loss(x, bad)
    except DataError as error:
        assert str(error) == "labels must be in [0, 10), got 14 at index (1,)"  # noqa: PT017  either is right
    else:
        assert np.isnan(xdev.item(value))


def test_checking_labels_crosses_nothing(device):
    x, y = put(LOGITS, device), put(LABELS.astype("int32"), device)
    with xdev.budget(to_host=0), xdev.track_transfers() as transfers:
        ops.cross_entropy(x, y)
    assert transfers.records == []


def test_mse_broadcasts_nothing(device):
    a, b = put(LOGITS, device), put(LOGITS[:, :1], device)
    text = "mse takes prediction and target of one shape, got (4, 10) and (4, 1); reshape one of them"
    with pytest.raises(DataError, match=re.escape(text)):
        ops.mse(a, b)
    with pytest.raises(DataError, match="binary_cross_entropy_with_logits takes logits and targets of one shape"):
        ops.binary_cross_entropy_with_logits(a, b)
    with pytest.raises(DTypeError, match="mse takes target of a real floating dtype, got int32"):
        ops.mse(a, put(LOGITS.astype("int32"), device))


def test_indices_out_of_range(device):
    if device.kind != "cpu":
        pytest.skip("indices are looked at on CPUs only")
    table, wrong = put(LOGITS, device), put(np.asarray([[0, 1], [4, 0]], "int32"), device)
    with pytest.raises(DataError, match=re.escape("indices must be in [0, 4), got 4 at index (1, 0)")):
        ops.embedding(table, wrong)
    with pytest.raises(DataError, match=re.escape("x must be in [0, 4), got 4 at index (1, 0)")):
        ops.one_hot(wrong, 4)


def test_losses_of_extreme_logits(device):
    x = put(np.asarray([[1e4, -1e4, 0.0], [-1e4, 1e4, -1e4]], "float32"), device)
    assert_close(ops.cross_entropy(x, put(np.asarray([0, 1], "int32"), device)), np.float32(0.0))
    assert_close(ops.cross_entropy(x, put(np.asarray([1, 0], "int32"), device)), np.float32(2e4))
    targets = put(np.asarray([[1, 0, 0.5], [0, 1, 0]], "float32"), device)
    expected = np.float32(np.log(2) / 6)
    assert_close(ops.binary_cross_entropy_with_logits(x, targets), expected)
    gradient = xdev.grad(lambda x: ops.binary_cross_entropy_with_logits(x, targets))(x)
    assert_close(gradient, np.zeros((2, 3), "float32"))


def test_gradient_for_the_target(device):
    a, b = put(LOGITS, device), put(LOGITS + 1, device)
    assert_close(xdev.grad(lambda b: ops.mse(a, b))(b), np.full((4, 10), 2 / 40, "float32"))
