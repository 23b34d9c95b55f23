"""The other commands: what they print, in words and as JSON, and that no broken backend stops them."""

import json

import pytest
from typer.testing import CliRunner

import xdev
from xdev import registry
from xdev.cli import app, reports, survey
from xdev.errors import BackendUnavailable


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(params=[BackendUnavailable("no driver; install one"), RuntimeError("anything at all")], ids=type)
def broken(request):
    """Register a backend that starts, and whose every report raises."""

    class Broken(type(xdev.backend("numpy"))):
        name = "broken"
        framework = "no_such_framework"
        is_host = False
        priority = -1

        def devices(self):
            raise request.param

        def diagnose(self):
            raise request.param

    xdev.register(Broken)
    yield request.param
    registry.unregister("broken")


def test_version():
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout == f"xdev {xdev.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("devices", "doctor", "test-backend", "train")),
        (("train",), ("digits",)),
        (("train", "digits"), ("--device", "--epochs", "--json", "--out")),
    ],
)
def test_help_names_what_there_is(arguments, words):
    result = invoke(*arguments, "--help")
    assert result.exit_code == 0
    assert not [word for word in words if word not in result.stdout]


@pytest.mark.parametrize(("arguments", "nearest"), [(("devcies",), "devices"), (("train", "digts"), "digits")])
def test_unknown_commands_get_a_suggestion(arguments, nearest):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert f"Did you mean '{nearest}'?" in result.stderr


def test_control_c_is_no_traceback(monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reports, "devices", interrupted)
    result = invoke("devices")
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


# -- devices -----------------------------------------------------------------------------------------


def test_devices_lists_what_xdev_lists():
    found = json.loads(invoke("devices", "--json").stdout)["devices"]
    assert [entry["device"] for entry in found] == [str(device) for device in xdev.devices()]
    assert [entry["device"] for entry in found if entry["default"]] == [str(xdev.device())]
    for entry in found:
        assert entry["device"] == f"{entry['backend']}:{entry['kind']}:{entry['index']}"
        assert entry["memory_total"] is None or 0 <= entry["memory_free"] <= entry["memory_total"]


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"XDEV_DEVICE": "numpy"}, "numpy:cpu:0 is the default, since XDEV_DEVICE=numpy says so."),
        (
            {"XDEV_BACKENDS": "numpy"},
            "numpy:cpu:0 is the default: no accelerator is usable, and it is the first in the order numpy "
            "(by XDEV_BACKENDS).",
        ),
        ({"XDEV_DEVICE": "numpy:9"}, "No default device: XDEV_DEVICE=numpy:9"),
    ],
)
def test_devices_says_why_one_is_the_default(monkeypatch, environment, why):
    for name in ("XDEV_DEVICE", "XDEV_BACKENDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = invoke("devices")
    assert result.exit_code == 0
    assert why in " ".join(result.stdout.split())
    assert json.loads(invoke("devices", "--json").stdout)["why"].startswith(why)


def test_a_wrong_list_of_backends_is_an_error(monkeypatch):
    monkeypatch.setenv("XDEV_BACKENDS", "numpie")
    result = invoke("devices")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: XDEV_BACKENDS names an unknown backend 'numpie'; did you mean 'numpy'?")


def test_devices_survives_a_broken_backend(broken):
    result = invoke("devices")
    assert result.exit_code == 0
    assert "numpy:cpu:0" in result.stdout
    assert "`xdev doctor` says why" in result.stdout


# -- doctor ------------------------------------------------------------------------------------------


def test_doctor_knows_every_backend():
    content = json.loads(invoke("doctor", "--json").stdout)
    assert [entry["backend"] for entry in content["backends"]] == registry.names()
    for entry in content["backends"]:
        assert set(entry) == {"backend", "version", "usable", "reason", "devices", "findings"}
        assert entry["usable"] == bool(entry["devices"]) == (entry["reason"] is None)
    text = invoke("doctor").stdout
    assert not [name for name in registry.names() if name not in text]


def test_doctor_tells_what_is_wrong_with_a_backend(broken):
    (entry,) = (e for e in json.loads(invoke("doctor", "--json").stdout)["backends"] if e["backend"] == "broken")
    assert not entry["usable"]
    assert str(broken) in entry["reason"]
    assert entry["findings"][0]["finding"].startswith("its own diagnosis failed")
    assert str(broken) in invoke("doctor").stdout


def test_a_foreign_error_is_named_by_its_type():
    assert survey.reason(RuntimeError("no\nkernel")) == "RuntimeError: no kernel"
    assert survey.reason(BackendUnavailable("no driver")) == "no driver"
    assert survey.reason(KeyError()) == "KeyError"


# -- test-backend ------------------------------------------------------------------------------------


def test_a_conforming_backend_passes():
    result = invoke("test-backend", "numpy")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].endswith(", 0 failed")
    assert json.loads(invoke("test-backend", "numpy", "--json").stdout)["passed"]


def test_a_backend_that_breaks_the_contract_fails():
    class Sharing(type(xdev.backend("numpy"))):
        name = "sharing"
        framework = "no_such_framework"
        is_host = False

        def clone(self, x):
            return x

    xdev.register(Sharing)
    try:
        result = invoke("test-backend", "sharing")
    finally:
        registry.unregister("sharing")
    assert result.exit_code == 1
    assert "FAILED  clone on sharing:cpu:0: clone() shares memory with its argument" in result.stdout


def test_an_unknown_backend_is_misuse():
    result = invoke("test-backend", "numpie")
    assert result.exit_code == 2
    assert "did you mean 'numpy'?" in result.stderr
