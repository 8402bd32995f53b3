"""Our Prometheus reader with its endpoint.

Unlike the exporter's reader it keeps only the latest collection (three flushes between two scrapes are not three sets
of series), merges our points, and serves a registry of its own, where nothing of ``prometheus_client`` interferes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import MetricsData
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from crucible_otel.export.exposition import families
from crucible_otel.export.fork import in_child
from crucible_otel.export.halves import all_points
from crucible_otel.export.pace import PATIENCE_S, Pace, free
from crucible_otel.export.readers import OnFault, SnapshotReader
from crucible_otel.export.scrape_server import ScrapeServer
from crucible_otel.otel.source import MetricSource

_NOTHING: Final = MetricsData(resource_metrics=())


class _LatestReader(PrometheusMetricReader):
    """The exporter's reader, with its queue of collections replaced by the latest one."""

    _latest = _NOTHING

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        self._latest = metrics_data


class _Scrapes(Collector):
    def __init__(self, reader: PrometheusReader) -> None:
        self._reader = reader

    def collect(self) -> Iterable[Family]:
        return self._reader.scrape()


class PrometheusReader(SnapshotReader, _LatestReader):
    """Collects when it is scraped.

    Args:
        source: Our series.
        host: Interface to serve on.
        port: Where to begin looking for a free port; 0 for any.
        local_rank: Added to ``port`` unless that is 0.
        on_fault: Called with this reader's name for each fault.

    Attributes:
        registry: A registry with this reader's collections and nothing else.

    Raises:
        ConfigurationError: The host is not of this machine, or the port cannot be used.
    """

    _delivers_empty = True

    def __init__(
        self,
        source: MetricSource,
        *,
        host: str = "localhost",
        port: int = 9464,
        local_rank: int = 0,
        on_fault: OnFault | None = None,
    ) -> None:
        self._prepare(source, on_fault)
        # What the exporter registers is never served: its collector is not the one used here.
        super().__init__(registry=CollectorRegistry())
        self._scrape_lock = threading.Lock()
        self.registry = CollectorRegistry()
        self.registry.register(_Scrapes(self))
        self._server = ScrapeServer(self.registry, host, port, local_rank, faults=self.faults)
        in_child(self._renew_scrape_lock)

    @property
    def url(self) -> str | None:
        """Where Prometheus finds the metrics; None when no port was free, after :meth:`close`, and in children."""
        return self._server.url

    def start(self) -> None:
        """Answer scrapes from now on; comes after the reader was given to a MeterProvider."""
        self._server.start()

    def scrape(self) -> list[Family]:
        """Collect and return the metric families of this moment."""
        with self._scrape_lock:
            self._latest = _NOTHING
            self.collect()
            latest, self._latest = self._latest, _NOTHING
        found, points = families(latest, self.faults), all_points(latest)
        del latest
        free(points, Pace(patience_s=PATIENCE_S))
        return found

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing: data leave when they are scraped."""
        return True

    def close(self) -> None:
        """Stop serving and give the port back."""
        self._server.close()

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Stop serving."""
        self.close()
        super().shutdown(timeout_millis, **kwargs)

    def _renew_scrape_lock(self) -> None:
        self._scrape_lock = threading.Lock()
