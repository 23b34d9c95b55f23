"""The kinds of work whose crossovers are measured, each at sizes from small to large.

Requirements: float32 everywhere; inputs are the same on every device; functions are the Array API's, compiled where the
backend compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import nn, ops, optim
from ...device import Device
from ...random import Generator
from ...train import TrainState, make_step
from ...transfer import to_device
from .timing import Case

__all__ = ["KINDS", "Work"]

BATCH, PIXELS, CLASSES = 128, 64, 10
WIDTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
COUNTS = (1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000, 4_000_000, 16_000_000)
RATE = 1e-5
"""So small that thousands of steps on one batch train nothing: gradients that vanish are slow to compute with."""


@dataclass(frozen=True)
class Work:
    """A kind of work.

    Attributes
    ----------
    name
        As --work has it.
    what
        What is computed, in which n is the size.
    moves
        What moves where the data does not stay on the device.
    sizes
        The values of n.
    inputs
        Makes the inputs of a size, on the host.
    case
        Makes the case of a size and its inputs on a device.
    """

    name: str
    what: str
    moves: str
    sizes: tuple[int, ...]
    inputs: Callable[[int], Any]
    case: Callable[[int, Any, Device], Case]


def _plain(function: Callable[..., Any]) -> Callable[[int, Any, Device], Case]:
    """Return what makes cases of a function of (xp, *arrays)."""

    def case(n: int, inputs: Any, where: Device) -> Case:
        xp = where.xp
        # Not by xdev.jit, which looks at trees for longer than small work takes: it is the devices that are compared.
        return Case(where, inputs, where.backend.jit(lambda arrays: function(xp, *arrays)))

    return case


def _numbers(count: int, *shape: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) for _ in range(count)]


def _examples(n: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return rng.random((BATCH, PIXELS), dtype=np.float32), rng.integers(0, CLASSES, BATCH, dtype=np.int32)


def _loss(model: Any, batch: Any) -> Any:
    x, labels = batch
    return ops.cross_entropy(model(x), labels)


def _training(n: int, inputs: Any, where: Device) -> Case:
    optimizer = optim.adamw(RATE)
    model = nn.MLP([PIXELS, n, n, CLASSES], rng=Generator(0, "numpy"))
    state = TrainState.create(to_device(model, where), optimizer)
    step = make_step(_loss, optimizer)

    def call(batch: Any) -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics["loss"]

    return Case(where, inputs, call, queued=True)


KINDS = {
    work.name: work
    for work in (
        Work(
            "matmul",
            "the product of two n × n matrices",
            "both matrices there, the product back",
            WIDTHS,
            lambda n: _numbers(2, n, n),
            _plain(lambda xp, a, b: xp.matmul(a, b)),
        ),
        Work(
            "elementwise",
            "exp(-x²) y of n numbers",
            "x and y there, the result back",
            COUNTS,
            lambda n: _numbers(2, n),
            _plain(lambda xp, x, y: xp.exp(-x * x) * y),
        ),
        Work(
            "reduction",
            "the sum of n numbers",
            "the numbers there, the sum back",
            COUNTS,
            lambda n: _numbers(1, n),
            _plain(lambda xp, x: xp.sum(x)),
        ),
        Work(
            "train",
            f"a training step of a network with two hidden layers of width n, {BATCH} rows, AdamW",
            "the batch there, the loss back",
            WIDTHS,
            _examples,
            _training,
        ),
    )
}
"""By name."""
