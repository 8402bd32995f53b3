"""OTLP exporters and their deliveries, against real sockets."""

from __future__ import annotations

import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crucible_otel.config.settings import Settings
from crucible_otel.errors import ConfigurationError
from crucible_otel.export.causes import QUEUE_FULL, classify, without_secrets
from crucible_otel.export.delivery import SpanDelivery
from crucible_otel.export.otlp import build_log_delivery, build_metric_delivery, build_span_delivery, target
from crucible_otel.export.quiet import Quiet
from crucible_otel.export.tally import Counts, Ledger
from tests.export.otlp_server import Received, closed_port, grpc_server, http_server, hung_server
from tests.versions import BATCH_OF_SPANS


class Said:
    """A ledger that keeps what it says, with a clock that a test moves."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        self.ledger = Ledger(self.lines.append, lambda: self.now)


@pytest.fixture
def said() -> Said:
    """What the ledger says."""
    return Said()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install the filter, and allow one attempt for each batch."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.9")  # less than the first back-off: one attempt
    noise = Quiet()
    noise.install()
    yield
    noise.remove()


def settings(endpoint: str | None = None, protocol: str = "http/protobuf", **given: Any) -> Settings:
    """Resolve settings as configure() would."""
    if endpoint is not None:
        given["endpoint"] = endpoint
    if protocol != "http/protobuf":
        given["protocol"] = protocol
    return Settings(**given).resolve(os.environ)


def spans(count: int = 2) -> list[ReadableSpan]:
    """Make finished spans."""
    kept = InMemorySpanExporter()
    tracer = TracerProvider(resource=Resource({}), shutdown_on_exit=False).get_tracer("test")
    for index in range(count):
        span = tracer.start_span(f"s{index}")
        span.end()
        kept.export([span])
    return list(kept.get_finished_spans())


def metrics(points: int = 3) -> MetricsData:
    """Make one collection."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], resource=Resource({}), shutdown_on_exit=False)
    counter = provider.get_meter("test").create_counter("c")
    for index in range(points):
        counter.add(1, {"i": index})
    return reader.get_metrics_data()


def log_records(count: int = 1) -> list[Any]:
    """Make log records."""
    kept = InMemoryLogRecordExporter()
    provider = LoggerProvider(resource=Resource({}), shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(kept))
    for _ in range(count):
        provider.get_logger("test").emit(event_name="e")
    provider.shutdown()
    return list(kept.get_finished_logs())


SERVERS: dict[str, Callable[[], AbstractContextManager[Received]]] = {"http/protobuf": http_server, "grpc": grpc_server}


@pytest.mark.parametrize("protocol", SERVERS)
def test_spans_and_logs_arrive(protocol: str, said: Said) -> None:
    """Both protocols carry items to a real server and count them as delivered."""
    with SERVERS[protocol]() as received:
        given = settings(received.endpoint, protocol, headers={"X-Team": "ml"}, compression="gzip")
        span_delivery, log_delivery = build_span_delivery(given, said.ledger), build_log_delivery(given, said.ledger)
        assert SpanExportResult.SUCCESS is span_delivery.export(spans(2))
        log_delivery.export(log_records(1))
        span_delivery.shutdown()
        log_delivery.shutdown()
    assert (["s0", "s1"], ["e"]) == (received.names(), received.logs)
    assert {"ml"} == {headers["x-team"] for _, headers in received.requests}
    assert [2, 1] == [tally.counts.delivered for tally in said.ledger.tallies]
    assert [] == said.lines


def test_http_paths_are_those_of_the_signals(said: Said) -> None:
    """A base endpoint gets the path of each signal, with or without a slash at its end."""
    with http_server() as received:
        given = settings(f"{received.endpoint}/base/")
        build_span_delivery(given, said.ledger).export(spans())
        build_metric_delivery(given, said.ledger).export(metrics())
        build_log_delivery(given, said.ledger).export(log_records())
    expected = [f"/base/v1/{signal}" for signal in ("traces", "metrics", "logs")]
    assert expected == [path for path, _ in received.requests]


