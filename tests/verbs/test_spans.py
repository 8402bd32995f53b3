"""Spans of the user's own."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.events.scope import current
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def test_a_span_around_a_block(capture: Capture) -> None:
    """Named as given, with its attributes; start and stop reach handlers, with the same metadata; no log events."""
    clock = capture.stopped()
    seen = listen("myapp.operation.start", ("myapp", "operation", "stop"))
    with cx.workflow("w", run_id="r"), cx.span("myapp.operation", {"user": 7}) as span:
        clock.advance(0.5)
        span.set(rows=3)
    context = {"workflow": "w", "run_id": "r"}
    assert [
        ("myapp.operation.start", {}, {**context, "user": 7}),
        ("myapp.operation.stop", {"duration": 500_000_000}, {"result": "success", **context, "user": 7, "rows": 3}),
    ] == seen
    assert ["/run_workflow w", "/run_workflow w/myapp.operation"] == capture.paths()
    attributes = dict(capture.span("myapp.operation").attributes)
    assert (7, 3, "success") == (attributes["user"], attributes["rows"], attributes["crucible.result"])
    assert [] == [record for record in capture.logs if record.event_name.startswith("myapp")]


def test_a_span_around_a_call_returns_its_result(capture: Capture) -> None:
    """The function runs inside; what it raises travels on and is recorded once."""
    capture.configure()
    seen = listen("job.exception")
    error = ValueError("boom")

    def fail() -> None:
        raise error

    assert "job" == cx.span("job", {}, lambda: current().operation.name)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="boom") as caught:
        cx.span("job", None, fail)
    assert error is caught.value
    assert ["success", "failure"] == [span.attributes["crucible.result"] for span in capture.spans]
    assert ["ValueError: boom"] == [metadata["error"] for _, _, metadata in seen]


def test_a_span_as_a_decorator(capture: Capture) -> None:
    """Of functions and coroutine functions; attributes may name arguments."""
    capture.configure()

    @cx.span("load", {"file": "{path}"})
    def load(path: str) -> str:
        return path

    @cx.span("fetch")
    async def fetch() -> str:
        return "fetched"

    assert ["a", "fetched"] == [load("a"), asyncio.run(fetch())]
    assert "a" == capture.span("load").attributes["file"]
    assert "success" == capture.span("fetch").attributes["crucible.result"]


@pytest.mark.parametrize("name", ["a {b} c", ("a", "{b}"), "", "x" * 400], ids=["braces", "parts", "empty", "long"])
def test_any_name_is_taken(capture: Capture, name: Any) -> None:
    """Braces are no template in a name that is used as given."""
    capture.configure()
    with cx.span(name):
        pass
    assert 1 == len(capture.spans)


def test_a_span_by_hand(capture: Capture) -> None:
    """Not current, ended with further attributes, in another thread if need be; under what was around its start."""
    clock = capture.stopped()
    with cx.workflow("w"):
        ref = cx.start_span("myapp.job", {"id": 1})
        with cx.stage("s"):
            pass
    clock.advance(1.5)
    ending = threading.Thread(target=cx.end_span, args=(ref, {"rows": 3}))
    ending.start()
    ending.join()
    assert ["/run_workflow w", "/run_workflow w/myapp.job", "/run_workflow w/run_stage s"] == capture.paths()
    span = capture.span("myapp.job")
    assert (1_500_000_000, 1, 3) == (span.end_time - span.start_time, span.attributes["id"], span.attributes["rows"])


@pytest.mark.parametrize(
    ("expected", "status", "given"),
    [
        ("success", "UNSET", {}),
        ("success", "UNSET", {"metadata": {"result": "success"}}),
        ("success", "UNSET", {"metadata": {"result": "ok"}}),
        ("failure", "ERROR", {"metadata": {"result": "error"}}),
        ("skip", "UNSET", {"metadata": {"result": "skip"}}),
        ("failure", "ERROR", {"error": ValueError("boom")}),
        ("failure", "ERROR", {"error": "boom", "metadata": {"result": "success"}}),
        ("cancellation", "UNSET", {"error": KeyboardInterrupt()}),
    ],
    ids=repr,
)
def test_the_end_says_how_it_went(capture: Capture, expected: str, status: str, given: Any) -> None:
    """By its result in anybody's words, or by its error, which wins."""
    capture.configure()
    cx.end_span(cx.start_span("job"), **given)
    span = capture.span("job")
    assert (expected, status) == (span.attributes["crucible.result"], span.status.status_code.name)


def test_a_result_that_is_none_is_only_an_attribute(capture: Capture) -> None:
    """Nobody's word for an outcome."""
    capture.configure()
    cx.end_span(cx.start_span("job"), {"result": "42 rows"})
    attributes = capture.span("job").attributes
    assert ("success", "42 rows") == (attributes["crucible.result"], attributes["result_text"])


def test_a_double_end_is_a_warned_no_op(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """The first end counts; what is no reference is warned about too."""
    capture.configure()
    ref = cx.start_span("job")
    cx.end_span(ref)
    with caplog.at_level(logging.WARNING, logger="crucible_otel"):
        cx.end_span(ref, {"rows": 1}, error=ValueError())
        cx.end_span(None)  # type: ignore[arg-type]
    assert ["end_span: the span has ended already", "end_span: not a span reference"] == [
        record.message for record in caplog.records
    ]
    assert {"crucible.result": "success"} == dict(capture.span("job").attributes)


def test_a_span_that_is_never_ended_is_closed_at_shutdown(capture: Capture) -> None:
    """And marked incomplete."""
    telemetry = capture.configure()
    cx.start_span("job")
    telemetry.shutdown()
    attributes = dict(capture.span("job").attributes)
    assert {"crucible.result": "cancellation", "crucible.incomplete": True} == attributes


def test_what_is_added_under_the_name_of_an_attribute_of_ours_is_left_out(capture: Capture) -> None:
    """The span and the log events say what the metrics say; each is counted once, and the rest stays."""
    capture.configure()
    with (
        cx.workflow("w", **{"crucible.workflow.name": "other", "mine": 1}),
        cx.stage("s", **{"crucible.stage.name": "other"}) as stage,
    ):
        stage.set(**{"crucible.workflow.name": "third", "rows": 2})

    names = ("crucible.workflow.name", "crucible.stage.name", "mine", "rows")
    found = [[span.attributes.get(name) for name in names] for span in capture.spans]
    assert [["w", "s", None, 2], ["w", None, 1, None]] == found
    assert {"w"} == {record.attributes["crucible.workflow.name"] for record in capture.logs}
    assert 3 == capture.value("crucible.sdk.refused_attributes")
