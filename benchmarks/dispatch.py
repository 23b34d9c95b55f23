"""The cost of finding an array's namespace and device, and of importing xdev.

Small arrays, beside array-api-compat and autoray; and a small operation through the namespace that is bound to a
device, beside the framework's own function.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from _harness import Case, Plan, Times, measure
from _report import Report, arguments, plan_of, real_devices

FRAMEWORKS = {
    "numpy": ("numpy", "numpy:cpu"),
    "torch": ("torch", "torch:cpu"),
    "jax": ("jax.numpy", "jax:cpu"),
    "strict": ("array_api_strict", "strict"),
    "cupy": ("cupy", "cupy"),
}
"""Of each framework the module with its functions, and the device that is asked for."""

IMPORTS = {
    "import numpy": "import numpy",
    "import xdev": "import xdev",
    "import xdev, then its NumPy device": "import xdev; xdev.device('numpy')",
    "import numpy, then all of xdev's training": "import numpy; from xdev import nn, optim, fit",
}
REFERENCES = {
    "namespace": "array_api_compat.array_namespace",
    "device": "array_api_compat.device",
    "to_device, already there": "array_api_compat.to_device",
    "a small operation": "native add",
}


def build(framework: str) -> Sequence[Case]:
    import array_api_compat

    import xdev

    module, where = FRAMEWORKS[framework]
    native = importlib.import_module(module)
    device = xdev.device(where)
    x = device.xp.ones((4,), dtype=device.xp.float32)
    there = array_api_compat.device(x)

    def wait(result: Any) -> None:
        """Wait where the result is an array that may not be there yet."""
        if isinstance(result, type(x)) and hasattr(result, "block_until_ready"):
            result.block_until_ready()

    def add(a: Any, b: Any) -> Any:
        return xdev.namespace(a, b).add(a, b)

    calls: dict[str, Callable[[], Any]] = {
        "namespace / xdev.namespace": functools.partial(xdev.namespace, x),
        "namespace / array_api_compat.array_namespace": functools.partial(array_api_compat.array_namespace, x),
        "device / xdev.device_of": functools.partial(xdev.device_of, x),
        "device / array_api_compat.device": functools.partial(array_api_compat.device, x),
        "to_device, already there / xdev.to_device": functools.partial(xdev.to_device, x, device),
        "to_device, already there / array_api_compat.to_device": functools.partial(
            array_api_compat.to_device, x, there
        ),
        "a small operation / native add": functools.partial(native.add, x, x),
        "a small operation / device.xp.add": functools.partial(device.xp.add, x, x),
        "a small operation / xdev.namespace(x, y).add": functools.partial(add, x, x),
    }
    if importlib.util.find_spec("autoray") is not None and framework != "strict":
        import autoray

        calls["namespace / autoray.infer_backend"] = functools.partial(autoray.infer_backend, x)
        calls["namespace / autoray.get_namespace"] = functools.partial(autoray.get_namespace, x)
    return [Case(f"{framework} / {name}", call, wait) for name, call in calls.items()]


def import_times(rounds: int) -> Times:
    """Return the wall seconds of processes that import something, a column a statement."""
    times: Times = {name: [] for name in IMPORTS}
    for number in range(rounds + 1):
        for name, statement in IMPORTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            if number:  # the first round fills the caches of files
                times[name].append(time.perf_counter() - start)
    return times


def report(plan: Plan, frameworks: list[str], import_rounds: int) -> Report:
    found = Report((__doc__ or "").partition("\n")[0], plan)
    times, _ = measure(build, frameworks, plan)
    for framework in frameworks:
        for question, reference in REFERENCES.items():
            prefix = f"{framework} / {question} / "
            group = {n.removeprefix(prefix): column for n, column in times.items() if n.startswith(prefix)}
            found.table(f"{framework}: {question}", group, reference)
    if import_rounds:
        imports = import_times(import_rounds)
        found.table("Import, whole processes", imports, "import numpy")
        pairs = zip(imports["import xdev"], imports["import numpy"], strict=True)
        added = statistics.median(a - b for a, b in pairs)
        found.note(f"import xdev takes {added:+.3f} s over import numpy (target: < 0.15 s)")
    return found


def available() -> list[str]:
    """Return the frameworks that are installed and have a device that is no emulation."""
    return [name for name in FRAMEWORKS if any(device.startswith(f"{name}:") for device in real_devices())]


def main() -> None:
    parser = arguments(__doc__, rounds=15, passes=3, seconds=0.002)
    parser.add_argument("--frameworks", nargs="+", help="all that are installed by default")
    parser.add_argument("--import-rounds", type=int, default=11, help="processes a statement; 0: leave imports out")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    found = report(plan_of(options), options.frameworks or available(), options.import_rounds)
    found.write(options.json)


if __name__ == "__main__":
    main()
