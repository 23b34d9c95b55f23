"""What commands print: consoles, tables and JSON.

Requirements: text is printed as it is, since names in brackets are no markup here; what is piped is not squeezed into
80 columns.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["console", "print_json", "standard_output_kept", "table"]

PIPED_WIDTH = 120
WIDE = 110
"""From so many columns on, there is room between those of a table."""


def console(*, error: bool = False) -> Console:
    """Return a console on standard output or standard error."""
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


@contextlib.contextmanager
def standard_output_kept() -> Iterator[None]:
    """Send to standard error what anything within prints, so that standard output stays one JSON object."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(content: Any) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(content, indent=2, allow_nan=False))


def table(headings: Sequence[str], *, numbers: Sequence[str] = (), width: int = WIDE, fold: str = "") -> Table:
    """Return an empty table whose columns of `numbers` are aligned to the right; one column may fold long text."""
    made = Table(box=None, padding=(0, 2 if width >= WIDE else 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading in numbers
        made.add_column(
            Text(heading, justify="right" if right else "left"),
            justify="right" if right else "left",
            vertical="bottom" if right else "top",
            no_wrap=heading != fold,
            overflow="fold" if heading == fold else "ellipsis",
        )
    return made
