"""From a feed of a structural event to an update of a metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from crucible_otel.events.event import Event
from crucible_otel.events.translate import text_keys
from crucible_otel.otel.labels import label, labelling
from crucible_otel.otel.values import LARGE, number
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Feed, Metric
from crucible_otel.semconv.names import ERROR_TYPE
from crucible_otel.semconv.registry import KEPT_HOT

Labels = tuple[Any, ...]
Change = tuple[Metric, str, Labels, float]
"""``(metric, how, attribute values, value)``; the value may be NaN or infinite."""

_FAILED = ("failure", "timeout")


class Plan:
    """What one event does to metrics, prepared from its spec."""

    __slots__ = ("_steps",)

    def __init__(self, spec: EventSpec) -> None:
        feeds = (feed for feed in spec.feeds if feed.metric.name not in KEPT_HOT)
        self._steps = tuple((feed, tuple(sources(feed, spec))) for feed in feeds)

    def changes(self, event: Event) -> Iterable[Change]:
        """Return the updates that an event asks for; values that are no numbers give None in place of the value."""
        how: str
        for feed, sources in self._steps:
            if feed.each:
                for name, value in text_keys(event.value(feed.field)).items():
                    read = number(value)
                    if read is not None:
                        yield feed.metric, feed.how, tuple(source(event, name) for source in sources), read
                continue
            if feed.field:
                given = event.value(feed.field)
                read = given if type(given) is int and -LARGE < given < LARGE else number(given)
                if read is None:
                    continue
                how, value = feed.how, read * feed.scale if feed.scale != 1.0 else read
            else:
                how, value = _WITHOUT_FIELD[feed.how]
            yield feed.metric, how, tuple([source(event, "") for source in sources]), value


_WITHOUT_FIELD: dict[str, tuple[str, float]] = {
    "count": ("sum", 1.0),
    "up": ("sum", 1.0),
    "down": ("sum", -1.0),
    "on": ("set", 1.0),
    "off": ("off", 1.0),
}


def sources(feed: Feed, spec: EventSpec) -> Iterable[Callable[[Event, str], str]]:
    """Return what makes each attribute value of a feed's metric of an event and the key of an entry."""
    by_attribute = {field.attribute: field.name for field in spec.fields if field.attribute}
    for name in feed.metric.attributes:
        if name in feed.constants:
            yield _constant(feed.constants[name])
        elif name == feed.each:
            yield _key
        elif name == ERROR_TYPE:
            yield _error_type
        elif name in by_attribute:
            yield _field(by_attribute[name])
        else:
            yield _constant("")


def _constant(value: str) -> Callable[[Event, str], str]:
    return lambda event, key: value


def _key(event: Event, key: object) -> str:
    return label(key)


def _field(name: str) -> Callable[[Event, str], str]:
    read = labelling(name)
    return lambda event, key: read(event.value(name))


def _error_type(event: Event, key: str) -> str:
    return label(event.metadata.get("error_type")) if event.metadata.get("result") in _FAILED else ""