@pytest.mark.parametrize(
    ("environ", "given", "expected"),
    [
        ({}, {}, ("http/protobuf", "http://localhost:4318/v1/traces")),
        ({}, {"protocol": "grpc"}, ("grpc", "http://localhost:4317")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"}, {}, ("http/protobuf", "http://a:1/v1/traces")),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:2/x"}, {}, ("http/protobuf", "http://b:2/x")),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:2/x"},
            {},
            ("http/protobuf", "http://b:2/x"),
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:2/x"},
            {"endpoint": "http://c:3"},
            ("http/protobuf", "http://c:3/v1/traces"),
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:2/x", "CRUCIBLE_OTEL_ENDPOINT": "http://d:4"},
            {},
            ("http/protobuf", "http://d:4/v1/traces"),
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, {}, ("grpc", "http://localhost:4317")),
    ],
)
def test_where_a_signal_goes(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], given: dict[str, Any], expected: tuple[str, str]
) -> None:
    """Argument and own variable win over the signal's variable, which wins over the general one."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    where = target(settings(**given), "traces")
    assert expected == (where.protocol, where.endpoint)


def test_a_signals_own_headers_and_compression_are_left_to_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDK reads itself is not passed; what was given as an argument is."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=b")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")
    assert (None, None) == target(settings(), "traces")[3:]
    assert ({"c": "d"}, "none") == target(settings(headers={"C": "d"}, compression="none"), "traces")[3:]


@pytest.mark.parametrize(
    ("status", "reason", "remedy"),
    [
        (401, "HTTP 401", "HEADERS"),
        (403, "HTTP 403", "HEADERS"),
        (404, "HTTP 404", "ENDPOINT"),
        (413, "HTTP 413", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"),
        (400, "HTTP 400", "PROTOCOL"),
        (500, "HTTP 500", "receiver's own log"),
        (302, "HTTP 302", "redirects"),
    ],
)
def test_http_refusals_are_explained(
    status: int, reason: str, remedy: str, said: Said, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused batch is counted as lost and gives one warning with cause, remedy and count; the SDK says nothing."""
    with http_server(status) as received:
        delivery = build_span_delivery(settings(received.endpoint), said.ledger)
        assert SpanExportResult.FAILURE is delivery.export(spans(2))
    assert 1 == len(said.lines)
    assert all(part in said.lines[0] for part in (reason, remedy, f"{received.endpoint}/v1/traces", "2 spans"))
    assert 2 == delivery.tally.counts.failed
    assert [] == caplog.records


@pytest.mark.parametrize("protocol", SERVERS)
def test_a_closed_port_is_named(protocol: str, said: Said, caplog: pytest.LogCaptureFixture) -> None:
    """With nobody listening, the warning says so."""
    with closed_port() as endpoint:
        build_span_delivery(settings(endpoint, protocol), said.ledger).export(spans(1))
    assert "connection refused" in said.lines[0]
    assert endpoint in said.lines[0]
    assert [] == caplog.records


@pytest.mark.parametrize("protocol", SERVERS)
def test_a_server_that_hangs_is_named(protocol: str, said: Said, caplog: pytest.LogCaptureFixture) -> None:
    """With a server that accepts and never answers, the warning says so."""
    with hung_server() as endpoint:
        build_span_delivery(settings(endpoint, protocol), said.ledger).export(spans(1))
    assert "no answer in time" in said.lines[0]
    assert [] == caplog.records


def test_http_sent_to_a_grpc_server_is_recognised(said: Said) -> None:
    """The warning names the protocol to set."""
    with grpc_server() as received:
        build_span_delivery(settings(received.endpoint), said.ledger).export(spans(1))
    assert "gRPC server listens there" in said.lines[0]
    assert "PROTOCOL to grpc" in said.lines[0]


