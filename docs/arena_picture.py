"""Draw _static/arena.svg: where the arrays of a training step on NumPy lie, from the plan of a real one.

    python docs/arena_picture.py

Across are the calls of a step of AdamW on a small MLP, in their order; upwards are the bytes of the arena. Each
rectangle is one memory, from the first call that touches it to the last.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "_static" / "arena.svg"

WIDTHS, BATCH = (64, 256, 256, 10), 128
COLOURS = {"matmul": "#9ec5ec", "elementwise": "#f6cf8e", "reduction": "#a5d6a7", "other": "#cfcfcf"}
LEFT, ACROSS, RIGHT = 64, 840, 16
"""Where the first call begins, and how wide all are."""


def plan_of_a_step():
    """Return the plan of a training step: it is made when the first step has been recorded."""
    import numpy as np

    import xdev
    from xdev import nn, ops, optim
    from xdev.replay import compiled

    plans = []
    make_plan = compiled.make_plan

    def kept(*args):
        plans.append(make_plan(*args))
        return plans[-1]

    optimizer = optim.adamw(1e-3)
    model = nn.MLP(WIDTHS, rng=xdev.random.Generator(0, "numpy"))
    step = xdev.make_step(lambda model, batch: ops.cross_entropy(model(batch[0]), batch[1]), optimizer)
    batch = np.ones((BATCH, WIDTHS[0]), np.float32), np.zeros(BATCH, np.int64)
    compiled.make_plan = kept
    try:
        step(xdev.TrainState.create(model, optimizer, seed=0), batch)
    finally:
        compiled.make_plan = make_plan
    return plans[0]


def kind_of(call):
    """Return the kind of a call, a key of COLOURS."""
    if call.name == "matmul":
        return "matmul"
    if call.name.endswith(".reduce"):
        return "reduction"
    elementwise = getattr(call.function, "nin", 0) and call.function.signature is None
    return "elementwise" if elementwise else "other"


def memories(plan):
    """Return {number: (first call, last call, what the first one writes)} of the arena."""
    from xdev.replay.recorder import parts_of

    found = {}
    for n, call in enumerate(plan.calls):
        written = (*call.results, *call.writes)
        for part in (*written, *parts_of(call.args), *parts_of(call.kwargs)):
            number = part.memory.number
            if number in plan.offsets:
                first, _, made = found.get(number, (n, n, part))
                found[number] = first, n, made
    for part in plan.outputs:  # copied to the caller after the last call
        if part.memory.number in found:
            first, _, made = found[part.memory.number]
            found[part.memory.number] = first, len(plan.calls) - 1, made
    return found


def rectangles(plan):
    """Yield (left, right, offset, bytes, kind, shape); left and right are counted in calls."""
    found = memories(plan)
    begins = {(plan.offsets[number], first) for number, (first, _, _) in found.items()}
    ends = {(plan.offsets[number], last) for number, (_, last, _) in found.items()}
    for number, (first, last, made) in sorted(found.items()):
        low = plan.offsets[number]
        # A result that takes the place of its operand begins within the call in which the operand ends.
        left = first + 0.5 * ((low, first) in ends and first != last)
        right = last + 1 - 0.5 * ((low, last) in begins and first != last)
        nbytes = made.memory.nbytes
        whole = math.prod(made.shape) * made.dtype.itemsize == nbytes
        yield left, right, low, nbytes, kind_of(plan.calls[first]), made.shape if whole else (nbytes // 4,)


def phases(plan):
    """Yield (name, first call, call after the last)."""
    from xdev.replay.recorder import parts_of

    count = len(plan.calls)
    its = plan.outputs[0].memory
    made = next(n for n, call in enumerate(plan.calls) for part in call.results if part.memory is its)
    loss = {part.memory.number for part in parts_of(plan.calls[made].args)}
    forward = 1 + next(n for n, c in enumerate(plan.calls) for part in c.results if part.memory.number in loss)
    return [("forward", 0, forward), ("backward", forward, made), ("AdamW", made, count)]


# -- the drawing ---------------------------------------------------------------------------------------------


def box(x, y, width, height, colour, edge="#555", line=0.6):
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" '
        f'stroke="{edge}" stroke-width="{line}"/>'
    )


def text(x, y, words, size=11, anchor="middle", turned=False):
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222"{turn}>{words}</text>'


def size_of(nbytes):
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.3g} {name}"
    return f"{nbytes} B"


def panel(plan, bottom, height, low, high, ticks, name):
    """Yield the rectangles between two offsets, with an axis of bytes."""
    from xdev.replay.plan import ALIGNMENT

    step = ACROSS / len(plan.calls)
    yield box(LEFT, bottom - height, ACROSS, height, "#fafafa", "#999")
    scale = height / (high - low)
    for left, right, start, nbytes, kind, shape in rectangles(plan):
        if not low <= start < high:
            continue
        x, width = LEFT + step * left, step * (right - left)
        tall = -(-nbytes // ALIGNMENT) * ALIGNMENT * scale
        y = bottom - (start - low) * scale - tall
        yield box(x, y, width, tall, COLOURS[kind], line=0.6 if tall > 2 else 0.25)
        shape, size = "×".join(map(str, shape)), size_of(nbytes)
        middle = x + width / 2, y + tall / 2
        both = f"{shape}, {size}"
        if width > 6.5 * len(both) and tall > 12:
            yield text(middle[0], middle[1] + 4, both, 10)
        elif width > 6.8 * max(len(shape), len(size)) and tall > 26:
            yield text(middle[0], middle[1] - 2, shape, 10)
            yield text(middle[0], middle[1] + 10, size, 10)
        elif width > 12 and tall > 6.3 * len(size):
            yield text(middle[0] + 3.5, middle[1], size, 10, turned=True)
    for tick in ticks:
        y = bottom - (tick - low) * scale
        yield f'<path d="M{LEFT - 4} {y:.1f}H{LEFT}" stroke="#555"/>'
        yield text(LEFT - 7, y + 4, f"{tick / 1024:g}", 10, "end")
    yield text(18, bottom - height / 2, name, 10, turned=True)


def picture():
    """Return the picture's text."""
    plan = plan_of_a_step()
    count = len(plan.calls)
    step = ACROSS / count
    found = memories(plan)
    apart = sum(made.memory.nbytes for _, _, made in found.values())
    alive = max(sum(m.memory.nbytes for first, last, m in found.values() if first <= n <= last) for n in range(count))
    width, height = LEFT + ACROSS + RIGHT, 640
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="Helvetica, Arial, DejaVu Sans, sans-serif">',
        f"<title>The arena of a training step of an MLP {'–'.join(map(str, WIDTHS))}, batch {BATCH}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        text(
            LEFT,
            20,
            f"{count} calls, {len(found)} memories: {size_of(apart)} if each had its own, at most {size_of(alive)} "
            f"alive at once, {size_of(plan.nbytes)} of arena",
            12,
            "start",
        ),
    ]
    for name, first, after in phases(plan):
        left, right = LEFT + step * first + 1, LEFT + step * after - 1
        parts.append(f'<path d="M{left:.1f} 50V45H{right:.1f}V50" fill="none" stroke="#555"/>')
        parts.append(text((left + right) / 2, 40, name))
    for n, call in enumerate(plan.calls):
        parts.append(box(LEFT + step * n, 54, step, 14, COLOURS[kind_of(call)], "#fff", 0.4))
    parts.append(text(LEFT - 7, 65, "calls", 10, "end"))
    parts += panel(plan, 578, 498, 0, plan.nbytes, range(0, plan.nbytes, 128 * 1024), "KiB in the arena")
    for n in range(0, count + 1, 20):
        parts.append(text(LEFT + step * n, 593, f"{n}", 10))
    x = LEFT
    for kind, colour in COLOURS.items():
        parts.append(box(x, 612, 14, 14, colour))
        parts.append(text(x + 20, 623, kind, 11, "start"))
        x += 46 + 7 * len(kind)
    parts.append(text(LEFT + ACROSS, 623, "calls in their order →", 11, "end"))
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PICTURE.write_text(picture(), encoding="utf-8")
