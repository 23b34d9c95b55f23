"""What a training run gives back, and what callbacks get to see of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..ledger import Transfers
from .state import TrainState

__all__ = ["Callback", "FitResult", "Timing"]

Callback = Callable[[dict[str, Any], TrainState], Any]
"""Called after each log interval with its record and the live state; returning True ends training."""


@dataclass
class Timing:
    """Seconds of the four steps of training on a device, and of the first step of each batch shape.

    Attributes
    ----------
    initialise : float
        Copying the model and setting up the optimizer, in seconds.
    move : float
        Placing model and data on the device.
    train : float
        The loop, compilation and first steps included.
    bring_back : float
        Pulling losses and metrics to the host.
    first_steps : float
        The part of `train` in the first step of each batch shape, where compilation happens.
    steps : int
        Steps done.
    """

    initialise: float = 0.0
    move: float = 0.0
    train: float = 0.0
    bring_back: float = 0.0
    first_steps: float = 0.0
    first_step_count: int = 0
    steps: int = 0

    @property
    def steps_per_second(self) -> float:
        """Steps per second, the first step of each batch shape apart; NaN if there were no others."""
        steps, seconds = self.steps - self.first_step_count, self.train - self.first_steps
        return steps / seconds if steps > 0 and seconds > 0 else float("nan")

    def four_steps(self) -> dict[str, float]:
        """Return the seconds of the four steps by name."""
        return {
            "initialise": self.initialise,
            "move": self.move,
            "train": self.train,
            "bring_back": self.bring_back,
        }

    def __str__(self) -> str:
        words = ", ".join(f"{name.replace('_', ' ')} {seconds:.3f} s" for name, seconds in self.four_steps().items())
        return f"{words}; {self.steps} steps, {self.steps_per_second:.0f} a second"


@dataclass
class FitResult:
    """What `fit` returns.

    Attributes
    ----------
    model : tree
        The trained model, on the device it was trained on.
    history : list of dict
        One record a log interval: epoch, step, the mean loss and metrics, and the validation's as `val_…`.
    state : TrainState
        The live state, to go on from.
    transfers : Transfers
        What crossed between host and device.
    timing : Timing
        Seconds of the four steps.
    losses : list of float
        The loss of every step.
    notes : list of str
        What was cast on the way.
    """

    model: Any
    history: list[dict[str, Any]]
    state: TrainState
    transfers: Transfers
    timing: Timing
    losses: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
