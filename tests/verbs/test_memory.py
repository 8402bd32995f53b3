"""Memory that the program says it allocates and releases."""

from __future__ import annotations

from typing import Any

import pytest

import crucible_otel as cx
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def values(capture: Capture, **attributes: Any) -> list[Any]:
    """Return bytes allocated, released and in use."""
    return [capture.value(f"crucible.memory.{name}", **attributes) for name in ("allocated", "released", "usage")]


def test_allocated_and_released_bytes_are_counted_by_type_and_device(capture: Capture) -> None:
    """Cumulative and in use, for each device by itself; devices in any of their forms."""
    capture.configure()
    cx.memory.allocate(1_000, type="gpu", device="cuda:0")
    cx.memory.allocate(500, type="gpu", device=("cuda", 0))
    cx.memory.release(300, type="gpu", device=0)
    cx.memory.allocate(64)
    cx.memory.release(64)
    gpu = {"crucible__memory__type": "gpu", "crucible__device__name": "cuda:0"}
    assert [1_500, 300, 1_200] == values(capture, **gpu)
    assert [64, 64, 0] == values(capture, crucible__memory__type="cpu")
    assert [] == capture.logs


def test_deltas_of_what_is_in_use_go_both_ways(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An up-down counter stays cumulative where counters are sent as deltas."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    capture.configure()
    seen = []
    for change in (cx.memory.allocate, cx.memory.allocate, cx.memory.release):
        change(10)
        seen.append(capture.value("crucible.memory.usage"))
    assert [10, 20, 10] == seen


@pytest.mark.parametrize("bad", [-1, 1.5, "much", None, float("nan")], ids=repr)
def test_what_is_no_size_is_refused(capture: Capture, bad: Any) -> None:
    """Counted, and nothing else happens."""
    capture.configure()
    cx.memory.allocate(bad)
    assert [None, None, None] == values(capture)
    refused = capture.value("crucible.sdk.refused_attributes")
    assert (None if bad is None else 1) == refused


def test_a_handler_gets_every_one(capture: Capture) -> None:
    """Under the seed's name and under ours, as it was told."""
    capture.configure()
    seed = listen("snakepit.memory.allocate", "snakepit.memory.release")
    ours = listen("crucible.memory.allocate", handler_id="ours")
    with cx.stage("load"):
        cx.memory.allocate(10, type="gpu", device=("cuda", 0))
        cx.memory.release(0)
    assert [
        ("snakepit.memory.allocate", {"bytes": 10}, {"type": "gpu", "device": ("cuda", 0)}),
        ("snakepit.memory.release", {"bytes": 0}, {"type": "cpu"}),
    ] == seed
    assert "load" == ours[0][2]["stage"]
    assert [10, 0, 10] == [
        sum(point.value for point in capture.points(f"crucible.memory.{name}"))
        for name in ("allocated", "released", "usage")
    ]


def test_a_handler_alone_gets_them_too() -> None:
    """With nothing configured."""
    seen = listen("crucible.memory.allocate")
    cx.memory.allocate(10)
    assert [("crucible.memory.allocate", {"bytes": 10}, {"type": "cpu"})] == seen
