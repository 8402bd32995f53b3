"""What ``import crucible_otel`` costs, next to the OpenTelemetry API."""

from __future__ import annotations

import json
import random
import subprocess
from typing import Any

from benchmarks.environment import child
from benchmarks.result import Result, Section

METHOD = """\
CPU time of the import in fresh interpreters, the best of all rounds in shuffled order; and the modules it loads.
*With the verbs* loads what `cx.train`, `cx.workflow`, `cx.stage` and `cx.span` need, at their first use."""

_PROGRAM = """
import json, sys, time
before, begun = set(sys.modules), time.process_time_ns()
{statement}
spent = time.process_time_ns() - begun
print(json.dumps([spent, sorted(set(sys.modules) - before)]))
"""
_API, _OURS, _VERBS = "opentelemetry.trace", "crucible_otel", "crucible_otel with the verbs"
_STATEMENTS = {
    _API: "import opentelemetry.trace",
    _OURS: "import crucible_otel",
    _VERBS: "import crucible_otel as cx; cx.train, cx.workflow, cx.stage, cx.span",
}
_HEAVY = ("opentelemetry.sdk", "opentelemetry.exporter", "numpy", "torch", "google.protobuf", "grpc", "requests")


def measure(quick: bool) -> Section:
    """Measure in fresh interpreters."""
    spent: dict[str, list[int]] = {name: [] for name in _STATEMENTS}
    loaded: dict[str, list[str]] = {}
    order = random.Random(0)
    for _ in range(3 if quick else 25):
        for name in order.sample(list(_STATEMENTS), len(_STATEMENTS)):
            took, loaded[name] = _import(_STATEMENTS[name])
            spent[name].append(took)
    best = {name: min(values) for name, values in spent.items()}
    heavy = sorted({name for name in _HEAVY for module in loaded[_VERBS] if f"{module}.".startswith(f"{name}.")})

    def against(name: str, target: float | None) -> Result:
        return Result(
            name=f"import {name} / import {_API}", value=best[name] / best[_API], target=target, better="less"
        )

    return Section(
        method=METHOD,
        results=(
            against(_OURS, 1.3),
            against(_VERBS, None),
            Result(
                name="SDK, exporters, NumPy and torch loaded by the verbs",
                value=len(heavy),
                unit="modules",
                better="less",
                target=0,
                note=", ".join(heavy),
            ),
            Result(name="loaded by import crucible_otel", value=len(loaded[_OURS]), unit="modules", better="less"),
            Result(name=f"loaded by import {_API}", value=len(loaded[_API]), unit="modules", better="less"),
        ),
        figures={"ms": {name: round(value / 1e6, 2) for name, value in best.items()}},
    )


def _import(statement: str) -> tuple[int, list[str]]:
    command, options = child("-c", _PROGRAM.format(statement=statement))
    found: Any = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, **options).stdout)
    return found[0], found[1]
