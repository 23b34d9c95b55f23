"""`xdev bench mine FILE.py:function`: a user's own function on every device, and the one that is recommended.

Requirements: what can be refused is refused before anything is timed; a device on which the function fails is a line
with its reason; a result that differs between devices is told; what the function prints while it is timed is dropped.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ... import tree
from ...compilation import jit
from ...contract import Backend, dtype_name
from ...data.convert import convert
from ...device import Device, native_of, precision
from ...errors import ConfigurationError
from ..output import WIDE, console, print_json, standard_output_kept
from . import contenders, source
from .advice import recommend
from .crossover import busy, plan_of
from .tables import point_as_dict
from .timing import Case, Measured, Point, measure
from .verdict import leaders
from .words import duration, in_unit, joined, unit_of

__all__ = ["Options", "differences", "mine"]

WIDE_DTYPES = frozenset({"float64", "complex128"})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `xdev bench mine`, as its help says them."""

    target: str
    devices: tuple[str, ...]
    inputs: str | None
    dtype: str | None
    jit: bool
    seconds: float


def mine(options: Options, *, as_json: bool) -> bool:
    """Time the function and print the table and the recommendation; return whether it ran anywhere."""
    screen = console(error=as_json)
    with standard_output_kept() if as_json else contextlib.nullcontext():
        found = source.load(options.target, options.inputs)
        if options.jit and found.calling != "inputs":
            raise ConfigurationError(
                f"--jit compiles a function of arrays, and {found.name} takes none; leave --jit out, or give it inputs"
            )
        on = contenders.choose(options.devices)
        plan = plan_of(options.seconds)
        notes = busy()
        with _wide(found, options.dtype), Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink):
            cases = [(where, functools.partial(_case, found, where, options)) for where in on.devices]
            measured = measure(cases, plan)
        points = list(measured.points.values())
        notes = [*_notes(found, points, options), *notes]
        recommended, why = recommend(points) if points else (None, "")
        _show(screen, found, on, measured, why)
        for note in notes:
            screen.print(note, soft_wrap=True)
        if not points:
            screen.print("it ran on no device", style="red")
    if as_json:
        print_json(
            {
                "function": found.name,
                "inputs": [_described(leaf) for leaf in tree.leaves(found.inputs)],
                "points": [point_as_dict(point) for point in points],
                "failures": [{"device": str(where), "reason": text} for where, text in measured.failures.items()],
                "left_out": on.left_out_as_dicts(),
                "recommended": None if recommended is None else str(recommended.device),
                "why": why or None,
                "notes": notes,
            }
        )
    return bool(points)


def _case(found: source.Source, where: Device, options: Options) -> Case:
    """Return the case of a function on a device."""
    function = jit(found.function) if options.jit and _compiles(where) else found.function
    if found.calling == "device":
        work: Callable[[Any], Any] = lambda _: function(where)  # noqa: E731
    elif found.calling == "nothing":
        work = lambda _: function()  # noqa: E731
    else:
        work = lambda placed: function(*placed)  # noqa: E731
    inputs = tree.map(lambda leaf: _fitting(leaf, where, options.dtype), found.inputs)
    return Case(where, inputs, work, checked=True)


def _fitting(leaf: Any, where: Device, dtype: str | None) -> Any:
    """Return an input with the dtype asked for, and with integers of 32 bits where the device has no others."""
    return leaf if native_of(leaf) is None else convert(leaf, where, dtype, quiet=True)[0]


def _wide(found: source.Source, dtype: str | None) -> contextlib.AbstractContextManager[None]:
    """Return a block in which every framework computes in 64 bits, if the inputs have them."""
    has = any(_dtype(leaf) in WIDE_DTYPES for leaf in tree.leaves(found.inputs))
    if dtype == "float64" or (dtype is None and has):
        return precision("float64")
    return contextlib.nullcontext()


def _compiles(where: Device) -> bool:
    return type(where.backend).jit is not Backend.jit


def _dtype(leaf: Any) -> str:
    return dtype_name(leaf.dtype) if hasattr(leaf, "dtype") else ""


def _described(leaf: Any) -> str:
    return f"{_dtype(leaf)} {tuple(leaf.shape)}" if native_of(leaf) is not None else repr(leaf)


# -- what the user should know -------------------------------------------------------------------------


