"""Calls: around blocks and functions, their phases, results and bytes."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import trace

import crucible_otel as cx
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

PHASES = ("queue", "serialize", "execute", "deserialize")
MS = 1_000_000


def metric(name: str) -> str:
    """Return the full name of a metric of calls."""
    return f"crucible.call.{name}"


def outcomes(capture: Capture) -> dict[tuple[Any, Any], Any]:
    """Return the calls counted, by result and error type."""
    return {
        (point.attributes["crucible.result"], point.attributes.get("error.type")): point.value
        for point in capture.points("crucible.calls")
    }


def test_a_call_is_a_span_with_its_phases(capture: Capture) -> None:
    """In seconds, with what they leave of the duration; each phase has its histogram."""
    clock = capture.stopped()
    with cx.stage("s"), cx.call("numpy", "linalg.svd", worker_id="w1", device="cuda:0", shard=3) as call:
        clock.advance(1.0)
        call.timing(queue_ns=100 * MS, serialize_ns=50 * MS, execute_ns=800 * MS)
        call.timing(deserialize_ns=10 * MS, execute_ns=700 * MS)
    assert ["/run_stage s", "/run_stage s/call numpy.linalg.svd"] == capture.paths()
    span = capture.span("call numpy.linalg.svd")
    assert ("INTERNAL", 1_000 * MS) == (span.kind.name, span.end_time - span.start_time)
    assert {
        "crucible.call.operation": "numpy.linalg.svd",
        "crucible.call.library": "numpy",
        "code.function.name": "linalg.svd",
        "crucible.pool.worker.id": "w1",
        "crucible.device.name": "cuda:0",
        "shard": 3,
        "crucible.call.queue_time": pytest.approx(0.1),
        "crucible.call.serialize_time": pytest.approx(0.05),
        "crucible.call.execute_time": pytest.approx(0.7),
        "crucible.call.deserialize_time": pytest.approx(0.01),
        "crucible.call.unattributed_time": pytest.approx(0.14),
        "crucible.result": "success",
        "crucible.stage.name": "s",
    } == dict(span.attributes)
    sums = [capture.sum(metric(f"{phase}.duration")) for phase in PHASES]
    assert [pytest.approx(each) for each in (0.1, 0.05, 0.7, 0.01)] == sums
    assert (1, 1.0) == (capture.value("crucible.calls"), capture.sum(metric("duration")))
    assert {
        "crucible.call.library": "numpy",
        "code.function.name": "linalg.svd",
        "crucible.result": "success",
    } == dict(capture.points(metric("queue.duration"))[0].attributes)


def test_a_call_without_phases_has_no_rest(capture: Capture) -> None:
    """Nothing is attributed, so nothing is unattributed; no phase has a series."""
    capture.configure()
    with cx.call("numpy", "sum"):
        pass
    assert "crucible.call.unattributed_time" not in capture.span("call numpy.sum").attributes
    assert [[]] * 4 == [capture.points(metric(f"{phase}.duration")) for phase in PHASES]


def test_phases_are_no_longer_than_the_call(capture: Capture) -> None:
    """What exceeds it, by another machine's clock, is cut in their order and counted."""
    clock = capture.stopped()
    with cx.call("numpy", "sum") as call:
        clock.advance(1.0)
        call.timing(queue_ns=400 * MS, execute_ns=900 * MS, deserialize_ns=5 * MS)
    attributes = capture.span("call numpy.sum").attributes
    assert [pytest.approx(each) for each in (0.4, 0.6, 0.0, 0.0)] == [
        attributes[f"crucible.call.{phase}_time"] for phase in ("queue", "execute", "deserialize", "unattributed")
    ]
    assert (pytest.approx(0.6), 1) == (
        capture.sum(metric("execute.duration")),
        capture.value("crucible.sdk.refused_attributes"),
    )


@pytest.mark.parametrize("bad", [-1, "long", float("nan"), object()], ids=lambda bad: type(bad).__name__)
def test_what_is_no_time_or_size_is_refused(capture: Capture, bad: Any) -> None:
    """Counted; the call and its other phases are recorded."""
    capture.configure()
    with cx.call("numpy", "sum", bytes=bad) as call:
        call.timing(queue_ns=bad, execute_ns=0)
        call.io(bad)
    assert (1, 1, None, None) == (
        capture.value("crucible.calls"),
        capture.value(metric("execute.duration")),
        capture.value(metric("queue.duration")),
        capture.value(metric("io")),
    )
    assert 3 == capture.value("crucible.sdk.refused_attributes")


