"""Which start an end by name belongs to: that of its context, for every operation and every seed's name of it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import zip_longest
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.events import raw
from crucible_otel.events.runtime import runtime
from crucible_otel.events.scope import Scope, current
from crucible_otel.semconv.registry import ALIASES, EVENTS, OPERATIONS
from tests.captured import Capture

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

PAIRS = [name.removesuffix(".start") for name in (*ALIASES, *EVENTS) if name.endswith(".start")]
ENDS = ("stop", "exception")
S = 10**9
"""A second."""

pairs = pytest.mark.parametrize("pair", PAIRS)


def begin(pair: str, mark: object) -> None:
    """Start an operation that is called like all others; the mark stands on its span."""
    cx.execute(f"{pair}.start", {}, {"begun": mark})


def end(pair: str, mark: object, how: str = "stop", duration: int | None = S) -> None:
    """End one, without a word about which."""
    cx.execute(f"{pair}.{how}", {} if duration is None else {"duration": duration}, {"ended": mark})


def marks(capture: Capture) -> list[tuple[Any, Any]]:
    """Return the marks of the start and of the end of each span, sorted."""
    return sorted((span.attributes["begun"], span.attributes["ended"]) for span in capture.spans)


def operation_of(pair: str) -> str:
    """Return the name of ours for what a pair starts and ends."""
    name = f"{pair}.start"
    return EVENTS[ALIASES[name].targets[0] if name in ALIASES else name].operation


def around(scope: Scope | None) -> Iterator[Scope]:
    """Yield a scope and those around it."""
    while scope is not None:
        yield scope
        scope = scope.parent


def test_every_operation_has_its_pairs_here() -> None:
    """By our name and by each seed's."""
    assert {*OPERATIONS} == {operation_of(pair) for pair in PAIRS}
    assert {*OPERATIONS} <= {*PAIRS}
    assert {
        "crucible_kitchen",
        "crucible_train",
        "crucible_framework",
        "crucible_deployment",
        "snakepit",
        "tinkex",
    } <= {pair.partition(".")[0] for pair in PAIRS}


@pytest.mark.parametrize("how", ENDS)
@pairs
def test_the_innermost_of_equals_ends_first(capture: Capture, pair: str, how: str) -> None:
    """Three inside each other, each with a second one after it: parents and ends are those of the nesting."""
    capture.configure()
    for depth in range(3):
        begin(pair, depth)
    for depth in (2, 1, 0):
        begin(pair, depth + 10)
        end(pair, depth + 10, how)
        end(pair, depth, how)
    assert [(each, each) for each in (0, 1, 2, 10, 11, 12)] == marks(capture)
    begun = {span.context.span_id: span.attributes["begun"] for span in capture.spans}
    assert {0: None, 1: 0, 2: 1, 12: 2, 11: 1, 10: 0} == {
        span.attributes["begun"]: None if span.parent is None else begun[span.parent.span_id] for span in capture.spans
    }
    assert {} == runtime().open_scopes


def work(pair: str, name: str, pause: Callable[[], Any]) -> None:
    """Make one inside another, giving way between their events."""
    begin(pair, f"{name} outer")
    pause()
    begin(pair, f"{name} inner")
    pause()
    end(pair, f"{name} inner")
    pause()
    end(pair, f"{name} outer")


def in_threads(pair: str) -> None:
    """Two threads that know nothing of each other."""
    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(pair, name, barrier.wait)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_threads_inside(pair: str) -> None:
    """Two threads that began inside what is open here."""
    barrier = threading.Barrier(2)
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(work, pair, name, barrier.wait)) for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_tasks(pair: str) -> None:
    """Two tasks that give way between their events."""

    async def task(name: str) -> None:
        begin(pair, f"{name} outer")
        await asyncio.sleep(0)
        begin(pair, f"{name} inner")
        await asyncio.sleep(0)
        end(pair, f"{name} inner")
        await asyncio.sleep(0)
        end(pair, f"{name} outer")

    async def main() -> None:
        await asyncio.gather(*(task(name) for name in "ab"))

    asyncio.run(main())


def in_generators(pair: str) -> None:
    """Two generators that are consumed in turn, each an operation of its own."""

    @cx.span("generator")
    def generator(name: str) -> Iterator[None]:
        begin(pair, f"{name} outer")
        yield
        begin(pair, f"{name} inner")
        yield
        end(pair, f"{name} inner")
        yield
        end(pair, f"{name} outer")

    for _ in zip_longest(generator("a"), generator("b")):
        pass


