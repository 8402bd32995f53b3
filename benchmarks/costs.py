"""What single things cost, for who wants to reckon what a job of his own would pay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

STEP_MS: Final = 10.0
"""The length of a step of which a share is shown."""


@dataclass(frozen=True)
class Cost:
    """A line of the table.

    Attributes:
        what: What costs it.
        section: The benchmark that measured it.
        path: Where in its figures; a map at its end is added up.
        per_us: How many of the figure's units a microsecond has.
    """

    what: str
    section: str
    path: tuple[str, ...]
    per_us: float = 1e3


COSTS: Final = (
    Cost("`run.step`, in a loop of its own", "hot", ("process_ns", "run.step")),
    Cost("`run.step`, after a training step", "instep", ("ns with folds and logs", "run.step")),
    Cost("`run.steps` and `step.log`, around a training step", "instep", ("ns with folds and logs", "README loop")),
    Cost("`run.step` with a span, after a training step, sent", "whole", ("with_spans_us", "run.step"), 1),
    Cost("`call.record`, metrics only", "calls", ("process_ns", "metrics only", "record")),
    Cost("`call.record` with a span, sent", "calls", ("process_ns", "all spans", "record")),
    Cost("`with cx.call(...)`, metrics only", "calls", ("process_ns", "metrics only", "with call")),
    Cost("`with cx.call(...)` with a span, sent", "calls", ("process_ns", "all spans", "with call")),
    Cost("`with cx.call(...)`, `timing`, with a span, sent", "calls", ("process_ns", "all spans", "with call, timing")),
    Cost("`with cx.stage(...)`, its span and two log events", "spans", ("ns", "stage")),
    Cost("`with cx.workflow(...)`, the same", "spans", ("ns", "workflow")),
    Cost("`with run.epoch(...)`, the same", "spans", ("ns", "epoch")),
    Cost("a log event by `cx.execute`", "spans", ("ns", "log event")),
    Cost("encoding such a span", "encoding", ("ns each", "span, ours")),
    Cost("encoding a log event", "encoding", ("ns each", "log record, ours")),
    Cost("encoding a call's span, which is in the above", "calls", ("encode_ns", "hot span")),
    Cost("a collection of all metrics, encoded and sent", "whole", ("one_export_us", "run.step"), 1),
)

_TABLE = """\
## To reckon with

Microseconds of CPU time, here, and what one of them is of {step_ms:g} ms. To apply it: how often a second the job does
it, times the figure, is the share of a core; or, for what happens once a step, the figure divided by the length of the
step. Metrics are collected once a minute by default, whatever the rate of the steps. What is *sent* includes encoding
and sending; the structural spans and the log events do not, their encoding is a line of its own.

| | us | of {step_ms:g} ms |
|---|---|---|
{rows}
"""


def costs(sections: dict[str, Any]) -> list[tuple[str, float]]:
    """Return what each thing costs in microseconds, as far as it was measured."""
    found = []
    for cost in COSTS:
        figure: Any = sections.get(cost.section, {}).get("figures")
        for key in cost.path:
            figure = None if figure is None else figure.get(key)
        if figure is not None:
            number = sum(figure.values()) if isinstance(figure, dict) else figure
            found.append((cost.what, number / cost.per_us))
    return found


def table(sections: dict[str, Any]) -> str:
    """Return the table for the documentation."""
    rows = [
        f"| {what} | {_number(microseconds)} | {_number(microseconds / STEP_MS / 10)} % |"
        for what, microseconds in costs(sections)
    ]
    return _TABLE.format(step_ms=STEP_MS, rows="\n".join(rows))


def _number(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3}f}"
