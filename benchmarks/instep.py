"""Telemetry inside a real training step.

Between two steps of linear algebra the caches are cold, so every call costs several times what it costs in a loop of
its own; this is what a program pays. Calls are measured where they stand, by the clock of the thread, and the same
clock reads around nothing are subtracted.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from itertools import repeat
from time import process_time_ns, thread_time_ns
from typing import Any

import numpy as np

import crucible_otel as cx
from benchmarks.callers import empty, floor
from benchmarks.measure import ratio
from benchmarks.ours import Setting
from benchmarks.result import Result, Section
from benchmarks.workload import Train, of_at_least

METHOD = """\
The same calls between two training steps of a NumPy perceptron (one BLAS thread), where the caches are cold. All
variants run in one process, each for 1,024 steps a round, in eight turns and shuffled order. A round's figure is the
median of its single calls: what a typical step pays. *With folds and logs* takes their mean, which has its whole share
of the folds, each of a thousand steps at once, of the log event that is made once a second, and of whatever else the
machine did meanwhile. The README's loop is `for batch, step in run.steps(loader): step.log(...)`."""

STEP, LOOP, NAIVE, PROMETHEUS = "run.step", "README loop", "six SDK instruments", "prometheus_client"
EMPTY, FLOOR, PLAIN, CONTROL = "empty function", "empty function + clock", "nothing", "nothing, again"
_BLOCK = 32
_CALLS = 1024
"""Calls of a round: as many as are folded at once."""
_SLICES = 8


@dataclass
class Variant:
    """One way to instrument the loop.

    Attributes:
        name: Its name.
        before: What stands in front of the training step; its result is handed on.
        after: What stands behind it: gets that, the number of the step, its loss and its norm.
        context: The context of the loop.
        steps: Steps made.
        calls_ns: CPU time of the calls, by round and step.
        step_ns: CPU time of the training step itself, by round.
        others_ns: CPU time of the process' other threads, by round, a step.
    """

    name: str
    before: Callable[[], Any]
    after: Callable[[Any, int, float, float], Any]
    context: Context = field(default_factory=Context)
    steps: int = 0
    calls_ns: list[list[int]] = field(default_factory=list)
    step_ns: list[float] = field(default_factory=list)
    others_ns: list[float] = field(default_factory=list)

    def round(self, train: Train, blocks: int) -> None:
        """Make some blocks of steps."""
        process, thread = process_time_ns(), thread_time_ns()
        calls: list[int] = []
        found = [self.context.run(self._block, train, calls) for _ in range(blocks)]
        thread, process = thread_time_ns() - thread, process_time_ns() - process
        self.calls_ns.append(calls)
        self.step_ns.append(statistics.median(found))
        self.others_ns.append(max(0.0, (process - thread) / blocks / _BLOCK))

    def join(self, slices: int) -> None:
        """Make one round of the last ones."""
        self.calls_ns[-slices:] = [[call for calls in self.calls_ns[-slices:] for call in calls]]
        self.step_ns[-slices:] = [statistics.median(self.step_ns[-slices:])]
        self.others_ns[-slices:] = [statistics.fmean(self.others_ns[-slices:])]

    def forget(self) -> None:
        """Forget what was measured so far."""
        for kept in (self.calls_ns, self.step_ns, self.others_ns):
            kept.clear()

    def _block(self, train: Train, calls: list[int]) -> float:
        working = 0
        before, after, number = self.before, self.after, self.steps
        for index in range(1, _BLOCK + 1):
            a = thread_time_ns()
            token = before()
            b = thread_time_ns()
            loss, norm = train()
            c = thread_time_ns()
            after(token, number + index, loss, norm)
            d = thread_time_ns()
            calls.append((b - a) + (d - c))
            working += c - b
        self.steps += _BLOCK
        return working / _BLOCK


def _nothing() -> None:
    """What stands in front of a step that is only reported afterwards."""


def _plain(token: Any, number: int, loss: float, norm: float) -> None:
    """What stands behind a step that nobody reports."""


def _reporting(record: Callable[..., Any]) -> Callable[[Any, int, float, float], None]:
    def after(token: Any, number: int, loss: float, norm: float) -> None:
        record(loss=loss, learning_rate=3e-4, gradient_norm=norm, tokens=4096, step=number)

    return after


