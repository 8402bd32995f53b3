"""The handlers that a configuration asks for, made before anything else is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from crucible_otel.config.settings import Settings
from crucible_otel.errors import ConfigurationError
from crucible_otel.events.bus import Filter, check_delivery
from crucible_otel.events.handler import BuiltHandler
from crucible_otel.handlers import build


class Attachment(NamedTuple):
    """A handler that is to be attached, and how.

    Attributes:
        handler: The handler, which is made but does nothing yet.
        filter: Which events it gets; None for all.
        every: Of the point events of a name only the first, and then every Nth.
    """

    handler: BuiltHandler
    filter: Filter | None
    every: int


def from_settings(settings: Settings) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Return the kinds that the settings name, and their options."""
    return [(kind, {"path": settings.jsonl_path} if kind == "jsonl" else {}) for kind in settings.handlers]


def wanted_handlers(handlers: object) -> list[Attachment]:
    """Make the handlers that are asked for, before anything else is: a mistake leaves nothing behind.

    Args:
        handlers: Kinds, or pairs of a kind and its options.

    Raises:
        ConfigurationError: What is neither, or an option that cannot be used.
        UnknownHandlerError: There is no such kind.
    """
    accepted = "handler kinds, or pairs of a kind and its options"
    made = []
    for each in (handlers,) if isinstance(handlers, str) else handlers if isinstance(handlers, Iterable) else (None,):
        pair: Any = (each, {}) if isinstance(each, str) else each
        usable = isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[1], Mapping)
        if not usable or not isinstance(pair[0], str):
            raise ConfigurationError("handlers", handlers, accepted)
        options = dict(pair[1])
        options.pop("replace", None)
        filter, every = check_delivery(options.pop("filter", None), options.pop("every", 1))
        made.append(Attachment(build(pair[0], **options), filter, every))
    return made
