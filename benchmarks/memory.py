"""The peak of memory that the gradient of the char-GPT takes: xdev on NumPy, eagerly and compiled, and torch.

Each case has a process of its own. Measured is by how much the greatest resident memory (VmHWM of Linux) during three
calls exceeds the resident memory after imports and the making of parameters and data, so that code which the first call
loads counts too. A second table leaves that out: the gradient of a tiny GPT comes first there.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _gpt
import _gpt_numpy
from _harness import apart
from _report import Report, untimed_arguments

CALLS, PROCESSES = 3, 3
TINY = _gpt.Shape(layers=1, heads=1, width=8, length=4, batch=2, vocabulary=5)
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
TARGETS = {"xdev on numpy": "<= 1.2", "xdev.jit on numpy": "<= 1.2"}
Call = Callable[[], Any]


def xdev_call(shape: _gpt.Shape, compiled: bool) -> Call:
    import xdev

    params, data = _gpt.initial_params(shape), _gpt.examples(shape)
    both = xdev.value_and_grad(functools.partial(_gpt.xdev_loss, heads=shape.heads))
    return functools.partial(xdev.jit(both) if compiled else both, params, *data)


def torch_call(shape: _gpt.Shape) -> Call:
    import torch

    params = _gpt.torch_params(_gpt.initial_params(shape))
    tokens, labels = (torch.from_numpy(x) for x in _gpt.examples(shape))
    leaves = _gpt.leaves(params)

    def run() -> Any:
        loss = _gpt.torch_loss(params, tokens, labels, heads=shape.heads)
        return loss.detach(), torch.autograd.grad(loss, leaves)

    return run


def hand_derived_call(shape: _gpt.Shape) -> Call:
    return functools.partial(_gpt_numpy.fresh_gradient, _gpt.initial_params(shape), *_gpt.examples(shape), shape)


CASES: dict[str, Callable[[_gpt.Shape], Call]] = {
    "torch": torch_call,
    "xdev on numpy": functools.partial(xdev_call, compiled=False),
    "xdev.jit on numpy": functools.partial(xdev_call, compiled=True),
    "hand-derived, new arrays": hand_derived_call,
}


def field(name: str) -> int:
    """Return bytes that the system tells of this process."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def peak(case: str, shape: _gpt.Shape, warm: bool) -> int:
    """Return the bytes that the calls of a case take at most."""
    if warm:
        tiny = CASES[case](TINY)
        for _ in range(CALLS):
            tiny()
    run = CASES[case](shape)
    RESET.write_text("5")  # the greatest resident memory is what it is now
    before = field("VmRSS")
    for _ in range(CALLS):
        kept = run()  # the last result lives while the next is made, as in a loop
    del kept
    return field("VmHWM") - before


def report(cases: list[str], shape: _gpt.Shape, processes: int) -> Report:
    found = Report(f"{(__doc__ or '').partition(':')[0]}: {shape}")
    for title, warm in (("From imports and data on", False), ("After the gradient of a tiny GPT", True)):
        peaks: dict[str, list[int]] = {case: [] for case in cases}
        for _ in range(processes):
            for case in cases:
                peaks[case].append(apart(peak, case, shape, warm))
        found.figures(title, ["case", "peak", f"ratio to {cases[0]}", "target"], rows_of(peaks, cases[0]))
    found.note(f"\nThe middle of {processes} processes each, {CALLS} calls in each; VmHWM less VmRSS before the calls.")
    return found


def rows_of(peaks: dict[str, list[int]], reference: str) -> list[list[str]]:
    middle = {case: statistics.median(column) for case, column in peaks.items()}
    return [
        [case, f"{value / 2**20:.1f} MiB", f"{value / max(middle[reference], 1):.2f}", TARGETS.get(case, "")]
        for case, value in middle.items()
    ]


def main() -> None:
    parser = untimed_arguments(__doc__)
    _gpt.add_option(parser)
    parser.add_argument(
        "--cases", nargs="+", choices=list(CASES), default=list(CASES), help="the first is compared with"
    )
    parser.add_argument("--processes", type=int, default=PROCESSES, help="processes of each case")
    options = parser.parse_args()
    if not RESET.exists():
        raise SystemExit("memory.py reads /proc/self/status and writes to /proc/self/clear_refs, which only Linux has")
    found = report(options.cases, _gpt.Shape(*options.gpt), options.processes)
    found.write(options.json)


if __name__ == "__main__":
    main()
