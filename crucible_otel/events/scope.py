"""What is open: scopes, and which of them is current.

The current scope travels in the OpenTelemetry context, so that it goes wherever that goes: asyncio tasks,
``contextvars.copy_context``, propagating executors. Contexts are restored by value; no token is held, because a token
is refused in another context and a generator may be closed in any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from crucible_otel.semconv.model import Operation

_KEY = otel_context.create_key("crucible-scope")
NOTHING: Mapping[str, Any] = {}
"""What is inherited outside all scopes."""


class Scope:
    """One operation in progress.

    Attributes:
        operation: Its spec.
        fields: What identifies it, by field name.
        inherited: Fields that events inside it take over when they do not carry them.
        parent: The scope it was opened in.
        context: The context that is current inside it; set by whoever makes the span.
        span: Its span, or None.
        started_s: Monotonic start time.
        started_ns: Wall start time.
        family: First part of the name of the raw event that opened it; empty for the verbs.
        shadowed: Starts of other families for the same thing that are still unmatched: the family, and what it was
            called there.
        handles: Handles of hot events that are recorded in it, by event name.
        labels: The attribute values under which its start went into metrics, by metric; its end undoes just these.
        closings: What the hooks want to be called at its end.
    """

    __slots__ = (
        "_ended",
        "closings",
        "context",
        "family",
        "fields",
        "handles",
        "inherited",
        "labels",
        "operation",
        "parent",
        "prior",
        "shadowed",
        "span",
        "started_ns",
        "started_s",
    )

    def __init__(
        self, operation: Operation, fields: dict[str, Any], parent: Scope | None, started_s: float, started_ns: int
    ) -> None:
        self.operation, self.fields, self.parent = operation, fields, parent
        self.started_s, self.started_ns = started_s, started_ns
        inherited = parent.inherited if parent is not None else NOTHING
        own = {
            field.name: fields[field.name]
            for field in operation.start.fields
            if field.context and fields.get(field.name) is not None
        }
        self.inherited: Mapping[str, Any] = {**inherited, **own} if own else inherited
        self.context: Context | None = None
        self.span: Any = None
        self.prior: Context | None = None
        self.family = ""
        self.shadowed: list[tuple[str, str]] = []
        self.handles: dict[str, Any] = {}
        self.labels: dict[str, tuple[Any, ...]] = {}
        self.closings: tuple[Any, ...] = ()
        self._ended = [False]

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return not self._ended

    def end_once(self) -> bool:
        """Take the right to end it; True for the first caller only, whatever the thread."""
        try:
            self._ended.pop()
        except IndexError:
            return False
        return True

    def inside(self) -> Context:
        """Return the context that is current inside it."""
        return self.context if self.context is not None else carrying(self)

    def enter(self) -> None:
        """Make it current in the calling context."""
        self.prior = otel_context.get_current()
        otel_context.attach(self.inside())

    def leave(self) -> None:
        """Make current what was current before :meth:`enter`, if the calling context is inside it."""
        if self.prior is not None and self in chain(current()):
            otel_context.attach(self.prior)

    def forget_ended(self) -> None:
        """Let go of the scopes around it that have ended: a chain of those whose ends never come would only grow."""
        outer = self.parent
        while outer is not None and outer.ended:
            self.prior, self.parent = outer.prior, outer.parent
            outer = self.parent


def leave_ended() -> None:
    """Come out of the scopes that have ended elsewhere, such as at shutdown, while the calling context was inside."""
    scope = current()
    while scope is not None:
        if scope.ended:
            scope.leave()
        scope = scope.parent


class _Chain:
    """Membership test along the parents of a scope."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Scope | None) -> None:
        self._inner = inner

    def __contains__(self, scope: object) -> bool:
        inner = self._inner
        while inner is not None:
            if inner is scope:
                return True
            inner = inner.parent
        return False


def chain(scope: Scope | None) -> _Chain:
    """Return the scope and its ancestors, for membership tests."""
    return _Chain(scope)


def current() -> Scope | None:
    """Return the innermost scope of the calling context."""
    found = otel_context.get_value(_KEY)
    return found if isinstance(found, Scope) else None


def in_context(context: Context) -> Scope | None:
    """Return the innermost scope of a context."""
    found = context.get(_KEY)
    return found if isinstance(found, Scope) else None


def innermost(operation: str, scope: Scope | None = None) -> Scope | None:
    """Return the innermost open scope of an operation, at or above ``scope`` (the current one by default)."""
    scope = scope if scope is not None else current()
    while scope is not None and (scope.operation.name != operation or scope.ended):
        scope = scope.parent
    return scope


def carrying(scope: Scope, context: Context | None = None) -> Context:
    """Return a context in which ``scope`` is current."""
    return otel_context.set_value(_KEY, scope, context)
