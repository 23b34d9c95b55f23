"""The grammar of a device's name: `backend[:kind[:index]]`, `backend:index`, `kind[:index]`; "gpu" is any accelerator.

Requirements: strings only; whether there is such a device is for `device_search` to find out.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import NoReturn

from . import registry
from .errors import DeviceError

__all__ = ["ACCELERATORS", "KINDS", "Spec", "parse"]

ACCELERATORS = ("cuda", "rocm", "mps", "xpu", "tpu")
KINDS = ("cpu", *ACCELERATORS)
_WORDS = (*KINDS, "gpu")
_DEFAULT = ("auto", "best", "default", "none")


@dataclass(frozen=True, slots=True)
class Spec:
    """A device's name taken apart; None stands for "whichever"."""

    backend: str | None
    kind: str | None
    index: int | None
    text: str

    def fits(self, kind: str, index: int) -> bool:
        """Return whether a device of that kind and index is meant."""
        if self.index is not None and index != self.index:
            return False
        return self.kind is None or kind == self.kind or (self.kind == "gpu" and kind in ACCELERATORS)


def parse(text: str) -> Spec:
    """Take a device's name apart."""
    rest = text.split(":")
    first = rest[0]
    backend = None
    if registry.is_known(first):
        backend = first
        del rest[0]
    elif first and not first.isdecimal() and first not in _WORDS:
        _unknown_word(text, first)
    index: int | None = None
    if rest and rest[-1].isascii() and rest[-1].isdecimal():
        index = int(rest.pop())
    if len(rest) > 1 or (rest and not rest[0].isidentifier()) or (backend is None and not rest):
        near = difflib.get_close_matches(text, [*registry.names(), *_WORDS], 1)
        hint = f"; did you mean {near[0]!r}? " if near else ". "
        raise DeviceError(
            f"{text!r} is not a device{hint}Write backend[:kind[:index]] or kind[:index], "
            'such as "torch", "torch:cuda:1", "cuda" or "gpu"'
        )
    return Spec(backend, rest[0] if rest else None, index, text)


def _unknown_word(text: str, word: str) -> NoReturn:
    close = difflib.get_close_matches(word.strip().lower(), [*registry.names(), *_WORDS], 1)
    hint = f"; did you mean {text.replace(word, close[0], 1)!r}? " if close else ". "
    if word.lower() in _DEFAULT:
        hint = "; the default is xdev.device(), without a name. "
    raise DeviceError(
        f"{text!r} begins with {word!r}, neither a backend nor a kind of device{hint}"
        f"Backends: {', '.join(registry.names())}; kinds: {', '.join(_WORDS)}"
    )
