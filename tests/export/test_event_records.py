"""Our events as values, against the log records that the SDK makes of the same."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import (
    LoggerProvider,
    LogRecordDroppedAttributesWarning,
    LogRecordLimits,
    LogRecordProcessor,
    ReadWriteLogRecord,
)
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, LogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from crucible_otel.config.settings import Settings
from crucible_otel.export.encode_logs import log_encoder
from crucible_otel.export.event_records import EventLogger, EventRecord
from crucible_otel.export.providers import Route, log_route
from crucible_otel.export.scope import own_scope
from crucible_otel.export.sizes import size_of
from crucible_otel.export.tally import Ledger
from tests.export.attributes import EVERY_TIME_THE_SAME, TEXT

INSIDE = set_span_in_context(NonRecordingSpan(SpanContext(2**127, 5, False, TraceFlags(3))))
VALUES = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | TEXT
ATTRIBUTES = st.dictionaries(TEXT.filter(bool), VALUES | st.lists(TEXT, max_size=3), max_size=4)


def emit(to: EventLogger, attributes: Mapping[str, Any], context: Context | None = INSIDE, **values: Any) -> None:
    """Emit an event as the projection does."""
    given: dict[str, Any] = {
        "timestamp": 1_700_000_000_000_000_000,
        "observed_timestamp": 1_700_000_000_000_000_000,
        "severity_number": SeverityNumber.WARN,
        "severity_text": "WARN",
        "body": "A stage ends.",
        "event_name": "crucible.stage.stop",
    }
    to.emit(context=context, attributes=attributes, **{**given, **values})


class Way:
    """A way of log records to an exporter in memory."""

    def __init__(self, exporter: LogRecordExporter | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.exporter: Any = InMemoryLogRecordExporter() if exporter is None else exporter
        settings = Settings(log_exporter=self.exporter).resolve({})
        self.route: Route = log_route(settings, Resource({"service.name": "train"}), Ledger(), environ or {})
        assert self.route.events is not None
        self.events: EventLogger = self.route.events

    def emit(self, attributes: Mapping[str, Any], context: Context | None = INSIDE) -> None:
        """Emit an event as the projection does."""
        emit(self.events, attributes, context)

    def delivered(self) -> list[Any]:
        """Return what has come, as the SDK's exporters get it."""
        self.route.provider.force_flush()
        return list(self.exporter.get_finished_logs())


class Waiting(LogRecordProcessor):
    """Keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Keep it."""
        self.seen.append(log_record)

    def shutdown(self) -> None:
        """Do nothing."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing."""
        return True


class Kept:
    """Stands for a queue of ours, and keeps what is put in."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.put = self.items.append
        self.queue = self


def logger_of(kept: Any) -> EventLogger:
    """Return a logger with no way but into what keeps."""
    provider = LoggerProvider(resource=Resource({"service.name": "train"}), shutdown_on_exit=False)
    return EventLogger(provider.get_logger("a", "1"), [kept], LogRecordLimits())


@EVERY_TIME_THE_SAME
@given(ATTRIBUTES, st.sampled_from([None, INSIDE]), st.sampled_from(SeverityNumber))
def test_an_event_is_written_as_the_sdks_record_of_it(
    attributes: dict[str, Any], context: Context | None, severity: SeverityNumber
) -> None:
    """Byte for byte."""
    kept = Kept()
    emit(logger_of(kept), attributes, context, severity_number=severity)
    (record,) = kept.items
    assert isinstance(record, EventRecord)
    assert log_encoder().encode([record.readable()])[:3] == log_encoder().encode([record])[:3]


def test_exporters_of_others_get_the_sdks_record() -> None:
    """With all that the SDK's own logger would have given it."""
    direct, through = Way(), Way()
    through.events.give_way()
    for way in (direct, through):
        way.emit({"crucible.stage.name": "train", "values": ["a", "b"], "n": 1})
        way.emit({}, None)
    for ours, theirs in zip(direct.delivered(), through.delivered(), strict=True):
        assert type(theirs) is type(ours)
        assert dict(theirs.log_record.attributes) == dict(ours.log_record.attributes)
        for name in vars(theirs.log_record).keys() - {"attributes"}:
            assert getattr(theirs.log_record, name) == getattr(ours.log_record, name), name
        assert repr(theirs.limits) == repr(ours.limits)
        assert (theirs.resource, theirs.instrumentation_scope) == (ours.resource, ours.instrumentation_scope)
        assert own_scope() == ours.instrumentation_scope
    direct.route.provider.shutdown()
    through.route.provider.shutdown()


def test_a_processor_of_somebody_else_sees_the_events() -> None:
    """From when it was added."""
    way, other = Way(), Waiting()
    way.emit({"n": 1})
    way.route.provider.add_log_record_processor(other)
    way.emit({"n": 2})
    assert [2] == [each.log_record.attributes["n"] for each in other.seen]
    assert [1, 2] == [each.log_record.attributes["n"] for each in way.delivered()]
    way.route.provider.shutdown()


def test_the_sdks_count_of_log_records_counts_the_events() -> None:
    """Where it is asked for."""
    way = Way(environ={"OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true"})
    other = Way()
    assert [False, True] == [each.events._direct for each in (way, other)]
    way.route.provider.shutdown()
    other.route.provider.shutdown()


def test_texts_are_cut_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment, as in any log record."""
    monkeypatch.setenv("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    way = Way()
    way.emit({"text": "abcdef"})
    assert ["abc"] == [each.log_record.attributes["text"] for each in way.delivered()]
    way.route.provider.shutdown()


def test_more_attributes_than_the_limit_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment, as in any log record."""
    monkeypatch.setenv("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "2")
    way = Way()
    way.emit({"a": 1, "b": 2})
    with pytest.warns(LogRecordDroppedAttributesWarning):
        way.emit({"a": 1, "b": 2, "c": 3})
    assert [0, 1] == [each.dropped_attributes for each in way.delivered()]
    way.route.provider.shutdown()


def test_an_event_goes_under_the_resource_of_its_time() -> None:
    """A forked child renews the provider's."""
    way = Way()
    way.emit({})
    way.route.provider._update_resource(Resource({"process.pid": 5}))
    way.emit({})
    found = [each.resource.attributes.get("process.pid") for each in way.delivered()]
    assert [None, 5] == found
    way.route.provider.shutdown()


@pytest.mark.parametrize("attributes", [0, 8], ids=["bare", "attributes"])
def test_an_estimate_is_within_a_factor_of_two(attributes: int) -> None:
    """Of the memory that waiting events really take."""
    kept = Kept()
    events = logger_of(kept)
    emit(events, {})
    kept.items.clear()
    tracemalloc.start()
    try:
        for number in range(200):
            span = NonRecordingSpan(SpanContext(2**127 + number, 2**63 + number, False, TraceFlags(1)))
            given = {f"key{each}": f"value {number} {each}" for each in range(attributes)}
            emit(events, given, set_span_in_context(span, Context()), timestamp=1_700_000_000_000_000_000 + number)
            del span
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    estimated = sum(map(size_of, kept.items))
    assert taken / 2 < estimated < taken * 2
