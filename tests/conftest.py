"""What every test starts from: an environment that configures nothing."""

from __future__ import annotations

import tests.forks  # noqa: F401  # first, as its hook is to be

# isort: split
import os
import re
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

import crucible_otel.testing
from tests.captured import Capture

# A slow example is a busy machine; no test asserts on time.
hypothesis_settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For where other versions are to be tried rather than other values: `make floor`.
hypothesis_settings.register_profile("few", hypothesis_settings.get_profile("patient"), max_examples=15)
hypothesis_settings.load_profile("patient")

# A shell's background job ignores interrupts, and its children inherit that; the programs under test are to have them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Everything that OpenTelemetry, this package or a launcher of distributed jobs puts into the environment.
CONFIGURES = re.compile(
    r"""OTEL_.* | CRUCIBLE_OTEL_.* | TRACEPARENT | TRACESTATE | BAGGAGE
      | (LOCAL_|GROUP_|NODE_|ROLE_)?RANK | (LOCAL_|GROUP_|ROLE_)?WORLD_SIZE | ROLE_NAME
      | MASTER_(ADDR|PORT) | TORCHELASTIC_.* | SLURM_.* | OMPI_.* | PMI_.* | PMIX_.* | MPI_.* | JOB_COMPLETION_INDEX
    """,
    re.VERBOSE,
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what would configure telemetry, so that a test sees only what it sets itself."""
    for name in list(os.environ):
        if CONFIGURES.fullmatch(name):
            monkeypatch.delenv(name)


@pytest.fixture
def fresh() -> Iterator[None]:
    """A process in which nothing has been configured; undone after the test."""
    with crucible_otel.testing.fresh():
        yield


@pytest.fixture
def capture(fresh: None) -> Iterator[Capture]:
    """Telemetry that ends up in memory; configured by the test, shut down after it."""
    captured = Capture()
    yield captured
    if captured.telemetry is not None:
        captured.telemetry.shutdown(5)


@pytest.fixture
def no_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail the test when OpenTelemetry could not restore a context."""
    yield
    assert [] == [record.message for record in caplog.records if "Failed to detach context" in record.message]
