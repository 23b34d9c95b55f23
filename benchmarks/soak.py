"""Whether memory and Python objects stay flat over thousands of training steps.

`xdev.make_step` trains a small MLP with dropout, so that each step draws random numbers, on every backend that is here;
emulated devices count too, since nothing is timed. Each run has a process of its own, once with the garbage collector
and once without it: what only the collector frees would pile up. Resident memory, the objects that the collector
follows and the blocks of memory that Python has given out are compared after a warm-up and at the end.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _mlp
from _harness import apart
from _report import Report, untimed_arguments

STEPS, WARM_UP = 10_000, 1_000
SIZES, BATCH, RATE = (16, 32, 32, 4), 16, 0.1
MEMORY = 4 * 2**20
"""Bytes by which resident memory may grow: allocators keep what they have, in pieces of up to a few MiB."""
OBJECTS, BLOCKS = 100, 500
"""By which the numbers may grow: one that stays in each step would be many times that."""
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Level:
    """What a process holds at one time.

    Attributes
    ----------
    memory
        Resident bytes; 0 where the system does not tell.
    objects
        Containers that the garbage collector follows.
    blocks
        Pieces of memory that Python's allocator has given out, those of numbers and strings too.
    """

    memory: int
    objects: int
    blocks: int

    @classmethod
    def now(cls) -> Level:
        """Return the level of this process; collects garbage first where that is on."""
        if not gc.isenabled():
            gc.freeze()
        gc.collect()  # also empties Python's lists of tuples and the like to use again, which are no garbage
        gc.unfreeze()
        blocks = sys.getallocatedblocks()
        return cls(resident(), len(gc.get_objects()), blocks)

    def grown(self, before: Level) -> Level:
        """Return by how much it is higher than a level before."""
        mine, other = asdict(self), asdict(before)
        return Level(**{name: mine[name] - other[name] for name in mine})

    @property
    def flat(self) -> bool:
        """Whether growth by this much is none."""
        return self.memory <= MEMORY and self.objects <= OBJECTS and self.blocks <= BLOCKS


def resident() -> int:
    """Return the bytes of this process that are in memory; 0 where the system does not tell."""
    if not STATUS.exists():
        return 0
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def train(name: str, steps: int, warm_up: int, collects: bool) -> tuple[Level, Level]:
    """Train on a device; return the level after the warm-up, and at the end."""
    import numpy as np

    import xdev

    device = xdev.device(name)
    model = xdev.nn.MLP(SIZES, rng=xdev.random.Generator(0, device))
    optimizer = xdev.optim.adamw(_mlp.RATE)
    x, labels = _mlp.examples(BATCH, SIZES)
    batch = xdev.to_device((x, labels.astype(np.int32)), device)

    def loss(model: Any, batch: Any, rng: Any) -> Any:
        x, labels = batch
        return xdev.ops.cross_entropy(model(xdev.ops.dropout(x, rate=RATE, rng=rng)), labels)

    step = xdev.make_step(loss, optimizer)
    state = xdev.TrainState.create(model, optimizer)
    (gc.enable if collects else gc.disable)()
    levels = []
    for number in range(1, steps + 1):
        state, metrics = step(state, batch)
        if number in (warm_up, steps):
            value = xdev.item(metrics["loss"])  # waits for the device
            levels.append(Level.now())
    if not math.isfinite(value):
        raise ValueError(f"the loss on {name} is {value} after {steps} steps")
    before, after = levels
    return before, after


def report(names: list[str], steps: int, warm_up: int) -> Report:
    found = Report((__doc__ or "").partition("\n")[0])
    rows = []
    for name in names:
        for collects in (True, False):
            before, after = apart(train, name, steps, warm_up, collects)
            growth = after.grown(before)
            row = [name, "on" if collects else "off", f"{before.memory / 2**20:.0f} MiB"]
            row += [f"{growth.memory / 2**10:+.0f} KiB", f"{growth.objects:+d}", f"{growth.blocks:+d}"]
            rows.append([*row, "flat" if growth.flat else "GROWS"])
    columns = ["device", "collector", "resident", "growth", "objects", "blocks", "verdict"]
    found.figures(f"From step {warm_up:,} to step {steps:,}", columns, rows)
    found.note(
        f"\nFlat: at most {MEMORY // 2**20} MiB, {OBJECTS} objects that the collector follows and {BLOCKS} blocks of "
        "Python's allocator more."
    )
    if not STATUS.exists():
        found.note("This system does not tell the resident memory as Linux does; 0 stands for it.")
    return found


def main() -> None:
    import xdev

    parser = untimed_arguments(__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of a run")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="steps before the first look")
    parser.add_argument("--devices", nargs="+", help="such as numpy:cpu; one of each backend by default")
    options = parser.parse_args()
    if not 0 < options.warm_up < options.steps:
        parser.error(f"--warm-up {options.warm_up} leaves nothing of --steps {options.steps}")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    names = options.devices or list({device.backend.name: str(device) for device in reversed(xdev.devices())}.values())
    found = report(names, options.steps, options.warm_up)
    found.write(options.json)


if __name__ == "__main__":
    main()
