"""Spans of the user's own."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast, overload

from crucible_otel.events.names import EventName, dotted
from crucible_otel.events.outcome import as_error, result_named
from crucible_otel.events.runtime import Runtime, runtime
from crucible_otel.events.scope import Scope
from crucible_otel.semconv.fields import CONTEXT, FAILURE, OUTCOME
from crucible_otel.semconv.model import Event, Operation
from crucible_otel.verbs.given import guarded, mapping
from crucible_otel.verbs.managed import Managed
from crucible_otel.verbs.quiet import NOTHING

logger = logging.getLogger("crucible_otel")
T = TypeVar("T")


@functools.lru_cache(maxsize=1024)
def _operation(name: str) -> Operation:
    def part(suffix: str, role: Any, fields: Any) -> Event:
        return Event(name=f"{name}.{suffix}", brief=name, role=role, operation=name, fields=fields, logged=False)

    return Operation(
        name=name,
        span=name.replace("{", "(").replace("}", ")"),
        start=part("start", "start", CONTEXT),
        stop=part("stop", "stop", (*OUTCOME, *CONTEXT)),
        exception=part("exception", "exception", (*FAILURE, *CONTEXT)),
    )


class UserSpan(Managed):
    """A span of the user's own; see :func:`span`."""


@overload
def span(name: EventName, metadata: Mapping[str, Any] | None = None) -> UserSpan: ...
@overload
def span(name: EventName, metadata: Mapping[str, Any] | None, function: Callable[[], T]) -> T: ...
def span(name: EventName, metadata: Mapping[str, Any] | None = None, function: Callable[[], T] | None = None) -> Any:
    """Make a span around a block, a decorated function, or the call of a function without arguments.

    Handlers get ``{name}.start`` and then ``{name}.stop`` or ``{name}.exception``, with the same metadata.

    Args:
        name: Name of the span and prefix of its events, used as given.
        metadata: Attributes of the span, fields of its events.
        function: Called inside the span if given.

    Returns:
        A context manager and decorator, or what ``function`` returns.
    """
    if not runtime().enabled:
        return cast("UserSpan", NOTHING) if function is None else function()
    managed = UserSpan(_operation(dotted(name)), mapping(metadata, "span(metadata)"))
    if function is None:
        return managed
    with managed:
        return function()


class SpanRef:
    """A span that was started by hand; pass it to :func:`end_span`."""

    __slots__ = ("_runtime", "_scope")

    def __init__(self, runtime: Runtime | None, scope: Scope | None) -> None:
        self._runtime, self._scope = runtime, scope

    def _end(self, metadata: dict[str, Any], error: BaseException | None) -> bool:
        if self._runtime is None or self._scope is None:
            return True
        told = metadata.pop("result", None) if error is None else None
        result = result_named(told)
        if told is not None and not result:
            metadata["result_text"] = told
        return self._runtime.close(self._scope, error=error, result=result, metadata=metadata)


def start_span(name: EventName, metadata: Mapping[str, Any] | None = None) -> SpanRef:
    """Start a span that is ended by hand, in whatever thread; it does not become current.

    One that is never ended is closed at shutdown and marked as incomplete.

    Args:
        name: Name of the span and prefix of its events.
        metadata: Attributes of the span.
    """
    current = runtime()
    if not current.enabled:
        return SpanRef(None, None)
    given = mapping(metadata, "start_span(metadata)")
    return SpanRef(current, current.open(_operation(dotted(name)), given, enter=False))


@guarded
def end_span(
    ref: SpanRef, metadata: Mapping[str, Any] | None = None, *, error: BaseException | str | None = None
) -> None:
    """End a span that :func:`start_span` started; ending it twice is a warned no-op.

    Args:
        ref: What :func:`start_span` returned.
        metadata: Further attributes; ``result`` says how it ended.
        error: The exception it ended with, or what went wrong in words.
    """
    if not isinstance(ref, SpanRef):
        logger.warning("end_span: not a span reference")
    elif not ref._end(mapping(metadata, "end_span(metadata)"), as_error(error)):
        logger.warning("end_span: the span has ended already")
