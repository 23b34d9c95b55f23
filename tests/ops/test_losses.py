"""What losses refuse, and what becomes of labels that cannot be looked at."""

import re

import numpy as np
import pytest

import xdev
from xdev import ops
from xdev.errors import ArrayTypeError, ConfigurationError, DataError, DTypeError
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


@pytest.mark.parametrize("shape", [(0, 10), (2, 0, 10)])
def test_no_positions_have_no_mean(shape, device):
    x, labels = put(np.ones(shape, "float32"), device), put(np.ones(shape[:-1], "int32"), device)
    cases = {
        "cross_entropy of no positions has no mean: logits have": lambda: ops.cross_entropy(x, labels),
        "mse of no positions has no mean: prediction and target have": lambda: ops.mse(x, x),
        "binary_cross_entropy_with_logits of no positions has no mean: logits and targets have": lambda: (
            ops.binary_cross_entropy_with_logits(x, x)
        ),
    }
    for text, loss in cases.items():
        for call in (loss, xdev.jit(loss), lambda loss=loss: xdev.grad(lambda _: loss())(x)):
            with pytest.raises(DataError, match=f"^{text} shape {re.escape(str(shape))}; leave empty batches out"):
                call()


def test_no_classes(device):
    x, labels = put(np.ones((2, 0), "float32"), device), put(np.zeros(2, "int32"), device)
    text = "cross_entropy takes logits (..., classes) of at least one class, got shape (2, 0)"
    with pytest.raises(DataError, match=re.escape(text)):
        ops.cross_entropy(x, labels)


@pytest.mark.parametrize("n", [0, -1, 2.0, "a", None, True])
def test_the_length_of_one_hot(n, device):
    text = f"one_hot takes n, the length of the new axis, as a positive int, got {n!r}"
    with pytest.raises(ConfigurationError, match=f"^{re.escape(text)}$"):
        ops.one_hot(put(np.zeros(2, "int32"), device), n)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_more_classes_than_the_labels_dtype_holds(dtype, device):
    n, labels = 300, np.asarray([0, 1, 44], dtype)
    hot = ops.one_hot(put(labels, device), np.int64(n))
    assert (xdev.to_numpy(hot) == np.eye(n, dtype="float32")[labels]).all()
    logits = np.random.default_rng(0).normal(size=(3, n)).astype("float32")
    expected = ops.cross_entropy(logits, labels.astype("int64"))
    assert_close(ops.cross_entropy(put(logits, device), put(labels, device)), expected, rtol=1e-6)


UNSEEN = {
    "int32": [1, 7, -1, -9],
    "int8": [1, 100, -1, -128],
    "uint8": [1, 3, 255, 128],
    "uint64": [1, 2**32, 2**32 + 1, 2**63],
}
"""Indices of which the first alone is in [0, 3), though others look like it once they have lost their higher bits."""


@pytest.mark.parametrize("dtype", UNSEEN)
@pytest.mark.parametrize("how", ["on a device", "under jit"])
def test_indices_that_nobody_looks_at(how, dtype, device):
    """What becomes of indices out of range on accelerators and under compilation."""
    if not device.backend.holds(dtype, device.info):
        pytest.skip(f"no {dtype} there")
    compile_ = xdev.jit if how == "under jit" else lambda f: f
    indices = put(np.asarray(UNSEEN[dtype], dtype), device)
    table = put(np.arange(1, 7, dtype="float32").reshape(3, 2), device)
    try:
        hot = compile_(lambda x: ops.one_hot(x, 3))(indices)
        rows = compile_(ops.embedding)(table, indices)
    except DataError as error:
        assert "must be in [0, 3)" in str(error)  # noqa: PT017  the CPU looks
        assert device.kind == "cpu" or device.hardware == "cpu"
        return
    assert xdev.to_numpy(hot).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    rows = xdev.to_numpy(rows)
    assert rows[0].tolist() == [3, 4]
    assert np.isnan(rows[1:]).all()
    whole = put(np.ones((3, 2), "int32"), device)
    assert xdev.to_numpy(compile_(ops.embedding)(whole, indices)).tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]

    def loss(table, indices):
        xp = xdev.namespace(table)
        rows = ops.embedding(table, indices)
        return xp.sum(xp.where(xp.isnan(rows), xp.zeros_like(rows), rows))

    gradient = compile_(xdev.grad(loss))(table, indices)
    assert xdev.to_numpy(gradient).tolist() == [[0, 0], [1, 1], [0, 0]]


def test_a_table_without_rows(device):
    table, indices = device.xp.ones((0, 2)), put(np.zeros(2, "int32"), device)
    text = "indices must be in" if device.kind == "cpu" else "embedding takes a weight of at least one row, got shape"
    with pytest.raises(DataError, match=text):
        ops.embedding(table, indices)
    assert tuple(ops.embedding(table, indices[:0]).shape) == (0, 2)


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
