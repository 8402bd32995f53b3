"""What backends give back, in the form in which it was taken down, and every way in which it differs.

:data:`DIFFERENCES` is the whole list. The tests apply it to what was emitted and then expect equality, field by field,
and they fail too when a row of it is not needed any more.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Literal

from crucible_otel.testing import ReceivedSpan
from crucible_otel.testing.records import Records
from tests.e2e.emitted import HAS_IS_REMOTE, IS_REMOTE, Series, sample
from tests.e2e.servers import Jaeger, Prometheus, get
from tests.e2e.servers.otlp_json import records

_WARNINGS: Final = "@jaeger@warnings"
Where = Literal["on the way", "Jaeger", "Prometheus", "Collector's page"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that a backend shows otherwise than it was emitted.

    Attributes:
        where: ``on the way`` when it is gone before any backend; ``Collector's page``: what Prometheus scrapes there.
        what: What is different.
        why: By whose doing.
        span: ``span(span, ids)`` returns a span as it is shown; ``ids`` are those of all spans emitted.
        series: ``series(looks)`` returns series as they are shown, from those at each export.
        labels: Labels that series have besides their own.
    """

    where: Where
    what: str
    why: str
    span: Callable[[ReceivedSpan, frozenset[str]], ReceivedSpan] | None = None
    series: Callable[[Sequence[Series]], Series] | None = None
    labels: frozenset[str] = frozenset()


def _without_trace_flags(span: ReceivedSpan, ids: frozenset[str]) -> ReceivedSpan:
    kept = HAS_IS_REMOTE | IS_REMOTE
    links = tuple(replace(link, flags=link.flags & kept) for link in span.links)
    return replace(span, flags=span.flags & kept, links=links)


def _without_link_states(span: ReceivedSpan, ids: frozenset[str]) -> ReceivedSpan:
    return replace(span, links=tuple(replace(link, trace_state="") for link in span.links))


def _without_schema(span: ReceivedSpan, ids: frozenset[str]) -> ReceivedSpan:
    return replace(span, scope=replace(span.scope, schema_url=""))


def _events_by_name(span: ReceivedSpan, ids: frozenset[str]) -> ReceivedSpan:
    return replace(span, events=tuple(sorted(span.events, key=lambda event: event.name)))


def _at_least_a_nanosecond(span: ReceivedSpan, ids: frozenset[str]) -> ReceivedSpan:
    if span.end_ns > span.start_ns:
        return span
    original, adjusted = _go_time(span.end_ns), _go_time(span.start_ns + 1)
    warning = (
        "Negative duration detected, sanitizing end timestamp. "
        f"Original end timestamp: {original}, adjusted to: {adjusted}"
    )
    return replace(_warned(span, warning), end_ns=span.start_ns + 1)


def _missing_parent(span: ReceivedSpan, ids: frozenset[str]) -> ReceivedSpan:
    if span.parent_span_id in ids | {""}:
        return span
    warning = f"parent span ID={span.parent_span_id} is not in the trace; skipping clock skew adjustment"
    return _warned(span, warning)


def _ended_ones_too(looks: Sequence[Series]) -> Series:
    return {key: value for look in looks for key, value in look.items()}


def _warned(span: ReceivedSpan, warning: str) -> ReceivedSpan:
    warnings = (*span.attributes.get(_WARNINGS, ()), warning)
    return replace(span, attributes={**span.attributes, _WARNINGS: warnings})


def _go_time(time_ns: int) -> str:
    """Write a time as Go prints it: no zeros at the end of the fraction."""
    seconds, nanoseconds = divmod(time_ns, 10**9)
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S}{fraction} +0000 UTC"


