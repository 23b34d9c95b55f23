"""Moving trees between devices and frameworks, and pulling them to the host; `moving` moves the leaves.

Requirements: the same objects come back where nothing needs to move.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import registry, tree
from .contract import dtype_name
from .crossing import read
from .device import Device, common_device, device_of_array, host, namespace, native_of
from .device import device as find_device
from .errors import ArrayTypeError, CopyRequiredError, DTypeError, TransferError, a
from .moving import exports, from_numbers, move, move_tree, moves_whole, target_of
from .values import NUMBERS, check_numeric, host_values, is_array_list, kind_rank, wanted_dtype

__all__ = ["asarray", "is_array_list", "item", "to_device", "to_numpy"]

_PLAIN = frozenset({*NUMBERS, str, bytes})

owners = registry.owners  # looked up where tenths of a microsecond count


def to_device(tree_: Any, /, device: Any, *, copy: bool | None = None, dtype: Any = None) -> Any:
    """Place every array of a tree on a device.

    Parameters
    ----------
    tree_ : array, list of numbers, or tree of them
        Arrays of any framework, lists of numbers (each becomes one array), models, containers. Python numbers and
        None stay as they are.
    device : str or Device
        Where to. A name without a backend ("cpu", "cuda", "gpu") keeps each array's framework; what has no such
        device goes to the best backend that has one.
    copy : bool, optional
        None shares memory where that is safe, True never does, False raises where it cannot.
    dtype : str or dtype, optional
        The dtype wanted, such as "float32". An array alone is cast; in a tree, arrays of the same kind (floating
        to floating, integer to integer) are.

    Returns
    -------
    array or tree
        Of the same structure. What is there already comes back as the same object; between NumPy and torch on a
        CPU the memory may be shared and written from both sides. Gradients stay behind where the framework changes.

    Raises
    ------
    CopyRequiredError
        If `copy=False` and sharing is impossible; names the path and the reason.
    DTypeError
        If the target cannot hold a dtype; nothing is ever truncated silently. Arrays of strings, objects, dates and
        records are refused, on the host too.
    TransferError
        If a leaf is not an array, a number or a list of numbers, or if it has no values to move.
    DeviceError
        If there is no such device.

    Examples
    --------
    >>> import xdev
    >>> xdev.to_device({"label": [1, 2, 3]}, "numpy")
    {'label': array([1, 2, 3])}
    """
    owner = owners.get(type(tree_))
    if owner is not None:
        fast = copy is None and dtype is None and type(device) is Device
        there = fast and owner.known_devices.get(owner.device_of(tree_)) is device
        if there and (not device.is_host or tree_.dtype.kind in "biufc"):
            return tree_
        return move(tree_, target_of(device), copy, None if dtype is None else wanted_dtype(dtype), None, True)
    target = target_of(device)
    dtype = None if dtype is None else wanted_dtype(dtype)
    if tree_ is not None and (moves_whole(tree_) or tree.is_leaf(tree_)):
        return move(tree_, target, copy, dtype, None, True)
    return move_tree(tree_, target, copy, dtype)


def to_numpy(tree_: Any, /, *, copy: bool | None = None) -> Any:
    """Pull every array of a tree to the host, as NumPy arrays.

    Parameters
    ----------
    tree_ : array or tree
        Arrays of any framework; gradients are left behind.
    copy : bool, optional
        As in `to_device`; a snapshot that later in-place work must not change needs `copy=True`.

    Returns
    -------
    numpy.ndarray or tree
        The values are there when it returns. May share memory with a mutable CPU array.

    Raises
    ------
    DTypeError
        If NumPy has no such dtype, as for bfloat16; `xdev.to_device(x, "numpy", dtype="float32")` converts it.

    Examples
    --------
    >>> import xdev
    >>> xdev.to_numpy([[1.0, 2.0]])
    array([[1., 2.]])
    """
    return to_device(tree_, host(), copy=copy)


def item(x: Any, /) -> Any:
    """Return the one element of an array as a Python number.

    Parameters
    ----------
    x : array of one element, or number
        Any framework's.

    Returns
    -------
    bool, int, float or complex
        The value, waited for and pulled to the host.

    Raises
    ------
    TransferError
        If there is not exactly one element.
    ArrayTypeError
        If `x` is neither an array nor a number.
    DTypeError
        If the element is no number.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.item(np.ones((1, 1)))
    1.0
    """
    if type(x) in NUMBERS:
        return x
    owned = native_of(x)
    if owned is None:
        if isinstance(x, NUMBERS):
            return x
        raise ArrayTypeError(f"item takes an array of one element or a number, got {a(type(x).__name__)}")
    backend, native = owned
    if math.prod(native.shape) != 1:
        raise TransferError(f"item takes an array of one element, got shape {tuple(native.shape)}")
    source = device_of_array(backend, native)
    if source is None:
        raise TransferError(
            "item reads a value, and while its framework traces the function, as under jit, there is none; return "
            "the array instead"
        )
    value = read(native, backend, source).item()
    if type(value) not in NUMBERS:
        check_numeric(native.dtype, "the array")
    return value


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    """Make an array of an array, a number, or a (nested) list of numbers or arrays.

    Parameters
    ----------
    obj : array, number, or nested list of numbers or arrays
        What to convert. Arrays in a list must share a shape and a device, where they are stacked; numbers beside them
        become arrays of their dtype.
    dtype : str or dtype, optional
        The dtype wanted; None keeps that of arrays, and is the target's default for numbers.
    device : str or Device, optional
        Where to; None leaves arrays where they are, and is `xdev.device()` for numbers.
    copy : bool, optional
        As in `to_device`.

    Returns
    -------
    array
        May share memory with `obj` unless `copy=True`.

    Raises
    ------
    TransferError
        If `obj` is none of these, or ragged.
    DeviceMismatchError
        If the arrays of a list are on different devices.
    DTypeError
        If the dtype cannot be held, if arrays in a list have no common dtype, or if they are of strings or objects.

    Examples
    --------
    >>> import xdev
    >>> xdev.asarray([1, 2], dtype="float32", device="numpy")
    array([1., 2.], dtype=float32)
    """
    dtype = None if dtype is None else wanted_dtype(dtype)
    owned = native_of(obj)
    if owned is not None and device is None:
        return move(obj, lambda _: device_of_array(*owned), copy, dtype, None, True)
    if owned is None and not exports(obj):
        if copy is False:
            raise CopyRequiredError(f"{a(type(obj).__name__)} shares memory with no array; leave out copy=False")
        if _holds_arrays(obj):
            stacked = _stacked(obj, dtype, device)
            return stacked if device is None else move(stacked, target_of(device), None, None, None, True)
        return from_numbers(host_values(obj, None), find_device(device), dtype, None)
    return move(obj, target_of(device), copy, dtype, None, True)


# -- lists of arrays ---------------------------------------------------------------------------------


def _holds_arrays(obj: Any) -> bool:
    """Return whether a (nested) list has arrays in it, be it beside numbers; NumPy's scalars are numbers."""
    if not isinstance(obj, list | tuple) or _PLAIN.issuperset(map(type, obj)):
        return False
    return any(_holds_arrays(child) or _is_array(child) for child in obj)


