"""Which backends and devices can be used here, and why the others cannot.

Requirements: one broken backend takes no other down, whatever it raises.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import registry
from ..contract import Backend
from ..device import Device, from_handle
from ..errors import XdevError

__all__ = ["Found", "reason", "survey", "usable"]


@dataclass
class Found:
    """A known backend as it is on this machine.

    Attributes
    ----------
    name : str
        The backend's name.
    backend : Backend or None
        None if it does not start.
    devices : list of Device
        Best first; empty if it cannot be used.
    reason : str
        Why it cannot be used, and the remedy.
    """

    name: str
    backend: Backend | None = None
    devices: list[Device] = field(default_factory=list)
    reason: str = ""


def reason(error: Exception) -> str:
    """Return what an error says, with its type if it is not one of xdev's."""
    text = " ".join(str(error).split())
    return text if isinstance(error, XdevError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def survey() -> list[Found]:
    """Look at every known backend, best first, importing the frameworks."""
    found = []
    for name in registry.names():
        entry = Found(name)
        found.append(entry)
        try:
            entry.backend = registry.backend(name)
            listed = [info for info in entry.backend.devices() if info.listed]
            entry.devices = [from_handle(entry.backend, info.handle) for info in listed]
        except Exception as error:  # noqa: BLE001  a plug-in may raise anything; it is reported here
            entry.reason = reason(error)
        else:
            if not listed:
                entry.reason = "it lists no device"
    return found


def usable(found: list[Found]) -> list[Device]:
    """Return the devices of a survey in the order of `xdev.devices()`: accelerators first."""
    return sorted((device for entry in found for device in entry.devices), key=lambda d: not d.is_accelerator)