DIFFERENCES: Final = (
    Difference(
        where="on the way",
        what="the W3C trace flags (sampled, random) of spans and links are 0",
        why="the SDK's OTLP encoder sends only the two bits that tell a remote parent",
        span=_without_trace_flags,
    ),
    Difference(
        where="on the way",
        what="links have no trace state",
        why="the SDK's OTLP encoder leaves it out",
        span=_without_link_states,
    ),
    Difference(
        where="Jaeger",
        what="the scope has no schema URL",
        why="Jaeger's query API does not give it back",
        span=_without_schema,
    ),
    Difference(
        where="Jaeger",
        what="the events of a span are in the order of their names, not of time",
        why="Jaeger sorts them when it is asked; those of one name stay in order, and times are as they were",
        span=_events_by_name,
    ),
    Difference(
        where="Jaeger",
        what="a span that took no time takes one nanosecond, with a warning in `@jaeger@warnings`",
        why="Jaeger's receiving end takes an end that is not after the start for a mistake",
        span=_at_least_a_nanosecond,
    ),
    Difference(
        where="Jaeger",
        what="a span whose parent is in no span of the trace has a warning in `@jaeger@warnings`",
        why="Jaeger's correction of clocks finds no clock to compare with; times stay as they are",
        span=_missing_parent,
    ),
    Difference(
        where="Collector's page",
        what="a gauge that has ended (its loss became NaN, its workflow is over) keeps its last value for 5 minutes",
        why="OTLP from the SDK cannot say that a series is over, and `metric_expiration` of the exporter is 5 minutes",
        series=_ended_ones_too,
    ),
    Difference(
        where="Collector's page",
        what="series carry `service.instance.id`, `service.name` and the scope",
        why="the Collector's exporter adds them, and Prometheus renames what its own labels would hide",
        labels=frozenset(
            ("exported_instance", "exported_job", "otel_scope_name", "otel_scope_schema_url", "otel_scope_version")
        ),
    ),
    Difference(
        where="Prometheus",
        what="series carry the target that they were scraped from",
        why="Prometheus adds it",
        labels=frozenset(("instance", "job")),
    ),
)
"""All that is different, in the order in which it happens."""


def shown(
    spans: Iterable[ReceivedSpan], *where: Where, differences: Sequence[Difference] = DIFFERENCES
) -> dict[str, Any]:
    """Return what was emitted as it must come back from somewhere: span id -> plain fields with their types."""
    emitted = list(spans)
    ids = frozenset(span.span_id for span in emitted)
    for difference in differences:
        if difference.where in where and difference.span is not None:
            emitted = [difference.span(span, ids) for span in emitted]
    return by_id(emitted)


def shown_series(looks: Sequence[Series], *where: Where, differences: Sequence[Difference] = DIFFERENCES) -> Series:
    """Return the series as they must come back from somewhere, from those at each export."""
    for difference in differences:
        if difference.where in where and difference.series is not None:
            looks = [difference.series(looks)]
    return dict(looks[-1])


def added_labels(*where: Where) -> frozenset[str]:
    """Return the labels that are added on the way to somewhere."""
    return frozenset().union(*(difference.labels for difference in DIFFERENCES if difference.where in where))


def by_id(spans: Iterable[ReceivedSpan]) -> dict[str, Any]:
    """Return spans as plain fields with their types, by id; one that is there twice is shown twice."""
    found: dict[str, Any] = {}
    for span in spans:
        found[span.span_id if span.span_id not in found else f"{span.span_id} again"] = typed(span)
    return found


