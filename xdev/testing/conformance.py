"""The backend contract as checks: what a plug-in must do, tried on each of its devices.

Requirements: a check is a function of a device that raises; `CHECKS` holds them by name. They take NumPy's
arrays as the truth and reach the framework through the contract alone, so that they run on any plug-in.
"""

from __future__ import annotations

import contextlib
import functools
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import registry
from ..contract import Backend, DeviceInfo, Finding, dtype_name
from ..device import ACCELERATORS, Device, device, from_handle
from ..errors import BackendError, CopyRequiredError

__all__ = ["CHECKS", "CheckResult", "check_backend"]

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
NARROW = ("float8_e4m3fn", "float8_e5m2")
DTYPES = ("bool", *INTEGERS, *FLOATS, *NARROW)
SHAPES = ((), (0,), (5,), (2, 3))

CREATE: dict[str, Callable[[Any], Any]] = {
    "arange": lambda xp: xp.arange(3),
    "asarray": lambda xp: xp.asarray([1, 2, 3]),
    "empty": lambda xp: xp.empty((2, 3)),
    "eye": lambda xp: xp.eye(3),
    "full": lambda xp: xp.full((3,), 2.0),
    "linspace": lambda xp: xp.linspace(0, 1, 3),
    "ones": lambda xp: xp.ones((3,)),
    "zeros": lambda xp: xp.zeros((3,)),
}
"""A call of each creation function; `from_dlpack` takes its array's device instead."""
FOLLOW = ("empty_like", "ones_like", "zeros_like")


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check on one device.

    Attributes
    ----------
    name : str
        The check and the device, such as "clone on torch:cpu:0".
    passed : bool
        Whether the contract was kept.
    message : str
        What was wrong, if it was not; else empty.
    """

    name: str
    passed: bool
    message: str = ""

    def __str__(self) -> str:
        return f"ok      {self.name}" if self.passed else f"FAILED  {self.name}: {self.message}"


class ContractError(Exception):
    """The contract is not kept."""


def check_backend(backend: str | Backend, /) -> list[CheckResult]:
    """Run the whole contract of a backend on each of its devices.

    Parameters
    ----------
    backend : str or Backend
        A registered backend or its name.

    Returns
    -------
    list of CheckResult
        One for each check and device; a check that raises has failed, and the others still run.

    Raises
    ------
    UnknownBackendError
        If no plug-in has that name.
    BackendUnavailable
        If its framework is not installed.

    Examples
    --------
    >>> from xdev.testing import check_backend
    >>> [result for result in check_backend("numpy") if not result.passed]
    []
    """
    found = registry.backend(backend) if isinstance(backend, str) else backend
    listed = _run("devices", str(found), lambda: _check_devices(found))
    results = [listed]
    if listed.passed:
        for where in _listed(found):
            for name, check in CHECKS.items():
                results.append(_run(name, str(where), functools.partial(check, where)))
    return results


def _run(name: str, where: str, check: Callable[[], None]) -> CheckResult:
    try:
        check()
    except ContractError as error:
        return CheckResult(f"{name} on {where}", False, str(error))
    except Exception as error:  # noqa: BLE001  whatever a plug-in raises is a finding
        return CheckResult(f"{name} on {where}", False, f"raised {type(error).__name__}: {error}")
    return CheckResult(f"{name} on {where}", True)


def _need(kept: bool, message: str) -> None:
    if not kept:
        raise ContractError(message)


# -- devices -----------------------------------------------------------------------------------------


def _check_devices(backend: Backend) -> None:
    try:
        infos = list(backend.devices())
    except BackendError as error:
        raise ContractError(f"devices() says that none is usable: {error}") from error
    _need(bool(infos), "devices() returned nothing; raise BackendUnavailable with the reason instead")
    for info in infos:
        _need(isinstance(info, DeviceInfo), f"devices() must return DeviceInfo objects, got {info!r}")
        _need(info.kind.isidentifier() and info.index >= 0, f"{info.kind}:{info.index} is malformed")
    handles = [info.handle for info in infos]
    _need(len(set(handles)) == len(handles), f"handles must be unique and hashable, got {handles!r}")
    names = [f"{info.kind}:{info.index}" for info in infos]
    _need(len(set(names)) == len(names), f"kind and index must be unique together, got {', '.join(names)}")
    ranks = [info.kind not in ACCELERATORS for info in infos if info.listed]
    _need(ranks == sorted(ranks), f"accelerators come before CPUs, best first; got {', '.join(names)}")


def _check_name(where: Device) -> None:
    _need(device(str(where)) is where, f"xdev.device({str(where)!r}) gives {device(str(where))}")
    _need(pickle.loads(pickle.dumps(where)) is where, "a pickled device must come back as the same object")


def _check_owns(where: Device) -> None:
    backend, x = where.backend, _make(where)
    _need(backend.owns(x), f"owns() must be true of its own {type(x)}")
    owner = registry.find_backend(x)
    _need(owner is backend, f"{type(x)} is taken for an array of {owner}")
    for other in (None, 1, 1.0, "x", [1.0], (x,), {"x": x}, object()):
        _need(not backend.owns(other), f"owns() must be false of {type(other).__name__}")
    _need(backend.owns(np.zeros(1)) == backend.is_host, "owns() of a NumPy array must equal is_host")


def _check_device_of(where: Device) -> None:
    handle = where.backend.device_of(_make(where))
    _need(handle == where.info.handle, f"device_of() must give {where.info.handle!r} there, got {handle!r}")
    _need(hash(handle) == hash(where.info.handle), "equal handles must have equal hashes")


def _check_memory(where: Device) -> None:
    found = where.backend.memory(where.info)
    if found is not None:
        total, free = found
        _need(0 <= free <= total, f"memory() must give (total, free) in bytes, got {found}")


def _check_scope(where: Device) -> None:
    backend = where.backend
    for outer in _listed(backend):  # whichever device is current before, the inner scope counts
        x, y = _make(where), _make(outer)
        with outer.scope():
            with contextlib.suppress(KeyError), where.scope():
                _on_device(x + x, where, "x + x inside scope()")
                _same(backend, x + x, _host("float32", (2, 3)) * 2, "x + x inside scope()")
                raise KeyError("a scope that is left by an exception")
            _on_device(y + y, outer, "y + y after an inner scope() was left")


# -- arrays ------------------------------------------------------------------------------------------


def _check_creation(where: Device) -> None:
    for name, create in CREATE.items():
        _on_device(create(where.xp), where, f"xp.{name}")
    x = _make(where)
    for name in FOLLOW:
        _on_device(getattr(where.xp, name)(x), where, f"xp.{name}")
    _on_device(where.xp.full_like(x, 1.0), where, "xp.full_like")


def _check_place(where: Device) -> None:
    for name, source in _sources(where):
        for copy in (None, True):
            placed = where.backend.place(source, where.info, copy)
            what = f"place({name}, copy={copy})"
            _on_device(placed, where, what)
            _need(tuple(placed.shape) == source.shape, f"{what} has shape {tuple(placed.shape)}")
            _need(dtype_name(placed.dtype) == dtype_name(source.dtype), f"{what} has dtype {placed.dtype}")
            _same(where.backend, placed, source, what)


def _check_holds(where: Device) -> None:
    held = [name for name in DTYPES if where.backend.holds(name, where.info)]
    for name in ("bool", "int32", "float32"):
        _need(name in held, f"every device must hold {name}; holds() is false")


def _check_place_between(where: Device) -> None:
    x = _make(where)
    for there in _listed(where.backend):
        moved = where.backend.place(x, there.info, None)
        _on_device(moved, there, f"place() from {where}")
        _same(where.backend, moved, _host("float32", (2, 3)), f"place() from {where} to {there}")


def _check_copies(where: Device) -> None:
    backend = where.backend
    for shape in ((2, 3), (65536,)):  # the larger one is copied asynchronously by some frameworks
        source = _host("float32", shape)
        placed = backend.place(source, where.info, True)
        expected = source.copy()
        source[...] = -1
        _same(backend, placed, expected, "place(copy=True), after its source was written,")
        again = backend.place(placed, where.info, True)
        _distinct(backend, again, placed, "place(copy=True) on the same device")
    try:
        shared = backend.place(_host("float32", (2, 3)), where.info, False)
    except CopyRequiredError:
        return
    _same(backend, shared, _host("float32", (2, 3)), "place(copy=False)")


def _check_clone(where: Device) -> None:
    x = _make(where)
    with where.scope():
        cloned = where.backend.clone(x)
    _on_device(cloned, where, "clone()")
    _same(where.backend, cloned, _host("float32", (2, 3)), "clone()")
    _distinct(where.backend, cloned, x, "clone()")


def _check_to_host(where: Device) -> None:
    pulled = where.backend.to_host(_make(where))
    _need(isinstance(pulled, np.ndarray), f"to_host() must return a numpy.ndarray, got {type(pulled)}")


def _check_many(where: Device) -> None:
    """Many arrays at once come to the same as one by one; None leaves one to `place` and `to_host`."""
    backend, sources = where.backend, [source for _, source in _sources(where)]
    for copy in (None, True):
        placed = backend.place_all([*sources, None], where.info, copy)
        _need(len(placed) == len(sources) + 1, f"place_all() gave {len(placed)} for {len(sources) + 1} arrays")
        _need(placed[-1] is None, "place_all() must give None for what is no array of NumPy")
        single = [backend.place(source, where.info, True) for source in sources]
        pulled = backend.to_host_all(single, copy)
        _need(len(pulled) == len(sources), f"to_host_all() gave {len(pulled)} for {len(sources)} arrays")
        for source, x, y in zip(sources, placed, pulled, strict=False):
            if x is not None:
                _on_device(x, where, f"place_all(copy={copy})")
                _need(dtype_name(x.dtype) == dtype_name(source.dtype), f"place_all() gave {x.dtype} for {source.dtype}")
                _same(backend, x, source, f"place_all(copy={copy})")
            if y is not None:
                _need(np.array_equal(y, source), f"to_host_all(copy={copy}) gave {y!r} for {source!r}")


def _check_wait(where: Device) -> None:
    where.backend.wait(_make(where))
    where.backend.wait_device(where.info)


def _check_answers(where: Device) -> None:
    backend, x = where.backend, _make(where)
    for name in ("binds", "has_no_device"):
        answer = getattr(backend, name)(x)
        _need(isinstance(answer, bool), f"{name}() must be true or false, got {answer!r}")
    _need(backend.binds(x), "binds() must be true of an array that was created on a device")
    _need(not backend.has_no_device(x), "has_no_device() must be false of an array with two axes")
    pointer = backend.pointer(x)
    _need(pointer is None or isinstance(pointer, int), f"pointer() must be an int or None, got {pointer!r}")
    _need(not backend.is_device_mismatch(ValueError("other")), "is_device_mismatch() takes any ValueError")
    _need(isinstance(backend.version(), str), "version() must be a string")
    for finding in backend.diagnose():
        _need(isinstance(finding, Finding), f"diagnose() must give xdev.contract.Finding, got {finding!r}")
        _need(finding.level in ("note", "warning"), f"a Finding's level is note or warning, got {finding.level!r}")
    threads = backend.threads()
    _need(threads is None or threads[0] > 0, f"threads() must be None or (number, how to set it), got {threads!r}")


# -- transformations ---------------------------------------------------------------------------------


def _sum_of_squares(where: Device) -> Callable[[list[Any]], Any]:
    return lambda leaves: where.xp.sum(leaves[0] * leaves[0])


def _check_value_and_grad(where: Device) -> None:
    backend, f = where.backend, _sum_of_squares(where)
    host = _host("float32", (2, 3))
    with where.scope():
        found = backend.value_and_grad(lambda leaves: (f(leaves), "auxiliary"), [_make(where)])
    if found is NotImplemented:
        return
    value, auxiliary, gradients = found
    _need(auxiliary == "auxiliary", f"value_and_grad() must hand on the auxiliary output, got {auxiliary!r}")
    _same(backend, value, np.asarray((host**2).sum()), "the value of value_and_grad()")
    _on_device(gradients[0], where, "the gradient of value_and_grad()")
    _same(backend, gradients[0], 2 * host, "the gradient of value_and_grad()")


def _check_vjp(where: Device) -> None:
    backend, f = where.backend, _sum_of_squares(where)
    host = _host("float32", (2, 3))
    with where.scope():
        found = backend.vjp(lambda leaves: [f(leaves)], [_make(where)])
        if found is NotImplemented:
            return
        outputs, pullback = found
        gradients = pullback([where.xp.asarray(3.0, dtype=where.xp.float32)])
    _same(backend, outputs[0], np.asarray((host**2).sum()), "the output of vjp()")
    _same(backend, gradients[0], 6 * host, "the pullback of vjp()")


def _check_remat(where: Device) -> None:
    backend, f = where.backend, _sum_of_squares(where)
    with where.scope():
        again = backend.remat(lambda leaves: [f(leaves)])
        if again is NotImplemented:
            return
        _, _, gradients = backend.value_and_grad(lambda leaves: (again(leaves)[0], ()), [_make(where)])
    _same(backend, gradients[0], 2 * _host("float32", (2, 3)), "the gradient through remat()")


def _check_custom_vjp(where: Device) -> None:
    backend, f = where.backend, _sum_of_squares(where)
    with where.scope():
        ruled = backend.custom_vjp(
            lambda leaves: [f(leaves)],
            lambda leaves: ([f(leaves)], [leaves[0]]),
            lambda residuals, cotangents: [residuals[0] * (5 * cotangents[0])],
        )
        if ruled is NotImplemented:
            return
        _, _, gradients = backend.value_and_grad(lambda leaves: (ruled(leaves)[0], ()), [_make(where)])
    _same(backend, gradients[0], 5 * _host("float32", (2, 3)), "the gradient by the rule of custom_vjp()")


def _check_jit(where: Device) -> None:
    x = _make(where)
    with where.scope():
        compiled = where.backend.jit(lambda leaves: [leaves[0] + leaves[0]])
        for _ in range(2):
            (y,) = compiled([x])
            _same(where.backend, y, 2 * _host("float32", (2, 3)), "a jitted function")


def _check_stop_gradient(where: Device) -> None:
    with where.scope():
        y = where.backend.stop_gradient(_make(where))
    _same(where.backend, y, _host("float32", (2, 3)), "stop_gradient()")


CHECKS: dict[str, Callable[[Device], None]] = {
    "name": _check_name,
    "owns": _check_owns,
    "device_of": _check_device_of,
    "memory": _check_memory,
    "scope": _check_scope,
    "creation": _check_creation,
    "holds": _check_holds,
    "place": _check_place,
    "place between devices": _check_place_between,
    "copies": _check_copies,
    "clone": _check_clone,
    "to_host": _check_to_host,
    "many at once": _check_many,
    "wait": _check_wait,
    "answers": _check_answers,
    "value_and_grad": _check_value_and_grad,
    "vjp": _check_vjp,
    "remat": _check_remat,
    "custom_vjp": _check_custom_vjp,
    "jit": _check_jit,
    "stop_gradient": _check_stop_gradient,
}
"""The checks by name, each a function of a device that raises if the contract is not kept there."""


# -- arrays to check with ----------------------------------------------------------------------------


def _host(dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    import ml_dtypes

    wanted = np.dtype(getattr(ml_dtypes, dtype, dtype))
    numbers = np.arange(math.prod(shape)).reshape(shape) % 7
    return np.asarray(numbers.astype(wanted))


def _listed(backend: Backend) -> list[Device]:
    return [from_handle(backend, info.handle) for info in backend.devices() if info.listed]


def _make(where: Device) -> Any:
    return where.backend.place(_host("float32", (2, 3)), where.info, True)


def _sources(where: Device) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for dtype in DTYPES:
        if where.backend.holds(dtype, where.info):
            for shape in SHAPES:
                yield f"{dtype}{list(shape)}", _host(dtype, shape)
    matrix = _host("float32", (4, 6))
    yield "a transposed array", matrix.T
    yield "a reversed array", matrix[::-1, ::2]
    read_only = matrix.copy()
    read_only.flags.writeable = False
    yield "a read-only array", read_only


def _on_device(x: Any, where: Device, what: str) -> None:
    handle = where.backend.device_of(x)
    _need(handle == where.info.handle, f"{what} is on {handle!r}, expected {where.info.handle!r}")


def _same(backend: Backend, x: Any, expected: np.ndarray[Any, Any], what: str) -> None:
    pulled = backend.to_host(x)
    _need(np.array_equal(pulled, expected), f"{what} has the values {pulled!r}, expected {expected!r}")


def _distinct(backend: Backend, copy: Any, original: Any, what: str) -> None:
    pointers = backend.pointer(copy), backend.pointer(original)
    _need(pointers[0] is None or pointers[0] != pointers[1], f"{what} shares memory with its argument")
    if backend.capabilities.mutable:
        before = np.array(backend.to_host(original), copy=True)
        with from_handle(backend, backend.device_of(copy)).scope():
            copy[...] = -1
        _same(backend, original, before, f"the argument of {what}, after the copy was written,")
