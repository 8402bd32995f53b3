"""Calls: ``cx.call``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from crucible_otel.events.names import text
from crucible_otel.events.runtime import runtime
from crucible_otel.events.translate import nanoseconds
from crucible_otel.semconv.call import CALL_OPERATION
from crucible_otel.verbs.given import guarded, whole
from crucible_otel.verbs.quiet import QUIET_CALL
from crucible_otel.verbs.timed import Timed

T = TypeVar("T")


class Call(Timed):
    """A call; see :func:`call`."""

    _nbytes = 0
    """Bytes that every call made by this object moves."""

    @guarded
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
        given = {
            "queue_time": queue_ns,
            "serialize_time": serialize_ns,
            "execute_time": execute_ns,
            "deserialize_time": deserialize_ns,
        }
        for name, value in given.items():
            if value is not None:
                read = nanoseconds(value)
                if read is None:
                    runtime().refuse(f"call.timing({name})", value, "a number of nanoseconds is needed")
                else:
                    self._measurements[name] = read

    @guarded
    def io(self, nbytes: int) -> None:
        """Count bytes of its arguments or of its result; several calls add up.

        Args:
            nbytes: Bytes.
        """
        size = whole(nbytes, "call.io(nbytes)", least=0)
        if size is not None:
            self._measurements["bytes"] = self._measurements.get("bytes", 0) + size

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function: one call of this kind, whatever thread makes it.

        Args:
            function: Function, coroutine function or generator function; of the latter two the call lasts until its
                coroutine or generator ends.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            What it returns.
        """
        return self(function)(*args, **kwargs)

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
    a name is replaced by that argument.

    Args:
        library: Library that is called.
        function: Function of it; few different ones, because both become metric attributes.
        bytes: Bytes of the arguments.
        worker_id: The worker that makes it; on the span only, as the device is.
        device: Where it runs.
        fields: Further attributes of its span and events.
    """
    if not runtime().enabled:
        return cast("Call", QUIET_CALL)
    names = text(library), text(function)
    identity = {"operation": ".".join(filter(None, names)), "library": names[0], "function": names[1]}
    made = Call(CALL_OPERATION, {**identity, "worker_id": worker_id, "device": device, **fields})
    made._nbytes = whole(bytes, "call(bytes)", least=0) or 0
    return made
