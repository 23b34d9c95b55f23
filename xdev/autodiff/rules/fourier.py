"""Fourier transforms: linear maps, whose transposes are Fourier transforms again."""

from __future__ import annotations

from typing import Any

__all__ = ["DEFINED", "GENERAL"]

DUAL = {"backward": "forward", "forward": "backward", "ortho": "ortho"}
"""The norm whose forward transform is scaled as the inverse transform of the other."""


def _resize(xp: Any, x: Any, axis: int, size: int) -> Any:
    """Return `x` cut off, or continued with zeros, along an axis."""
    have = x.shape[axis]
    before = (slice(None),) * (axis % x.ndim)
    if size <= have:
        return x if size == have else xp.getitem_(x, (*before, slice(0, size), ...))
    shape = list(x.shape)
    shape[axis] = size - have
    return xp.concat([x, xp.zeros(tuple(shape), dtype=x.dtype)], axis=axis)


def _line(name: str) -> Any:
    def rule(xp: Any, g: Any, y: Any, x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
        return _resize(xp, getattr(xp.fft, name)(g, axis=axis, norm=norm), axis, x.shape[axis])

    return rule


def _sizes(x: Any, s: Any, axes: Any) -> tuple[list[int], list[int]]:
    """Return the axes of a transform of several axes, and their sizes."""
    if axes is None:
        axes = range(x.ndim) if s is None else range(x.ndim - len(s), x.ndim)
    axes = list(axes)
    return axes, [x.shape[k] for k in axes] if s is None else list(s)


def _box(name: str) -> Any:
    def define(xp: Any, x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
        axes, sizes = _sizes(x, s, axes)
        for axis, n in zip(axes, sizes, strict=True):
            x = getattr(xp.fft, name)(x, n=n, axis=axis, norm=norm)
        return x

    return define


def _rfftn(xp: Any, x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    axes, sizes = _sizes(x, s, axes)
    x = xp.fft.rfft(x, n=sizes[-1], axis=axes[-1], norm=norm)
    return xp.fft.fftn(x, s=sizes[:-1], axes=axes[:-1], norm=norm)


def _irfftn(xp: Any, x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    last = None if s is None else s[-1]
    axes, sizes = _sizes(x, s, axes)
    x = xp.fft.ifftn(x, s=sizes[:-1], axes=axes[:-1], norm=norm)
    return xp.fft.irfft(x, n=last, axis=axes[-1], norm=norm)


def _rfft(xp: Any, g: Any, y: Any, x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
    n = x.shape[axis] if n is None else n
    return _resize(xp, xp.real(xp.fft.fft(_resize(xp, g, axis, n), axis=axis, norm=norm)), axis, x.shape[axis])


def _irfft(xp: Any, g: Any, y: Any, x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
    """Count twice what stands for its mirror image too."""
    n, half = g.shape[axis], g.shape[axis] // 2 + 1
    single = [0, n // 2] if n % 2 == 0 else [0]
    shape = [half if k == axis % g.ndim else 1 for k in range(g.ndim)]
    count = xp.asarray([1.0 if k in single else 2.0 for k in range(half)], dtype=g.dtype)
    z = xp.conj(xp.fft.rfft(g, axis=axis, norm=DUAL[norm]))
    return _resize(xp, xp.multiply(z, xp.reshape(count, tuple(shape))), axis, x.shape[axis])


def _hfft(xp: Any, x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
    return xp.fft.irfft(xp.conj(x), n=n, axis=axis, norm=DUAL[norm])


def _ihfft(xp: Any, x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
    return xp.conj(xp.fft.rfft(x, n=n, axis=axis, norm=DUAL[norm]))


GENERAL: dict[str, Any] = {
    "fft.fft": (_line("fft"),),
    "fft.ifft": (_line("ifft"),),
    "fft.rfft": (_rfft,),
    "fft.irfft": (_irfft,),
    "fft.fftshift": (lambda xp, g, y, x, /, *, axes=None: xp.fft.ifftshift(g, axes=axes),),
    "fft.ifftshift": (lambda xp, g, y, x, /, *, axes=None: xp.fft.fftshift(g, axes=axes),),
}
DEFINED: dict[str, Any] = {
    "fft.fftn": _box("fft"),
    "fft.ifftn": _box("ifft"),
    "fft.rfftn": _rfftn,
    "fft.irfftn": _irfftn,
    "fft.hfft": _hfft,
    "fft.ihfft": _ihfft,
}
