"""What every test starts from: an environment that configures nothing."""

from __future__ import annotations

import os
import re

import pytest

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
