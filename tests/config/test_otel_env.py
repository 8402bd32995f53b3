"""The OTEL_* variables: each one read, refused, and held against the installed SDK."""

from __future__ import annotations

import logging
import pathlib

import opentelemetry.environment_variables
import opentelemetry.sdk.environment_variables
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from crucible_otel.config import otel_env
from crucible_otel.config.otel_env import OTEL_VARIABLES
from crucible_otel.config.settings import Settings
from crucible_otel.errors import ConfigurationError

FILE = str(pathlib.Path(__file__))

# By the end of the name, longest first: one good value and what it is read as, and bad ones.
SAMPLES: dict[str, tuple[str, object, tuple[str, ...]]] = {
    "SDK_DISABLED": ("false", True, ("1", "yes")),
    "CONFIG_FILE": (FILE, FILE, ("/nowhere/otel.yaml",)),
    "SERVICE_NAME": ("a", "a", ("a\x00",)),
    "RESOURCE_ATTRIBUTES": ("a=%20", {"a": " "}, ("a", "a=%ff")),
    "EXPERIMENTAL_RESOURCE_DETECTORS": ("host, process", ("host", "process"), ("hosts",)),
    "PROPAGATORS": ("tracecontext,none", ("tracecontext", "none"), ("tracecontext,b33",)),
    "TRACES_EXPORTER": ("otlp", ("otlp",), ("prometheus",)),
    "METRICS_EXPORTER": ("prometheus", ("prometheus",), ("statsd",)),
    "LOGS_EXPORTER": ("none", ("none",), ("none,otlp",)),
    "_ENDPOINT": ("http://localhost:9", "http://localhost:9", ("localhost", "ftp://a")),
    "_PROTOCOL": ("http/protobuf", "http/protobuf", ("http/json",)),
    "_HEADERS": ("a=b", {"a": "b"}, ("a",)),
    "_COMPRESSION": ("gzip", "gzip", ("zstd",)),
    "OTLP_TIMEOUT": ("0.5", 0.5, ("0", "10s", "-1")),
    "TRACES_TIMEOUT": ("2", 2.0, ("ten",)),
    "METRICS_TIMEOUT": ("2", 2.0, ("nan",)),
    "LOGS_TIMEOUT": ("2", 2.0, ("inf",)),
    "_INSECURE": ("True", True, ("1",)),
    "_CERTIFICATE": (FILE, FILE, ("/nowhere/ca.pem",)),
    "_CLIENT_KEY": (FILE, FILE, ("/nowhere/key.pem",)),
    "RETRYABLE_ERROR_CODES": ("UNAVAILABLE,aborted", ("unavailable", "aborted"), ("UNREACHABLE", "14")),
    "PROMETHEUS_HOST": ("::", "::", ("a b",)),
    "PROMETHEUS_PORT": ("0", 0, ("65536", "http")),
    "TRACES_SAMPLER": ("Always_Off", "Always_Off", ("sometimes", "always_on ")),
    "SAMPLER_ARG": ("0.5", "0.5", ("\x00",)),
    "SCHEDULE_DELAY": ("100", 100, ("0", "1.5", "soon")),
    "QUEUE_SIZE": ("4096", 4096, ("0", "many")),
    "BATCH_SIZE": ("64", 64, ("-1", "1e3")),
    "BSP_EXPORT_TIMEOUT": ("0", 0, ("x",)),
    "BLRP_EXPORT_TIMEOUT": ("0", 0, ("-1",)),
    "_LIMIT": ("0", 0, ("-1", "none")),
    "EXPORT_INTERVAL": ("1500", 1.5, ("0", "1m")),
    "METRIC_EXPORT_TIMEOUT": ("1500", 1.5, ("-1",)),
    "EXEMPLAR_FILTER": ("always_off", "always_off", ("Always_Off", "", "all")),
    "TEMPORALITY_PREFERENCE": ("DELTA", "delta", ("deltas",)),
    "HISTOGRAM_AGGREGATION": ("base2_exponential_bucket_histogram",) * 2
    + (("exponential", "EXPLICIT_BUCKET_HISTOGRAM"),),
    "INTERNAL_METRICS_ENABLED": ("true", True, ("on",)),
    "PYTHON_CONTEXT": ("contextvars_context",) * 2 + (("gevent",),),
    "TRACER_PROVIDER": ("sdk_tracer_provider",) * 2 + (("", "mine"),),
    "METER_PROVIDER": ("sdk_meter_provider",) * 2 + (("mine",),),
    "LOGGER_PROVIDER": ("sdk_logger_provider",) * 2 + (("mine",),),
    "CREDENTIAL_PROVIDER": ("", None, ("vault",)),
}

