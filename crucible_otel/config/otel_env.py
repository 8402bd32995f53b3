"""The ``OTEL_*`` variables that are honoured, and what each accepts.

The table follows how SDK 1.45 reads them: ``literal`` and ``empty_is_bad`` say where it is stricter than others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crucible_otel.config.parse import (
    Parser,
    choice,
    integer,
    milliseconds,
    names,
    number,
    read_variable,
    text,
    true_or_false,
)
from crucible_otel.config.parse_network import headers, mapping, url
from crucible_otel.config.parse_objects import file, installed, installed_list

__all__ = ["OTEL_VARIABLES", "SIGNALS", "OtelVariable", "read"]

SIGNALS: Final = ("TRACES", "METRICS", "LOGS")


@dataclass(frozen=True, kw_only=True)
class OtelVariable:
    """One ``OTEL_*`` variable.

    Attributes:
        name: The variable.
        parser: How it is read, and what it accepts.
        default: What holds when it is not set, in words.
        doc: One sentence.
        literal: Whether the SDK takes blanks around the value as part of it.
        empty_is_bad: Whether the SDK chokes on an empty value instead of taking it as not set.
        even_if_overridden: Whether the SDK reads it although a setting of ours overrides it.
        listed_as: The line of the reference that it shares with its siblings.
    """

    name: str
    parser: Parser[Any]
    default: str
    doc: str
    literal: bool = False
    empty_is_bad: bool = False
    even_if_overridden: bool = False
    listed_as: str = ""


_TIMEOUT_S: Final = number(0, 1_000_000, "a number of seconds", above=True)
_LIMIT: Final = integer(0, 2**31 - 1)
_BATCH: Final = integer(1, 10_000_000)
_DELAY: Final = integer(1, 1_000_000_000, "a whole number of milliseconds")
_GRPC_CODES: Final = (
    *("ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists"),
    *("permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented"),
    *("internal", "unavailable", "data_loss", "unauthenticated"),
)


def _otlp(signal: str) -> Iterator[OtelVariable]:
    """Yield the OTLP exporter's variables of one signal, or with ``""`` those for all signals."""
    prefix = f"OTEL_EXPORTER_OTLP_{signal}_" if signal else "OTEL_EXPORTER_OTLP_"
    default, whose = ("that for all signals", "Of this signal alone: ") if signal else ("", "")
    rows = (
        (
            "ENDPOINT",
            url(),
            "http://localhost:4318, with grpc :4317",
            "where to send (with http the general one gets the path of the signal appended)",
        ),
        ("PROTOCOL", choice("http/protobuf", "grpc"), "http/protobuf", "the transport"),
        ("HEADERS", headers(), "none", "headers or gRPC metadata; secret"),
        ("COMPRESSION", choice("none", "gzip", "deflate"), "none", "the compression; grpc has no deflate"),
        ("TIMEOUT", _TIMEOUT_S, "10", "how long one export may take, in seconds as the Python SDK reads it"),
        ("INSECURE", true_or_false(), "by the endpoint's scheme", "with grpc: no TLS"),
        ("CERTIFICATE", file(), "the system's", "the certificates to trust, PEM"),
        ("CLIENT_KEY", file(), "none", "the client's private key, PEM"),
        ("CLIENT_CERTIFICATE", file(), "none", "the client's certificate, PEM"),
    )
    for tail, parser, general_default, doc in rows:
        yield OtelVariable(
            name=prefix + tail,
            parser=parser,
            default=default or general_default,
            doc=f"{whose}{doc}." if whose else f"{doc[0].upper()}{doc[1:]}.",
            even_if_overridden=tail == "HEADERS",
            listed_as=f"OTEL_EXPORTER_OTLP_<SIGNAL>_{tail}" if signal else "",
        )


def _batching(processor: str, delay_ms: int, what: str) -> Iterator[OtelVariable]:
    rows = (
        ("SCHEDULE_DELAY", _DELAY, delay_ms, f"Pause between two exports of {what}."),
        ("MAX_QUEUE_SIZE", _BATCH, "no number, see `queue_max_bytes`", f"How many {what} may wait."),
        (
            "MAX_EXPORT_BATCH_SIZE",
            _BATCH,
            "no number, 3 MiB in memory",
            f"How many {what} one export carries; at most the queue size.",
        ),
        ("EXPORT_TIMEOUT", _LIMIT, 30000, "Not used."),
    )
    for tail, parser, default, doc in rows:
        yield OtelVariable(name=f"OTEL_{processor}_{tail}", parser=parser, default=str(default), doc=doc)


