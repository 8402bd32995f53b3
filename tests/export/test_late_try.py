"""What is told of an export whose last try came too late to be made."""

from __future__ import annotations

import socket

import pytest
import requests

from crucible_otel.export.causes import classify
from crucible_otel.export.observe import observing_session


def test_a_try_without_time_does_not_hide_why_the_others_failed() -> None:
    """On a busy machine the SDK asks for one with a timeout of zero, which requests refuses."""
    observed: list[object] = []
    with socket.socket() as bound, observing_session(observed, lambda: None) as session:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(requests.exceptions.ConnectionError):
            session.request("POST", url, timeout=5)
        with pytest.raises(ValueError, match="timeout"):
            session.request("POST", url, timeout=0.0)

    assert "connection refused" in classify(observed[-1]).reason
