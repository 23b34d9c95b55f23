"""What bites in torch, as `xdev doctor` tells it: defaults that were changed, precision, memory kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xdev.contract import Finding

__all__ = ["diagnose", "threads"]


def diagnose(torch: Any, infos: Any) -> list[Finding]:
    """Return the findings of the process, and of the calling thread, whose default device it is."""
    return [*_default_device(torch), *_matmul(torch), *_convolutions(torch, infos), *_cache(torch, infos)]


def _default_device(torch: Any) -> Iterator[Finding]:
    found = torch.get_default_device()
    if found.type != "cpu":
        yield Finding(
            "warning",
            f"torch's default device was changed to {found}: what is created without a device lands there, and "
            "torch.as_tensor and torch.asarray move tensors that exist",
            "Undo it with torch.set_default_device(None), and create with xdev.device(...).xp.",
        )


def _matmul(torch: Any) -> Iterator[Finding]:
    newer = getattr(torch.backends.cuda.matmul, "fp32_precision", "none")
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch does not answer by the older setting where both were used
        older = "highest"
    if older == "highest" and newer in ("none", "ieee"):
        newer = getattr(torch.backends, "fp32_precision", "none")
    if older != "highest":
        found = f"{older} (torch.set_float32_matmul_precision)"
    elif newer not in ("none", "ieee"):
        found = f"{newer} (fp32_precision of torch.backends)"
    else:
        return
    yield Finding(
        "warning",
        f"float32 matmuls of torch run at precision {found}, in TF32 or bfloat16 where the hardware has them",
        'For full float32, torch.set_float32_matmul_precision("highest").'
        if older != "highest"
        else 'For full float32, torch.backends.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "ieee".',
    )


def _convolutions(torch: Any, infos: Any) -> Iterator[Finding]:
    if not any(info.kind == "cuda" for info in infos):
        return
    try:
        allowed = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # as above
        allowed = torch.backends.cudnn.conv.fp32_precision == "tf32"
    if allowed:
        yield Finding(
            "note",
            "float32 convolutions of torch run in TF32 on CUDA, its default",
            "For full float32, torch.backends.cudnn.allow_tf32 = False.",
        )


def _cache(torch: Any, infos: Any) -> Iterator[Finding]:
    for info in infos:
        if info.kind in ("cuda", "rocm"):
            kept = torch.cuda.memory_reserved(info.handle) if torch.cuda.is_initialized() else 0
            yield Finding(
                "note",
                f"torch keeps memory of {info.hardware} that it has freed, {kept:,} bytes now, and other frameworks "
                "there cannot use it",
                "torch.cuda.empty_cache() gives it back; torch.cuda.set_per_process_memory_fraction limits it.",
                hardware=info.hardware,
            )


def threads(torch: Any) -> tuple[int, str]:
    """Return the number of threads within an operation."""
    return torch.get_num_threads(), "torch.set_num_threads(n), or OMP_NUM_THREADS=n"
