"""Rows of whole numbers: folded as what was measured one by one would be, whoever comes in between."""

from __future__ import annotations

import os
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from crucible_otel.events.translate import LONGEST_NS
from crucible_otel.otel import leaves as leaves_module
from crucible_otel.otel import segments as segments_module
from crucible_otel.otel.buffer import SpanBuffer, Under
from crucible_otel.otel.engine import Engine
from crucible_otel.otel.feeds import whole_bound
from crucible_otel.otel.handle import Owner
from crucible_otel.otel.leaves import FULL, Leaves
from crucible_otel.otel.places import Place
from crucible_otel.otel.record import Record, Shape
from crucible_otel.otel.sampling import Sampling
from crucible_otel.otel.segments import Segment, Segments
from crucible_otel.semconv.call import CALL_OPERATION
from crucible_otel.semconv.registry import HOT
from tests.otel.engines import engine, histogram, points, value
from tests.otel.test_segments import CALL, LIMIT, OTHER, OWNER, Found, call, in_threads, inside, opened, within

SPEC = CALL_OPERATION.hot[0]
TOLD = [field for field in CALL_OPERATION.stop.fields if field.measurement and field.attribute]
SHAPE = Shape("call a.f", SpanKind.INTERNAL, {}, tuple(field.attribute for field in TOLD))
DURATION = "crucible.call.duration"
RECORDED = {(feed.metric.name, feed.scale): feed for spec in HOT for feed in spec.feeds if feed.how == "record"}


class Rows:
    """Rows of an engine of their own.

    Args:
        buffer: Keeps the spans.
    """

    def __init__(self, buffer: SpanBuffer | None = None, **options: Any) -> None:
        made, self.clock, _ = engine(**options)
        self.engine: Engine = made
        self.buffer = buffer
        self.leaves = Leaves(made.families[SPEC.name], made, TOLD, buffer=buffer, slow_ns=10**9)
        self.owner: Owner = made.bound(SPEC, ["a", "f", "success", ""], silent=True).owner

    def place(self, above: SpanContext = OWNER) -> Place:
        """Return a place under a parent."""
        under = Under(above, above.trace_id, above.span_id, int(above.trace_flags))
        return Place(self.owner, SHAPE, under, LONGEST_NS, None)

    def put(self, place: Place, duration_ns: int = 7) -> None:
        """Put a row, as a call does."""
        buffer = self.leaves.buffer
        buffer.extend((place, self.clock.time_ns(), duration_ns, 1, 2, 3, 4, duration_ns, 5))
        if len(buffer) >= self.leaves.full:
            self.leaves.fold()


def records(buffer: SpanBuffer) -> list[Record]:
    """Take all spans, those by column too."""
    return [record for some in buffer.fetch_columns() for record in some.records()] + buffer.fetch()


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feed", RECORDED.values(), ids=[name for name, _ in RECORDED])
def test_a_whole_bound_is_the_last_number_of_its_bucket(feed: Any) -> None:
    """The next one is beyond it, as seconds say."""
    for bound in feed.metric.buckets:
        last = whole_bound(bound, feed.scale)
        assert isinstance(last, int)
        assert last * feed.scale <= bound < (last + 1) * feed.scale


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=40), st.data())
def test_rows_are_in_the_buckets_of_their_seconds(durations: list[int], data: st.DataObject) -> None:
    """Together, whatever else is among them, on a bound and beside it."""
    rows = Rows()
    bounds = next(feed.metric.buckets for feed in SPEC.feeds if feed.metric.name == DURATION)
    near = [round(bound * 1e9) + off for bound in bounds for off in (-1, 0, 1)]
    durations = [*durations, *data.draw(st.lists(st.sampled_from(near), max_size=40))]
    place = rows.place()
    for duration_ns in durations:
        rows.put(place, duration_ns)
    found = histogram(rows.engine, DURATION)
    expected = [0] * (len(bounds) + 1)
    for duration_ns in durations:
        expected[bisect_left(bounds, duration_ns * 1e-9)] += 1
    assert (tuple(expected), len(durations)) == (found.buckets, found.count)
    assert (min(durations) * 1e-9, max(durations) * 1e-9) == (found.min, found.max)
    assert pytest.approx(sum(durations) * 1e-9, rel=1e-12) == found.sum
    assert len(durations) == value(rows.engine, "crucible.calls")
    assert 5 * len(durations) == value(rows.engine, "crucible.call.io")


