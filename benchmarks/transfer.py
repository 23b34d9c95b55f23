"""The cost of moving arrays: `xdev.to_device` beside the frameworks' own calls, by size, by number, and watched.

Single arrays of 1 KiB to 1 GiB between two frameworks, copied, with their part of the bandwidth of memory; shared ones,
which must cost the same whatever their size; trees of many leaves, whose leaves are copied or are small views; and
what a ledger or a budget adds, to crossings and to a training step.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _harness import Case, Plan, measure
from _report import Report, arguments, plan_of

KIB = 1024
GIB = 1024**3
SIZES = (KIB, 1024 * KIB, 64 * 1024 * KIB, GIB)
COUNTS = (1, 100, 10_000)
LEAF_BYTES = {"copied leaves of 64 KiB": 64 * KIB, "views of 16 bytes": 16}
TARGETS = {"copied leaves of 64 KiB": "<= 1.2", "views of 16 bytes": "<= 2.5"}
TREE_PAIRS = {
    "copied leaves of 64 KiB": (("numpy", "torch"), ("torch", "numpy"), ("numpy", "jax"), ("jax", "numpy")),
    "views of 16 bytes": (("numpy", "torch"), ("torch", "numpy")),
}
COPIED = (
    ("numpy", "torch"), ("torch", "numpy"), ("numpy", "jax"), ("jax", "numpy"), ("torch", "jax"), ("jax", "torch"),
)  # fmt: skip
SHARED = (
    ("numpy", "torch", None), ("torch", "numpy", None),
    ("numpy", "jax", False), ("jax", "numpy", False), ("torch", "jax", False),
)  # fmt: skip
"""Pairs that share memory, and the `copy=` that says so."""


OFF = "what asks whether there is a ledger"


def copying_call(source: str, target: str) -> Callable[[Any], Any]:
    """Return the call that people write to copy one array to another framework, without xdev."""
    if "jax" in (source, target):
        import jax
        import jax.numpy as jnp
    if "torch" in (source, target):
        import torch
    calls: dict[tuple[str, str], Callable[[Any], Any]] = {
        ("numpy", "torch"): lambda x: torch.tensor(x),
        ("numpy", "jax"): lambda x: jax.block_until_ready(jnp.array(x)),
        ("torch", "numpy"): lambda x: x.numpy().copy(),
        ("torch", "jax"): lambda x: jax.block_until_ready(jnp.array(x.numpy())),
        ("jax", "numpy"): lambda x: np.array(x),
        ("jax", "torch"): lambda x: torch.tensor(np.asarray(x)),
    }
    return calls[source, target]


def sharing_call(source: str, target: str) -> Callable[[Any], Any]:
    """Return the call that people write to share the memory of one array, without xdev."""
    if target == "jax":
        import jax

        return lambda x: jax.dlpack.from_dlpack(x, copy=False)
    if source == "numpy":
        import torch

        return lambda x: torch.from_numpy(x)
    if source == "torch":
        return lambda x: x.numpy()
    return lambda x: np.asarray(x)


def array_on(framework: str, nbytes: int) -> Any:
    """Return an array whose memory is aligned as JAX wants it."""
    import xdev

    memory = np.empty(nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    x = memory[start : start + nbytes].view(np.float32)
    x[...] = 1
    return xdev.to_device(x, f"{framework}:cpu", copy=True if framework == "jax" else None)


def build_copied(key: tuple[tuple[str, str], int]) -> Sequence[Case]:
    """Return xdev's call, the native one and a plain copy of memory."""
    import xdev

    (source, target), nbytes = key
    device = xdev.device(f"{target}:cpu")
    x = array_on(source, nbytes)

    def copied() -> Any:
        return np.full(nbytes, 1, np.uint8)

    return [
        Case("xdev.to_device", functools.partial(xdev.to_device, x, device, copy=True), wait),
        Case("native", functools.partial(copying_call(source, target), x), wait),
        Case("memset of fresh memory", copied),
    ]


def build_shared(key: tuple[tuple[str, str, bool | None], int]) -> Sequence[Case]:
    """Return xdev's call and the native one."""
    import xdev

    (source, target, copy), nbytes = key
    device = xdev.device(f"{target}:cpu")
    x = array_on(source, nbytes)
    shared = functools.partial(xdev.to_device, x, device, copy=copy)
    return [
        Case("xdev.to_device", shared, wait),
        Case("native", functools.partial(sharing_call(source, target), x), wait),
    ]


def wait(result: Any) -> None:
    """Wait for an array that may not be there yet."""
    if hasattr(result, "block_until_ready"):
        result.block_until_ready()


def wait_all(results: Any) -> None:
    for result in results:
        wait(result)


def readable_bytes(n: int) -> str:
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if n >= size:
            return f"{n // size} {unit}"
    return f"{n} bytes"


