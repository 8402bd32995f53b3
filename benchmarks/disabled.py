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
against an empty Python function of the same five keywords. A tenth is allowed for the spread of the measurement, and
because CPython sets each parameter that is not given, of which `run.step` has three more: *with its parameters* is an
empty function that has them too. Slices are short, so that what changes the speed of the machine falls on all alike."""

_EMPTY, _SAME, _OURS = "empty function", "empty function with its parameters", "run.step"
_DISABLED = "OTEL_SDK_DISABLED"
_SLICE_S = 0.005


def same(
    loss: Any = None,
    learning_rate: Any = None,
    gradient_norm: Any = None,
    tokens: Any = 0,
    samples: Any = 0,
    step: Any = None,
    data_wait: Any = None,
    metrics: Any = None,
) -> None:
    """Do nothing, with the parameters of ``run.step``."""


def measure(quick: bool) -> Section:
    """Measure in children."""
    switched_off = figures("disabled", "off", str(quick), environ={_DISABLED: "true"})
    unconfigured = figures("disabled", "unconfigured", str(quick))

    def result(name: str, found: dict[str, Any], target: float | None, to: str = _EMPTY) -> Result:
        middle, low, high = found["ratio"][to]
        return Result(name=f"{_OURS}, {name} / {to}", value=middle, low=low, high=high, target=target, better="less")

    return Section(
        method=METHOD,
        results=(
            result("switched off", switched_off, 1.1),
            result("switched off", switched_off, None, _SAME),
            result("never configured", unconfigured, None),
        ),
        figures={"ns": {"switched off": switched_off["ns"], "never configured": unconfigured["ns"]}},
    )


def _measure(switched_off: bool, quick: bool) -> dict[str, Any]:
    import crucible_otel as cx
    from benchmarks.callers import empty
    from benchmarks.measure import CALL, Case, driver, ratio, rounds

    if switched_off:
        assert not cx.configure().enabled
    run = cx.train("m").start()
    functions = {_OURS: run.step, _EMPTY: empty, _SAME: same}
    cases = [Case(name, driver(CALL, record=each), slice_s=_SLICE_S) for name, each in functions.items()]
    found = rounds(cases, 3 if quick else 81)
    return {
        "ratio": {to: ratio(found[_OURS].thread_ns, found[to].thread_ns) for to in (_EMPTY, _SAME)},
        "ns": {name: round(each.ns, 1) for name, each in found.items()},
    }


if __name__ == "__main__":
    from benchmarks.environment import prepare

    asked = os.environ.get(_DISABLED)
    prepare()
    if asked is not None:
        os.environ[_DISABLED] = asked
    print(json.dumps(_measure(sys.argv[1] == "off", sys.argv[2] == "True")))