def _is_array(x: Any) -> bool:
    return not isinstance(x, np.generic) and (isinstance(x, np.ndarray) or native_of(x) is not None or exports(x))


def _stacked(obj: Any, dtype: str | None, device: Any) -> Any:
    """Stack the arrays of a (nested) list where they are, with its numbers in their dtype."""
    leaves = dict(_elements(obj, "obj"))
    arrays = {path: x for path, x in leaves.items() if _is_array(x)}
    home = _home(arrays, device)
    placed = {path: move(x, lambda _: home, None, dtype, path, True) for path, x in arrays.items()}
    xp = namespace(*placed.values())
    name = dtype or _common_dtype(xp, placed)
    wanted = registry.backend_of(next(iter(placed.values()))).dtype(name)
    for path, x in leaves.items():
        if path not in placed:
            made = _beside_arrays(x, name, home, path, asked=dtype is not None)
            placed[path] = xp.asarray(made, dtype=wanted)
        elif dtype_name(placed[path].dtype) != name:
            placed[path] = xp.astype(placed[path], wanted)
    return _stack(obj, "obj", placed, xp)


def _elements(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, list | tuple):
        for position, child in enumerate(node):
            yield from _elements(child, f"{path}[{position}]")
    else:
        yield path, node


def _home(arrays: dict[str, Any], device: Any) -> Device | None:
    """Return the device that arrays share; None if their framework traces them all, as under jit."""
    owned = [native_of(x) for x in arrays.values()]
    if all(each is None for each in owned):  # none but those of frameworks that xdev does not know
        return find_device(device)
    if all(each is None or device_of_array(*each) is None for each in owned):
        return None
    return common_device(list(arrays.items()), "asarray")


def _common_dtype(xp: Any, arrays: dict[str, Any]) -> str:
    dtypes = {dtype_name(x.dtype): x.dtype for x in arrays.values()}
    if len(dtypes) == 1:
        return next(iter(dtypes))
    try:
        return dtype_name(xp.result_type(*dtypes.values()))
    except TypeError as error:
        raise DTypeError(
            f"the argument has arrays of {' and '.join(sorted(dtypes))}, which have no common dtype; say dtype="
        ) from error


def _beside_arrays(x: Any, dtype: str, home: Device | None, path: str, *, asked: bool) -> Any:
    """Return a number as it may stand beside arrays of a dtype."""
    values = host_values(x, path)
    if not asked and kind_rank(dtype_name(values.dtype)) > kind_rank(dtype):
        raise DTypeError(f"{path} is {x!r} beside arrays of {dtype}, which cannot hold it; say dtype=")
    return x if home is None else from_numbers(values, home, dtype, path)


def _stack(node: Any, path: str, arrays: dict[str, Any], xp: Any) -> Any:
    if not isinstance(node, list | tuple):
        return arrays[path]
    rows = [_stack(child, f"{path}[{position}]", arrays, xp) for position, child in enumerate(node)]
    shapes = dict.fromkeys(tuple(row.shape) for row in rows)
    if len(shapes) != 1:
        listed = " and ".join(map(str, shapes)) or "no rows"
        raise TransferError(f"{path} is ragged: it has {listed}; bring its arrays to one shape before")
    return xp.stack(rows)