def test_grpc_sent_to_an_http_server_is_recognised(said: Said) -> None:
    """The warning names the protocol to set."""
    with http_server() as received:
        build_span_delivery(settings(received.endpoint, "grpc"), said.ledger).export(spans(1))
    assert "HTTP server listens there" in said.lines[0]
    assert "PROTOCOL to http/protobuf" in said.lines[0]


def test_tls_to_a_plain_server_is_recognised(said: Said) -> None:
    """The warning says to use http://."""
    with http_server() as received:
        build_span_delivery(settings(received.endpoint.replace("http:", "https:")), said.ledger).export(spans(1))
    assert "does not speak TLS" in said.lines[0]


def test_an_untrusted_certificate_is_recognised() -> None:
    """A failed verification names the certificate's variable."""
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in classify(error).remedy


def test_a_missing_certificate_file_is_recognised(monkeypatch: pytest.MonkeyPatch, said: Said, tmp_path: Path) -> None:
    """A certificate file that has vanished since the settings were checked is explained at the export."""
    with closed_port() as endpoint:
        given = settings(endpoint.replace("http:", "https:"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "none.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", ssl.get_default_verify_paths().openssl_cafile)
        build_span_delivery(given, said.ledger).export(spans(1))
    assert "TLS failed" in said.lines[0]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "refuses our credentials"),
        (grpc.StatusCode.PERMISSION_DENIED, "refuses our credentials"),
        (grpc.StatusCode.UNIMPLEMENTED, "no OTLP receiver"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
        (grpc.StatusCode.INVALID_ARGUMENT, "rejects the request"),
        (grpc.StatusCode.INTERNAL, "the server failed"),
    ],
)
def test_grpc_refusals_are_explained(code: grpc.StatusCode, reason: str, said: Said) -> None:
    """A gRPC status is explained without quoting what the server says."""
    with grpc_server(code) as received:
        build_span_delivery(settings(received.endpoint, "grpc"), said.ledger).export(spans(1))
    assert reason in said.lines[0]
    assert "secret" not in said.lines[0]


def test_secrets_are_never_shown(said: Said) -> None:
    """Neither headers nor user, password or query of the endpoint get into a message."""
    with http_server(401) as received:
        endpoint = received.endpoint.replace("//", "//user:sk-pass@")
        given = settings(endpoint, headers={"authorization": "Bearer sk-token"})
        build_span_delivery(given, said.ledger).export(spans(1))
        assert "Bearer sk-token" == received.requests[0][1]["authorization"] or "Basic" in str(received.requests)
        assert "sk-" not in repr(target(given, "traces"))
    assert "sk-" not in " ".join([*said.lines, said.ledger.last_word() or ""])
    assert received.endpoint in said.lines[0]


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://u:p@h:1/v1/traces?key=k#f", "http://h:1/v1/traces"),
        ("h:4317", "h:4317"),
        ("https://[::1]:4318", "https://[::1]:4318"),
        ("http://h:port", "an endpoint that is not a URL"),
    ],
)
def test_endpoints_are_shown_without_secrets(endpoint: str, expected: str) -> None:
    """Only scheme, host, port and path remain."""
    assert expected == without_secrets(endpoint)


def test_one_line_for_several_signals_with_the_same_trouble(said: Said) -> None:
    """Two signals that fail alike at one place warn once; after a minute once again, with all counts."""
    with http_server(404) as received:
        given = settings(received.endpoint)
        span_delivery, log_delivery = build_span_delivery(given, said.ledger), build_log_delivery(given, said.ledger)
        for _ in range(5):
            span_delivery.export(spans(2))
            log_delivery.export(log_records(1))
        assert 1 == len(said.lines)
        said.now += 61
        span_delivery.export(spans(2))
        log_delivery.export(log_records(1))
    assert 2 == len(said.lines)
    assert "12 spans, 5 log records" in said.lines[1]


