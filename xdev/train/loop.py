"""The training loop: one, on every device, over parts that users can use themselves.

Requirements: the loop never waits for the device within a log interval; losses stay there until the interval ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import ledger, transfer, tree
from ..data import Loader
from ..data.batches import Batches, is_iterable_of_batches
from ..data.convert import float_dtype
from ..device import Device, common_device, namespace, synchronize
from ..device import device as find_device
from ..errors import DataError, DTypeError, NonFiniteLossError, a
from .arguments import (
    RESERVED,
    OnNonFinite,
    callback_list,
    check_batch_size,
    check_evaluated,
    check_metrics,
    check_names,
    check_options,
)
from .evaluation import check_on_host, compiled, in_batches, means
from .result import Callback, FitResult, Timing
from .signature import check_loss
from .state import TrainState
from .step import Step, make_step

__all__ = ["fit"]

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
        cast to the model's dtype. A Loader and other iterables bring batches of their own size, in their own order.
    optimizer : Optimizer
        From `xdev.optim`; on JAX optax's work too.
    epochs : int, default: 1
        Times through the data.
    device : str or Device, optional
        Where to train; None is where the model is.
    batch_size : int, optional
        Rows of a batch, of `data` and of `validation`; None is all of them.
    shuffle : bool, default: True
        Whether each epoch has an order of its own, the same on every backend; that of a Loader or other iterable
        stays as it is.
    seed : int, default: 0
        Seed of the order and of the keys that the loss gets.
    validation : tree of arrays or Loader, optional
        Evaluated after each log interval with the same loss, which gets no generator; in batches of the size of
        those of `data`, or a Loader's own.
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
        If the data cannot be cut into such batches, or a batch size is given with a Loader or other iterable.
    ConfigurationError
        If another option has a value that nothing can be done with.
    ArrayTypeError
        If the loss or a callback cannot be called.
    GradientError
        If the loss cannot be called with a model and a batch, is no real scalar, or has metrics that are no single
        numbers or have other names in each step.
    DeviceMismatchError
        If the loss mixes in arrays from another device.

    Warns
    -----
    PromotionWarning
        If the loss, or the model after the first step, is float64 and the model was not.

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
    check_options(epochs=epochs, log_every=log_every, on_nonfinite=on_nonfinite, seed=seed, shuffle=shuffle)
    callbacks = callback_list(callbacks)
    check_loss(loss)
    check_batch_size(data, batch_size, "fit")
    if validation is not None:
        check_evaluated("validation", loss)
    timing = Timing()
    with ledger.track_transfers(implicit=False) as transfers:  # a hook would slow the loop down
        clock = _Clock()
        where = common_device([("model", model)], "fit") if device is None else find_device(device)
        float_name = float_dtype(model)
        with where.scope(), where.backend.precision(float_name or "float32"):
            # 1 and 2: the parameters are made on their device already where `rng` was there; move what is not.
            moved = transfer.to_device(model, where)
            loader, notes = _load(data, where, batch_size, shuffle, seed, float_name, epochs)
            if validation is not None:
                size = data.batch_size if isinstance(data, Loader) else batch_size
                validation = _load_validation(validation, size, where, moved)
            synchronize(moved)
            timing.move = clock.lap()
            step = make_step(loss, optimizer)
            state = TrainState.create(moved, optimizer, seed=seed)
            synchronize((state.params, state.opt_state))
            timing.initialise = clock.lap()
            run = _Run(state, step, timing, callbacks, validation, loss, on_nonfinite)
            try:
                with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # told as NonFiniteLossError
                    run.train(loader, epochs, log_every)
            except (NonFiniteLossError, DataError) as error:
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
        validation: Loader | None,
        loss: Any,
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
        self._validated = compiled(loss)
        self._on_nonfinite = on_nonfinite
        self._kept = self._copy_to_keep()
        self._names: dict[str, None] = {}
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
            check_metrics(metrics, RESERVED)
            self._names = self._names or dict.fromkeys(metrics)
        self._timing.steps += 1
        return metrics

    def _end_interval(self, epoch: int, clock: _Clock, loader: Any) -> None:
        synchronize(self._window[-1]["loss"])
        self._timing.train += clock.lap()
        first = self.state.step - len(self._window) + 1
        for number, metrics in enumerate(self._window):
            check_names(self._names.keys(), metrics, f"step {first + number}")
        columns = _pull(self._window)
        self._window = []
        self.losses += columns["loss"]
        record: dict[str, Any] = {"epoch": epoch + 1, "step": self.state.step}
        record |= {name: math.fsum(values) / len(values) for name, values in columns.items()}
        bad = next((i for i, value in enumerate(columns["loss"]) if not math.isfinite(value)), None)
        if self._validation is not None and bad is None:
            scores = means(self._validated, self.state.model, self._validation)
            if not math.isfinite(scores["loss"]):
                check_on_host(self._loss, self.state.model, self._validation)
            record |= {f"val_{name}": value for name, value in scores.items()}
        self.history.append(record)
        self._timing.bring_back += clock.lap()
        if bad is not None and self._kept is not None:
            self._refuse(self._kept, first + bad, columns["loss"][bad], loader)
            return
        self._kept = self._copy_to_keep()
        for callback in self._callbacks:
            if callback(record, self.state) is True:
                self._stopped = True
        clock.lap()

    def _copy_to_keep(self) -> TrainState | None:
        """Return a copy to go back to; None where the run goes on whatever the loss."""
        return None if self._on_nonfinite == "continue" else self.state.copy()

    def _refuse(self, kept: TrainState, step: int, value: float, loader: Any) -> None:
        """Go back to the last finite interval, and raise or stop."""
        done = self.state.step
        self.state = kept
        self._stopped = True
        if self._on_nonfinite == "stop":
            return
        rng = transfer.to_numpy(self.state.rng()) if self._step.takes_rng else None
        check_on_host(self._loss, self.state.model, loader, rng)
        raise NonFiniteLossError(
            f"the loss became {value} at step {step} (seen at step {done}); the model of step {self.state.step} is in "
            "this error's .result. Lower the learning rate, clip the gradients "
            "(optim.chain(optim.clip_by_global_norm(1.0), ...)), or look at that batch: labels out of range give NaN "
            'too where they cannot be checked. on_nonfinite="stop" returns the result, "continue" goes on'
        )


def _pull(window: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Bring the metrics of an interval back in one transfer each."""
    columns = {}
    for name in window[0]:
        values = [metrics[name] for metrics in window]
        try:
            columns[name] = _floats(values)
        except Exception:
            for value in values:
                check_metrics({name: value})
            raise
    return columns


def _floats(values: list[Any]) -> list[float]:
    if all(hasattr(v, "dtype") for v in values):
        return [float(v) for v in transfer.to_numpy(namespace(values[0]).stack(values))]
    return [float(transfer.item(v)) if hasattr(v, "dtype") else float(v) for v in values]


def _load(
    data: Any, device: Device, batch_size: int | None, shuffle: bool, seed: int, dtype: str | None, epochs: int
) -> tuple[Any, list[str]]:
    """Return an iterable over batches on the device, and notes on what was cast."""
    if isinstance(data, Loader):
        return data, data.notes
    if is_iterable_of_batches(data):
        if batch_size is not None:
            raise DataError(
                f"data is {a(type(data).__name__)}, which yields batches of its own size, but batch_size="
                f"{batch_size!r}: leave batch_size out; validation=xdev.data.Loader(...) has one of its own"
            )
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


def _load_validation(data: Any, batch_size: int | None, device: Device, model: Any) -> Loader:
    """Return a loader; what is wrong with the data is told before training, not after its first interval."""
    try:
        return in_batches(data, batch_size, device, model)
    except (DataError, DTypeError) as error:
        raise type(error)(f"in validation, {error}") from error
