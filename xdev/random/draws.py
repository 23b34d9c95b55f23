"""How a generator makes a draw: dtypes that are checked, a key that is taken, an array that is filled and scaled.

Requirements: the methods of draws check all arguments before they call `_draw`, which advances the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import ml_dtypes  # noqa: F401  makes bfloat16 a NumPy dtype by name
import numpy as np

from ..contract import dtype_name
from ..device import namespace
from ..errors import DTypeError, RandomError
from ..namespaces import default_float
from .arguments import Shape, size_of
from .distributions import PRECISION
from .fill import fill
from .inversion import apart
from .keys import CAPTURED, KeyStream

__all__ = ["Draws", "above", "below"]

Kernel = Callable[..., Any]


class Draws(KeyStream):
    """What the methods of draws share."""

    __slots__ = ()

    def _draw(self, shape: Shape, kernel: Kernel, *static: Hashable, dtype: str, whole: bool = False) -> Any:
        dims, size = size_of(shape)
        key = self._next_key()
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
        return self._dtype((default_float.get() or "float32") if dtype is None else dtype, what, PRECISION)

    def _scaled(
        self, x: Any, scale: float, shift: float, smallest: float | None = None, largest: float | None = None
    ) -> Any:
        """Return `x * scale + shift`, rounded twice, and limited where rounding may have passed an end."""
        xp = namespace(x)
        with self.device.scope():
            wide = x if x.dtype in (xp.float32, getattr(xp, "float64", None)) else xp.astype(x, xp.float32)
            wide *= scale
            if not (isinstance(self._draws, int) and self._token is None):
                wide = apart(xp, wide)
            wide += shift
            wide = wide if smallest is None else xp.maximum(wide, smallest)
            wide = wide if largest is None else xp.minimum(wide, largest)
            return xp.astype(wide, x.dtype, copy=False)


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
