"""Calls that are reported whole: rows that leave what the way of all events leaves."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crucible_otel as cx
from crucible_otel.semconv.call import CALL_OPERATION
from crucible_otel.testing import FakeClock, fresh
from tests.captured import Capture, listen
from tests.verbs.test_short_way import described, measured

pytestmark = pytest.mark.usefixtures("no_complaints")

PHASES = ("queue_ns", "serialize_ns", "execute_ns", "deserialize_ns")
ALL = {"queue_ns": 1, "serialize_ns": 20, "execute_ns": 300, "deserialize_ns": 4_000, "nbytes": 5}
DURATION = next(feed.metric for feed in CALL_OPERATION.hot[0].feeds if feed.field == "duration")

# -- the same as the long way ------------------------------------------------------------------------------------------

ON_BOUNDS = [round(bound * 1e9) + off for bound in DURATION.buckets for off in (-1, 0, 1)]
sound = st.one_of(st.integers(0, 10**10), st.sampled_from(ON_BOUNDS))
odd = st.one_of(
    st.none(),
    sound.map(float),
    sound.map(np.int64),
    st.integers(-3, 3),
    st.sampled_from([2**62 - 1, 2**62, 2**63, 10**19, 10**30, -(2**70)]),
    st.sampled_from([0.5, math.nan, math.inf, -1.0, "7", "x", (), np.int32(5), np.uint8(5), np.float32(5), 3 + 0j]),
    st.sampled_from([np.array([1, 2]), np.array(3)]),
)


@st.composite
def whole_calls(draw: st.DrawFn) -> dict[str, Any]:
    """Return a call of which all is known, and that is as long as its parts or longer."""
    told = {phase: draw(sound) for phase in PHASES}
    rest = draw(sound)
    return {"duration_ns": sum(told.values()) + rest, **told, "nbytes": draw(st.integers(0, 2**62))}


@st.composite
def other_calls(draw: st.DrawFn) -> dict[str, Any]:
    """Return a call of which some is unknown, too long, or nothing that can be used."""
    told = draw(whole_calls())
    for name in draw(st.sets(st.sampled_from([*told]), min_size=1, max_size=3)):
        told[name] = draw(odd)
    if draw(st.integers(0, 9)) == 0:
        told["error"] = draw(st.sampled_from([ValueError("bad"), TimeoutError(), "words"]))
    return told


@st.composite
def blocks(draw: st.DrawFn, inside: Any) -> tuple[Any, ...]:
    """Return what is done somewhere else than here."""
    kind = draw(st.sampled_from(["stage", "call", "thread", "task"]))
    return kind, draw(st.lists(inside, max_size=4))


reported = st.tuples(st.just("record"), st.integers(0, 3), st.one_of(whole_calls(), whole_calls(), other_calls()))
statements = st.recursive(
    st.one_of(
        reported,
        reported,
        st.tuples(st.just("set"), st.integers(0, 3)),
        st.tuples(st.just("advance"), st.integers(1, 10**10)),
    ),
    blocks,
    max_leaves=12,
)


class Program:
    """Does what statements say.

    Args:
        clock: Moved by some of them.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.calls = [cx.call("a", "f"), cx.call("a", "g"), cx.call("b", "h", bytes=3), cx.call("a", "f", worker_id=1)]

    def all_of(self, statements: Sequence[Any]) -> None:
        """Do some statements."""
        for statement in statements:
            getattr(self, statement[0])(*statement[1:])

    def record(self, call: int, told: Mapping[str, Any]) -> None:
        """Report a call."""
        self.calls[call].record(**told)

    def set(self, call: int) -> None:
        """Say something of the next one."""
        self.calls[call].set(rows=call)

    def advance(self, ns: int) -> None:
        """Let time pass."""
        self.clock.advance(ns * 1e-9)

    def stage(self, inside: Sequence[Any]) -> None:
        """Do it in a stage."""
        with cx.stage("s"):
            self.all_of(inside)

    def call(self, inside: Sequence[Any]) -> None:
        """Do it in a call."""
        with cx.call("c", "around"):
            self.all_of(inside)

    def thread(self, inside: Sequence[Any]) -> None:
        """Do it in a thread, in a copy of the context."""
        copied = contextvars.copy_context()
        in_threads([lambda: copied.run(self.all_of, inside)])

    def task(self, inside: Sequence[Any]) -> None:
        """Do it in a task."""

        async def act() -> None:
            self.all_of(inside)

        # In a thread, because this may be a task itself.
        copied = contextvars.copy_context()
        in_threads([lambda: copied.run(lambda: asyncio.run(act()))])


