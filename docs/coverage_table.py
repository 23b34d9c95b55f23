"""Write concepts/coverage_table.md: which functions have derivatives on which framework, found by taking them.

    python docs/coverage_table.py

A test compares the page with what happens on the machine that it runs on.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "concepts" / "coverage_table.md"

HEAD = """\
# Table of derivatives

Every function and operator of the Array API standard {revision}, on every backend. Made by `docs/coverage_table.py`,
which takes the derivatives of the calls in `tests/cases.py` in float64 and complex128, and compares them with finite
differences; a test compares the page with what happens. Operators are tried with the array on the left, on the right,
and in place. [How the tape works](tape.md) says what stands behind NumPy, CuPy and strict; torch and JAX
differentiate by themselves.

| cell | value | first derivative | second derivative |
|---|---|---|---|
| v 1 2 | right | right | right |
| v 0 0 | right | zero, as the function is flat | zero |
| v | right, and a constant: the function makes or tells something | | |
| part | v 1 2, but for some calls: the number leads to which | | |
| – | in the place of what is not right, or not there; the number leads to the reason | | |
"""


def page():
    """Return the page's text."""
    import xdev
    from tests.coverage import COMPLETE, FRAMEWORKS, REASONS, ROWS, cell
    from tests.standard import REVISION

    devices = {name: xdev.device(name) for name in FRAMEWORKS}
    parts, notes = [HEAD.format(revision=REVISION)], []
    for category, names in ROWS.items():
        lines = [f"## {category}\n", f"| function | {' | '.join(FRAMEWORKS.values())} |", "|---" * 6 + "|"]
        for name in names:
            cells = []
            for framework, device in devices.items():
                found = cell(name, device)
                if found not in COMPLETE:
                    reason = REASONS[name, framework]
                    if reason not in notes:
                        notes.append(reason)
                    found += f" ({notes.index(reason) + 1})"
                cells.append(found)
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    parts.append("## Reasons\n\n" + "\n".join(f"{k}. {note}" for k, note in enumerate(notes, start=1)) + "\n")
    return "\n".join(parts)


def cells_of(text):
    """Return {(function, framework's heading): cell without its number} of the page's tables."""
    found, columns = {}, []
    for line in text.splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if line.startswith("| function"):
            columns = parts[1:]
        elif line.startswith("| `"):
            name = parts[0].strip("`")
            found |= {(name, column): cell.partition(" (")[0] for column, cell in zip(columns, parts[1:], strict=True)}
    return found


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