def typed(value: Any) -> Any:
    """Return a record as maps and lists of texts that tell ``1`` from ``1.0`` and ``True``, ``-0.0`` from ``0.0``."""
    if dataclasses.is_dataclass(value):
        return {field.name: typed(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: typed(item) for key, item in sorted(value.items())}
    if isinstance(value, tuple):
        return [typed(item) for item in value]
    return f"{type(value).__name__} {value!r}"


def unlike(expected: Any, found: Any, where: str = "") -> list[str]:
    """Return what differs between two of :func:`typed`, or two sets of series: the place, both values."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        keys = {**expected, **found}
        return [line for key in keys for line in unlike(expected.get(key), found.get(key), f"{where}/{_name(key)}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [line for index, pair in pairs for line in unlike(*pair, f"{where}/{index}")]
    return [] if expected == found else [f"{where}: expected {expected!r}, found {found!r}"]


def _name(key: Any) -> str:
    return key if isinstance(key, str) else f"{key[0]}{dict(sorted(key[1]))}"


# -- reading -----------------------------------------------------------------------------------------------------------


def through(jaeger: Jaeger, port: int) -> dict[str, Any]:
    """Return a Collector's configuration: spans to Jaeger, metrics to a page for Prometheus, everything to a file."""
    return {
        "receivers": {"otlp": {"protocols": {"grpc": None, "http": None}}},
        "exporters": {
            "otlp_grpc": {"endpoint": jaeger.otlp_grpc, "tls": {"insecure": True}},
            "prometheus": {"endpoint": f"127.0.0.1:{port}"},
            "file": {"path": "exported.jsonl", "flush_interval": "100ms"},
        },
        "service": {
            "pipelines": {
                "traces": {"receivers": ["otlp"], "exporters": ["otlp_grpc", "file"]},
                "metrics": {"receivers": ["otlp"], "exporters": ["prometheus", "file"]},
                "logs": {"receivers": ["otlp"], "exporters": ["file"]},
            },
        },
    }


def _parsed(text: str | bytes) -> Any:
    """Parse JSON as JavaScript does: Go writes the double -0.0 as ``-0``, which Python would take for an integer."""
    return json.loads(text, parse_int=lambda digits: -0.0 if digits == "-0" else int(digits))


def exported(path: Path) -> Records:
    """Return what a Collector's file exporter wrote, every whole line of it."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    found = [records(_parsed(line)) for line in lines if line.endswith(b"\n")]
    return Records(
        spans=tuple(span for each in found for span in each.spans),
        logs=tuple(log for each in found for log in each.logs),
        points=tuple(point for each in found for point in each.points),
    )


def in_jaeger(jaeger: Jaeger, emitted: Iterable[ReceivedSpan]) -> list[ReceivedSpan]:
    """Wait for the traces of these spans to be whole, and return the spans that Jaeger has of them."""
    sizes: dict[str, int] = {}
    for span in emitted:
        sizes[span.trace_id] = sizes.get(span.trace_id, 0) + 1
    found: list[ReceivedSpan] = []
    for trace_id, size in sizes.items():
        jaeger.trace(trace_id, spans=size)
        page = f"{jaeger.url}/api/v3/traces/{trace_id}"
        found += map(_warned_once, records(_parsed(get(page))["result"]).spans)
    return found


def _warned_once(span: ReceivedSpan) -> ReceivedSpan:
    """Leave out repetitions: Jaeger adds a warning to what it has in memory at each look at the trace."""
    warnings = tuple(dict.fromkeys(span.attributes.get(_WARNINGS, ())))
    return replace(span, attributes={**span.attributes, _WARNINGS: warnings}) if warnings else span


_OF_THE_SCRAPE: Final = ("up", "scrape_", "target_info")

OF_EXPORTS: Final = ("otel_sdk_", "crucible_sdk_queue_")
"""How the names of metrics begin that each export changes: two who look at them see two things."""


def in_prometheus(prometheus: Prometheus, port: int, *where: Where) -> Series:
    """Return the newest value of all series of a target, without the labels that are added on the way."""
    added = added_labels(*where)
    return {
        sample(labels.pop("__name__"), labels, without=added): value
        for labels, value in prometheus.query(f'{{instance="127.0.0.1:{port}"}}')
        if not labels["__name__"].startswith((*_OF_THE_SCRAPE, *OF_EXPORTS))
    }


def settled(read: Callable[[], Any], expected: object, timeout_s: float = 20.0) -> Any:
    """Read until it is as expected, or until time is up, and return what was read last: a test shows what differs."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = read()
        if found == expected or time.monotonic() > deadline_s:
            return found
        time.sleep(0.05)
