"""What bites in JAX, as `xdev doctor` tells it: reserved memory, 64-bit dtypes, defaults that were changed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from xdev.contract import Finding
from xdev.errors import BackendUnavailable

__all__ = ["diagnose", "threads"]

_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_WIDE = frozenset({"float64", "complex128", "int64", "uint64"})


def diagnose(backend: Any) -> list[Finding]:
    """Return the findings of the process as it is."""
    config = backend.jax.config
    try:
        infos = backend.devices()
    except BackendUnavailable:
        infos = ()
    return [
        *_preallocation(infos),
        *_wide_dtypes(config),
        *_wide_arrays(backend.jax),
        *_default_device(config),
        *_matmul(config, any(info.kind != "cpu" for info in infos)),
    ]


def _preallocation(infos: Any) -> Iterator[Finding]:
    off = os.environ.get(_PREALLOCATE, "").lower() in ("false", "0")
    if off or os.environ.get("XLA_PYTHON_CLIENT_ALLOCATOR", "").lower() in ("platform", "cuda_async"):
        return
    share = os.environ.get(_FRACTION, "0.75")
    for info in infos:
        if info.kind in ("cuda", "rocm"):
            yield Finding(
                "warning",
                f"JAX reserves {share} of the memory of {info.hardware} at its first use, and other frameworks there "
                "get what is left",
                f"Set {_PREALLOCATE}=false, or {_FRACTION} to a smaller share, before JAX is first used.",
                hardware=info.hardware,
            )


def _wide_dtypes(config: Any) -> Iterator[Finding]:
    if config.jax_enable_x64:
        yield Finding(
            "warning",
            "x64 is on for the whole process (JAX_ENABLE_X64, or jax_enable_x64 in jax.config): what JAX creates is "
            "float64 and int64 by default",
            'Leave it off, and write `with xdev.precision("float64"):` around what needs it.',
        )
    else:
        yield Finding(
            "note",
            "x64 is off: JAX's own functions turn float64 into float32 without a word, and so does jax.jit with a "
            "float64 array that has left its x64 scope",
            'Work with 64 bits within `with xdev.precision("float64"):`, and pull results to the host there.',
        )


def _wide_arrays(jax: Any) -> Iterator[Finding]:
    if jax.config.jax_enable_x64:
        return
    found = [x for x in jax.live_arrays() if str(x.dtype) in _WIDE]
    if found:
        count = f"{len(found)} arrays" if len(found) > 1 else "an array"
        dtypes = ", ".join(sorted({str(x.dtype) for x in found}))
        yield Finding(
            "warning",
            f"JAX has {count} of {dtypes} ({sum(x.nbytes for x in found)} bytes) outside of the block in which it "
            "computes in 64 bits: what its own functions make of that has 32",
            'Compute with them within `with xdev.precision("float64"):`, or take them out of it by xdev.to_numpy.',
        )


def _default_device(config: Any) -> Iterator[Finding]:
    if config.jax_default_device is not None:
        yield Finding(
            "warning",
            f"JAX's default device was set to {config.jax_default_device} (jax_default_device): what is created "
            "without a device lands there",
            'Undo it with jax.config.update("jax_default_device", None), and create with xdev.device(...).xp.',
        )


def _matmul(config: Any, accelerated: bool) -> Iterator[Finding]:
    found = config.jax_default_matmul_precision
    if found in ("highest", "float32"):
        return
    remedy = 'For full float32, jax.config.update("jax_default_matmul_precision", "highest").'
    if found is not None:
        yield Finding(
            "warning", f"float32 matmuls of JAX run at precision {found} (jax_default_matmul_precision)", remedy
        )
    elif accelerated:
        yield Finding("note", "float32 matmuls of JAX on accelerators may run in TF32 or bfloat16, its default", remedy)


def threads(backend: Any) -> tuple[int, str]:
    """Return the size of XLA's pool for the CPU."""
    how = "NPROC=n, or XLA_FLAGS=--xla_cpu_multi_thread_eigen=false for one"
    if re.search(r"--xla_cpu_multi_thread_eigen=(false|0)\b", os.environ.get("XLA_FLAGS", "")):
        return 1, how
    wanted = os.environ.get("NPROC", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else _cores(), how


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1
