"""How much one span may hold, as the SDK's settings say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.attributes import BoundedAttributes


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of spans; None is no limit.

    Attributes:
        attributes: Attributes of a span.
        events: Events of a span; of more the newest are kept.
        links: Links of a span; of more the newest are kept.
        event_attributes: Attributes of an event.
        link_attributes: Attributes of a link.
        length: Characters of a text of a span.
        detail_length: Characters of a text of an event or a link.
    """

    attributes: int | None = 128
    events: int | None = 128
    links: int | None = 128
    event_attributes: int | None = 128
    link_attributes: int | None = 128
    length: int | None = None
    detail_length: int | None = None

    def bounded(self, attributes: Mapping[str, Any] | None, most: int | None) -> BoundedAttributes:
        """Return attributes of a span, cut to the limits."""
        return BoundedAttributes(most, attributes, immutable=False, max_value_len=self.length)

    def bounded_detail(self, attributes: Mapping[str, Any] | None, most: int | None) -> BoundedAttributes:
        """Return attributes of an event or a link, cut to the limits."""
        return BoundedAttributes(most, attributes, immutable=True, max_value_len=self.detail_length)

    def hold(self, attributes: Mapping[str, Any], more: int) -> bool:
        """Return whether attributes and so many more need no cut."""
        if self.length is not None:  # any may be a text
            return False
        return self.attributes is None or len(attributes) + more <= self.attributes


def append_bounded(items: list[Any], item: Any, most: int | None) -> int:
    """Append to a list; return whether an old item had to go for it, as a number."""
    items.append(item)
    if most is None or len(items) <= most:
        return 0
    del items[0]  # one for one: other threads append too
    return 1
