"""What series keep in memory, and that steps keep nothing."""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

from benchmarks.children import figures
from benchmarks.result import Result, Section

METHOD = """\
In processes of their own. *Series*: `tracemalloc` over 10,000 model names, one step of each folded, buffers emptied and
garbage collected: the object that holds the six streams (steps, tokens, loss, learning rate, gradient norm, duration)
and four more (step number, samples, data wait, rewinds), its histogram with all its buckets, the tuple of its attribute
values, every number, and its share of the index. Not counted: the model's name, which is the program's own string, and
exemplars, at most one a bucket. *Handle* is what a run in progress adds for recording: its owner, its compiled
functions, its last records. *Finished run*: through the public API, `cx.train(model).start()`, three steps, `finish()`,
and a flush: what stays for good, with the series of its duration and exemplars. *Growth*: resident memory before and
after the steps, with the default exporters. The memory that requests are written in, which is kept and bounded, is
there before: a large request of log records has been sent."""

_MODELS, _STEPS, _WARM_UP = 10_000, 10_000_000, 1_000_000
_RECORDS = 5_000


def measure(quick: bool) -> Section:
    """Measure in children."""
    models, steps = (1_000, 200_000) if quick else (_MODELS, _STEPS)
    series, growth = figures("memory", "series", str(models)), figures("memory", "growth", str(steps))
    per = {name: series[name] / models for name in ("series", "handle", "run")}
    grown = (growth["after_bytes"] - growth["before_bytes"]) / 2**20
    return Section(
        method=METHOD,
        results=(
            Result(name="series of six streams", value=per["series"], unit="B", better="less", target=512),
            Result(name="handle of a run in progress", value=per["handle"], unit="B", better="less"),
            Result(name="finished run, by the public API", value=per["run"], unit="B", better="less"),
            Result(
                name=f"growth over {steps:,} steps",
                value=grown,
                unit="MiB",
                better="less",
                target=1.0,
                note=f"{growth['before_bytes'] / 2**20:.1f} MiB before, {growth['after_bytes'] / 2**20:.1f} MiB after",
            ),
        ),
        figures={"models": models, "steps": steps, "parts_bytes": series["parts"], "counted_steps": growth["counted"]},
    )


def _series(models: int) -> dict[str, Any]:
    import crucible_otel as cx
    from benchmarks.receiver import receiving
    from crucible_otel.events.runtime import runtime
    from crucible_otel.semconv.training import STEP_EVENT

    names, more = [f"model-{index}" for index in range(models)], [f"other-{index}" for index in range(models)]
    with (
        receiving() as endpoint,
        cx.configure(endpoint=endpoint, prometheus_port=0, cardinality_limit=3 * models) as telemetry,
    ):
        engine = runtime().engine

        def step(handle: Any, number: int) -> None:
            handle.commit(float(number), 0.0123 * number, 1.25 * number, 3e-4 * number, 0.5 * number, 4096, 0, 1, None)

        def traced() -> int:
            telemetry.flush(30.0)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        warm = engine.handle(STEP_EVENT, ("warm",), None, {})
        for _ in range(1000):
            step(warm, 1)
        tracemalloc.start()
        _send_much(telemetry, models)
        before = traced()
        for number, name in enumerate(names, 1):
            step(engine.handle(STEP_EVENT, (name,), None, {}), number)
        found = {"series": traced() - before}
        before = traced()
        handles = [engine.handle(STEP_EVENT, (name,), None, {}) for name in names]
        for number, handle in enumerate(handles, 1):
            step(handle, number)
        found["handle"] = traced() - before
        del handles, handle
        before = traced()
        for name in more:
            run = cx.train(name).start()
            for number in range(1, 4):
                run.step(loss=1.25 * number, learning_rate=3e-4, gradient_norm=0.5, tokens=4096, step=number)
            run.finish()
        del run
        telemetry.flush(30.0)
        found["run"] = traced() - before
        state = engine.handle(STEP_EVENT, (names[5],), None, {}).owner.state
        parts = {"series": state, "attribute values": state.values, "histogram": getattr(state, state.histograms[0])}
        found["parts"] = {name: sys.getsizeof(part) for name, part in parts.items()}
    return found


def _send_much(telemetry: Any, most: int) -> None:
    import crucible_otel as cx

    fields = {f"field_{index}": "as long as any" for index in range(20)}
    for number in range(min(_RECORDS, most)):
        cx.execute("benchmark.warm_up", {"number": number}, fields)
    telemetry.flush(30.0)


def _growth(steps: int) -> dict[str, Any]:
    import crucible_otel as cx
    from benchmarks.receiver import receiving

    with (
        receiving() as endpoint,
        cx.configure(endpoint=endpoint, prometheus_port=0) as telemetry,
        cx.train("m") as run,
    ):
        _send_much(telemetry, steps)
        done = 0
        for calls in (min(steps, _WARM_UP), steps):
            telemetry.flush()
            gc.collect()
            before = resident_bytes()
            for number in range(done + 1, done + calls + 1):
                run.step(loss=1.25, learning_rate=3e-4, gradient_norm=0.5, tokens=4096, step=number)
            done += calls
        telemetry.flush()
        gc.collect()
        after, counted = resident_bytes(), run.reached()
    assert counted == done, f"{counted} of {done} steps were counted"
    return {"before_bytes": before, "after_bytes": after, "counted": counted}


def resident_bytes() -> int:
    import resource

    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    from benchmarks.environment import prepare

    prepare()
    print(json.dumps({"series": _series, "growth": _growth}[sys.argv[1]](int(sys.argv[2]))))
