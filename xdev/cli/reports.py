"""What `xdev devices`, `xdev doctor` and `xdev test-backend` say."""

from __future__ import annotations

import os
import platform
from typing import Any

from rich.text import Text

from .. import __version__, registry
from ..device import Device
from ..device import device as find_device
from ..ledger_table import format_bytes
from . import survey
from .output import console, print_json, standard_output_kept, table

__all__ = ["conformance", "devices", "doctor"]


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


def doctor(*, as_json: bool) -> None:
    """Print the state of each known backend."""
    with standard_output_kept():
        entries = [_examine(found) for found in survey.survey()]
    content = {
        "xdev": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "environment": {name: os.environ[name] for name in ("XDEV_DEVICE", "XDEV_BACKENDS") if name in os.environ},
        "backends": entries,
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
        text = Text(words)
        for finding in entry["findings"]:
            text.append(f"\n! {finding['finding']}")
            text.append(f"\n  {finding['remedy']}", style="italic")
        state = Text("usable", style="green") if entry["usable"] else Text("not usable", style="yellow")
        grid.add_row(entry["backend"], entry["version"] or "–", state, text)
    out.print(grid)


def _examine(found: survey.Found) -> dict[str, Any]:
    version = None
    findings: list[tuple[str, str]] = []
    if found.backend is not None:
        try:
            version = found.backend.version()
            findings = [(str(what), str(remedy)) for what, remedy in found.backend.diagnose()]
        except Exception as error:  # noqa: BLE001  a plug-in may raise anything; it is a finding
            findings = [(f"its own diagnosis failed: {survey.reason(error)}", "Tell the authors of the plug-in.")]
    return {
        "backend": found.name,
        "version": version,
        "usable": bool(found.devices),
        "reason": found.reason or None,
        "devices": [str(device) for device in found.devices],
        "findings": [{"finding": what, "remedy": remedy} for what, remedy in findings],
    }


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
