"""Events that come in by their names: ours, a seed's, or the user's own.

A raw start makes its operation current, as a verb does; a raw end finds it by the context it happens in, so that
concurrent jobs do not mix. It never ends what a verb has opened. An end that finds nothing becomes a span if it says
how long it took; a start without an end is closed at shutdown, or when too many like it are open. Pairs may overlap:
an end that tells which operation it means finds it also when what it was begun in has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context

from crucible_otel.events.names import EventName, dotted, text
from crucible_otel.events.outcome import Reported, Terminated, result_named
from crucible_otel.events.sanitize import error_text
from crucible_otel.events.scope import Scope, current, innermost
from crucible_otel.events.translate import inward, text_keys
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Operation
from crucible_otel.semconv.registry import ALIASES, EVENTS, OPERATIONS
from crucible_otel.semconv.sdk import USER_EVENT

if TYPE_CHECKING:
    from crucible_otel.events.runtime import Runtime

_EXPECTED_ENDS = 1_024
_OPEN, _NESTED = 10_000, 64
"""Most operations of a kind that raw starts keep open: of a process, and one inside the other."""
_PASSED = otel_context.create_key("crucible-passed")
_MOST_PASSED = 8
"""Of how many open operations a context remembers that what was around them has ended."""


class RawEvents:
    """Where events by name enter a runtime.

    Two seed families may report one thing, a workflow that is a pipeline too: then only the outer start opens it, the
    inner one and its end are known to belong to it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._expected: dict[tuple[str, str, str], int] = {}
        self._open: dict[str, dict[int, Scope]] = {operation: {} for operation in OPERATIONS}

    def execute(self, name: EventName, measurements: object = None, metadata: object = None) -> None:
        """Emit an event by its name."""
        called = dotted(name)
        alias = ALIASES.get(called)
        spec = EVENTS.get(alias.targets[0] if alias is not None else called)
        if spec is None:
            self._runtime.point(USER_EVENT, text_keys(measurements), text_keys(metadata), name=called)
            return
        values, fields = inward(spec, alias, measurements, metadata)
        seed, family = called if alias is not None else "", called.partition(".")[0]
        if spec.hot:
            projection = self._runtime.projection
            if projection is None or not projection.hot(spec, values, fields, seed):
                self._runtime.point(spec, values, fields, alias=seed)
        elif spec.role == "start":
            self._start(OPERATIONS[spec.operation], values, fields, seed, family)
        elif spec.role == "point":
            self._runtime.point(spec, values, fields, alias=seed, error=_exception_in(fields))
        else:
            self._end(spec, values, fields, seed, family)

    def expect(self, scope: Scope, shadowed: Iterable[tuple[str, str]]) -> None:
        """Remember the ends of other families that are still to come for a scope that has ended."""
        for family, told in shadowed:
            if len(self._expected) < _EXPECTED_ENDS:
                key = (scope.operation.name, family, told)
                self._expected[key] = self._expected.get(key, 0) + 1

    def ended(self, scope: Scope) -> None:
        """Take note that a scope that a raw start has opened is closed."""
        self._open[scope.operation.name].pop(id(scope), None)

    def forget(self) -> None:
        """Forget what the parent of a forked process had open and expected."""
        self._expected.clear()
        for scopes in self._open.values():
            scopes.clear()

    def _start(
        self, operation: Operation, measurements: dict[str, Any], metadata: dict[str, Any], seed: str, family: str
    ) -> None:
        outer = current()
        if outer is not None and outer.ended:
            outer.forget_ended()  # its end came in another context, a callback's: this one stays inside for ever
        if outer is not None and outer.operation is operation and outer.family != family and not outer.ended:
            told = _identity(operation, metadata)
            if told in ("", _identity(operation, outer.fields)) or not _identity(operation, outer.fields):
                if len(outer.shadowed) < _EXPECTED_ENDS:
                    outer.shadowed.append((family, told))
                return
        self._make_room(operation, outer)
        scope = self._runtime.open(operation, metadata, alias=seed, measurements=measurements, family=family)
        self._open[operation.name][id(scope)] = scope

    def _make_room(self, operation: Operation, inner: Scope | None) -> None:
        """End the oldest operation of a kind as incomplete when there are too many: its end does not come any more."""
        opened = self._open[operation.name]
        nested, oldest = 0, None
        while inner is not None:
            if inner.operation is operation and inner.family and not inner.ended:
                nested, oldest = nested + 1, inner
            inner = inner.parent
        if nested < _NESTED:
            if len(opened) < _OPEN:
                return
            oldest = _first(opened)
        if oldest is None:
            return
        here = otel_context.get_current()
        evicted = self._runtime.close(oldest, error=Terminated("too many like it are open, and its end did not come"))
        otel_context.attach(here)  # those inside it go on
        oldest.forget_ended()
        if evicted and self._runtime.projection is not None:
            self._runtime.projection.evicted()

    def _end(
        self, spec: EventSpec, measurements: dict[str, Any], metadata: dict[str, Any], seed: str, family: str
    ) -> None:
        operation = OPERATIONS[spec.operation]
        told = _identity(operation, metadata)
        scope = _opened(operation, told, family)
        if (scope is not None and _unshadow(scope, family)) or self._was_expected(operation, family, told):
            return
        error = _exception_in(metadata)
        if error is not None:
            metadata["error"] = error_text(error)
        failed = spec.role == "exception"
        result = result_named(metadata.pop("result", None)) or ("failure" if failed else "")
        if failed and error is None:
            told_as = [metadata.get(name) for name in ("error_type", "kind")]
            kind = next((text(value) for value in told_as if value is not None), "") or "_OTHER"
            error = Reported(text(metadata.get("error", "")), kind)
        if scope is None:
            self._runtime.end_orphan(spec, measurements, {**metadata, "result": result or "success"}, error, seed)
            return
        passed = [each for each in _up_to(current(), scope) if each.family and not each.ended]
        self._runtime.close(scope, error=error, result=result, measurements=measurements, metadata=metadata, alias=seed)
        if passed:
            known = (each for each in _passed() if not each.ended)
            otel_context.attach(otel_context.set_value(_PASSED, (*known, *reversed(passed))[-_MOST_PASSED:]))

    def _was_expected(self, operation: Operation, family: str, told: str) -> bool:
        key = (operation.name, family, told)
        left = self._expected.pop(key, 0)
        if left > 1:
            self._expected[key] = left - 1
        return left > 0


