"""The providers of traces and logs: the application's, where it has installed some, else our own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import _logs, trace
from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits, LogRecordProcessor
from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased

from crucible_otel.config.otel_env import read
from crucible_otel.export.delivery import Delivery, LogDelivery, SpanDelivery
from crucible_otel.export.event_records import EventLogger
from crucible_otel.export.fork import in_child
from crucible_otel.export.hot_spans import HotSpans
from crucible_otel.export.ids import RandomIds
from crucible_otel.export.leave import Part
from crucible_otel.export.otlp import build_log_delivery, build_span_delivery
from crucible_otel.export.queues import LogQueue, SpanQueue
from crucible_otel.export.resource import process_attributes
from crucible_otel.export.scope import own_scope
from crucible_otel.export.tally import Ledger

if TYPE_CHECKING:
    from crucible_otel.config.settings import Settings
    from crucible_otel.events.clock import Clock

__all__ = ["Route", "foreign_logger_provider", "foreign_tracer_provider", "log_route", "part_of", "trace_route"]


_COUNTS: Final = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"


@dataclass(frozen=True, kw_only=True)
class Route:
    """The way out of one signal.

    Attributes:
        signal: ``traces``, ``metrics`` or ``logs``.
        provider: Where tracers or loggers come from.
        joined: Whether the provider is the application's; then nothing of ours was added to it.
        part: How it is flushed and left.
        deliveries: Our exporters; none when joined.
        queues: What is between them and the spans.
        events: Takes our events; None when the provider is the application's, or log records go nowhere.
    """

    signal: str
    provider: Any
    joined: bool
    part: Part
    deliveries: tuple[Delivery, ...] = ()
    queues: tuple[SpanQueue, ...] = ()
    events: EventLogger | None = None

    def hot_spans(self, settings: Settings, clock: Clock) -> HotSpans | None:
        """Return what takes the spans of hot events; None when the provider is the application's."""
        if self.joined:
            return None
        provider = self.provider
        provider.hot = HotSpans(clock=clock, provider=provider, queues=self.queues, settings=settings)
        return cast("HotSpans", provider.hot)


class _OwnTracerProvider(TracerProvider):
    ended = False
    hot: HotSpans | None = None

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        super().add_span_processor(span_processor)
        if self.hot is not None:  # somebody else's, who wants to see every span start
            self.hot.give_way()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        if self.hot is not None:
            self.hot.end_segments()
        return super().force_flush(timeout_millis)

    def shutdown(self) -> None:
        self.ended = True
        if self.hot is not None:
            self.hot.end_segments()
        super().shutdown()

    def refresh_process(self) -> None:
        refresh_process(self)


class _OwnLoggerProvider(LoggerProvider):
    ended = False
    events: EventLogger | None = None

    def add_log_record_processor(self, log_record_processor: LogRecordProcessor) -> None:
        super().add_log_record_processor(log_record_processor)
        if self.events is not None:  # somebody else's, who wants to see every event
            self.events.give_way()

    def shutdown(self) -> None:
        self.ended = True
        super().shutdown()

    def refresh_process(self) -> None:
        refresh_process(self)


def refresh_process(provider: Any) -> None:
    """Renew what the SDK, which renews ``service.instance.id`` in a forked child, does not know of."""
    if update := getattr(provider, "_update_resource", None):
        update(Resource(dict(process_attributes())))


def foreign_tracer_provider() -> Any | None:
    """Return the tracer provider that the application has installed, if any."""
    present = trace.get_tracer_provider()
    none = (trace.ProxyTracerProvider, trace.NoOpTracerProvider, _OwnTracerProvider)
    return None if isinstance(present, none) else present


def foreign_logger_provider() -> Any | None:
    """Return the logger provider that the application has installed, if any."""
    present = _logs.get_logger_provider()
    none = (_OwnLoggerProvider, _logs.NoOpLoggerProvider)
    # The proxy that stands for "nothing installed" is not a public name.
    return None if isinstance(present, none) or type(present).__name__ == "ProxyLoggerProvider" else present


def sampler(settings: Settings, environ: Mapping[str, str]) -> Sampler | None:
    """Choose the sampler; None leaves it to the SDK, which reads ``OTEL_TRACES_SAMPLER``."""
    if environ.get("OTEL_TRACES_SAMPLER", "").strip():
        return None
    return ParentBased(ALWAYS_ON if settings.sample_rate >= 1 else TraceIdRatioBased(settings.sample_rate))


