"""Hot events that share series, and feeds that share a metric."""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import Any

import pytest

from crucible_otel.otel.engine import FOLD_AT
from crucible_otel.otel.labels import device_label
from crucible_otel.otel.snapshot import Histogram
from crucible_otel.semconv.memory import ALLOCATE_EVENT, ALLOCATED, RELEASE_EVENT, USAGE
from crucible_otel.semconv.names import OVERFLOW
from crucible_otel.semconv.pool import PENDING, SIZE_EVENT, WORKERS, WORKERS_MAX
from crucible_otel.semconv.tensor import SIZE, TENSOR_OP_EVENT

from .engines import engine, points, value

STATE = "crucible.pool.worker.state"
OPERAND = "crucible.tensor_op.operand"
GPU = ("gpu", "cuda:0")


def by(found: Any, attribute: str) -> dict[Any, Any]:
    """Return the points' values by an attribute."""
    return {point.attributes.get(attribute): point.value for point in found}


def test_a_feed_with_constants_has_them_on_its_points() -> None:
    """One event, one metric, a point for each state; other metrics of the event do not have the attribute."""
    one, _, _ = engine()
    one.bound(SIZE_EVENT, ("p",)).record(total=8, idle=3, busy=5)
    assert [
        {"crucible.pool.name": "p", STATE: "idle"},
        {"crucible.pool.name": "p", STATE: "busy"},
    ] == [dict(point.attributes) for point in points(one, WORKERS.name)]
    assert {"idle": 3, "busy": 5} == by(points(one, WORKERS.name), STATE)
    assert {"crucible.pool.name": "p"} == points(one, WORKERS_MAX.name)[0].attributes
    assert () == points(one, PENDING.name)


def test_a_level_is_the_last_one_told() -> None:
    """Also zero; what is no number of workers is refused and changes nothing."""
    one, _, _ = engine()
    handle = one.bound(SIZE_EVENT, ("p",))
    for busy in (5, 2, 0, None, -1, float("nan"), "many"):
        handle.record(busy=busy)
    assert {"busy": 0} == by(points(one, WORKERS.name), STATE)
    assert 3 == value(one, "crucible.sdk.refused_attributes")


def test_no_metric_stands_twice_in_a_snapshot() -> None:
    """However many feeds and events have a part in it; nor have two points of one the same attributes."""
    one, _, _ = engine(limit=2)
    for index in range(4):
        one.bound(SIZE_EVENT, (f"p{index}",)).record(total=8, idle=3, busy=5, queue_depth=1)
        one.bound(ALLOCATE_EVENT, ("gpu", f"cuda:{index}")).record(bytes=10)
        one.bound(RELEASE_EVENT, ("gpu", f"cuda:{index}")).record(bytes=4)
        one.bound(TENSOR_OP_EVENT, (f"op{index}", "cpu")).record(duration=0.1, input_elements=6, output_elements=2)
    metrics = one.snapshot().metrics
    assert [] == [name for name, count in Counter(metric.spec.name for metric in metrics).items() if count > 1]
    for metric in metrics:
        seen = [tuple(sorted(point.attributes.items())) for point in metric.points]
        assert len(seen) == len(set(seen))


def test_the_overflow_series_of_a_shared_metric_is_one_point() -> None:
    """Its levels are added up, its histograms put together: there is nothing to tell them apart by."""
    one, _, _ = engine(limit=1)
    for name in ("p", "q", "r"):
        one.bound(SIZE_EVENT, (name,)).record(idle=3, busy=5)
        one.bound(TENSOR_OP_EVENT, (name, "cpu")).record(input_elements=6, output_elements=2)
    (levels,) = [point.value for point in points(one, WORKERS.name) if OVERFLOW in point.attributes]
    (sizes,) = [point.value for point in points(one, SIZE.name) if OVERFLOW in point.attributes]
    assert 8 == levels
    assert isinstance(sizes, Histogram)
    assert (4, 16.0, 2.0, 6.0, 4) == (sizes.count, sizes.sum, sizes.min, sizes.max, sum(sizes.buckets))


def test_two_events_share_one_series() -> None:
    """What is allocated and released meets in what is in use; each has its own counter besides."""
    one, _, _ = engine()
    allocate, release = one.bound(ALLOCATE_EVENT, GPU), one.bound(RELEASE_EVENT, GPU)
    for _ in range(3):
        allocate.record(bytes=1_000)
    release.record(bytes=400)
    assert (3_000, 400, 2_600) == (
        value(one, ALLOCATED.name),
        value(one, "crucible.memory.released"),
        value(one, USAGE.name),
    )


