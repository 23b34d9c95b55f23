"""Copies between the host and an accelerator by way of pinned memory, which the CPU does not wait for one by one.

Requirements: the source may be written as soon as a call returns, and what comes to the host is there when it returns.
No pinned memory is handed out: it is taken from torch's own pool, and goes back there once the copy is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

__all__ = ["KINDS", "fetch", "may_fetch", "may_send", "send"]

KINDS = ("cuda", "rocm")
"""The kinds of devices whose copies pinned memory makes asynchronous."""
LARGE = 64 * 2**20
"""Bytes from which on the driver copies an array from where it is, in pieces; pinning so much would starve others."""
BATCH = 64
"""Arrays that wait in pinned memory at a time on their way to the host."""
SMALL = 2**20
"""Bytes up to which the time of starting a copy to the host, and of waiting for it, exceeds that of one copy more."""


def may_send(x: Any, kind: str) -> bool:
    """Return whether `send` can take a tensor to a device of that kind."""
    return (
        kind in KINDS
        and x.device.type == "cpu"
        and x.layout is torch.strided
        and not (x.requires_grad or x.is_conj() or x.is_neg())
        and 0 < x.nbytes < LARGE
        and not x.is_pinned()  # then its owner may write to it before the copy is done
    )


def send(x: Any, device: Any) -> Any:
    """Return a copy of a tensor of the CPU on an accelerator, in the order of its current stream."""
    return x.pin_memory().to(device, non_blocking=True)  # the pool keeps the memory until the stream is done with it


def may_fetch(x: Any) -> bool:
    """Return whether `fetch` can bring a tensor to the host."""
    return (
        type(x) is torch.Tensor
        and x.device.type == "cuda"
        and x.layout is torch.strided
        and not (x.is_conj() or x.is_neg())
        and x.dtype is not torch.bfloat16  # NumPy lacks it
        and 0 < x.nbytes <= SMALL
    )


def fetch(tensors: Sequence[Any]) -> Iterator[Any]:
    """Yield copies of tensors on the host: those of a batch are all under way before one is waited for."""
    for start in range(0, len(tensors), BATCH):
        yield from _fetch_batch(tensors[start : start + BATCH])


def _fetch_batch(batch: Sequence[Any]) -> list[Any]:
    batch = [x.detach() for x in batch]
    staged = [torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True) for x in batch]
    for device in {x.device for x in batch}:
        torch.cuda.current_stream(device).synchronize()
    return [x.clone() for x in staged]
