"""Futures: polled until they are done, by the verb and after the fact."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import crucible_otel as cx
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

METRICS = ("crucible.futures", *(f"crucible.future.{name}" for name in ("wait_time", "iterations", "pending")))


def amounts(capture: Capture, **attributes: Any) -> list[Any]:
    """Return futures that ended, their waits, their iterations, and those pending."""
    return [capture.value(name, **attributes) for name in METRICS]


def polls(capture: Capture, name: str = "polls") -> dict[str, Any]:
    """Return the polls, or how many have a duration, by their answer."""
    return {
        point.attributes["crucible.future.status"]: getattr(point, "value", None) or point.count
        for point in capture.points(f"crucible.future.{name}")
    }


def test_polling_is_a_span_with_its_polls(capture: Capture) -> None:
    """However many there are it is one; who waits is pending, and what it took is a histogram."""
    clock = capture.stopped()
    with cx.stage("s"), cx.future.poll("forward_backward", request_id="r1", chunk=3) as poll:
        for _ in range(3):
            clock.advance(0.5)
            poll.iteration("pending", duration_s=0.5)
        assert [None, None, None, 1] == amounts(capture)
        poll.iteration("done")
    assert ["/run_stage s", "/run_stage s/await_future forward_backward"] == capture.paths()
    span = capture.span("await_future forward_backward")
    assert {
        "crucible.future.request_id": "r1",
        "crucible.future.kind": "forward_backward",
        "crucible.future.poll_count": 4,
        "chunk": 3,
        "crucible.stage.name": "s",
        "crucible.result": "success",
    } == dict(span.attributes)
    assert 1_500_000_000 == span.end_time - span.start_time
    assert [1, 1, 1, 0] == amounts(capture)
    assert (1.5, 4.0) == (capture.sum("crucible.future.wait_time"), capture.sum("crucible.future.iterations"))
    assert ({"pending": 3, "done": 1}, {"pending": 3}) == (polls(capture), polls(capture, "poll.duration"))
    assert 1.5 == capture.sum("crucible.future.poll.duration")
    assert {"crucible.future.kind": "forward_backward", "crucible.future.status": "done"} in [
        dict(point.attributes) for point in capture.points("crucible.future.polls")
    ]
    assert [] == [record.event_name for record in capture.logs if "future" in record.event_name]


@pytest.mark.parametrize(
    ("error", "result", "kind", "status"),
    [
        (ValueError("no"), "failure", "ValueError", "ERROR"),
        (TimeoutError(), "timeout", "TimeoutError", "ERROR"),
        (KeyboardInterrupt(), "cancellation", None, "UNSET"),
        (asyncio.CancelledError(), "cancellation", None, "UNSET"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("how", ["verb", "record"])
def test_an_error_is_the_result(
    capture: Capture, how: str, error: BaseException, result: str, kind: str | None, status: str
) -> None:
    """It passes through the block, and stands on every metric; told afterwards it does the same."""
    capture.configure()
    if how == "verb":
        poll = cx.future.poll("sample")
        poll.iteration("failed")
        with pytest.raises(type(error)) as raised, poll:
            raise error
        assert raised.value is error
    else:
        cx.future.record("sample", duration_s=1.0, iterations=1, error=error)
    span = capture.span("await_future sample")
    assert (status, result, kind) == (
        span.status.status_code.name,
        span.attributes["crucible.result"],
        span.attributes.get("error.type"),
    )
    for name in METRICS[:3]:
        (point,) = capture.points(name)
        assert (result, kind) == (point.attributes["crucible.result"], point.attributes.get("error.type"))
    assert ["crucible.future.poll.exception"] == [record.event_name for record in capture.logs]


def test_what_is_told_afterwards_is_a_span_of_its_duration(capture: Capture) -> None:
    """Without one there is none; it is counted all the same, and nobody is pending."""
    capture.configure()
    cx.future.record("sample", duration_s=2.0, iterations=7, request_id="r1", region="eu")
    cx.future.record("sample")
    cx.future.record("sample", duration_s=1.0, error="server gone")
    good, bad = capture.named("await_future sample")
    assert (2 * 10**9, "r1", 7, "eu") == (
        good.end_time - good.start_time,
        good.attributes["crucible.future.request_id"],
        good.attributes["crucible.future.poll_count"],
        good.attributes["region"],
    )
    assert ("ERROR", "server gone") == (bad.status.status_code.name, bad.status.description)
    assert [2, 1, 1, None] == [*amounts(capture, crucible__result="success")[:3], capture.value(METRICS[3])]
    assert 1 == capture.value("crucible.futures", crucible__result="failure")


def test_it_decorates_functions_and_streams(capture: Capture) -> None:
    """Each call is the polling of a future of its own, until its coroutine or generator ends."""
    capture.configure()

    @cx.future.poll("{kind}")
    async def awaited(kind: str) -> int:
        await asyncio.sleep(0)
        return 1

    @cx.future.poll("streamed")
    def streamed() -> Iterator[int]:
        yield from range(3)

    async def both() -> list[int]:
        return [await awaited(kind) for kind in ("a", "b")]

    assert ([1, 1], [0, 1, 2]) == (asyncio.run(both()), list(streamed()))
    assert [f"/await_future {name}" for name in ("a", "b", "streamed")] == capture.paths()


def test_one_object_can_be_used_again(capture: Capture) -> None:
    """It counts its iterations anew."""
    capture.configure()
    poll = cx.future.poll("sample")
    for times in (3, 1, 0):
        with poll:
            for _ in range(times):
                poll.iteration()
    assert [3, 1, None] == [
        span.attributes.get("crucible.future.poll_count") for span in capture.named("await_future sample")
    ]
    assert (3, 2, 4.0) == (
        capture.value("crucible.futures"),
        capture.value("crucible.future.iterations"),
        capture.sum("crucible.future.iterations"),
    )


def test_tasks_and_threads_lose_and_double_nothing(capture: Capture) -> None:
    """Through more than a buffer of polls."""
    telemetry = capture.configure()

    def work() -> None:
        for _ in range(100):
            with cx.future.poll("thread") as poll:
                for _ in range(20):
                    poll.iteration("pending", duration_s=0.1)

    async def task(number: int) -> None:
        with cx.future.poll("task", request_id=number) as poll:
            for _ in range(10):
                poll.iteration("pending")
                await asyncio.sleep(0)

    async def tasks() -> None:
        await asyncio.gather(*(task(number) for number in range(100)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    while any(thread.is_alive() for thread in threads):
        telemetry.flush()
    for thread in threads:
        thread.join()
    for kind, futures, made in (("thread", 400, 8_000), ("task", 100, 1_000)):
        where = {"crucible__future__kind": kind}
        assert [futures, futures, futures, 0] == amounts(capture, **where)
        assert (made, float(made)) == (
            capture.value("crucible.future.polls", **where),
            capture.sum("crucible.future.iterations", **where),
        )
    assert {10} == {span.attributes["crucible.future.poll_count"] for span in capture.named("await_future task")}


def test_handlers_get_every_poll_and_both_ends(capture: Capture) -> None:
    """With the number of the poll and the seconds since it began; the ends under the seed's names, in its words."""
    clock = capture.stopped()
    each, ends = (
        listen("crucible.future.poll", handler_id="each"),
        listen("tinkex.future.poll.start", "tinkex.future.poll.stop", "tinkex.future.poll.exception"),
    )
    with cx.stage("s"), cx.future.poll("sample", request_id="r1") as poll:
        clock.advance(1.5)
        poll.iteration("busy", duration_s=0.25, status_code=429, should_retry=True)
        poll.iteration("done")
    with pytest.raises(ValueError, match="no"), cx.future.poll("sample"):
        raise ValueError("no")
    identity = {"request_id": "r1", "request_type": "sample"}
    assert ({"duration": 250_000_000, "iteration": 1, "elapsed_time": 1.5}, "busy", 429, True, "s") == (
        each[0][1],
        *(each[0][2][name] for name in ("status", "status_code", "should_retry", "stage")),
    )
    assert ({"iteration": 2, "elapsed_time": 1.5}, "done", "r1") == (
        each[1][1],
        each[1][2]["status"],
        each[1][2]["request_id"],
    )
    assert [
        ("tinkex.future.poll.start", {}, identity),
        ("tinkex.future.poll.stop", {"duration": 1_500_000_000, "iterations": 2}, {**identity, "status": "success"}),
    ] == ends[:2]
    assert ("tinkex.future.poll.exception", "ValueError: no") == (ends[3][0], ends[3][2]["error"])
    assert {"busy": 1, "done": 1} == polls(capture)


