"""The pytest plug-in: fixtures `backend`, `device` and `xp` that run a test once per backend.

Requirements: pytest. Nothing is loaded until a test asks for a fixture, or `--xdev` or `XDEV_TEST_BACKENDS`
choose backends, so that suites which use neither pay nothing. A test is parametrized over `Choice`s.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..contract import Backend
    from ..device import Device
    from ..namespaces import BoundNamespace

ENVIRONMENT = "XDEV_TEST_BACKENDS"
MARKER = "xdev_backends"


@dataclass(frozen=True)
class Choice:
    """A word of `--xdev` and what it stands for: a device, or the reason why there is none."""

    word: str
    device: Device | None
    unusable: str = ""


_choices = pytest.StashKey[list[Choice]]()


# -- choosing backends -------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("xdev", "tests that run on several array backends").addoption(
        "--xdev",
        metavar="BACKENDS",
        default=None,
        help="backends for the fixtures backend, device and xp, separated by commas: names (numpy,torch), "
        f"devices (torch:cuda:1), or 'all', the known ones. Default: {ENVIRONMENT}, else all.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARKER}(only=None, exclude=(), fails=None, scoped=True, reason=''): run on these backends only, "
        "or not on those, for the reason; `fails` maps a backend to why the test is known to fail there; "
        "scoped=False leaves it to what is tested to make the device current.",
    )
    # First in the list, so that a suite's own filters decide otherwise.
    config.getini("filterwarnings").insert(0, "error::xdev.errors.PromotionWarning")
    if _asked(config) is not None:
        choices(config)  # what was asked for and cannot be had ends the run here, before any test


def pytest_report_header(config: pytest.Config) -> list[str]:
    if _asked(config) is None:
        return []
    found = choices(config)
    ran = [_describe(choice.word, choice.device) for choice in found if choice.device is not None]
    lines = [f"xdev: {', '.join(ran) or 'no backend is usable'}"]
    return lines + [f"xdev: not {choice.word}: {choice.unusable}" for choice in found if choice.device is None]


def _describe(word: str, device: Device) -> str:
    where = f"on {device}"
    if "emulation" in device.name.lower():
        where += " (emulated)"
    return f"{word} {where}"


def _asked(config: pytest.Config) -> str | None:
    option = config.getoption("--xdev", default=None)
    return option if option is not None else os.environ.get(ENVIRONMENT)


def choices(config: pytest.Config) -> list[Choice]:
    """Return the backends of this run, finding them, and so importing their frameworks, the first time."""
    if _choices not in config.stash:
        config.stash[_choices] = _resolve(_asked(config) or "all")
    return config.stash[_choices]


def _resolve(asked: str) -> list[Choice]:
    from .. import registry
    from ..errors import XdevError

    found: list[Choice] = []
    for word in dict.fromkeys(part.strip() for part in asked.split(",") if part.strip()):
        by_name = word != "all"
        try:
            words = [word] if by_name else registry.names()
        except XdevError as error:
            raise pytest.UsageError(str(error)) from error
        for each in words:
            if each in [choice.word for choice in found]:
                continue
            try:
                found.append(Choice(each, _device(each)))
            except XdevError as error:
                if by_name:
                    raise pytest.UsageError(f"--xdev asks for {each!r}: {error}") from error
                found.append(Choice(each, None, str(error).splitlines()[0]))
    if not found:
        raise pytest.UsageError(f"--xdev={asked} names no backend; write --xdev=numpy,torch or --xdev=all")
    return found


def _device(word: str) -> Device:
    """Return the device that tests on a backend use: not the framework's default one, if there is another.

    Code that forgets to say where it creates an array then fails, on a machine without accelerators too.
    """
    from .. import registry
    from ..device import ACCELERATORS, device, from_handle

    if not registry.is_known(word):  # a device, such as torch:cuda:1 or gpu, or nothing known
        return device(word)
    backend = registry.backend(word)
    listed = [info for info in backend.devices() if info.listed]
    best = listed[0]
    others = [info for info in listed[1:] if best.kind not in ACCELERATORS or info.kind == best.kind]
    return from_handle(backend, (others[0] if others else best).handle)


# -- fixtures ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _xdev_device(request: pytest.FixtureRequest) -> Device:
    # Apart from `device`, so that a suite's own fixture or parameter of that name is left alone.
    return request.param.device  # type: ignore[no-any-return]  # pytest types it as Any


@pytest.fixture(scope="session")
def device(_xdev_device: Device) -> Device:
    """A device of the backend under test, not the framework's default one where it has several."""
    return _xdev_device


