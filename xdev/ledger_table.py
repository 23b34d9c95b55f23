"""The ledger as a table for people: the lines of code that moved most, first."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ledger import TransferRecord, Transfers

__all__ = ["format_bytes", "render"]

ROWS = 20
PIPED_WIDTH, WIDE, NARROWEST = 120, 110, 80
"""Columns where no terminal says; from how many a path stands beside its line of code, not below; the fewest."""


def format_bytes(count: float) -> str:
    """Return a number of bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def render(transfers: Transfers) -> str:
    """Return the ledger as text."""
    from rich.console import Console
    from rich.table import Table

    groups: dict[tuple[str, ...], list[TransferRecord]] = defaultdict(list)
    for record in transfers.records:
        groups[record.where, record.path, record.source, record.target, record.kind].append(record)
    ranked = sorted(groups.items(), key=lambda item: -sum(record.nbytes for record in item[1]))
    width = max(NARROWEST, shutil.get_terminal_size((PIPED_WIDTH, 24)).columns)
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 1) if wide else (0, 1, 0, 0))
    for heading in ("where", "path") if wide else ("where, path",):
        table.add_column(heading, overflow="fold")
    for heading in ("from", "to"):
        table.add_column(heading, overflow="fold")
    table.add_column("kind", no_wrap=True)
    for heading in ("times", "bytes", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (where, path, source, target, kind), records in ranked[:ROWS]:
        total = sum(record.nbytes for record in records)
        milliseconds = 1e3 * sum(record.seconds for record in records)
        short = where
        with contextlib.suppress(ValueError):  # another drive
            short = min(os.path.relpath(where), where, key=len)
        table.add_row(
            *((short, path) if wide else (f"{short}\n  {path}" if path else short,)),
            *(source, target, kind),
            *(f"{len(records):,}", format_bytes(total), f"{milliseconds:.2f}"),
        )
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None, markup=False, emoji=False)
    console.print(
        f"to device {format_bytes(transfers.to_device_bytes)} in {transfers.to_device_count}, "
        f"to host {format_bytes(transfers.to_host_bytes)} in {transfers.to_host_count}, "
        f"between devices {format_bytes(transfers.between_devices_bytes)} in {transfers.between_devices_count}",
        soft_wrap=True,
    )
    if ranked:
        console.print(table)
    if len(ranked) > ROWS:
        console.print(f"… and {len(ranked) - ROWS} more lines")
    return out.getvalue().rstrip()
