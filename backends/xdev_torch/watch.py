"""Seeing torch's implicit transfers: a function mode, since a dispatch mode misses most of them.

Requirements: each crossing is reported once; what `cpu()` returned is on the host, and reading it crosses nothing.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from xdev.watching import WatchCallback

__all__ = ["READS", "WatchMode"]

READS = (
    "item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__", "__complex__", "__repr__",
    "__format__", "__array__",
)  # fmt: skip
"""The methods of a tensor that bring its values to the host."""
_NAMES = {getattr(torch.Tensor, name): name for name in (*READS, "to")}
_SHARING = frozenset({"numpy", "cpu", "__array__"})
"""Those that copy nothing where the tensor is on a CPU."""


class WatchMode(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
    """Let a call that reads a tensor on the host happen within the callback's context."""

    def __init__(self, callback: WatchCallback) -> None:
        super().__init__()
        self._callback = callback
        self._pulled: dict[int, Any] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = _NAMES.get(func)
        if name is None or not args or not isinstance(args[0], torch.Tensor):
            return func(*args, **kwargs)
        x = args[0]
        if name == "to" and not _leaves_its_device(x, *args[1:2], **kwargs):
            return func(*args, **kwargs)
        known = self._pulled.get(id(x))
        if known is not None and known() is x:
            return func(*args, **kwargs)
        shared = name in _SHARING and x.device.type == "cpu" and len(args) == 1 and not kwargs.get("dtype")
        with self._callback(f"torch.Tensor.{name}", x, "view" if shared else "copy"):
            result = func(*args, **kwargs)
        if name in ("cpu", "to"):  # on a CPU the very same tensor, elsewhere a copy
            key = id(result)
            self._pulled[key] = weakref.ref(result, lambda _: self._pulled.pop(key, None))
        return result


def _leaves_its_device(x: torch.Tensor, wanted: Any = None, *, device: Any = None, **_: Any) -> bool:
    """Return whether `x.to(...)` leaves an accelerator for the CPU; from a CPU to itself nothing moves."""
    if x.device.type == "cpu":
        return False
    wanted = wanted if device is None else device
    if isinstance(wanted, torch.Tensor):
        return bool(wanted.device.type == "cpu")
    return isinstance(wanted, str | torch.device) and torch.device(wanted).type == "cpu"
