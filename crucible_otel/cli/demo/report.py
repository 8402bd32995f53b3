"""What arrived, as text: the trace, the metrics, the events, the scrape and the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from crucible_otel.cli.demo.numbers import counted, plain, quantile, seconds, size
from crucible_otel.cli.demo.result import DemoResult
from crucible_otel.cli.demo.screen import Screen
from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.prometheus import metric_name
from crucible_otel.semconv.training import (
    CHECKPOINT_OPERATION,
    CHECKPOINT_SIZE,
    CHECKPOINTS,
    DATA_WAIT,
    EPOCH_ACCURACY,
    EPOCH_LOSS,
    EPOCH_OPERATION,
    EVALUATION_METRIC,
    LOSS_GAUGE,
    NORM_GAUGE,
    RATE_GAUGE,
    SAMPLES,
    STEP_DURATION,
    STEPS,
    TRAINING,
)
from crucible_otel.testing.receiver import OtlpReceiver
from crucible_otel.testing.records import ReceivedMetric, ReceivedSpan
from crucible_otel.testing.tree import SpanNode

_SHOWN: Final = (
    STEPS,
    SAMPLES,
    STEP_DURATION,
    DATA_WAIT,
    LOSS_GAUGE,
    RATE_GAUGE,
    NORM_GAUGE,
    EPOCH_LOSS,
    EPOCH_ACCURACY,
    EVALUATION_METRIC,
    CHECKPOINTS,
    CHECKPOINT_SIZE,
)
_NUMBERS: Final[Mapping[str, Callable[[float], str]]] = {"s": seconds, "By": size}
_CHART: Final = 28
_SCRAPED: Final = 8
_ELSEWHERE: Final = "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 crucible-otel demo"


def header(screen: Screen, facts: Mapping[str, str]) -> None:
    """Say what is about to happen."""
    screen.heading("crucible-otel demo", "a real training run, as OpenTelemetry")
    width = max(map(len, facts))
    for name, fact in facts.items():
        screen.line(f"  {screen.style(name.ljust(width), 'dim')}   {fact}")


def arrived(screen: Screen, receiver: OtlpReceiver) -> None:
    """Show the trace, the metrics and the events that were received."""
    roots = receiver.trace_tree()
    screen.heading("The trace that arrived", f"{len(receiver.spans)} spans")
    for root in roots:
        _tree(screen, root)
    if not roots:
        screen.line("  none: traces are switched off or not sampled by the environment's settings")
    screen.heading("The metrics that arrived", "'crucible-otel semconv' describes them all")
    rows = [(spec.name, *row) for spec in _SHOWN for row in _metric(screen, spec, receiver)]
    if rows:
        screen.table([("metric", "value", ""), *rows], right=(1,), dim=(2,))
    else:
        screen.line("  none: metrics are switched off by the environment's settings")
    _events(screen, receiver)


def sent(screen: Screen, status: Mapping[str, Any], delivered: bool) -> None:
    """Say what was sent to where the environment asked for."""
    screen.heading("What was sent", "" if delivered else "not everything left in time")
    rows = [
        (each["signal"], each["endpoint"], *(plain(each[count]) for count in ("accepted", "delivered")))
        for each in status.get("signals", ())
    ]
    screen.table([("signal", "to", "made", "delivered"), *rows], right=(2, 3), dim=(1,))


def scraped(screen: Screen, result: DemoResult) -> None:
    """Show a part of the scrape that was made during the training."""
    if not result.scrape:
        return
    screen.heading("What Prometheus scrapes", "after the first epoch")
    beginning = metric_name(TRAINING.name)
    screen.line(
        screen.style(
            f"  $ curl -s {result.prometheus_url} | grep ^{beginning} | grep -v _bucket | head -{_SCRAPED}", "dim"
        )
    )
    lines = (line for line in result.scrape.splitlines() if line.startswith(beginning) and "_bucket" not in line)
    for line, _ in zip(lines, range(_SCRAPED), strict=False):
        screen.line(f"  {line}")


def files(screen: Screen, result: DemoResult) -> None:
    """Say where the files are; this is said even when quiet."""
    screen.heading("The files")
    saved = result.story.checkpoints
    whole = size(sum(path.stat().st_size for path in saved))
    rows = [
        ("curves", str(result.picture or result.no_picture)),
        ("events", str(result.jsonl) if result.jsonl.exists() else "none, telemetry is switched off"),
        ("checkpoints", f"{saved[-1].parent} ({counted(len(saved), 'file')}, {whole})"),
    ]
    for name, text in rows:
        screen.said(f"  {screen.style(name.ljust(11), 'dim')}   {text}")
    if result.receiver is not None:
        screen.line(f"\n  To send it to a Collector instead: {screen.style(_ELSEWHERE, 'bold')}")
    screen.line()


# -- the trace -------------------------------------------------------------------------------------------------------


def _tree(screen: Screen, root: SpanNode) -> None:
    began, whole = root.span.start_ns, max(1, root.span.end_ns - root.span.start_ns)
    rows = list(_branches(screen, root, "", ""))
    width = max(len(stem) + len(_label(node.span)) for stem, node in rows)
    for stem, node in rows:
        span, label = node.span, _label(node.span)
        start = _CHART * (span.start_ns - began) // whole
        end = max(start + 1, -(-_CHART * (span.end_ns - began) // whole))
        bar = " " * start + screen.glyphs.block * (min(end, _CHART) - start)
        failed = span.status_code == "error"
        room = " " * (width - len(stem) - len(label))
        screen.line(
            f"  {screen.style(stem, 'dim')}{screen.style(label, 'red') if failed else label}{room}"
            f"   {seconds(span.duration_s):>8}   {screen.style(bar, 'red' if failed else 'cyan')}".rstrip()
        )


def _branches(screen: Screen, node: SpanNode, stem: str, below: str) -> Iterator[tuple[str, SpanNode]]:
    yield stem, node
    glyphs = screen.glyphs
    for child in node.children:
        last = child is node.children[-1]
        ahead = "   " if last else glyphs.line
        yield from _branches(screen, child, below + (glyphs.last if last else glyphs.branch), below + ahead)


def _label(span: ReceivedSpan) -> str:
    told = _TOLD.get(span.name, "")
    return f"{span.name} {span.attributes[told]}" if told in span.attributes else span.name


# What tells spans of one name apart.
_TOLD: Final = {
    operation.span: next(each.attribute for each in operation.start.fields if each.name == field)
    for operation, field in ((EPOCH_OPERATION, "epoch"), (CHECKPOINT_OPERATION, "checkpoint_name"))
}


# -- metrics and events ----------------------------------------------------------------------------------------------


def _metric(screen: Screen, spec: Metric, receiver: OtlpReceiver) -> Iterator[tuple[str, str]]:
    show = _NUMBERS.get(spec.unit, plain)
    for point in receiver.latest(spec.name):
        which = [str(value) for key, value in point.attributes.items() if key != spec.attributes[0]]
        note, value = " ".join(which), point.value
        if spec.kind == "histogram":
            value, note = quantile(point, 0.5), _percentiles(screen, point, show)
        if value is not None:
            yield show(value), note


def _percentiles(screen: Screen, point: ReceivedMetric, show: Callable[[float], str]) -> str:
    dot, high = screen.glyphs.dot, quantile(point, 0.95)
    return f"p50 {dot} p95 {show(high)} {dot} n {point.count}" if high is not None else ""


def _events(screen: Screen, receiver: OtlpReceiver) -> None:
    logs = [log for log in receiver.logs if log.event_name]
    traces = {span.trace_id for span in receiver.spans}
    inside = sum(log.trace_id in traces for log in logs)
    screen.heading("The log events that arrived", f"{inside} of {len(logs)} carry the id of the trace")
    if not logs:
        screen.line("  none: logs are switched off by the environment's settings")
        return
    counts = Counter((log.event_name, log.severity) for log in logs)
    screen.table(
        [("event", "", "n"), *((name, level, str(count)) for (name, level), count in counts.items())],
        right=(2,),
        dim=(1,),
    )
