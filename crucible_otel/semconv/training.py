"""Training: the run, its epochs, steps, evaluations and checkpoints."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.buckets import CALL_S, LONG_S, MID_S, SIZE_BYTES, STEP_S
from crucible_otel.semconv.build import merged, operation
from crucible_otel.semconv.energy import ENERGY, energy
from crucible_otel.semconv.fields import (
    ACCURACY,
    CONTEXT,
    EPOCH,
    GRADIENT_NORM,
    LEARNING_RATE,
    LOSS,
    METRICS,
    MODEL,
    STEP,
    TOTAL_EPOCHS,
    TOTAL_STEPS,
)
from crucible_otel.semconv.model import Event, Feed, Field, Metric, MetricKind
from crucible_otel.semconv.names import ERROR_TYPE

_MODEL = "crucible.model.name"
_SPLIT = "crucible.training.split"
_METRIC = "crucible.metric.name"


def _metric(
    name: str,
    kind: MetricKind,
    unit: str,
    brief: str,
    *attributes: str,
    buckets: tuple[float, ...] = (),
) -> Metric:
    return Metric(name=name, kind=kind, unit=unit, brief=brief, attributes=(_MODEL, *attributes), buckets=buckets)


DURATION = _metric(
    "crucible.training.duration", "histogram", "s", "Duration of training runs.", "crucible.result", ERROR_TYPE,
    buckets=LONG_S,
)  # fmt: skip
STEPS = _metric("crucible.training.steps", "counter", "{step}", "Training (optimizer) steps made.")
SAMPLES = _metric("crucible.training.samples", "counter", "{sample}", "Samples trained on.")
TOKENS = _metric("crucible.training.tokens", "counter", "{token}", "Tokens trained on.")
STEP_DURATION = _metric(
    "crucible.training.step.duration", "histogram", "s", "Duration of training steps, on the host.", buckets=STEP_S
)
DATA_WAIT = _metric(
    "crucible.training.data_wait.duration", "histogram", "s", "Time a step waited for its data.", buckets=CALL_S
)
STEP_CURRENT = _metric("crucible.training.step.current", "gauge", "{step}", "Number of the last training step.")
LOSS_GAUGE = _metric("crucible.training.loss", "gauge", "", "Loss of the last training step.")
RATE_GAUGE = _metric("crucible.training.learning_rate", "gauge", "", "Learning rate of the last training step.")
NORM_GAUGE = _metric("crucible.training.gradient.norm", "gauge", "", "Gradient norm of the last training step.")
METRIC_GAUGE = _metric("crucible.training.metric", "gauge", "", "Further values of the training steps.", _METRIC)
SKIPPED = _metric(
    "crucible.training.skipped_steps", "counter", "{step}", "Steps that were not made.", "crucible.training.skip.reason"
)
REWINDS = _metric(
    "crucible.training.rewinds",
    "counter",
    "{rewind}",
    "Times the step number went down, after a restart or a roll-back.",
)
NONFINITE = _metric(
    "crucible.training.nonfinite", "counter", "{value}", "Values that were NaN or infinite.", "crucible.training.signal"
)
EPOCHS = _metric("crucible.training.epochs", "counter", "{epoch}", "Epochs completed.")
EPOCH_CURRENT = _metric("crucible.training.epoch.current", "gauge", "{epoch}", "Number of the epoch in progress.")
EPOCH_DURATION = _metric(
    "crucible.training.epoch.duration", "histogram", "s", "Duration of epochs.", "crucible.result", ERROR_TYPE,
    buckets=LONG_S,
)  # fmt: skip
EPOCH_LOSS = _metric("crucible.training.epoch.loss", "gauge", "", "Loss of the last completed epoch.")
EPOCH_ACCURACY = _metric("crucible.training.epoch.accuracy", "gauge", "", "Accuracy of the last completed epoch.")
EVALUATIONS = _metric("crucible.training.evaluations", "counter", "{evaluation}", "Evaluations made.", _SPLIT)
EVALUATION_DURATION = _metric(
    "crucible.training.evaluation.duration", "histogram", "s", "Duration of evaluations.",
    _SPLIT, "crucible.result", ERROR_TYPE, buckets=MID_S,
)  # fmt: skip
EVALUATION_METRIC = _metric(
    "crucible.training.evaluation.metric", "gauge", "", "Values of the last evaluation.", _SPLIT, _METRIC
)
CHECKPOINTS = _metric("crucible.training.checkpoints", "counter", "{checkpoint}", "Checkpoints saved.")
CHECKPOINT_DURATION = _metric(
    "crucible.checkpoint.duration", "histogram", "s", "Duration of saving checkpoints.", "crucible.result", ERROR_TYPE,
    buckets=MID_S,
)  # fmt: skip
CHECKPOINT_SIZE = _metric(
    "crucible.checkpoint.size", "histogram", "By", "Size of the checkpoints saved.", buckets=SIZE_BYTES
)

_SPLIT_FIELD = Field(name="split", attribute=_SPLIT, brief="Which part of the data.")
_SIZE_BYTES = Field(
    name="size_bytes",
    attribute="crucible.checkpoint.size_bytes",
    unit="By",
    brief="Size.",
    measurement=True,
    type="int",
)
_BATCH = Field(name="batch", attribute="crucible.training.batch", brief="Index of the batch in its epoch.", type="int")
_IN_RUN = (MODEL, *CONTEXT)

_epoch_end = (
    Feed(metric=EPOCHS, how="count"),
    Feed(metric=EPOCH_LOSS, how="set", field="loss"),
    Feed(metric=EPOCH_ACCURACY, how="set", field="accuracy"),
    Feed(metric=EPOCH_CURRENT, how="set", field="epoch"),
)
_evaluation_end = (
    Feed(metric=EVALUATIONS, how="count"),
    Feed(metric=EVALUATION_METRIC, how="set", field="metrics", each=_METRIC),
)
_checkpoint_end = (
    Feed(metric=CHECKPOINTS, how="count"),
    Feed(metric=CHECKPOINT_SIZE, how="record", field="size_bytes"),
)

TRAINING: Final = operation(
    "crucible.training",
    "train {model}",
    "Training run",
    identity=(
        MODEL,
        TOTAL_STEPS,
        TOTAL_EPOCHS,
        Field(name="start_step", attribute="crucible.training.start_step", brief="Steps made earlier.", type="int"),
        Field(name="config", attribute="crucible.training.config", brief="Configuration; JSON text.", type="map"),
    ),
    yields=(
        Field(name="final_loss", attribute="crucible.training.final_loss", brief="Last loss.", type="double"),
        STEP,
        *ENERGY,
    ),
    on_end=(
        Feed(metric=DURATION, how="record", field="duration", scale=1e-9),
        energy("crucible.training.energy", "training runs", _MODEL),
    ),
)
EPOCH_OPERATION: Final = operation(
    "crucible.training.epoch",
    "train_epoch",
    "Epoch",
    identity=(EPOCH, TOTAL_EPOCHS, MODEL),
    yields=(LOSS, ACCURACY, LEARNING_RATE, METRICS, *ENERGY),
    on_start=(Feed(metric=EPOCH_CURRENT, how="set", field="epoch"),),
    on_end=(
        Feed(metric=EPOCH_DURATION, how="record", field="duration", scale=1e-9),
        energy("crucible.training.epoch.energy", "epochs", _MODEL),
    ),
    on_stop=(*_epoch_end, Feed(metric=METRIC_GAUGE, how="set", field="metrics", each=_METRIC)),
)
EVALUATION_OPERATION: Final = operation(
    "crucible.training.evaluation",
    "evaluate {split}",
    "Evaluation",
    identity=(_SPLIT_FIELD, STEP, EPOCH, MODEL),
    yields=(METRICS,),
    on_end=(Feed(metric=EVALUATION_DURATION, how="record", field="duration", scale=1e-9),),
    on_stop=_evaluation_end,
)
CHECKPOINT_OPERATION: Final = operation(
    "crucible.training.checkpoint",
    "save_checkpoint",
    "Checkpoint",
    identity=(
        Field(name="checkpoint_name", attribute="crucible.checkpoint.name", brief="Name."),
        Field(name="path", attribute="crucible.checkpoint.path", brief="Where it is saved."),
        STEP,
        EPOCH,
        MODEL,
    ),
    yields=(_SIZE_BYTES,),
    on_end=(Feed(metric=CHECKPOINT_DURATION, how="record", field="duration", scale=1e-9),),
    on_stop=_checkpoint_end,
)

STEP_EVENT: Final = Event(
    name="crucible.training.step",
    brief="Training step completed.",
    hot=True,
    timing="interval",
    sequence="step",
    graphs=("loss",),
    span="train_step",
    fields=(
        Field(
            name="duration",
            attribute="crucible.training.step_duration",
            unit="ns",
            brief="From its start, or from the step before, to its end; seconds on log records.",
            measurement=True,
            type="int",
        ),
        LOSS,
        LEARNING_RATE,
        GRADIENT_NORM,
        Field(
            name="tokens",
            attribute="crucible.training.step_tokens",
            unit="{token}",
            brief="Tokens of the step.",
            measurement=True,
            type="int",
        ),
        Field(
            name="samples",
            attribute="crucible.training.step_samples",
            unit="{sample}",
            brief="Samples of the step.",
            measurement=True,
            type="int",
        ),
        STEP,
        Field(
            name="data_wait",
            attribute="crucible.training.step_data_wait",
            unit="ns",
            brief="Time the step waited for its data; seconds on log records.",
            measurement=True,
            type="int",
        ),
        METRICS,
        TOTAL_STEPS,
        EPOCH,
        _BATCH,
        *_IN_RUN,
    ),
    feeds=(
        Feed(metric=STEPS, how="count"),
        Feed(metric=STEP_DURATION, how="record", field="duration", scale=1e-9),
        Feed(metric=LOSS_GAUGE, how="set", field="loss"),
        Feed(metric=RATE_GAUGE, how="set", field="learning_rate"),
        Feed(metric=NORM_GAUGE, how="set", field="gradient_norm"),
        Feed(metric=TOKENS, how="sum", field="tokens"),
        Feed(metric=SAMPLES, how="sum", field="samples"),
        Feed(metric=STEP_CURRENT, how="set", field="step"),
        Feed(metric=DATA_WAIT, how="record", field="data_wait", scale=1e-9),
        Feed(metric=METRIC_GAUGE, how="set", field="metrics", each=_METRIC),
        Feed(metric=REWINDS, how="rewind", field="step"),
    ),
)
EPOCH_POINT: Final = Event(
    name="crucible.training.epoch",
    brief="Epoch completed, reported as a point.",
    fields=merged((EPOCH, TOTAL_EPOCHS, LOSS, ACCURACY, LEARNING_RATE, METRICS), _IN_RUN),
    feeds=_epoch_end,
)
EVALUATION_POINT: Final = Event(
    name="crucible.training.evaluation",
    brief="Evaluation completed, reported as a point.",
    fields=merged((_SPLIT_FIELD, STEP, EPOCH, METRICS), _IN_RUN),
    feeds=_evaluation_end,
)
CHECKPOINT_POINT: Final = Event(
    name="crucible.training.checkpoint",
    brief="Checkpoint saved, reported as a point.",
    span="save_checkpoint",
    fields=merged(
        (
            Field(name="checkpoint_name", attribute="crucible.checkpoint.name", brief="Name."),
            Field(name="path", attribute="crucible.checkpoint.path", brief="Where it is saved."),
            STEP,
            EPOCH,
            _SIZE_BYTES,
            Field(name="duration", unit="ns", brief="Duration of saving.", measurement=True, type="int"),
        ),
        _IN_RUN,
    ),
    feeds=(
        *_checkpoint_end,
        Feed(
            metric=CHECKPOINT_DURATION,
            how="record",
            field="duration",
            scale=1e-9,
            constants={"crucible.result": "success"},
        ),
    ),
)
SKIP_EVENT: Final = Event(
    name="crucible.training.skip",
    brief="Training step skipped.",
    severity="WARN",
    fields=merged(
        (Field(name="reason", attribute="crucible.training.skip.reason", brief="Why it was not made."), STEP, EPOCH),
        _IN_RUN,
    ),
    feeds=(Feed(metric=SKIPPED, how="count"),),
)
NONFINITE_EVENT: Final = Event(
    name="crucible.training.nonfinite",
    brief="A value of the training became NaN or infinite; once per transition.",
    severity="ERROR",
    fields=merged(
        (
            Field(name="signal", attribute="crucible.training.signal", brief="Which value."),
            Field(name="value", attribute="crucible.training.nonfinite.value", brief="NaN, Infinity or -Infinity."),
            STEP,
            EPOCH,
            TOTAL_STEPS,
        ),
        _IN_RUN,
    ),
)

OPERATIONS: Final = (TRAINING, EPOCH_OPERATION, EVALUATION_OPERATION, CHECKPOINT_OPERATION)
EVENTS: Final = (STEP_EVENT, EPOCH_POINT, EVALUATION_POINT, CHECKPOINT_POINT, SKIP_EVENT, NONFINITE_EVENT)
METRICS_OF_ITS_OWN: Final = (NONFINITE,)
"""Counted by the engine itself, fed by no event."""
WATCHED: Final = frozenset(
    feed.metric.name
    for event in (*EVENTS, *(end for spec in OPERATIONS for end in (spec.start, spec.stop, spec.exception)))
    for feed in event.feeds
    if feed.metric.kind == "gauge"
)
"""Gauges of which a value that is not finite is news: it is told, and the gauge stops; elsewhere it is refused."""
