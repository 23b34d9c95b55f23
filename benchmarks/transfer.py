"""The cost of moving arrays: `xdev.to_device` beside the frameworks' own calls, by size, by number, and watched.

Single arrays from 1 KiB on between two frameworks, copied and shared; trees of many leaves, whose leaves are copied or
are small views; and what a ledger or a budget adds.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _harness import Case, Plan, measure
from _report import Report, arguments, plan_of

KIB = 1024
SIZES = (KIB, 64 * KIB, 1024 * KIB, 64 * 1024 * KIB)
COUNTS = (1, 100, 10_000)
LEAF_BYTES = {"copied leaves of 64 KiB": 64 * KIB, "views of 16 bytes": 16}
TARGETS = {"copied leaves of 64 KiB": "<= 1.2", "views of 16 bytes": "<= 2.5"}


def native_call(source: str, target: str, copy: bool) -> Callable[[Any], Any]:
    """Return the call that people write for one array, without xdev."""
    if "jax" in (source, target):
        import jax
        import jax.numpy as jnp
    if "torch" in (source, target):
        import torch
    calls: dict[tuple[str, str, bool], Callable[[Any], Any]] = {
        ("numpy", "torch", False): lambda x: torch.from_numpy(x),
        ("numpy", "torch", True): lambda x: torch.tensor(x),
        ("numpy", "jax", True): lambda x: jax.block_until_ready(jnp.array(x)),
        ("torch", "numpy", False): lambda x: x.numpy(),
        ("torch", "numpy", True): lambda x: x.numpy().copy(),
        ("torch", "jax", True): lambda x: jax.block_until_ready(jnp.array(x.numpy())),
        ("jax", "numpy", True): lambda x: np.array(x),
        ("jax", "torch", True): lambda x: torch.tensor(np.asarray(x)),
    }
    return calls[source, target, copy]


PAIRS = (
    ("numpy", "torch", False),
    ("torch", "numpy", False),
    ("numpy", "torch", True),
    ("torch", "numpy", True),
    ("numpy", "jax", True),
    ("jax", "numpy", True),
    ("torch", "jax", True),
    ("jax", "torch", True),
)


def pair_name(source: str, target: str, copy: bool) -> str:
    return f"{source} to {target}, {'copied' if copy else 'shared'}"


def array_on(framework: str, nbytes: int) -> Any:
    import xdev

    host = np.arange(max(nbytes // 4, 1), dtype=np.float32)
    return xdev.to_device(host, f"{framework}:cpu", copy=True)


def build_pair(key: tuple[tuple[str, str, bool], tuple[int, ...]]) -> Sequence[Case]:
    """Return xdev's call, the native one and a plain copy of memory, for each size."""
    import xdev

    (source, target, copy), sizes = key
    device = xdev.device(f"{target}:cpu")
    native = native_call(source, target, copy)
    cases = []
    for nbytes in sizes:
        x = array_on(source, nbytes)
        a, b = np.ones(max(nbytes, 1), np.uint8), np.empty(max(nbytes, 1), np.uint8)
        calls = {
            "xdev.to_device": functools.partial(xdev.to_device, x, device, copy=True if copy else None),
            "native": functools.partial(native, x),
            "memcpy": functools.partial(np.copyto, b, a),
        }
        title = f"{pair_name(source, target, copy)} / {readable_bytes(nbytes)}"
        cases += [Case(f"{title} / {name}", call, wait) for name, call in calls.items()]
    return cases


def wait(result: Any) -> None:
    """Wait for an array that may not be there yet."""
    if hasattr(result, "block_until_ready"):
        result.block_until_ready()


def readable_bytes(n: int) -> str:
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if n >= size:
            return f"{n // size} {unit}"
    return f"{n} bytes"


def build_trees(key: tuple[str, tuple[int, ...]]) -> Sequence[Case]:
    """Return xdev's call on a list of arrays, and the native loop over it, for each number of leaves."""
    import torch

    import xdev

    kind, counts = key
    device = xdev.device("torch:cpu")
    copied = kind.startswith("copied")
    cases = []
    for count in counts:
        leaves = [np.ones(LEAF_BYTES[kind] // 4, np.float32) for _ in range(count)]

        def native(leaves: list[Any] = leaves) -> Any:
            make = torch.tensor if copied else torch.from_numpy
            return [make(x) for x in leaves]

        moved = functools.partial(xdev.to_device, leaves, device, copy=True if copied else None)
        cases += [Case(f"{kind}, {count:,} / xdev.to_device", moved), Case(f"{kind}, {count:,} / native loop", native)]
    return cases


def build_watched(nbytes: int) -> Sequence[Case]:
    """Return a crossing and a call that crosses nothing: alone, within a ledger, and within a budget."""
    import xdev

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

    return [
        Case(f"{what} / {name}", functools.partial(call, argument))
        for what, argument in (("100 crossings", x), ("100 calls that cross nothing", there))
        for name, call in (("alone", alone), ("in a ledger", tracked), ("in a budget", limited))
    ]


def report(plan: Plan, sizes: tuple[int, ...], counts: tuple[int, ...]) -> Report:
    found = Report((__doc__ or "").partition("\n")[0], plan)
    have = [name for name in ("numpy", "torch", "jax") if importlib.util.find_spec(name) is not None]
    for pair in PAIRS if sizes else ():
        if not {*pair[:2]} <= {*have}:
            continue
        times, _ = measure(build_pair, [(pair, sizes)], plan)
        for nbytes in sizes:
            prefix = f"{pair_name(*pair)} / {readable_bytes(nbytes)} / "
            group = {name.removeprefix(prefix): column for name, column in times.items() if name.startswith(prefix)}
            found.table(prefix.rstrip(" /"), group, "native")
    if "torch" in have:
        for kind in LEAF_BYTES:
            times, _ = measure(build_trees, [(kind, counts)], plan)
            for count in counts:
                prefix = f"{kind}, {count:,} / "
                group = {name.removeprefix(prefix): column for name, column in times.items() if name.startswith(prefix)}
                targets = {"xdev.to_device": TARGETS[kind]} if count == max(COUNTS) else None
                found.table(prefix.rstrip(" /"), group, "native loop", targets=targets)
        times, _ = measure(build_watched, [4 * KIB], plan)
        for what in ("100 crossings", "100 calls that cross nothing"):
            group = {n.removeprefix(f"{what} / "): column for n, column in times.items() if n.startswith(what)}
            found.table(what, group, "alone")
    return found


def main() -> None:
    parser = arguments(__doc__, rounds=11, passes=3, seconds=0.002)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="bytes of single arrays")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="leaves of trees")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    report(plan_of(options), tuple(options.sizes), tuple(options.counts)).write(options.json)


if __name__ == "__main__":
    main()
