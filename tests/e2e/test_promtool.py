"""Prometheus's own linter reads our scrapes."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.resources import Resource

from crucible_otel.export.own import OwnMetrics
from crucible_otel.export.prometheus import PrometheusReader
from crucible_otel.semconv import registry
from tests.e2e.servers import get, promtool
from tests.export.fake_source import FakeSource


def test_every_metric_of_the_conventions_passes_promtool() -> None:
    """One series of each, as served over HTTP; promtool is silent when all is well."""
    source = FakeSource()
    reader = PrometheusReader(source, port=0)
    own = OwnMetrics(source, registry.METRICS.values(), [reader], resource=Resource({}))
    for spec in registry.METRICS.values():
        attributes: dict[str, Any] = dict.fromkeys(spec.attributes, "x")
        source.add(spec, 1, **attributes)
    try:
        assert reader.url is not None
        text = get(reader.url)
    finally:
        own.provider.shutdown()

    checked = promtool("check", "metrics", text=text)

    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)
    assert len(registry.METRICS) + 1 == text.count("# HELP ")