def build_trees(key: tuple[str, tuple[str, str], int]) -> Sequence[Case]:
    """Return xdev's call on a list of arrays, and the native loop over it."""
    import xdev

    kind, (source, target), count = key
    device = xdev.device(f"{target}:cpu")
    copied = kind.startswith("copied")
    leaves = [array_on(source, LEAF_BYTES[kind]) for _ in range(count)]
    call = (copying_call if copied else sharing_call)(source, target)
    return [
        Case(
            "xdev.to_device", functools.partial(xdev.to_device, leaves, device, copy=True if copied else None), wait_all
        ),
        Case("native loop", lambda: [call(x) for x in leaves], wait_all),
    ]


def build_watched(nbytes: int) -> Sequence[Case]:
    """Return a crossing and a call that crosses nothing: alone, within a ledger, and within a budget."""
    import xdev
    from xdev import ledger

    x = np.ones(nbytes // 4, np.float32)
    device = xdev.device("torch:cpu")
    there = xdev.to_device(x, device)

    def tracked(argument: Any) -> Any:
        with xdev.track_transfers(implicit=False):
            return [xdev.to_device(argument, device) for _ in range(100)]

    def limited(argument: Any) -> Any:
        with xdev.budget(to_device=1 << 60):
            return [xdev.to_device(argument, device) for _ in range(100)]

    def alone(argument: Any) -> Any:
        return [xdev.to_device(argument, device) for _ in range(100)]

    def checked(_: Any) -> Any:
        return [ledger.active() for _ in range(100)]

    watched = {"alone": alone, OFF: checked, "in a ledger": tracked, "in a budget": limited}
    return [
        Case(f"{what} / {name}", functools.partial(call, argument))
        for what, argument in (("100 crossings", x), ("100 calls that cross nothing", there))
        for name, call in watched.items()
    ]


def build_steps(framework: str) -> Sequence[Case]:
    """Return 20 training steps of the MLP alone, and within a ledger that watches what the framework does by itself."""
    import _mlp
    from train_step import Setup, XdevStep

    import xdev

    step = XdevStep(Setup(framework))
    batches = [step.moved(_mlp.examples(_mlp.BATCH, _mlp.SIZES))] * 20

    def tracked() -> Any:
        with xdev.track_transfers():
            return step.over(batches)

    return [
        Case("alone", functools.partial(step.over, batches), step.wait, step.restart),
        Case("in a ledger", tracked, step.wait, step.restart),
    ]


def report(plan: Plan, sizes: tuple[int, ...], counts: tuple[int, ...]) -> Report:
    found = Report((__doc__ or "").partition("\n")[0], plan)
    have = {name for name in ("numpy", "torch", "jax") if importlib.util.find_spec(name) is not None}
    for pair in COPIED:
        for nbytes in sizes if {*pair} <= have else ():
            times, _ = measure(build_copied, [(pair, nbytes)], _shorter(plan, nbytes))
            found.table(f"{pair[0]} to {pair[1]}, copied / {readable_bytes(nbytes)}", times, "native")
    for source, target, copy in SHARED:
        for nbytes in sorted({*sizes[:1], *sizes[-1:]}) if {source, target} <= have else ():
            times, _ = measure(build_shared, [((source, target, copy), nbytes)], plan)
            how = "shared" if copy is None else "shared by copy=False"
            title = f"{source} to {target}, {how} / {readable_bytes(nbytes)}"
            found.table(title, times, "native", targets={"xdev.to_device": "< 1 ms"})
    for kind, pairs in TREE_PAIRS.items():
        for pair in pairs:
            for count in counts if {*pair} <= have else ():
                times, _ = measure(build_trees, [(kind, pair, count)], plan)
                targets = {"xdev.to_device": TARGETS[kind]} if count == max(COUNTS) else None
                found.table(f"{pair[0]} to {pair[1]}, {count:,} {kind}", times, "native loop", targets=targets)
    if "torch" in have:
        times, _ = measure(build_watched, [4 * KIB], plan)
        for what in ("100 crossings", "100 calls that cross nothing"):
            group = {n.removeprefix(f"{what} / "): column for n, column in times.items() if n.startswith(what)}
            found.table(what, group, "alone", targets={OFF: "< 0.01"} if what == "100 crossings" else None)
    for framework in sorted(have):
        times, _ = measure(build_steps, [framework], plan)
        found.table(f"20 steps on {framework}", times, "alone", targets={"in a ledger": "<= 1.5"})
    return found


def _shorter(plan: Plan, nbytes: int) -> Plan:
    """Return a plan that large arrays, which are timed well in few rounds, do not make endless."""
    return plan if nbytes < GIB else dataclasses.replace(plan, rounds=min(plan.rounds, 5), passes=1)


def main() -> None:
    parser = arguments(__doc__, rounds=7, passes=1, seconds=0.002)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="bytes of single arrays")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="leaves of trees")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    report(plan_of(options), tuple(options.sizes), tuple(options.counts)).write(options.json)


if __name__ == "__main__":
    main()