def _identity(operation: Operation, fields: Mapping[str, Any]) -> str:
    """Return what tells two operations of one kind apart, as text; empty where nothing is told."""
    value = fields.get(operation.start.fields[0].name)
    return "" if value is None else text(value)


def _opened(operation: Operation, told: str, family: str) -> Scope | None:
    """Return the innermost operation that a raw end of this family can mean."""
    scope = innermost(operation.name)
    while scope is not None:
        raw = scope.family or any(family == shadowed for shadowed, _ in scope.shadowed)
        if raw and (not told or told == _identity(operation, scope.fields) or not _identity(operation, scope.fields)):
            return scope
        scope = innermost(operation.name, scope.parent) if scope.parent is not None else None
    for passed in reversed(_passed()):
        if passed.operation is operation and not passed.ended and told and told == _identity(operation, passed.fields):
            return passed
    return None


def _up_to(scope: Scope | None, outer: Scope) -> Iterator[Scope]:
    """Yield a scope and those around it, as far as the outer one."""
    while scope is not None and scope is not outer:
        yield scope
        scope = scope.parent


def _passed() -> tuple[Scope, ...]:
    """Return what this context has come out of while it was open."""
    found = otel_context.get_value(_PASSED)
    return found if isinstance(found, tuple) else ()


def _first(scopes: Mapping[int, Scope]) -> Scope | None:
    try:
        return next(iter(scopes.values()), None)
    except RuntimeError:  # another thread has opened or closed one meanwhile: there is a next time
        return None


def _unshadow(scope: Scope, family: str) -> bool:
    found = next((index for index, (other, _) in enumerate(scope.shadowed) if other == family), None)
    if found is not None:
        del scope.shadowed[found]
    return found is not None


def _exception_in(fields: Mapping[str, Any]) -> BaseException | None:
    for name in ("error", "reason", "exception"):
        found = fields.get(name)
        if isinstance(found, BaseException):
            return found
    return None
