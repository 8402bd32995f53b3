"""Marks everything in this folder ``e2e``, and runs the real servers that it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e import servers
from tests.e2e.servers import Collector, Config, Jaeger, Prometheus, Server

HERE = Path(__file__).parent


class StartCollector(Protocol):
    """Starts a Collector with a configuration, for the time of a test."""

    def __call__(
        self, *configs: Config, environ: Mapping[str, str] | None = None, args: Sequence[str] = ()
    ) -> Collector: ...


class Validate(Protocol):
    """Has the Collector check a configuration; returns the exit status and what it said."""

    def __call__(self, *configs: Config, environ: Mapping[str, str] | None = None) -> tuple[int, str]: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests, so that a plain run leaves them to ``make e2e``."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.e2e)


@contextmanager
def shown(server: Server) -> Iterator[None]:
    """Print what a server logs in the meantime: pytest shows it when the test fails."""
    before = server.log.stat().st_size
    try:
        yield
    finally:
        with server.log.open("rb") as log:
            log.seek(before)
            print(f"-- {server.log}\n{log.read().decode(errors='replace')}")  # noqa: T201


@pytest.fixture(scope="session")
def jaeger_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """One for all tests."""
    with Jaeger(tmp_path_factory.mktemp("jaeger")) as server:
        yield server


@pytest.fixture(scope="session")
def prometheus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One for all tests: from its start to its first scrape it takes five seconds."""
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as server:
        yield server


@pytest.fixture
def jaeger(jaeger_server: Jaeger) -> Iterator[Jaeger]:
    """A Jaeger that takes traces and finds them."""
    with shown(jaeger_server):
        yield jaeger_server


@pytest.fixture
def prometheus(prometheus_server: Prometheus) -> Iterator[Prometheus]:
    """A Prometheus that scrapes and takes what is pushed."""
    with shown(prometheus_server):
        yield prometheus_server


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[StartCollector]:
    """Starts Collectors."""
    with ExitStack() as running:

        def start(*configs: Config, environ: Mapping[str, str] | None = None, args: Sequence[str] = ()) -> Collector:
            folder = tmp_path / f"collector_{len(list(tmp_path.glob('collector_*')))}"
            server = Collector(configs, folder, environ, args)
            running.enter_context(shown(server))
            return running.enter_context(server)

        yield start


@pytest.fixture
def validate(tmp_path: Path) -> Validate:
    """Checks configurations."""

    def check(*configs: Config, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
        return servers.validate(*configs, folder=tmp_path / "validate", environ=environ)

    return check
