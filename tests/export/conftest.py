"""What the tests of the way out share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.export.ways import CALLBACK, OWN, READERS, WAYS, Way


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """Each of the ways of our metrics out of the process."""
    found = request.param
    assert isinstance(found, Way)
    return found


@pytest.fixture(params=[OWN, READERS], ids=str)
def merging(request: pytest.FixtureRequest) -> Way:
    """The ways by which points are ours."""
    found = request.param
    assert isinstance(found, Way)
    return found


@pytest.fixture(params=[READERS, CALLBACK], ids=str)
def joining(request: pytest.FixtureRequest) -> Way:
    """The ways into an application's provider."""
    found = request.param
    assert isinstance(found, Way)
    return found


@pytest.fixture(autouse=True)
def encoder_without_words() -> Iterator[None]:
    """Keep the SDK's encoder from logging the texts that it cannot encode: the log of a test must be text itself."""
    words = logging.getLogger("opentelemetry.exporter.otlp.proto.common._internal")
    level = words.level
    words.setLevel(logging.CRITICAL + 1)
    yield
    words.setLevel(level)
