"""The emitting functions of the CrucibleKitchen guide: an event by its kind, from measurements and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_otel.events.names import EventName
from crucible_otel.events.runtime import runtime
from crucible_otel.semconv.dataset import BATCH_EVENT, LOAD_EVENT
from crucible_otel.semconv.training import CHECKPOINT_POINT, EPOCH_POINT, EVALUATION_POINT, STEP_EVENT
from crucible_otel.verbs.given import quietly

Values = Mapping[str, Any]


@quietly
def execute(event: EventName, measurements: Values | None = None, metadata: Values | None = None) -> None:
    """Emit an event by its name, as ``:telemetry.execute`` does.

    Names of the conventions and the seeds' names for them become spans, metrics and log events; any other name is
    delivered to handlers and logs. Never raises.

    Args:
        event: Dotted name or tuple of parts.
        measurements: Numbers; durations in integer nanoseconds.
        metadata: Everything else.
    """
    runtime().execute(event, measurements, metadata)


def emit_step(measurements: Values, metadata: Values | None = None) -> None:
    """Emit ``crucible.training.step``: ``loss``, ``lr``, ``grad_norm`` · ``step``, ``total_steps``."""
    execute(STEP_EVENT.name, measurements, metadata)


def emit_epoch(measurements: Values, metadata: Values | None = None) -> None:
    """Emit ``crucible.training.epoch``: ``epoch_loss`` · ``epoch``, ``total_epochs``."""
    execute(EPOCH_POINT.name, measurements, metadata)


def emit_checkpoint(measurements: Values, metadata: Values | None = None) -> None:
    """Emit ``crucible.training.checkpoint``: ``size_bytes`` · ``checkpoint_name``, ``path``."""
    execute(CHECKPOINT_POINT.name, measurements, metadata)


def emit_evaluation(measurements: Values, metadata: Values | None = None) -> None:
    """Emit ``crucible.training.evaluation``: ``metrics`` (a map) · ``split``, ``step``."""
    execute(EVALUATION_POINT.name, measurements, metadata)


def emit_dataset_load(measurements: Values, metadata: Values | None = None) -> None:
    """Emit ``crucible.dataset.load``: ``size``, ``duration`` (ns) · ``dataset``."""
    execute(LOAD_EVENT.name, measurements, metadata)


def emit_dataset_batch(measurements: Values, metadata: Values | None = None) -> None:
    """Emit ``crucible.dataset.batch``: ``batch_size`` · ``batch_idx``."""
    execute(BATCH_EVENT.name, measurements, metadata)
