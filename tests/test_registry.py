"""Finding backends: lazily, with plug-ins that are broken, missing or badly named."""

import importlib.metadata
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import xdev
from xdev import registry
from xdev_numpy.backend import NumpyBackend


class Fake(NumpyBackend):
    name = "fake"
    framework = "fake_framework"
    install = "pip install fake-framework"
    is_host = False
    priority = 5

    def owns(self, x):
        return False


@pytest.fixture
def clean_registry(monkeypatch):
    """The registry as it is now, put back afterwards."""
    registry.names()
    for name in ("_classes", "_instances", "_broken", "owners"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


def make(**attributes):
    return type("Made", (Fake,), attributes)


def run(code, *, environment=None):
    """Run Python code in a process of its own and return what it prints."""
    import os

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- laziness ----------------------------------------------------------------------------------------


def test_importing_xdev_and_using_numpy_loads_no_framework():
    code = """
        import sys
        import numpy as np
        import xdev
        xdev.device_of(np.zeros(3)); xdev.namespace(np.zeros(3)); xdev.to_device([1.0], "numpy")
        print(sorted({"torch", "jax", "cupy", "array_api_strict"} & set(sys.modules)))
    """
    assert run(code) == "[]"


def test_naming_a_backend_loads_that_framework_only():
    pytest.importorskip("array_api_strict")
    code = """
        import sys
        import xdev
        xdev.device("strict")
        print(sorted({"torch", "jax", "cupy", "array_api_strict"} & set(sys.modules)))
    """
    assert run(code) == "['array_api_strict']"


def test_loaded_gives_only_what_is_imported():
    code = """
        import numpy as np
        from xdev import registry
        registry.find_backend(np.zeros(1))
        print([backend.name for backend in registry.loaded()])
    """
    assert run(code) == "['numpy']"


# -- the owner of an array ---------------------------------------------------------------------------


def test_every_array_has_its_owner(backend, xp):
    x = xp.ones((2, 3))
    assert xdev.backend_of(x) is backend
    assert xdev.backend_of(x) == backend.name
    assert registry.find_backend(x) is registry.owners[type(x)]


@pytest.mark.parametrize("x", [1, 2.0, "a", None, [1.0], object(), np.ma.masked_array([1.0])])
def test_what_is_no_array_has_none(x):
    assert registry.find_backend(x) is None
    with pytest.raises(xdev.ArrayTypeError, match=r"expected an array of a known framework \(.*numpy"):
        xdev.backend_of(x)


def test_a_backend_equals_its_name():
    numpy = xdev.backend("numpy")
    assert numpy == "numpy"
    assert numpy != "torch"
    assert {numpy: 1}["numpy"] == 1
    assert str(numpy) == "numpy"
    assert repr(numpy) == "<xdev backend 'numpy'>"


# -- order -------------------------------------------------------------------------------------------


def test_names_are_in_order_of_priority():
    assert [name for name in registry.names() if name != "mimic"] == ["torch", "jax", "cupy", "numpy", "strict"]


def test_xdev_backends_chooses_and_orders(monkeypatch):
    monkeypatch.setenv("XDEV_BACKENDS", " numpy , torch,numpy")
    assert registry.names() == ["numpy", "torch"]
    monkeypatch.setenv("XDEV_BACKENDS", " ,")
    assert len(registry.names()) > 2


def test_xdev_backends_with_an_unknown_name(monkeypatch):
    monkeypatch.setenv("XDEV_BACKENDS", "numpy,torhc")
    with pytest.raises(
        xdev.UnknownBackendError, match=r"XDEV_BACKENDS names an unknown backend 'torhc'; did you mean 'torch'\? Known:"
    ):
        registry.names()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nmpy", r"^there is no backend 'nmpy'; did you mean 'numpy'\? Known: "),
        ("NumPy", r"^there is no backend 'NumPy'; did you mean 'numpy'\? Known: "),
        ("zzz", r"^there is no backend 'zzz'\. Known: "),
        ("", r"^there is no backend ''\. Known: "),
        (None, "^backend takes a name such as 'torch', got None; a Device has the attribute `backend`"),
        (
            ["numpy"],
            r"^backend takes a name such as 'torch', got \['numpy'\]; .*xdev.backend_of\(x\) finds that of an array",
        ),
    ],
)
def test_an_unknown_backend(name, text):
    with pytest.raises(xdev.UnknownBackendError, match=text):
        xdev.backend(name)


# -- registering -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("clean_registry")
def test_a_registered_class_is_made_when_first_named():
    made = []

    class Counted(Fake):
        def __init__(self):
            super().__init__()
            made.append(self)

    before = registry.generation()
    xdev.register(Counted)
    assert not made
    assert registry.generation() > before
    assert xdev.backend("fake") is made[0]
    assert xdev.backend("fake") is made[0]
    assert len(made) == 1
    registry.unregister("fake")
    assert not registry.is_known("fake")


@pytest.mark.usefixtures("clean_registry")
def test_an_instance_can_be_registered():
    instance = Fake()
    xdev.register(instance)
    assert xdev.backend("fake") is instance


@pytest.mark.usefixtures("clean_registry")
def test_a_duplicate_is_refused():
    xdev.register(Fake)
    with pytest.raises(
        xdev.PluginError, match=r"a backend named 'fake' is registered already \(.*Fake\); give yours another name"
    ):
        xdev.register(make())


