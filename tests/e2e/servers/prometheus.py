"""A real Prometheus 3, on loopback, that scrapes what the tests serve and takes what they push."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from scripts.backends import PROMETHEUS
from tests.e2e.servers.base import Server, free_ports, get, get_json, until

SCRAPE_S: Final = 0.25
"""How often each target is scraped."""

_TARGETS: Final = 96

Labels = dict[str, str]


class Prometheus(Server):
    """A server that scrapes a fixed set of targets, most of which are not there yet.

    All are known from the start: a target that is made known later is first scraped after five seconds, a target that
    comes to life later at the next scrape.

    Args:
        folder: For its configuration, data and log.
        configuration: What its configuration has besides the scraping, ``rule_files`` for one.

    Attributes:
        url: Its address.
        otlp_http: Where it takes OTLP/HTTP metrics, without the path of the signal.
        remote_write: Where it takes its own protocol.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any] | None = None) -> None:
        port, *self._free = free_ports(_TARGETS + 1)
        self.url = f"http://127.0.0.1:{port}"
        self.otlp_http = f"{self.url}/api/v1/otlp"
        self.remote_write = f"{self.url}/api/v1/write"
        interval = f"{round(SCRAPE_S * 1e3)}ms"
        targets = [f"127.0.0.1:{target}" for target in self._free]
        whole = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "scrape_configs": [{"job_name": "training", "static_configs": [{"targets": targets}]}],
            # What is pushed may be older than what came last from elsewhere.
            "storage": {"tsdb": {"out_of_order_time_window": "10m"}},
            **(configuration or {}),
        }
        folder.mkdir(parents=True, exist_ok=True)
        # JSON is YAML too.
        path = folder / "prometheus.yml"
        path.write_text(json.dumps(whole, indent=2))
        super().__init__(
            [
                PROMETHEUS.program("prometheus"),
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-otlp-receiver",
                "--web.enable-remote-write-receiver",
                "--enable-feature=exemplar-storage",
            ],
            folder,
        )

    def __enter__(self) -> Prometheus:
        super().__enter__()
        return self

    def is_ready(self) -> bool:
        """Whether it answers and has tried every target once."""
        get(f"{self.url}/-/ready")
        return [_TARGETS] == [round(value) for _, value in self.query("count(up)")]

    def take_ports(self, count: int = 1) -> int:
        """Return the first of so many neighbouring ports that it scrapes, for a test of its own."""
        assert len(self._free) >= count, f"all {_TARGETS} targets are given away; raise _TARGETS"
        first, self._free = self._free[0], self._free[count:]
        return first

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """Evaluate PromQL now."""
        return [(series["metric"], float(series["value"][1])) for series in self._ask(expression)]

    def samples(self, selector: str) -> dict[str, list[tuple[float, float]]]:
        """Return what was scraped in the last minutes: series -> (time, value)."""
        return {
            json.dumps(series["metric"], sort_keys=True): [(at, float(value)) for at, value in series["values"]]
            for series in self._ask(f"{selector}[10m]")
        }

    def becomes(self, expected: float, expression: str, timeout_s: float = 20.0) -> None:
        """Wait until PromQL that gives one value gives this one."""
        self.holds(lambda found: [expected] == [value for _, value in found], expression, timeout_s)

    def holds(
        self, wanted: Callable[[list[tuple[Labels, float]]], object], expression: str, timeout_s: float = 20.0
    ) -> list[tuple[Labels, float]]:
        """Wait until what PromQL gives is as wanted, and return it."""
        return until(lambda: self.query(expression), expression, timeout_s, wanted)

    def api(self, path: str, **parameters: str) -> Any:
        """Return the data that a page of its API answers with, ``alerts`` or ``rules`` for instance."""
        answer = get_json(f"{self.url}/api/v1/{path}?{urlencode(parameters)}")
        assert "success" == answer["status"]
        return answer["data"]

    def _ask(self, expression: str) -> list[dict[str, Any]]:
        return list(self.api("query", query=expression)["result"])


def promtool(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run Prometheus's own checker on a text or on files."""
    return subprocess.run(
        [PROMETHEUS.program("promtool"), *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
