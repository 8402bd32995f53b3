"""Worker pools."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.buckets import CALL_S, MID_S
from crucible_otel.semconv.fields import CONTEXT, ERROR_KIND, WORKER
from crucible_otel.semconv.model import Event, Feed, Field, Metric
from crucible_otel.semconv.names import ERROR_TYPE

_NAME = "crucible.pool.name"
_STATE = "crucible.pool.worker.state"

WORKERS: Final = Metric(
    name="crucible.pool.worker.current",
    kind="updowncounter",
    unit="{worker}",
    brief="Workers of the pool, by what they are doing.",
    attributes=(_NAME, _STATE),
)
WORKERS_MAX: Final = Metric(
    name="crucible.pool.worker.max",
    kind="updowncounter",
    unit="{worker}",
    brief="Workers that the pool has room for.",
    attributes=(_NAME,),
)
PENDING: Final = Metric(
    name="crucible.pool.task.pending",
    kind="updowncounter",
    unit="{task}",
    brief="Tasks that wait for a worker.",
    attributes=(_NAME,),
)
WAIT: Final = Metric(
    name="crucible.pool.task.wait_time",
    kind="histogram",
    unit="s",
    brief="Time that tasks waited for a worker.",
    attributes=(_NAME,),
    buckets=CALL_S,
)
TASK_DURATION: Final = Metric(
    name="crucible.pool.task.duration",
    kind="histogram",
    unit="s",
    brief="Time that tasks kept a worker busy.",
    attributes=(_NAME, ERROR_TYPE),
    buckets=MID_S,
)

_POOL = Field(name="pool", attribute=_NAME, brief="Name of the pool.")


def _workers(name: str, brief: str, unit: str = "{worker}") -> Field:
    return Field(name=name, unit=unit, brief=brief, measurement=True, type="int")


CHECKOUT_EVENT: Final = Event(
    name="crucible.pool.checkout",
    brief="Worker checked out of its pool.",
    severity="DEBUG",
    hot=True,
    logged=False,
    fields=(
        Field(name="queue_time", unit="ns", brief="Time spent waiting for it.", measurement=True, type="int"),
        _POOL,
        WORKER,
        *CONTEXT,
    ),
    feeds=(Feed(metric=WAIT, how="record", field="queue_time", scale=1e-9),),
)
CHECKIN_EVENT: Final = Event(
    name="crucible.pool.checkin",
    brief="Worker returned to its pool.",
    severity="DEBUG",
    hot=True,
    logged=False,
    fields=(
        Field(name="busy_time", unit="ns", brief="Time it was busy.", measurement=True, type="int"),
        _POOL,
        WORKER,
        ERROR_KIND,
        *CONTEXT,
    ),
    feeds=(Feed(metric=TASK_DURATION, how="record", field="busy_time", scale=1e-9),),
)
SIZE_EVENT: Final = Event(
    name="crucible.pool.size",
    brief="State of a pool changed.",
    severity="DEBUG",
    hot=True,
    logged=False,
    fields=(
        _workers("total", "Workers that it has room for."),
        _workers("idle", "Workers without a task."),
        _workers("busy", "Workers with a task."),
        _workers("queue_depth", "Tasks that wait for a worker.", unit="{task}"),
        _POOL,
        *CONTEXT,
    ),
    feeds=(
        Feed(metric=WORKERS, how="set", field="idle", constants={_STATE: "idle"}),
        Feed(metric=WORKERS, how="set", field="busy", constants={_STATE: "busy"}),
        Feed(metric=WORKERS_MAX, how="set", field="total"),
        Feed(metric=PENDING, how="set", field="queue_depth"),
    ),
)

OPERATIONS: Final = ()
EVENTS: Final = (CHECKOUT_EVENT, CHECKIN_EVENT, SIZE_EVENT)
