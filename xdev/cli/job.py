"""Training the example on one device: the four steps, timed and with their transfers counted."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import nn, ops, optim
from ..device import Device
from ..errors import XdevError
from ..files import save
from ..ledger import track_transfers
from ..random import Generator
from ..train import evaluate, fit, predict
from ..transfer import to_numpy
from .digits import Digits

if TYPE_CHECKING:
    from .train import Options

__all__ = ["SIZES", "FrameworkError", "Run", "train_on"]

SIZES = (64, 256, 256, 10)


class FrameworkError(Exception):
    """A framework failed with an error of its own while it trained."""


@dataclass
class Run:
    """What training on one device gave; seconds and bytes as the names say."""

    device: Device
    model: Any
    history: list[dict[str, Any]]
    final_train_loss: float
    test_accuracy: float
    steps_per_second: float
    first_step_seconds: float
    to_device_bytes: int
    to_host_bytes: int
    seconds: dict[str, float]

    def save(self, place: Path) -> None:
        """Write the trained model."""
        save(place / f"{file_stem(self.device)}.safetensors", self.model)

    def as_dict(self) -> dict[str, Any]:
        """Return the run as JSON has it."""
        speed = self.steps_per_second
        return {
            "device": str(self.device),
            "hardware": self.device.name,
            "final_train_loss": self.final_train_loss,
            "test_accuracy": self.test_accuracy,
            "steps_per_second": speed if math.isfinite(speed) else None,  # there may have been no second step
            "first_step_seconds": self.first_step_seconds,
            "to_device_bytes": self.to_device_bytes,
            "to_host_bytes": self.to_host_bytes,
            "seconds": self.seconds,
            "model": f"{file_stem(self.device)}.safetensors",
        }


def file_stem(device: Device) -> str:
    """Return what the names of a device's files in the run's folder begin with."""
    return re.sub(r"\W", "-", str(device))


def train_on(where: Device, data: Digits, options: Options, log: Callable[[dict[str, Any]], None]) -> Run:
    """Train on one device; `log` gets the record of each epoch."""
    try:
        return _train_on(where, data, options, log)
    except XdevError:
        raise
    except Exception as error:  # each framework has its own, such as a GPU that its build does not support
        text = str(error).strip().partition("\n")[0]
        raise FrameworkError(f"{type(error).__name__}: {text}") from error


def _loss(model: Any, batch: Any) -> Any:
    x, y = batch
    return ops.cross_entropy(model(x), y)


def _train_on(where: Device, data: Digits, options: Options, log: Callable[[dict[str, Any]], None]) -> Run:
    with track_transfers(implicit=False) as transfers:
        start = time.perf_counter()
        model = nn.MLP(SIZES, rng=Generator(options.seed, "numpy"))  # made on the host; fit moves it
        made = time.perf_counter() - start
        result = fit(
            model,
            _loss,
            (data.x_train, data.y_train),
            optimizer=optim.adamw(options.lr),
            epochs=options.epochs,
            batch_size=options.batch_size,
            device=where,
            seed=options.seed,
            callbacks=[lambda record, _: log(record)],
        )
        start = time.perf_counter()
        trained = to_numpy(result.model, copy=True)
        pulled = time.perf_counter() - start
    timing = result.timing
    seconds = timing.four_steps()
    seconds["initialise"] += made
    seconds["bring_back"] += pulled
    scores = predict(result.model, data.x_test)
    return Run(
        device=where,
        model=trained,
        history=result.history,
        final_train_loss=evaluate(result.model, _loss, (data.x_train, data.y_train))["loss"],
        test_accuracy=float(np.mean(scores.argmax(axis=1) == data.y_test)),
        steps_per_second=timing.steps_per_second,
        first_step_seconds=timing.first_steps,
        to_device_bytes=transfers.to_device_bytes,
        to_host_bytes=transfers.to_host_bytes,
        seconds=seconds,
    )
