"""The devices that are timed, and those that are left out, each with its reason.

Requirements: an emulated device is never timed, not even when it is named: its speed says nothing about a real one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from ...device import Device
from ...errors import DeviceError
from ..survey import named_devices, survey, usable, words_of
from .words import joined

__all__ = ["Contenders", "choose", "reference_of"]

EMULATED = "emulated, and an emulation's speed says nothing about a real device's"


@dataclass
class Contenders:
    """The devices to time, best first, and (name, reason) of what is left out."""

    devices: list[Device]
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def tell(self, screen: Console) -> None:
        """Print what is left out, one line a reason."""
        by_reason: dict[str, list[str]] = {}
        for name, why in self.left_out:
            by_reason.setdefault(why, []).append(name)
        for why, names in by_reason.items():
            screen.print(f"Left out: {joined(names)}: {why}.")

    def left_out_as_dicts(self) -> list[dict[str, str]]:
        """Return what is left out as JSON has it."""
        return [{"device": name, "reason": why} for name, why in self.left_out]


def choose(options: Sequence[str]) -> Contenders:
    """Return the devices that the options --device ask for; all real ones if there are none.

    Raises
    ------
    DeviceError
        If a name is none of a device, or nothing is left to time.
    UnknownBackendError
        If there is no such backend.
    """
    words = words_of(options)
    devices, failed = named_devices(word for word in words if word != "all")
    found = Contenders(devices, [(name or "", why.rstrip(".")) for name, why in failed])
    if "all" in words or not words:
        _add_all(found)
    found.devices = list(dict.fromkeys(found.devices))
    emulated = [where for where in found.devices if "emulat" in where.name.lower()]
    found.devices = [where for where in found.devices if where not in emulated]
    found.left_out += [(str(where), EMULATED) for where in emulated]
    if not found.devices:
        why = "; ".join(f"{name}: {text}" for name, text in found.left_out)
        raise DeviceError(f"no device to time. {why or 'No backend is usable'}; `xdev doctor` says more")
    return found


def _add_all(found: Contenders) -> None:
    """Add one device of each kind of hardware, and say what else there is."""
    entries = survey()
    seen: dict[tuple[str, str, str], Device] = {}
    for where in usable(entries):
        if where in found.devices:
            continue
        like = seen.setdefault((where.backend.name, where.kind, where.name), where)
        if where.backend.capabilities.checks_only:
            found.left_out.append((str(where), "they check code and are not for speed; --device times them"))
        elif like is not where and "emulat" not in where.name.lower():
            found.left_out.append((str(where), f"the same hardware as {like} by its name; --device times it"))
        else:
            found.devices.append(where)
    found.left_out += [(e.name, "not usable here; `xdev doctor` says why") for e in entries if not e.devices]


def reference_of(devices: Iterable[Device]) -> Device:
    """Return the device that the others are compared with: the host, else the first CPU, else the last one."""
    listed = list(devices)
    cpus = [where for where in listed if not where.is_accelerator]
    return next((where for where in listed if where.is_host), cpus[0] if cpus else listed[-1])
