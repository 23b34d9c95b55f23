"""What the scripts print and write: tables of ratios, and what the figures depend on.

Requirements: a ratio is taken in each round, and told with its quartiles; times stand beside it for orientation only.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _harness import Plan, Times
from rich.console import Console
from rich.table import Table

PACKAGES = (
    "xdev-array", "numpy", "torch", "jax", "cupy-cuda12x", "cupy-cuda13x", "array-api-strict", "array-api-compat",
    "optax", "autograd", "autoray",
)  # fmt: skip
BUSY = 1.0
"""Load for each core from which on wall times of several threads mean little."""
WIDTH = 150
"""Columns of a table where the output is no terminal."""


@dataclass(frozen=True)
class Ratio:
    """The middle and the quartiles of the ratios that the rounds gave."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, times: Sequence[float], reference: Sequence[float]) -> Ratio:
        """Return the ratio of two columns of round medians."""
        ratios = [a / b for a, b in zip(times, reference, strict=True)]
        if len(ratios) < 2:
            return cls(ratios[0], ratios[0], ratios[0])
        return cls(*statistics.quantiles(ratios, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.middle:.3f}  [{self.low:.3f}, {self.high:.3f}]"


@dataclass
class Report:
    """What a script found, as tables for people and as JSON."""

    question: str
    plan: Plan | None = None
    console: Console = field(default_factory=lambda: Console(width=None if sys.stdout.isatty() else WIDTH))
    tables: list[dict[str, Any]] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine = machine()
        self._say(self.question)
        self._say(", ".join(f"{name} {value}" for name, value in self.machine["machine"].items()))
        self._say(", ".join(f"{name} {value}" for name, value in self.machine["versions"].items()))
        self._say(", ".join(f"{name}={value}" for name, value in self.machine["settings"].items()))
        if self.plan is None:  # nothing is timed
            return
        clock = "processor seconds" if self.plan.cpu else "wall clock"
        self._say(f"{clock}, {self.plan.rounds} rounds of {self.plan.passes} passes")
        load, cores = self.machine["machine"]["load"], self.machine["machine"]["cores"]
        if not self.plan.cpu and load != "unknown" and float(load) > BUSY * int(cores):
            self.note(
                f"NOT QUIET: {load} processes want {cores} cores, and threads that wait for each other then cost many "
                "times what they do alone. Run this again when nothing else runs, or with --threads 1 --cpu."
            )

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """Print a line and keep it."""
        self.notes.append(line)
        self._say(line)

    def table(self, title: str, times: Times, reference: str, *, targets: dict[str, str] | None = None) -> None:
        """Print the cases with their ratio to a reference, taken round by round."""
        targets = targets or {}
        columns = ["case", "median", f"ratio to {reference}  [quartiles]"] + (["target"] if targets else [])
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for place, heading in enumerate(columns):
            table.add_column(heading, justify="left" if place in (0, 3) else "right", no_wrap=True)
        rows = []
        for name, column in times.items():
            ratio = Ratio.of(column, times[reference])
            seconds = statistics.median(column)
            row = [name, readable(seconds), "1" if name == reference else str(ratio)]
            table.add_row(*row, *([targets.get(name, "")] if targets else []))
            rows.append(
                {"case": name, "seconds": seconds, "ratio": ratio.middle, "quartiles": [ratio.low, ratio.high],
                 "target": targets.get(name)}
            )  # fmt: skip
        self.console.print()
        self.console.print(table)
        self.tables.append({"title": title, "reference": reference, "rows": rows})

    def figures(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table of what are no ratios; the first column is the case."""
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for place, heading in enumerate(columns):
            table.add_column(heading, justify="right" if place else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self.console.print()
        self.console.print(table)
        self.others.append({"title": title, "rows": [dict(zip(columns, row, strict=True)) for row in rows]})

    def write(self, path: str | None) -> None:
        """Write everything as JSON; "-" is the standard output."""
        if path is None:
            return
        found = {"question": self.question, **self.machine, "tables": self.tables, "figures": self.others}
        found["notes"] = self.notes
        text = json.dumps(found, indent=1)
        if path == "-":
            print(text)
        else:
            Path(path).write_text(text + "\n", encoding="utf-8")


def by_time(times: Times) -> Times:
    """Return the cases in the order of their medians."""
    return dict(sorted(times.items(), key=lambda item: statistics.median(item[1])))


def readable(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds * 1e9:.4g} ns"


def machine() -> dict[str, dict[str, str]]:
    """Return what figures depend on: the machine, the versions, and the settings of threads."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    prefixes = ("OMP_", "OPENBLAS_", "MKL_", "GOMP_", "XLA_", "JAX_", "MALLOC_")
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith(prefixes)}
    return {
        "machine": {
            "date": datetime.date.today().isoformat(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": str(cores),
            "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
        },
        "versions": versions,
        "settings": settings or {"thread settings": "defaults"},
    }


def real_devices() -> list[str]:
    """Return the names of xdev's devices that are no emulation."""
    import xdev

    return [str(device) for device in xdev.devices() if "emulat" not in device.info.name.lower()]


def untimed_arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the options of scripts that time nothing."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--json", metavar="PATH", help="write the figures there too; - is the standard output")
    return parser


def arguments(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Return the options of scripts that time; `plan_of` reads them."""
    parser = untimed_arguments(description)
    plan = Plan(**defaults)
    parser.add_argument("--rounds", type=int, default=plan.rounds, help="rounds; ratios are taken in each")
    parser.add_argument("--passes", type=int, default=plan.passes, help="passes over all cases in a round")
    parser.add_argument("--seconds", type=float, default=plan.seconds, help="what one sample takes at least")
    parser.add_argument("--together", action="store_true", help="all cases in one process, to see what that distorts")
    parser.add_argument("--threads", type=int, help="threads of each framework that can be told")
    parser.add_argument(
        "--cpu", action="store_true", help="count processor seconds; for a machine that is not quiet, with --threads 1"
    )
    return parser


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan of parsed options; the number of threads takes effect in processes that start later."""
    if options.threads is not None:
        if options.together:
            raise SystemExit("--threads is for the processes of the frameworks; --together has none")
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(options.threads)
    return Plan(options.rounds, options.passes, options.seconds, not options.together, options.cpu)