LEFT_OUT = {
    "OTEL_LOG_LEVEL": "read by nothing in the SDK",
    "OTEL_EXPORTER_ZIPKIN_ENDPOINT": "we have no Zipkin exporter",
    "OTEL_EXPORTER_ZIPKIN_TIMEOUT": "we have no Zipkin exporter",
    "OTEL_PYTHON_ID_GENERATOR": "ours is used: it stays random where a program seeds `random`",
    "OTEL_PYTHON_TRACER_CONFIGURATOR": "read by the SDK's own configurator only",
    "OTEL_PYTHON_METER_CONFIGURATOR": "read by the SDK's own configurator only",
    "OTEL_PYTHON_LOGGER_CONFIGURATOR": "read by the SDK's own configurator only",
    "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "deprecated, read by the SDK's own configurator only",
}


def sample(name: str) -> tuple[str, object, tuple[str, ...]]:
    """The sample of the longest key that ends the name; a new variable without one fails."""
    return SAMPLES[max((key for key in SAMPLES if name.endswith(key)), key=len)]


def test_every_variable_of_the_installed_sdk_is_known() -> None:
    """What the SDK declares is either honoured and checked, or left out for a reason."""
    modules = (opentelemetry.environment_variables, opentelemetry.sdk.environment_variables)
    declared = {
        getattr(module, name) for module in modules for name in dir(module) if name.lstrip("_").startswith("OTEL_")
    }
    assert set() == declared - set(OTEL_VARIABLES) - set(LEFT_OUT)


@pytest.mark.parametrize("name", OTEL_VARIABLES)
def test_good_value_is_read(name: str) -> None:
    """Blanks around it do no harm where the SDK strips them."""
    good, expected, _ = sample(name)
    padded = good if OTEL_VARIABLES[name].literal else f" {good} "
    assert expected == otel_env.read(name, {name: padded})
    assert Settings().resolve({name: padded}).is_resolved


@pytest.mark.parametrize(("name", "bad"), [(name, bad) for name in OTEL_VARIABLES for bad in sample(name)[2]])
def test_bad_value_names_variable_value_and_what_is_accepted(name: str, bad: str) -> None:
    """Whatever the SDK would have made of it."""
    parser = OTEL_VARIABLES[name].parser
    with pytest.raises(ConfigurationError) as caught:
        Settings().resolve({name: bad})
    assert f"{name}={parser.show(bad)!r} is not usable; accepted: {parser.accepted}" == str(caught.value)


@pytest.mark.parametrize("name", OTEL_VARIABLES)
def test_empty_is_as_good_as_none_unless_the_sdk_chokes_on_it(name: str) -> None:
    """As the specification wants it."""
    if OTEL_VARIABLES[name].empty_is_bad:
        with pytest.raises(ConfigurationError):
            Settings().resolve({name: ""})
    else:
        assert Settings().resolve({}) == Settings().resolve({name: ""})


@pytest.mark.parametrize(
    ("environ", "blamed", "accepted"),
    [
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"},
            "OTEL_TRACES_SAMPLER_ARG",
            "a number from 0 to 1",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"},
            "OTEL_TRACES_SAMPLER_ARG",
            "a number",
        ),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "64", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "65"},
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            "at most OTEL_BSP_MAX_QUEUE_SIZE (64)",
        ),
        (
            {"OTEL_BLRP_MAX_QUEUE_SIZE": "64", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "65"},
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
            "at most OTEL_BLRP_MAX_QUEUE_SIZE (64)",
        ),
        (
            {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "a:4317"},
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
            "because the protocol is http/protobuf",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "deflate"},
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
            "because the protocol is grpc",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_COMPRESSION": "deflate"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "http/protobuf, because the compression is deflate",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "a:1",
                "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf",
            },
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
            "grpc, because the endpoint a:1 is no URL",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TIMEOUT": ""},
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "or no such variable",
        ),
    ],
)
def test_variables_that_do_not_go_together_are_refused(environ: dict[str, str], blamed: str, accepted: str) -> None:
    """The one that was set is blamed, and the error says why."""
    with pytest.raises(ConfigurationError) as caught:
        Settings().resolve(environ)
    assert blamed == caught.value.field
    assert accepted in caught.value.accepted