def test_bytes_of_arguments_and_results_add_up(capture: Capture) -> None:
    """Those told at the start and those told inside, on the span and in the counter."""
    capture.configure()
    with cx.call("numpy", "sum", bytes=1_000) as call:
        call.io(200)
        call.io(30)
    assert (1_230, 1_230) == (
        capture.value(metric("io")),
        capture.span("call numpy.sum").attributes["crucible.call.io_bytes"],
    )


@pytest.mark.parametrize(
    ("error", "result", "kind", "status", "recorded"),
    [
        (ValueError("no"), "failure", "ValueError", "ERROR", 1),
        (TimeoutError(), "timeout", "TimeoutError", "ERROR", 1),
        (KeyboardInterrupt(), "cancellation", None, "UNSET", 0),
        (asyncio.CancelledError(), "cancellation", None, "UNSET", 0),
        (GeneratorExit(), "cancellation", None, "UNSET", 0),
        (SystemExit(0), "success", None, "UNSET", 0),
        (SystemExit(1), "failure", "SystemExit", "ERROR", 1),
    ],
    ids=repr,
)
def test_an_exception_passes_and_is_the_result(
    capture: Capture, error: BaseException, result: str, kind: str | None, status: str, recorded: int
) -> None:
    """With its type on every metric of the call, and once on the span; phases told before count."""
    capture.configure()
    call = cx.call("numpy", "sum", bytes=5)
    call.timing(queue_ns=0)
    with pytest.raises(type(error)) as raised, call:
        raise error
    assert raised.value is error
    assert {(result, kind): 1} == outcomes(capture)
    for name in ("duration", "queue.duration", "io"):
        (point,) = capture.points(metric(name))
        assert (result, kind) == (point.attributes["crucible.result"], point.attributes.get("error.type"))
    span = capture.span("call numpy.sum")
    assert (status, recorded) == (span.status.status_code.name, len(span.events))


def test_a_block_can_say_how_it_ended(capture: Capture) -> None:
    """As failed without an exception, or as skipped."""
    capture.configure()
    with cx.call("numpy", "sum") as call:
        call.fail("worker said no")
    with cx.call("numpy", "sum") as call:
        call.skip("cached")
    assert {("failure", None): 1, ("skip", None): 1} == outcomes(capture)


def test_only_failed_calls_are_log_events(capture: Capture) -> None:
    """Of a hundred calls a second nobody reads the starts."""
    capture.configure()
    with cx.call("numpy", "sum"):
        pass
    with pytest.raises(ValueError, match="no"), cx.call("numpy", "sum"):
        raise ValueError("no")
    assert [("crucible.call.exception", "WARN")] == [
        (record.event_name, record.severity_text) for record in capture.logs
    ]


# -- functions ---------------------------------------------------------------------------------------------------------


def test_it_runs_a_function(capture: Capture) -> None:
    """And returns what that returns; each run is a call of its own, also at the same time."""
    capture.configure()
    svd = cx.call("numpy", "linalg.svd", bytes=10)
    assert (7, {"a": 1}) == (svd.run(max, 3, 7), svd.run(dict, a=1))
    with pytest.raises(ZeroDivisionError):
        svd.run(lambda: 1 / 0)
    assert {("success", None): 2, ("failure", "ZeroDivisionError"): 1} == outcomes(capture)
    assert 30 == sum(point.value for point in capture.points(metric("io")))
    assert 3 == len(capture.named("call numpy.linalg.svd"))


@pytest.mark.parametrize("enabled", [True, False])
def test_it_runs_a_function_with_any_arguments(capture: Capture, enabled: bool) -> None:
    """Also with such as are called like parameters of ours; each kind of function gets them."""
    capture.configure(enabled=enabled)
    call = cx.call("lib", "f")
    given = {"function": 1, "self": 2, "args": 3}

    async def awaited(**options: int) -> dict[str, int]:
        return options

    assert [given, given] == [call.run(dict, **given), asyncio.run(call.run(awaited, **given))]
    assert given == call(dict)(**given)
    assert 3 * enabled == len(capture.named("call lib.f"))


