"""The picture of `xdev bench crossover`: a panel for each kind of work, with the crossovers marked."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...device import Device
from ...errors import ConfigurationError, FileError
from .words import about, size, unit_of

if TYPE_CHECKING:
    from .crossover import Result

__all__ = ["draw", "prepare"]

FOLDER = Path("runs")
MARKS = ("●", "◇")
"""With the data there, and with moving."""
LINE = 13
TICKS = 10
MISSING = "no picture: Matplotlib is not installed. Install it with: pip install 'xdev-array[plot]'"


def prepare(out: Path | None) -> tuple[Path | None, list[str]]:
    """Return where the picture goes, tried out, and what the user should know.

    Parameters
    ----------
    out : Path or None
        What --out says, which is written over; None is a new file in the folder of runs.

    Returns
    -------
    path : Path or None
        None where there is no Matplotlib.
    notes : list of str
        That it is missing.

    Raises
    ------
    ConfigurationError
        If Matplotlib cannot write files with that ending.
    FileError
        If it cannot be written there.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        return None, [MISSING]
    path = FOLDER / f"crossover-{time.strftime('%Y%m%d-%H%M%S')}.png" if out is None else out
    endings = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in endings:
        raise ConfigurationError(f"--out {path}: a picture's name ends with one of .{', .'.join(endings)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("ab"):
            pass
        if is_new:  # an interrupted run leaves no empty file
            path.unlink()
    except OSError as error:
        raise FileError(f"cannot write to {path}: {error.strerror or error}; say where with --out FILE.png") from error
    return path, []


def draw(path: Path, results: Sequence[Result]) -> None:
    """Draw all kinds of work into one file."""
    from matplotlib.figure import Figure

    columns = min(2, len(results))
    rows = math.ceil(len(results) / columns)
    figure = Figure(figsize=(5.6 * columns + 0.4, 4.2 * rows + 0.8), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, result in zip(panels, results, strict=False):
        _panel(panel, result)
    for panel in panels[len(results) :]:
        panel.set_axis_off()
    _legend(figure, results)
    figure.savefig(path, dpi=150)


def _colors(result: Result) -> dict[Device, str]:
    return {where: f"C{number}" for number, where in enumerate(result.devices)}


def _panel(panel: Any, result: Result) -> None:
    """Draw the curves of one kind of work: solid with the data there, dashed with moving."""
    for where, color in _colors(result).items():
        for moved, style in ((True, "dashed"), (False, "solid")):
            if moved and where.is_host:
                continue
            drawn = [(n, each) for n, each in zip(result.sizes, result.series(where, moved=moved), strict=True) if each]
            sizes, middle = [n for n, _ in drawn], [each.middle for _, each in drawn]
            panel.plot(
                sizes, middle, color=color, linestyle=style, linewidth=1 if moved else 2, marker="." * (not moved)
            )
            if not moved:
                low, high = [each.low for _, each in drawn], [each.high for _, each in drawn]
                panel.fill_between(sizes, low, high, color=color, alpha=0.2, linewidth=0)
    panel.set_xscale("log")
    panel.set_yscale("log")
    shown = result.sizes[:: math.ceil(len(result.sizes) / TICKS)]
    panel.set_xticks(shown, [size(n) for n in shown])
    panel.minorticks_off()
    panel.yaxis.set_major_formatter(lambda value, _: _tick(value))
    panel.grid(visible=True, alpha=0.2)
    panel.set_title(f"{result.work.name}: {result.work.what}", fontsize=10, wrap=True)
    panel.set_xlabel("n")
    _mark(panel, result)


def _mark(panel: Any, result: Result) -> None:
    """Mark where devices begin to win against the reference, and say at which sizes in the corner that curves leave."""
    lines = [(f"faster than {result.reference} from n =", "0.3")]
    for where, color in _colors(result).items():
        if where is result.reference:
            continue
        words = []
        for moved in (False, True):
            verdict = result.against(where, [result.reference], moved=moved)
            said = "–"
            if verdict.kind in ("always", "from"):
                n = result.sizes[0] if verdict.size is None else verdict.size
                said = about(n)
                panel.plot([n], [_height(result, where, n, moved=moved)], **_marker(color, moved=moved))
            words.append(f"{MARKS[moved]} {said}")
        lines.append((f"{'   '.join(words)}   {where}", color))
    for number, (text, color) in enumerate(lines if len(lines) > 1 else ()):
        panel.annotate(
            text,
            (0, 1),
            xycoords="axes fraction",
            xytext=(7, -7 - LINE * number),
            textcoords="offset points",
            va="top",
            color=color,
            fontsize=9,
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1},
        )


def _marker(color: str, *, moved: bool) -> dict[str, Any]:
    common = {"color": color, "linestyle": "none", "markersize": 8, "zorder": 5}
    if moved:
        return common | {"marker": "D", "markerfacecolor": "white"}
    return common | {"marker": "o", "markeredgecolor": "black"}


def _tick(seconds: float) -> str:
    word, one = unit_of(seconds * 1.001)  # powers of ten are inexact
    return f"{seconds / one:.3g} {word}"


def _height(result: Result, where: Device, n: float, *, moved: bool) -> float:
    """Return the height of a device's curve over a size between the measured ones."""
    series = result.series(where, moved=moved)
    points = [(math.log(m), math.log(each.middle)) for m, each in zip(result.sizes, series, strict=True) if each]
    for (left, low), (right, high) in itertools.pairwise(points):
        if left <= math.log(n) <= right:
            return math.exp(low + (high - low) * (math.log(n) - left) / (right - left))
    return math.exp(min(points, key=lambda point: abs(point[0] - math.log(n)))[1])


def _legend(figure: Any, results: Sequence[Result]) -> None:
    from matplotlib.lines import Line2D

    reference = results[0].reference
    entries = [
        Line2D([], [], color=color, linewidth=2, label=str(where)) for where, color in _colors(results[0]).items()
    ]
    if any(not where.is_host for where in results[0].devices):
        entries.append(Line2D([], [], color="0.4", linewidth=1, linestyle="dashed", label="with moving there and back"))
    if len(results[0].devices) > 1:
        entries += [
            Line2D([], [], label=f"faster than {reference} from here on", **_marker("0.4", moved=False)),
            Line2D([], [], label="and with moving", **_marker("0.4", moved=True)),
        ]
    figure.legend(handles=entries, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Time of one call, by size and device")
