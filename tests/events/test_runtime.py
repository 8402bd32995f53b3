"""The runtime: the one way by which every event travels, and what it does when something of ours fails."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from crucible_otel.events.bus import custom
from crucible_otel.events.runtime import Runtime, install, runtime
from crucible_otel.events.scope import current
from crucible_otel.semconv.training import TRAINING
from crucible_otel.semconv.workflow import STAGE_OPERATION
from crucible_otel.testing import FakeClock
from tests.captured import Capture, Seen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


class Broken:
    """A projection in which everything fails."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.refusals = 0

    def opened(self, *args: Any) -> None:
        raise RuntimeError("opened")

    closed = happened = hot = opened

    def fault(self, component: str, error: BaseException) -> None:
        self.faults.append(component)

    def refused(self) -> None:
        self.refusals += 1


def watched(made: Runtime) -> Seen:
    """Return what a handler of everything will see."""
    seen = Seen()
    made.bus.attach(custom("seen", None, seen))
    return seen


def test_events_carry_the_clocks_time(caplog: pytest.LogCaptureFixture) -> None:
    """Durations by the monotonic clock, in integer nanoseconds."""
    clock = FakeClock()
    made = Runtime(clock=clock)
    seen = watched(made)
    scope = made.open(STAGE_OPERATION, {"stage": "s"})
    clock.advance(1.5)
    made.close(scope)
    assert {"duration": 1_500_000_000} == seen[-1][1]
    assert int is type(seen[-1][1]["duration"])


@pytest.mark.parametrize("given", [None, "soon", -1, float("nan"), object()])
def test_a_duration_that_is_none_is_measured(given: Any) -> None:
    """Whatever was said instead of one."""
    clock = FakeClock()
    made = Runtime(clock=clock)
    seen = watched(made)
    scope = made.open(STAGE_OPERATION, {"stage": "s"})
    clock.advance(2)
    made.close(scope, measurements={"duration": given})
    assert 2 * 10**9 == seen[-1][1]["duration"]


def test_metadata_stand_in_the_order_of_the_conventions() -> None:
    """Then what the user added; what nobody knows is not there."""
    made = Runtime()
    seen = watched(made)
    made.open(STAGE_OPERATION, {"mine": 1, "stage_index": 2, "module": None, "stage": "s"})
    assert ["stage", "stage_index", "mine"] == list(seen[0][2])


def test_a_broken_projection_stops_nothing() -> None:
    """Handlers get their events, scopes nest and end, each failure is told."""
    broken = Broken()
    made = Runtime(projection=broken)
    seen = watched(made)
    outer = made.open(TRAINING, {"model": "m"})
    inner = made.open(STAGE_OPERATION, {"stage": "s"})
    assert (inner, outer) == (current(), inner.parent)
    made.execute("my.event")
    made.close(inner, error=ValueError("boom"))
    made.close(outer)
    assert current() is None
    assert [
        "crucible.training.start", "crucible.stage.start", "my.event", "crucible.stage.exception",
        "crucible.training.stop",
    ] == seen.names  # fmt: skip
    assert ["span", "span", "event", "span", "span"] == broken.faults


def test_without_a_projection_a_fault_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A component at a time."""
    made = Runtime()
    for component in ("a", "a", "b"):
        made.fault(component, ValueError("x"))
    assert ["error in a: ValueError", "error in b: ValueError"] == [record.message for record in caplog.records]


def test_a_refusal_is_counted_each_time_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """With a short form of the value."""
    broken = Broken()
    made = Runtime(projection=broken)
    with caplog.at_level(logging.WARNING, logger="crucible_otel"):
        for _ in range(3):
            made.refuse("verb(argument)", "x" * 1_000, "a number is needed")
    assert 3 == broken.refusals
    (record,) = caplog.records
    assert record.message.startswith("verb(argument)='xxx")
    assert len(record.message) < 200


def test_installing_returns_what_was_there() -> None:
    """So that it can be put back."""
    before, made = runtime(), Runtime()
    assert before is install(made)
    assert made is runtime()
    assert made is install(before)


def test_close_all_ends_the_innermost_first() -> None:
    """As cancelled."""
    made = Runtime()
    seen = watched(made)
    made.open(TRAINING, {"model": "m"})
    made.open(STAGE_OPERATION, {"stage": "s"})
    made.close_all()
    assert [("crucible.stage.exception", "cancellation"), ("crucible.training.exception", "cancellation")] == [
        (event, metadata["result"]) for event, _, metadata in seen[2:]
    ]
    assert {} == made.open_scopes


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        (("_OTHER", "it broke"), {"error": "it broke"}),
        (("RemoteError", "it broke"), {"error": "it broke", "error_type": "RemoteError"}),
        (("error", "it broke"), {"error": "it broke", "kind": "error"}),
        (("ValueError", "boom"), {"error": ValueError("boom")}),
        (("ValueError", "boom"), {"reason": ValueError("boom")}),
        (("_OTHER", ""), {}),
    ],
    ids=repr,
)
def test_a_failure_reported_by_name_is_recorded_once(
    capture: Capture, expected: tuple[str, str], given: dict[str, Any]
) -> None:
    """As an exception, with the type and the text that were told."""
    capture.configure()
    runtime().execute("crucible_kitchen.stage.run.start", {}, {"stage": "s"})
    runtime().execute("crucible_kitchen.stage.run.exception", {"duration": 5}, {"stage": "s", **given})
    span = capture.span("run_stage s")
    (event,) = span.events
    assert (*expected, expected[0], "ERROR") == (
        event.attributes["exception.type"],
        event.attributes["exception.message"],
        span.attributes["error.type"],
        span.status.status_code.name,
    )


def test_ends_that_are_still_to_come_are_not_expected_for_ever() -> None:
    """What never comes takes a bounded place."""
    made = Runtime()
    for number in range(3_000):
        made.execute("crucible_kitchen.stage.run.start", {}, {"stage": f"s{number}"})
        made.execute("crucible_framework.stage.start", {}, {"stage_name": f"s{number}"})
        made.execute("crucible_kitchen.stage.run.stop", {}, {"stage": f"s{number}"})
    assert 1_024 == len(made.raw._expected)
    assert {} == made.open_scopes
    made.raw.forget()
    assert {} == made.raw._expected