def _limits() -> Iterator[OtelVariable]:
    rows = (
        ("ATTRIBUTE_COUNT", "128", "Attributes a span, event, link or log record keeps."),
        ("ATTRIBUTE_VALUE_LENGTH", "unlimited", "Characters an attribute value keeps."),
        ("SPAN_ATTRIBUTE_COUNT", "128", "Attributes a span keeps."),
        ("SPAN_ATTRIBUTE_VALUE_LENGTH", "unlimited", "Characters an attribute value of a span keeps."),
        ("SPAN_EVENT_COUNT", "128", "Events a span keeps."),
        ("SPAN_LINK_COUNT", "128", "Links a span keeps."),
        ("EVENT_ATTRIBUTE_COUNT", "128", "Attributes a span event keeps."),
        ("LINK_ATTRIBUTE_COUNT", "128", "Attributes a link keeps."),
        ("LOGRECORD_ATTRIBUTE_COUNT", "128", "Attributes a log record keeps."),
        ("LOGRECORD_ATTRIBUTE_VALUE_LENGTH", "unlimited", "Characters an attribute value of a log record keeps."),
    )
    for middle, default, doc in rows:
        yield OtelVariable(name=f"OTEL_{middle}_LIMIT", parser=_LIMIT, default=default, doc=doc)


def _plugins() -> Iterator[OtelVariable]:
    rows = (
        (
            "OTEL_PYTHON_CONTEXT",
            "opentelemetry_context",
            "context implementation",
            ("contextvars_context",),
            "contextvars_context",
        ),
        ("OTEL_PYTHON_TRACER_PROVIDER", "opentelemetry_tracer_provider", "tracer provider", (), "ours"),
        ("OTEL_PYTHON_METER_PROVIDER", "opentelemetry_meter_provider", "meter provider", (), "ours"),
        ("OTEL_PYTHON_LOGGER_PROVIDER", "opentelemetry_logger_provider", "logger provider", (), "ours"),
    )
    for name, group, what, known, default in rows:
        yield OtelVariable(
            name=name,
            parser=installed(group, what, *known),
            default=default,
            doc=f"The {what} that the OpenTelemetry API loads by itself.",
            literal=True,
            empty_is_bad=name.endswith("_PROVIDER"),
        )
    credentials = installed("opentelemetry_otlp_credential_provider", "credential provider")
    for transport in ("HTTP", "GRPC"):
        for signal in ("", *SIGNALS):
            prefix = f"OTEL_PYTHON_EXPORTER_OTLP_{transport}"
            yield OtelVariable(
                name=f"{prefix}_{signal}_CREDENTIAL_PROVIDER" if signal else f"{prefix}_CREDENTIAL_PROVIDER",
                parser=credentials,
                default="that for all signals" if signal else "none",
                doc="Supplies the session (http) or channel credentials (grpc).",
                listed_as=f"{prefix}_<SIGNAL>_CREDENTIAL_PROVIDER" if signal else "",
            )


def _exporters() -> Iterator[OtelVariable]:
    rows = (("TRACES", "otlp", ()), ("METRICS", "otlp,prometheus", ("prometheus",)), ("LOGS", "otlp", ()))
    for signal, default, more in rows:
        parser = names("otlp", *more, "console", "none", alone="none")
        doc = f"Where {signal.lower()} go. Inside pytest: none, unless an endpoint or exporter is given."
        yield OtelVariable(name=f"OTEL_{signal}_EXPORTER", parser=parser, default=default, doc=doc)


