"""Prometheus's own linter reads our scrapes."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request

from opentelemetry.sdk.resources import Resource

from crucible_otel.export.own import OwnMetrics
from crucible_otel.export.prometheus import PrometheusReader
from crucible_otel.semconv import registry
from tests.export.fake_source import FakeSource

PROMTOOL = shutil.which("promtool")


def test_every_metric_of_the_conventions_passes_promtool() -> None:
    """One series of each, as served over HTTP; promtool is silent when all is well."""
    assert PROMTOOL is not None, "promtool is needed; run: make e2e, which installs it"
    source = FakeSource()
    reader = PrometheusReader(source, port=0)
    own = OwnMetrics(source, registry.METRICS.values(), [reader], resource=Resource({}))
    for spec in registry.METRICS.values():
        source.add(spec, 1, **dict.fromkeys(spec.attributes, "x"))
    try:
        assert reader.url is not None
        with urllib.request.urlopen(reader.url, timeout=20) as response:
            text = response.read()
    finally:
        own.provider.shutdown()

    assert PROMTOOL is not None
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False)

    assert (0, b"", b"") == (checked.returncode, checked.stdout, checked.stderr)
    assert len(registry.METRICS) + 1 == text.count(b"# HELP ")