def test_handlers_alone_get_them_too() -> None:
    """With nothing configured."""
    seen = listen("crucible.future.poll")
    with cx.future.poll("sample") as poll:
        poll.iteration("done")
    assert [("done", 1)] == [(metadata["status"], values["iteration"]) for _, values, metadata in seen]


@pytest.mark.parametrize("bad", [-1, "long", float("nan"), object()], ids=lambda bad: type(bad).__name__)
def test_what_is_no_number_is_refused(capture: Capture, bad: Any) -> None:
    """Counted; the future and its polls are too."""
    capture.configure()
    with cx.future.poll("sample") as poll:
        poll.iteration("done", duration_s=bad)
    cx.future.record("sample", duration_s=bad, iterations=bad)
    assert (2, {"done": 1}, 3) == (
        capture.value("crucible.futures"),
        polls(capture),
        capture.value("crucible.sdk.refused_attributes"),
    )


def test_the_seeds_events_are_the_same_futures(capture: Capture) -> None:
    """Started and ended by name, with its iterations and status; each end finds the start of its own request."""
    clock = capture.stopped()
    first, second = ({"request_id": name, "request_type": "sample"} for name in ("r1", "r2"))
    cx.execute("tinkex.future.poll.start", {}, first)
    cx.execute("tinkex.future.poll.start", {}, second)
    clock.advance(1.0)
    cx.execute("tinkex.future.poll.stop", {"iterations": 2}, {**second, "status": "error"})
    cx.execute("tinkex.future.poll.stop", {"iterations": 3}, {**first, "status": "success"})
    assert [("r2", 2, "failure", 10**9), ("r1", 3, "success", 10**9)] == [
        (
            span.attributes["crucible.future.request_id"],
            span.attributes["crucible.future.poll_count"],
            span.attributes["crucible.result"],
            span.end_time - span.start_time,
        )
        for span in capture.named("await_future sample")
    ]
    assert {"success": 1, "failure": 1} == {
        point.attributes["crucible.result"]: point.value for point in capture.points("crucible.futures")
    }
    assert 0 == capture.value("crucible.future.pending")