def _logging(token: Any, number: int, loss: float, norm: float) -> None:
    token[1].log(loss=loss, learning_rate=3e-4, gradient_norm=norm, tokens=4096)


def variants(setting: Setting, *others: str) -> dict[str, Variant]:
    """Return the ways to instrument the loop: ours, and those others.

    The README's loop has a run of its own: the steps of a run are numbered by its loop or by the caller.
    """
    looping = setting.context.copy()
    run = looping.run(cx.train("loop").start)
    batches: Iterator[Any] = iter(looping.run(run.steps, repeat(np.zeros((32, 4), np.float32))))
    records = {
        NAIVE: setting.naive.record,
        PROMETHEUS: setting.prometheus.record,
        FLOOR: floor(),
        EMPTY: empty,
    }
    stepping = Variant(STEP, _nothing, _reporting(setting.run.step), setting.context.copy())
    stepping.steps = setting.run.reached() or 0
    found = [
        Variant(PLAIN, _nothing, _plain),
        stepping,
        Variant(LOOP, batches.__next__, _logging, looping),
        *(Variant(name, _nothing, _reporting(records[name])) for name in others),
        Variant(CONTROL, _nothing, _plain),
    ]
    return {variant.name: variant for variant in found}


def measure_rounds(
    of: dict[str, Variant],
    train: Train,
    rounds: int,
    calls: int,
    after: Callable[[Variant], object] | None = None,
    slices: int = 1,
) -> None:
    """Run all variants in shuffled order, round by round; what was measured is in the variants.

    Args:
        of: The variants.
        train: The training step.
        rounds: How often.
        calls: Calls of a variant in a round.
        after: Called after each variant's slice.
        slices: In how many turns a variant makes its calls of a round: the mood of a machine changes within seconds.
    """
    everything = list(of.values())
    for variant in everything:
        variant.round(train, 1)
        variant.forget()
    order = random.Random(0)
    for _ in range(rounds):
        for _ in range(slices):
            for variant in order.sample(everything, len(everything)):
                variant.round(train, max(1, calls // slices // _BLOCK))
                if after is not None:
                    after(variant)
        for variant in everything:
            variant.join(slices)


def calls_ns(
    of: dict[str, Variant], summary: Callable[[Sequence[float]], float] = statistics.fmean
) -> dict[str, list[float]]:
    """Return the CPU time of each variant's calls by round, a step, without the clock reads around them."""
    found = {name: [summary(calls) for calls in variant.calls_ns] for name, variant in of.items()}
    nothing = statistics.median(found[PLAIN] + found[CONTROL])
    return {name: [value - nothing for value in values] for name, values in found.items()}


def measure(setting: Setting) -> Section:
    """Measure the calls inside a step."""
    train, examples = of_at_least(1.5)
    of = variants(setting, NAIVE, PROMETHEUS, FLOOR, EMPTY)
    measure_rounds(of, train, *((2, 64) if setting.quick else (9, _CALLS)), slices=1 if setting.quick else _SLICES)
    typical, whole = calls_ns(of, statistics.median), calls_ns(of)

    def against(other: str, ours: str, target: float | None) -> Result:
        middle, low, high = ratio(typical[other], typical[ours])
        return Result(name=f"{other} / {ours}", value=middle, low=low, high=high, target=target)

    def wholly(other: str, ours: str) -> Result:
        middle, low, high = ratio(whole[other], whole[ours])
        return Result(name=f"{other} / {ours}, with folds and logs", value=middle, low=low, high=high)

    middle, low, high = ratio(typical[STEP], typical[FLOOR])
    return Section(
        method=METHOD,
        results=(
            against(NAIVE, STEP, 30.0),
            against(PROMETHEUS, STEP, 5.0),
            Result(name=f"{STEP} / {FLOOR}", value=middle, low=low, high=high, target=2.5, better="less"),
            against(NAIVE, LOOP, 25.0),
            wholly(NAIVE, STEP),
            wholly(NAIVE, LOOP),
        ),
        figures={
            "step_us": round(statistics.median(of[PLAIN].step_ns) / 1e3, 1),
            "examples": examples,
            "ns": {name: round(statistics.median(values), 1) for name, values in typical.items()},
            "ns with folds and logs": {name: round(statistics.median(values), 1) for name, values in whole.items()},
        },
    )
