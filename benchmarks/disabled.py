"""What a verb costs when telemetry is switched off, or was never configured."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from benchmarks.children import figures
from benchmarks.result import Result, Section

METHOD = """\
In processes of their own: `run.step` under `OTEL_SDK_DISABLED=true`, and in a program that never calls `configure()`,
against an empty Python function of the same five keywords. A tenth is allowed for the spread of the measurement."""

_EMPTY, _OURS, _DISABLED = "empty function", "run.step", "OTEL_SDK_DISABLED"


def measure(quick: bool) -> Section:
    """Measure in children."""
    switched_off = figures("disabled", "off", str(quick), environ={_DISABLED: "true"})
    unconfigured = figures("disabled", "unconfigured", str(quick))

    def result(name: str, found: dict[str, Any], target: float | None) -> Result:
        middle, low, high = found["ratio"]
        return Result(
            name=f"{_OURS}, {name} / {_EMPTY}", value=middle, low=low, high=high, target=target, better="less"
        )

    return Section(
        method=METHOD,
        results=(result("switched off", switched_off, 1.1), result("never configured", unconfigured, None)),
        figures={"ns": {"switched off": switched_off["ns"], "never configured": unconfigured["ns"]}},
    )


def _measure(switched_off: bool, quick: bool) -> dict[str, Any]:
    import crucible_otel as cx
    from benchmarks.callers import empty
    from benchmarks.measure import CALL, Case, driver, ratio, rounds

    if switched_off:
        assert not cx.configure().enabled
    run = cx.train("m").start()
    cases = [Case(_OURS, driver(CALL, record=run.step)), Case(_EMPTY, driver(CALL, record=empty))]
    found = rounds(cases, 3 if quick else 21)
    return {
        "ratio": ratio(found[_OURS].thread_ns, found[_EMPTY].thread_ns),
        "ns": {name: round(each.ns, 1) for name, each in found.items()},
    }


if __name__ == "__main__":
    from benchmarks.environment import prepare

    asked = os.environ.get(_DISABLED)
    prepare()
    if asked is not None:
        os.environ[_DISABLED] = asked
    print(json.dumps(_measure(sys.argv[1] == "off", sys.argv[2] == "True")))
