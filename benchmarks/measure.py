"""The way to measure: rounds in shuffled order, CPU time of the calling thread and of the process, GC on.

A case is calibrated to a slice of some milliseconds. In every round each case runs one slice, in an order of its own,
so that what disturbs the machine falls on all of them alike; ratios are taken within a round, and their median counts.
"""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from time import process_time_ns, thread_time_ns
from typing import Any

CHUNK = 1024
"""Slices are multiples of this many calls, so that each has its whole share of folds."""

EMPTY = "(empty loop)"
_CALLS = """
def drive(start, calls, loss=1.25, learning_rate=3e-4, gradient_norm=0.5, tokens=4096):
    for step in range(start + 1, start + calls + 1):
        {body}
"""
CALL = "record(loss=loss, learning_rate=learning_rate, gradient_norm=gradient_norm, tokens=tokens, step=step)"


def driver(body: str, **scope: Any) -> Callable[[int, int], None]:
    """Compile a loop around a statement; each case its own, because CPython specialises code to what it calls."""
    code = compile(_CALLS.format(body=body), "<case>", "exec")
    exec(code, scope)
    drive: Callable[[int, int], None] = scope["drive"]
    return drive


@dataclass
class Case:
    """Something to measure.

    Attributes:
        name: Its name.
        drive: ``drive(start, calls)`` makes ``calls`` calls, numbered from ``start + 1``.
        slice_s: CPU time of a slice, about.
        chunk: Slices are multiples of so many calls.
        context: The context it runs in; an empty one where left out.
        after: What follows a slice, outside the measurement.
    """

    name: str
    drive: Callable[[int, int], None]
    slice_s: float = 0.02
    chunk: int = CHUNK
    context: Context = field(default_factory=Context)
    after: Callable[[], object] | None = None
    calls: int = 0
    made: int = 0
    thread_ns: list[float] = field(default_factory=list)
    process_ns: list[float] = field(default_factory=list)

    def calibrate(self) -> None:
        """Find out how many calls a slice takes."""
        calls = self.chunk
        while True:
            self.calls = calls
            self.run()
            spent_s = self.thread_ns[-1] * calls / 1e9
            if spent_s > self.slice_s / 4:
                break
            calls *= 4
        self.calls = max(1, round(calls * self.slice_s / spent_s / self.chunk)) * self.chunk
        self.thread_ns.clear()
        self.process_ns.clear()

    def run(self) -> None:
        """Run one slice."""
        gc.collect()
        process_ns, thread_ns = self.context.run(self._slice)
        self.made += self.calls
        self.thread_ns.append(thread_ns / self.calls)
        self.process_ns.append(process_ns / self.calls)
        if self.after is not None:
            self.after()

    def _slice(self) -> tuple[int, int]:
        process, thread = process_time_ns(), thread_time_ns()
        self.drive(self.made, self.calls)
        thread = thread_time_ns() - thread
        return process_time_ns() - process, thread


@dataclass(frozen=True)
class Figures:
    """What a case came to, by round, the empty loop subtracted; nanoseconds a call."""

    thread_ns: tuple[float, ...]
    process_ns: tuple[float, ...]

    @property
    def ns(self) -> float:
        """CPU time of the calling thread."""
        return statistics.median(self.thread_ns)

    @property
    def total_ns(self) -> float:
        """CPU time of the process."""
        return statistics.median(self.process_ns)


def rounds(cases: Sequence[Case], number: int, *, bare: Case | None = None, seed: int = 0) -> dict[str, Figures]:
    """Measure cases against each other.

    Args:
        cases: The cases.
        number: Rounds.
        bare: What is subtracted from them; the empty loop where left out.
        seed: Seed of the order.
    """
    bare = bare if bare is not None else Case(EMPTY, driver("pass"))
    everything = [bare, *cases]
    for case in everything:
        case.calibrate()
    order = random.Random(seed)
    for _ in range(number):
        for case in order.sample(everything, len(everything)):
            case.run()
    thread, process = statistics.median(bare.thread_ns), statistics.median(bare.process_ns)
    return {
        case.name: Figures(
            tuple(value - thread for value in case.thread_ns), tuple(value - process for value in case.process_ns)
        )
        for case in cases
    }


def ratio(of: Sequence[float], to: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles of the ratios within the rounds."""
    ratios = [a / b for a, b in zip(of, to, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return middle, low, high
