"""The table of a run, and its loss curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..device import Device
from .job import Run
from .output import WIDE, table

__all__ = ["draw", "show"]

DASH = 1.5
"""Length of a dash, in line widths."""
STYLES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


def show(screen: Console, runs: Sequence[Run], skipped: Sequence[tuple[str, str, bool]]) -> None:
    """Print one line a device, then what could not be used as (name, reason, whether it failed)."""
    wide = screen.width >= WIDE
    numbers = [
        "train\nloss",
        "test\n%",
        "steps\nper s",
        "first\nstep\ns",
        "KiB to\ndevice",
        "KiB to\nhost",
        "init.\ns",
        "move\ns",
        "train\ns",
        "back\ns",
    ]  # fmt: skip  as narrow as 80 columns need it
    grid = table(["device", *numbers], numbers=numbers, width=screen.width)
    emulated = [run.device for run in runs if _emulated(run.device)]
    for run in runs:
        speed = run.steps_per_second
        grid.add_row(
            f"{run.device}{'*' if run.device in emulated else ''}",
            f"{run.final_train_loss:.5f}",
            f"{100 * run.test_accuracy:.2f}",
            f"{speed:.0f}" if math.isfinite(speed) else "–",
            f"{run.first_step_seconds:.2f}",
            f"{run.to_device_bytes / 1024:.0f}",
            f"{run.to_host_bytes / 1024:.0f}",
            *(f"{s:.2f}" if s < 100 else f"{s:.0f}" for s in run.seconds.values()),
        )
    if runs:
        screen.print()
        screen.print(grid)
    lines = Table.grid(padding=(0, 2 if wide else 1))
    lines.add_column(no_wrap=True, min_width=max((len(str(run.device)) for run in runs), default=0))
    lines.add_column(overflow="fold")
    for name, reason, failed in skipped:
        word = Text("failed" if failed else "skipped", style="red" if failed else "yellow")
        lines.add_row(name, Text.assemble(word, ": ", reason))
    if skipped:
        screen.print(lines)
    if emulated:
        screen.print(f"* {emulated[0].name}: its speed says nothing about the real one.")


def _emulated(device: Device) -> bool:
    return "emulation" in device.name.lower()


def draw(place: Path, runs: Sequence[Run]) -> list[str]:
    """Draw the loss of every device over the epochs; return what the user should know."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return ["no curves.png: Matplotlib is not installed. Install it with: pip install 'xdev-array[plot]'"]
    figure = Figure(figsize=(8, 7 if len(runs) > 1 else 4.5), layout="constrained")
    if len(runs) > 1:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        _draw_differences(lower, runs)
        lower.set_xlabel("epoch")
    else:
        upper = figure.subplots()
        upper.set_xlabel("epoch")
    for number, run in enumerate(runs):
        epochs, losses = [r["epoch"] for r in run.history], [r["loss"] for r in run.history]
        color = f"C{number}"
        upper.plot(epochs, losses, color=color, linewidth=0.8, marker="." if len(epochs) == 1 else None)
        # Curves that coincide take turns: each has the dashes that the others leave free.
        turns = (number * DASH, (DASH, (len(runs) - 1) * DASH)) if len(runs) > 1 else "solid"
        upper.plot(epochs, losses, color=color, linewidth=3.5, linestyle=turns, dash_capstyle="butt")
        upper.plot([], [], color=color, linewidth=3.5, label=str(run.device))
    upper.set_title("One training run, device by device")
    upper.set_ylabel("training loss, mean over the epoch")
    upper.set_yscale("log")
    upper.grid(visible=True, which="both", alpha=0.2)
    upper.legend()
    figure.savefig(place / "curves.png", dpi=150)
    return []


def _draw_differences(axes: Any, runs: Sequence[Run]) -> None:
    """Draw how far the losses are from those of one device: the host, if it took part."""
    reference = next((run for run in runs if run.device.is_host), runs[0])
    base = [record["loss"] for record in reference.history]
    for number, run in enumerate(runs):
        if run is not reference:
            far = [abs(r["loss"] - b) / abs(b) if b else math.nan for r, b in zip(run.history, base, strict=True)]
            style = STYLES[number % len(STYLES)]
            drawn = [value or math.nan for value in far]  # a logarithmic axis has no zero
            axes.plot([r["epoch"] for r in run.history], drawn, color=f"C{number}", linestyle=style, marker=".")
    axes.set_yscale("log")
    axes.set_ylabel(f"relative difference\nfrom {reference.device}")
    axes.grid(visible=True, alpha=0.2)
