"""Turning values into bytes and back."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.buckets import CALL_S, SIZE_BYTES
from crucible_otel.semconv.fields import CONTEXT
from crucible_otel.semconv.model import Event, Feed, Field, Metric

_FORMAT = "crucible.serialization.format"
_DIRECTION = "crucible.serialization.direction"
DIRECTIONS: Final = ("encode", "decode")

DURATION: Final = Metric(
    name="crucible.serialization.duration",
    kind="histogram",
    unit="s",
    brief="Duration of encoding and decoding.",
    attributes=(_FORMAT, _DIRECTION),
    buckets=CALL_S,
)
SIZE: Final = Metric(
    name="crucible.serialization.size",
    kind="histogram",
    unit="By",
    brief="Size of what was encoded and decoded.",
    attributes=(_FORMAT, _DIRECTION),
    buckets=SIZE_BYTES,
)

SERIALIZATION_EVENT: Final = Event(
    name="crucible.serialization",
    brief="Value encoded or decoded.",
    severity="DEBUG",
    hot=True,
    logged=False,
    fields=(
        Field(name="duration", unit="ns", brief="How long it took.", measurement=True, type="int"),
        Field(name="bytes", unit="By", brief="Size of the encoded form.", measurement=True, type="int"),
        Field(name="format", attribute=_FORMAT, brief="Format, such as json or arrow."),
        Field(name="direction", attribute=_DIRECTION, brief="Into the format or out of it: encode or decode."),
        *CONTEXT,
    ),
    feeds=(
        Feed(metric=DURATION, how="record", field="duration", scale=1e-9),
        Feed(metric=SIZE, how="record", field="bytes"),
    ),
)

OPERATIONS: Final = ()
EVENTS: Final = (SERIALIZATION_EVENT,)
