"""The pipeline of our own: a MeterProvider whose readers merge our points into what the SDK collects."""

from __future__ import annotations

# Imported for its fork hook, which must be registered before those of any SDK provider: it releases a lock that
# MeterProvider._handle_fork takes in the child, by detecting resources in a thread pool. The other way round the child
# hangs in os.fork().
import concurrent.futures.thread  # noqa: F401
from collections.abc import Iterable, Sequence

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import LastValueAggregation, View
from opentelemetry.sdk.resources import Resource

from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.fork import in_child
from crucible_otel.export.instruments import DivertedInstruments
from crucible_otel.export.prometheus import PrometheusReader
from crucible_otel.export.readers import OnFault
from crucible_otel.export.scope import ANCHOR_SCOPE, own_scope
from crucible_otel.export.views import forget_parent, metrics_to_divert
from crucible_otel.otel.source import MetricSource
from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.sdk import ANCHOR


class OwnMetrics:
    """A MeterProvider with our readers.

    Args:
        source: Our series.
        specs: All our metrics.
        readers: Our readers, made with the same source.
        resource: The resource of this process.
        views: The user's Views; they apply to our metrics as to any.
        on_fault: Called with a component's name for each fault in it.
        provider_class: The class of the provider, by which it is told from an application's.

    Attributes:
        provider: The MeterProvider; ending it is its owner's business.
        diverted: The metrics that are recorded on SDK instruments, because a View or a reader treats them specially.
        faults: Counts errors while recording those.
    """

    def __init__(
        self,
        source: MetricSource,
        specs: Iterable[Metric],
        readers: Sequence[MetricReader],
        *,
        resource: Resource,
        views: Sequence[View] = (),
        on_fault: OnFault | None = None,
        provider_class: type[MeterProvider] = MeterProvider,
    ) -> None:
        self.faults = FaultCounter("DivertedInstruments", on_fault)
        self.diverted = metrics_to_divert(specs, views, readers)
        self._readers = tuple(readers)
        # All Views that match an instrument apply, each with a stream of its own: one that drops everything leaves
        # the anchor this one. Naming the aggregation makes it win over what a reader prefers for gauges.
        keep = View(instrument_name=ANCHOR, meter_name=ANCHOR_SCOPE.name, aggregation=LastValueAggregation())
        self.provider = provider_class(
            metric_readers=self._readers, resource=resource, shutdown_on_exit=False, views=(keep, *views)
        )
        scope = own_scope()
        instruments = DivertedInstruments(
            self.provider.get_meter(scope.name, scope.version, scope.schema_url), faults=self.faults
        )

        def on_collect(options: CallbackOptions) -> Iterable[Observation]:
            if self.diverted:
                instruments.on_collect(options)
            return (Observation(1),)

        # Created first, hence called first: what is diverted is recorded before anything is collected.
        self.provider.get_meter(ANCHOR_SCOPE.name).create_observable_gauge(ANCHOR, callbacks=[on_collect])
        if self.diverted:
            instruments.bind(source, self.diverted)
        in_child(self._after_fork)
        for reader in self._readers:
            if isinstance(reader, PrometheusReader):
                reader.start()

    def _after_fork(self) -> None:
        forget_parent(self.provider, self._readers)
