"""The pytest plug-in as a stranger's suite meets it; each test runs pytest in a process of its own."""

import textwrap

import pytest

from xdev import registry

USES_FIXTURES = """
    def test_f(xp, device, backend):
        x = xp.ones((2, 3), dtype=xp.float32)
        assert backend.device_of(x + x) == device.info.handle
        assert device.backend is backend
        assert device.xp is xp
"""

# A backend that is a copy of NumPy's under another name, with two devices, and one that cannot be imported.
FAKES = """
    import dataclasses

    import numpy as np
    import pytest

    from xdev import registry
    from xdev.contract import DeviceInfo
    from xdev_numpy.backend import NumpyBackend

    class Mimicry(np.ndarray):
        pass

    class Mimic(NumpyBackend):
        name = "mimic"
        is_host = False

        def owns(self, x):
            return isinstance(x, Mimicry)

        def devices(self):
            name = "Emulation of a device"
            return [DeviceInfo(kind="cpu", index=i, handle=f"cpu{i}", name=name) for i in (0, 1)]

        def place(self, x, info, copy):
            placed = np.array(x, copy=True).view(Mimicry)
            placed.where = info.handle
            return placed

        def device_of(self, x):
            return x.where

    class Missing(NumpyBackend):
        name = "missing"
        framework = "no_such_framework"
        install = "pip install no-such-framework"
        priority = -5

        def __init__(self):
            import no_such_framework

    registry.register(Mimic)
    registry.register(Missing)
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """Return a function that writes a suite of one file and runs pytest on it, with the given options."""
    monkeypatch.delenv("XDEV_TEST_BACKENDS", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(source, *options, conftest=""):
        pytester.makeconftest(textwrap.dedent(conftest))
        pytester.makepyfile(textwrap.dedent(source))
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error", *options)

    return run


def test_a_test_runs_once_on_every_backend(suite):
    result = suite(USES_FIXTURES, "-v", "-rs")
    usable = {backend.name for backend in registry.backends() if _usable(backend)}
    result.assert_outcomes(passed=len(usable), skipped=len(registry.names()) - len(usable))
    for name in registry.names():
        result.stdout.fnmatch_lines([f"*::test_f[[]{name}[]] {'PASSED' if name in usable else 'SKIPPED'}*"])


def _usable(backend):
    try:
        return bool(backend.devices())
    except registry.BackendUnavailable:
        return False


def test_xdev_option_selects_and_orders(suite):
    result = suite(USES_FIXTURES, "-v", "--xdev=strict,numpy")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*::test_f[[]strict[]]*", "*::test_f[[]numpy[]]*"])


def test_environment_variable_selects(suite, monkeypatch):
    monkeypatch.setenv("XDEV_TEST_BACKENDS", "numpy")
    suite(USES_FIXTURES).assert_outcomes(passed=1)


def test_option_wins_over_environment_variable(suite, monkeypatch):
    monkeypatch.setenv("XDEV_TEST_BACKENDS", "strict")
    suite(USES_FIXTURES, "-v", "--xdev=numpy").stdout.fnmatch_lines(["*test_f[[]numpy[]] PASSED*"])


def test_keyword_selects_a_backend(suite):
    result = suite(USES_FIXTURES, "--xdev=numpy,strict", "-k", "strict")
    result.assert_outcomes(passed=1, deselected=1)


def test_header_says_which_backends_run_where_and_why_others_do_not(suite, monkeypatch):
    monkeypatch.setenv("XDEV_BACKENDS", "numpy,strict,mimic,missing")
    result = suite(USES_FIXTURES, "--xdev=all", "--collect-only", conftest=FAKES)
    result.stdout.fnmatch_lines(
        [
            "xdev: numpy on numpy:cpu:0, strict on strict:device1:0, mimic on mimic:cpu:1 (emulated)",
            "xdev: not missing: backend 'missing' is not installed (No module named 'no_such_framework'). "
            "Install it with: pip install no-such-framework",
        ]
    )


def test_header_is_silent_where_nobody_chose_backends(suite):
    assert "xdev:" not in suite("def test_nothing(): pass").stdout.str()


def test_a_device_can_be_named(suite):
    source = 'def test_f(device): assert str(device) == "strict:device2:0"'
    result = suite(source, "--xdev=strict:device2", "-v")
    result.stdout.fnmatch_lines(["*::test_f[[]strict:device2[]] PASSED*"])


def test_devices_are_not_the_default_ones_where_there_are_several(suite):
    source = 'def test_f(device): assert str(device) == "mimic:cpu:1"'
    suite(source, "--xdev=mimic", conftest=FAKES).assert_outcomes(passed=1)


def test_unusable_backend_is_skipped_once_with_its_reason(suite, monkeypatch):
    monkeypatch.setenv("XDEV_BACKENDS", "numpy,missing")
    source = """
        import pytest
        @pytest.mark.parametrize("i", range(5))
        def test_f(xp, i): pass
    """
    result = suite(source, "-rs", conftest=FAKES)
    result.assert_outcomes(passed=5, skipped=1, deselected=4)
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] *: backend 'missing' is not installed*no-such-framework"])


def test_unusable_backend_that_was_asked_for_is_an_error(suite):
    result = suite(USES_FIXTURES, "--xdev=numpy,missing", conftest=FAKES)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --xdev asks for 'missing': backend 'missing' is not installed*"])


def test_unknown_backend_is_an_error_that_suggests_a_name(suite):
    result = suite(USES_FIXTURES, "--xdev=nunpy")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --xdev asks for 'nunpy'*did you mean 'numpy'?*"])


def test_empty_choice_is_an_error(suite):
    result = suite(USES_FIXTURES, "--xdev=,")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --xdev=, names no backend; write --xdev=numpy,torch or --xdev=all"])


MARKED = """
    import pytest

    @pytest.mark.xdev_backends(only="numpy", reason="writes in place")
    def test_only(xp): pass

    @pytest.mark.xdev_backends(exclude=["strict"], reason="no boolean sum")
    def test_exclude(xp): pass

    @pytest.mark.xdev_backends(fails={"strict": "upstream bug 12"})
    def test_fails(xp, backend): assert backend != "strict"

    @pytest.mark.xdev_backends(fails={"strict": "was mended"})
    def test_mended(xp): pass
