"""The arguments of layers, checked, and the arrays that are filled by them."""

from __future__ import annotations

from typing import Any

from ..contract import dtype_name
from ..device import Device, device
from ..errors import ArrayTypeError, DataError, DTypeError, a
from ..floating import default_name
from ..options import need_integer, need_number
from ..random import Generator

__all__ = [
    "MISSING",
    "check_width",
    "filled",
    "need_eps",
    "need_rng",
    "need_size",
    "no_array",
    "place_of",
]

Array = Any

MISSING: Any = None
"""The default of arguments that must be given: what is missing is told with what to give."""

FLOATS = ("bfloat16", "float16", "float32", "float64")


def need_rng(layer: str, rng: Any) -> Generator:
    """Return the generator that a layer draws with; refuse what is none."""
    if not isinstance(rng, Generator):
        got = "and none was given" if rng is MISSING else f"got {a(type(rng).__name__)}"
        raise ArrayTypeError(
            f"{layer} takes rng=, an xdev.random.Generator such as xdev.random.Generator(0, device), {got}"
        )
    return rng


def need_size(layer: str, **sizes: Any) -> None:
    """Refuse sizes that are no positive integers."""
    for name, size in sizes.items():
        need_integer(f"{layer} takes {name}, a positive int", size, least=1)


def need_eps(layer: str, eps: Any) -> Any:
    """Return what is added to a variance: a finite number of 0 or more."""
    return need_number(f"{layer} takes eps, a finite number of 0 or more", eps, least=0)


def filled(layer: str, where: Device, shape: tuple[int, ...], value: float, dtype: Any) -> Array:
    """Return an array of one value, of float32 or what `xdev.precision` says, unless a dtype is given."""
    name = default_name(where.backend, where.info, str(where)) if dtype is None else dtype_name(dtype)
    if name not in FLOATS:
        raise DTypeError(f"{layer} got dtype {name}, expected one of {', '.join(FLOATS)}")
    if not where.backend.holds(name, where.info):
        raise DTypeError(f"{where} does not hold {name}; pass another dtype, or use another device")
    return where.xp.full(shape, value, dtype=getattr(where.xp, name))


def no_array(layer: str, x: Any) -> ArrayTypeError:
    """Return the error about an argument that is no array."""
    return ArrayTypeError(f"{layer} takes an array, got {a(type(x).__name__)}; xdev.asarray(x) makes one")


def place_of(layer: str, rng: Generator | None, where: Any) -> Device:
    """Return the device that a generator tells, unless one is given."""
    if rng is not None:
        rng = need_rng(layer, rng)
    return rng.device if rng is not None and where is None else device(where)


def check_width(layer: str, x: Array, weight: Array) -> None:
    """Refuse what is no array whose last axis is as long as the first of `weight`."""
    try:
        fits = x.ndim and x.shape[-1] == weight.shape[0]
    except AttributeError:
        raise no_array(layer, x) from None
    if not fits:
        raise DataError(f"{layer} expects (..., {weight.shape[0]}), got {tuple(x.shape)}")
