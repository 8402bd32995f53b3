"""Datasets and their batches."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.buckets import BATCH, CALL_S, MID_S
from crucible_otel.semconv.build import merged
from crucible_otel.semconv.fields import CONTEXT
from crucible_otel.semconv.model import Event, Feed, Field, Metric

_NAME = "crucible.dataset.name"

LOAD_DURATION: Final = Metric(
    name="crucible.dataset.load.duration",
    kind="histogram",
    unit="s",
    brief="Duration of loading datasets.",
    attributes=(_NAME,),
    buckets=MID_S,
)
SIZE: Final = Metric(
    name="crucible.dataset.size",
    kind="gauge",
    unit="{example}",
    brief="Examples in the dataset as last loaded.",
    attributes=(_NAME,),
)
IO: Final = Metric(
    name="crucible.dataset.io",
    kind="counter",
    unit="By",
    brief="Bytes of datasets read.",
    attributes=(_NAME, "crucible.io.direction"),
)
BATCHES: Final = Metric(
    name="crucible.dataset.batches",
    kind="counter",
    unit="{batch}",
    brief="Batches processed.",
    attributes=(_NAME,),
)
RECORDS: Final = Metric(
    name="crucible.dataset.records",
    kind="counter",
    unit="{record}",
    brief="Records in the batches processed.",
    attributes=(_NAME,),
)
BATCH_SIZE: Final = Metric(
    name="crucible.dataset.batch.size",
    kind="histogram",
    unit="{record}",
    brief="Records in a batch.",
    attributes=(_NAME,),
    buckets=BATCH,
)
BATCH_WAIT: Final = Metric(
    name="crucible.dataset.batch.wait_time",
    kind="histogram",
    unit="s",
    brief="Time spent waiting for a batch.",
    attributes=(_NAME,),
    buckets=CALL_S,
)

_DATASET = Field(name="dataset", attribute=_NAME, brief="Name of the dataset.")

LOAD_EVENT: Final = Event(
    name="crucible.dataset.load",
    brief="Dataset loaded.",
    span="load_dataset {dataset}",
    fields=merged(
        (
            _DATASET,
            Field(
                name="size",
                attribute="crucible.dataset.record_count",
                unit="{example}",
                brief="Examples.",
                measurement=True,
                type="int",
            ),
            Field(
                name="size_bytes",
                attribute="crucible.dataset.size_bytes",
                unit="By",
                brief="Bytes read.",
                measurement=True,
                type="int",
            ),
            Field(name="duration", unit="ns", brief="Duration of loading.", measurement=True, type="int"),
        ),
        CONTEXT,
    ),
    feeds=(
        Feed(metric=LOAD_DURATION, how="record", field="duration", scale=1e-9),
        Feed(metric=SIZE, how="set", field="size"),
        Feed(metric=IO, how="sum", field="size_bytes", constants={"crucible.io.direction": "read"}),
    ),
)
BATCH_EVENT: Final = Event(
    name="crucible.dataset.batch",
    brief="Batch processed.",
    severity="DEBUG",
    hot=True,
    timing="given",
    logged=False,
    fields=(
        Field(
            name="batch_size",
            attribute="crucible.dataset.batch.record_count",
            unit="{record}",
            brief="Records in the batch.",
            measurement=True,
            type="int",
        ),
        Field(
            name="wait_time",
            attribute="crucible.dataset.batch.wait",
            unit="ns",
            brief="Time spent waiting for it; seconds on log records.",
            measurement=True,
            type="int",
        ),
        Field(name="batch_idx", attribute="crucible.dataset.batch.index", brief="Index of the batch.", type="int"),
        _DATASET,
        *CONTEXT,
    ),
    feeds=(
        Feed(metric=BATCHES, how="count"),
        Feed(metric=RECORDS, how="sum", field="batch_size"),
        Feed(metric=BATCH_SIZE, how="record", field="batch_size"),
        Feed(metric=BATCH_WAIT, how="record", field="wait_time", scale=1e-9),
    ),
)

OPERATIONS: Final = ()
EVENTS: Final = (LOAD_EVENT, BATCH_EVENT)
