"""The one constructor of an operation: its three events follow from what identifies it and what it yields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from crucible_otel.semconv.fields import CONTEXT, FAILURE, OUTCOME
from crucible_otel.semconv.model import Event, Feed, Field, Operation, Severity


def merged(*groups: Iterable[Field]) -> tuple[Field, ...]:
    """Join groups of fields, the first of a name wins."""
    found: dict[str, Field] = {}
    for group in groups:
        for field in group:
            found.setdefault(field.name, field)
    return tuple(found.values())


def operation(
    name: str,
    span: str,
    noun: str,
    *,
    identity: tuple[Field, ...],
    yields: tuple[Field, ...] = (),
    fails: tuple[Field, ...] = (),
    on_start: tuple[Feed, ...] = (),
    on_end: tuple[Feed, ...] = (),
    on_stop: tuple[Feed, ...] = (),
    failure: Severity = "WARN",
    logged: bool = True,
    parts: tuple[str, ...] = (),
    rest: str = "",
    kind: Literal["internal", "client", "server"] = "internal",
    hot: bool = False,
) -> Operation:
    """Build an operation.

    Args:
        name: Canonical prefix.
        span: Span name template.
        noun: What it is called in the briefs of its events.
        identity: Fields known when it starts.
        yields: Fields known when it ends.
        fails: Further fields of an end by exception.
        on_start: Feeds of the start event.
        on_end: Feeds of both ends.
        on_stop: Feeds of an end without exception only.
        failure: Severity of the exception event.
        logged: Whether it becomes log events also when all goes well.
        parts: Measurements that are parts of its duration.
        rest: The measurement that takes what they leave of it.
        kind: Span kind.
        hot: Whether there may be so many that metrics and spans go the short way.
    """
    made = Operation(
        name=name,
        span=span,
        kind=kind,
        start=Event(
            name=f"{name}.start",
            brief=f"{noun} started.",
            role="start",
            operation=name,
            fields=merged(identity, CONTEXT),
            feeds=on_start,
            logged=logged,
        ),
        stop=Event(
            name=f"{name}.stop",
            brief=f"{noun} ended without exception.",
            role="stop",
            operation=name,
            fields=merged(identity, yields, OUTCOME, CONTEXT),
            feeds=(*on_end, *on_stop),
            logged=logged,
            parts=parts,
            rest=rest,
        ),
        exception=Event(
            name=f"{name}.exception",
            brief=f"{noun} ended by an exception.",
            severity=failure,
            role="exception",
            operation=name,
            fields=merged(identity, yields, FAILURE, fails, CONTEXT),
            feeds=on_end,
            parts=parts,
            rest=rest,
        ),
    )
    if not hot:
        return made
    fields = merged(made.stop.fields, made.exception.fields)
    ends = (("end", on_end), ("done", tuple(feed for feed in on_stop if feed.metric.kind != "gauge")))
    return replace(
        made,
        hot=tuple(
            Event(name=f"{name}.{end}", brief=made.stop.brief, fields=fields, feeds=feeds, hot=True, logged=False)
            for end, feeds in ends
            if feeds
        ),
    )