def test_it_decorates_every_kind_of_function(capture: Capture) -> None:
    """Functions, coroutine functions, generators and asynchronous generators, each until it ends."""
    capture.configure()

    @cx.call("lib", "plain")
    def plain(x: int) -> int:
        """Add one."""
        return x + 1

    @cx.call("lib", "awaited")
    async def awaited(x: int) -> int:
        await asyncio.sleep(0)
        return plain(x)

    @cx.call("lib", "generated")
    def generated(count: int) -> Iterator[int]:
        for each in range(count):
            yield plain(each)

    @cx.call("lib", "streamed")
    async def streamed(count: int) -> AsyncIterator[int]:
        for each in range(count):
            await asyncio.sleep(0)
            yield plain(each)

    async def collect() -> list[int]:
        return [each async for each in streamed(2)]

    assert ("plain", "Add one.", 2) == (plain.__name__, plain.__doc__, plain(1))
    assert (2, [1, 2], [1, 2]) == (asyncio.run(awaited(1)), list(generated(2)), asyncio.run(collect()))
    assert [
        "/call lib.awaited",
        "/call lib.awaited/call lib.plain",
        "/call lib.generated",
        "/call lib.generated/call lib.plain",
        "/call lib.generated/call lib.plain",
        "/call lib.plain",
        "/call lib.streamed",
        "/call lib.streamed/call lib.plain",
        "/call lib.streamed/call lib.plain",
    ] == capture.paths()


def test_a_name_can_have_an_argument_in_it(capture: Capture) -> None:
    """Filled in for each call."""
    capture.configure()

    @cx.call("numpy", "{name}")
    def dispatch(name: str) -> None:
        return None

    dispatch("sum")
    dispatch(name="mean")
    assert ["call numpy.mean", "call numpy.sum"] == sorted(span.name for span in capture.spans)


def test_an_abandoned_generator_is_cancelled(capture: Capture) -> None:
    """When it is closed; what comes after it is not inside it."""
    capture.configure()

    @cx.call("lib", "generated")
    def generated() -> Iterator[int]:
        yield 1
        yield 2

    generator = generated()
    next(generator)
    with cx.call("lib", "other"):
        pass
    del generator
    gc.collect()
    assert ["/call lib.generated", "/call lib.other"] == capture.paths()
    assert {("success", None): 1, ("cancellation", None): 1} == outcomes(capture)


# -- many at once ------------------------------------------------------------------------------------------------------


def test_calls_nest(capture: Capture) -> None:
    """A call inside one of the same function is a call of its own, by the verb as by the seed's name."""
    capture.configure()
    with cx.call("lib", "f"), cx.call("lib", "f"):
        started = cx.snakepit.call_start("inner", {"library": "lib", "function": "g"})
        cx.snakepit.call_stop(started, {"operation": "inner", "result": "ok"})
    assert ["/call lib.f", "/call lib.f/call lib.f", "/call lib.f/call lib.f/call lib.g"] == capture.paths()
    assert 3 == sum(point.value for point in capture.points("crucible.calls"))


