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
        length: Characters of a text of a span, an event or a link.
    """

    attributes: int | None = 128
    events: int | None = 128
    links: int | None = 128
    event_attributes: int | None = 128
    link_attributes: int | None = 128
    length: int | None = None

    def bounded(self, attributes: Mapping[str, Any] | None, most: int | None) -> BoundedAttributes:
        """Return attributes of an event, a link or a span, cut to the limits."""
        return BoundedAttributes(most, attributes, immutable=False, max_value_len=self.length)

    def hold(self, attributes: Mapping[str, Any], more: int) -> bool:
        """Return whether attributes and so many more need no cut."""
        if self.length is not None and any(
            isinstance(value, (str, bytes, list, tuple)) for value in attributes.values()
        ):
            return False
        return self.attributes is None or len(attributes) + more <= self.attributes


def append_bounded(items: list[Any], item: Any, most: int | None) -> int:
    """Append to a list; return how many old items had to go for it."""
    items.append(item)
    if most is None or len(items) <= most:
        return 0
    surplus = len(items) - most
    del items[:surplus]
    return surplus
