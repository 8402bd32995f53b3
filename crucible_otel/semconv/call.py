"""Calls into libraries, often made in a worker that waits, encodes, executes and decodes."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.buckets import CALL_S
from crucible_otel.semconv.build import operation
from crucible_otel.semconv.fields import DEVICE, ERROR_KIND, WORKER
from crucible_otel.semconv.model import Feed, Field, Metric
from crucible_otel.semconv.names import CODE_FUNCTION_NAME, ERROR_TYPE, RESULT

_LIBRARY = "crucible.call.library"
_ATTRIBUTES = (_LIBRARY, CODE_FUNCTION_NAME, RESULT, ERROR_TYPE)


def _duration(name: str, brief: str) -> Metric:
    return Metric(
        name=f"crucible.call.{name}", kind="histogram", unit="s", brief=brief, attributes=_ATTRIBUTES, buckets=CALL_S
    )


DURATION: Final = _duration("duration", "Duration of calls.")
QUEUE: Final = _duration("queue.duration", "Time that calls waited for a worker.")
SERIALIZE: Final = _duration("serialize.duration", "Time spent encoding arguments.")
EXECUTE: Final = _duration("execute.duration", "Time that the called functions ran.")
DESERIALIZE: Final = _duration("deserialize.duration", "Time spent decoding results.")
CALLS: Final = Metric(
    name="crucible.calls", kind="counter", unit="{call}", brief="Calls that ended.", attributes=_ATTRIBUTES
)
IO: Final = Metric(
    name="crucible.call.io", kind="counter", unit="By", brief="Bytes of arguments and results.", attributes=_ATTRIBUTES
)


def _phase(name: str, brief: str) -> Field:
    return Field(
        name=name,
        attribute=f"crucible.call.{name}",
        unit="ns",
        brief=f"{brief}; seconds on the span.",
        measurement=True,
        type="int",
    )


_PHASES = (
    (_phase("queue_time", "Time spent waiting for a worker"), QUEUE),
    (_phase("serialize_time", "Time spent encoding the arguments"), SERIALIZE),
    (_phase("execute_time", "Time that the function ran"), EXECUTE),
    (_phase("deserialize_time", "Time spent decoding the result"), DESERIALIZE),
)
_REST = _phase("unattributed_time", "What the phases leave of the duration, if any is told")

CALL_OPERATION: Final = operation(
    "crucible.call",
    "call {library}.{function}",
    "Call",
    identity=(
        Field(name="operation", attribute="crucible.call.operation", brief="Name of what is done."),
        Field(name="library", attribute=_LIBRARY, brief="Library that is called."),
        Field(name="function", attribute=CODE_FUNCTION_NAME, brief="Function that is called."),
        WORKER,
        DEVICE,
    ),
    yields=(
        *(field for field, _ in _PHASES),
        _REST,
        Field(
            name="bytes",
            attribute="crucible.call.io_bytes",
            unit="By",
            brief="Bytes of its arguments and result.",
            measurement=True,
            type="int",
        ),
        ERROR_KIND,
    ),
    fails=(
        Field(name="kind", attribute="crucible.call.failure_kind", brief="How it failed: error, exit or throw."),
        Field(name="stacktrace", attribute="crucible.call.stacktrace", brief="Where it failed, as the worker says."),
    ),
    on_end=(
        Feed(metric=CALLS, how="count"),
        Feed(metric=DURATION, how="record", field="duration", scale=1e-9),
        *(Feed(metric=metric, how="record", field=field.name, scale=1e-9) for field, metric in _PHASES),
        Feed(metric=IO, how="sum", field="bytes"),
    ),
    logged=False,
    parts=tuple(field.name for field, _ in _PHASES),
    rest=_REST.name,
    hot=True,
)

OPERATIONS: Final = (CALL_OPERATION,)
EVENTS: Final = ()
