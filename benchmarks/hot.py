"""``run.step`` in a loop that does nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from time import thread_time_ns

from benchmarks.callers import empty, floor
from benchmarks.measure import CALL, Case, driver, ratio, rounds
from benchmarks.ours import Setting
from benchmarks.result import Result, Section, percentiles

METHOD = """\
`run.step(loss=, learning_rate=, gradient_norm=, tokens=, step=)` in a loop that does nothing else, against the same
call of the others. The caches are warm, which favours everybody. The tail is CPU time of single calls."""

_OURS, _NAIVE, _PROMETHEUS = "run.step", "six SDK instruments", "prometheus_client"
_EMPTY, _FLOOR = "empty function", "empty function + clock"


def measure(setting: Setting) -> Section:
    """Measure the hot loop."""
    step = setting.run.step
    cases = [
        Case(_OURS, driver(CALL, record=step), context=setting.context),
        Case(_NAIVE, driver(CALL, record=setting.naive.record), after=setting.naive.flush),
        Case(_PROMETHEUS, driver(CALL, record=setting.prometheus.record)),
        Case(_FLOOR, driver(CALL, record=floor())),
        Case(_EMPTY, driver(CALL, record=empty)),
    ]
    found = rounds(cases, 3 if setting.quick else 21)
    ours = found[_OURS]
    tails = {
        name: _tail(record, context, made, 2_000 if setting.quick else 50_000)
        for name, record, context, made in (
            (_OURS, step, setting.context, cases[0].made),
            (_NAIVE, setting.naive.record, Context(), 0),
        )
    }

    def against(other: str, target: float) -> Result:
        middle, low, high = ratio(found[other].thread_ns, ours.thread_ns)
        return Result(name=f"{other} / run.step", value=middle, low=low, high=high, target=target)

    middle, low, high = ratio(ours.thread_ns, found[_FLOOR].thread_ns)
    total, total_low, total_high = ratio(found[_NAIVE].process_ns, ours.process_ns)
    return Section(
        method=METHOD,
        results=(
            against(_NAIVE, 100.0),
            Result(
                name=f"{_NAIVE} / run.step, CPU of the process",
                value=total,
                low=total_low,
                high=total_high,
                target=100.0,
            ),
            against(_PROMETHEUS, 7.0),
            Result(name=f"run.step / {_FLOOR}", value=middle, low=low, high=high, target=4.0, better="less"),
            Result(name="run.step, p99.9 of single calls", value=tails[_OURS]["p99.9"] / 1e3, unit="us", better="less"),
            Result(
                name=f"{_NAIVE}, median of single calls", value=tails[_NAIVE]["p50"] / 1e3, unit="us", better="less"
            ),
        ),
        figures={
            "ns": {name: round(figures.ns, 1) for name, figures in found.items()},
            "process_ns": {name: round(figures.total_ns, 1) for name, figures in found.items()},
            "tail_ns": tails,
        },
    )


def _tail(record: Callable[..., None], context: Context, made: int, calls: int) -> dict[str, float]:
    def each() -> list[int]:
        spent: list[int] = []
        for number in range(made + 1, made + calls + 1):
            begun = thread_time_ns()
            record(loss=1.25, learning_rate=3e-4, gradient_norm=0.5, tokens=4096, step=number)
            spent.append(thread_time_ns() - begun)
        return spent

    clock = sorted(-(thread_time_ns() - thread_time_ns()) for _ in range(1000))[500]
    return {rank: value - clock for rank, value in percentiles(context.run(each), 50, 99, 99.9, 100).items()}
