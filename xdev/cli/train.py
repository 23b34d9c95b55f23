"""`xdev train digits`: one network and one training loop, on every device after another.

Requirements: what can be refused is refused before training; a device that cannot do it is a line with its reason;
what was trained before an error or control-C is on disk.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..device import Device, precision
from ..errors import (
    BackendUnavailable,
    ConfigurationError,
    DTypeError,
    NonFiniteLossError,
)
from . import folder, job, summary
from .digits import Digits, load
from .output import console, print_json, standard_output_kept
from .progress import Bars, Lines, progress
from .survey import named_devices, reason, survey, usable, words_of

__all__ = ["Options", "train_digits"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `xdev train digits`, as its help says them."""

    devices: tuple[str, ...] | None
    epochs: int
    batch_size: int
    lr: float
    seed: int
    dtype: str
    out: Path
    name: str


@dataclass(frozen=True)
class Skipped:
    """A backend or device that could not be used, or failed."""

    backend: str
    where: str
    reason: str
    failed: bool = False


def train_digits(options: Options, *, as_json: bool) -> bool:
    """Run the job and print its table; return whether every device that started came to the end."""
    screen = console(error=as_json)
    runs: list[job.Run] = []
    place = None
    with standard_output_kept() if as_json else contextlib.nullcontext():
        data = load()
        if options.batch_size > len(data.x_train):
            most = f"more than the {len(data.x_train)} digits to train on; use at most that many"
            raise ConfigurationError(f"--batch-size {options.batch_size} is {most}")
        chosen, skipped = _choose(options.devices)
        if chosen:
            place = folder.create(options.out, options.name, "digits")
            sizes = f"{len(data.x_train)} digits to train on, {len(data.x_test)} to test"
            screen.print(f"{sizes}; writing to {place}", soft_wrap=True)
            with precision(options.dtype), progress(screen, options.epochs) as report:
                for where in chosen:
                    outcome = _train_on(where, data, options, place, report)
                    (runs if isinstance(outcome, job.Run) else skipped).append(outcome)  # type: ignore[arg-type]
        for note in summary.draw(place, runs) if place and runs else ():
            screen.print(note)
    if as_json:
        print_json(
            {
                "runs": [run.as_dict() for run in runs],
                "skipped": [{"backend": s.backend, "device": s.where, "reason": s.reason} for s in skipped],
                "folder": str(place) if place else None,
            }
        )
    else:
        summary.show(screen, runs, [(s.where, s.reason, s.failed) for s in skipped])
    if not runs:
        screen.print("no run finished" if any(s.failed for s in skipped) else "no device could be used", style="red")
    return bool(runs) and not any(s.failed for s in skipped)


def _train_on(where: Device, data: Digits, options: Options, place: Path, report: Bars | Lines) -> job.Run | Skipped:
    """Train on one device and save the model, or say why that is not possible there."""
    try:
        if not where.backend.holds(options.dtype, where.info):
            raise DTypeError(f"{where} cannot hold {options.dtype}; train there with another --dtype")
        with _logged(place, where, report) as log:
            run = job.train_on(where, data, options, log)
    except (BackendUnavailable, DTypeError) as error:
        return Skipped(where.backend.name, str(where), reason(error))
    except NonFiniteLossError as error:
        what = str(error).partition(";")[0]  # the rest speaks of Python
        return Skipped(where.backend.name, str(where), f"{what}; choose a smaller --lr", failed=True)
    except job.FrameworkError as error:
        trace = folder.write_traceback(place, job.file_stem(where), error)
        return Skipped(where.backend.name, str(where), f"{error} (traceback in {trace.name})", failed=True)
    run.save(place)
    return run


def _choose(options: Sequence[str] | None) -> tuple[list[Device], list[Skipped]]:
    """Return the devices that the options --device ask for, and what cannot be used."""
    words: list[str | None] = [*words_of(options or ())]
    if options is None:
        words = [None if os.environ.get("XDEV_DEVICE") else "all"]
    chosen, failed = named_devices(word for word in words if word != "all")  # None is what XDEV_DEVICE says
    named = [(name or os.environ["XDEV_DEVICE"], why) for name, why in failed]
    skipped = [Skipped(name.partition(":")[0], name, why) for name, why in named]
    if "all" in words:
        found = survey()
        chosen = usable(found)
        skipped = [Skipped(entry.name, entry.name, entry.reason) for entry in found if not entry.devices]
    return list(dict.fromkeys(chosen)), list(dict.fromkeys(skipped))


@contextlib.contextmanager
def _logged(place: Path, where: Device, report: Bars | Lines) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Write each record into metrics.jsonl as it comes, and show it."""
    with (place / "metrics.jsonl").open("a", encoding="utf-8") as file, report.device(str(where)) as show:

        def log(record: dict[str, Any]) -> None:
            written = {"device": str(where), **record}
            file.write(json.dumps({k: v if _finite(v) else None for k, v in written.items()}) + "\n")
            file.flush()
            show(record["epoch"], record["loss"])

        yield log


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