def in_threads(works: Sequence[Callable[[], object]]) -> None:
    """Do things at once, each in a thread; what is raised there is raised here."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [] == errors
    assert not any(thread.is_alive() for thread in threads)


def left(program: Sequence[Any], *, listening: bool, **fields: Any) -> dict[str, Any]:
    """Return all that leaves of a program."""
    with fresh():
        capture = Capture()
        clock = capture.stopped(**fields)
        if listening:
            listen("crucible.call.*")
        Program(clock).all_of(program)
        capture.flush()
        told = {
            "paths": capture.paths(),
            "spans": sorted(described(span) for span in capture.spans),
            "logs": len(capture.logs),
            "metrics": measured(capture),
        }
        assert capture.telemetry is not None
        capture.telemetry.shutdown(5)
    return told


@settings(max_examples=12)
@given(st.lists(statements, max_size=8))
def test_it_leaves_what_the_way_of_all_events_leaves(program: list[Any]) -> None:
    """The same spans in the same places, the same counts in the same buckets; sums but for their last digits."""
    expected, found = left(program, listening=True), left(program, listening=False)
    for name in ("paths", "spans", "logs"):
        assert expected[name] == found[name]
    assert expected["metrics"].keys() == found["metrics"].keys()
    for key, numbers in expected["metrics"].items():
        same = found["metrics"][key]
        if len(numbers) > 1:
            assert math.isclose(numbers[1], same[1], rel_tol=1e-9), key
            numbers, same = (numbers[0], *numbers[2:]), (same[0], *same[2:])
        assert numbers == pytest.approx(same, rel=1e-12), key


def test_a_value_on_a_bound_is_in_its_bucket(capture: Capture) -> None:
    """As seconds say, whatever the whole number's own product with a billion says."""
    capture.configure()
    made = cx.call("a", "f")
    with cx.stage("s"):
        for duration_ns in ON_BOUNDS:
            made.record(duration_ns, **{**dict.fromkeys(PHASES, 0), "nbytes": 0})
    expected: dict[float, int] = {}
    for duration_ns in ON_BOUNDS:
        bound = [*DURATION.buckets, math.inf][bisect_left(DURATION.buckets, duration_ns * 1e-9)]
        expected[bound] = expected.get(bound, 0) + 1
    assert expected == capture.buckets("crucible.call.duration")


@pytest.mark.parametrize("wide", [np.uint8(3), np.int32(3), 2**70, -1, "x", []], ids=repr)
def test_a_phase_of_another_kind_costs_no_call(capture: Capture, wide: Any) -> None:
    """A NumPy number is too narrow for the duration: the call is counted, and nothing is raised."""
    capture.configure()
    made = cx.call("a", "f")
    with cx.stage("s"):
        for queue_ns in (1, wide, 1):
            made.record(5_000_000_000, **{**ALL, "queue_ns": queue_ns})
    assert 3 == capture.value("crucible.calls")
    assert 3 == len(capture.named("call a.f"))


REFUSED = "crucible.sdk.refused_attributes"


@pytest.mark.parametrize(("nbytes", "is_said"), [(2**52, True), (2**53, False), (2**63, False), (2**70, False)])
def test_a_size_that_is_a_mistake_costs_no_call(
    capture: Capture, caplog: pytest.LogCaptureFixture, nbytes: int, is_said: bool
) -> None:
    """Neither its span nor the metric says a size, which is counted and said; the others of the chunk do."""
    capture.configure()
    made = cx.call("a", "f")
    with cx.stage("s"):
        for size in (5, nbytes, 7):
            made.record(5_000, **{**ALL, "nbytes": size})
    sizes = [5, nbytes, 7] if is_said else [5, 7]
    found = [(span.attributes or {}).get("crucible.call.io_bytes") for span in capture.named("call a.f")]
    assert 3 == capture.value("crucible.calls") == len(found)
    assert sizes == sorted([size for size in found if size is not None], key=sizes.index)
    assert sum(sizes) == capture.value("crucible.call.io")
    said = [f"call.record(nbytes)={nbytes} cannot be used; a whole number below 2**53 is needed"] * (not is_said)
    assert said == [record.message for record in caplog.records]
    assert (None if is_said else 1) == capture.value(REFUSED, crucible__sdk__refusal__reason="dropped")


@pytest.mark.parametrize("more", [{}, {**ALL, "nbytes": 5}, {"queue_ns": 3}])
@pytest.mark.parametrize(
    ("duration_ns", "is_one"), [(10**18 - 1, True), (10**18, False), (2**62, False), (10**30, False)]
)
def test_a_duration_that_is_a_mistake_is_refused(
    capture: Capture, caplog: pytest.LogCaptureFixture, duration_ns: int, is_one: bool, more: dict[str, int]
) -> None:
    """It would have begun before there was time; a span that begins in 1970 can still be written."""
    capture.configure()
    with cx.stage("s"):
        cx.call("a", "f").record(duration_ns, **more)
        cx.call("a", "f").record(5_000, **more)
    assert 1 + is_one == capture.value("crucible.calls") == len(capture.named("call a.f"))
    assert capture.encoded("spans")
    said = f"call.record(duration_ns)={duration_ns} cannot be used; a number of nanoseconds below 10**18 is needed"
    assert [said] * (not is_one) == [record.message for record in caplog.records]
