"""What telemetry adds to a whole training loop."""

from __future__ import annotations

import json
import statistics
import sys
from time import process_time_ns
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.children import figures
from benchmarks.instep import CONTROL, LOOP, NAIVE, PLAIN, STEP, Variant, calls_ns, measure_rounds, variants
from benchmarks.ours import Setting
from benchmarks.ours import setting as configured
from benchmarks.result import Result, Section
from benchmarks.workload import of_at_least

METHOD = """\
What telemetry adds to such a loop, as CPU time of the process: the calls where they stand (mean, with folds and logs),
the export (collection, encoding and OTLP/HTTP of metrics, logs and spans), and what other threads of the process do
meanwhile. First with an export forced every 512 steps, which is far too often; then in longer stretches that are left
to themselves, with one export every 60 s as by default, and the log events sent whenever they are. *With a span per
step* is `step_sample_rate=1`, in a process of its own: spans leave when they are due, and each stretch of 2,048 steps
ends with a flush of its spans; that is counted, and a flush of everything else once in 60 s."""

_EXPORT_AT, _STRETCH, _INTERVAL_S = 512, 4096, 60.0
_FLUSH_S = 60.0


def measure(setting: Setting) -> Section:
    """Measure what telemetry adds."""
    with_spans = figures("whole", str(setting.quick))
    train, examples = of_at_least(1.6)
    quick = setting.quick
    of = variants(setting, NAIVE)
    exports = {STEP: setting.telemetry.flush, LOOP: setting.telemetry.flush, NAIVE: setting.naive.flush}
    spent: dict[str, list[int]] = {name: [] for name in exports}

    def export(variant: Variant) -> None:
        if variant.name in exports:
            begun = process_time_ns()
            exports[variant.name]()
            spent[variant.name].append(process_time_ns() - begun)

    setting.telemetry.flush()
    setting.naive.flush()
    measure_rounds(of, train, *((2, 64) if quick else (8, _EXPORT_AT)), after=export)
    step_ns = statistics.median(of[PLAIN].step_ns + of[CONTROL].step_ns)
    forced = {
        name: _added(of, name, statistics.median(spent[name]) / (64 if quick else _EXPORT_AT)) for name in exports
    }
    knock_on = {name: statistics.median(of[name].step_ns) - step_ns for name in exports}
    for variant in of.values():
        variant.forget()
    measure_rounds(of, train, *((1, 64) if quick else (2, _STRETCH)))
    calm_ns = statistics.median(of[PLAIN].step_ns + of[CONTROL].step_ns)
    steps = _INTERVAL_S * 1e9 / calm_ns
    calm = {name: _added(of, name, statistics.median(spent[name]) / steps) for name in exports}
    results = []
    for name in exports:
        for added, base_ns, how, target in (
            (forced, step_ns, f"exported every {_EXPORT_AT} steps", None),
            (calm, calm_ns, f"exported every {_INTERVAL_S:.0f} s", 0.6),
        ):
            results.append(
                Result(
                    name=f"{name}, {how}",
                    value=100 * sum(added[name].values()) / base_ns,
                    unit="%",
                    better="less",
                    target=None if name == NAIVE else target,
                )
            )
    for name, values in with_spans["percent"].items():
        middle, low, high = statistics.median(values), min(values), max(values)
        results.append(
            Result(
                name=f"{name}, with a span per step",
                value=middle,
                low=low,
                high=high,
                unit="%",
                better="less",
                target=1.0,
            )
        )
    return Section(
        method=METHOD,
        results=tuple(results),
        figures={
            "with_spans_us": with_spans["added_us"],
            "step_us": round(step_ns / 1e3, 1),
            "examples": examples,
            "one_export_us": {name: round(statistics.median(values) / 1e3) for name, values in spent.items()},
            "forced_us": _microseconds(forced),
            "calm_us": _microseconds(calm),
            "knock_on_us": {name: round(value / 1e3, 1) for name, value in knock_on.items()},
        },
    )


def _with_spans(quick: bool) -> dict[str, Any]:
    train, _ = of_at_least(1.6)
    with configured(quick, step_sample_rate=1.0) as shared:
        of, provider = variants(shared), cast("TracerProvider", trace.get_tracer_provider())
        spent: dict[str, list[int]] = {STEP: [], LOOP: []}

        def export(variant: Variant) -> None:
            begun = process_time_ns()
            assert provider.force_flush(round(_FLUSH_S * 1e3))
            if variant.name in spent:
                spent[variant.name].append(process_time_ns() - begun)

        rounds, calls = (1, 64) if quick else (5, _STRETCH // 2)
        measure_rounds(of, train, rounds, calls, after=export)
        begun = process_time_ns()
        assert shared.telemetry.flush(_FLUSH_S)
        everything_ns = process_time_ns() - begun
        (signal,) = (each for each in shared.telemetry.status()["signals"] if each["signal"] == "traces")
    step_ns = statistics.median(of[PLAIN].step_ns + of[CONTROL].step_ns)
    called, due_ns = calls_ns(of), everything_ns * step_ns / (_INTERVAL_S * 1e9)
    parts = {
        name: list(zip(called[name], of[name].others_ns, (value / calls + due_ns for value in exports), strict=True))
        for name, exports in spent.items()
    }
    steps = sum(of[name].steps for name in (STEP, LOOP)) - 1  # the loop's last one is still open
    assert signal["delivered"] >= steps, (signal, steps)
    return {
        "percent": {name: [100 * sum(each) / step_ns for each in by_round] for name, by_round in parts.items()},
        "added_us": {
            name: {
                part: round(statistics.median(values) / 1e3, 2)
                for part, values in zip(("calls", "other threads", "export"), zip(*by_round, strict=True), strict=True)
            }
            for name, by_round in parts.items()
        },
    }


def _added(of: dict[str, Variant], name: str, export_ns: float) -> dict[str, float]:
    idle = statistics.fmean(of[PLAIN].others_ns + of[CONTROL].others_ns) if name == NAIVE else 0.0
    others = max(0.0, statistics.fmean(of[name].others_ns) - idle)
    return {"calls": statistics.fmean(calls_ns(of)[name]), "other threads": others, "export": export_ns}


def _microseconds(added: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {part: round(value / 1e3, 2) for part, value in parts.items()} for name, parts in added.items()}


if __name__ == "__main__":
    from benchmarks.environment import prepare

    prepare()
    print(json.dumps(_with_spans(sys.argv[1] == "True")))
