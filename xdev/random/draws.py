"""How a generator makes a draw: dtypes that are checked, a key that is taken, an array that is filled and scaled.

Requirements: the methods of draws check all arguments before they call `_draw`, which advances the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import ml_dtypes  # it also makes bfloat16 a NumPy dtype by name
import numpy as np

from ..contract import dtype_name
from ..device import namespace
from ..errors import DTypeError, RandomError
from ..floating import default_name
from .arguments import Shape, size_of
from .distributions import PRECISION
from .fill import fill
from .keys import CAPTURED, KeyStream

__all__ = ["LARGEST", "Draws", "above", "below", "check_reach"]

Kernel = Callable[..., Any]

LARGEST = {name: float(ml_dtypes.finfo(np.dtype(name)).max) for name in PRECISION}
"""The largest number of each float dtype."""


class Draws(KeyStream):
    """What the methods of draws share."""

    __slots__ = ()

    def _draw(self, shape: Shape, kernel: Kernel, *static: Hashable, dtype: str, whole: bool = False) -> Any:
        dims, size = size_of(shape)
        key = self._here(self._next_key())
        made = fill(self.device, key, size, kernel, static, dtype, whole)
        if self._made_here(key) and self.device.backend.device_of(made) is None:
            raise RandomError(CAPTURED)  # a compilation that only the framework knows of
        return made if dims == (size,) else namespace(made).reshape(made, dims)

    def _dtype(self, dtype: Any, what: str, allowed: Iterable[str]) -> str:
        name = dtype_name(dtype)
        if name not in allowed:
            raise DTypeError(f"{what} got dtype {name}, expected one of {', '.join(allowed)}")
        if not self.device.backend.holds(name, self.device.info):
            raise DTypeError(f"{self.device} does not hold {name}; pass another dtype, or use another device")
        return name

    def _float(self, dtype: Any, what: str) -> str:
        if dtype is None:
            dtype = default_name(self.device.backend, self.device.info, str(self.device))
        return self._dtype(dtype, what, PRECISION)

    def _scaled(
        self,
        x: Any,
        scale: float,
        shift: float,
        smallest: float | None = None,
        largest: float | None = None,
        doubled: bool = False,
    ) -> Any:
        """Return `x * scale + shift`, rounded twice, limited where rounding may have passed an end; or twice that."""
        xp = namespace(x)
        with self.device.scope():
            wide = x if x.dtype in (xp.float32, getattr(xp, "float64", None)) else xp.astype(x, xp.float32)
            wide *= scale
            if not (isinstance(self._draws, int) and self._token is None):
                # No compiler contracts what it must limit, be it to all that there is, with the sum that follows.
                wide = xp.minimum(wide, LARGEST[dtype_name(wide.dtype)])
            wide += shift
            wide = wide if smallest is None else xp.maximum(wide, smallest)
            wide = wide if largest is None else xp.minimum(wide, largest)
            if doubled:
                wide *= 2.0
            return xp.astype(wide, x.dtype, copy=False)


def check_reach(what: str, reach: float, name: str) -> None:
    """Refuse numbers that may reach beyond what a dtype holds."""
    if not reach <= LARGEST[name]:
        wider = "" if name == "float64" else ", or pass a wider dtype, such as 'float64'"
        raise RandomError(
            f"{what}, so that numbers may reach {reach:.3g}, and {name} holds up to {LARGEST[name]:.3g}; "
            f"draw smaller ones{wider}"
        )


def below(end: float, name: str, closed: bool = False) -> float:
    """Return the largest number of a dtype below `end`, or up to it if the interval is closed."""
    dtype = np.dtype(name)
    with np.errstate(over="ignore"):
        rounded = np.asarray(end, dtype=dtype)
        inside = float(rounded) <= end if closed else float(rounded) < end
        return float(rounded if inside else np.nextafter(rounded, np.asarray(-np.inf, dtype=dtype)))


def above(end: float, name: str) -> float:
    """Return the smallest number of a dtype that is not below `end`."""
    return -below(-end, name, closed=True)
