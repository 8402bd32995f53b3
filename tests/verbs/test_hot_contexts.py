"""Calls in whatever context they begin, end or are left: right parents, and the context from before is back."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry._logs import get_logger
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import crucible_otel as cx
from crucible_otel.export import providers
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

BOTH_WAYS = pytest.mark.parametrize("listening", [False, True], ids=["short", "all_events"])


@pytest.fixture(autouse=True)
def context_is_back(fresh: None) -> Iterator[None]:
    """Fail the test when it ends in another context than it began in."""
    before = otel_context.get_current()
    yield
    assert before == otel_context.get_current()


def configured(capture: Capture, listening: bool = False, **settings: Any) -> Capture:
    """Configure telemetry, with somebody who listens or without."""
    capture.configure(**settings)
    if listening:
        listen()
    return capture


def in_thread(work: Callable[[], object]) -> None:
    """Work in a thread, to its end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert [] == errors


def current_span_id() -> int:
    """Return the id of the current span."""
    return trace.get_current_span().get_span_context().span_id


@BOTH_WAYS
def test_what_is_inside_has_the_call_as_its_parent(capture: Capture, listening: bool) -> None:
    """Full spans, hot ones, log records, what is propagated; and their own children have them."""
    configured(capture, listening)
    carrier: dict[str, str] = {}
    tracer, logger = trace.get_tracer("theirs"), get_logger("theirs")
    with cx.stage("s"), cx.call("a", "outer"):
        inject(carrier)
        logger.emit(body="said")
        with tracer.start_as_current_span("full"), cx.inference("m"), cx.stage("inner"), cx.call("a", "leaf"):
            pass
    outer = capture.span("call a.outer").context
    assert outer is not None
    assert carrier["traceparent"] == f"00-{outer.trace_id:032x}-{outer.span_id:016x}-03"
    (said,) = [record for record in capture.logs if record.body == "said"]
    assert (outer.trace_id, outer.span_id, outer.trace_flags) == (said.trace_id, said.span_id, said.trace_flags)
    stem, paths = "", []
    for name in ("run_stage s", "call a.outer", "full", "predict m", "run_stage inner", "call a.leaf"):
        stem += f"/{name}"
        paths.append(stem)
    assert paths == capture.paths()


@BOTH_WAYS
def test_a_remote_parent_is_the_parent(capture: Capture, listening: bool) -> None:
    """What came in with a request."""
    configured(capture, listening)
    remote = SpanContext(2**127 + 5, 7, True, TraceFlags(1))
    otel_context.attach(trace.set_span_in_context(NonRecordingSpan(remote)))
    try:
        with cx.call("a", "b"):
            pass
    finally:
        otel_context.attach(otel_context.Context())
    span = capture.span("call a.b")
    assert (remote, remote.trace_id) == (span.parent, span.context.trace_id)


@BOTH_WAYS
def test_baggage_and_what_else_is_in_the_context_stays(capture: Capture, listening: bool) -> None:
    """Inside, and after; what is set inside is gone after it."""
    configured(capture, listening)
    token = otel_context.attach(baggage.set_baggage("user", "ü"))
    with cx.call("a", "b"):
        assert "ü" == baggage.get_baggage("user")
        otel_context.attach(baggage.set_baggage("more", "1"))
        otel_context.attach(otel_context.set_value("mine", 1))
        with cx.call("a", "inner"):
            assert ("ü", "1", 1) == (baggage.get_baggage("user"), baggage.get_baggage("more"), _mine())
    assert {"user": "ü"} == dict(baggage.get_all())
    assert _mine() is None
    otel_context.detach(token)
    assert ["/call a.b", "/call a.b/call a.inner"] == capture.paths()


def _mine() -> object:
    return otel_context.get_value("mine")


