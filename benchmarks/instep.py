"""Telemetry inside a real training step, and what it adds to the whole loop.

Between two steps of linear algebra the caches are cold, so every call costs several times what it costs in a loop of
its own; this is what a program pays. Calls are measured where they stand, by the clock of the thread, and the same
clock reads around nothing are subtracted.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from itertools import repeat
from time import process_time_ns, thread_time_ns
from typing import Any

from benchmarks.callers import empty, floor
from benchmarks.measure import CHUNK, ratio
from benchmarks.ours import Setting
from benchmarks.result import Result, Section
from benchmarks.workload import Train, of_at_least

METHOD = """\
The same calls between two training steps of a NumPy perceptron (one BLAS thread), where the caches are cold. All
variants run in one process, each for 512 steps in a round, so that each has its whole share of folds and of the log
event that is made once a second, in shuffled order. The README's loop is `for batch, step in run.steps(loader): step.log(...)`."""

WHOLE_METHOD = """\
What telemetry adds to such a loop, as CPU time a step: the calls where they stand, the export (collection, encoding and
OTLP/HTTP of metrics, spans and logs; forced every 500 steps), and whatever other threads of the process do meanwhile."""

_EXPORT_AT = 500
_STEP, _LOOP, _NAIVE, _PROMETHEUS = "run.step", "README loop", "six SDK instruments", "prometheus_client"
_EMPTY, _FLOOR, _PLAIN, _CONTROL = "empty function", "empty function + clock", "nothing", "nothing, again"
_INTERVAL_S = 60.0

Before = Callable[[], Any]
After = Callable[[Any, int, float, float], Any]


@dataclass
class Variant:
    """One way to instrument the loop.

    Attributes:
        name: Its name.
        before: What stands in front of the training step; its result is handed on.
        after: What stands behind it.
        export: Delivers what there is, after each round.
        context: The context of the loop.
    """

    name: str
    before: Before
    after: After
    export: Callable[[], object] | None = None
    context: Context = field(default_factory=Context)
    steps: int = 0
    calls_ns: list[float] = field(default_factory=list)
    step_ns: list[float] = field(default_factory=list)
    exports_ns: list[int] = field(default_factory=list)
    others_ns: list[int] = field(default_factory=list)

    def round(self, train: Train, calls: int) -> None:
        """Make some steps."""
        self.context.run(self._round, train, calls)

    def _round(self, train: Train, calls: int) -> None:
        train()
        spent = working = 0
        before, after, number = self.before, self.after, self.steps
        process, thread = process_time_ns(), thread_time_ns()
        for index in range(1, calls + 1):
            a = thread_time_ns()
            token = before()
            b = thread_time_ns()
            loss, norm = train()
            c = thread_time_ns()
            after(token, number + index, loss, norm)
            d = thread_time_ns()
            spent += (b - a) + (d - c)
            working += c - b
        thread, process = thread_time_ns() - thread, process_time_ns() - process
        self.calls_ns.append(spent / calls)
        self.others_ns.append(max(0, process - thread))
        self.step_ns.append(working / calls)
        self.steps += calls
        if self.export is not None:
            begun = process_time_ns()
            self.export()
            self.exports_ns.append(process_time_ns() - begun)


def _nothing() -> None:
    """What stands in front of a step that is only reported afterwards."""


def _plain(token: Any, number: int, loss: float, norm: float) -> None:
    """What stands behind a step that nobody reports."""


def _reporting(record: Callable[..., Any]) -> After:
    def after(token: Any, number: int, loss: float, norm: float) -> None:
        record(loss=loss, learning_rate=3e-4, gradient_norm=norm, tokens=4096, step=number)

    return after


def _logging(token: Any, number: int, loss: float, norm: float) -> None:
    token[1].log(loss=loss, learning_rate=3e-4, gradient_norm=norm, tokens=4096)


def _variants(setting: Setting, *, everybody: bool) -> list[Variant]:
    """The README's loop has a run of its own: steps of one run are either numbered by it or by the caller."""
    import crucible_otel as cx

    looping = setting.context.copy()
    other = looping.run(cx.train("loop").start)
    batches: Iterator[Any] = looping.run(other.steps, repeat([None] * 32))
    flush = setting.telemetry.flush
    variants = [
        Variant(_PLAIN, _nothing, _plain),
        Variant(_STEP, _nothing, _reporting(setting.run.step), flush, setting.context.copy()),
        Variant(_LOOP, batches.__next__, _logging, flush, looping),
        Variant(_NAIVE, _nothing, _reporting(setting.naive.record), setting.naive.flush),
        Variant(_CONTROL, _nothing, _plain),
    ]
    if everybody:
        variants += [
            Variant(_PROMETHEUS, _nothing, _reporting(setting.prometheus.record)),
            Variant(_FLOOR, _nothing, _reporting(floor())),
            Variant(_EMPTY, _nothing, _reporting(empty)),
        ]
    variants[1].steps = setting.run.reached() or 0
    return variants


