"""Rendering the reference of everything that is emitted, from the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from crucible_otel.semconv.aliases import SYNONYMS, VALUES_IN, VALUES_OUT
from crucible_otel.semconv.model import Alias, Attribute, Event, Feed, Field, How, Metric, Operation, SeedMetric
from crucible_otel.semconv.prometheus import TYPES, label_name, sample_names
from crucible_otel.semconv.registry import ALIASES, ATTRIBUTES, EVENTS, METRICS, OPERATIONS, SEED_METRICS

__all__ = ["render", "render_prometheus"]

_HEAD: Final = """\
<!-- Generated from crucible_otel/semconv; do not edit. -->
# Semantic conventions

Everything that is emitted: spans, events, metrics and their attributes. OpenTelemetry's own names are used where their
definition fits, `crucible.*` otherwise. Metrics are in seconds and bytes; events carry durations as integer
nanoseconds.

1. [Operations and spans](#operations-and-spans)
2. [Events](#events)
3. [Metrics](#metrics)
4. [Attributes](#attributes)
5. [Resource attributes](#resource-attributes)
6. [Aliases](#aliases)

"""
_OPERATIONS: Final = """\
## Operations and spans

An operation is a span and an event at each end: `.start`, and then exactly one of `.stop` and `.exception`. How it
ended is its `crucible.result`. A failure gives the span the status `ERROR`, a cancellation leaves it unset. Words in
braces are fields.

Measurements are numbers and stand in an event's `measurements`, everything else in its `metadata`. *At* says which of
the three events carry a field; one marked ° is filled in from what encloses the event. The attribute is what the
field is called on the span and on log records.

"""
_EVENTS: Final = """\
## Events

Those that are not an end of an operation. Each becomes a log record with this name as its `event_name`, in the trace
that it happened in.

"""
_METRICS: Final = """\
## Metrics

The Prometheus name is the one to query; a histogram has `_sum` and `_count` besides `_bucket`. Labels are the
attributes with `_` for each dot. The series with the label `otel_metric_overflow` holds what is beyond the cardinality
limit.

"""
_BUCKETS: Final = "### Buckets\n\nUpper bounds, inclusive; the last bucket is open.\n\n"
_ATTRIBUTES: Final = """\
## Attributes

Where each may stand: on spans, events (log records) or metrics. No metric has others than those listed with it.

"""
_RESOURCE: Final = """\
## Resource attributes

What tells processes apart, on everything they send, besides OpenTelemetry's own (`service.name`,
`service.instance.id` ...). In Prometheus they are the labels of `target_info`.

"""
_ALIASES: Final = """\
## Aliases

Names that these events have elsewhere; dotted and as a tuple they are accepted by `execute` and can be subscribed to.
What is executed under an alias becomes the first event named beside it. Who subscribes to an alias gets all of them,
with the alias's fields. A field without an arrow keeps its name.

"""
_FEEDS: Final[Mapping[How, str]] = {
    "count": "+ 1",
    "sum": "+ `{field}`",
    "record": "records `{field}`",
    "set": "= `{field}`",
    "on": "= 1",
    "off": "its series ends",
    "up": "+ 1",
    "down": "- 1",
    "add": "+ `{field}`",
    "take": "- `{field}`",
    "rewind": "+ 1 when `{field}` goes down",
}
_SECTIONS: Final = ("span", "event", "metric")


def render() -> str:
    """Return the reference as Markdown."""
    families = dict.fromkeys(alias.family for alias in ALIASES.values())
    sections = (
        (_OPERATIONS, map(_operation, OPERATIONS.values())),
        (_EVENTS, (_point(event) for event in EVENTS.values() if event.role == "point")),
        (_METRICS, (_metrics(), _BUCKETS + _buckets())),
        (_ATTRIBUTES, (_attributes(),)),
        (_RESOURCE, (_resource(),)),
        (_ALIASES, (*map(_aliases, families), _synonyms(), _values(), _seed_metrics())),
    )
    return _HEAD + "\n".join(head + "\n".join(blocks) for head, blocks in sections)


def render_prometheus() -> str:
    """Return every metric as Prometheus has it, in columns: our name, its samples, type and labels."""
    rows = [("# metric", "sample", "type", "labels")]
    for metric in METRICS.values():
        labels = ",".join(map(label_name, metric.attributes)) or "-"
        rows += [(metric.name, name, TYPES[metric.kind], labels) for name in sample_names(metric)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _code(values: Iterable[object], between: str = ", ") -> str:
    return between.join(f"`{value}`" for value in values)


# -- operations and events -------------------------------------------------------------------------------------------


def _operation(operation: Operation) -> str:
    ends = {"start": operation.start, "stop": operation.stop, "exception": operation.exception}
    at: dict[Field, list[str]] = {}
    fed: dict[tuple[str, str], list[str]] = {}
    for role, event in ends.items():
        for field in event.fields:
            at.setdefault(field, []).append(role)
        for feed in event.feeds:
            fed.setdefault(_feed(feed), []).append(role)
    every = len(ends)
    rows = [
        (*_field(field), "all" if len(at[field]) == every else ", ".join(at[field]), field.brief)
        for field in _ordered(at)
    ]
    severities = ", ".join(f"`.{role}` {event.severity}" for role, event in ends.items())
    kind = "" if operation.kind == "internal" else f" (kind {operation.kind})"
    quiet = "" if operation.stop.logged else " Only `.exception` becomes a log record."
    parts = [
        f"### {operation.name}\n\nSpan `{operation.span}`{kind}. Severity of its events: {severities}.{quiet}\n",
        _table(("Field", "In", "Type", "Attribute", "At", "Meaning"), rows),
    ]
    if fed:
        parts.append(
            _table(("Metric", "At", "What happens to it"), [(m, ", ".join(roles), w) for (m, w), roles in fed.items()])
        )
    return "\n".join(parts)


def _point(event: Event) -> str:
    notes = [event.brief, f"Severity {event.severity}."]
    if event.hot:
        notes.append("A hot event: handlers and metrics get every one of them.")
    if not event.logged:
        notes.append("It becomes no log record.")
    elif event.hot:
        besides = ", and the first and last of an epoch" if event.sequence else " and attribute set"
        notes.append(f"Log records of it are limited to one a second{' by default' * bool(event.sequence)}{besides}.")
    if event.span:
        notes.append(f"With a `duration` it becomes the span `{event.span}` too.")
    parts = [
        f"### {event.name}\n\n{' '.join(notes)}\n",
        _table(
            ("Field", "In", "Type", "Attribute", "Meaning"),
            [(*_field(field), field.brief) for field in _ordered(event.fields)],
        ),
    ]
    if event.feeds:
        parts.append(_table(("Metric", "What happens to it"), map(_feed, event.feeds)))
    return "\n".join(parts)


def _ordered(fields: Iterable[Field]) -> list[Field]:
    """Measurements first, what is filled in last."""
    return sorted(fields, key=lambda field: (not field.measurement, field.context))


def _field(field: Field) -> tuple[str, str, str, str]:
    return (
        f"`{field.name}`{' °' if field.context else ''}",
        "measurements" if field.measurement else "metadata",
        f"{field.type}{f', `{field.unit}`' if field.unit else ''}",
        f"`{field.attribute}`" if field.attribute else "",
    )


def _feed(feed: Feed) -> tuple[str, str]:
    what = _FEEDS[feed.how].format(field=feed.field)
    if feed.each:
        what += f", a series for each name in it (`{feed.each}`)"
    if feed.constants:
        what += " with " + ", ".join(f"`{name}` {value}" for name, value in feed.constants.items())
    return f"`{feed.metric.name}`", what


# -- metrics and attributes ------------------------------------------------------------------------------------------


def _metrics() -> str:
    return _table(
        ("Metric", "Kind", "Unit", "Attributes", "Prometheus name", "Meaning"),
        [
            (
                f"`{metric.name}`",
                metric.kind,
                f"`{metric.unit}`" if metric.unit else "",
                _code(metric.attributes),
                f"`{sample_names(metric)[0]}`",
                metric.brief,
            )
            for metric in METRICS.values()
        ],
    )


def _buckets() -> str:
    found: dict[tuple[float, ...], list[Metric]] = {}
    for metric in METRICS.values():
        if metric.buckets:
            found.setdefault(metric.buckets, []).append(metric)
    return _table(
        ("Bounds", "Metrics"),
        [
            (" ".join(f"{bound:.15g}" for bound in bounds), _code(m.name for m in same))
            for bounds, same in found.items()
        ],
    )


def _attributes() -> str:
    return _table(
        ("Attribute", "Type", "On", "Values", "Meaning"),
        [
            (
                f"`{each.name}`",
                each.type,
                ", ".join(on for on in _SECTIONS if on in each.on),
                _code(each.values),
                each.brief,
            )
            for each in _sorted(ATTRIBUTES.values())
            if set(each.on) & set(_SECTIONS)
        ],
    )


def _resource() -> str:
    return _table(
        ("Attribute", "Type", "Prometheus label", "Meaning"),
        [
            (f"`{each.name}`", each.type, f"`{label_name(each.name)}`", each.brief)
            for each in _sorted(ATTRIBUTES.values())
            if "resource" in each.on
        ],
    )


def _sorted(attributes: Iterable[Attribute]) -> list[Attribute]:
    return sorted(attributes, key=lambda each: each.name)


# -- aliases ---------------------------------------------------------------------------------------------------------


def _aliases(family: str) -> str:
    rows = [
        (
            f"`{alias.name}`",
            _code(alias.targets),
            _renamed(alias, alias.measurements),
            _renamed(alias, alias.metadata),
            alias.brief,
        )
        for alias in ALIASES.values()
        if alias.family == family
    ]
    return f"### {family}\n\n" + _table(("Alias", "Stands for", "Measurements", "Metadata", "Meaning"), rows)


def _renamed(alias: Alias, names: Iterable[str]) -> str:
    return ", ".join(
        f"`{name}`" if alias.fields[name] == name else f"`{name}` → `{alias.fields[name]}`" for name in names
    )


def _synonyms() -> str:
    head = "### Field names\n\nUnderstood in every event, besides the field's own name.\n\n"
    return head + _table(("Given", "Field"), [(f"`{given}`", f"`{field}`") for given, field in SYNONYMS.items()])


def _values() -> str:
    rows = []
    for field, values in VALUES_IN.items():
        for value in dict.fromkeys(values.values()):
            given = [f"{key}" for key, ours in values.items() if ours == value and key != value]
            out = [f"{name}` = `{table[value]}" for name, table in VALUES_OUT.items()]
            rows.append((f"`{field}`", f"`{value}`", _code(given), _code(out)))
    head = (
        "### Values\n\nWhat is understood besides our values, and what subscribers of an alias get in their place.\n\n"
    )
    return head + _table(("Field", "Value", "Also understood", "Under an alias"), rows)


def _seed_metrics() -> str:
    head = (
        "### Metric names\n\nReported where `CRUCIBLE_OTEL_SEED_METRICS` is `both` or `only`, from the value that ours "
        "has.\n`only` leaves ours out, or of it the series in brackets. `*_mb` are whole MiB.\n\n"
    )
    columns = ("Metric", "Kind", "Unit", "Attributes", "Prometheus name", "Says the same as", "Meaning")
    return head + _table(columns, map(_seed_metric, SEED_METRICS.values()))


def _seed_metric(seed: SeedMetric) -> tuple[str, ...]:
    metric, series = seed.metric, ", ".join(f"`{name}` {value}" for name, value in seed.where.items())
    return (
        f"`{metric.name}`",
        metric.kind,
        f"`{metric.unit}`" if metric.unit else "",
        _code(metric.attributes),
        f"`{sample_names(metric)[0]}`",
        f"`{seed.of.name}`{f' ({series})' if series else ''}" if seed.of is not None else "",
        metric.brief,
    )
