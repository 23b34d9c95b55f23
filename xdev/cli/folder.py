"""The folder of a run: made, and tried out, before anything is computed."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

from ..errors import FileError

__all__ = ["create", "write_traceback"]


def create(out: Path, name: str, prefix: str) -> Path:
    """Make a run's folder.

    Parameters
    ----------
    out : Path
        The folder of all runs; made if it is not there.
    name : str
        The run's name, or "" for the prefix and the time.
    prefix : str
        What such a name begins with.

    Returns
    -------
    Path
        A new folder that can be written to.

    Raises
    ------
    FileError
        If it cannot be made or written to, or is there already.
    """
    if name and (Path(name).name != name or name in (".", "..")):
        raise FileError(f"--name {name!r} is not the name of a folder; --out says where that folder lies")
    try:
        out.mkdir(parents=True, exist_ok=True)
        place = _new(out, name) if name else _dated(out, prefix)
        probe = place / "metrics.jsonl"
        probe.touch()
    except OSError as error:
        raise FileError(
            f"cannot write to {out}: {error.strerror or error}; say where with --out FOLDER (nothing was computed yet)"
        ) from error
    return place


def _new(out: Path, name: str) -> Path:
    place = out / name
    if place.exists():
        raise FileError(f"{place} is there already, and no run is overwritten; give another --name or --out")
    place.mkdir()
    return place


def _dated(out: Path, prefix: str) -> Path:
    base = f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        place = out / (base if number == 1 else f"{base}-{number}")
        try:
            place.mkdir()
        except FileExistsError:  # another run of the same second
            number += 1
        else:
            return place


def write_traceback(place: Path, stem: str, error: Exception) -> Path:
    """Write the traceback of an error into a run's folder, and return the file."""
    path = place / f"{stem}-error.txt"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return path
