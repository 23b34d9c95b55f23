"""Which backends and devices can be used here, why the others cannot, and what bites where several are used.

Requirements: one broken backend takes no other down, whatever it raises.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .. import registry
from ..contract import Backend, Finding
from ..device import Device, device, from_handle
from ..errors import DeviceError, UnknownBackendError, XdevError

__all__ = [
    "Found",
    "cores",
    "findings",
    "named_devices",
    "reason",
    "survey",
    "thread_findings",
    "threads",
    "usable",
    "words_of",
]

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where a container's share of the machine is written, as microseconds of each period."""


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


def words_of(options: Iterable[str]) -> list[str]:
    """Return the names in options --device, each of which may have several.

    Raises
    ------
    DeviceError
        If there are options, and no names in them.
    """
    given = list(options)
    words = [word.strip() for text in given for word in text.split(",") if word.strip()]
    if given and not words:
        raise DeviceError('--device is empty; say "all", or devices such as numpy,torch:cuda:0')
    return words


def named_devices(names: Iterable[str | None]) -> tuple[list[Device], list[tuple[str | None, str]]]:
    """Return the devices of these names, None for the default one, and (name, reason) of what cannot be used.

    Raises
    ------
    DeviceError
        If a name is none of a device.
    UnknownBackendError
        If there is no such backend.
    """
    devices, failed = [], []
    for name in names:
        try:
            devices.append(device(name))
        except (DeviceError, UnknownBackendError):  # there is no such thing: the command line is wrong
            raise
        except Exception as error:  # noqa: BLE001  a plug-in may raise anything
            failed.append((name, reason(error)))
    return devices, failed


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


# -- what bites --------------------------------------------------------------------------------------


def findings(entry: Found, found: list[Found]) -> list[Finding]:
    """Return what a backend says of itself, warnings first, without what bites beside other frameworks only."""
    if entry.backend is None:
        return []
    try:
        listed = list(entry.backend.diagnose())
    except Exception as error:  # noqa: BLE001  a plug-in may raise anything; it is a finding
        text = f"its own diagnosis failed: {reason(error)}"
        return [Finding("warning", text, "Tell the authors of the plug-in.")]
    elsewhere = {device.hardware for other in found if other is not entry for device in other.devices}
    kept = (finding for finding in listed if not finding.hardware or finding.hardware in elsewhere)
    return sorted(kept, key=lambda finding: finding.level != "warning")


def cores() -> int:
    """Return how many cores this process may use, by its affinity and the quota of its container."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        count = os.cpu_count() or 1
    try:
        quota, period = map(int, CPU_QUOTA.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no container, or "max", which is none
        return count
    return max(1, min(count, quota // period))


def threads(found: list[Found]) -> dict[str, tuple[int, str]]:
    """Return of each backend that says so the number of its threads, and how to set it."""
    counts = {}
    for entry in found:
        try:
            said = entry.backend.threads() if entry.backend is not None and entry.devices else None
        except Exception:  # noqa: BLE001  a report goes on without it
            said = None
        if said is not None:
            counts[entry.name] = said
    return counts


def thread_findings(counts: dict[str, tuple[int, str]], available: int) -> Iterator[Finding]:
    """Say where the frameworks' threads are more than the cores, each alone and all together."""
    of = f"{available} core{'s' if available > 1 else ''}"
    for name, (count, how) in counts.items():
        if count > available:
            yield Finding(
                "warning",
                f"{name} computes with {count} threads, and this process has {of}",
                f"With n={available}, {how}.",
            )
    total = sum(count for count, _ in counts.values())
    if len(counts) > 1 and total > available:
        each = ", ".join(f"{name} {count}" for name, (count, _) in counts.items())
        yield Finding(
            "note",
            f"the frameworks together have {total} threads for {of} ({each}), and slow each other down where two "
            "compute at once",
            f"Give each its share then: {'; '.join(f'{name}: {how}' for name, (_, how) in counts.items())}.",
        )
