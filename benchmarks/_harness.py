"""Interleaved timing: cases run in turns, in many short rounds, and only ratios taken within a round count.

Requirements: a clock stops only after the case's `wait` has returned; the garbage collector is off while it runs;
cases start from the same state in each sample. Frameworks keep threads that spin for a while after work, so cases of
different frameworks run in processes of their own, which the parent runs in turns.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import math
import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

SETTLE = 0.03
"""Seconds between the turns of two processes, in which the threads of the last one go to sleep."""


@dataclass
class Case:
    """One thing to time.

    Attributes
    ----------
    name
        Unique among the cases that are compared.
    run
        Does the work once; what it returns is waited for.
    wait
        Returns when the result of `run`, and all work before it, has been done.
    restart
        Brings the case back to its first state; not timed.
    evidence
        Numbers by which cases that claim to do the same are compared.
    """

    name: str
    run: Callable[[], Any]
    wait: Callable[[Any], Any] = lambda result: None
    restart: Callable[[], Any] = lambda: None
    evidence: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes
    ----------
    rounds, passes
        Passes over all cases in a round, and rounds; ratios are taken in each round.
    seconds
        What one sample takes at least.
    isolate
        Whether the cases of each framework run in a process of their own.
    cpu
        Whether to count the processor's seconds instead of the wall clock's.
    """

    rounds: int = 25
    passes: int = 3
    seconds: float = 0.004
    isolate: bool = True
    cpu: bool = False

    @property
    def clock(self) -> Callable[[], float]:
        """The function that reads the clock, in seconds."""
        return time.process_time if self.cpu else time.perf_counter


Times = dict[str, list[float]]
"""Seconds of each case, one median a round."""


# -- timing --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Keep the garbage collector out of a block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def sample(case: Case, repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one run, over that many runs between two waits."""
    case.restart()
    run, wait = case.run, case.wait
    wait(run())
    start = clock()
    for _ in range(repeats):
        result = run()
    wait(result)
    return (clock() - start) / repeats


def choose_repeats(case: Case, seconds: float) -> int:
    """Warm a case up, and return how many runs fill a sample."""
    took = min(sample(case, 2) for _ in range(4))
    repeats = max(1, math.ceil(seconds / max(took, 1e-9)))
    # What takes less than a microsecond looks slower in two runs than it is.
    return repeats if repeats < 1_000 else max(1, math.ceil(seconds / sample(case, repeats)))


class Cases:
    """Cases of one process."""

    def __init__(self, cases: Sequence[Case], plan: Plan) -> None:
        self._cases = {case.name: case for case in cases}
        if len(self._cases) != len(cases):
            raise ValueError(f"two cases of one name among {[case.name for case in cases]}")
        self._plan = plan
        self._repeats: dict[str, int] = {}
        self._clock = plan.clock

    def evidence(self) -> dict[str, list[float]]:
        """Return the evidence of each case that has some."""
        return {name: case.evidence for name, case in self._cases.items() if case.evidence}

    def round(self, turn: int) -> dict[str, float]:
        """Run all cases in turns, A B A B, and return the median of each."""
        samples: Times = {name: [] for name in self._cases}
        for number in range(self._plan.passes):
            for name in _rotated(list(self._cases), turn + number):
                case = self._cases[name]
                if name not in self._repeats:
                    self._repeats[name] = choose_repeats(case, self._plan.seconds)
                with without_gc():
                    samples[name].append(sample(case, self._repeats[name], self._clock))
        return {name: statistics.median(column) for name, column in samples.items()}


def _rotated(items: list[Any], turn: int) -> list[Any]:
    start = turn % len(items) if items else 0
    return items[start:] + items[:start]


# -- processes -----------------------------------------------------------------------------------------------


class Worker:
    """Cases in a process of their own; `build(key)` makes them there."""

    def __init__(self, build: Callable[..., Sequence[Case]], key: Any, plan: Plan) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, build, key, plan), daemon=True)
        self._process.start()
        other.close()
        self._evidence: dict[str, list[float]] = self._answer(f"building the cases of {key}")

    def evidence(self) -> dict[str, list[float]]:
        """Return the evidence of each case that has some."""
        return self._evidence

    def round(self, turn: int) -> dict[str, float]:
        """Run the worker's cases for a round."""
        time.sleep(SETTLE)
        self._pipe.send(turn)
        return self._answer("a round")

    def _answer(self, what: str) -> Any:
        try:
            answer, error = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process died while {what}") from None
        if error is not None:
            raise RuntimeError(f"{what} failed in its process:\n{error}")
        return answer

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join()


def _serve(pipe: Any, build: Callable[..., Sequence[Case]], key: Any, plan: Plan) -> None:
    try:
        cases = Cases(build(key), plan)
        gc.collect()
        gc.freeze()  # the collections between samples then look at nothing that was there before them
        pipe.send((cases.evidence(), None))
        while (turn := pipe.recv()) is not None:
            pipe.send((cases.round(turn), None))
    except EOFError:  # the parent is gone
        return
    except Exception:  # noqa: BLE001  the parent tells it
        with contextlib.suppress(OSError):
            pipe.send((None, traceback.format_exc()))


def measure(
    build: Callable[[Any], Sequence[Case]], keys: Iterable[Any], plan: Plan
) -> tuple[Times, dict[str, list[float]]]:
    """Time the cases of `build(key)` for each key; return (medians by round, evidence).

    Each key has a process of its own unless `plan.isolate` is false; within a round they have one turn each.
    """
    keys = list(keys)
    times: Times = {}
    with contextlib.ExitStack() as stack:
        groups: list[Any]
        if plan.isolate:
            groups = [stack.enter_context(contextlib.closing(Worker(build, key, plan))) for key in keys]
        else:
            groups = [Cases([case for key in keys for case in build(key)], plan)]
        for group in groups:
            group.round(0)  # compiles and chooses the repeats
        for turn in range(plan.rounds):
            for group in _rotated(groups, turn):
                for name, seconds in group.round(turn).items():
                    times.setdefault(name, []).append(seconds)
        evidence = {name: numbers for group in groups for name, numbers in group.evidence().items()}
    return times, evidence


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function of a module gives in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def check_equal(evidence: dict[str, list[float]], tolerance: float) -> float:
    """Raise unless all cases gave the same numbers within a relative tolerance; return the largest difference."""
    (first, expected), *others = evidence.items()
    largest = 0.0
    for name, numbers in others:
        for place, (a, b) in enumerate(zip(numbers, expected, strict=True)):
            difference = abs(a - b) / max(abs(b), 1e-12)
            if not difference <= tolerance:
                raise ValueError(
                    f"{name} computes something else than {first}: number {place} is {a}, not {b} "
                    f"(relative difference {difference:.1e}, allowed {tolerance:.0e}); nothing was timed"
                )
            largest = max(largest, difference)
    return largest
