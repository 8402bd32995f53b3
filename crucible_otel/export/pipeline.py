"""The whole way out of the process: three signals, the Prometheus endpoint, and leaving."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource

from crucible_otel.config.settings import Settings
from crucible_otel.errors import ConfigurationError
from crucible_otel.export.binding import has_ended
from crucible_otel.export.declarative import configure_from_file
from crucible_otel.export.delivery import MetricDelivery
from crucible_otel.export.fork import in_child
from crucible_otel.export.hooks import ExitHooks
from crucible_otel.export.joined import JoinedMetrics, foreign_meter_provider, join
from crucible_otel.export.leave import Departure, Part
from crucible_otel.export.otlp import build_metric_delivery
from crucible_otel.export.own import OwnMetrics
from crucible_otel.export.pace import pacing
from crucible_otel.export.prometheus import PrometheusReader
from crucible_otel.export.providers import Route, log_route, part_of, refresh_process, replace_ended, trace_route
from crucible_otel.export.quiet import Quiet
from crucible_otel.export.readers import OtlpMetricReader
from crucible_otel.export.resource import build_resource, local_rank
from crucible_otel.export.scope import own_scope
from crucible_otel.export.self_metrics import SelfMetrics
from crucible_otel.export.tally import Ledger
from crucible_otel.otel.source import MetricSource
from crucible_otel.semconv.model import Metric

logger = logging.getLogger("crucible_otel")


class Pipeline:
    """The way out of the process.

    Args:
        settings: Resolved settings.
        environ: The environment variables.
        source: Our series.
        specs: All our metrics.
        on_fault: Called with a component's name for each fault in it.
        on_lost: Called with signal, reason and number for items that are lost.
        before_leaving: Called with the reason before the signals are shut down.
        flush_handlers: ``flush_handlers(timeout_s)``; handlers leave in parallel with the signals.

    Raises:
        ConfigurationError: A setting that cannot be used; nothing of it stays behind.
        MissingExtraError: ``OTEL_CONFIG_FILE`` is set and the SDK's declarative configuration is not installed.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        source: MetricSource,
        specs: Iterable[Metric],
        *,
        on_fault: Callable[[str], object],
        on_lost: Callable[[str, str, int], object],
        before_leaving: Callable[[str], object],
        flush_handlers: Callable[[float], object],
    ) -> None:
        configure_from_file(environ)
        self.settings, self.ledger = settings, Ledger(on_lost=on_lost)
        self._reason = ""
        self.resource: Resource = build_resource(settings, environ)
        self._source, self._specs, self._on_fault, self._on_lost = source, tuple(specs), on_fault, on_lost
        self.prometheus: PrometheusReader | None = None
        self.joined_metrics: JoinedMetrics | None = None
        self._quiet = Quiet()
        self._quiet.install()
        self.meter_provider: Any = None
        self._metric_deliveries: list[MetricDelivery] = []
        metrics_part = self._metrics(settings, environ)
        try:
            self.traces: Route = trace_route(settings, self.resource, self.ledger, environ)
            self.logs: Route = log_route(settings, self.resource, self.ledger, environ)
        except ConfigurationError:
            metrics_part.shutdown(0.5)
            self._quiet.remove()
            raise
        deliveries = (*self.traces.deliveries, *self._metric_deliveries, *self.logs.deliveries)
        self._self_metrics = SelfMetrics(self.meter(), self.ledger, deliveries)
        self._before_leaving = before_leaving
        handlers = Part(name="handlers", flush=flush_handlers, shutdown=flush_handlers)
        self._departure = Departure(
            (self._bounded(self.traces), metrics_part, self._bounded(self.logs), handlers),
            exit_timeout_s=settings.exit_timeout_s,
            before_flush=lambda: self._source.settle(pacing()),
            before_leaving=self._leaving,
            last_word=self._last_word,
        )
        self._hooks = ExitHooks(self._departure, handle_sigterm=settings.handle_sigterm)
        self._hooks.install()

    # -- metrics -----------------------------------------------------------------------------------------------------

    def _metrics(self, settings: Settings, environ: Mapping[str, str]) -> Part:
        if (application := foreign_meter_provider(_OwnMeterProvider)) is not None:
            self.meter_provider = application
            self.joined_metrics = join(
                application, self._source, self._specs, on_fault=self._on_fault, on_lost=self._on_lost
            )
            return self._joined_part(application, self.joined_metrics)
        present = metrics.get_meter_provider()
        readers: list[MetricReader] = []
        deliveries = self._metric_deliveries
        try:
            if settings.metric_exporter is not None or "otlp" in settings.metrics_exporter:
                deliveries.append(build_metric_delivery(settings, self.ledger, environ))
            if "console" in settings.metrics_exporter:
                tally = self.ledger.open("metrics", "console")
                deliveries.append(MetricDelivery(ConsoleMetricExporter(), tally=tally, ledger=self.ledger))
            readers.extend(
                OtlpMetricReader(self._source, delivery, interval_s=settings.export_interval_s, on_fault=self._on_fault)
                for delivery in deliveries
            )
            if "prometheus" in settings.metrics_exporter:
                self.prometheus = PrometheusReader(
                    self._source,
                    host=settings.prometheus_host,
                    port=settings.prometheus_port,
                    local_rank=local_rank(environ),
                    on_fault=self._on_fault,
                )
                readers.append(self.prometheus)
        except ConfigurationError:
            self._quiet.remove()
            raise
        own = OwnMetrics(
            self._source,
            self._specs,
            readers,
            resource=self.resource,
            views=cast(Sequence[View], settings.views),
            on_fault=self._on_fault,
            provider_class=_OwnMeterProvider,
        )
        self.meter_provider = own.provider
        in_child(cast(_OwnMeterProvider, own.provider).refresh_process)
        if not isinstance(present, _OwnMeterProvider):
            metrics.set_meter_provider(own.provider)
        elif present.ended:
            replace_ended(metrics._internal, "_METER_PROVIDER", own.provider)
        return part_of("metrics", own.provider, deliveries)

    def _joined_part(self, provider: Any, route: JoinedMetrics) -> Part:
        def shutdown(timeout_s: float) -> bool:
            flushed = route.deliver(timeout_s)
            try:
                if self._process_ends and hasattr(provider, "shutdown") and not has_ended(provider):
                    provider.shutdown(timeout_millis=timeout_s * 1000)
            finally:
                route.close(self._source)
            return flushed

        return Part(name="metrics", flush=route.deliver, shutdown=shutdown)

    # -- leaving -----------------------------------------------------------------------------------------------------

    def _leaving(self, reason: str) -> None:
        self._reason = reason
        self.ledger.leaving()
        self._before_leaving(reason)

    @property
    def _process_ends(self) -> bool:
        return self._reason in ("exit", "sigterm")

    def _bounded(self, route: Route) -> Part:
        """Return how a signal leaves. An application's provider is shut down only when the process ends.

        Its own exit hook would do it then, one signal after the other and without a bound.
        """
        if not route.joined:
            return route.part

        def shutdown(timeout_s: float) -> object:
            flushed = route.part.shutdown(timeout_s)
            if self._process_ends and hasattr(route.provider, "shutdown"):
                route.provider.shutdown()
            return flushed

        return replace(route.part, shutdown=shutdown)

    # -- instruments of the room above -------------------------------------------------------------------------------

    def tracer(self) -> Any:
        """Return our tracer."""
        scope = own_scope()
        return self.traces.provider.get_tracer(scope.name, scope.version, scope.schema_url)

    def meter(self) -> Any:
        """Return our meter."""
        scope = own_scope()
        return self.meter_provider.get_meter(scope.name, scope.version, scope.schema_url)

    def log(self) -> Any:
        """Return our logger of events; None when log records go nowhere."""
        if not self.logs.joined:
            return self.logs.events
        scope = own_scope()
        return self.logs.provider.get_logger(scope.name, scope.version, scope.schema_url)

    # -- life --------------------------------------------------------------------------------------------------------

    def flush(self, timeout_s: float) -> bool:
        """Deliver what there is, within the time."""
        return self._departure.flush(timeout_s)

    def shutdown(self, timeout_s: float | None = None) -> bool:
        """Deliver what there is and end, within the time."""
        delivered = self._departure.shutdown(timeout_s)
        self._hooks.remove()
        self._quiet.remove()
        self._self_metrics.close()
        return delivered

    @property
    def ended(self) -> bool:
        """Whether it was shut down."""
        return self._departure.closed

    def status(self) -> dict[str, Any]:
        """Return what was accepted, delivered and lost, by signal and endpoint."""
        return {
            "signals": [
                {"signal": tally.signal, "endpoint": tally.endpoint, **tally.counts._asdict()}
                for tally in self.ledger.tallies
            ],
            "prometheus": self.prometheus.url if self.prometheus is not None else None,
            "joined": [
                name
                for name, joined in (
                    ("traces", self.traces.joined),
                    ("metrics", self.joined_metrics is not None),
                    ("logs", self.logs.joined),
                )
                if joined
            ],
            "joined_metrics": self.joined_metrics.route if self.joined_metrics is not None else None,
            "pid": os.getpid(),
        }

    def _last_word(self) -> None:
        self.ledger.give_up()
        word = self.ledger.last_word()
        if word is not None:
            logger.warning("%s", word)


class _OwnMeterProvider(MeterProvider):
    """Ours, so that a later configure() knows it from an application's."""

    ended = False

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        self.ended = True
        super().shutdown(timeout_millis)

    def refresh_process(self) -> None:
        refresh_process(self)
