"""The test kit: comparing trees of arrays across frameworks, checking gradients and backend plug-ins.

Requirements: nothing here but `plugin` needs pytest, and importing this package imports no framework. pytest
finds `xdev.testing.plugin` by itself; it gives tests the fixtures `backend`, `device` and `xp`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import assert_close, assert_equal
    from .conformance import check_backend
    from .gradients import check_gradients

__all__ = ["assert_close", "assert_equal", "check_backend", "check_gradients"]

_HOMES = {
    "assert_close": "compare",
    "assert_equal": "compare",
    "check_backend": "conformance",
    "check_gradients": "gradients",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that pytest loads nothing for suites that use none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
