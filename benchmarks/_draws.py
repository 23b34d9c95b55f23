"""The cost of random numbers: xdev's beside each framework's own generator.

Normals, uniforms and integers as whole arrays on the CPU: NumPy's Generator, torch in eager mode, `jax.random` in a
compiled function. xdev makes the same numbers on all of them, which theirs do not.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

from _harness import Case, Plan, measure
from _report import Report, arguments, plan_of

FRAMEWORKS = ("numpy", "torch", "jax")
DRAWS = ("float32 normals", "float32 uniforms", "int32 integers")
TARGETS = {"numpy": "<= 5", "torch": "<= 6", "jax": "<= 2"}
"""Of normals."""
BELOW = 1000


def own_draws(framework: str, size: int) -> Sequence[Callable[[], Any]]:
    """Return the framework's own draws, in the order of `DRAWS`."""
    if framework == "numpy":
        import numpy as np

        rng = np.random.default_rng(0)
        return (
            lambda: rng.standard_normal(size, dtype=np.float32),
            lambda: rng.random(size, dtype=np.float32),
            lambda: rng.integers(0, BELOW, size, dtype=np.int32),
        )
    if framework == "torch":
        import torch

        return (
            lambda: torch.randn(size),
            lambda: torch.rand(size),
            lambda: torch.randint(0, BELOW, (size,), dtype=torch.int32),
        )
    import jax

    keys = [jax.random.key(0)]

    def compiled(draw: Callable[[Any], Any]) -> Callable[[], Any]:
        @jax.jit
        def step(key: Any) -> Any:
            key, mine = jax.random.split(key)
            return key, draw(mine)

        def call() -> Any:
            keys[0], made = step(keys[0])
            return made

        return call

    return (
        compiled(lambda key: jax.random.normal(key, (size,))),
        compiled(lambda key: jax.random.uniform(key, (size,))),
        compiled(lambda key: jax.random.randint(key, (size,), 0, BELOW)),
    )


def build(key: tuple[str, int]) -> Sequence[Case]:
    import xdev

    framework, size = key
    rng = xdev.random.Generator(0, f"{framework}:cpu")
    ours = (lambda: rng.normal(size), lambda: rng.uniform(size), lambda: rng.integers(0, BELOW, size))
    return [
        Case(f"{framework}: {draw} / {name}", call, wait)
        for draw, mine, theirs in zip(DRAWS, ours, own_draws(framework, size), strict=True)
        for name, call in (("xdev", mine), ("native", theirs))
    ]


def wait(made: Any) -> None:
    """Wait for an array that may not be there yet."""
    if hasattr(made, "block_until_ready"):
        made.block_until_ready()


def report(plan: Plan, frameworks: Sequence[str], size: int) -> Report:
    found = Report((__doc__ or "").partition("\n")[0], plan)
    times, _ = measure(build, [(framework, size) for framework in frameworks], plan)
    for framework in frameworks:
        for draw in DRAWS:
            prefix = f"{framework}: {draw} / "
            group = {n.removeprefix(prefix): column for n, column in times.items() if n.startswith(prefix)}
            targets = {"xdev": TARGETS[framework]} if draw == DRAWS[0] else None
            found.table(f"{framework}: {size:,} {draw}", group, "native", targets=targets)
    return found


def main() -> None:
    parser = arguments(__doc__, rounds=9, passes=1, seconds=0.002)
    parser.add_argument("--size", type=int, default=10_000_000, help="numbers in a draw")
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, help="all that are installed by default")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    have = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is not None]
    report(plan_of(options), options.frameworks or have, options.size).write(options.json)
