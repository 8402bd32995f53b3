"""A real Prometheus server, on loopback, for one session of tests."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

SCRAPE_S: Final = 0.25
"""How often each target is scraped."""

_STARTS_S: Final = 60.0
_TARGETS: Final = 24
# Below the range from which the system gives ports away by itself.
_PORTS: Final = range(20_000, 32_000)
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Labels = dict[str, str]


def get(url: str) -> str:
    """Fetch a page of this machine, past any proxy."""
    with _DIRECT.open(url, timeout=30) as response:
        return str(response.read().decode())


class Prometheus:
    """A server that scrapes a fixed set of targets, most of which are not there yet.

    All are known from the start: a target that is made known later is first scraped after five seconds, a target that
    comes to life later at the next scrape.

    Args:
        folder: For its configuration, data and log.

    Attributes:
        url: Its address.
        log: Its log file.
    """

    def __init__(self, folder: Path) -> None:
        executable = shutil.which("prometheus")
        assert executable is not None
        self._first, *_ = self._free = _free_ports(_TARGETS)
        self.log = folder / "prometheus.log"
        configuration = folder / "prometheus.yml"
        targets = ", ".join(f"'127.0.0.1:{port}'" for port in self._free)
        configuration.write_text(
            f"global: {{scrape_interval: {round(SCRAPE_S * 1e3)}ms, scrape_timeout: {round(SCRAPE_S * 1e3)}ms}}\n"
            f"scrape_configs: [{{job_name: training, static_configs: [{{targets: [{targets}]}}]}}]\n"
        )
        port = _free_ports(1)[0]
        self.url = f"http://127.0.0.1:{port}"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    executable,
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
            )

    def wait_until_ready(self) -> None:
        """Wait until it answers and has tried every target once."""
        deadline_s = time.monotonic() + _STARTS_S
        while True:
            assert self._process.poll() is None, f"Prometheus ended at once:\n{self.log.read_text()}"
            try:
                get(f"{self.url}/-/ready")
                if [_TARGETS] == [round(value) for _, value in self.query("count(up)")]:
                    return
            except (OSError, urllib.error.URLError):
                pass
            assert time.monotonic() < deadline_s, f"Prometheus is not ready:\n{self.log.read_text()}"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def take_ports(self, count: int = 1) -> int:
        """Return the first of so many neighbouring ports that it scrapes, for a test of its own."""
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
        deadline_s = time.monotonic() + timeout_s
        while not wanted(found := self.query(expression)):
            assert time.monotonic() < deadline_s, f"{expression} is still {found}"
            time.sleep(SCRAPE_S / 2)
        return found

    def _ask(self, expression: str) -> list[dict[str, Any]]:
        answer = json.loads(get(f"{self.url}/api/v1/query?{urlencode({'query': expression})}"))
        assert "success" == answer["status"]
        return list(answer["data"]["result"])


def _free_ports(count: int) -> list[int]:
    """Return so many neighbouring free ports."""
    while True:
        first = random.SystemRandom().choice(_PORTS)
        ports = list(range(first, first + count))
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return ports
