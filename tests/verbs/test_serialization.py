"""Encoding and decoding."""

from __future__ import annotations

from typing import Any

import pytest

import crucible_otel as cx
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def found(capture: Capture, **attributes: Any) -> list[Any]:
    """Return the counts of durations and sizes."""
    return [capture.value(f"crucible.serialization.{name}", **attributes) for name in ("duration", "size")]


def test_durations_and_sizes_are_recorded_by_format_and_direction(capture: Capture) -> None:
    """Seconds and bytes; what is not told is not recorded."""
    capture.configure()
    cx.serialization.record(duration_s=0.25, nbytes=4_096, direction="encode", format="arrow")
    cx.serialization.record(duration_s=0.5, nbytes=1_000, direction="decode", format="arrow")
    cx.serialization.record(duration_s=0.125, format="arrow")
    cx.serialization.record(nbytes=7)
    encode = {"crucible__serialization__format": "arrow", "crucible__serialization__direction": "encode"}
    assert [2, 1] == found(capture, **encode)
    assert 0.375 == capture.sum("crucible.serialization.duration", **encode)
    assert 4_096 == capture.sum("crucible.serialization.size", **encode)
    assert [1, 1] == found(capture, crucible__serialization__direction="decode")
    assert [{"crucible.serialization.direction": "encode"}] == [
        dict(point.attributes) for point in capture.points("crucible.serialization.size") if point.sum == 7
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"duration_s": -1}, [None, None]),
        ({"nbytes": "much"}, [None, None]),
        ({"duration_s": "long", "nbytes": 5}, [None, 1]),
        ({"duration_s": 0.5, "direction": "sideways"}, [1, None]),
    ],
    ids=repr,
)
def test_what_cannot_be_used_is_refused(capture: Capture, given: dict[str, Any], expected: list[Any]) -> None:
    """Counted, and the rest is recorded."""
    capture.configure()
    cx.serialization.record(**given)
    assert expected == found(capture)
    assert 1 == capture.value("crucible.sdk.refused_attributes")
    assert [] == capture.points("crucible.serialization.duration", crucible__serialization__direction="sideways")


def test_a_handler_gets_every_one(capture: Capture) -> None:
    """Under the seed's name, with nanoseconds."""
    capture.configure()
    seen = listen("snakepit.serialize.stop")
    cx.serialization.record(duration_s=0.5, nbytes=9, direction="decode", format="json")
    assert [
        ("snakepit.serialize.stop", {"duration": 500_000_000, "bytes": 9}, {"direction": "decode", "format": "json"})
    ] == seen
