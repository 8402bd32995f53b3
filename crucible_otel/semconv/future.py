"""Futures: results that somebody else is working on, and that are asked for until they are there."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.buckets import BATCH, MID_S
from crucible_otel.semconv.build import operation
from crucible_otel.semconv.fields import CONTEXT, ERROR_KIND
from crucible_otel.semconv.model import Event, Feed, Field, Metric
from crucible_otel.semconv.names import ERROR_TYPE, RESULT

_KIND = "crucible.future.kind"
_STATUS = "crucible.future.status"
_ENDED = (_KIND, RESULT, ERROR_TYPE)

FUTURES: Final = Metric(
    name="crucible.futures",
    kind="counter",
    unit="{future}",
    brief="Futures that are no longer polled, because they are done or have failed.",
    attributes=_ENDED,
)
PENDING: Final = Metric(
    name="crucible.future.pending",
    kind="updowncounter",
    unit="{future}",
    brief="Futures that are being polled.",
    attributes=(_KIND,),
)
WAIT: Final = Metric(
    name="crucible.future.wait_time",
    kind="histogram",
    unit="s",
    brief="Time that futures were polled until they were done.",
    attributes=_ENDED,
    buckets=MID_S,
)
ITERATIONS: Final = Metric(
    name="crucible.future.iterations",
    kind="histogram",
    unit="{poll}",
    brief="Polls that futures took until they were done.",
    attributes=_ENDED,
    buckets=BATCH,
)
POLLS: Final = Metric(
    name="crucible.future.polls",
    kind="counter",
    unit="{poll}",
    brief="Polls of futures, by what they were answered with.",
    attributes=(_KIND, _STATUS),
)
POLL_DURATION: Final = Metric(
    name="crucible.future.poll.duration",
    kind="histogram",
    unit="s",
    brief="Duration of single polls.",
    attributes=(_KIND, _STATUS),
    buckets=MID_S,
)

_REQUEST_ID = Field(name="request_id", attribute="crucible.future.request_id", brief="Which future.")
_REQUEST_TYPE = Field(name="request_type", attribute=_KIND, brief="What the future is the result of.")

POLL_OPERATION: Final = operation(
    "crucible.future.poll",
    "await_future {request_type}",
    "Polling of a future",
    identity=(_REQUEST_ID, _REQUEST_TYPE),
    yields=(
        Field(
            name="iterations",
            attribute="crucible.future.poll_count",
            unit="{poll}",
            brief="Polls it took.",
            measurement=True,
            type="int",
        ),
        ERROR_KIND,
    ),
    on_start=(Feed(metric=PENDING, how="up"),),
    on_end=(
        Feed(metric=PENDING, how="down"),
        Feed(metric=FUTURES, how="count"),
        Feed(metric=WAIT, how="record", field="duration", scale=1e-9),
        Feed(metric=ITERATIONS, how="record", field="iterations"),
    ),
    logged=False,
)
POLL_EVENT: Final = Event(
    name="crucible.future.poll",
    brief="Future polled once.",
    severity="DEBUG",
    hot=True,
    logged=False,
    fields=(
        Field(name="duration", unit="ns", brief="How long the answer took.", measurement=True, type="int"),
        Field(name="iteration", unit="{poll}", brief="Number of the poll, from 1 on.", measurement=True, type="int"),
        Field(name="elapsed_time", unit="s", brief="Time since the polling began.", measurement=True, type="double"),
        _REQUEST_ID,
        _REQUEST_TYPE,
        Field(name="status", attribute=_STATUS, brief="The answer, such as pending or done."),
        Field(name="status_code", brief="Status code of the answer, where it has one.", type="int"),
        Field(name="should_retry", brief="Whether it will be polled again.", type="boolean"),
        *CONTEXT,
    ),
    feeds=(
        Feed(metric=POLLS, how="count"),
        Feed(metric=POLL_DURATION, how="record", field="duration", scale=1e-9),
    ),
)

OPERATIONS: Final = (POLL_OPERATION,)
EVENTS: Final = (POLL_EVENT,)