def in_streams(pair: str) -> None:
    """Two asynchronous generators that one task consumes in turn, each an operation of its own."""

    @cx.span("stream")
    async def stream(name: str) -> AsyncIterator[int]:
        begin(pair, f"{name} outer")
        yield 1
        begin(pair, f"{name} inner")
        yield 2
        end(pair, f"{name} inner")
        yield 3
        end(pair, f"{name} outer")

    async def main() -> None:
        one, other = stream("a"), stream("b")
        while await anext(one, None) == await anext(other, None) is not None:
            pass

    asyncio.run(main())


@pytest.mark.parametrize("run", [in_threads, in_threads_inside, in_tasks, in_generators, in_streams])
@pairs
def test_equals_that_interleave_do_not_mix(capture: Capture, pair: str, run: Callable[[str], None]) -> None:
    """Each end means the start of its own thread, task or generator, whatever the others have open."""
    capture.configure()
    begin(pair, "around")
    run(pair)
    end(pair, "around")
    expected = [(f"{name} {where}",) * 2 for name in "ab" for where in ("inner", "outer")]
    found = [
        (span.attributes["begun"], span.attributes["ended"]) for span in capture.spans if "begun" in span.attributes
    ]
    assert sorted([*expected, ("around", "around")]) == sorted(found)
    assert {} == runtime().open_scopes


@pytest.mark.parametrize("how", ENDS)
@pairs
def test_pairs_may_overlap_where_their_ends_tell_which(capture: Capture, pair: str, how: str) -> None:
    """What is ended first may be what was begun first; the context from before is back when both are over."""
    capture.configure()
    field = OPERATIONS[operation_of(pair)].start.fields[0].name
    before = current()
    for name in ("outer", "inner"):
        cx.execute(f"{pair}.start", {}, {field: name, "begun": name})
    for name in ("outer", "inner"):
        cx.execute(f"{pair}.{how}", {"duration": S}, {field: name, "ended": name})
    assert (before, {}) == (current(), runtime().open_scopes)
    cx.execute(f"{pair}.stop", {"duration": S}, {field: "inner", "ended": "again"})
    assert [("inner", "inner"), ("outer", "outer")] == sorted(
        (span.attributes["begun"], span.attributes["ended"]) for span in capture.spans if "begun" in span.attributes
    )
    assert 3 == len(capture.spans)


@pytest.mark.parametrize("how", ENDS)
@pairs
def test_an_end_without_a_start_is_a_span_of_its_duration(capture: Capture, pair: str, how: str) -> None:
    """Inside what is around it, of which it ends nothing; without a duration there is none."""
    capture.configure()
    with cx.span("around"):
        end(pair, "late", how, 2 * S)
        end(pair, "unknown", how, None)
        assert ["late"] == [span.attributes["ended"] for span in capture.spans]
    span, outer = capture.spans
    assert (2 * S, "around", "around") == (span.end_time - span.start_time, capture.parent(span), outer.name)
    assert ("success" if how == "stop" else "failure") == span.attributes["crucible.result"]


@pairs
def test_an_end_after_its_start_has_ended_is_one_without(capture: Capture, pair: str) -> None:
    """The second end of one start does not end what is around it in its place."""
    capture.configure()
    with cx.span("around"):
        begin(pair, 1)
        end(pair, 1)
        end(pair, 2, duration=3 * S)
    ended = (span for span in capture.spans if span.name != "around")
    first, second = sorted(ended, key=lambda span: span.attributes["ended"])
    assert (1, S, 2, 3 * S) == (
        first.attributes["ended"],
        first.end_time - first.start_time,
        second.attributes["ended"],
        second.end_time - second.start_time,
    )
    assert ["around", "around"] == [capture.parent(span) for span in (first, second)]


@pairs
def test_a_failure_without_a_start_has_its_type(capture: Capture, pair: str) -> None:
    """The exception itself, or its type as it was told; recorded once, as one with a start is."""
    capture.configure()
    for error in (ValueError("no"), "no"):
        cx.execute(f"{pair}.exception", {"duration": S}, {"error": error, "reason": error})
    assert [("ValueError", "ERROR", ["ValueError"]), ("_OTHER", "ERROR", ["_OTHER"])] == [
        (
            span.attributes["error.type"],
            span.status.status_code.name,
            [event.attributes["exception.type"] for event in span.events],
        )
        for span in capture.spans
    ]


