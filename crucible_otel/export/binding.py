"""Our place between an application's MeterProvider and its readers.

The SDK gives each reader a callback to collect with, and documents neither that callback nor how to replace it: this
is the only module that does. Our callback calls the SDK's and returns what the reader is to get, so it is asked also
when the SDK itself has nothing. Everything is looked at before it is touched; a provider that looks different is left
alone. ``tests/export/test_binding.py`` fails on an SDK of which that is true.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from opentelemetry.metrics import MeterProvider as AnyMeterProvider
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader, MetricsData, ResourceMetrics
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource

from crucible_otel.export.scope import own_scope

__all__ = ["Around", "Binding", "bind", "has_ended"]

_logger = logging.getLogger(__name__)

Around = Callable[[MetricReader, Callable[[], "MetricsData | None"]], "MetricsData | None"]
"""``around(reader, collect)`` returns what the reader gets; ``collect()`` is what the SDK would have given it."""


class Binding:
    """All readers of one provider, those that it gets later included; :func:`bind` makes it.

    Attributes:
        views: The provider's Views.
        exemplars: Whether the provider takes any exemplars.
    """

    def __init__(self, provider: MeterProvider, around: Around) -> None:
        inside: Any = provider
        self._consumer: Any = inside._measurement_consumer
        self._config: Any = inside._sdk_config
        self._lock: Any = inside._all_metric_readers_lock
        self._registered = inside._metric_readers
        self._around = around
        self._collect = self._consumer.collect
        self.views: Sequence[View] = tuple(self._config.views)
        self.exemplars = not isinstance(self._config.exemplar_filter, AlwaysOffExemplarFilter)
        if not self._is_known(inside):
            raise LookupError("somebody else stands between this provider and its readers")

    @property
    def readers(self) -> tuple[MetricReader, ...]:
        """The readers that the provider has now."""
        return tuple(self._consumer._reader_storages)

    @property
    def late_readers(self) -> tuple[MetricReader, ...]:
        """Those that were added later, which the provider's ``force_flush`` does not reach."""
        return tuple(reader for reader in self.readers if reader not in self._registered)

    def nothing(self) -> MetricsData:
        """Return a collection of the provider's resource without any metrics."""
        resource: Resource = self._config.resource
        return MetricsData([ResourceMetrics(resource, [], resource.schema_url)])

    def install(self) -> None:
        """Stand between them from now on."""
        with self._lock:  # a reader that is being added at this moment has either of the two callbacks
            self._consumer.collect = self._on_collect
            for reader in self.readers:
                reader._set_collect_callback(self._on_collect)

    def remove(self) -> None:
        """Give the SDK's callback back to those who still have ours; without a lock, which a hung reader may hold."""
        if vars(self._consumer).get("collect") == self._on_collect:
            del self._consumer.collect
        for reader in self.readers:
            if reader._collect == self._on_collect:
                reader._set_collect_callback(self._collect)

    def _on_collect(self, metric_reader: MetricReader, *args: Any, **kwargs: Any) -> Any:
        return self._around(metric_reader, lambda: self._collect(metric_reader, *args, **kwargs))

    def _is_known(self, provider: Any) -> bool:
        scope = own_scope()
        meter: Any = provider.get_meter(scope.name, scope.version, scope.schema_url)
        return (
            isinstance(self._config.resource, Resource)
            and "collect" not in vars(self._consumer)
            and all(reader._collect == self._collect for reader in self.readers)
            # A provider that was disabled or shut down, or a meter that its configurator disabled, delivers nothing.
            and meter._is_enabled()
        )


def bind(provider: AnyMeterProvider, around: Around) -> Binding | None:
    """Prepare to stand between a provider and its readers.

    Args:
        provider: The application's.
        around: Called for each collection of each reader, on the thread that collects and without a lock of the SDK.

    Returns:
        What is to be installed; None when the provider is not the SDK's, or looks different from what is known.
    """
    if not isinstance(provider, MeterProvider):
        return None
    try:
        return Binding(provider, around) if _works() else None
    except Exception as error:
        _logger.info("the readers of the application's MeterProvider cannot be reached: %s", error)
        return None


def has_ended(provider: object) -> bool:
    """Tell whether a provider was shut down: flushing it would make its exporters complain."""
    return getattr(provider, "_shutdown", False) is True


@cache
def _works() -> bool:
    """Try it on a provider of our own: readers it was made with and later ones, and back again."""
    sent = MetricsData([])
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    provider = MeterProvider(readers[:1], resource=Resource.get_empty(), shutdown_on_exit=False)
    binding = Binding(provider, lambda reader, collect: sent if collect() is None else None)
    binding.install()
    provider.add_metric_reader(readers[1])
    bound = [reader.get_metrics_data() is sent for reader in readers]
    binding.remove()
    return all(bound) and [reader.get_metrics_data() for reader in readers] == [None, None]
