"""Functions that no gradient flows through, that answer about arrays, or that make them."""

from __future__ import annotations

from typing import Any

from ..array import TracedArray, unwrap

__all__ = ["CONSTANT", "CREATION", "DEFINED", "PLAIN"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


CONSTANT = _names(
    """
    all any argmax argmin argsort bitwise_and bitwise_invert bitwise_left_shift bitwise_or bitwise_right_shift
    bitwise_xor ceil count_nonzero equal floor floor_divide greater greater_equal isfinite isin isinf isnan less
    less_equal linalg.matrix_rank logical_and logical_not logical_or logical_xor nextafter nonzero not_equal round
    searchsorted signbit trunc unique_all unique_counts unique_inverse unique_values empty_like ones_like zeros_like
    """
)

PLAIN = _names("__array_namespace_info__ broadcast_shapes can_cast finfo iinfo isdtype result_type")

CREATION = _names("arange empty eye from_dlpack ones zeros fft.fftfreq fft.rfftfreq")


def _asarray(xp: Any, obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    if isinstance(obj, (list, tuple)):
        obj = xp.stack([_asarray(xp, item) for item in obj])
    elif type(obj) is not TracedArray:
        obj = xp.constant(xp.below.asarray(obj))
    elif copy:
        obj = obj.__copy__()  # item assignment rebinds one and not the other
    if device is not None:
        obj = obj.to_device(device)
    return obj if dtype is None else xp.astype(obj, dtype)


def _full(xp: Any, shape: Any, value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    value = _asarray(xp, value, dtype=dtype, device=device)
    return xp.broadcast_to(value, (shape,) if isinstance(shape, int) else tuple(shape))


def _full_like(xp: Any, x: Any, value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    if type(value) is not TracedArray:
        return xp.constant(xp.below.full_like(unwrap(x), value, dtype=dtype, device=device))
    return _full(xp, x.shape, value, dtype=x.dtype if dtype is None else dtype, device=device)


def _linspace(xp: Any, start: Any, stop: Any, /, num: int, **kwargs: Any) -> Any:
    kinds = [x.dtype for x in (start, stop) if hasattr(x, "dtype") and not xp.isdtype(x.dtype, "integral")]
    dtype = kwargs.pop("dtype", None) or xp.result_type(*kinds)
    weight = xp.linspace(0.0, 1.0, num, dtype=dtype, **kwargs)
    return xp.add(xp.multiply(weight, stop), xp.multiply(xp.subtract(1.0, weight), start))


DEFINED: dict[str, Any] = {"asarray": _asarray, "full": _full, "full_like": _full_like, "linspace": _linspace}
