"""The training loop: one, on every device, over parts that users can use themselves.

Requirements: the loop never waits for the device within a log interval; losses stay there until the interval ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from .. import ledger, transfer, tree
from ..data import Loader
from ..data.batches import Batches, is_iterable_of_batches
from ..data.convert import float_dtype
from ..device import Device, common_device, namespace, synchronize
from ..device import device as find_device
from ..errors import DataError, NonFiniteLossError, a
from .evaluation import evaluate
from .result import Callback, FitResult, Timing
from .state import TrainState
from .step import Step, make_step

__all__ = ["fit"]

OnNonFinite = Literal["raise", "stop", "continue"]
RESIDENT_SHARE = 0.25
"""Data that takes at most this share of a device's free memory is moved there once; more is moved batch by batch."""


def fit(
    model: Any,
    loss: Any,
    data: Any,
    *,
    optimizer: Any,
    epochs: int = 1,
    device: Any = None,
    batch_size: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
    validation: Any = None,
    callbacks: Sequence[Callback] = (),
    log_every: int | None = None,
    on_nonfinite: OnNonFinite = "raise",
) -> FitResult:
    """Train a model; the same loop on every device.

    Parameters
    ----------
    model : tree
        An `xdev.nn.Module` or any tree of parameters; it is copied and never changes.
    loss : callable
        `loss(model, batch)` or `loss(model, batch, rng)`; see `make_step`.
    data : tree of arrays, or iterable of batches
        Arrays with equal leading axes, such as `(x, y)`, an `xdev.data.Loader`, or any other iterable of batches
        that is no tree, such as a framework's own loader; its batches are moved to the device. Floating data is
        cast to the model's dtype.
    optimizer : Optimizer
        From `xdev.optim`; on JAX optax's work too.
    epochs : int, default: 1
        Times through the data.
    device : str or Device, optional
        Where to train; None is where the model is.
    batch_size : int, optional
        Rows of a batch; None is all of them.
    shuffle : bool, default: True
        Whether each epoch has an order of its own, the same on every backend.
    seed : int, default: 0
        Seed of the order and of the keys that the loss gets.
    validation : tree of arrays, optional
        Evaluated after each log interval with the same loss.
    callbacks : sequence of callable, default: ()
        Called with `(record, state)` after each log interval; one that returns True ends training.
    log_every : int, optional
        Steps of a log interval; None is an epoch.
    on_nonfinite : {"raise", "stop", "continue"}, default: "raise"
        What to do when a loss is NaN or infinite, which is seen at the end of its interval: raise an error that
        carries the result so far, return that result, or go on. The result's model is that of the last finite
        interval.

    Returns
    -------
    FitResult
        Model, history, state, transfers and timing.

    Raises
    ------
    NonFiniteLossError
        If a loss is not finite: names the step; its `result` holds the model of the last finite interval.
    DataError
        If the data cannot be cut into such batches.
    DeviceMismatchError
        If the loss mixes in arrays from another device.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> from xdev import optim
    >>> x = np.linspace(-1, 1, 8)
    >>> result = xdev.fit(
    ...     {"w": np.zeros(())}, lambda m, b: xdev.ops.mse(m["w"] * b[0], b[1]), (x, 3 * x),
    ...     optimizer=optim.sgd(0.5), epochs=50, device="numpy",
    ... )
    >>> round(float(result.model["w"]), 3)
    3.0
    """
    _check_options(epochs, log_every, on_nonfinite)
    timing = Timing()
    with ledger.track_transfers(implicit=False) as transfers:  # a hook would slow the loop down
        clock = _Clock()
        where = common_device([("model", model)], "fit") if device is None else find_device(device)
        float_name = float_dtype(model)
        with where.scope(), where.backend.precision(float_name or "float32"):
            # 1 and 2: the parameters are made on their device already where `rng` was there; move what is not.
            moved = transfer.to_device(model, where)
            loader, notes = _load(data, where, batch_size, shuffle, seed, float_name, epochs)
            synchronize(moved)
            timing.move = clock.lap()
            step = make_step(loss, optimizer)
            state = TrainState.create(moved, optimizer, seed=seed)
            synchronize((state.params, state.opt_state))
            timing.initialise = clock.lap()
            run = _Run(state, step, timing, callbacks, validation, loss, batch_size, on_nonfinite)
            try:
                with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # told as NonFiniteLossError
                    run.train(loader, epochs, log_every)
            except NonFiniteLossError as error:
                error.result = run.result(transfers, notes)
                raise
    return run.result(transfers, notes)


class _Clock:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._start = now - self._start, now
        return seconds