# -- starts without an end ---------------------------------------------------------------------------------------------


@pairs
def test_starts_that_never_end_do_not_pile_up(capture: Capture, pair: str) -> None:
    """One inside the other there are so many; the oldest is ended as incomplete then, and counted."""
    telemetry = capture.configure()
    with cx.span("around") as outer:
        for number in range(3 * raw._NESTED):
            begin(pair, number)
        assert raw._NESTED + 1 == len(runtime().open_scopes)
        assert raw._NESTED + 3 > len(list(around(current())))
        end(pair, 3 * raw._NESTED - 1)  # the others have not lost their place
        assert outer.scope in around(current())
    evicted = 2 * raw._NESTED
    ended = [span for span in capture.spans if span.name != "around"]
    assert [*range(evicted), 3 * raw._NESTED - 1] == [span.attributes["begun"] for span in ended]
    assert [True] * evicted + [None] == [span.attributes.get("crucible.incomplete") for span in ended]
    assert evicted == capture.value("crucible.sdk.operation.evictions")
    telemetry.shutdown()
    assert {} == runtime().open_scopes
    assert 3 * raw._NESTED == sum("begun" in span.attributes for span in capture.spans)


@pairs
def test_starts_in_contexts_that_are_gone_do_not_pile_up(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, pair: str
) -> None:
    """In threads and tasks that have ended meanwhile; what has been started since is not touched."""
    monkeypatch.setattr(raw, "_OPEN", 5)
    capture.configure()
    for number in range(8):
        contextvars.copy_context().run(begin, pair, number)
    assert 5 == len(runtime().open_scopes)
    assert ([0, 1, 2], {True}) == (
        [span.attributes["begun"] for span in capture.spans],
        {span.attributes["crucible.incomplete"] for span in capture.spans},
    )
    assert 3 == capture.value("crucible.sdk.operation.evictions")


@pairs
def test_starts_whose_ends_come_in_callbacks_do_not_pile_up(capture: Capture, pair: str) -> None:
    """What has ended in a copy of the context is let go, though what begins next is still inside it."""
    capture.configure()
    for number in range(20):
        begin(pair, number)
        contextvars.copy_context().run(end, pair, number)
        assert 2 >= len(list(around(current())))
    ended = [span.attributes for span in capture.spans if "begun" in span.attributes]
    assert [(number, number) for number in range(20)] == [(each["begun"], each["ended"]) for each in ended]


def test_a_workflow_outlives_the_calls_that_were_left_open_in_it(capture: Capture) -> None:
    """Of an operation that piles up only its own kind is ended."""
    capture.configure()
    cx.execute("crucible_kitchen.workflow.run.start", {}, {"workflow": "w"})
    for number in range(2 * raw._NESTED):
        begin("snakepit.call", number)
    cx.execute("crucible_kitchen.workflow.run.stop", {"duration": S}, {"workflow": "w"})
    span = capture.span("run_workflow w")
    assert ("success", S) == (span.attributes["crucible.result"], span.end_time - span.start_time)


def test_what_verbs_have_opened_is_never_ended_to_make_room(capture: Capture) -> None:
    """However many blocks are inside each other, they are meant."""
    capture.configure()
    calls = [cx.call("lib", "f") for _ in range(2 * raw._NESTED)]
    for call in calls:
        call.__enter__()
    cx.snakepit.call_stop(cx.snakepit.call_start("inner"), {"operation": "inner"})
    for call in reversed(calls):
        call.__exit__(None, None, None)
    assert len(calls) + 1 == sum(point.value for point in capture.points("crucible.calls"))
    assert None is capture.value("crucible.sdk.operation.evictions")


def test_what_was_ended_to_make_room_is_let_go(capture: Capture) -> None:
    """Nothing of it stays in memory, though what came after it began inside it."""
    capture.configure()

    def kept() -> int:
        for number in range(2 * raw._NESTED):
            begin("snakepit.call", number)
        gc.collect()
        return sum(isinstance(each, Scope) for each in gc.get_objects())

    assert kept() == kept()
