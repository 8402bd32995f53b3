"""What an OTLP request carries, as plain frozen records.

Ids are lower-case hex (empty when absent), times are Unix nanoseconds, array attribute values are tuples, and the
enumerations of the protocol are lower-case words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = [
    "ExponentialBuckets",
    "RawRequest",
    "ReceivedEvent",
    "ReceivedExemplar",
    "ReceivedLink",
    "ReceivedLog",
    "ReceivedMetric",
    "ReceivedScope",
    "ReceivedSpan",
    "Records",
    "Signal",
]

Signal = Literal["traces", "metrics", "logs"]
"""What a request carries."""

Protocol = Literal["http/protobuf", "grpc"]
"""How a request came."""

SpanKind = Literal["unspecified", "internal", "server", "client", "producer", "consumer"]
StatusCode = Literal["unset", "ok", "error"]
MetricKind = Literal["gauge", "sum", "histogram", "exponential_histogram", "summary"]
Temporality = Literal["unspecified", "delta", "cumulative"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedScope:
    """The instrumentation scope that made a record.

    Attributes:
        name: Name of the library.
        version: Its version, empty when absent.
        schema_url: The conventions that it follows, empty when absent.
        attributes: Attributes of the scope.
    """

    name: str = ""
    version: str = ""
    schema_url: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedEvent:
    """An event inside a span.

    Attributes:
        name: Its name.
        time_ns: When it happened.
        attributes: Its attributes.
    """

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedLink:
    """A link from a span to another one.

    Attributes:
        trace_id: The other span's trace.
        span_id: The other span.
        trace_state: Its trace state.
        attributes: Attributes of the link.
        flags: Its trace flags.
    """

    trace_id: str
    span_id: str
    trace_state: str
    attributes: Mapping[str, Any]
    flags: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedSpan:
    """One finished span.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent_span_id: 16 hex digits, empty for a root.
        name: Its name.
        kind: Its kind.
        start_ns: When it started.
        end_ns: When it ended.
        attributes: Its attributes.
        events: Its events, in the order sent.
        links: Its links, in the order sent.
        status_code: Its status.
        status_message: The description of an error.
        flags: W3C trace flags in the low eight bits, with OTLP's bits for a remote parent above.
        trace_state: W3C trace state.
        scope: Who made it.
        resource: Attributes of the process.
    """

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: SpanKind
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    events: tuple[ReceivedEvent, ...]
    links: tuple[ReceivedLink, ...]
    status_code: StatusCode
    status_message: str
    flags: int
    trace_state: str
    scope: ReceivedScope
    resource: Mapping[str, Any]

    @property
    def duration_s(self) -> float:
        """Return how long it took, in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedLog:
    """One log record or event.

    Attributes:
        event_name: Name of the event, empty for a plain log record.
        severity: The protocol's name of the severity (``INFO``, ``WARN2``), empty when unspecified.
        severity_number: 1 to 24, 0 when unspecified.
        severity_text: What the source calls it.
        body: The body; None when absent.
        attributes: Its attributes.
        trace_id: The trace it was made in, empty outside any.
        span_id: The span it was made in, empty outside any.
        flags: W3C trace flags.
        time_ns: When it happened; 0 when unknown.
        observed_time_ns: When the pipeline saw it.
        scope: Who made it.
        resource: Attributes of the process.
    """

    event_name: str
    severity: str
    severity_number: int
    severity_text: str
    body: Any
    attributes: Mapping[str, Any]
    trace_id: str
    span_id: str
    flags: int
    time_ns: int
    observed_time_ns: int
    scope: ReceivedScope
    resource: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedExemplar:
    """A measurement that was sampled together with its span.

    Attributes:
        value: The measurement.
        time_ns: When it was made.
        trace_id: The trace it was made in, empty outside any.
        span_id: The span it was made in, empty outside any.
        attributes: Attributes that the point does not have.
    """

    value: int | float
    time_ns: int
    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


class ExponentialBuckets(NamedTuple):
    """The buckets of a base-2 exponential histogram; each side is an offset and its counts."""

    scale: int
    zero_count: int
    zero_threshold: float
    positive_offset: int
    positive: tuple[int, ...]
    negative_offset: int
    negative: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedMetric:
    """One data point of one series.

    Attributes:
        name: Name of the metric.
        unit: Its unit.
        description: Its description.
        kind: What the point is.
        monotonic: Whether a sum only grows.
        temporality: Whether it counts from the start or since the last point; ``unspecified`` where that means nothing.
        attributes: The attributes that tell its series apart.
        time_ns: When it was read.
        start_ns: Since when it counts; 0 when unknown.
        value: Of a gauge or sum; None when the point says that nothing was recorded.
        count: Number of measurements of a histogram.
        sum: Their sum; None when not recorded.
        min: The smallest; None when not recorded.
        max: The largest; None when not recorded.
        buckets: Counts per bucket of an explicit histogram, one more than ``bounds``.
        bounds: Inclusive upper bounds of its buckets.
        exponential: The buckets of an exponential histogram.
        quantiles: Pairs (quantile, value) of a summary.
        exemplars: Sampled measurements.
        scope: Who made it.
        resource: Attributes of the process.
    """

    name: str
    unit: str
    description: str
    kind: MetricKind
    monotonic: bool = False
    temporality: Temporality = "unspecified"
    attributes: Mapping[str, Any]
    time_ns: int
    start_ns: int
    value: int | float | None = None
    count: int | None = None
    sum: float | None = None
    min: float | None = None
    max: float | None = None
    buckets: tuple[int, ...] = ()
    bounds: tuple[float, ...] = ()
    exponential: ExponentialBuckets | None = None
    quantiles: tuple[tuple[float, float], ...] = ()
    exemplars: tuple[ReceivedExemplar, ...] = ()
    scope: ReceivedScope
    resource: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRequest:
    """One export request as it came.

    Attributes:
        signal: What it carries.
        protocol: How it came.
        status: The HTTP status that it was answered with (over gRPC, the one that the status code stands for).
        headers: Header or metadata names in lower case, and their values; not shown by ``repr``, they may hold secrets.
        body: The bytes as sent; over gRPC they are already decompressed.
    """

    signal: Signal
    protocol: Protocol
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Records(NamedTuple):
    """What one request was decoded into."""

    spans: tuple[ReceivedSpan, ...] = ()
    logs: tuple[ReceivedLog, ...] = ()
    points: tuple[ReceivedMetric, ...] = ()
