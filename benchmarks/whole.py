"""What telemetry adds to a whole training loop."""

from __future__ import annotations

import statistics
from time import process_time_ns

from benchmarks.instep import CONTROL, LOOP, NAIVE, PLAIN, STEP, Variant, calls_ns, measure_rounds, variants
from benchmarks.ours import Setting
from benchmarks.result import Result, Section
from benchmarks.workload import of_at_least

METHOD = """\
What telemetry adds to such a loop, as CPU time of the process: the calls where they stand (mean, with folds and logs),
the export (collection, encoding and OTLP/HTTP of metrics, logs and spans), and what other threads of the process do
meanwhile. First with an export forced every 512 steps, which is far too often; then in longer stretches that are left
to themselves, with one export every 60 s as by default, and the log events sent whenever they are."""

_EXPORT_AT, _STRETCH, _INTERVAL_S = 512, 4096, 60.0


def measure(setting: Setting) -> Section:
    """Measure what telemetry adds."""
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
    return Section(
        method=METHOD,
        results=tuple(results),
        figures={
            "step_us": round(step_ns / 1e3, 1),
            "examples": examples,
            "one_export_us": {name: round(statistics.median(values) / 1e3) for name, values in spent.items()},
            "forced_us": _microseconds(forced),
            "calm_us": _microseconds(calm),
            "knock_on_us": {name: round(value / 1e3, 1) for name, value in knock_on.items()},
        },
    )


def _added(of: dict[str, Variant], name: str, export_ns: float) -> dict[str, float]:
    idle = statistics.fmean(of[PLAIN].others_ns + of[CONTROL].others_ns) if name == NAIVE else 0.0
    others = max(0.0, statistics.fmean(of[name].others_ns) - idle)
    return {"calls": statistics.fmean(calls_ns(of)[name]), "other threads": others, "export": export_ns}


def _microseconds(added: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {part: round(value / 1e3, 2) for part, value in parts.items()} for name, parts in added.items()}
