"""What the SDK's own exporters seldom send is decoded too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Gauge,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Summary,
    SummaryDataPoint,
)
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation

from crucible_otel.testing import OtlpReceiver, ReceivedLog, ReceivedMetric
from crucible_otel.testing.decode import MalformedBodyError, decode


def points(*metrics: Metric) -> tuple[ReceivedMetric, ...]:
    """Send metrics through the decoder."""
    request = ExportMetricsServiceRequest(
        resource_metrics=[ResourceMetrics(scope_metrics=[ScopeMetrics(metrics=metrics)])]
    )
    return decode("metrics", request.SerializeToString()).points


def log(record: LogRecord) -> ReceivedLog:
    """Send a log record through the decoder."""
    request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=[record])])])
    [received] = decode("logs", request.SerializeToString()).logs
    return received


VALUES = {
    "text": (AnyValue(string_value="ä"), "ä"),
    "flag": (AnyValue(bool_value=False), False),
    "integer": (AnyValue(int_value=-3), -3),
    "number": (AnyValue(double_value=0.0), 0.0),
    "bytes": (AnyValue(bytes_value=b"\0"), b"\0"),
    "array": (AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1), AnyValue()])), (1, None)),
    "map": (
        AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="k", value=AnyValue(string_value="v"))])),
        {"k": "v"},
    ),
    "nothing": (AnyValue(), None),
}


@pytest.mark.parametrize(("sent", "expected"), VALUES.values(), ids=VALUES)
def test_values_keep_their_type(sent: AnyValue, expected: object) -> None:
    """As attributes and as bodies."""
    received = log(LogRecord(body=sent, attributes=[KeyValue(key="key", value=sent)]))

    assert (expected, {"key": expected}) == (received.body, received.attributes)
    assert type(expected) is type(received.body)


@pytest.mark.parametrize(("number", "name"), [(0, ""), (9, "INFO"), (20, "ERROR4"), (24, "FATAL4"), (77, "")])
def test_a_severity_is_called_what_the_protocol_calls_it(number: Any, name: str) -> None:
    """One that it does not know has no name, and keeps its number."""
    received = log(LogRecord(severity_number=number))

    assert (name, number) == (received.severity, received.severity_number)


def test_exponential_histograms_keep_their_buckets(
    receiver: OtlpReceiver, plain_wire: Any, start_sdk: Callable[..., Any]
) -> None:
    """Scale, zeros and both sides arrive, from the SDK itself."""
    sdk = start_sdk(
        receiver,
        plain_wire,
        metrics={"preferred_aggregation": {Histogram: ExponentialBucketHistogramAggregation(max_scale=0)}},
    )
    histogram = sdk.metrics.get_meter("test").create_histogram("sizes")
    for value in (0, 1.5, 3, 3.5):
        histogram.record(value)
    sdk.flush()

    [point] = receiver.points("sizes")
    assert ("exponential_histogram", 4, 8.0, ()) == (point.kind, point.count, point.sum, point.buckets)
    assert point.exponential is not None
    assert (0, 1, 0, (1, 2), 0.0) == (
        point.exponential.scale,
        point.exponential.zero_count,
        point.exponential.positive_offset,
        point.exponential.positive,
        point.exponential.zero_threshold,
    )
    assert 4 == receiver.total("sizes")


def test_exemplars_lead_to_their_span(receiver: OtlpReceiver, plain_wire: Any, start_sdk: Callable[..., Any]) -> None:
    """A measurement inside a sampled span carries its ids."""
    sdk = start_sdk(receiver, plain_wire)
    with sdk.traces.get_tracer("test").start_as_current_span("span"):
        sdk.metrics.get_meter("test").create_histogram("sizes").record(2.5, {"kept": "yes"})
    sdk.flush()

    [exemplar] = receiver.points("sizes")[0].exemplars
    assert 2.5 == exemplar.value
    assert [(exemplar.trace_id, exemplar.span_id)] == [(span.trace_id, span.span_id) for span in receiver.spans]


def test_summaries_are_decoded() -> None:
    """The Collector forwards them from older sources."""
    pair = SummaryDataPoint.ValueAtQuantile(quantile=0.5, value=2.0)
    [point] = points(
        Metric(name="s", summary=Summary(data_points=[SummaryDataPoint(count=3, sum=6, quantile_values=[pair])]))
    )

    assert ("summary", 3, 6.0, ((0.5, 2.0),)) == (point.kind, point.count, point.sum, point.quantiles)


def test_a_point_that_recorded_nothing_has_no_value() -> None:
    """Neither one that is marked so nor one without a number is a zero."""
    gauge = Gauge(data_points=[NumberDataPoint(flags=1, as_int=0), NumberDataPoint(), NumberDataPoint(as_int=0)])

    assert [None, None, 0] == [point.value for point in points(Metric(name="g", gauge=gauge))]


def test_a_metric_without_data_has_no_points() -> None:
    """It is legal, and says nothing."""
    assert () == points(Metric(name="empty"))


def test_the_error_names_the_signal() -> None:
    """Who reads it knows what was expected."""
    with pytest.raises(MalformedBodyError, match="no export request for logs"):
        decode("logs", b"\xff")
