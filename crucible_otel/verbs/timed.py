"""What calls and inferences have in common: the short way of an operation to which nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TypeAlias, TypeVar

from opentelemetry.context import Context
from opentelemetry.trace import Span

from crucible_otel.events.context import current_context, make_current
from crucible_otel.events.outcome import Terminated, result_of
from crucible_otel.events.runtime import Runtime, runtime
from crucible_otel.events.sanitize import Refusals, attribute
from crucible_otel.events.scope import NOTHING, Scope, in_context
from crucible_otel.otel.buffer import SPAN_KEY, THINNED
from crucible_otel.otel.event_log import FAILED
from crucible_otel.otel.live import LiveSpan
from crucible_otel.otel.operations import HotOperation, Prepared, finish
from crucible_otel.otel.rows import Values
from crucible_otel.verbs.reported import Reported

_SECOND_NS = 1e9
_OWNER: Final = 0
_RUNTIME: Final = 1
_READY: Final = 2
_SPAN: Final = 3
_OUTSIDE: Final = 4
_INSIDE: Final = 5
_STARTED_S: Final = 6
_GENERATION: Final = 8
_Open: TypeAlias = "tuple[Timed, Runtime, Prepared, Span | None, Context, Context, float, int, int]"
"""Who opened it, what was configured, what it has in common with others, its span, the contexts around and inside it,
when it started by the monotonic clock and in ns since the epoch, and the generation of the process."""


class _Begun:
    """What is open, for a generator: it is entered and left with each item."""

    __slots__ = ("_inside",)

    def __init__(self, inside: Context) -> None:
        self._inside = inside

    def inside(self) -> Context:
        """Return the context that is current inside it."""
        return self._inside


class Timed(Reported):
    """A hot operation around a block or a function."""

    _first: Timed | None = None
    """Whose block this stands for, which was open already."""
    _busy = False
    """Whether it is open."""
    _suspended: Context | None = None
    """The context inside it, when it is a generator's, which ends where another one is current."""

    def __enter__(self: T) -> T:
        """Start it and make it current.

        Returns:
            What the block may say something to: this, or where this is open already, in another thread or task or
            around the block, one of its own.
        """
        current = runtime()
        one = self._beside() if self._busy else self
        one._busy = True
        hot = current.operations.get(self._operation.name)
        inside = one._start(current, hot) if hot is not None and hot.direct else None
        if inside is None:
            super(Timed, one)._begin(enter=True)
        else:
            make_current(inside)
        return one

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it; an exception travels on."""
        ready = self._ready
        if ready is None:
            super()._end(error)
            return
        here = current_context()
        entry = ready.hot.running.pop(id(here), None)
        if entry is None or not self._owns(entry):
            self._end_elsewhere(entry, here, error)
            return
        make_current(entry[_OUTSIDE])
        entry[_OWNER]._finish(entry, error)

    def _owns(self, entry: _Open) -> bool:
        owner = entry[_OWNER]
        return owner is self or (owner._first or owner) is (self._first or self)

    def _begin(self, *, enter: bool) -> Any:
        current = runtime()
        hot = current.operations.get(self._operation.name)
        inside = self._start(current, hot) if hot is not None and hot.direct else None
        if inside is None:
            return super()._begin(enter=enter)
        if enter:
            make_current(inside)
        else:
            self._suspended = inside
        return _Begun(inside)

    def _end(self, error: BaseException | None = None) -> None:
        self.__exit__(None, error, None)

    def _for(self: T, function: Callable[..., Any], args: Any, kwargs: Any) -> T:
        one = super()._for(function, args, kwargs)
        one._first, one._busy = None, False
        if self._places:
            one._ready, one._next = None, Timed._next
        else:
            one._origin = self
        return one

    def _another(self: T) -> T:
        """Return one more of this kind, which is never opened itself."""
        one = type(self).__new__(type(self))
        fields = {**self.fields}
        one.__dict__ = {
            **self.__dict__, "fields": fields, "_open": [], "_yields": {}, "_measurements": {}, "_origin": self
        }  # fmt: skip
        return one

    def _beside(self: T) -> T:
        """Return one for another block of this one; it is ended by this one, or by itself."""
        one = self._another()
        one._first, one._open, one._result, one._busy = self._first or self, self._open, "", False
        return one

    def _forget(self) -> None:
        super()._forget()
        self._busy = False

    def _start(self, current: Runtime, hot: HotOperation) -> Context | None:
        """Start it; return the context inside it, None when that went wrong."""
        context = current_context()
        scope = in_context(context)
        inherited = scope.inherited if scope is not None else NOTHING
        ready = self._ready
        try:
            if ready is None or ready.inherited is not inherited or ready.hot is not hot:
                ready = self._prepare(hot, inherited)
            started_ns = hot.time_ns()
            span = hot.start(ready.start, context, started_ns)
        except Exception as fault:  # of the user's sampler, for one
            current.fault(self._operation.name, fault)
            return None
        inside = Context(context) if span is None or span is THINNED else Context({**context, SPAN_KEY: span})
        started_s = hot.now()
        hot.running[id(inside)] = (self, current, ready, span, context, inside, started_s, started_ns, hot.generation)
        return inside

    def _end_elsewhere(self, taken: _Open | None, here: Context, error: BaseException | None) -> None:
        """End it where another context is current than inside it: in another task, or after an attach of the user's."""
        assert self._ready is not None
        hot = self._ready.hot
        if taken is not None:  # it belongs to another object, which will miss it
            hot.running[id(here)] = taken
        left = hot.left.get(id(here))
        if left is not None and self._owns(left):  # it has ended when telemetry did
            del hot.left[id(here)]
            make_current(left[_OUTSIDE])
        elif self._suspended is not None:
            entry = hot.running.pop(id(self._suspended), None)
            if entry is not None:
                entry[_OWNER]._finish(entry, error)
        elif not self._end_found(hot, here, error):
            super()._end(error)

    def _end_found(self, hot: HotOperation, here: Context, error: BaseException | None) -> bool:
        """End the one that the calling context is inside of; else the latest, if none was begun the other way."""
        mine = [entry for entry in list(hot.running.values()) if self._owns(entry)]
        inside = [entry for entry in mine if _is_inside(here, entry[_SPAN])]
        for entry in reversed(inside or ([] if self._open else mine)):
            if hot.running.pop(id(entry[_INSIDE]), None) is entry:
                if inside:
                    make_current(entry[_OUTSIDE])
                entry[_OWNER]._finish(entry, error)
                return True
        return False

    def _finish(self, entry: _Open, error: BaseException | None) -> None:
        _, current, ready, span, outside, _, started_s, started_ns, generation = entry
        hot = ready.hot
        duration_s = hot.now() - started_s
        try:
            if generation != hot.generation:
                return
            if duration_s < 0.0:
                duration_s = 0.0
            if error is not None or self._result:
                self._at_length(entry, error, duration_s)
                return
            duration_ns = round(duration_s * _SECOND_NS)
            self._told(duration_ns)
            values: Values = ()
            if self._measurements:
                values = self._put(current, ready, duration_s, duration_ns)
            else:
                for put in ready.plain:
                    put(duration_s)
            if span is THINNED:
                slow = duration_s >= hot.slow_s
                span = hot.start(ready.start, outside, started_ns, kept=True) if slow else None
            if span is not None:
                more = self._more(entry) if self._yields else None
                finish(ready, span, started_ns + duration_ns, values, more)
        except Exception as fault:
            current.fault(self._operation.name, fault)
        finally:
            self._busy = False
            if self._measurements or self._yields or self._result:
                self._forget()

    def _put(self, current: Runtime, ready: Prepared, duration_s: float, duration_ns: int) -> Values:
        """Put the records of one of which something was measured; return what."""
        measured = self._measurements
        values, cut = ready.hot.values(measured, duration_ns)
        if cut:
            current.projection.refused()  # type: ignore[union-attr]
        for put in ready.told:
            put(duration_s, values)
        for set_gauge in ready.gauges:
            set_gauge(measured.get)
        return values

    def _abandon(self, entry: _Open, error: BaseException) -> None:
        """End one that is still open when telemetry ends; a forked child leaves its parent's to it."""
        self._busy = False
        if entry[_GENERATION] != entry[_READY].hot.generation:
            return
        try:
            self._at_length(entry, error, max(0.0, entry[_READY].hot.now() - entry[_STARTED_S]))
        except Exception as fault:
            entry[_RUNTIME].fault(self._operation.name, fault)

    def _at_length(self, entry: _Open, error: BaseException | None, duration_s: float) -> None:
        """End one that did not end well the way of all events."""
        _, current, ready, span, outside, inside, started_s, started_ns, _ = entry
        duration_ns = round(duration_s * _SECOND_NS)
        self._told(duration_ns)
        if span is THINNED:
            failed = (self._result or result_of(error)) in FAILED or isinstance(error, Terminated)
            kept = failed or duration_s >= ready.hot.slow_s
            span = ready.hot.start(ready.start, outside, started_ns, kept=True) if kept else None
        scope = Scope(self._operation, dict(ready.metadata), in_context(outside), started_s, started_ns)
        scope.span, scope.context = span, inside
        current.close(
            scope,
            error=error,
            result=self._result if error is None else "",
            measurements={"duration": duration_ns, **self._measurements},
            metadata=self._yields,
        )

    def _more(self, entry: _Open) -> dict[str, Any]:
        refusals, known = Refusals(), {field.name: field.attribute for field in self._operation.stop.fields}
        more = {}
        for name, value in self._yields.items():
            kept = attribute(value, refusals=refusals)
            if kept is not None:
                more[known.get(name) or name] = kept
        entry[_READY].hot.refused(refusals)
        return more

    def _told(self, duration_ns: int) -> None:
        """Hook of the verbs that measure something by the duration."""

    def _ending(self, current: Runtime, scope: Scope) -> None:
        self._told(max(0, round((current.clock.now() - scope.started_s) * _SECOND_NS)))


def _is_inside(context: Context, span: Any) -> bool:
    """Return whether a span, or one right inside it, is current in a context."""
    current: Any = context.get(SPAN_KEY)
    if span is None or span is THINNED or current is None:
        return False
    if current is span:
        return True
    span_id = span.get_span_context().span_id
    if type(current) is LiveSpan:
        return bool(current.parent_id == span_id)
    parent = getattr(current, "parent", None)
    return parent is not None and bool(parent.span_id == span_id)


T = TypeVar("T", bound=Timed)
