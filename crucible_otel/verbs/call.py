"""Calls: ``cx.call``."""

from __future__ import annotations

from collections.abc import Callable
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_ITERABLE_COROUTINE
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeVar, cast

from crucible_otel.events.context import current_context
from crucible_otel.events.names import text
from crucible_otel.events.outcome import as_error, result_of
from crucible_otel.events.runtime import runtime
from crucible_otel.events.translate import LONGEST_NS, nanoseconds
from crucible_otel.semconv.call import CALL_OPERATION
from crucible_otel.verbs.given import NANOSECONDS, guarded, whole
from crucible_otel.verbs.quiet import QUIET_CALL
from crucible_otel.verbs.timed import Timed

T = TypeVar("T")

_PHASES = _QUEUE, _SERIALIZE, _EXECUTE, _DESERIALIZE = CALL_OPERATION.stop.parts
_SUSPENDING = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE


def _is_plain(function: object) -> bool:
    """Return whether a call of a function is over when it returns."""
    kind = type(function)
    return kind is BuiltinFunctionType or (kind is FunctionType and not function.__code__.co_flags & _SUSPENDING)  # type: ignore[attr-defined]


def _read(measured: dict[str, int], name: str, value: object) -> None:
    """Note how long a phase took, if that can be read."""
    read = nanoseconds(value)
    if read is None:
        runtime().refuse(f"call({name})", value, NANOSECONDS)
    else:
        measured[name] = read


