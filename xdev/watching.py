"""How a backend tells of the crossings that its framework makes by itself, and how reads of values are told of.

Requirements: a class that is watched gets its own methods back, whatever happens in the blocks that watch it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Literal, Protocol

__all__ = ["WatchCallback", "report_read", "reported_reads", "watch_methods"]


class WatchCallback(Protocol):
    """What `Backend.watch_transfers` gets; entering raises if a budget forbids the crossing."""

    def __call__(
        self, what: str, x: Any, kind: Literal["view", "copy"] = "copy"
    ) -> contextlib.AbstractContextManager[Any]:
        """Return the context that the crossing happens in; what crosses within it is not counted again."""


_wrapped: dict[type, tuple[int, dict[str, Any]]] = {}
"""How many blocks watch a class now, and its own methods before the first; None for an inherited one."""
_wrapping = threading.Lock()


@contextlib.contextmanager
def watch_methods(cls: type, label: str, names: Sequence[str], callback: WatchCallback) -> Iterator[None]:
    """Let public methods of an array class run within `callback("label.method", array)`.

    For `Backend.watch_transfers` where a framework has no hook. All threads share the class, which gets its own methods
    back when the last block ends; a class that cannot be changed is not watched.
    """
    with _wrapping:
        blocks, own = _wrapped.get(cls, (0, {}))
        if not blocks:
            own = {name: vars(cls).get(name) for name in names if _has(cls, name)}
            for name in own:
                with contextlib.suppress(TypeError):
                    setattr(cls, name, _within(callback, f"{label}.{name}", getattr(cls, name)))
        _wrapped[cls] = blocks + 1, own
    try:
        yield
    finally:
        with _wrapping:
            blocks, own = _wrapped.pop(cls)
            if blocks > 1:
                _wrapped[cls] = blocks - 1, own
            else:
                for name, method in own.items():
                    with contextlib.suppress(AttributeError, TypeError):
                        setattr(cls, name, method) if method is not None else delattr(cls, name)


def _has(cls: type, name: str) -> bool:
    """Return whether a class has a method that is not every object's."""
    return getattr(cls, name, None) is not getattr(object, name, None)


def _within(callback: WatchCallback, what: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        with callback(what, self):
            return method(self, *args, **kwargs)

    return watched


_reader: ContextVar[Callable[[str, Any], None] | None] = ContextVar("xdev reader of values", default=None)


@contextlib.contextmanager
def reported_reads(callback: Callable[[str, Any], None]) -> Iterator[None]:
    """Within this context, `callback(what, array)` is called before Python gets values of an array."""
    token = _reader.set(callback)
    try:
        yield
    finally:
        _reader.reset(token)


def report_read(what: str, x: Any) -> None:
    """Tell of values that Python is about to get, in words such as "float()"."""
    callback = _reader.get()
    if callback is not None:
        callback(what, x)