def test_the_last_word_lists_what_was_lost(said: Said) -> None:
    """At the end one line tells how much of what was lost, where and why."""
    with http_server(404) as received:
        given = settings(received.endpoint)
        span_delivery, metric_delivery = (
            build_span_delivery(given, said.ledger),
            build_metric_delivery(given, said.ledger),
        )
        span_delivery.tally.accept(2)  # as the queue does
        span_delivery.export(spans(2))
        metric_delivery.export(metrics(3))
    assert (
        f"telemetry ends with 2 spans, 3 metric points dropped, not delivered to {received.endpoint} "
        "(HTTP 404, the server has no OTLP receiver at this path)" == said.ledger.last_word()
    )


def test_nothing_is_said_when_all_arrived(said: Said) -> None:
    """Silence is success."""
    with http_server() as received:
        build_metric_delivery(settings(received.endpoint), said.ledger).export(metrics(3))
    assert None is said.ledger.last_word()


class DeltaExporter(MetricExporter):
    def __init__(self) -> None:
        super().__init__(preferred_temporality={Counter: AggregationTemporality.DELTA})
        self.collections: list[MetricsData] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        self.collections.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        pass


def test_metric_preferences_of_the_exporter_reach_the_reader(said: Said) -> None:
    """The wrapper hands on which temporality the exporter inside prefers."""
    own = DeltaExporter()
    delivery = build_metric_delivery(settings(metric_exporter=own), said.ledger)
    reader = PeriodicExportingMetricReader(delivery, export_interval_millis=float("inf"))
    provider = MeterProvider([reader], resource=Resource({}), shutdown_on_exit=False)
    provider.get_meter("test").create_counter("c").add(1)
    provider.force_flush()
    provider.shutdown()
    exported = own.collections[0].resource_metrics[0].scope_metrics[0].metrics[0].data
    assert AggregationTemporality.DELTA is exported.aggregation_temporality
    assert Counts(accepted=1, delivered=1) == delivery.tally.counts


class Raising(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise RuntimeError("sk-secret")

    def shutdown(self) -> None:
        raise RuntimeError("sk-secret")


class Connecting(Raising):
    def export(self, spans: Any) -> SpanExportResult:
        raise ConnectionRefusedError(111, "sk-secret")


class Refusing(Raising):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.FAILURE


@pytest.mark.parametrize(
    ("exporter", "reason"),
    [
        (Raising(), "it raised RuntimeError at {line}"),
        (Connecting(), "connection refused, nothing listens there (ConnectionRefusedError at {line})"),
        (Refusing(), "the exporter gave no reason"),
    ],
    ids=["a mistake", "no connection", "no reason"],
)
def test_a_users_exporter_that_fails_is_contained_and_named(exporter: Any, reason: str, said: Said) -> None:
    """What it raised is told by type and place, not by its text; settings of OTLP are not advised."""
    delivery = build_span_delivery(settings(span_exporter=exporter), said.ledger)
    delivery.tally.accept(2)  # as the queue does
    assert SpanExportResult.FAILURE is delivery.export(spans(2))
    delivery.shutdown()
    name = type(exporter).__name__
    why = reason.format(line=f"test_otlp.py:{type(exporter).export.__code__.co_firstlineno + 1}")
    assert [
        f"telemetry is being lost: spans to your {name}: {why}; look into {name}. Dropped so far: 2 spans."
    ] == said.lines
    said.now += 61
    assert (
        f"telemetry ends with 2 spans dropped, not delivered to your {name} ({why}; look into {name})"
        == said.ledger.last_word()
    )


def test_a_users_exporter_that_never_answers_is_named(said: Said) -> None:
    """Also where nothing is known but that time was up."""
    delivery = build_span_delivery(settings(span_exporter=Raising()), said.ledger)
    delivery.tally.accept(2)
    said.ledger.give_up()
    assert str(said.ledger.last_word()).endswith("your Raising (no answer before time was up; look into Raising)")


def test_what_a_users_exporter_raised_is_for_who_debugs(said: Said, caplog: pytest.LogCaptureFixture) -> None:
    """The traceback is logged at DEBUG only."""
    caplog.set_level(logging.DEBUG, "crucible_otel")
    build_span_delivery(settings(span_exporter=Raising()), said.ledger).export(spans(1))
    assert [logging.DEBUG] == [record.levelno for record in caplog.records]
    assert "sk-secret" in caplog.text
    assert "in export" in caplog.text


def test_advice_that_holds_for_any_exporter_stays(said: Said) -> None:
    """As that of a queue that is full."""
    tally = said.ledger.open("traces", "your Own", exporter="Own")
    said.ledger.complain(tally, QUEUE_FULL)
    assert QUEUE_FULL.remedy in said.lines[0]


def test_a_users_exporter_is_used_instead_of_otlp(said: Said) -> None:
    """No OTLP exporter is built beside it."""
    own = InMemorySpanExporter()
    delivery = build_span_delivery(settings(span_exporter=own), said.ledger)
    delivery.export(spans(2))
    assert 2 == len(own.get_finished_spans())
    assert isinstance(delivery, SpanDelivery)


def test_an_unknown_protocol_of_a_signal_is_refused() -> None:
    """The error names the variable and what it accepts."""
    environ = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}
    with pytest.raises(ConfigurationError, match=r"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL='http/json'.*http/protobuf"):
        target(settings(), "traces", environ)


