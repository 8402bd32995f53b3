"""The short ways past the bus: hot operations, and spans of what handles record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from opentelemetry.trace import Tracer

from crucible_otel.events.bus import Bus
from crucible_otel.otel.buffer import SpanBuffer
from crucible_otel.otel.engine import Engine
from crucible_otel.otel.operations import HotOperation
from crucible_otel.otel.projection import TelemetryProjection
from crucible_otel.otel.record_spans import RecordSpans
from crucible_otel.semconv.registry import OPERATIONS


class HotSpans(Protocol):
    """What takes the spans of hot operations.

    Attributes:
        buffer: Where they are made and kept.
        on_give_way: To be set to what is called when the SDK is to make them from then on.
    """

    buffer: SpanBuffer
    on_give_way: Callable[[], object] | None


def open_short_ways(
    projection: TelemetryProjection,
    engine: Engine,
    bus: Bus,
    *,
    spans: HotSpans | None,
    tracer: Tracer,
    slow_s: float,
    rate: float = 1.0,
    step_rate: float = 0.0,
) -> Mapping[str, HotOperation]:
    """Make the hot operations, and have the engine's families make spans of their records.

    Args:
        projection: Sends the ends of hot operations that come the way of all events to the same series.
        engine: Keeps the metrics; has made no handle yet.
        bus: Says who listens.
        spans: Has the buffer of the spans; None when the provider is the application's, which makes them then.
        tracer: Makes spans where there is no buffer.
        slow_s: From which duration on a span is kept whatever the rate says.
        rate: Share of the spans of hot operations that are kept.
        step_rate: Share of the records of hot events with a span, such as training steps, that get one.

    Returns:
        The hot operations by name.
    """
    buffer = spans.buffer if spans is not None else None
    made = {
        operation.name: HotOperation(
            operation,
            engine,
            buffer=buffer,
            tracer=tracer,
            wants=bus.wants,
            refused=projection.count,
            slow_s=slow_s,
            rate=rate,
        )
        for operation in OPERATIONS.values()
        if operation.hot
    }
    for each in made.values():
        bus.on_change(each.rearm)
    projection.hot_ends = {event: each for each in made.values() for event in each.events}
    recorded: list[RecordSpans] = []
    for family in engine.families.values() if step_rate > 0.0 else ():
        if family.spec.span:
            made_of_it = RecordSpans(
                family.spec,
                family.columns,
                clock=engine.clock,
                rate=step_rate,
                buffer=buffer,
                tracer=tracer,
            )
            family.make_spans(made_of_it)
            recorded.append(made_of_it)
    if buffer is not None:
        buffer.folds.append(engine.fold_for_spans)
    if spans is not None:

        def give_way() -> None:
            for operation in made.values():
                operation.give_way()
            for records in recorded:
                records.give_way()

        spans.on_give_way = give_way
    return made
