"""Log records as bytes, against what the SDK's encoder makes of the same records."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from crucible_otel.export.encode_logs import log_body, log_encoder
from tests.export.attributes import ATTRIBUTES, EVERY_TIME_THE_SAME, TEXT, TIMES

RESOURCES = [Resource({}), Resource({"service.name": "train"}, "https://opentelemetry.io/schemas/1.30.0")]
SCOPES = [None, InstrumentationScope("a"), InstrumentationScope("a", "1.0", "https://example.org", {"x": (1, 2)})]
BODIES = st.none() | TEXT | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary()
NESTED = st.recursive(BODIES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
MAPPINGS = st.none() | ATTRIBUTES | st.builds(BoundedAttributes, st.sampled_from([None, 2]), ATTRIBUTES)
CONTEXTS = st.builds(
    lambda trace_id, span_id, flags: set_span_in_context(
        NonRecordingSpan(SpanContext(trace_id, span_id, False, TraceFlags(flags)))
    ),
    st.integers(0, 2**128 - 1),
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 3]),
)


def record(log_record: LogRecord, resource: Resource = RESOURCES[0], scope: Any = SCOPES[1]) -> ReadableLogRecord:
    """Make a record as exporters get it."""
    return ReadableLogRecord(log_record, resource, scope)


RECORDS = st.builds(
    record,
    st.builds(
        LogRecord,
        timestamp=st.none() | TIMES,
        observed_timestamp=st.none() | TIMES,
        context=CONTEXTS,
        severity_text=st.none() | TEXT,
        severity_number=st.none() | st.sampled_from(SeverityNumber),
        body=NESTED,
        attributes=MAPPINGS,
        event_name=st.none() | TEXT,
    ),
    st.sampled_from(RESOURCES),
    st.sampled_from(SCOPES),
)


@EVERY_TIME_THE_SAME
@given(st.lists(RECORDS, max_size=4))
def test_log_records_are_written_as_the_sdk_writes_them(records: list[ReadableLogRecord]) -> None:
    """Byte for byte: times, severity, body, attributes, trace context, event name, resources, scopes."""
    expected = encode_logs(records).SerializeToString()
    assert (expected, len(records), 0) == log_encoder().encode(records)[:3]


@EVERY_TIME_THE_SAME
@given(RECORDS)
def test_no_record_needs_the_sdks_encoder(one: ReadableLogRecord) -> None:
    """What ours writes of a record is its own work."""
    expected = encode_logs([one]).resource_logs[0].scope_logs[0].log_records[0]
    assert expected.SerializeToString() == log_body(one)


def test_records_that_a_logger_made_are_written_as_the_sdk_writes_them() -> None:
    """Real ones, an event and a plain record, in a trace and outside."""
    kept = InMemoryLogRecordExporter()
    provider = LoggerProvider(resource=RESOURCES[1], shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    logger = provider.get_logger("a", "1")
    inside = set_span_in_context(NonRecordingSpan(SpanContext(2**127, 5, False, TraceFlags(1))))
    for context in (None, inside):
        logger.emit(
            event_name="e", context=context, attributes={"n": 1, "x": [0.5]}, severity_number=SeverityNumber.WARN
        )
        logger.emit(body={"k": ["v", None]}, context=context, severity_text="INFO")
    records = list(kept.get_finished_logs())
    assert 4 == len(records)
    assert encode_logs(records).SerializeToString() == log_encoder().encode(records).data


def test_a_record_that_cannot_be_written_is_lost_and_the_others_go() -> None:
    """The SDK's encoder would lose the whole batch."""
    bad = [LogRecord(body="\ud800"), LogRecord(event_name="\ud800"), LogRecord(timestamp=-1), LogRecord(body=2**64)]
    made = [record(one) for one in (LogRecord(event_name="a"), *bad, LogRecord(event_name="b"))]
    data, written, lost, _ = log_encoder().encode(made)
    scope = ExportLogsServiceRequest.FromString(data).resource_logs[0].scope_logs[0]
    assert (["a", "b"], 2, len(bad)) == ([one.event_name for one in scope.log_records], written, lost)