def _run(variants: list[Variant], train: Train, rounds: int, calls: int) -> dict[str, list[float]]:
    """Return the CPU time of each variant's calls by round, nanoseconds a step."""
    for variant in variants:
        variant.round(train, 8)
        for kept in (variant.calls_ns, variant.step_ns, variant.exports_ns, variant.others_ns):
            kept.clear()
    order = random.Random(0)
    for _ in range(rounds):
        for variant in order.sample(variants, len(variants)):
            variant.round(train, calls)
    nothing = statistics.median(value for each in variants if each.name in (_PLAIN, _CONTROL) for value in each.calls_ns)
    return {variant.name: [value - nothing for value in variant.calls_ns] for variant in variants}


def measure(setting: Setting) -> Section:
    """Measure the calls inside a step."""
    train, examples = of_at_least(1.5)
    variants = _variants(setting, everybody=True)
    for variant in variants:
        variant.export = None
    calls = _run(variants, train, *((2, 64) if setting.quick else (9, CHUNK)))

    def against(other: str, ours: str, target: float | None) -> Result:
        middle, low, high = ratio(calls[other], calls[ours])
        return Result(name=f"{other} / {ours}", value=middle, low=low, high=high, target=target)

    middle, low, high = ratio(calls[_STEP], calls[_FLOOR])
    return Section(
        method=METHOD,
        results=(
            against(_NAIVE, _STEP, 30.0),
            against(_PROMETHEUS, _STEP, 5.0),
            Result(name=f"{_STEP} / {_FLOOR}", value=middle, low=low, high=high, target=2.5, better="less"),
            against(_NAIVE, _LOOP, 25.0),
            against(_PROMETHEUS, _LOOP, None),
        ),
        figures={
            "step_us": round(statistics.median(variants[0].step_ns) / 1e3, 1),
            "examples": examples,
            "ns": {name: round(statistics.median(values), 1) for name, values in calls.items()},
        },
    )


def measure_whole(setting: Setting) -> Section:
    """Measure what telemetry adds to the whole loop."""
    train, examples = of_at_least(1.6)
    variants = _variants(setting, everybody=False)
    setting.telemetry.flush()
    setting.naive.flush()
    rounds, each = (2, 64) if setting.quick else (10, _EXPORT_AT)
    calls = {name: statistics.median(values) for name, values in _run(variants, train, rounds, each).items()}
    step_ns = statistics.median(variants[0].step_ns + variants[-1].step_ns)
    by_name = {variant.name: variant for variant in variants}
    # Other threads work for both of our variants, whoever's turn it is.
    others_ns = sum(sum(variant.others_ns) for variant in variants)
    made = 2 * rounds * each
    results, figures = [], {"step_us": round(step_ns / 1e3, 1), "examples": examples, "ns": {}}
    for name in (_STEP, _LOOP, _NAIVE):
        export_ns = statistics.median(by_name[name].exports_ns or [0])
        background_ns = others_ns / made if name != _NAIVE else 0.0
        forced = calls[name] + background_ns + export_ns / _EXPORT_AT
        rarely = calls[name] + background_ns + export_ns * step_ns / (_INTERVAL_S * 1e9)
        target = 0.6 if name != _NAIVE else None
        results += [
            Result(
                name=f"{name}, exported every {_EXPORT_AT} steps",
                value=100 * forced / step_ns,
                unit="%",
                better="less",
                target=target,
            ),
            Result(
                name=f"{name}, exported every {_INTERVAL_S:.0f} s",
                value=100 * rarely / step_ns,
                unit="%",
                better="less",
                target=target,
            ),
        ]
        figures["ns"][name] = {
            "calls": round(calls[name], 1),
            "one export": round(export_ns),
            "other threads": round(background_ns, 1),
        }
    knock_on = statistics.median(by_name[_NAIVE].step_ns) - step_ns
    figures["knock_on_us"] = {
        _NAIVE: round(knock_on / 1e3, 1),
        _STEP: round((statistics.median(by_name[_STEP].step_ns) - step_ns) / 1e3, 1),
    }
    return Section(method=WHOLE_METHOD, results=tuple(results), figures=figures)