class Call(Timed):
    """A call; see :func:`call`."""

    _nbytes = 0
    """Bytes that every call made by this object moves."""

    def timing(
        self,
        *,
        queue_ns: int | None = None,
        serialize_ns: int | None = None,
        execute_ns: int | None = None,
        deserialize_ns: int | None = None,
    ) -> None:
        """Say what the time was spent on; of a phase that is told twice the last value counts.

        Together the phases are no longer than the call: what exceeds it is cut, and counted.

        Args:
            queue_ns: Nanoseconds spent waiting for a worker.
            serialize_ns: Nanoseconds spent encoding the arguments.
            execute_ns: Nanoseconds that the function ran.
            deserialize_ns: Nanoseconds spent decoding the result.
        """
        measured = self._measurements
        if type(queue_ns) is int and 0 <= queue_ns < LONGEST_NS:
            measured[_QUEUE] = queue_ns
        elif queue_ns is not None:
            _read(measured, _QUEUE, queue_ns)
        if type(serialize_ns) is int and 0 <= serialize_ns < LONGEST_NS:
            measured[_SERIALIZE] = serialize_ns
        elif serialize_ns is not None:
            _read(measured, _SERIALIZE, serialize_ns)
        if type(execute_ns) is int and 0 <= execute_ns < LONGEST_NS:
            measured[_EXECUTE] = execute_ns
        elif execute_ns is not None:
            _read(measured, _EXECUTE, execute_ns)
        if type(deserialize_ns) is int and 0 <= deserialize_ns < LONGEST_NS:
            measured[_DESERIALIZE] = deserialize_ns
        elif deserialize_ns is not None:
            _read(measured, _DESERIALIZE, deserialize_ns)

    @guarded
    def io(self, nbytes: int) -> None:
        """Count bytes of its arguments or of its result; several calls add up.

        Args:
            nbytes: Bytes.
        """
        size = whole(nbytes, "call.io(nbytes)", least=0)
        if size is not None:
            self._measurements["bytes"] = self._measurements.get("bytes", 0) + size

    def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call a function: one call of this kind, whatever thread makes it.

        Args:
            function: Function, coroutine function or generator function; of the latter two the call lasts until its
                coroutine or generator ends.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            What it returns.
        """
        if _is_plain(function):
            with self._for(function, args, kwargs):
                return function(*args, **kwargs)
        return self(function)(*args, **kwargs)

    def record(
        self,
        duration_ns: int,
        *,
        queue_ns: int | None = None,
        serialize_ns: int | None = None,
        execute_ns: int | None = None,
        deserialize_ns: int | None = None,
        nbytes: int | None = None,
        error: object = None,
    ) -> None:
        """Report a call that has ended just now, such as one that a worker has timed.

        Args:
            duration_ns: Nanoseconds it took.
            queue_ns: Nanoseconds spent waiting for a worker; together the phases are no longer than the call.
            serialize_ns: Nanoseconds spent encoding the arguments.
            execute_ns: Nanoseconds that the function ran.
            deserialize_ns: Nanoseconds spent decoding the result.
            nbytes: Bytes of its arguments and result.
            error: What it failed with: an exception, or words.
        """
        try:
            rest = duration_ns - queue_ns - serialize_ns - execute_ns - deserialize_ns  # type: ignore[operator]
            gate, context, limit_ns, place, now, buffer, full, fold = self._next
            if (
                # Whole numbers only: what is left of others is none. None is negative, so none is above the duration.
                type(rest) is int
                and type(nbytes) is int
                and rest >= 0
                and queue_ns >= 0  # type: ignore[operator]
                and serialize_ns >= 0  # type: ignore[operator]
                and execute_ns >= 0  # type: ignore[operator]
                and deserialize_ns >= 0  # type: ignore[operator]
                and not nbytes >> 53  # it is neither negative nor so large that it is a mistake
                and error is None
                and not self._yields
            ):
                if gate and duration_ns < limit_ns and current_context() is context:
                    buffer.extend(
                        (
                            place, now(), duration_ns,
                            queue_ns, serialize_ns, execute_ns, deserialize_ns, rest, nbytes,
                        )
                    )  # fmt: skip
                    if len(buffer) >= full:
                        fold()
                    return
                phases = queue_ns, serialize_ns, execute_ns, deserialize_ns
                if not self._nbytes and self._row(duration_ns, *phases, rest, nbytes):  # type: ignore[arg-type]
                    return
        except Exception:  # something is not known, no number, or one of another kind that cannot hold the rest
            pass
        self._record(duration_ns, (queue_ns, serialize_ns, execute_ns, deserialize_ns), nbytes, error)

    @guarded
    def _record(self, duration_ns: Any, phases: tuple[Any, ...], nbytes: Any, error: object) -> None:
        current = runtime()
        measured: dict[str, int] = {}
        duration = nanoseconds(duration_ns)
        if duration is None:
            current.refuse("call.record(duration_ns)", duration_ns, NANOSECONDS)
            return
        for name, value in zip(_PHASES, phases, strict=True):
            if value is not None:
                _read(measured, name, value)
        size = whole(nbytes, "call.record(nbytes)", least=0)
        if size is not None or self._nbytes:
            measured["bytes"] = (size or 0) + self._nbytes
        if error is None and not self._yields and self._leaf_of(duration, measured):
            return
        failure = as_error(error)
        self._measurements, yields = {}, self._yields
        self._yields = {}
        spec = CALL_OPERATION.stop if failure is None else CALL_OPERATION.exception
        metadata = {**self.fields, **yields, "result": result_of(failure)}
        current.end_orphan(spec, {"duration": duration, **measured}, metadata, failure, "")

    def _told(self, duration_ns: int) -> None:
        if self._nbytes:
            self._measurements["bytes"] = self._measurements.get("bytes", 0) + self._nbytes


def call(
    library: str,
    function: str,
    *,
    bytes: int | None = None,
    worker_id: object = None,
    device: object = None,
    **fields: Any,
) -> Call:
    """Make a call: a span, its duration and what it was spent on, its result, its bytes.

    Use it around a block, as a decorator of a function, coroutine function or generator, or as
    ``call(library, function).run(f, *args)``. As a decorator each call of the function is one, and ``{argument}`` in
    a name is replaced by that argument. One object may be open several times at once: ``with shared as call`` gives
    each block the one to speak to.

    Args:
        library: Library that is called.
        function: Function of it; few different ones, because both become metric attributes.
        bytes: Bytes of the arguments.
        worker_id: The worker that makes it; on the span only, as the device is.
        device: Where it runs.
        fields: Further attributes of its span and events.
    """
    current = runtime()
    if not current.enabled:
        return cast("Call", QUIET_CALL)
    hot = current.operations.get(CALL_OPERATION.name) if worker_id is None and device is None and not fields else None
    if hot is not None and type(library) is str and type(function) is str:
        made: Call = (hot.patterns.get((library, function)) or _pattern(hot.patterns, library, function))._another()
    else:
        made = _made(library, function, worker_id=worker_id, device=device, **fields)
    if bytes is not None:
        made._nbytes = whole(bytes, "call(bytes)", least=0) or 0
    return made


_PATTERNS = 1024


def _pattern(patterns: dict[tuple[str, str], Call], library: str, function: str) -> Call:
    """Make one from which others of its kind are made: what it finds out for its metrics need not be found again."""
    made = _made(library, function, worker_id=None, device=None)
    if len(patterns) >= _PATTERNS:
        patterns.clear()
    patterns[library, function] = made
    return made


def _made(library: object, function: object, **fields: Any) -> Call:
    names = text(library), text(function)
    identity = {"operation": ".".join(filter(None, names)), "library": names[0], "function": names[1]}
    return Call(CALL_OPERATION, {**identity, **fields})
