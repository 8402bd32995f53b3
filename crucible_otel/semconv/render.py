"""Rendering the reference of everything that is emitted, from the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from crucible_otel.semconv.aliases import SYNONYMS, VALUES_IN, VALUES_OUT
from crucible_otel.semconv.model import Alias, Attribute, Event, Feed, Field, How, Metric, Operation
from crucible_otel.semconv.prometheus import TYPES, label_name, sample_names
from crucible_otel.semconv.registry import ALIASES, ATTRIBUTES, EVENTS, METRICS, OPERATIONS

__all__ = ["render", "render_prometheus"]

_HEAD: Final = """\
<!-- Generated from crucible_otel/semconv; do not edit. -->
# Semantic conventions

Everything that is emitted, and nothing else: spans, events, metrics and their attributes. OpenTelemetry's own names
are used where they fit, `crucible.*` otherwise. Durations are seconds and sizes bytes in metrics; events carry
durations as integer nanoseconds.

- [Operations and spans](#operations-and-spans)
- [Events](#events)
- [Metrics](#metrics)
- [Attributes](#attributes)
- [Resource attributes](#resource-attributes)
- [Aliases](#aliases)

"""
_OPERATIONS: Final = """\
## Operations and spans

An operation is a span, kind `internal` unless said otherwise, and an event at each end: `.start`, then exactly one of
`.stop` and `.exception`. Its outcome is the attribute `crucible.result`; an exception ends the span with status
`ERROR`, a cancellation leaves the status unset. Words in braces are fields. *At* says which of the events carry a
field; a measurement is a number and stands in the event's `measurements`, everything else in its `metadata`. Fields
marked ° are filled in from what encloses the event when it does not carry them.

"""
_EVENTS: Final = """\
## Events

Events that are no end of an operation. Each becomes a log record with this `event_name` in the trace that it happened
in, unless said otherwise.

"""
_METRICS: Final = """\
## Metrics

In Prometheus a histogram has `_sum` and `_count` besides `_bucket`; labels are the attributes with `_` for every dot,
and `otel_metric_overflow` marks the series that takes what is beyond the cardinality limit.

"""
_ATTRIBUTES: Final = """\
## Attributes

Where an attribute may stand: S on spans, E on events (log records), M on metrics. The attribute sets of metrics are
closed: [Metrics](#metrics) lists them.

"""
_RESOURCE: Final = """\
## Resource attributes

What says which process it was, on everything it sends; OpenTelemetry's own (`service.name`, `service.instance.id`,
`process.pid`, `host.name` ...) besides. In Prometheus they are the labels of `target_info`.

"""
_ALIASES: Final = """\
## Aliases

Names from before these conventions. Each may be executed, dotted or as a tuple, and subscribed to: what is executed
under an alias becomes the first event named, who subscribes to it gets all of them with the fields of the alias.
Fields that are not listed keep their names.

"""
_FEEDS: Final[Mapping[How, str]] = {
    "count": "one more",
    "sum": "`{field}` more",
    "record": "records `{field}`",
    "set": "is `{field}`",
    "on": "is 1",
    "off": "ends",
    "up": "one more",
    "down": "one less",
    "rewind": "one more when `{field}` goes down",
}
_NUMBER: Final = "number"


def render() -> str:
    """Return the reference as Markdown."""
    points = [event for event in EVENTS.values() if event.role == "point"]
    sections = (
        (_OPERATIONS, map(_operation, OPERATIONS.values())),
        (_EVENTS, map(_point, points)),
        (_METRICS, (_metrics(), _buckets())),
        (_ATTRIBUTES, (_table(("Attribute", "Type", "On", "Values", "Meaning"), _attribute_rows()),)),
        (_RESOURCE, (_table(("Attribute", "Type", "Label", "Meaning"), _resource_rows()),)),
        (_ALIASES, (*map(_aliases, _families()), _values())),
    )
    return _HEAD + "\n".join(head + "\n".join(blocks) for head, blocks in sections)


def render_prometheus() -> str:
    """Return every metric as Prometheus has it: sample name, type and labels, in columns."""
    rows = [("# OpenTelemetry", "Prometheus", "type", "labels")]
    for metric in METRICS.values():
        labels = ",".join(map(label_name, metric.attributes)) or "-"
        rows += [(metric.name, name, TYPES[metric.kind], labels) for name in sample_names(metric)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _operation(operation: Operation) -> str:
    ends = {"start": operation.start, "stop": operation.stop, "exception": operation.exception}
    fields = {field.name: field for event in ends.values() for field in event.fields}
    rows = []
    for name, field in fields.items():
        at = [role for role, event in ends.items() if field in event.fields]
        rows.append((*_field(field), "all" if len(at) == len(ends) else ", ".join(at), _meaning(field)))
    names = ", ".join(f"`.{role}` ({event.severity})" for role, event in ends.items())
    kind = "" if operation.kind == "internal" else f", kind `{operation.kind}`"
    parts = [
        f"### {operation.name}\n\nSpan `{operation.span}`{kind}. Events {names}.\n",
        _table(("Field", "Attribute", "Type", "At", "Meaning"), rows),
    ]
    fed = [(f"`.{role}`", *_feed(feed)) for role, event in ends.items() for feed in event.feeds]
    merged = [
        (", ".join(row[0] for row in same), *what)
        for what, same in groupby(sorted(fed, key=lambda row: row[1:]), key=lambda row: row[1:])
    ]
    order = [row[1:] for row in fed]
    merged.sort(key=lambda row: order.index(row[1:]))
    return "\n".join([*parts, *([_table(("At", "Metric", "What happens to it"), merged)] if merged else [])])


def _point(event: Event) -> str:
    notes = [event.brief, f"Severity {event.severity}."]
    if event.hot:
        notes.append("High-frequency: it costs the loop next to nothing and reaches handlers one by one.")
    if not event.logged:
        notes.append("No log record is made of it.")
    elif event.hot:
        notes.append("Of its log records at most one a second leaves, plus the first and the last of an epoch.")
    if event.span:
        notes.append(f"With a `duration` it becomes the span `{event.span}` too.")
    rows = [(*_field(field), _meaning(field)) for field in event.fields]
    parts = [f"### {event.name}\n\n{' '.join(notes)}\n", _table(("Field", "Attribute", "Type", "Meaning"), rows)]
    fed = [_feed(feed) for feed in event.feeds]
    return "\n".join([*parts, *([_table(("Metric", "What happens to it"), fed)] if fed else [])])


def _field(field: Field) -> tuple[str, str, str]:
    kind: str = _NUMBERS.get(field.type, field.type) if field.measurement else field.type
    unit = f", `{field.unit}`" if field.unit else ""
    return (
        f"`{field.name}`{' °' if field.context else ''}",
        f"`{field.attribute}`" if field.attribute else "",
        f"{kind}{unit}{' (measurement)' if field.measurement else ''}",
    )


def _meaning(field: Field) -> str:
    return field.brief


def _feed(feed: Feed) -> tuple[str, str]:
    what = _FEEDS[feed.how].format(field=feed.field)
    if feed.each:
        what += f", a series for each key, which is `{feed.each}`"
    if feed.constants:
        what += ", with " + ", ".join(f"`{name}` = {value}" for name, value in feed.constants.items())
    return f"`{feed.metric.name}`", what
