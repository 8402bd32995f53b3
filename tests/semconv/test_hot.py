"""What the tables may say of hot events: how they share metrics."""

from __future__ import annotations

import pytest

from crucible_otel.otel.group import grouped
from crucible_otel.semconv.registry import EVENTS, HOT, KEPT_HOT, OPERATIONS

GROUPS = grouped(HOT)
COMMUTE = {"count", "sum", "add", "take", "record"}


def names(events: list[str]) -> list[str]:
    """Return the full names of events of ours."""
    return [f"crucible.{event}" for event in events]


def test_events_that_feed_one_metric_share_their_series() -> None:
    """What is allocated and what is released; nothing else so far."""
    together = [sorted(spec.name for spec in group) for group in GROUPS if len(group) > 1]

    assert [names(["memory.allocate", "memory.release"])] == together


@pytest.mark.parametrize("group", GROUPS, ids=[group[0].name for group in GROUPS])
def test_the_metrics_of_a_group_have_the_attributes_of_its_series(group: list[object]) -> None:
    """A series is told apart by what no feed fixes, which is the same for each of them."""
    feeds = [feed for spec in HOT if spec in group for feed in spec.feeds if not feed.each]
    free = {tuple(name for name in feed.metric.attributes if name not in feed.constants) for feed in feeds}

    assert 1 == len(free)
    assert [] == [feed.metric.name for feed in feeds if not {*feed.constants} <= {*feed.metric.attributes}]


def test_a_metric_is_kept_in_one_place() -> None:
    """Other events that feed what hot ones do are those of hot operations, whose records they make."""
    others = {feed.metric.name for spec in EVENTS.values() if not spec.hot for feed in spec.feeds}
    of_operations = {feed.metric.name for spec in OPERATIONS.values() for record in spec.hot for feed in record.feeds}

    assert of_operations == KEPT_HOT & others


def test_all_records_of_an_operation_are_made_by_its_end() -> None:
    """Each metric that its events feed is in one of them, but for gauges."""
    for spec in OPERATIONS.values():
        fed = [feed.metric for part in (spec.stop, spec.exception) for feed in part.feeds]
        records = [feed.metric.name for record in spec.hot for feed in record.feeds]

        assert not spec.hot or sorted(records) == sorted({each.name for each in fed if each.kind != "gauge"})


def test_what_several_events_do_to_a_metric_may_be_done_in_any_order() -> None:
    """Each has a buffer of its own, and nobody knows which is folded first."""
    fed: dict[str, list[tuple[str, str]]] = {}
    for spec in HOT:
        for feed in spec.feeds:
            fed.setdefault(feed.metric.name, []).append((spec.name, feed.how))

    assert [] == [
        (metric, how)
        for metric, feeds in fed.items()
        if len({event for event, _ in feeds}) > 1
        for _, how in feeds
        if how not in COMMUTE
    ]


def test_a_metric_that_feeds_share_within_an_event_is_told_apart_by_constants() -> None:
    """Otherwise two points would have the same attributes."""
    for spec in HOT:
        keys = [(feed.metric.name, *feed.constants.items()) for feed in spec.feeds]

        assert len(keys) == len(set(keys))


def test_only_numbered_events_have_gauges() -> None:
    """A value that is not finite is told with the number of the event."""
    assert [] == [spec.name for spec in HOT for feed in spec.feeds if feed.metric.kind == "gauge" and not spec.sequence]


def test_adding_and_taking_are_for_hot_events() -> None:
    """A structural event counts up at its start and down at its end."""
    assert [] == [
        event.name
        for event in EVENTS.values()
        if not event.hot
        for feed in event.feeds
        if feed.how in ("add", "take") or (feed.how == "set" and feed.metric.kind != "gauge")
    ]