class _Run:
    """The state of one call of `fit`."""

    def __init__(
        self,
        state: TrainState,
        step: Step,
        timing: Timing,
        callbacks: Sequence[Callback],
        validation: Any,
        loss: Any,
        batch_size: int | None,
        on_nonfinite: OnNonFinite,
    ) -> None:
        self.state = state
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self._step = step
        self._timing = timing
        self._callbacks = callbacks
        self._validation = validation
        self._loss = loss
        self._batch_size = batch_size
        self._on_nonfinite = on_nonfinite
        self._kept = state.copy()
        self._window: list[dict[str, Any]] = []
        self._shapes: set[Any] = set()
        self._stopped = False

    def result(self, transfers: ledger.Transfers, notes: list[str]) -> FitResult:
        """Return what has been reached."""
        # The model is a copy of its own: going on from the state consumes the state's arrays.
        return FitResult(self.state.copy().model, self.history, self.state, transfers, self._timing, self.losses, notes)

    def train(self, loader: Any, epochs: int, log_every: int | None) -> None:
        """Run the loop."""
        clock = _Clock()
        for epoch in range(epochs):
            for batch in loader:
                metrics = self._one_step(batch)
                self._window.append(metrics)
                if log_every is not None and len(self._window) == log_every:
                    self._end_interval(epoch, clock, loader)
                if self._stopped:
                    return
            if self._window and (log_every is None or epoch == epochs - 1):
                self._end_interval(epoch, clock, loader)
            if self._stopped:
                return

    def _one_step(self, batch: Any) -> dict[str, Any]:
        shape = tuple(tuple(getattr(leaf, "shape", ())) for leaf in tree.leaves(batch))
        if shape in self._shapes:
            self.state, metrics = self._step(self.state, batch)
        else:  # the first step of a shape, where compilation happens, is timed apart; the only ones waited for
            self._shapes.add(shape)
            synchronize((self.state.params, batch))
            clock = _Clock()
            self.state, metrics = self._step(self.state, batch)
            synchronize((self.state.params, metrics["loss"]))
            self._timing.first_steps += clock.lap()
            self._timing.first_step_count += 1
        self._timing.steps += 1
        return metrics

    def _end_interval(self, epoch: int, clock: _Clock, loader: Any) -> None:
        synchronize(self._window[-1]["loss"])
        self._timing.train += clock.lap()
        columns = _pull(self._window)
        first = self.state.step - len(self._window) + 1
        self._window = []
        self.losses += columns["loss"]
        record: dict[str, Any] = {"epoch": epoch + 1, "step": self.state.step}
        record |= {name: math.fsum(values) / len(values) for name, values in columns.items()}
        bad = next((i for i, value in enumerate(columns["loss"]) if not math.isfinite(value)), None)
        if self._validation is not None and bad is None:
            scores = evaluate(self.state.model, self._loss, self._validation, batch_size=self._batch_size)
            record |= {f"val_{name}": value for name, value in scores.items()}
        self.history.append(record)
        self._timing.bring_back += clock.lap()
        if bad is not None and self._on_nonfinite != "continue":
            self._refuse(first + bad, columns["loss"][bad], loader)
            return
        if bad is None and self._on_nonfinite != "continue":
            self._kept = self.state.copy()
        for callback in self._callbacks:
            if callback(record, self.state) is True:
                self._stopped = True
        clock.lap()

    def _refuse(self, step: int, value: float, loader: Any) -> None:
        """Go back to the last finite interval, and raise or stop."""
        done = self.state.step
        self.state = self._kept
        self._stopped = True
        if self._on_nonfinite == "stop":
            return
        self._check_data(loader)
        raise NonFiniteLossError(
            f"the loss became {value} at step {step} (seen at step {done}); the model of step {self.state.step} is in "
            "this error's .result. Lower the learning rate, clip the gradients "
            "(optim.chain(optim.clip_by_global_norm(1.0), ...)), or look at that batch: labels out of range give NaN "
            'too where they cannot be checked. on_nonfinite="stop" returns the result, "continue" goes on'
        )

    def _check_data(self, loader: Any) -> None:
        """Compute losses on the host: what the device could not check without waiting is checked there."""
        if not isinstance(loader, Loader):
            return
        model = transfer.to_numpy(self.state.model)
        for batch in loader:
            try:
                self._loss(model, transfer.to_numpy(batch), *((self.state.rng(),) if self._step.takes_rng else ()))
            except DataError:
                raise
            except Exception:  # noqa: BLE001  a loss in a framework's own terms does not run on the host
                return


def _pull(window: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Bring the metrics of an interval back in one transfer each."""
    columns = {}
    for name in window[0]:
        values = [metrics[name] for metrics in window]
        if hasattr(values[0], "dtype"):
            stacked = namespace(values[0]).stack(values)
            columns[name] = [float(v) for v in transfer.to_numpy(stacked)]
        else:
            columns[name] = [float(v) for v in values]
    return columns


def _load(
    data: Any, device: Device, batch_size: int | None, shuffle: bool, seed: int, dtype: str | None, epochs: int
) -> tuple[Any, list[str]]:
    """Return an iterable over batches on the device, and notes on what was cast."""
    if isinstance(data, Loader):
        return data, data.notes
    if is_iterable_of_batches(data):
        if iter(data) is data and epochs > 1:
            raise DataError(
                f"data is {a(type(data).__name__)}, which can be walked through once, but epochs={epochs}; give "
                "arrays, an xdev.data.Loader, or an object whose __iter__ starts anew"
            )
        batches = Batches(data, device, dtype)
        return batches, batches.notes
    loader = Loader(data, batch_size=batch_size, shuffle=shuffle, seed=seed, device=device, dtype=dtype)
    loader.make_resident(RESIDENT_SHARE)
    return loader, loader.notes


def _check_options(epochs: int, log_every: int | None, on_nonfinite: str) -> None:
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise DataError(f"epochs must be a positive integer, got {epochs!r}")
    if log_every is not None and (not isinstance(log_every, int) or log_every < 1):
        raise DataError(f"log_every must be a positive integer or None, got {log_every!r}")
    if on_nonfinite not in get_args(OnNonFinite):
        raise DataError(f"on_nonfinite must be one of {', '.join(get_args(OnNonFinite))}; got {on_nonfinite!r}")