def trace_route(
    settings: Settings, resource: Resource, ledger: Ledger, environ: Mapping[str, str] | None = None
) -> Route:
    """Join the application's tracer provider, or build ours and install it.

    Args:
        settings: Exporters, sample rate.
        resource: Of this process; not used when joining.
        ledger: Where deliveries are counted.
        environ: The environment variables; ``os.environ`` if left out.

    Returns:
        The way out of spans.

    Raises:
        ConfigurationError: If no exporter can be made of the settings.
    """
    if (present := foreign_tracer_provider()) is not None:
        return Route(signal="traces", provider=present, joined=True, part=_joined_part("traces", present))
    environ = os.environ if environ is None else environ
    deliveries: list[SpanDelivery] = []
    if settings.span_exporter is not None or "otlp" in settings.traces_exporter:
        deliveries.append(build_span_delivery(settings, ledger, environ))
    if "console" in settings.traces_exporter:
        deliveries.append(SpanDelivery(ConsoleSpanExporter(), tally=ledger.open("traces", "console"), ledger=ledger))
    provider = _OwnTracerProvider(
        sampler=sampler(settings, environ), resource=resource, shutdown_on_exit=False, id_generator=RandomIds()
    )
    in_child(provider.refresh_process)
    queues = tuple(SpanQueue(delivery, ledger, environ, max_bytes=settings.queue_max_bytes) for delivery in deliveries)
    for queue in queues:
        provider.add_span_processor(queue)
    if not isinstance(trace.get_tracer_provider(), _OwnTracerProvider):
        trace.set_tracer_provider(provider)
    elif getattr(trace.get_tracer_provider(), "ended", False):
        replace_ended(trace, "_TRACER_PROVIDER", provider)
    return Route(
        signal="traces",
        provider=provider,
        joined=False,
        part=part_of("traces", provider, deliveries),
        deliveries=tuple(deliveries),
        queues=queues,
    )


def log_route(
    settings: Settings, resource: Resource, ledger: Ledger, environ: Mapping[str, str] | None = None
) -> Route:
    """Join the application's logger provider, or build ours and install it.

    Args:
        settings: Exporters.
        resource: Of this process; not used when joining.
        ledger: Where deliveries are counted.
        environ: The environment variables; ``os.environ`` if left out.

    Returns:
        The way out of log records.

    Raises:
        ConfigurationError: If no exporter can be made of the settings.
    """
    if (present := foreign_logger_provider()) is not None:
        return Route(signal="logs", provider=present, joined=True, part=_joined_part("logs", present))
    deliveries: list[LogDelivery] = []
    if settings.log_exporter is not None or "otlp" in settings.logs_exporter:
        deliveries.append(build_log_delivery(settings, ledger, environ))
    if "console" in settings.logs_exporter:
        deliveries.append(LogDelivery(ConsoleLogRecordExporter(), tally=ledger.open("logs", "console"), ledger=ledger))
    provider = _OwnLoggerProvider(resource=resource, shutdown_on_exit=False)
    in_child(provider.refresh_process)
    queues = [LogQueue(delivery, ledger, environ, max_bytes=settings.queue_max_bytes) for delivery in deliveries]
    for queue in queues:
        provider.add_log_record_processor(queue)
    if queues:
        scope = own_scope()
        logger = provider.get_logger(scope.name, scope.version, scope.schema_url)
        provider.events = EventLogger(logger, queues, LogRecordLimits())
        if read(_COUNTS, os.environ if environ is None else environ):  # the SDK counts what its own loggers emit
            provider.events.give_way()
    if not isinstance(_logs.get_logger_provider(), _OwnLoggerProvider):
        _logs.set_logger_provider(provider)
    elif getattr(_logs.get_logger_provider(), "ended", False):
        replace_ended(_logs._internal, "_LOGGER_PROVIDER", provider)
    return Route(
        signal="logs",
        provider=provider,
        joined=False,
        part=part_of("logs", provider, deliveries),
        deliveries=tuple(deliveries),
        events=provider.events,
    )


def part_of(signal: str, provider: Any, deliveries: list[Any] | tuple[Delivery, ...] = ()) -> Part:
    """Describe how a provider of ours is flushed, shut down and interrupted.

    Args:
        signal: The name of the part.
        provider: Has ``force_flush(timeout_millis)`` and ``shutdown()``.
        deliveries: The exporters behind it; what they count decides whether a flush was a success: one that lost
            nothing; and a shutdown: that nothing was ever lost.

    Returns:
        The part.
    """

    def lost() -> int:
        return sum(delivery.tally.counts.lost for delivery in deliveries)

    def flush(timeout_s: float) -> bool:
        before = lost()
        return provider.force_flush(timeout_millis=int(timeout_s * 1000)) is not False and lost() == before

    def shutdown(timeout_s: float) -> bool:
        provider.shutdown()
        return lost() == 0

    def interrupt() -> None:
        for delivery in deliveries:
            delivery.interrupt()

    return Part(name=signal, flush=flush, shutdown=shutdown, interrupt=interrupt)


def _joined_part(signal: str, provider: Any) -> Part:
    """Flush the application's provider, also when we leave; to shut it down is the application's own business."""

    def flush(timeout_s: float) -> bool:
        force_flush = getattr(provider, "force_flush", None)
        return force_flush is None or force_flush(timeout_millis=int(timeout_s * 1000)) is not False

    return Part(name=signal, flush=flush, shutdown=flush)


def replace_ended(module: Any, name: str, provider: object) -> None:
    """Put a new provider of ours in the place of one of ours that has ended; the API allows only the first to be set.

    Where the API keeps it elsewhere, other instrumentations stay with the ended one; our own spans do not care.
    """
    if hasattr(module, name):
        setattr(module, name, provider)