def test_tasks_and_threads_do_not_mix(capture: Capture) -> None:
    """Each call has its own phases, parent and result."""
    clock_ns = 7
    capture.configure()

    async def task(number: int) -> None:
        with cx.stage(f"task {number}"):
            async with cx.call("lib", f"f{number}") as call:
                await asyncio.sleep(0)
                call.timing(queue_ns=number * clock_ns)

    async def tasks() -> None:
        await asyncio.gather(*(task(number) for number in range(20)))

    asyncio.run(tasks())
    shared = cx.call("lib", "shared")
    threads = [threading.Thread(target=lambda: [shared.run(int) for _ in range(100)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(20):
        span = capture.span(f"call lib.f{number}")
        assert f"run_stage task {number}" == capture.parent(span)
        assert pytest.approx(number * clock_ns * 1e-9) == span.attributes["crucible.call.queue_time"]
    assert 800 == capture.value("crucible.calls", code__function__name="shared")


def test_one_object_can_be_used_again(capture: Capture) -> None:
    """What was said of the first call is not said of the second."""
    capture.configure()
    call = cx.call("numpy", "sum")
    with call:
        call.timing(queue_ns=5)
        call.io(5)
        call.set(mine=1)
        call.fail("no")
    with call:
        pass
    first, second = capture.named("call numpy.sum")
    assert {"mine", "crucible.call.queue_time", "crucible.call.io_bytes"} <= {*first.attributes} - {*second.attributes}
    assert {("failure", None): 1, ("success", None): 1} == outcomes(capture)


def test_functions_beyond_the_limit_share_a_series(capture: Capture) -> None:
    """Whatever names a program makes up, memory is bounded."""
    capture.configure(cardinality_limit=5)
    for number in range(20):
        with cx.call("lib", f"f{number}"):
            pass
    points = capture.points("crucible.calls")
    assert (6, 20) == (len(points), sum(point.value for point in points))


@pytest.mark.parametrize(
    ("library", "function", "name"),
    [("numpy", "sum", "call numpy.sum"), ("", "sum", "call sum"), ("numpy", "", "call numpy"), ("", "", "call")],
)
def test_the_name_has_what_is_known(capture: Capture, library: str, function: str, name: str) -> None:
    """No dot without something on both sides of it."""
    capture.configure()
    with cx.call(library, function):
        pass
    assert [name] == [span.name for span in capture.spans]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_that_leaves_its_parents_call_is_outside_of_it(capture: Capture) -> None:
    """It finds the context around the call again, and neither counts the call nor ends its span."""
    capture.configure()
    read, write = os.pipe()
    with cx.stage("around"):
        outside = trace.get_current_span()
        left, kept = cx.call("numpy", "sum"), cx.call("numpy", "sum")
        kept.__enter__()
        left.__enter__()
        if os.fork() == 0:
            left.__exit__(None, None, None)
            kept.__exit__(None, None, None)
            told = trace.get_current_span() is outside
            left.__enter__()
            assert capture.telemetry is not None
            capture.telemetry.shutdown(5)
            os.write(write, repr((told, outcomes(capture), [span.name for span in capture.spans])).encode())
            os._exit(0)
        os.wait()
        left.__exit__(None, None, None)
        kept.__exit__(None, None, None)
    once = {("cancellation", None): 1}
    assert repr((True, once, ["call numpy.sum"])) == os.read(read, 1000).decode()
    assert {("success", None): 2} == outcomes(capture)
    assert ["call numpy.sum"] * 2 == [span.name for span in capture.spans if span.name != "run_stage around"]


def test_handlers_get_both_ends(capture: Capture) -> None:
    """Under the seed's names and in its words: times in nanoseconds, results as ok and error."""
    clock = capture.stopped()
    seen = listen("snakepit.call.start", "snakepit.call.stop", "snakepit.call.exception")
    with cx.call("numpy", "sum", worker_id="w1") as call:
        clock.advance(1.0)
        call.timing(execute_ns=5)
    with pytest.raises(ValueError, match="no"), cx.call("numpy", "sum"):
        raise ValueError("no")
    identity = {"operation": "numpy.sum", "library": "numpy", "function": "sum"}
    assert ("snakepit.call.start", {}, {**identity, "worker_id": "w1"}) == seen[0]
    assert (
        "snakepit.call.stop",
        {"duration": 10**9, "python_time": 5},
        {**identity, "result": "ok"},
    ) == seen[1]
    assert ("snakepit.call.exception", {"duration": 0}, "ValueError: no") == (*seen[3][:2], seen[3][2]["reason"])


def test_what_the_object_says_holds_for_recorded_calls(capture: Capture) -> None:
    """Bytes of every call of it are added, further fields stand on the span of the next one only."""
    capture.configure()
    call = cx.call("numpy", "sum", bytes=100)
    call.set(shard=3)
    for _ in range(2):
        call.record(10 * MS, queue_ns=MS, serialize_ns=MS, execute_ns=MS, deserialize_ns=MS, nbytes=5)
    assert 210 == capture.value("crucible.call.io")
    assert [3, None] == [span.attributes.get("shard") for span in capture.named("call numpy.sum")]


def test_a_call_of_which_all_is_known_is_like_any(capture: Capture) -> None:
    """Its values have the types of their fields, and what they leave of the duration is told."""
    capture.configure()
    cx.call("numpy", "sum").record(10 * MS, queue_ns=MS, serialize_ns=0, execute_ns=5 * MS, deserialize_ns=0, nbytes=7)
    span = capture.span("call numpy.sum")
    assert (10 * MS, pytest.approx(0.004), 7) == (
        span.end_time - span.start_time,
        span.attributes["crucible.call.unattributed_time"],
        span.attributes["crucible.call.io_bytes"],
    )
    assert 1 == capture.value("crucible.calls")
