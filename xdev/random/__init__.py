"""Random numbers: counter-based, seeded, made on the device, with the same bits on every backend.

Requirements: nothing falls back to a framework's own generator. Read `threefry` (words), `inversion` and
`distributions` (words to numbers), `fill` (how a draw is computed), `keys` (a draw's key, splitting, saving), `draws`
and `floats` (floating-point numbers), `weights` (what is chosen from), `generator` (the rest).
"""

from __future__ import annotations

from ..errors import RandomError
from .fill import threefry_bits
from .generator import Generator
from .keys import tracing

__all__ = ["Generator", "RandomError", "threefry_bits", "tracing"]
