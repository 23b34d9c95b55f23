"""NumPy: the host. Its arrays are what every other backend's arrays become when they are pulled."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np

from xdev.contract import Array, Backend, Capabilities, DeviceInfo
from xdev.errors import CopyRequiredError

__all__ = ["NumpyBackend"]

_DEVICES = (DeviceInfo(kind="cpu", index=0, handle="cpu", name="host memory", hardware="cpu"),)
_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""What sets the threads of the BLAS behind NumPy, in the order in which it is asked."""


class NumpyBackend(Backend):
    """NumPy arrays and scalars on the one device "cpu"."""

    name: ClassVar[str] = "numpy"
    framework: ClassVar[str] = "numpy"
    install: ClassVar[str] = "pip install xdev-array"
    is_host: ClassVar[bool] = True
    priority: ClassVar[int] = 10
    capabilities: ClassVar[Capabilities] = Capabilities(
        visible_transfers="nothing crosses implicitly: NumPy arrays are the host's own"
    )

    def __init__(self) -> None:
        import array_api_compat.numpy as xp

        from . import kernels, replaying

        self.xp: Any = xp
        self.kernels = kernels.KERNELS
        self.replay = replaying.KIT

    def owns(self, x: object) -> bool:
        # Not masked arrays: nothing here would respect the mask.
        return isinstance(x, np.ndarray | np.generic) and not hasattr(type(x), "filled")

    def devices(self) -> Sequence[DeviceInfo]:
        return _DEVICES

    def device_of(self, x: Array) -> Hashable:
        return "cpu"

    def place(self, x: Array, info: DeviceInfo, copy: bool | None) -> Array:
        if copy:
            return np.array(x, copy=True, order="K")
        if not x.dtype.isnative:
            if copy is False:
                raise CopyRequiredError("its byte order is not the machine's")
            return x.astype(x.dtype.newbyteorder("="))
        return x

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def has_no_device(self, x: Array) -> bool:
        return isinstance(x, np.generic)

    def threads(self) -> tuple[int, str] | None:
        variables = [v for v in _THREADS if os.environ.get(v, "").isdecimal() and int(os.environ[v])]
        how = "OPENBLAS_NUM_THREADS=n, MKL_NUM_THREADS=n or OMP_NUM_THREADS=n"
        if variables:
            return int(os.environ[variables[0]]), how
        try:
            return len(os.sched_getaffinity(0)), how
        except AttributeError:  # not on this system
            return os.cpu_count() or 1, how

    def clone(self, x: Array) -> Array:
        return np.array(x, copy=True, order="C")  # the in-place updates walk parameters as flat memory

    def written_memory(self, x: Array) -> np.ndarray[Any, Any] | None:
        return x if isinstance(x, np.ndarray) else None

    def pointer(self, x: Array) -> int | None:
        return int(x.__array_interface__["data"][0])

    def inplace_update(self, name: str) -> Any:
        from . import optimizers

        return optimizers.UPDATES.get(name)