def test_an_interrupted_delivery_gives_up_and_counts(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    """Once interrupted, batches are refused at once and counted as lost."""
    with http_server() as received:
        delivery = build_span_delivery(settings(received.endpoint), said.ledger)
        delivery.interrupt()
        delivery.export(spans(2))
    assert ([], 2) == (received.names(), delivery.tally.counts.failed)


def test_other_exporters_keep_their_voice(caplog: pytest.LogCaptureFixture) -> None:
    """An application's own OTLP exporter logs as ever, also while our filter is installed."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    with http_server(401) as received:
        OTLPSpanExporter(f"{received.endpoint}/v1/traces").export(spans(1))
    assert [f"Failed to export {BATCH_OF_SPANS} code: 401, reason: Unauthorized"] == [
        record.getMessage() for record in caplog.records
    ]


def test_the_filter_is_gone_after_removal() -> None:
    """Removing takes it from every logger it was added to."""
    noise = Quiet()
    noise.install()
    noise.remove()
    everywhere = [logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    assert [] == [logger.name for logger in everywhere if noise in logger.filters]


def test_a_forked_child_uses_a_connection_of_its_own(said: Said) -> None:
    """Parent and child deliver on their own connections, and the child starts to count from zero."""
    with http_server() as received:
        delivery = build_span_delivery(settings(received.endpoint), said.ledger)
        delivery.export(spans(2))
        parents = delivery.exporter
        pid = os.fork()
        if not pid:
            good = delivery.export(spans(1)) is SpanExportResult.SUCCESS
            fresh = delivery.exporter is not parents and delivery.tally.counts == Counts(delivered=1)
            os._exit(0 if good and fresh else 1)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        delivery.export(spans(1))
    assert ["s0", "s0", "s0", "s1"] == received.names()


def test_only_the_protocol_in_use_is_imported() -> None:
    """HTTP does not pay for gRPC."""
    code = (
        "import os, sys\n"
        "from crucible_otel.config.settings import Settings\n"
        "from crucible_otel.export.otlp import build_span_delivery\n"
        "from crucible_otel.export.tally import Ledger\n"
        "build_span_delivery(Settings(endpoint='http://localhost:1').resolve(os.environ), Ledger())\n"
        "sys.exit('grpc' in sys.modules)\n"
    )
    assert 0 == subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode
