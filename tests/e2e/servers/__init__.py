"""The real servers of the end-to-end tests, as ``make backends`` built them: a Collector, Jaeger 2, Prometheus 3.

What ``tests/e2e/conftest.py`` offers to a test:

``jaeger``: one for all tests. ``otlp_grpc`` and ``otlp_http`` (where to send), ``trace(trace_id, spans=1)`` (waits, and
    returns spans as ``OtlpReceiver`` has them), ``search(service, tags=...)``, ``services()``, ``url`` (its query API).
``prometheus``: one for all tests. ``take_ports()`` (ports that it scrapes), ``becomes(value, promql)``, ``holds(...)``,
    ``query(promql)``, ``api(page)``, ``otlp_http`` and ``remote_write`` (where to push), ``url``.
``collector``: a factory, ``collector(config, *overlays, environ={...}, args=[...])``; a config is a path or a dict.
    What it returns runs, and is stopped after the test: ``otlp_grpc``, ``otlp_http``, ``page()`` (its Prometheus page),
    ``exported(path)`` (what a file exporter wrote), ``own_metric(name)``, ``config`` (as resolved), ``log_text``,
    ``stop()``, ``kill()``, ``restart()``. It listens at free ports, whatever a file says; ports that the test itself
    spells out, in ``environ`` or a dict, stay.
``validate``: ``validate(config, *overlays, environ={...}) -> (status, output)``, the Collector's own check.

``Jaeger(folder)``, ``Prometheus(folder, configuration)`` and ``Collector([config], folder)`` are context managers too,
for a test that kills one: ``start()``, ``stop()``, ``kill()``, ``restart()`` keep addresses and files.
``promtool(...)`` runs Prometheus's checker. What a server logged during a test is shown when the test fails.
"""

from __future__ import annotations

from tests.e2e.servers.base import Server, free_ports, get, get_json, until
from tests.e2e.servers.collector import Collector, Config, validate
from tests.e2e.servers.exported import Exported
from tests.e2e.servers.jaeger import Jaeger
from tests.e2e.servers.prometheus import SCRAPE_S, Labels, Prometheus, promtool

__all__ = [
    "SCRAPE_S",
    "Collector",
    "Config",
    "Exported",
    "Jaeger",
    "Labels",
    "Prometheus",
    "Server",
    "free_ports",
    "get",
    "get_json",
    "promtool",
    "until",
    "validate",
]