def test_what_is_back_at_zero_is_still_reported() -> None:
    """All of it was released; that is no reason to vanish from a dashboard."""
    one, _, _ = engine()
    one.bound(ALLOCATE_EVENT, GPU).record(bytes=7)
    one.snapshot()
    one.bound(RELEASE_EVENT, GPU).record(bytes=7)
    assert 0 == value(one, USAGE.name)


def test_what_was_never_told_is_not_reported() -> None:
    """A handle alone is no allocation of nothing."""
    one, _, _ = engine()
    one.bound(ALLOCATE_EVENT, GPU).record(bytes=None)
    assert () == points(one, USAGE.name)


@pytest.mark.parametrize("bad", [-5, float("nan"), float("inf"), "much", 2**60, ("no", "number")], ids=repr)
def test_unusable_sizes_are_refused(bad: Any) -> None:
    """They change no counter, and the good ones around them count."""
    one, _, _ = engine()
    handle = one.bound(ALLOCATE_EVENT, GPU)
    for size in (1, bad, 2):
        handle.record(bytes=size)
    assert (3, 3) == (value(one, ALLOCATED.name), value(one, USAGE.name))
    assert value(one, "crucible.sdk.refused_attributes") >= 1


def test_eight_threads_lose_nothing() -> None:
    """Two events into one series, folded by whoever fills a buffer, while a reader takes snapshots."""
    one, _, _ = engine()
    each, threads = 3 * FOLD_AT, 8

    def work(number: int) -> None:
        allocate, release = one.bound(ALLOCATE_EVENT, GPU), one.bound(RELEASE_EVENT, GPU)
        for _ in range(each):
            allocate.record(bytes=3)
            release.record(bytes=2)

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    while any(thread.is_alive() for thread in running):
        one.snapshot()
    for thread in running:
        thread.join()
    made = threads * each
    assert (3 * made, 2 * made, made) == (
        value(one, ALLOCATED.name),
        value(one, "crucible.memory.released"),
        value(one, USAGE.name),
    )


def test_diverted_they_are_drained_with_their_attributes() -> None:
    """Up-down counters by their change, histograms value by value, each under the constants of its feed."""
    one, _, _ = engine()
    one.divert([WORKERS, USAGE, SIZE])
    one.bound(SIZE_EVENT, ("p",)).record(idle=3, busy=5)
    one.bound(ALLOCATE_EVENT, GPU).record(bytes=7)
    one.bound(TENSOR_OP_EVENT, ("matmul", "cpu")).record(input_elements=6, output_elements=2)
    drained = {
        (spec.name, attributes.get(STATE) or attributes.get(OPERAND)): values
        for spec, attributes, values in one.drain_diverted()
    }
    assert {
        (WORKERS.name, "idle"): [3],
        (WORKERS.name, "busy"): [5],
        (USAGE.name, None): [7],
        (SIZE.name, "input"): [6],
        (SIZE.name, "output"): [2],
    } == drained
    one.bound(SIZE_EVENT, ("p",)).record(idle=4, busy=4)
    one.bound(RELEASE_EVENT, GPU).record(bytes=7)
    changes = [values[0] for _, _, values in one.drain_diverted()]
    assert [1, -1, -7] == changes
    assert {WORKERS.name, USAGE.name, SIZE.name}.isdisjoint(metric.spec.name for metric in one.snapshot().metrics)


def test_a_forked_child_has_none_of_it() -> None:
    """What the parent has in use is the parent's."""
    one, _, _ = engine()
    allocate = one.bound(ALLOCATE_EVENT, GPU)
    allocate.record(bytes=7)
    one.snapshot()
    allocate.record(bytes=7)
    read, write = os.pipe()
    if os.fork() == 0:
        before = value(one, USAGE.name)
        allocate.record(bytes=5)
        os.write(write, repr((before, value(one, USAGE.name))).encode())
        os._exit(0)
    os.wait()
    assert "(None, 5)" == os.read(read, 100).decode()
    assert 14 == value(one, USAGE.name)


def test_shared_handles_tell_their_attributes() -> None:
    """A handler of the event sees what the series is called by."""
    one, _, reports = engine(listened=lambda name: True)
    one.bound(ALLOCATE_EVENT, ("gpu", "")).record(bytes=7)
    assert [({"bytes": 7}, {"type": "gpu"})] == [(each["measurements"], each["metadata"]) for each in reports]


@pytest.mark.parametrize(
    ("expected", "given"),
    [("cuda:0", "cuda:0"), ("cuda:1", ("cuda", 1)), ("cuda:2", 2), ("cpu", "cpu"), ("", None), ("True", True)],
    ids=repr,
)
def test_a_device_has_one_form(expected: str, given: Any) -> None:
    """Names, pairs and numbers of a device are the same device."""
    assert expected == device_label(given)
