"""The device of arrays and trees, and the namespace that creates where they are; `device_search` has `Device` itself.

Requirements: one array costs a few dictionary lookups; a mix is an error that says paths, devices and the mending line.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, cast

from . import floating, registry, tree
from .contract import Backend, dtype_name
from .device_names import ACCELERATORS, Spec, parse
from .device_search import (
    Device,
    Memory,
    device,
    devices,
    find_in,
    from_handle,
    host,
    same_hardware,
    use,
)
from .errors import ArrayTypeError, DeviceError, DeviceMismatchError, DTypeError, a
from .namespaces import unbound
from .nodes import open_node

__all__ = [
    "ACCELERATORS",
    "Device",
    "Memory",
    "Spec",
    "common_device",
    "device",
    "device_of",
    "device_of_array",
    "devices",
    "find_in",
    "from_handle",
    "host",
    "namespace",
    "native_of",
    "parse",
    "precision",
    "same_hardware",
    "scope_of",
    "synchronize",
    "use",
]

owners, find_backend = registry.owners, registry.find_backend  # looked up where tenths of a microsecond count


@contextlib.contextmanager
def precision(dtype: Any, /) -> Iterator[None]:
    """Set the default float dtype of creation functions and random numbers within a block.

    Parameters
    ----------
    dtype : str or dtype
        "float32", "float64" or "bfloat16", or a framework's object for it. Frameworks that must be told to hold it are
        told: the loaded ones at once, others when xdev first meets them within the block.

    Raises
    ------
    DTypeError
        If the name is none of them.

    Notes
    -----
    The default is context-local, as contextvars are. What a framework is told (JAX, to hold float64) is thread-local:
    a thread enters a block of its own, and a block does not span an `await` while other tasks use that framework.

    Examples
    --------
    >>> import xdev
    >>> with xdev.precision("float32"):
    ...     xdev.device("numpy").xp.zeros(3).dtype
    dtype('float32')
    """
    wanted, dtype = dtype, dtype_name(dtype)
    if wanted is None or dtype not in ("bfloat16", "float32", "float64"):
        raise DTypeError(f"precision is one of float32, float64, bfloat16; got {wanted!r}")
    block = floating.Block(dtype)
    block.open()
    try:
        for backend in registry.loaded():
            floating.tell(backend)
        with floating.default(block):
            yield
    finally:
        block.close()


# -- the device of arrays ----------------------------------------------------------------------------


def device_of_array(backend: Backend, x: Any) -> Device | None:
    """Return the device of an array of that backend; None under `jit`."""
    handle = backend.device_of(x)
    if handle is None:
        return None
    found = backend.known_devices.get(handle)
    return from_handle(backend, handle) if found is None else cast(Device, found)


def scope_of(x: Any) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which operators work on `x`, for frameworks that compute on a current device."""
    owned = native_of(x)
    found = None if owned is None else device_of_array(*owned)
    return contextlib.nullcontext() if found is None else found.scope()


def native_of(x: Any) -> tuple[Backend, Any] | None:
    """Return the backend and the framework's own array inside `x` (traced or not), or None if it is no array."""
    backend = registry.find_backend(x)
    while backend is None:
        x = getattr(x, "__xdev_value__", None)
        if x is None:
            return None
        backend = registry.find_backend(x)
    return backend, x


def device_of(tree_: Any, /) -> Device:
    """Return the device that all arrays of a tree share.

    Parameters
    ----------
    tree_ : array or tree of arrays
        Python numbers, None, NumPy scalars and 0-d CPU tensors mix with any device and are passed over.

    Returns
    -------
    Device
        The device; a mesh Device for a sharded array.

    Raises
    ------
    DeviceMismatchError
        If there are several; names the paths, the devices and the line that mends it.
    ArrayTypeError
        If there is no array in it.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> print(xdev.device_of({"x": np.zeros(3), "y": 1.0}))
    numpy:cpu:0
    """
    backend = owners.get(type(tree_))
    if backend is not None:
        found = backend.known_devices.get(backend.device_of(tree_)) or device_of_array(backend, tree_)
        if found is not None:
            return cast(Device, found)
    return common_device([("tree", tree_)], "device_of")


def common_device(roots: list[tuple[str, Any]], what: str) -> Device:
    """Return the device of several named trees together, or raise as `device_of` does."""
    found: dict[Device, Callable[[], str]] = {}
    free: Device | None = None
    traced = False
    for path, (backend, x) in _arrays_of(roots):
        its = device_of_array(backend, x)
        if its is None:
            traced = True
        elif backend.has_no_device(x):
            free = its
        elif its not in found:
            found[its] = path
    if len(found) > 1:
        raise mismatch({its: path() for its, path in found.items()})
    if found:
        return next(iter(found))
    if free is not None:
        return free
    if traced:
        raise DeviceError(
            f"{what}: the array is being traced by its framework, as under jit, and has no device there; "
            "xdev.namespace(x) works"
        )
    names = ", ".join(f"{root} is {_describe_tree(subtree)}" for root, subtree in roots)
    raise ArrayTypeError(f"{what} needs at least one array; {names}")


