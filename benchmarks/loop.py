"""The README's loop, doing nothing else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import numpy as np

import crucible_otel as cx
from benchmarks.measure import CHUNK, Case, ratio, rounds
from benchmarks.ours import Setting
from benchmarks.result import Result, Section

METHOD = """\
`for batch, step in run.steps(loader): step.log(loss=, learning_rate=, gradient_norm=, tokens=)` over small arrays,
against `for batch in loader:` with one call of the other; the bare loop is subtracted from both. It measures more than
`run.step` does: the wait for the data, the samples, and the step without the wait."""

_OURS, _NAIVE, _PROMETHEUS = "README loop", "six SDK instruments", "prometheus_client"


def measure(setting: Setting) -> Section:
    """Measure the loop."""
    batches = [np.zeros((32, 4), np.float32) for _ in range(64)]

    def loader(calls: int) -> Any:
        return chain.from_iterable(repeat(batches, calls // len(batches)))

    context = setting.context.copy()
    run = context.run(cx.train("loop").start)

    def ours(
        start: int, calls: int, loss: float = 1.25, rate: float = 3e-4, norm: float = 0.5, count: int = 4096
    ) -> None:
        for _batch, step in run.steps(loader(calls)):
            step.log(loss=loss, learning_rate=rate, gradient_norm=norm, tokens=count)

    def bare(start: int, calls: int) -> None:
        for _batch in loader(calls):
            pass

    def others(record: Callable[..., Any]) -> Callable[[int, int], None]:
        def drive(
            start: int, calls: int, loss: float = 1.25, rate: float = 3e-4, norm: float = 0.5, count: int = 4096
        ) -> None:
            for _batch in loader(calls):
                record(loss=loss, learning_rate=rate, gradient_norm=norm, tokens=count)

        return drive

    cases = [
        Case(_OURS, ours, context=context),
        Case(_NAIVE, others(setting.naive.record), after=setting.naive.flush),
        Case(_PROMETHEUS, others(setting.prometheus.record)),
    ]
    found = rounds(cases, 3 if setting.quick else 15, bare=Case("(bare loop)", bare, chunk=CHUNK))
    context.run(run.finish)
    results = []
    for other, target in ((_NAIVE, 50.0), (_PROMETHEUS, None)):
        middle, low, high = ratio(found[other].thread_ns, found[_OURS].thread_ns)
        results.append(Result(name=f"{other} / {_OURS}", value=middle, low=low, high=high, target=target))
    return Section(
        method=METHOD,
        results=tuple(results),
        figures={
            "ns": {name: round(figures.ns, 1) for name, figures in found.items()},
            "process_ns": {name: round(figures.total_ns, 1) for name, figures in found.items()},
        },
    )
