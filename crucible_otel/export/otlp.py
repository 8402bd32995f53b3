"""OTLP exporters for three signals and two protocols, from the settings."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from crucible_otel.errors import ConfigurationError
from crucible_otel.export.causes import without_secrets
from crucible_otel.export.delivery import Delivery, LogDelivery, MetricDelivery, SpanDelivery
from crucible_otel.export.observe import observe_calls, observing_session
from crucible_otel.export.probe import what_listens
from crucible_otel.export.tally import Ledger

if TYPE_CHECKING:
    from crucible_otel.config.settings import Settings

__all__ = ["Target", "build_log_delivery", "build_metric_delivery", "build_span_delivery", "target"]

DeliveryT = TypeVar("DeliveryT", bound=Delivery)

_DEFAULT_ENDPOINTS = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
_MODULES = {"http/protobuf": "opentelemetry.exporter.otlp.proto.http", "grpc": "opentelemetry.exporter.otlp.proto.grpc"}
_CLASSES = {
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
}
_OWN_EXPORTERS = {"traces": "span_exporter", "metrics": "metric_exporter", "logs": "log_exporter"}


class Target(NamedTuple):
    """Where a signal goes, and how.

    ``headers`` and ``compression`` are None where the SDK's exporter reads the environment itself.
    """

    signal: str
    protocol: str
    endpoint: str
    headers: dict[str, str] | None
    compression: str | None

    def __repr__(self) -> str:
        return f"Target({self.signal}, {self.protocol}, {without_secrets(self.endpoint)})"


def target(settings: Settings, signal: str, environ: Mapping[str, str] | None = None) -> Target:
    """Decide where a signal goes.

    An argument or a ``CRUCIBLE_OTEL_*`` variable wins over ``OTEL_EXPORTER_OTLP_<SIGNAL>_*``, which wins over the
    general ``OTEL_EXPORTER_OTLP_*``. For HTTP a base endpoint gets ``/v1/<signal>`` appended; the one of a signal's own
    variable is used as it is.

    Args:
        settings: The settings, resolved.
        signal: ``traces``, ``metrics`` or ``logs``.
        environ: The environment variables; ``os.environ`` if left out.

    Returns:
        The target.

    Raises:
        ConfigurationError: The signal's own protocol is not one that there is.
    """
    environ = os.environ if environ is None else environ

    def own(field: str) -> str | None:
        if settings.overrides_otel(field):
            return None
        return environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{field.upper()}", "").strip() or None

    protocol = own("protocol") or settings.protocol
    if protocol not in _MODULES:
        raise ConfigurationError(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", protocol, " or ".join(_MODULES))
    endpoint = own("endpoint")
    if endpoint is None:
        endpoint = settings.endpoint or _DEFAULT_ENDPOINTS[protocol]
        if protocol == "http/protobuf":
            endpoint = f"{endpoint.removesuffix('/')}/v1/{signal}"
    headers = {key.lower(): value for key, value in settings.headers.items()}
    return Target(
        signal,
        protocol,
        endpoint,
        None if own("headers") else headers or None,
        None if own("compression") else settings.compression,
    )


def build_span_delivery(settings: Settings, ledger: Ledger, environ: Mapping[str, str] | None = None) -> SpanDelivery:
    """Wrap the user's span exporter, or an OTLP one.

    Raises:
        ConfigurationError: If no exporter can be made of the settings.
    """
    return _build(SpanDelivery, settings, "traces", ledger, environ)


def build_metric_delivery(
    settings: Settings, ledger: Ledger, environ: Mapping[str, str] | None = None
) -> MetricDelivery:
    """Wrap the user's metric exporter, or an OTLP one.

    Raises:
        ConfigurationError: If no exporter can be made of the settings.
    """
    return _build(MetricDelivery, settings, "metrics", ledger, environ)


def build_log_delivery(settings: Settings, ledger: Ledger, environ: Mapping[str, str] | None = None) -> LogDelivery:
    """Wrap the user's log record exporter, or an OTLP one.

    Raises:
        ConfigurationError: If no exporter can be made of the settings.
    """
    return _build(LogDelivery, settings, "logs", ledger, environ)


def _build(
    kind: type[DeliveryT], settings: Settings, signal: str, ledger: Ledger, environ: Mapping[str, str] | None
) -> DeliveryT:
    users = getattr(settings, _OWN_EXPORTERS[signal])
    if users is not None:
        if not callable(getattr(users, "export", None)):
            raise ConfigurationError(_OWN_EXPORTERS[signal], type(users).__name__, "an exporter with an export method")
        name = type(users).__name__
        return kind(users, tally=ledger.open(signal, f"your {name}", exporter=name), ledger=ledger)
    where = target(settings, signal, environ)
    observed: list[object] = []

    def build() -> Any:
        return _exporter(where, observed)

    tally = ledger.open(signal, without_secrets(where.endpoint))
    return kind(build(), tally=tally, ledger=ledger, rebuild=build, observed=observed)


def _exporter(where: Target, observed: list[object]) -> Any:
    module, name = _CLASSES[where.signal]
    try:
        with _quiet_grpc():
            package = importlib.import_module(_MODULES[where.protocol])
            exporter = getattr(importlib.import_module(f"{package.__name__}.{module}"), name)
    except ImportError as error:
        distribution = _MODULES[where.protocol].removeprefix("opentelemetry.").replace(".", "-")
        accepted = f"another protocol, or run: pip install opentelemetry-{distribution}"
        raise ConfigurationError("protocol", where.protocol, accepted) from error
    probe = partial(what_listens, where.endpoint, where.protocol)
    options: dict[str, Any] = {"endpoint": where.endpoint, "headers": where.headers}
    if where.compression is not None:
        options["compression"] = _compression(where, package)
    if where.protocol == "http/protobuf" and not _credential_provider(where.signal):
        options["session"] = observing_session(observed, probe)
    made = exporter(**options)
    if where.protocol == "grpc":
        observe_calls(made, observed, probe)
    return made


@contextmanager
def _quiet_grpc() -> Iterator[None]:
    """Keep gRPC's own log off the terminal: a line for each failed handshake; it looks at the variable only once."""
    if {"GRPC_VERBOSITY", "GRPC_TRACE"} & set(os.environ) or "grpc" in sys.modules:
        yield
        return
    os.environ["GRPC_VERBOSITY"] = "NONE"
    try:
        yield
    finally:
        del os.environ["GRPC_VERBOSITY"]


def _compression(where: Target, package: Any) -> Any:
    if where.protocol == "grpc":
        import grpc

        known = {name.lower(): getattr(grpc.Compression, name) for name in ("Gzip", "Deflate")}
        return {**known, "none": grpc.Compression.NoCompression}[str(where.compression)]
    return package.Compression(where.compression)


def _credential_provider(signal: str) -> bool:
    """Whether the SDK is told to make the session itself; giving it ours would drop the credentials."""
    variables = (f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{part}CREDENTIAL_PROVIDER" for part in ("", f"{signal.upper()}_"))
    return any(os.environ.get(variable) for variable in variables)
