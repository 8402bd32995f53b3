"""The subscribers of the bus that come with the package, one module a kind, loaded when asked for.

A kind's module has a factory ``make(**options) -> BuiltHandler``; the options are its keyword parameters.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from crucible_otel.errors import ConfigurationError, UnknownHandlerError
from crucible_otel.events.handler import BuiltHandler
from crucible_otel.events.runtime import runtime

__all__ = ["KINDS", "build"]

KINDS: Final[dict[str, str]] = {
    "console": "crucible_otel.handlers.console",
    "jsonl": "crucible_otel.handlers.jsonl",
}
"""Kind -> the module that makes it."""


def build(kind: str, **options: Any) -> BuiltHandler:
    """Make a handler of a kind; nothing runs before its first event.

    Args:
        kind: One of :data:`KINDS`.
        options: What the kind's factory takes; ``id`` replaces the default id of every kind.

    Raises:
        UnknownHandlerError: There is no such kind.
        ConfigurationError: An option that the kind does not have, or a value that it cannot use.
    """
    if kind not in KINDS:
        raise UnknownHandlerError(str(kind), KINDS)
    make = import_module(KINDS[kind]).make
    given_id = options.pop("id", None)
    if given_id is not None and not (isinstance(given_id, str) and given_id):
        raise ConfigurationError("id", given_id, "a non-empty string")
    known = tuple(inspect.signature(make).parameters)
    for name, value in options.items():
        if name not in known:
            raise ConfigurationError(name, value, f"the options of {kind!r}: {', '.join(sorted((*known, 'id')))}")
    built: BuiltHandler = make(**options)
    return built if given_id is None else dataclasses.replace(built, id=given_id)


class _Room(ModuleType):
    """A module that can be called like the verb of its name.

    Importing it puts it into the package under the name of the verb ``handlers``, whatever stood there.
    """

    def __call__(self, prefix: str = "") -> dict[str, tuple[str, ...] | None]:
        """Return what is attached: id -> the names it subscribes to, None for everything."""
        return runtime().bus.handlers(prefix)


sys.modules[__name__].__class__ = _Room