def test_rows_of_several_places_are_told_apart() -> None:
    """Series and parents, in the order in which they were put."""
    rows = Rows(SpanBuffer(clock=engine()[1]))
    assert rows.buffer is not None
    here, there = rows.place(), rows.place(OTHER)
    elsewhere = rows.place()
    elsewhere.owner = rows.engine.bound(SPEC, ["a", "g", "success", ""], silent=True).owner
    for number in range(30):
        rows.put((here, there, elsewhere)[number % 3], number)
    with rows.engine.lock:
        rows.leaves.fold_now()
    assert {"f": 20, "g": 10} == {point.attributes["code.function.name"]: point.value
                                  for point in points(rows.engine, "crucible.calls")}  # fmt: skip
    found = records(rows.buffer)
    assert 30 == len(found)
    lasted = [[record[6] - record[5] for record in found if record[3] == each.span_id] for each in (OWNER, OTHER)]
    assert [[*range(0, 30, 3), *range(2, 30, 3)], [*range(1, 30, 3)]] == lasted


# -- who comes in between ----------------------------------------------------------------------------------------------


def interrupted_at(number: int, files: Sequence[Any], work: Callable[[], object], other: Callable[[], object]) -> bool:
    """Do something, and something else in the middle of it, at a line of these modules; False if there are fewer."""
    lines, names = 0, {each.__file__ for each in files}

    def follow(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in names:
            return None
        if event == "line":
            lines += 1
            if lines == number + 1:
                sys.settrace(None)
                other()
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines > number


def test_a_signal_handler_that_reports_a_call_amid_a_fold_loses_nothing() -> None:
    """At each line of it once: its row waits for the next fold, and it waits for nothing."""
    for number in count():
        rows = Rows(SpanBuffer(clock=engine()[1], most=FULL // 2))
        assert rows.buffer is not None
        place = rows.place()
        for _ in range(FULL - 1):
            rows.put(place)

        def handler(rows: Rows = rows, place: Place = place) -> None:
            for _ in range(3):
                rows.put(place)
            rows.leaves.fold()

        more = interrupted_at(number, [leaves_module, segments_module], lambda: rows.put(place), handler)  # noqa: B023
        total = FULL + (3 if more else 0)
        assert total == value(rows.engine, "crucible.calls")
        assert total == histogram(rows.engine, DURATION).count
        rows.buffer.end_segments()
        found = records(rows.buffer)
        calls = [record for record in found if record[0] is SHAPE]
        assert (total, total) == (len(calls), len({record[2] for record in calls}))
        traces = {record[1] for record in calls} - {OWNER.trace_id}
        assert traces == {record[1] for record in found if record[0] is not SHAPE}
        if not more:
            break
    assert number > 10


def test_a_fold_of_many_places_is_one_that_can_pause() -> None:
    """Whether a collection or a fetch of spans folds: the places are iterated over as who folds wants it."""
    rows, sizes = Rows(SpanBuffer(clock=engine()[1])), list[int]()
    assert rows.buffer is not None
    rows.buffer.folds.append(rows.engine.fold_for_spans)

    def over(items: Sequence[Any]) -> Iterator[Any]:
        sizes.append(len(items))
        return iter(items)

    for fold in (rows.engine.snapshot, lambda over: rows.buffer.fetch_columns(over=over)):
        for _ in range(100):
            rows.put(rows.place())
        fold(over)
        assert 100 in sizes
        sizes.clear()


@pytest.mark.usefixtures("switching")
def test_four_threads_amid_collections_and_fetches_lose_and_double_nothing() -> None:
    """Rows, open calls, and another thread that folds, fetches and ends segments."""
    rows = Rows(SpanBuffer(clock=engine()[1], most=500))
    buffer, over, fetched = rows.buffer, threading.Event(), list[Record]()
    assert buffer is not None
    buffer.folds.append(rows.engine.fold_for_spans)

    def fetch() -> None:
        while not over.is_set():
            buffer.end_segments()
            fetched.extend(records(buffer))
            rows.engine.snapshot()

    def work(index: int) -> None:
        place = rows.place((OWNER, OTHER)[index % 2])
        for number in range(2_000):
            rows.put(place)
            if number % 10 == 0:
                call(buffer, inside(place.under.above))

    thread = threading.Thread(target=fetch)
    thread.start()
    try:
        in_threads(4, work)
    finally:
        over.set()
        thread.join(60)
    assert 8_000 == value(rows.engine, "crucible.calls")
    fetched += records(buffer)
    buffer.end_segments()
    fetched += records(buffer)
    renamed = [(CALL if record[0] is SHAPE else record[0], *record[1:]) for record in fetched]
    found = Found(renamed, OWNER, OTHER, limit=500)
    assert 4 * (2_000 + 200) == len(found.calls)
    assert {record[1] for record in found.roots} == found.sizes.keys() - {OWNER.trace_id, OTHER.trace_id}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_has_no_row_of_its_parents() -> None:
    """Neither their counts nor their spans; its own are there."""
    rows = Rows(SpanBuffer(clock=engine()[1]))
    assert rows.buffer is not None
    place = rows.place()
    for _ in range(20):
        rows.put(place)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for _ in range(30):
                rows.put(place)
            counted = value(rows.engine, "crucible.calls")
            status = 0 if (30, 30) == (counted, len(records(rows.buffer))) else 2
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert 20 == value(rows.engine, "crucible.calls")
    assert 20 == len(records(rows.buffer))


def test_who_cannot_have_the_lock_leaves_the_rows() -> None:
    """A fold in another thread takes them; the call returns at once."""
    rows = Rows()
    place = rows.place()
    with rows.engine.lock:
        for _ in range(3 * FULL):
            rows.put(place)
    assert 3 * FULL == value(rows.engine, "crucible.calls")


# -- exemplars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exemplars", "flags", "expected"),
    [
        ("trace_based", 1, [OWNER.span_id]),
        ("trace_based", 0, []),
        ("always_on", 0, [OWNER.span_id]),
        ("always_off", 1, []),
    ],
)
def test_exemplars_are_of_the_calls_parent(exemplars: str, flags: int, expected: list[int]) -> None:
    """Whatever is current where the rows are folded."""
    rows = Rows(exemplars=exemplars)
    rows.put(rows.place(SpanContext(OWNER.trace_id, OWNER.span_id, False, TraceFlags(flags))), 5_000_000)
    (point,) = points(rows.engine, DURATION)
    assert expected == [each.span_id for each in point.exemplars]
    assert [0.005] * len(expected) == [each.value for each in point.exemplars]


# -- segments ----------------------------------------------------------------------------------------------------------


def numbered(most: int) -> tuple[Segments, list[Segment]]:
    """Return segments with ids in order, and those that ended."""
    ids, ended = count(1_000), list[Segment]()
    return Segments(most, lambda trace_id: (next(ids), next(ids)), ended.append), ended


@given(
    st.integers(1, 12),
    st.lists(st.one_of(st.none(), st.tuples(st.sampled_from([OWNER, OTHER]), st.integers(1, 40))), max_size=12),
)
def test_many_at_once_are_placed_as_one_by_one(most: int, groups: list[tuple[SpanContext, int] | None]) -> None:
    """The same ones in the same segments, and the same segments have ended."""
    (at_once, their_ended), (one_by_one, ended) = numbered(most), numbered(most)
    for group in groups:
        if group is None:
            at_once.close()
            one_by_one.close()
            continue
        owner, size = group
        ids = owner.trace_id, owner.span_id
        shares = at_once.share(*ids, lambda owner=owner: owner, 7, size)  # type: ignore[misc]
        found = [segment.trace_id if segment else 0 for number, segment in shares for _ in range(number)]
        each = [one_by_one.place(*ids, lambda owner=owner: owner, 7) for _ in range(size)]  # type: ignore[misc]
        assert [segment.trace_id if segment else 0 for segment in each] == found
        assert all(number > 0 for number, _ in shares)
    assert [(each.trace_id, each.number) for each in ended] == [(each.trace_id, each.number) for each in their_ended]


def test_a_handler_amid_many_loses_nothing() -> None:
    """A signal handler that makes a call while many are placed: at each line of it once."""
    for number in count():
        made = SpanBuffer(clock=engine()[1], most=LIMIT)
        under = Under(OWNER, OWNER.trace_id, OWNER.span_id, 3)

        def many(made: SpanBuffer = made, under: Under = under) -> None:
            made.add(CALL, under, [1] * 35, [2] * 35, [])

        more = interrupted_at(number, [segments_module], many, lambda: call(made, inside(OWNER)))  # noqa: B023
        made.end_segments()
        found = Found(records(made), OWNER, limit=LIMIT + 1)
        assert 35 + more == len(found.calls)
        assert {record[1] for record in found.roots} == found.sizes.keys() - {OWNER.trace_id}
        if not more:
            break
    assert number > 10


@pytest.mark.usefixtures("switching")
def test_open_calls_and_columns_share_a_trace_and_its_segments() -> None:
    """From four threads at once, of five thousand in all in each trace: 12,000 and those between."""
    made = SpanBuffer(clock=engine()[1], most=5_000)
    under = made.under(OWNER)
    assert under is not None

    def work(index: int) -> None:
        for number in range(30):
            made.add(CALL, under, [1] * 100, [2] * 100, [])
            outer = opened(made, inside(OWNER))
            if number % 3 == index % 3:
                nested = made.under(outer.get_span_context())
                assert nested is not None
                made.add(CALL, nested, [1] * 10, [2] * 10, [])
                call(made, within(outer))
            outer.end()

    in_threads(4, work)
    made.end_segments()
    found = Found(records(made), OWNER, limit=5_000)
    assert 4 * (30 * 101 + 10 * 11) == len(found.calls)
    assert {record[1] for record in found.roots} == found.sizes.keys() - {OWNER.trace_id}


# -- what the sampler says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, 1])
@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("rule", [True, False, None, 2**63])
def test_only_what_holds_for_all_is_known_of_a_parent(flags: int, remote: bool, rule: Any) -> None:
    """A sampled parent of this process under a rule that keeps, and any under one that drops."""
    each = dict.fromkeys(("root", "local_sampled", "local_unsampled", "remote_sampled", "remote_unsampled"), rule)
    made = SpanBuffer(clock=engine()[1], sampling=Sampling(**each))
    above = SpanContext(OWNER.trace_id, OWNER.span_id, remote, TraceFlags(flags))
    under = made.under(above)
    if rule is False:
        assert under is not None
        assert 0 == under.trace_id
    elif rule is True and flags and not remote:
        assert Under(above, above.trace_id, above.span_id, flags) == under
    else:
        assert under is None


def test_the_rate_keeps_its_share_and_all_slow_ones() -> None:
    """Of 4,000 a quarter, within six standard deviations; from the threshold on each."""
    rows = Rows(SpanBuffer(clock=engine()[1], rate=0.25))
    assert rows.buffer is not None
    place = rows.place()
    for number in range(4_100):
        rows.put(place, 10**9 if number % 41 == 0 else 10**9 - 1)
    assert 4_100 == value(rows.engine, "crucible.calls")
    kept = [record[6] - record[5] for record in records(rows.buffer)]
    assert 100 == kept.count(10**9)
    assert 835 < len(kept) - 100 < 1_165
