"""Write concepts/transfer_table.md: what becomes of arrays on their way, found by moving them.

    python docs/transfer_table.py

A test compares the page with what happens on the machine that it runs on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "concepts" / "transfer_table.md"

HEAD = """\
# Table of transfers

Made by `docs/transfer_table.py`, which moves an array of every dtype and layout between every two devices. Tests
compare it with what happens. [Transfers](transfer.md) says why. JAX stands here without x64, and the GPUs are CuPy's.

## By dtype

What `xdev.to_device(x, target)` does with an array in C order. *same*: the same object comes back. *view*: memory is
shared, and writing on one side shows on the other. *copy*: it is not. *error*: a `DTypeError` says what to do, such as
`dtype="float32"`. *—*: the source has no such arrays.
"""
LAYOUTS_HEAD = """\
## By layout

Of `copy=None` and, after the stroke, of `copy=False`, for arrays of float32 (complex64 for a conj view). *error*: a
`CopyRequiredError` says why. NumPy's memory is aligned to 64 bytes here, as JAX needs it; a row is not. Pairs of
devices that are left out copy every layout, and refuse `copy=False`. `copy=True` copies everywhere. Arrays without
elements have no memory to share.
"""


def tables():
    """Yield (heading, rows, columns, cells) of each table; what this machine has not is left out."""
    from tests import arrays

    devices = arrays.devices()
    grouped: dict = {}
    for dtype in arrays.DTYPES:
        cells = {(str(s), str(t)): by_dtype(s, t, dtype) for s in devices for t in devices}
        grouped.setdefault(tuple(cells.items()), []).append(dtype)
    names = [str(device) for device in devices]
    for cells, dtypes in grouped.items():
        yield ", ".join(dtypes), names, names, dict(cells)
    pairs = [(s, t) for s in devices for t in devices if s is not t]
    shared = [(s, t) for s, t in pairs if any("view" in by_layout(s, t, layout) for layout in arrays.LAYOUTS)]
    for source in dict.fromkeys(s for s, _ in shared):
        targets = [t for s, t in shared if s is source]
        layouts = [layout for layout in arrays.LAYOUTS if by_layout(source, targets[0], layout) != "—"]
        cells = {(layout, str(t)): by_layout(source, t, layout) for layout in layouts for t in targets}
        yield f"From {source}", layouts, [str(t) for t in targets], cells


def by_dtype(source, target, dtype):
    from tests.outcomes import outcome

    found = outcome(source, target, dtype, "C order")
    return {None: "—", "DTypeError": "error"}.get(found, found)


def by_layout(source, target, layout):
    from tests.arrays import LAYOUTS
    from tests.outcomes import outcome

    dtype = "float32" if "float32" in LAYOUTS[layout].dtypes else "complex64"
    found = [outcome(source, target, dtype, layout, copy) for copy in (None, False)]
    if found[0] is None:
        return "—"
    return " / ".join({"CopyRequiredError": "error"}.get(each, each) for each in found)


def page():
    """Return the page's text."""
    parts = [HEAD]
    for heading, rows, columns, cells in tables():
        if heading.startswith("From ") and LAYOUTS_HEAD not in parts:
            parts.append(LAYOUTS_HEAD)
        corner = "layout" if heading.startswith("From ") else r"from \ to"
        lines = [f"### {heading}\n", f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {row} | {' | '.join(cells[row, column] for column in columns)} |" for row in rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def cells_of(text):
    """Return {(dtype or source, row, column): cell} of the tables of a page."""
    found = {}
    columns: list[str] = []
    headings: list[str] = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if line.startswith("### "):
            headings, columns = line[4:].split(", "), []
        elif line.startswith("|---"):
            continue
        elif line.startswith("|") and not columns:
            columns = parts[1:]
        elif line.startswith("|"):
            found |= {
                (heading, parts[0], column): cell
                for heading in headings
                for column, cell in zip(columns, parts[1:], strict=True)
            }
    return found


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    sys.path.insert(0, str(ROOT))
    from tests import arrays

    missing = set(arrays.DEVICES) - set(map(str, arrays.devices()))
    if missing:
        sys.exit(f"not on this machine: {', '.join(sorted(missing))}; the page needs them all")
    PAGE.write_text(page(), encoding="utf-8")
