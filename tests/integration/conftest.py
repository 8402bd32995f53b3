"""What the tests of the whole package share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crucible_otel.testing import OtlpReceiver


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A receiver that is open during the test."""
    with OtlpReceiver() as opened:
        yield opened
