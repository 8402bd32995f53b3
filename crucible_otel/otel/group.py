"""The series that hot events share: those that feed one metric, such as what is allocated and what is released.

Each event has its own buffer and its own folds; what they fold into lies here, and here a collection reads it. A
metric that several feeds have a part in, each with its own constant attributes, is read as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from crucible_otel.otel.labels import OVERFLOWING, attributes, label, placed
from crucible_otel.otel.series import Series, state_class
from crucible_otel.otel.snapshot import Histogram, Over, Point
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Feed, Metric
from crucible_otel.semconv.names import OVERFLOW

if TYPE_CHECKING:
    from crucible_otel.otel.engine import Engine

_Key = tuple[str, tuple[tuple[str, str], ...]]


class _Stream(NamedTuple):
    feed: Feed
    slot: Any
    whole: bool


class Group:
    """The series of one hot event, or of several.

    Attributes:
        attributes: Names of the attributes of a series: those of its metrics that no feed fixes.
    """

    def __init__(self, specs: Sequence[EventSpec], engine: Engine) -> None:
        self._engine = engine
        feeds: dict[_Key, Feed] = {}
        for spec in specs:
            for feed in spec.feeds:
                if not feed.each:
                    feeds.setdefault(_key(feed), feed)
        self.state_class, slots = state_class(specs[0].name, [feed.metric for feed in feeds.values()])
        self._slots = dict(zip(feeds, slots, strict=True))
        numbers = {spec.sequence for spec in specs} - {""}
        self._metrics: dict[str, tuple[Metric, list[_Stream]]] = {}
        for key, feed in feeds.items():
            whole = feed.metric.kind != "gauge" or feed.field in numbers
            _, streams = self._metrics.setdefault(feed.metric.name, (feed.metric, []))
            streams.append(_Stream(feed, self._slots[key], whole))
        first = next(iter(feeds.values()))
        self._name = first.metric
        self.attributes = tuple(name for name in first.metric.attributes if name not in first.constants)
        self._series: dict[tuple[str, ...], Any] = {}

    def slot(self, feed: Feed) -> Any:
        """Return where a series keeps what a feed makes."""
        return self._slots[_key(feed)]

    def series(self, labels: Sequence[object]) -> Any:
        """Return the series of an attribute set: its own, or the overflow series beyond the limit."""
        key: tuple[Any, ...] = tuple(label(value) for value in labels)
        found = self._series.get(key)
        if found is None:
            if len(self._series) >= self._engine.cardinality_limit:
                self._engine.overflowed(self._name)
                key = OVERFLOWING
            found = self._series.setdefault(key, self.state_class(key))
        return found

    def points(self, started_ns: int, over: Over = iter) -> Iterable[tuple[Metric, tuple[Point, ...]]]:
        """Return the points of every metric; the engine's lock is held."""
        states = list(self._series.values())
        for metric, streams in self._metrics.values():
            points = [point for stream in streams for point in _of_stream(stream, over(states), started_ns)]
            yield metric, tuple(points if len(streams) == 1 else _one_overflow(points))

    def clear(self) -> None:
        """Start from zero."""
        for state in self._series.values():
            state.clear()


def grouped(specs: Iterable[EventSpec]) -> list[list[EventSpec]]:
    """Return hot events with those that feed a metric of theirs."""
    found: list[list[EventSpec]] = []
    for spec in specs:
        apart, together = [], [spec]
        for group in found:
            if _metrics(group) & _metrics([spec]):
                together = [*group, *together]
            else:
                apart.append(group)
        found = [*apart, together]
    return found


def _metrics(specs: Iterable[EventSpec]) -> set[str]:
    return {feed.metric.name for spec in specs for feed in spec.feeds}


def _key(feed: Feed) -> _Key:
    return feed.metric.name, tuple(feed.constants.items())


def _of_stream(stream: _Stream, states: Iterable[Series], started_ns: int) -> Iterator[Point]:
    feed, slot, whole = stream
    metric = feed.metric
    for state in states:
        if isinstance(slot, str):
            found = getattr(state, slot)
            if found is not None:
                at = attributes(metric, placed(feed, state.values))
                yield Point(at, found.snapshot(), started_ns, found.samples())
            continue
        value = state[slot]
        if math.isfinite(value) and (value or metric.kind != "counter"):
            value = int(value) if whole and value.is_integer() else value
            yield Point(attributes(metric, placed(feed, state.values)), value, started_ns)


def _one_overflow(points: Iterable[Point]) -> Iterator[Point]:
    """Make one point of those of overflow series, which have no attribute to tell them apart."""
    beyond: Point | None = None
    for point in points:
        if OVERFLOW not in point.attributes:
            yield point
        elif beyond is None:
            beyond = point
        else:
            beyond = beyond._replace(
                value=_together(beyond.value, point.value), exemplars=(*beyond.exemplars, *point.exemplars)
            )
    if beyond is not None:
        yield beyond


def _together(one: Any, other: Any) -> int | float | Histogram:
    if not isinstance(one, Histogram):
        found: int | float = one + other
        return found
    return Histogram(
        one.count + other.count,
        one.sum + other.sum,
        min(one.min, other.min),
        max(one.max, other.max),
        tuple(a + b for a, b in zip(one.buckets, other.buckets, strict=True)),
    )
