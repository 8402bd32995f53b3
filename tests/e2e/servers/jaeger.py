"""A real Jaeger 2, with its traces in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from crucible_otel.testing import ReceivedSpan
from scripts.backends import JAEGER
from tests.e2e.servers.base import Server, free_ports, get, get_json, until
from tests.e2e.servers.otlp_json import records

_KEPT_TRACES: Final = 100_000
_TIMEOUT_S: Final = 30.0


class Jaeger(Server):
    """Takes OTLP and answers questions about traces.

    Args:
        folder: For its configuration and log.

    Attributes:
        otlp_grpc: Where it takes OTLP/gRPC, with ``http://`` as the SDK wants it.
        otlp_http: Where it takes OTLP/HTTP, without the path of a signal.
        url: Its query API.
    """

    def __init__(self, folder: Path) -> None:
        grpc, http, query, query_grpc, health, telemetry = free_ports(6)
        self.otlp_grpc = f"http://127.0.0.1:{grpc}"
        self.otlp_http = f"http://127.0.0.1:{http}"
        self.url = f"http://127.0.0.1:{query}"
        self._health = f"http://127.0.0.1:{health}/status"

        def at(port: int) -> dict[str, str]:
            return {"endpoint": f"127.0.0.1:{port}"}

        configuration = {
            "extensions": {
                "healthcheckv2": {"use_v2": True, "http": at(health)},
                "jaeger_query": {
                    "storage": {"traces": "memory"},
                    "http": at(query),
                    "grpc": at(query_grpc),
                    # Of itself, to port 4317.
                    "enable_tracing": False,
                },
                "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": _KEPT_TRACES}}}},
            },
            "receivers": {"otlp": {"protocols": {"grpc": at(grpc), "http": at(http)}}},
            "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
            "service": {
                "extensions": ["healthcheckv2", "jaeger_storage", "jaeger_query"],
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
                "telemetry": {
                    "metrics": {
                        "readers": [{"pull": {"exporter": {"prometheus": {"host": "127.0.0.1", "port": telemetry}}}}]
                    }
                },
            },
        }
        folder.mkdir(parents=True, exist_ok=True)
        # JSON is YAML too.
        path = folder / "jaeger.yaml"
        path.write_text(json.dumps(configuration, indent=2))
        super().__init__([JAEGER.program("jaeger"), f"--config={path}"], folder)

    def __enter__(self) -> Jaeger:
        super().__enter__()
        return self

    def is_ready(self) -> bool:
        """Whether all its parts are, and the query API answers."""
        return "StatusOK" in get(self._health) and "data" in get_json(f"{self.url}/api/services")

    def trace(self, trace_id: str, *, spans: int = 1, timeout_s: float = _TIMEOUT_S) -> tuple[ReceivedSpan, ...]:
        """Wait for a trace and return its spans, as our own receiver would have had them.

        Args:
            trace_id: 32 hex digits.
            spans: How many spans it must have at least: they may come in several requests.
            timeout_s: When to give up.
        """
        return until(
            lambda: self._spans(trace_id),
            f"Jaeger has {spans} spans of {trace_id}",
            timeout_s,
            lambda found: len(found) >= spans,
        )

    def trace_json(self, trace_id: str) -> dict[str, Any]:
        """Return what the query API says of a trace: an OTLP request as JSON."""
        return dict(get_json(f"{self.url}/api/v3/traces/{trace_id}")["result"])

    def services(self) -> list[str]:
        """Return the names of the services that it has heard of."""
        return sorted(get_json(f"{self.url}/api/services")["data"] or ())

    def search(
        self,
        service: str,
        *,
        operation: str = "",
        tags: Mapping[str, str] | None = None,
        count: int = 1,
        timeout_s: float = _TIMEOUT_S,
    ) -> list[dict[str, Any]]:
        """Wait for traces, as the search page finds them, and return them in Jaeger's own JSON.

        Args:
            service: The ``service.name``.
            operation: The name of a span; empty for any.
            tags: Attributes that one span has, all of them.
            count: How many traces there must be at least.
            timeout_s: When to give up.
        """
        asked = {"service": service, "operation": operation, "tags": json.dumps(tags) if tags else "", "limit": "1500"}
        page = f"{self.url}/api/traces?{urlencode({name: value for name, value in asked.items() if value})}"
        return until(
            lambda: list(get_json(page)["data"] or ()),
            f"Jaeger finds {count} traces of {asked}",
            timeout_s,
            lambda found: len(found) >= count,
        )

    def _spans(self, trace_id: str) -> tuple[ReceivedSpan, ...]:
        # A trace that is not there yet answers 404, which is an OSError.
        return records(self.trace_json(trace_id)).spans
