"""Marks everything in this folder ``e2e``: it needs a real server on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.prometheus import Prometheus

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests, so that a plain run leaves them to ``make e2e``."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def prometheus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One server for all tests: from its start to its first scrape it takes five seconds."""
    if shutil.which("prometheus") is None:
        pytest.skip("needs a Prometheus server, from Debian's package prometheus")
    server = Prometheus(tmp_path_factory.mktemp("prometheus"))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def prometheus(prometheus_server: Prometheus) -> Iterator[Prometheus]:
    """The server; what it logs during a test is shown when the test fails."""
    before = prometheus_server.log.stat().st_size
    yield prometheus_server
    with prometheus_server.log.open() as log:
        log.seek(before)
        print(log.read())  # noqa: T201
