"""Inference: asking a model."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.buckets import BATCH, CALL_S
from crucible_otel.semconv.build import merged, operation
from crucible_otel.semconv.fields import CONTEXT, DEVICE, MODEL
from crucible_otel.semconv.fields import DURATION as ELAPSED
from crucible_otel.semconv.model import Event, Feed, Field, Metric
from crucible_otel.semconv.names import ERROR_TYPE, MODEL_NAME, RESULT

_WHERE = (MODEL_NAME, DEVICE.attribute)

DURATION: Final = Metric(
    name="crucible.inference.duration",
    kind="histogram",
    unit="s",
    brief="Duration of inferences.",
    attributes=(*_WHERE, RESULT, ERROR_TYPE),
    buckets=CALL_S,
)
ITEMS: Final = Metric(
    name="crucible.inference.items",
    kind="counter",
    unit="{item}",
    brief="Items in the batches inferred.",
    attributes=_WHERE,
)
BATCH_SIZE: Final = Metric(
    name="crucible.inference.batch.size",
    kind="histogram",
    unit="{item}",
    brief="Items in a batch.",
    attributes=_WHERE,
    buckets=BATCH,
)
TOKENS: Final = Metric(
    name="crucible.inference.tokens", kind="counter", unit="{token}", brief="Tokens inferred.", attributes=_WHERE
)
THROUGHPUT: Final = Metric(
    name="crucible.inference.throughput",
    kind="gauge",
    unit="{token}/s",
    brief="Tokens a second of the last inference.",
    attributes=_WHERE,
)


def _size(name: str, brief: str, unit: str = "") -> Field:
    return Field(
        name=name, attribute=f"crucible.inference.{name}", unit=unit, brief=brief, measurement=True, type="int"
    )


_YIELDS = (
    _size("batch_size", "Items in the batch.", "{item}"),
    _size("tokens", "Tokens inferred.", "{token}"),
    Field(
        name="tokens_per_second",
        attribute="crucible.inference.tokens_per_second",
        unit="{token}/s",
        brief="Tokens by duration.",
        measurement=True,
        type="double",
    ),
    _size("input_size", "Size of the input, in the caller's unit."),
    _size("output_size", "Size of the output, in the caller's unit."),
)
_DONE = (
    Feed(metric=ITEMS, how="sum", field="batch_size"),
    Feed(metric=BATCH_SIZE, how="record", field="batch_size"),
    Feed(metric=TOKENS, how="sum", field="tokens"),
    Feed(metric=THROUGHPUT, how="set", field="tokens_per_second"),
)

INFERENCE_OPERATION: Final = operation(
    "crucible.inference",
    "predict {model}",
    "Inference",
    identity=(
        MODEL,
        Field(name="model_version", attribute="crucible.model.version", brief="Version of the model."),
        DEVICE,
    ),
    yields=_YIELDS,
    on_end=(Feed(metric=DURATION, how="record", field="duration", scale=1e-9),),
    on_stop=_DONE,
    logged=False,
    hot=True,
)
INFERENCE_POINT: Final = Event(
    name="crucible.inference",
    brief="Inference completed, reported as a point.",
    span="predict {model}",
    logged=False,
    fields=merged((ELAPSED, *_YIELDS, MODEL, DEVICE), CONTEXT),
    feeds=(
        Feed(metric=DURATION, how="record", field="duration", scale=1e-9, constants={RESULT: "success"}),
        *_DONE,
    ),
)

OPERATIONS: Final = (INFERENCE_OPERATION,)
EVENTS: Final = (INFERENCE_POINT,)
