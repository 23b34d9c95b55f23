"""What `xdev devices`, `xdev doctor` and `xdev test-backend` say."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from .. import __version__, registry
from ..contract import Finding
from ..device import Device
from ..device import device as find_device
from ..errors import ConfigurationError
from ..ledger_table import format_bytes
from . import survey
from .output import console, print_json, standard_output_kept, table

__all__ = ["conformance", "devices", "doctor", "import_modules"]


# -- devices -----------------------------------------------------------------------------------------


def devices(*, as_json: bool) -> None:
    """Print the devices, best first."""
    with standard_output_kept():
        found = survey.survey()
        listed = survey.usable(found)
        default, why = _default()
        memories = {device: _memory(device) for device in listed}
    if as_json:
        rows = [_as_dict(device, memories[device], device is default) for device in listed]
        print_json({"devices": rows, "why": why})
        return
    out = console()
    grid = table(
        ["", "device", "memory", "free", "hardware"], numbers=["memory", "free"], width=out.width, fold="hardware"
    )
    for device in listed:
        total, free = memories[device] or (None, None)
        grid.add_row(
            "*" if device is default else "",
            str(device),
            "" if total is None else format_bytes(total),
            "" if free is None else format_bytes(free),
            device.name,
        )
    out.print(grid)
    out.print(f"* {why}" if default else why)
    missing = [entry.name for entry in found if not entry.devices]
    if missing:
        out.print(f"Not usable here: {', '.join(missing)}; `xdev doctor` says why.")


def _default() -> tuple[Device | None, str]:
    """Return the default device, and one sentence on why it is that."""
    wanted = os.environ.get("XDEV_DEVICE")
    try:
        chosen = find_device(None)
    except Exception as error:  # noqa: BLE001  a plug-in may raise anything, and the list is still of use
        return None, f"No default device: {survey.reason(error)}"
    if wanted:
        return chosen, f"{chosen} is the default, since XDEV_DEVICE={wanted} says so."
    order = ", ".join(registry.names())
    order += " (by XDEV_BACKENDS)" if os.environ.get("XDEV_BACKENDS") else ""
    if chosen.is_accelerator:
        return chosen, f"{chosen} is the default: the first accelerator, in the order {order}."
    return chosen, f"{chosen} is the default: no accelerator is usable, and it is the first in the order {order}."


def _memory(device: Device) -> tuple[int, int] | None:
    try:
        return device.memory()
    except Exception:  # noqa: BLE001  a report goes on without it
        return None


def _as_dict(device: Device, memory: tuple[int, int] | None, default: bool) -> dict[str, Any]:
    total, free = memory or (None, None)
    return {
        "device": str(device),
        "backend": device.backend.name,
        "kind": device.kind,
        "index": device.index,
        "name": device.name,
        "memory_total": total,
        "memory_free": free,
        "default": default,
    }


# -- doctor ------------------------------------------------------------------------------------------


def import_modules(names: Iterable[str]) -> None:
    """Import modules from the current folder or the environment, for what they do to the frameworks."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in names:
        try:
            with standard_output_kept():
                importlib.import_module(name)
        except Exception as error:
            raise ConfigurationError(f"the module {name!r} cannot be imported: {survey.reason(error)}") from error


def doctor(*, as_json: bool) -> None:
    """Print the state of each known backend, and what bites where they share this machine."""
    with standard_output_kept():
        found = survey.survey()
        counts, available = survey.threads(found), survey.cores()
        shared = list(survey.thread_findings(counts, available))
        own = {entry.name: survey.findings(entry, found) for entry in found}
        entries = [_examine(entry, own[entry.name]) for entry in found]
    content = {
        "xdev": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "environment": {name: os.environ[name] for name in ("XDEV_DEVICE", "XDEV_BACKENDS") if name in os.environ},
        "cores": available,
        "threads": {name: count for name, (count, _) in counts.items()},
        "backends": entries,
        "findings": [_finding_as_dict(finding) for finding in shared],
    }
    if as_json:
        print_json(content)
        return
    out = console()
    out.print(f"xdev {__version__}, Python {content['python']}, {content['platform']}")
    for name, value in content["environment"].items():  # type: ignore[attr-defined]  # it is a dict
        out.print(f"{name}={value}")
    grid = table(["backend", "version", "state", "devices, or why not"], width=out.width, fold="devices, or why not")
    for entry in entries:
        words = ", ".join(entry["devices"]) if entry["usable"] else entry["reason"]
        state = Text("usable", style="green") if entry["usable"] else Text("not usable", style="yellow")
        grid.add_row(entry["backend"], entry["version"] or "–", state, words)
    out.print(grid)
    _print_findings(out, [(name, each) for name, listed in own.items() for each in listed] + [("", f) for f in shared])


def _print_findings(out: Console, listed: list[tuple[str, Finding]]) -> None:
    """Print what was found, warnings first, each with its remedy below."""
    if not listed:
        return
    grid = table(["level", "of", "finding, and remedy"], width=out.width, fold="finding, and remedy")
    for name, finding in sorted(listed, key=lambda pair: pair[1].level != "warning"):
        level = Text(finding.level, style="yellow" if finding.level == "warning" else "")
        grid.add_row(level, name or "all", Text(finding.what).append(f"\n{finding.remedy}", style="italic"))
    out.print()
    out.print(grid)


def _examine(found: survey.Found, findings: list[Finding]) -> dict[str, Any]:
    version = None
    if found.backend is not None:
        with contextlib.suppress(Exception):  # a plug-in may raise anything
            version = found.backend.version()
    return {
        "backend": found.name,
        "version": version,
        "usable": bool(found.devices),
        "reason": found.reason or None,
        "devices": [str(device) for device in found.devices],
        "findings": [_finding_as_dict(finding) for finding in findings],
    }


def _finding_as_dict(finding: Finding) -> dict[str, str]:
    return {"level": finding.level, "finding": finding.what, "remedy": finding.remedy}


# -- test-backend ------------------------------------------------------------------------------------


def conformance(name: str, *, as_json: bool) -> bool:
    """Print the outcome of the conformance checks; return whether all passed."""
    from ..testing.conformance import check_backend

    with standard_output_kept():
        results = check_backend(name)
    failed = [result for result in results if not result.passed]
    if as_json:
        checks = [{"name": r.name, "passed": r.passed, "message": r.message} for r in results]
        print_json({"backend": name, "passed": not failed, "checks": checks})
        return not failed
    out = console()
    for result in results:
        out.print(str(result), style=None if result.passed else "red", soft_wrap=True)
    out.print(f"{name}: {len(results)} checks, {len(failed)} failed")
    return not failed