def _arrays_of(roots: Iterable[tuple[str, Any]]) -> Iterator[tuple[Callable[[], str], tuple[Backend, Any]]]:
    """Yield the arrays of named trees, those in containers that only a framework or a class knows too.

    Each comes with a function that gives its path, which costs more than all the rest, and with its backend.
    """
    for root, subtree in roots:
        for position, leaf in enumerate(tree.leaves(subtree)):
            path = functools.partial(_path_of_leaf, root, subtree, position)
            owned = native_of(leaf)
            if owned is not None:
                yield path, owned
            elif type(leaf).__module__ != "builtins" and (node := open_node(leaf)) is not None:
                yield from _arrays_of((path() + step, child) for step, child in node.children.items())


def _path_of_leaf(root: str, subtree: Any, position: int) -> str:
    return tree.path_string(tree.flatten_with_paths(subtree)[0][position], root)


def _describe_tree(subtree: Any) -> str:
    kind = type(subtree).__name__
    count = len(tree.leaves(subtree))
    if not count:
        return f"an empty {kind}" if subtree is not None else "None"
    return f"a {kind}" if tree.leaves(subtree)[0] is subtree else f"a {kind} whose {count} leaves are no arrays"


def mismatch(found: dict[Any, str], note: str = "", movable: Collection[Any] = ()) -> DeviceMismatchError:
    """Return the error for arrays on several devices (or backends), given one path on each."""
    # What stands on the host moves to a device rather than the other way round, and what is `movable` to either; else
    # all move to the first one's.
    first, *others = sorted(found, key=lambda where: (where in movable, bool(getattr(where, "is_host", False))))
    listed = "; ".join(f"{path} is on {where}" for where, path in found.items())
    path = found[others[-1]]
    return DeviceMismatchError(
        f'arrays are on different devices: {listed}.{note} Move one: {path} = xdev.to_device({path}, "{first}")'
    )


def namespace(*arrays: Any) -> Any:
    """Return the Array API namespace of arrays, whose creation functions create on the device they share.

    Parameters
    ----------
    *arrays : array, number or None
        Numbers and None are passed over.

    Returns
    -------
    namespace
        `device.xp` of their device; for arrays that xdev is differentiating, the traced namespace; bound to no
        device under `jit` and for uncommitted arrays.

    Raises
    ------
    DeviceMismatchError
        If the arrays are on different devices.
    ArrayTypeError
        If there is no array among them.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xp = xdev.namespace(np.zeros(3))
    >>> xp.ones(2)
    array([1., 1.])
    """
    found = None
    for x in arrays:  # the fast way, for arrays of one framework whose device was met before
        backend = owners.get(type(x))
        if backend is None or not backend.binds(x):
            return unbound(backend) if backend is not None and len(arrays) == 1 else _namespace(arrays)
        its = backend.known_devices.get(backend.device_of(x))
        if its is not found:
            if found is not None or its is None:
                return _namespace(arrays)
            found = its
    return _namespace(arrays) if found is None else found.xp


def _namespace(arrays: tuple[Any, ...]) -> Any:
    met: dict[Any, str] = {}  # the places that what is created must, or may, follow
    loose: dict[Backend, Device] = {}  # where those are that mix with the others of their framework
    bound: Device | None = None
    free: Any = None
    traced: Any = None
    for position, x in enumerate(arrays):
        if x is None or type(x) in _PYTHON_NUMBERS:
            continue
        backend = find_backend(x)
        if backend is None:
            owned = native_of(x)
            if owned is None:
                raise ArrayTypeError(
                    f"namespace takes arrays and numbers; argument {position} is {a(type(x).__name__)}. "
                    "xdev.asarray(x) makes an array of numbers and lists of numbers"
                )
            traced = x.__array_namespace__()
            backend, x = owned
        its = device_of_array(backend, x) if backend.binds(x) else None
        if its is None or its.info.members:
            free = free or unbound(backend)
            met.setdefault(backend, f"arrays[{position}]")
        elif backend.has_no_device(x):
            free = free or its.xp
            if not backend.is_host:
                met.setdefault(backend, f"arrays[{position}]")
                loose.setdefault(backend, its)
        else:
            met.setdefault(its, f"arrays[{position}]")
            bound = bound or its
    if len(met) > 1:
        _check_same(met, loose)
    if traced is not None:
        return traced
    if bound is not None:
        return bound.xp
    if free is None:
        raise ArrayTypeError("namespace needs at least one array; it got only numbers, None, or nothing")
    return free


_PYTHON_NUMBERS = frozenset({bool, int, float, complex})


def _check_same(met: dict[Any, str], loose: dict[Backend, Device]) -> None:
    """Raise if several devices were met, or arrays of a framework beside a device of another."""
    devices_met = {key: path for key, path in met.items() if isinstance(key, Device)}
    if len(devices_met) > 1:
        raise mismatch(devices_met)
    if len({getattr(key, "backend", key).name for key in met}) > 1:
        raise mismatch({loose.get(key, key): path for key, path in met.items()}, movable=loose.values())


def synchronize(what: Any = None, /) -> None:
    """Wait until arrays have been computed, or a device has done its work.

    Parameters
    ----------
    what : tree of arrays, Device, str or None
        Arrays to wait for, or a device; None is `xdev.device()`.

    Raises
    ------
    ArrayTypeError
        If it is none of these.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.synchronize(np.zeros(3))
    """
    if what is None or isinstance(what, str | Device):
        found = device(what)
        found.backend.wait_device(found.info)
        return
    if tree.is_leaf(what) and native_of(what) is None and open_node(what) is None:
        raise ArrayTypeError(f"synchronize takes arrays, trees of them, or a device; got {what!r}")
    for _, (backend, x) in _arrays_of([("tree", what)]):
        backend.wait(x)