@BOTH_WAYS
def test_a_span_attached_and_never_detached_inside_is_left_with_the_call(capture: Capture, listening: bool) -> None:
    """As a context manager of OpenTelemetry's would leave it."""
    configured(capture, listening)
    tracer = trace.get_tracer("theirs")
    with cx.stage("s"):
        with cx.call("a", "b"):
            left = tracer.start_span("left")
            otel_context.attach(trace.set_span_in_context(left))
        with cx.call("a", "next"):
            pass
        left.end()
    assert ["/run_stage s", "/run_stage s/call a.b", "/run_stage s/call a.b/left", "/run_stage s/call a.next"] == (
        capture.paths()
    )


@BOTH_WAYS
def test_a_call_that_is_never_left_ends_with_nothing_but_itself(capture: Capture, listening: bool) -> None:
    """The one around it is left all the same."""
    configured(capture, listening)
    with cx.call("a", "outer"):
        never = cx.call("a", "never")
        never.__enter__()
    with cx.call("a", "next"):
        pass
    assert capture.telemetry is not None
    assert capture.telemetry.shutdown(10)
    assert ["/call a.next", "/call a.outer", "/call a.outer/call a.never"] == capture.paths()
    assert "cancellation" == (capture.span("call a.never").attributes or {})["crucible.result"]


@BOTH_WAYS
def test_recursion_nests(capture: Capture, listening: bool) -> None:
    """One decorated function, and one object in itself."""
    configured(capture, listening)

    @cx.call("a", "f")
    def function(depth: int) -> int:
        return depth and 1 + function(depth - 1)

    assert 3 == function(3)
    again = cx.call("a", "again")
    with again, again:
        pass
    assert Counter({"call a.f": 4, "call a.again": 2}) == Counter(span.name for span in capture.spans)
    longest = max(capture.paths(), key=len)
    assert "/call a.f" * 4 in capture.paths()
    assert "/call a.again/call a.again" in capture.paths(), longest


@BOTH_WAYS
def test_an_exception_through_several_fails_each(capture: Capture, listening: bool) -> None:
    """It is the same one, and recorded on each of them."""
    configured(capture, listening)
    error = ValueError("boom")
    with pytest.raises(ValueError, match="boom") as caught, cx.call("a", "outer"), cx.call("a", "inner"):
        raise error
    assert error is caught.value
    for name in ("call a.outer", "call a.inner"):
        span = capture.span(name)
        assert ("ERROR", ["exception"]) == (span.status.status_code.name, [event.name for event in span.events])


@BOTH_WAYS
def test_a_thousand_tasks_each_have_their_own(capture: Capture, listening: bool) -> None:
    """Interleaved, as blocks, coroutines and streams, of one object and of many."""
    configured(capture, listening, trace_span_limit=100_000)
    shared = cx.call("a", "shared")

    @cx.call("a", "coroutine")
    async def coroutine(number: int) -> int:
        await asyncio.sleep(0)
        with trace.get_tracer("theirs").start_as_current_span("full"):
            await asyncio.sleep(0)
        return current_span_id()

    @cx.inference("stream")
    async def stream(number: int) -> AsyncGenerator[int, None]:
        for _ in range(3):
            await asyncio.sleep(0)
            with cx.call("a", "item"):
                await asyncio.sleep(0)
            yield current_span_id()

    async def work(number: int) -> None:
        outside = current_span_id()
        with cx.call("a", f"own {number % 3}"):
            await asyncio.sleep(0)
            with shared:
                inside = current_span_id()
                await asyncio.sleep(0)
                assert inside == current_span_id()
            await coroutine(number)
            seen = set()
            async for span_id in stream(number):
                seen.add(span_id)
                if number % 5 == 0:
                    break
            assert 1 == len(seen)
        assert outside == current_span_id()

    async def main() -> None:
        with cx.stage("all"):
            await asyncio.gather(*(work(number) for number in range(1_000)))

    asyncio.run(main())
    gc.collect()
    names = Counter(path.replace(" 1", " 0").replace(" 2", " 0") for path in capture.paths())
    stem = "/run_stage all/call a.own 0"
    assert {
        "/run_stage all": 1,
        stem: 1_000,
        f"{stem}/call a.shared": 1_000,
        f"{stem}/call a.coroutine": 1_000,
        f"{stem}/call a.coroutine/full": 1_000,
        f"{stem}/predict stream": 1_000,
        f"{stem}/predict stream/call a.item": 800 * 3 + 200,
    } == names
    results = Counter(span.attributes["crucible.result"] for span in capture.named("predict stream"))
    assert {"success": 800, "cancellation": 200} == results


