"""Settings for the whole suite; the fixtures `backend`, `device` and `xp` are those of `xdev.testing`."""

import gc
import os

import pytest

pytest_plugins = ["pytester"]

# All of this is read when a framework is first imported or used, which is after this file was read.
_FORCED_DEVICES = "--xla_force_host_platform_device_count"
if _FORCED_DEVICES not in os.environ.get("XLA_FLAGS", ""):
    # Several CPU devices, so that tests can run on one that is not JAX's default.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FORCED_DEVICES}=4".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # `make test-gpu` sets it to nothing: whatever there is
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with the other frameworks
for _name in (
    "XDEV_DEVICE",
    "XDEV_BACKENDS",
):  # a developer's own choice of device must not decide what tests see
    os.environ.pop(_name, None)


def pytest_configure(config):
    """Keep what JAX compiles in pytest's cache: workers, child processes and later runs need not compile it again."""
    cache = getattr(config, "cache", None)  # none with `-p no:cacheprovider`
    if cache is not None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache.mkdir("jax"))  # workers inherit it
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(scope="module", autouse=True)
def what_is_there_already():
    """Keep the collector from walking over frameworks, collected tests and compiled functions in each later pass."""
    gc.collect()
    gc.freeze()