@pytest.mark.usefixtures("clean_registry")
@pytest.mark.parametrize(
    ("plugin", "text"),
    [
        (int, "is not a subclass of xdev.Backend"),
        (7, "is not a subclass of xdev.Backend"),
        (xdev.Backend, r"lacks device_of, devices, owns, place, to_host, name, framework; xdev.Backend says"),
        (
            make(place=lambda self, x, info: x),
            r"has a method place that cannot be called as place\(self, x: .*, copy: ",
        ),
        (make(place=lambda self, x, info, *, copy: x), "has a method place that cannot be called as"),
        (make(name="two words"), "has the name 'two words'; a backend's name is an identifier"),
        (make(name=None), "lacks name"),
    ],
)
def test_what_breaks_the_contract_is_refused(plugin, text):
    with pytest.raises(xdev.PluginError, match=text):
        xdev.register(plugin)


@pytest.mark.usefixtures("clean_registry")
def test_a_backend_without_a_namespace_is_refused():
    cls = make(__init__=lambda self: None)
    xdev.register(cls)
    with pytest.raises(xdev.PluginError, match="has no `xp`; its __init__ sets it"):
        xdev.backend("fake")
    assert xdev.backend("numpy") in xdev.backends()  # the others still work


# -- frameworks that are missing or broken -----------------------------------------------------------


def raising(error):
    def start(self):
        raise error

    return start


@pytest.mark.usefixtures("clean_registry")
def test_a_missing_framework_says_how_to_install_it():
    error = ModuleNotFoundError("No module named 'fake_framework'", name="fake_framework.sub")
    xdev.register(make(__init__=raising(error)))
    with pytest.raises(xdev.BackendUnavailable) as caught:
        xdev.backend("fake")
    assert str(caught.value) == (
        "backend 'fake' is not installed (No module named 'fake_framework'). Install it with: "
        "pip install fake-framework"
    )


@pytest.mark.usefixtures("clean_registry")
@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcudart.so: cannot open shared object file"),
        ModuleNotFoundError("No module named 'numpy.compat'", name="numpy.compat"),
        OSError("undefined symbol"),
        RuntimeError("no driver"),
    ],
)
def test_a_framework_that_does_not_start_says_why_and_leaves_others_alone(error):
    xdev.register(make(__init__=raising(error)))
    with pytest.raises(xdev.BackendUnavailable) as caught:
        xdev.backend("fake")
    assert str(caught.value).startswith("backend 'fake' is installed but does not start (")
    assert str(error) in str(caught.value)
    assert caught.value.__cause__ is error
    assert xdev.backend("numpy") in xdev.backends()
    assert "fake" not in [backend.name for backend in xdev.backends()]
    assert xdev.devices()
    assert xdev.device()


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("torch", "torch", "torch"), ("jax", "jax", "jax"), ("strict", "array_api_strict", "strict")],
)
def test_each_backend_without_its_framework_names_the_pip_command(name, module, extra):
    code = f"""
        import sys
        sys.modules[{module!r}] = None  # as if it were not installed
        import xdev
        try:
            xdev.device({name!r})
        except xdev.BackendUnavailable as error:
            print(error)
        assert xdev.device("numpy") in xdev.devices()
        assert {name!r} not in [backend.name for backend in xdev.backends()]
    """
    text = run(code, environment={"XDEV_BACKENDS": f"{name},numpy"})
    assert text.endswith(f"Install it with: pip install 'xdev-array[{extra}]'")


# -- entry points ------------------------------------------------------------------------------------


class Point:
    """An entry point, as importlib.metadata gives it."""

    def __init__(self, name, value, loaded):
        self.name, self.value, self._loaded = name, value, loaded

    def load(self):
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


@pytest.fixture
def entry_points(clean_registry, monkeypatch):
    """Set the installed plug-ins, and let the registry read them anew."""

    def install(*points):
        for name in ("_classes", "_instances", "_broken"):
            monkeypatch.setattr(registry, name, {})
        monkeypatch.setattr(registry, "_found_entry_points", False)
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: list(points))

    return install


NUMPY = Point("numpy", "xdev_numpy.backend:NumpyBackend", NumpyBackend)


@pytest.mark.parametrize(
    ("point", "text"),
    [
        (Point("bad", "bad:Backend", SyntaxError("oops")), "plug-in bad:Backend failed to load: SyntaxError: oops"),
        (Point("bad", "bad:Backend", ImportError("none")), "plug-in bad:Backend failed to load: ImportError: none"),
        (Point("bad", "bad:Backend", int), "is not a subclass of xdev.Backend"),
        (Point("bad", "bad:Backend", Fake), "calls itself 'fake'; the entry point and `name` must agree"),
    ],
)
def test_a_broken_plug_in_says_why_and_leaves_the_others_alone(entry_points, point, text):
    entry_points(point, NUMPY)
    assert registry.names() == ["numpy", "bad"]
    assert [backend.name for backend in xdev.backends()] == ["numpy"]
    with pytest.raises(xdev.BackendUnavailable, match="backend 'bad' cannot be used: ") as caught:
        xdev.backend("bad")
    assert text in str(caught.value)


def test_two_plug_ins_of_one_name_are_both_refused(entry_points):
    entry_points(NUMPY, Point("fake", "one:Fake", Fake), Point("fake", "two:Fake", make()))
    with pytest.raises(xdev.BackendUnavailable, match="two installed plug-ins are named 'fake', one of them two:Fake"):
        xdev.backend("fake")
    assert [backend.name for backend in xdev.backends()] == ["numpy"]


def test_one_plug_in_listed_twice_is_one(entry_points):
    entry_points(NUMPY, NUMPY)
    assert [backend.name for backend in xdev.backends()] == ["numpy"]