@BOTH_WAYS
def test_threads_share_an_object_and_a_copied_context(capture: Capture, listening: bool) -> None:
    """Eight at once: none ends another's call, each is where its context says."""
    configured(capture, listening)
    shared = cx.call("a", "shared")
    ready = threading.Barrier(8)

    def work(number: int) -> int:
        ready.wait(30)
        for _ in range(50):
            before = current_span_id()
            with shared:
                with cx.call("a", f"inner {number}"):
                    pass
                if number % 2:
                    otel_context.attach(baggage.set_baggage("left", "behind"))
            assert before == current_span_id()
        return number

    with cx.stage("s"), ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(contextvars.copy_context().run, work, number) for number in range(8)]
        assert list(range(8)) == [future.result(60) for future in futures]
    expected = Counter({"/run_stage s": 1, "/run_stage s/call a.shared": 400})
    expected += Counter({f"/run_stage s/call a.shared/call a.inner {number}": 50 for number in range(8)})
    assert expected == Counter(capture.paths())
    assert 400 == capture.value("crucible.calls", code__function__name="shared")


@BOTH_WAYS
def test_what_a_block_says_is_said_of_it_alone(capture: Capture, listening: bool) -> None:
    """An object that is open already gives each further block one of its own to speak to."""
    configured(capture, listening)
    shared = cx.call("a", "shared", bytes=1)
    with shared as outer:
        outer.io(10)
        outer.fail("outer")
        with shared as middle:
            middle.io(100)
            with middle as inner:
                inner.set(depth=3)
                inner.skip("inner")
                inner.run(int)
            with cx.call("a", "other"):
                pass
    with shared as again:
        pass
    assert (shared, shared) == (outer, again)
    assert 4 == len({id(each) for each in (outer, middle, inner, None)})
    spans = sorted(capture.named("call a.shared"), key=lambda span: span.start_time or 0)
    assert [
        ("failure", 11, None), ("success", 101, None), ("skip", 1, 3), ("success", 1, None), ("success", 1, None)
    ] == [
        tuple(span.attributes.get(name) for name in ("crucible.result", "crucible.call.io_bytes", "depth"))
        for span in spans
    ]  # fmt: skip


@BOTH_WAYS
def test_tasks_of_one_object_each_say_their_own(capture: Capture, listening: bool) -> None:
    """What one is told while another waits is not said of the one that ends first."""
    configured(capture, listening)
    shared = cx.call("a", "shared")

    async def work(number: int, earlier: asyncio.Event | None, later: asyncio.Event) -> None:
        async with shared as call:
            if earlier is not None:
                await earlier.wait()
            call.io(10**number)
            call.set(number=number)
            later.set()
            await asyncio.sleep(0)

    async def main() -> None:
        events = [asyncio.Event() for _ in range(5)]
        await asyncio.gather(*(work(at, events[at - 1] if at else None, events[at]) for at in reversed(range(5))))

    asyncio.run(main())
    spans = capture.named("call a.shared")
    said = {span.attributes["number"]: span.attributes["crucible.call.io_bytes"] for span in spans}
    assert {number: 10**number for number in range(5)} == said


def test_an_attach_inside_does_not_end_the_call_of_another_thread(capture: Capture) -> None:
    """Whose call it is that ends is told by the span that is current, not by which began last."""
    clock = capture.stopped()
    shared = cx.call("a", "shared")
    begun, over = threading.Event(), threading.Event()

    def other() -> None:
        with shared:
            begun.set()
            assert over.wait(60)

    with shared:
        clock.advance(1)
        thread = threading.Thread(target=other)
        thread.start()
        assert begun.wait(60)
        clock.advance(1)
        otel_context.attach(baggage.set_baggage("left", "behind"))
    clock.advance(5)
    over.set()
    thread.join(60)
    durations = sorted((span.end_time or 0) - (span.start_time or 0) for span in capture.named("call a.shared"))
    assert [2 * 10**9, 6 * 10**9] == durations


