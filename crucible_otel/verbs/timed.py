"""What calls and inferences have in common: the short way of an operation to which nobody listens."""

from __future__ import annotations

from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span

from crucible_otel.events.runtime import Runtime, runtime
from crucible_otel.events.sanitize import Refusals, attribute
from crucible_otel.events.scope import NOTHING, Scope, in_context
from crucible_otel.otel.buffer import SPAN_KEY, THINNED
from crucible_otel.otel.operations import Prepared
from crucible_otel.otel.parts import divide
from crucible_otel.verbs.managed import Managed

_SECOND_NS = 1e9


class _Open(NamedTuple):
    """What is open.

    Attributes:
        owner: The object that opened it.
        runtime: What was configured.
        prepared: What it has in common with others like it.
        span: Its span, if any.
        outside: The context it was opened in.
        inner: The context inside it.
        started_s: When, by the monotonic clock.
        started_ns: When, in nanoseconds since the epoch.
        generation: Of the process that opened it.
    """

    owner: Timed
    runtime: Runtime
    prepared: Prepared
    span: Span | None
    outside: Context
    inner: Context
    started_s: float
    started_ns: int
    generation: int

    def inside(self) -> Context:
        """Return the context that is current inside it."""
        return self.inner

    def abandon(self, error: BaseException) -> None:
        """End it because telemetry ends."""
        self.owner._abandon(self, error)


class Timed(Managed):
    """A hot operation around a block or a function."""

    _ready: Prepared | None = None

    def __enter__(self: T) -> T:
        """Start it and make it current."""
        self._begin(enter=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it; an exception travels on."""
        self._end(error)

    def _begin(self, *, enter: bool) -> Any:
        current = runtime()
        hot = current.operations.get(self._operation.name)
        if hot is None or not hot.direct:
            return super()._begin(enter=enter)
        context = otel_context.get_current()
        scope = in_context(context)
        inherited = scope.inherited if scope is not None else NOTHING
        ready = self._ready
        if ready is None or ready.inherited is not inherited or ready.hot is not hot:
            ready = self._ready = hot.prepare(self.fields, inherited)
        started_ns = hot.time_ns()
        span = hot.start(ready.start, context, started_ns)
        inner = Context(context) if span is None or span is THINNED else Context({**context, SPAN_KEY: span})
        entry = _Open(self, current, ready, span, context, inner, hot.now(), started_ns, hot.generation)
        hot.running[id(inner)] = entry
        if enter:
            otel_context.attach(inner)
        return entry

    def _end(self, error: BaseException | None = None) -> None:
        ready = self._ready
        if ready is None or not ready.hot.running:
            super()._end(error)
            return
        hot = ready.hot
        here = otel_context.get_current()
        entry = hot.running.pop(id(here), None)
        if entry is not None and entry.owner is self:
            otel_context.attach(entry.outside)
        else:
            entry = self._found(entry, here)
            if entry is None:
                super()._end(error)
                return
        try:
            self._finish(hot, entry, error)
        except Exception as fault:
            entry.runtime.fault(self._operation.name, fault)
        finally:
            if self._measurements or self._yields or self._result:
                self._measurements, self._yields, self._result = {}, {}, ""

    def _finish(self, hot: Any, entry: _Open, error: BaseException | None) -> None:
        duration_s = hot.now() - entry.started_s
        if entry.generation != hot.generation:
            return
        if duration_s < 0.0:
            duration_s = 0.0
        ready = entry.prepared
        if error is not None or self._result:
            self._at_length(hot, entry, error, duration_s)
            return
        duration_ns = round(duration_s * _SECOND_NS)
        self._told(duration_ns)
        at, told, span = entry.started_s + duration_s, self._measurements, entry.span
        if not told:
            for put in ready.plain:
                put(at, duration_s)
        else:
            if self._operation.stop.parts and divide(self._operation.stop, told, duration_ns):
                entry.runtime.projection.refused()  # type: ignore[union-attr]
            for put_told in ready.told:
                put_told(at, duration_s, told.get)
            for set_gauge in ready.gauges:
                set_gauge(told.get)
        if span is THINNED:
            span = (
                hot.start(ready.start, entry.outside, entry.started_ns, kept=True) if duration_s >= hot.slow_s else None
            )
        if span is not None:
            more = self._more(entry) if self._yields else NOTHING
            hot.finish(ready, span, entry.started_ns + duration_ns, told, more)

    def _abandon(self, entry: _Open, error: BaseException) -> None:
        """End one that is still open when telemetry ends."""
        try:
            self._at_length(entry.prepared.hot, entry, error, max(0.0, entry.prepared.hot.now() - entry.started_s))
        except Exception as fault:
            entry.runtime.fault(self._operation.name, fault)

    def _at_length(self, hot: Any, entry: _Open, error: BaseException | None, duration_s: float) -> None:
        """End one that did not end well the way of all events."""
        ready, span = entry.prepared, entry.span
        self._told(round(duration_s * _SECOND_NS))
        if span is THINNED:
            span = hot.start(ready.start, entry.outside, entry.started_ns, kept=True)
        scope = Scope(
            self._operation, dict(ready.metadata), in_context(entry.outside), entry.started_s, entry.started_ns
        )
        scope.span, scope.context = span, entry.inner
        entry.runtime.close(
            scope,
            error=error,
            result=self._result if error is None else "",
            measurements={"duration": round(duration_s * _SECOND_NS), **self._measurements},
            metadata=self._yields,
        )

    def _more(self, entry: _Open) -> dict[str, Any]:
        refusals, known = Refusals(), {field.name: field.attribute for field in self._operation.stop.fields}
        more = {}
        for name, value in self._yields.items():
            kept = attribute(value, refusals=refusals)
            if kept is not None:
                more[known.get(name) or name] = kept
        entry.prepared.hot.refused(refusals)
        return more

    def _found(self, taken: _Open | None, here: Context) -> _Open | None:
        """Return the entry that ends where another context is current than inside it: in another task, for one."""
        ready = self._ready
        assert ready is not None
        running = ready.hot.running
        if taken is not None:  # it belongs to another object, which will miss it
            running[id(taken.inner)] = taken
        for key, entry in reversed(list(running.items())):
            if entry.owner is self and running.pop(key, None) is entry:
                if entry.span is not None and here.get(SPAN_KEY) is entry.span:
                    otel_context.attach(entry.outside)
                found: _Open = entry
                return found
        return None

    def _told(self, duration_ns: int) -> None:
        """Hook of the verbs that measure something by the duration."""

    def _ending(self, current: Runtime, scope: Scope) -> None:
        self._told(max(0, round((current.clock.now() - scope.started_s) * _SECOND_NS)))


T = TypeVar("T", bound=Timed)