"""


def test_marker_holds_known_failures_as_data(suite):
    result = suite(MARKED, "--xdev=numpy,strict", "-rsx", "--strict-markers")
    result.assert_outcomes(passed=4, skipped=2, xfailed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*only on numpy: writes in place",
            "*not on strict: no boolean sum",
            "XFAIL *test_fails[[]strict[]] - known on strict: upstream bug 12*",
        ]
    )
    result.stdout.fnmatch_lines(["*XPASS(strict)*known on strict: was mended*"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('only="numpy"', "*xdev_backends with only= or exclude= needs reason=*"),
        (
            '"numpy", reason="x"',
            "*xdev_backends takes only=, exclude=, fails=, scoped=, reason=; got 'numpy'*",
        ),
        ('skip="numpy"', "*xdev_backends takes only=*; got skip*"),
        ('fails=["numpy"]', "*fails= maps each backend's name to a reason, got ['numpy']*"),
    ],
)
def test_malformed_marker_is_an_error(suite, arguments, message):
    source = f"""
        import pytest
        @pytest.mark.xdev_backends({arguments})
        def test_f(xp): pass
    """
    result = suite(source, "--xdev=numpy")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([message.replace("[", "[[]")])


def test_device_is_current_where_operators_need_it(suite):
    # `Mimic` with operators that work on the current device only, as CuPy's do.
    conftest = (
        FAKES
        + """
    current = [0]

    class Picky(Mimicry):
        def __add__(self, other):
            if self.where != f"cpu{current[-1]}":
                raise ValueError("not the current device")
            result = super().__add__(other)
            result.where = self.where
            return result

    class Scoped(Mimic):
        name = "scoped"

        def __init__(self):
            super().__init__()
            import types
            self.xp = types.SimpleNamespace(__name__="scoped", zeros=self.zeros)

        def zeros(self, shape, dtype=None, device=None):
            x = np.zeros(shape).view(Picky)
            x.where = device
            return x

        def scope(self, info):
            import contextlib
            @contextlib.contextmanager
            def enter():
                current.append(info.index)
                yield
                current.pop()
            return enter()

    registry.register(Scoped)
    """
    )
    source = """
        import pytest

        def test_scoped(xp):
            x = xp.zeros(2)
            assert (x + x).where == "cpu1"

        @pytest.mark.xdev_backends(scoped=False)
        def test_unscoped(xp):
            x = xp.zeros(2)
            with pytest.raises(ValueError, match="not the current device"):
                x + x
    """
    suite(source, "--xdev=scoped", conftest=conftest).assert_outcomes(passed=2)


def test_fixtures_of_a_suite_with_the_same_names_are_left_alone(suite):
    source = """
        import pytest

        @pytest.fixture
        def device(): return "mine"

        @pytest.mark.parametrize("xp", [1, 2])
        def test_f(xp, device):
            assert device == "mine"
            assert xp in (1, 2)
    """
    suite(source).assert_outcomes(passed=2)


def test_a_suite_that_uses_no_fixture_loads_nothing(suite):
    source = """
        import sys

        def test_f():
            loaded = {"numpy", "torch", "jax", "cupy", "array_api_strict", "xdev.registry"} & set(sys.modules)
            assert not loaded
    """
    suite(source, "-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_fixtures_of_wider_scope_may_use_the_device(suite):
    source = """
        import pytest

        @pytest.fixture(scope="module")
        def weights(device): return device.xp.ones(3)

        def test_f(weights, backend): assert weights.shape == (3,)
    """
    suite(source, "--xdev=numpy,strict").assert_outcomes(passed=2)