def _notes(found: source.Source, points: Sequence[Point], options: Options) -> list[str]:
    notes = differences(points)
    writing = [str(point.device) for point in points if point.writes]
    if writing:
        notes.append(
            f"It writes into its inputs on {joined(writing)}: each call there begins with what the last one left. "
            "Let it work on a copy."
        )
    devices = [point.device for point in points]
    compiling = [str(where) for where in devices if _compiles(where)]
    if compiling and found.calling == "inputs" and not options.jit:
        notes.append(f"It was not compiled for {joined(compiling)}, unless it does so itself; --jit compiles it.")
    is_gpu = any(where.is_accelerator for where in devices)
    if is_gpu and options.dtype is None and any(_dtype(leaf) in WIDE_DTYPES for leaf in tree.leaves(found.inputs)):
        notes.append(
            "The inputs are float64, with which most accelerators are slow; --dtype float32 times it with float32."
        )
    return notes


def differences(points: Sequence[Point]) -> list[str]:
    """Return a warning for each device whose result is another than the reference's."""
    if len(points) < 2:
        return []
    reference = contenders.reference_of(point.device for point in points)
    expected = next(point.result for point in points if point.device is reference)
    found = []
    for point in points:
        if point.device is not reference:
            said = _difference(point.result, expected)
            if said:
                found.append(f"Results differ: {point.device} gives {said} {reference}.")
    return found


def _difference(got: Any, expected: Any) -> str:
    """Say how a result differs from another, up to the name of the other's device; "" if it does not."""
    a, b = (tree.leaves(each) for each in (got, expected))
    if len(a) != len(b):
        return f"{len(a)} arrays, and {len(b)} on"
    largest = 0.0
    for x, y in zip(map(np.atleast_1d, a), map(np.atleast_1d, b), strict=True):
        if x.shape != y.shape:
            return f"the shape {x.shape}, and {y.shape} on"
        if x.dtype.kind not in "biufc" or y.dtype.kind not in "biufc":  # text, or numbers that NumPy has not itself
            continue
        if x.dtype != y.dtype:
            return f"{x.dtype}, and {y.dtype} on"
        kind = np.complex128 if x.dtype.kind == "c" else np.float64
        with np.errstate(invalid="ignore"):
            far = np.abs(x.astype(kind) - y.astype(kind))
        far[(x == y) | ((x != x) & (y != y))] = 0.0  # infinities, and NaN at the same places
        scale = np.max(np.abs(y[np.isfinite(y)]), initial=0.0) or 1.0
        relative = float(np.max(far, initial=0.0)) / float(scale)
        allowed = math.sqrt(np.finfo(x.dtype).eps) if x.dtype.kind in "fc" else 0.0
        if not relative <= allowed:
            largest = max(largest, math.inf if math.isnan(relative) else relative)
    if not largest:
        return ""
    if math.isinf(largest):
        return "NaN or infinities where there are none on"
    return f"numbers up to {largest:.1e} of the largest away from those of"


# -- the table -----------------------------------------------------------------------------------------


def _show(screen: Console, found: source.Source, on: contenders.Contenders, measured: Measured, why: str) -> None:
    """Print the numbers of each device, and the recommendation."""
    given = ", ".join(_described(leaf) for leaf in tree.leaves(found.inputs))
    called = {"inputs": f"with {given}", "device": "with a device", "nothing": "with nothing"}[found.calling]
    screen.print(f"{found.name} {called}")
    on.tell(screen)
    points = list(measured.points.values())
    if points:
        screen.print()
        screen.print(_table(screen.width, points))
    for where, text in measured.failures.items():
        screen.print(Text.assemble(f"{where} ", ("failed", "red"), f": {text}"))
    if why:
        screen.print()
        screen.print(Text(why, style="bold"))


def _table(width: int, points: Sequence[Point]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2 if width >= WIDE else 1, 0, 0))
    headings = (
        "\ndevice",
        "\na call",
        "\nquartiles",
        "first\ncall",
        "moving\nthere",
        "\nand back",
        "a call\nand moving",
    )
    for place, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if place else "left", no_wrap=True)
    first = leaders([point.call for point in points])
    for place, point in enumerate(points):
        mark = ("*" if len(first) == 1 else "~") if place in first and len(points) > 1 else " "
        unit = unit_of(point.call.middle)
        moving = [duration(each.middle) if each.middle else "–" for each in (point.there, point.back)]
        grid.add_row(
            str(point.device),
            duration(point.call.middle) + mark,
            f"{in_unit(point.call.low, unit)}–{in_unit(point.call.high, unit)} {unit[0]}",
            duration(point.first),
            *moving,
            duration(point.moved.middle),
            style="bold" if mark == "*" else "",
        )
    return grid
