"""Traces with too many hot spans continue in others, linked to where they belong."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from crucible_otel.export.deciding import rules_of
from crucible_otel.otel import segments
from crucible_otel.otel.buffer import SpanBuffer
from crucible_otel.otel.live import LiveSpan
from crucible_otel.otel.record import Record, Shape
from crucible_otel.semconv.names import SEGMENT_NUMBER
from crucible_otel.semconv.segment import SEGMENT_SPAN
from crucible_otel.testing import FakeClock

CALL = Shape("call", SpanKind.INTERNAL, {})
OWNER = SpanContext(2**70 + 1, 11, False, TraceFlags(3))
OTHER = SpanContext(2**71 + 2, 22, False, TraceFlags(3))
LIMIT = 10


def buffer(**options: Any) -> SpanBuffer:
    """Return a buffer with a low limit."""
    return SpanBuffer(**{"clock": FakeClock(), "most": LIMIT, **options})


def inside(owner: SpanContext) -> Context:
    """Return a context in which a span with this identity is current."""
    return trace.set_span_in_context(NonRecordingSpan(owner), Context())


def within(span: LiveSpan) -> Context:
    """Return a context in which a hot span is current."""
    return trace.set_span_in_context(span, Context())


def opened(into: SpanBuffer, context: Context) -> LiveSpan:
    """Open a span that must be kept."""
    span = into.start(CALL, context, into.clock.time_ns())
    assert isinstance(span, LiveSpan)
    return span


def call(into: SpanBuffer, context: Context) -> int:
    """Make a span; return its id."""
    span = opened(into, context)
    span.end()
    return span.span_id


class Found:
    """What came of it, checked for what must hold whatever was done.

    Args:
        records: All the records.
        owners: The spans around them, which are not among the records.
        limit: Hot spans that one trace may have.
    """

    def __init__(self, records: list[Record], *owners: SpanContext, limit: int = LIMIT) -> None:
        self.calls = [record for record in records if record[0] is CALL]
        self.roots = [record for record in records if record[0] is not CALL]
        assert {SEGMENT_SPAN} >= {record[0].name for record in self.roots}
        ids = Counter(record[2] for record in records)
        assert [] == [span_id for span_id, times in ids.items() if times > 1]
        where = {record[2]: record[1] for record in records} | {owner.span_id: owner.trace_id for owner in owners}
        sizes: Counter[int] = Counter()
        for shape, trace_id, _, parent_id, *_ in records:
            sizes[trace_id] += 1
            if shape is CALL:
                assert where[parent_id] == trace_id, "an orphan"
            else:
                assert 0 == parent_id
        assert max(sizes.values()) <= limit
        self.sizes = sizes
        self.numbers: dict[int, list[int]] = defaultdict(list)
        for record in self.roots:
            (link,) = record[8].links  # type: ignore[union-attr]
            assert where[link.context.span_id] == link.context.trace_id != record[1]
            assert (SEGMENT_NUMBER,) == record[0].fields
            self.numbers[link.context.span_id].append(record[7][0])


def test_a_trace_below_the_limit_stays_whole() -> None:
    """As many as it may have, and no root."""
    made = buffer()
    for _ in range(LIMIT):
        call(made, inside(OWNER))
    made.end_segments()
    found = Found(made.fetch(), OWNER)
    assert ({OWNER.trace_id: LIMIT}, []) == (found.sizes, found.roots)


def test_a_hundred_calls_under_one_stage_continue_in_linked_traces() -> None:
    """Ten stay, and nine and a root are in each segment, which are numbered; the last is full to where it ends."""
    made = buffer()
    ids = [call(made, inside(OWNER)) for _ in range(100)]
    made.end_segments()
    made.end_segments()
    found = Found(made.fetch(), OWNER)
    assert ids == [record[2] for record in found.calls]
    assert [10] * 11 == list(found.sizes.values())
    assert {OWNER.span_id: list(range(2, 12))} == found.numbers
    assert all(record[4] == 3 for record in found.calls + found.roots)


def test_a_limit_of_one_leaves_each_call_with_its_root() -> None:
    """There is no smaller segment than that."""
    made = buffer(most=1)
    for _ in range(5):
        call(made, inside(OWNER))
    made.end_segments()
    found = Found(made.fetch(), OWNER, limit=2)
    assert (5, 4, {OWNER.span_id: [2, 3, 4, 5]}) == (len(found.calls), len(found.roots), found.numbers)


def test_leaves_are_placed_as_open_spans_are() -> None:
    """What had nothing inside it counts the same."""
    made = buffer()
    for number in range(50):
        made.leaf(CALL, inside(OWNER), number, number + 1)
        call(made, inside(OWNER))
    made.end_segments()
    found = Found(made.fetch(), OWNER)
    assert (100, [10] * 11) == (len(found.calls), list(found.sizes.values()))


def test_nested_calls_stay_with_the_call_around_them() -> None:
    """In its trace while that has room; what is more is linked to it."""
    made = buffer()
    for _ in range(20):
        outer = opened(made, inside(OWNER))
        middle = opened(made, within(outer))
        for _ in range(3):
            call(made, within(middle))
        middle.end()
        outer.end()
    made.end_segments()
    found = Found(made.fetch(), OWNER)
    assert 100 == len(found.calls)
    assert set(found.numbers) - {OWNER.span_id} <= {record[2] for record in found.calls}


def test_a_call_that_is_open_for_long_owns_what_is_too_much_of_its_own() -> None:
    """A call of a thousand others: linked to it, not to what is around it."""
    made = buffer()
    outer = opened(made, inside(OWNER))
    for _ in range(30):
        call(made, within(outer))
    outer.end()
    made.end_segments()
    found = Found(made.fetch(), OWNER)
    assert {outer.span_id: [2, 3, 4]} == found.numbers


def test_two_owners_in_one_trace_and_one_in_another_share_no_segment() -> None:
    """Each has its own, from the same limit of its trace on."""
    second = SpanContext(OWNER.trace_id, 12, False, TraceFlags(3))
    made = buffer()
    for _ in range(20):
        for owner in (OWNER, second, OTHER):
            call(made, inside(owner))
    made.end_segments()
    found = Found(made.fetch(), OWNER, second, OTHER)
    assert 60 == len(found.calls)
    assert {OWNER.span_id: [2, 3], second.span_id: [2, 3], OTHER.span_id: [2, 3]} == {
        owner: sorted(numbers) for owner, numbers in found.numbers.items()
    }


def test_numbers_rise_over_flushes() -> None:
    """A segment that a flush has ended is followed by the next number, and ended once."""
    made, records = buffer(), []
    for _ in range(5):
        for _ in range(13):
            call(made, inside(OWNER))
        made.end_segments()
        records += made.fetch()
    found = Found(records, OWNER)
    numbers = found.numbers[OWNER.span_id]
    assert (65, list(range(2, 2 + len(numbers)))) == (len(found.calls), numbers)


def test_a_root_lasts_from_its_first_span_to_its_end() -> None:
    """So that it contains what it holds."""
    clock = FakeClock()
    made = buffer(clock=clock)
    for _ in range(15):
        clock.advance(1)
        call(made, inside(OWNER))
    clock.advance(5)
    made.end_segments()
    (root,) = Found(made.fetch(), OWNER).roots
    start = clock.time_ns() - 20 * 10**9
    assert (start + 11 * 10**9, clock.time_ns()) == (root[5], root[6])


def in_threads(number: int, work: Callable[[int], object]) -> None:
    """Work in so many threads at once."""
    ready = threading.Barrier(number)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        ready.wait(30)
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [] == errors


@pytest.mark.usefixtures("switching")
def test_eight_threads_with_flushes_in_between_lose_and_double_nothing() -> None:
    """Under two owners, nested or not, while another thread ends segments."""
    made = buffer()
    over = threading.Event()

    def flush() -> None:
        while not over.is_set():
            made.end_segments()

    def work(index: int) -> None:
        owner = (OWNER, OTHER)[index % 2]
        for _ in range(200):
            outer = opened(made, inside(owner))
            call(made, within(outer))
            outer.end()

    flushing = threading.Thread(target=flush)
    flushing.start()
    try:
        in_threads(8, work)
    finally:
        over.set()
        flushing.join(60)
    made.end_segments()
    found = Found(made.fetch(), OWNER, OTHER)
    assert 8 * 200 * 2 == len(found.calls)
    roots = {record[1] for record in found.roots}
    assert roots == found.sizes.keys() - {OWNER.trace_id, OTHER.trace_id}
    for owner in (OWNER, OTHER):
        numbers = sorted(found.numbers[owner.span_id])
        assert list(range(2, 2 + len(numbers))) == numbers


def test_a_handler_that_comes_in_the_middle_loses_nothing() -> None:
    """A signal handler that makes a call while the same thread starts a segment: at each line of it once."""
    place, interrupted = 0, True
    while interrupted:
        made, interrupted = buffer(most=2), False
        for _ in range(3):
            call(made, inside(OWNER))
        interrupted = interrupted_at(place, made)
        call(made, inside(OWNER))
        made.end_segments()
        found = Found(made.fetch(), OWNER, limit=3)
        assert 5 + interrupted == len(found.calls)
        assert {record[1] for record in found.roots} == found.sizes.keys() - {OWNER.trace_id}
        place += 1
    assert place > 10


def interrupted_at(place: int, made: SpanBuffer) -> bool:
    """Make a call, and another in the middle of the first one's way through the segments; False if it has ended."""
    lines = 0

    def follow(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != segments.__file__:
            return None
        if event == "line":
            lines += 1
            if lines == place + 1:
                sys.settrace(None)
                call(made, inside(OWNER))
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        call(made, inside(OWNER))
    finally:
        sys.settrace(before)
    return lines > place


def test_what_is_counted_is_bounded() -> None:
    """However many traces, owners and segments there are; those with the most spans are counted on."""
    made = buffer(most=3)
    big = inside(OWNER)
    for _ in range(4):
        call(made, big)
    for number in range(3 * segments._TRACES):
        call(made, inside(SpanContext(number + 1, 5, False, TraceFlags(1))))
        call(made, big)
    made.end_segments()
    known = made._segments
    assert len(known._taken) <= segments._TRACES
    assert len(known._of_owner) <= segments._TRACES
    found = [record for record in made.fetch() if record[0] is CALL and record[1] == OWNER.trace_id]
    assert 3 == len(found)


def test_owners_that_are_forgotten_have_their_roots() -> None:
    """More owners with a segment than are kept: the oldest ends."""
    made = buffer(most=1)
    owners = [SpanContext(1, number + 1, False, TraceFlags(1)) for number in range(segments._TRACES + 10)]
    for owner in owners:
        call(made, inside(owner))
    made.end_segments()
    found = Found(made.fetch(), *owners, limit=2)
    assert (len(owners), len(owners) - 1) == (len(found.calls), len(found.roots))


def test_a_sampler_by_ratio_keeps_all_of_a_segment() -> None:
    """It looks at the trace id alone: that of a segment is kept when that of its trace is."""
    sampler = TraceIdRatioBased(0.01)
    kept = SpanContext(2**70 + 3, 11, False, TraceFlags(3))
    made = buffer(sampling=rules_of(sampler))
    for _ in range(30):
        outer = opened(made, inside(kept))
        call(made, within(outer))
        outer.end()
    made.end_segments()
    found = Found(made.fetch(), kept)
    assert 60 == len(found.calls)
    assert all(
        sampler.should_sample(None, trace_id, "").decision is Decision.RECORD_AND_SAMPLE for trace_id in found.sizes
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_counts_anew_and_ends_no_segment_of_its_parents() -> None:
    """What the parent has open is the parent's to end."""
    made = buffer()
    for _ in range(15):
        call(made, inside(OWNER))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            made.end_segments()
            assert [] == made.fetch()
            for _ in range(15):
                call(made, inside(OWNER))
            made.end_segments()
            found = Found(made.fetch(), OWNER)
            status = 0 if (15, 1) == (len(found.calls), len(found.roots)) else 2
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    made.end_segments()
    found = Found(made.fetch(), OWNER)
    assert (15, 1) == (len(found.calls), len(found.roots))


def test_ids_are_no_ones_elses() -> None:
    """Not of the generator that training code seeds."""

    def ids() -> Mapping[int, int]:
        random.seed(1)
        made = buffer()
        for _ in range(15):
            call(made, inside(OWNER))
        made.end_segments()
        return Found(made.fetch(), OWNER).sizes

    assert {OWNER.trace_id} == ids().keys() & ids().keys()