@pytest.fixture(scope="session")
def backend(_xdev_device: Device) -> Backend:
    """The backend under test."""
    return _xdev_device.backend


@pytest.fixture(scope="session")
def xp(_xdev_device: Device) -> BoundNamespace:
    """The Array API namespace whose creation functions create on `device`."""
    return _xdev_device.xp


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "_xdev_device" not in metafunc.fixturenames:
        return
    marks = [_read(mark) for mark in metafunc.definition.iter_markers(MARKER)]
    parameters = [
        pytest.param(choice, id=choice.word, marks=_marks(choice, marks)) for choice in choices(metafunc.config)
    ]
    metafunc.parametrize("_xdev_device", parameters, indirect=True, scope="session")


@dataclass(frozen=True)
class Marker:
    """What one `xdev_backends` mark says."""

    only: tuple[str, ...] | None
    exclude: tuple[str, ...]
    fails: dict[str, str]
    scoped: bool
    reason: str


def _read(mark: pytest.Mark) -> Marker:
    known = Marker.__dataclass_fields__
    extra = [*map(repr, mark.args), *(name for name in mark.kwargs if name not in known)]
    if extra:
        raise pytest.UsageError(f"{MARKER} takes {'=, '.join(known)}=; got {', '.join(extra)}")
    only, exclude = mark.kwargs.get("only"), mark.kwargs.get("exclude", ())
    fails, reason = mark.kwargs.get("fails") or {}, mark.kwargs.get("reason", "")
    if (only is not None or exclude) and not reason:
        raise pytest.UsageError(f"{MARKER} with only= or exclude= needs reason=, so that a skipped test says why")
    if not isinstance(fails, dict) or not all(isinstance(why, str) and why for why in fails.values()):
        raise pytest.UsageError(f"{MARKER}: fails= maps each backend's name to a reason, got {fails!r}")
    scoped = bool(mark.kwargs.get("scoped", True))
    return Marker(None if only is None else _words(only), _words(exclude), fails, scoped, reason)


def _words(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _marks(choice: Choice, marks: Sequence[Marker]) -> list[pytest.MarkDecorator]:
    name = choice.word if choice.device is None else choice.device.backend.name
    for mark in marks:
        if name in mark.exclude:
            return [pytest.mark.skip(reason=f"not on {name}: {mark.reason}")]
        if mark.only is not None and name not in mark.only:
            return [pytest.mark.skip(reason=f"only on {', '.join(mark.only)}: {mark.reason}")]
    if choice.device is None:
        return [pytest.mark.skip(reason=choice.unusable)]
    return [
        pytest.mark.xfail(reason=f"known on {name}: {mark.fails[name]}", strict=True)
        for mark in marks
        if name in mark.fails
    ]


def _choice_of(item: pytest.Item) -> Choice | None:
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("_xdev_device")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one item of a test for each backend that cannot be used, whatever the test's other parameters."""
    seen: set[tuple[object, ...]] = set()
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        choice = _choice_of(item)
        if choice is not None and choice.device is None:
            key = (item.parent, getattr(item, "originalname", item.name), choice.word)
            (dropped if key in seen else kept).append(item)
            seen.add(key)
        else:
            kept.append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


# -- running -----------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test with its device current where the framework's operators need that."""
    choice = _choice_of(item)
    device = None if choice is None else choice.device
    if device is None or not all(_read(mark).scoped for mark in item.iter_markers(MARKER)):
        return (yield)
    with device.scope() if _needs_scope(device) else contextlib.nullcontext():
        return (yield)


_needing_scope: dict[Device, bool] = {}


def _needs_scope(device: Device) -> bool:
    """Return whether operators fail, or work elsewhere, unless the device is the framework's current one."""
    found = _needing_scope.get(device)
    if found is None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                x = device.xp.zeros(1)
                found = device.backend.device_of(x + x) != device.info.handle
        except Exception:  # noqa: BLE001  each framework has its own error for it
            found = True
        _needing_scope[device] = found
    return found