def test_protocol_of_the_settings_wins_over_that_of_a_signal() -> None:
    """What the signal's variable asks for is then not held against its other variables."""
    environ = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "deflate"}
    assert Settings(protocol="http/protobuf").resolve(environ).is_resolved
    assert Settings().resolve({**environ, "CRUCIBLE_OTEL_PROTOCOL": "http/protobuf"}).is_resolved


def test_sampler_argument_is_free_where_no_ratio_is_asked_for() -> None:
    """Another sampler may take anything."""
    assert (
        Settings()
        .resolve({"OTEL_TRACES_SAMPLER": "always_on", "OTEL_TRACES_SAMPLER_ARG": "endpoint=http://a"})
        .is_resolved
    )


def test_sdk_is_silent_about_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With every good value set, the SDK's own parts are made without a warning or error."""
    sdk_only = {
        name: sample(name)[0] for name in OTEL_VARIABLES if sample(name)[0] and not name.startswith("OTEL_PYTHON")
    }
    for name, value in sdk_only.items():
        monkeypatch.setenv(name, value)
    for tail in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):  # this file is no certificate
        for signal in ("", *(f"{each}_" for each in otel_env.SIGNALS)):
            monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{signal}{tail}")
    with caplog.at_level(logging.WARNING):
        resource, limits = Resource.create(), SpanLimits()
        spans = BatchSpanProcessor(OTLPSpanExporter())
        logs = BatchLogRecordProcessor(OTLPLogExporter())
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        tracers = TracerProvider(resource=resource, span_limits=limits, shutdown_on_exit=False)
        meters = MeterProvider(resource=resource, metric_readers=(), shutdown_on_exit=False)
        loggers = LoggerProvider(resource=resource, shutdown_on_exit=False)
        grpc = GrpcSpanExporter()
    assert [] == [each.getMessage() for each in caplog.records]
    reader._shutdown_event.set()  # its provider, which would end it, was left out: ending would export
    for each in (spans, logs, tracers, meters, loggers, grpc):
        each.shutdown()


@pytest.mark.parametrize(
    ("environ", "make"),
    [
        ({"OTEL_TRACES_SAMPLER": "always_on "}, TracerProvider),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"}, TracerProvider),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": ""}, MeterProvider),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "Always_Off"}, MeterProvider),
        ({"OTEL_SPAN_LINK_COUNT_LIMIT": "-1"}, SpanLimits),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a"}, Resource.create),
        ({"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "hosts"}, Resource.create),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}, OTLPSpanExporter),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, OTLPSpanExporter),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "Bearer x"}, OTLPSpanExporter),
        ({"OTEL_EXPORTER_OTLP_HEADERS": 'k="x"'}, OTLPSpanExporter),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "k=x;y=z"}, OTLPSpanExporter),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "deltas"}, OTLPMetricExporter),
        ({"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "exponential"}, OTLPMetricExporter),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TIMEOUT": ""}, GrpcSpanExporter),
        ({"OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": "14"}, GrpcSpanExporter),
        ({"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "vault"}, OTLPSpanExporter),
        ({"OTEL_BSP_SCHEDULE_DELAY": "1.5"}, lambda: BatchSpanProcessor(OTLPSpanExporter())),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "64", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "65"},
            lambda: BatchSpanProcessor(OTLPSpanExporter()),
        ),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "0"}, lambda: PeriodicExportingMetricReader(OTLPMetricExporter())),
    ],
)
def test_what_is_refused_is_what_the_sdk_swallows_or_breaks_on(
    environ: dict[str, str], make: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK warns, or raises what does not name all three; we refuse it with the three."""
    assert callable(make)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING):
        try:
            make()
            complained = bool(caplog.records)
        except Exception:  # the SDK has no one kind of error for this
            complained = True
    assert complained
    with pytest.raises(ConfigurationError):
        Settings().resolve(environ)
