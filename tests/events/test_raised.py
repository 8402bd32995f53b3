"""Where an exception came from."""

from __future__ import annotations

import json

import pytest

from crucible_otel.events.raised import raised_at


def test_the_innermost_frame_is_named() -> None:
    """Also one of a library that was called."""
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{secret")
    assert raised_at(caught.value).startswith("JSONDecodeError at decoder.py:")
    assert "secret" not in raised_at(caught.value)


def test_one_that_was_never_raised_has_its_type_only() -> None:
    """As when a library hands one over as a value."""
    assert "KeyError" == raised_at(KeyError("secret"))