def generate(number: int) -> Generator[int, None, None]:
    """Yield the id of the span that is current inside, after a call of its own."""
    try:
        for _ in range(number):
            with cx.call("a", "inside"):
                pass
            yield current_span_id()
    finally:
        with cx.call("a", "cleanup"):
            pass


@BOTH_WAYS
@pytest.mark.parametrize("ending", ["exhausted", "closed", "dropped", "closed in a thread", "thrown at", "never begun"])
def test_a_generator_is_one_call_however_it_ends(capture: Capture, listening: bool, ending: str) -> None:
    """What it does at its end is inside of it too; what runs between two items is not."""
    configured(capture, listening)
    generator: Any = cx.call("a", "g")(generate)(3)
    with cx.stage("s"):
        before = current_span_id()
        if ending != "never begun":
            assert before != next(generator)
            with cx.call("a", "between"):
                pass
        if ending == "exhausted":
            assert 2 == len(list(generator))
        elif ending == "closed":
            generator.close()
        elif ending == "closed in a thread":
            in_thread(generator.close)
        elif ending == "thrown at":
            with pytest.raises(KeyError):
                generator.throw(KeyError("thrown"))
        del generator
        gc.collect()
        assert before == current_span_id()
    stem, inside = "/run_stage s", 3 if ending == "exhausted" else 1
    result = {"exhausted": "success", "thrown at": "failure"}.get(ending, "cancellation")
    expected = {stem: 1}
    if ending != "never begun":
        expected |= {
            f"{stem}/call a.g": 1,
            f"{stem}/call a.between": 1,
            f"{stem}/call a.g/call a.inside": inside,
            f"{stem}/call a.g/call a.cleanup": 1,
        }
        assert result == (capture.span("call a.g").attributes or {})["crucible.result"]
    assert expected == Counter(capture.paths())


@BOTH_WAYS
def test_many_generators_that_are_open_at_once_do_not_mix(capture: Capture, listening: bool) -> None:
    """Of one decorated function, closed in any order."""
    configured(capture, listening)
    function: Any = cx.call("a", "g")(generate)
    generators = [function(3) for _ in range(20)]
    ids = [next(each) for each in generators]
    assert 20 == len(set(ids))
    assert ids == [next(each) for each in generators]
    for each in (*generators[::2], *reversed(generators[1::2])):
        each.close()
    ended = [span.context.span_id for span in capture.named("call a.g")]
    assert [*ids[::2], *reversed(ids[1::2])] == ended
    assert {"/call a.g": 20, "/call a.g/call a.inside": 40, "/call a.g/call a.cleanup": 20} == Counter(capture.paths())


class Broken(Sampler):
    """A sampler with a mistake in it."""

    def should_sample(self, *given: Any, **further: Any) -> SamplingResult:
        raise RuntimeError("a mistake")

    def get_description(self) -> str:
        return "Broken"


@BOTH_WAYS
def test_a_sampler_that_raises_costs_spans_and_nothing_else(
    capture: Capture, listening: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's block runs, its result and its exceptions are its own, and metrics count it."""
    monkeypatch.setattr(providers, "sampler", lambda settings, environ: Broken())
    configured(capture, listening)
    with cx.call("a", "b") as call:
        call.io(3)
    with pytest.raises(KeyError), cx.call("a", "b"):
        raise KeyError
    assert 7 == cx.call("a", "f").run(lambda: 7)
    assert [1, 2] == list(cx.call("a", "g")(lambda: (yield from (1, 2)))())  # type: ignore[misc]
    assert () == capture.spans
    assert 4 == sum(point.value for point in capture.points("crucible.calls"))
