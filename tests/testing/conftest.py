"""The real SDK, set up to send to a receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc import _log_exporter as grpc_logs
from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc_metrics
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_traces
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http import _log_exporter as http_logs
from opentelemetry.exporter.otlp.proto.http import metric_exporter as http_metrics
from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_traces
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from crucible_otel.semconv.names import SERVICE_INSTANCE_ID, SERVICE_NAME
from crucible_otel.testing import OtlpReceiver

NONE: Mapping[str, Any] = MappingProxyType({})
WIRES = [("http/protobuf", "none"), ("http/protobuf", "gzip"), ("http/protobuf", "deflate")]
WIRES += [("grpc", "none"), ("grpc", "gzip")]
COMPRESSIONS = {
    "http/protobuf": {
        "none": Compression.NoCompression,
        "gzip": Compression.Gzip,
        "deflate": Compression.Deflate,
    },
    "grpc": {"none": grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip},
}


@dataclass(frozen=True, kw_only=True)
class Wire:
    """How the SDK is to send."""

    protocol: str
    compression: str = "none"


@dataclass(frozen=True, kw_only=True)
class Sdk:
    """One process's worth of the real SDK."""

    traces: TracerProvider
    metrics: MeterProvider
    logs: LoggerProvider

    def flush(self) -> None:
        for provider in (self.traces, self.metrics, self.logs):
            provider.force_flush()

    def shutdown(self) -> None:
        for provider in (self.traces, self.metrics, self.logs):
            provider.shutdown()


def make_exporters(
    receiver: OtlpReceiver, wire: Wire, *, metrics: Mapping[str, Any] = NONE, **options: Any
) -> tuple[Any, Any, Any]:
    """Return the SDK's own exporters of the three signals, pointed at a receiver."""
    options["compression"] = COMPRESSIONS[wire.protocol][wire.compression]
    if wire.protocol == "grpc":
        options["endpoint"] = receiver.grpc_endpoint
        return (
            grpc_traces.OTLPSpanExporter(**options),
            grpc_metrics.OTLPMetricExporter(**options, **metrics),
            grpc_logs.OTLPLogExporter(**options),
        )
    base = receiver.http_endpoint
    return (
        http_traces.OTLPSpanExporter(f"{base}/v1/traces", **options),
        http_metrics.OTLPMetricExporter(f"{base}/v1/metrics", **options, **metrics),
        http_logs.OTLPLogExporter(f"{base}/v1/logs", **options),
    )


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A receiver that is open during the test."""
    with OtlpReceiver() as opened:
        yield opened


@pytest.fixture(params=WIRES, ids=lambda wire: "-".join(wire).replace("/", "-"))
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each way to send, one after the other."""
    protocol, compression = request.param
    return Wire(protocol=protocol, compression=compression)


@pytest.fixture(params=["http/protobuf", "grpc"], ids=["http", "grpc"])
def plain_wire(request: pytest.FixtureRequest) -> Wire:
    """Both protocols, uncompressed."""
    return Wire(protocol=request.param)


@pytest.fixture
def make_wire() -> Callable[..., Wire]:
    """A way to send, by protocol and compression."""
    return lambda protocol, compression="none": Wire(protocol=protocol, compression=compression)


@pytest.fixture
def exporters() -> Callable[..., tuple[Any, Any, Any]]:
    """A function that makes the SDK's own exporters of the three signals; the test shuts them down."""
    return make_exporters


@pytest.fixture
def start_sdk() -> Iterator[Callable[..., Sdk]]:
    """A function that starts the SDK as a process of its own would; what it started is shut down after the test."""
    with ExitStack() as started:

        def start(receiver: OtlpReceiver, wire: Wire, *, instance: str = "one", **options: Any) -> Sdk:
            resource = Resource({SERVICE_NAME: "receiver-test", SERVICE_INSTANCE_ID: instance})
            span_exporter, metric_exporter, log_exporter = make_exporters(receiver, wire, **options)
            reader = PeriodicExportingMetricReader(metric_exporter, export_interval_millis=3_600_000)
            sdk = Sdk(
                traces=TracerProvider(resource=resource, shutdown_on_exit=False),
                metrics=MeterProvider([reader], resource=resource, shutdown_on_exit=False),
                logs=LoggerProvider(resource=resource, shutdown_on_exit=False),
            )
            sdk.traces.add_span_processor(BatchSpanProcessor(span_exporter))
            sdk.logs.add_log_record_processor(BatchLogRecordProcessor(log_exporter))
            started.callback(sdk.shutdown)
            return sdk

        yield start