_VARIABLES: Final = (
    OtelVariable(
        name="OTEL_SDK_DISABLED", parser=true_or_false(inverted=True), default="false", doc="Switches everything off."
    ),
    OtelVariable(
        name="OTEL_CONFIG_FILE",
        parser=file(),
        default="none",
        doc="Declarative configuration, which the SDK then follows.",
    ),
    OtelVariable(name="OTEL_SERVICE_NAME", parser=text(), default="unknown_service:python", doc="Name of the service."),
    OtelVariable(
        name="OTEL_RESOURCE_ATTRIBUTES", parser=mapping(), default="none", doc="More attributes of the resource."
    ),
    OtelVariable(
        name="OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
        parser=installed_list("opentelemetry_resource_detector", "resource detector", "*", "otel", "service_instance"),
        default="service_instance,otel",
        doc="Detectors that add resource attributes.",
    ),
    OtelVariable(
        name="OTEL_PROPAGATORS",
        parser=installed_list("opentelemetry_propagator", "propagator", "tracecontext", "baggage", "none"),
        default="tracecontext,baggage",
        doc="How context travels to other processes.",
    ),
    *_exporters(),
    *_otlp(""),
    *(each for signal in SIGNALS for each in _otlp(signal)),
    OtelVariable(
        name="OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES",
        parser=names(*_GRPC_CODES),
        default="the SDK's",
        doc="gRPC status codes after which an export is tried again.",
    ),
    OtelVariable(
        name="OTEL_EXPORTER_PROMETHEUS_HOST",
        parser=text("a host name or IP address", r"[^\s/]+"),
        default="localhost",
        doc="Address of the Prometheus endpoint.",
    ),
    OtelVariable(
        name="OTEL_EXPORTER_PROMETHEUS_PORT",
        parser=integer(0, 65535),
        default="9464",
        doc="Port of the Prometheus endpoint.",
    ),
    OtelVariable(
        name="OTEL_TRACES_SAMPLER",
        parser=installed(
            "opentelemetry_traces_sampler",
            "sampler",
            *("always_on", "always_off", "traceidratio"),
            *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
            fold=True,
        ),
        default="parentbased_always_on",
        doc="Which traces are kept; wins over `sample_rate`.",
        literal=True,
    ),
    OtelVariable(
        name="OTEL_TRACES_SAMPLER_ARG",
        parser=text("a number from 0 to 1 (with the traceidratio samplers)"),
        default="1.0",
        doc="The sampler's argument.",
    ),
    *_batching("BSP", 5000, "spans"),
    *_batching("BLRP", 5000, "log records"),
    *_limits(),
    OtelVariable(
        name="OTEL_METRIC_EXPORT_INTERVAL",
        parser=milliseconds(1, 1_000_000_000),
        default="60000",
        doc="Pause between two exports of metrics.",
    ),
    OtelVariable(
        name="OTEL_METRIC_EXPORT_TIMEOUT",
        parser=milliseconds(1, 1_000_000_000),
        default="30000",
        doc="How long one collection may take.",
    ),
    OtelVariable(
        name="OTEL_METRICS_EXEMPLAR_FILTER",
        parser=choice("trace_based", "always_on", "always_off", exact=True),
        default="trace_based",
        doc="Which measurements may become exemplars.",
        literal=True,
        empty_is_bad=True,
    ),
    OtelVariable(
        name="OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        parser=choice("cumulative", "delta", "lowmemory"),
        default="cumulative",
        doc="Whether OTLP metrics count from the start or since the last export.",
    ),
    OtelVariable(
        name="OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        parser=choice("explicit_bucket_histogram", "base2_exponential_bucket_histogram", exact=True),
        default="explicit_bucket_histogram",
        doc="Kind of the OTLP histograms.",
        literal=True,
    ),
    OtelVariable(
        name="OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED",
        parser=true_or_false(),
        default="false",
        doc="The SDK's metrics about itself.",
    ),
    *_plugins(),
)

OTEL_VARIABLES: Final[Mapping[str, OtelVariable]] = {each.name: each for each in _VARIABLES}
"""Every variable that is honoured, by name, in the order of the reference."""


def read(name: str, environ: Mapping[str, str]) -> Any:
    """Return the value of one variable, or None when it is not set.

    Raises:
        ConfigurationError: It cannot be used.
        KeyError: It is not one of :data:`OTEL_VARIABLES`.
    """
    variable = OTEL_VARIABLES[name]
    given = environ.get(name)
    if given is None or (not given.strip() and not variable.empty_is_bad):
        return None
    return read_variable(name, given if variable.literal else given.strip(), variable.parser)
