"""Seeing torch's implicit transfers: a function mode, since a dispatch mode misses most of them.

Requirements: each crossing is reported once; what `cpu()` returned is on the host, and reading it crosses nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["READS", "WatchMode"]

READS = (
    "item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__", "__complex__", "__repr__",
    "__format__", "__array__",
)  # fmt: skip
"""The methods of a tensor that bring its values to the host."""
_NAMES = {getattr(torch.Tensor, name): name for name in READS}


class WatchMode(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
    """Call back before a call that reads a tensor on the host."""

    def __init__(self, callback: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._callback = callback
        self._pulled: dict[int, Any] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = _NAMES.get(func)
        if name is None or not args or not isinstance(args[0], torch.Tensor):
            return func(*args, **(kwargs or {}))
        known = self._pulled.get(id(args[0]))
        if known is None or known() is not args[0]:
            self._callback(f"torch.Tensor.{name}", args[0])
        result = func(*args, **(kwargs or {}))
        if name == "cpu":  # on a CPU the very same tensor, elsewhere a copy
            key = id(result)
            self._pulled[key] = weakref.ref(result, lambda _: self._pulled.pop(key, None))
        return result
