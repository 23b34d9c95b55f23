"""What becomes of one array on its way from a device to another: the same object, a view, a copy, or an error.

Requirements: values, dtype, shape and device are checked on the way, and sharing is found by writing, or by the
address where nothing can be written. The tests of transfers and the table in the documentation are made of this.
"""

from __future__ import annotations

import functools

import xdev
from xdev.contract import dtype_name

from . import arrays


@functools.cache
def outcome(source, target, dtype, layout, copy=None) -> str | None:
    """Move an array of that dtype and layout between two devices, and check all that can be checked.

    Returns
    -------
    str or None
        "same", "view", "copy", or the name of the error; None if the source has no such array.
    """
    made = arrays.case(source, dtype, layout)
    if made is None:
        return None
    wanted = made.expected.tolist()
    assert arrays.numbers(made.x) == wanted, "the array was made wrong"
    refusal = moved = None
    try:
        moved = xdev.to_device(made.x, target, copy=copy)
    except (xdev.DTypeError, xdev.CopyRequiredError) as error:
        refusal = error
    if refusal is not None:
        _check_refusal(refusal, target, dtype, copy)
        return type(refusal).__name__
    if moved is made.x:
        assert source is target
        assert copy is not True
        return "same"
    assert arrays.on(moved) is target, f"it is on {arrays.on(moved)}"
    assert dtype_name(moved.dtype) == dtype, f"it has dtype {moved.dtype}"
    assert tuple(moved.shape) == made.expected.shape, f"it has shape {moved.shape}"
    assert arrays.numbers(moved) == wanted, f"it has {arrays.numbers(moved)}"
    if made.expected.size == 0:
        return "copy" if copy else "empty"
    return "view" if _shares(made, moved, source, target) else "copy"


def _check_refusal(error, target, dtype, copy) -> None:
    text = str(error)
    if isinstance(error, xdev.DTypeError):
        assert dtype in arrays.LACKS[target.backend.name], text
        assert text.startswith(f"the array is {dtype}, which {target} cannot hold; "), text
        assert "dtype=" in text
    else:
        assert copy is False, text
        assert text.startswith("the array cannot be shared: "), text
        assert text.endswith("; leave out copy=False"), text


def _shares(made, moved, source, target) -> bool:
    wanted = made.expected.tolist()
    if arrays.write(made.base, source):
        return bool(arrays.numbers(moved) != wanted)
    if arrays.write(moved, target):
        assert arrays.numbers(made.x) == wanted, "an immutable array was written through its copy"
    return bool(source.backend.pointer(made.x) == target.backend.pointer(moved))


def is_written_through(source, target, dtype, layout) -> bool:
    """Return whether writing into what `copy=True` gives changes the array that it was made of."""
    made = arrays.case(source, dtype, layout)
    moved = xdev.to_device(made.x, target, copy=True)
    return arrays.write(moved, target) and bool(arrays.numbers(made.x) != made.expected.tolist())
