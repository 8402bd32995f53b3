"""The seeds' names of our events, with their fields.

Sources: the CrucibleKitchen telemetry guide (``crucible_kitchen.*``), the CrucibleTelemetry README
(``crucible_train.*``, ``crucible_framework.*``, ``crucible_deployment.*``), Snakepit's telemetry design
(``snakepit.*``) and Tinkex's (``tinkex.*``). The seeds define no failure event for some families; those that end in
``.exception`` here for ``crucible_train`` and ``crucible_framework`` are added so that a failure never leaves an open
span.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crucible_otel.semconv import gpu
from crucible_otel.semconv.model import Alias

_WORKFLOW = {"workflow": "workflow", "run_id": "run_id"}
_STAGE = {"stage": "stage", "module": "module"}
_STEP = {
    "loss": "loss",
    "lr": "learning_rate",
    "grad_norm": "gradient_norm",
    "step": "step",
    "total_steps": "total_steps",
}
_EPOCH = {"epoch_loss": "loss", "epoch": "epoch", "total_epochs": "total_epochs"}
_CHECKPOINT = {"size_bytes": "size_bytes", "checkpoint_name": "checkpoint_name", "path": "path"}
_EVALUATION = {"metrics": "metrics", "split": "split", "step": "step"}
_LOAD = {"size": "size", "duration": "duration", "name": "dataset"}
_BATCH = {"batch_size": "batch_size", "batch_idx": "batch_idx"}
_END = {"duration": "duration"}
_FAILED = {"duration": "duration", "error": "error"}
_PIPELINE = {"pipeline_id": "run_id"}
_PIPELINE_STAGE = {"stage_name": "stage", "stage_index": "stage_index"}

_MEASURED: Final = frozenset(
    {
        "duration", "loss", "lr", "grad_norm", "epoch_loss", "size_bytes", "metrics", "size", "batch_size",
        "accuracy", "gradient_norm", "system_time", "queue_time", "busy_time", "idle", "busy", "bytes",
        "input_elements", "output_elements", "serialize_time", "python_time", "deserialize_time", "tokens",
        "tokens_per_second", "input_size", "output_size",
    }
)  # fmt: skip


def _alias(name: str, brief: str, targets: str, fields: Mapping[str, str], category: str, measured: str = "") -> Alias:
    numbers = _MEASURED | {*measured.split()}
    return Alias(
        name=name,
        family=name.partition(".")[0],
        targets=tuple(targets.split()),
        fields=fields,
        brief=brief,
        measurements=tuple(key for key in fields if key in numbers),
        metadata=tuple(key for key in fields if key not in numbers),
        category=category,
    )


KITCHEN: Final = tuple(
    _alias("crucible_kitchen." + name, brief, targets, fields, "kitchen")
    for name, brief, targets, fields in (
        ("workflow.run.start", "Workflow started", "crucible.workflow.start", _WORKFLOW),
        ("workflow.run.stop", "Workflow completed", "crucible.workflow.stop", {**_END, **_WORKFLOW}),
        ("workflow.run.exception", "Workflow failed", "crucible.workflow.exception", {**_FAILED, **_WORKFLOW}),
        ("stage.run.start", "Stage started", "crucible.stage.start", _STAGE),
        ("stage.run.stop", "Stage completed", "crucible.stage.stop", {**_END, **_STAGE, "success": "result"}),
        ("stage.run.exception", "Stage failed", "crucible.stage.exception", {**_FAILED, **_STAGE}),
        ("training.step", "Training step completed", "crucible.training.step", _STEP),
        ("training.epoch", "Epoch completed", "crucible.training.epoch crucible.training.epoch.stop", _EPOCH),
        (
            "training.checkpoint",
            "Checkpoint saved",
            "crucible.training.checkpoint crucible.training.checkpoint.stop",
            _CHECKPOINT,
        ),
        (
            "training.eval",
            "Evaluation completed",
            "crucible.training.evaluation crucible.training.evaluation.stop",
            _EVALUATION,
        ),
        ("dataset.load", "Dataset loaded", "crucible.dataset.load", _LOAD),
        ("dataset.batch", "Batch processed", "crucible.dataset.batch", _BATCH),
    )
)

_TRAIN_BATCH = {"loss": "loss", "gradient_norm": "gradient_norm", "epoch": "epoch", "batch": "batch"}
_TRAIN_EPOCH = {"epoch": "epoch", "loss": "loss", "accuracy": "accuracy", "learning_rate": "learning_rate"}

TRAIN: Final = tuple(
    _alias("crucible_train." + name, brief, targets, fields, "training")
    for name, brief, targets, fields in (
        (
            "training.start",
            "Training job started",
            "crucible.training.start",
            {"model_name": "model", "config": "config"},
        ),
        ("training.stop", "Training job completed", "crucible.training.stop", {**_END, "final_loss": "final_loss"}),
        ("training.exception", "Training job failed", "crucible.training.exception", _FAILED),
        ("epoch.start", "Epoch started", "crucible.training.epoch.start", {"epoch": "epoch"}),
        ("epoch.stop", "Epoch completed with metrics", "crucible.training.epoch.stop", {**_END, **_TRAIN_EPOCH}),
        ("epoch.exception", "Epoch failed", "crucible.training.epoch.exception", {**_FAILED, "epoch": "epoch"}),
        ("batch.stop", "Batch completed", "crucible.training.step", _TRAIN_BATCH),
        (
            "checkpoint.saved",
            "Checkpoint saved",
            "crucible.training.checkpoint crucible.training.checkpoint.stop",
            {"epoch": "epoch", "checkpoint_path": "path"},
        ),
    )
)

FRAMEWORK: Final = tuple(
    _alias("crucible_framework." + name, brief, targets, fields, "framework")
    for name, brief, targets, fields in (
        ("pipeline.start", "Pipeline started", "crucible.workflow.start", _PIPELINE),
        ("pipeline.stop", "Pipeline completed", "crucible.workflow.stop", {**_END, **_PIPELINE}),
        ("pipeline.exception", "Pipeline failed", "crucible.workflow.exception", {**_FAILED, **_PIPELINE}),
        ("stage.start", "Stage started", "crucible.stage.start", _PIPELINE_STAGE),
        ("stage.stop", "Stage completed", "crucible.stage.stop", {**_END, **_PIPELINE_STAGE}),
        ("stage.exception", "Stage failed", "crucible.stage.exception", {**_FAILED, **_PIPELINE_STAGE}),
    )
)

_CALL = {"operation": "operation", "library": "library", "function": "function"}
_INFERRED = {
    "duration": "duration",
    "batch_size": "batch_size",
    "tokens": "tokens",
    "tokens_per_second": "tokens_per_second",
    "model": "model",
    "device": "device",
}

DEPLOYMENT: Final = tuple(
    _alias("crucible_deployment." + name, brief, targets, fields, "deployment")
    for name, brief, targets, fields in (
        (
            "inference.start",
            "Inference started",
            "crucible.inference.start",
            {"model_name": "model", "model_version": "model_version"},
        ),
        (
            "inference.stop",
            "Inference completed",
            "crucible.inference.stop",
            {**_END, "input_size": "input_size", "output_size": "output_size", "batch_size": "batch_size"},
        ),
        ("inference.exception", "Inference failed", "crucible.inference.exception", _FAILED),
    )
)

_POOLED = {"pool": "pool", "worker_id": "worker_id"}
_MEMORY = {"bytes": "bytes", "type": "type", "device": "device"}
_SERIALIZED = {"duration": "duration", "bytes": "bytes", "direction": "direction", "format": "format"}
_TENSOR_OP = {
    "duration": "duration",
    "input_elements": "input_elements",
    "output_elements": "output_elements",
    "op": "op",
    "input_shapes": "input_shapes",
    "output_shape": "output_shape",
    "dtype": "dtype",
    "device": "device",
}
_TRAIN_STEP = {
    "duration": "duration",
    "loss": "loss",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
    "step": "step",
    "model": "model",
}

SNAKEPIT: Final[Mapping[str, Alias]] = {
    function: _alias("snakepit." + name, brief, targets, fields, "snakepit", measured)
    for function, name, brief, targets, fields, measured in (
        (
            "call_start",
            "call.start",
            "Python call started",
            "crucible.call.start",
            {**_CALL, "worker_id": "worker_id", "device": "device"},
            "",
        ),
        (
            "call_stop",
            "call.stop",
            "Python call completed",
            "crucible.call.stop",
            {
                **_END,
                "queue_time": "queue_time",
                "serialize_time": "serialize_time",
                "python_time": "execute_time",
                "deserialize_time": "deserialize_time",
                **_CALL,
                "result": "result",
                "error_type": "error_type",
            },
            "",
        ),
        (
            "call_exception",
            "call.exception",
            "Python call failed",
            "crucible.call.exception",
            {**_END, **_CALL, "kind": "kind", "reason": "error", "stacktrace": "stacktrace"},
            "",
        ),
        (
            "pool_checkout",
            "pool.checkout",
            "Worker checked out from pool",
            "crucible.pool.checkout",
            {"queue_time": "queue_time", **_POOLED},
            "",
        ),
        (
            "pool_checkin",
            "pool.checkin",
            "Worker returned to pool",
            "crucible.pool.checkin",
            {"busy_time": "busy_time", **_POOLED},
            "",
        ),
        (
            "pool_size",
            "pool.size",
            "Pool size changed",
            "crucible.pool.size",
            {"size": "total", "idle": "idle", "busy": "busy", "queue_depth": "queue_depth", "pool": "pool"},
            "queue_depth",
        ),
        ("memory_allocate", "memory.allocate", "Memory allocated", "crucible.memory.allocate", _MEMORY, ""),
        ("memory_release", "memory.release", "Memory released", "crucible.memory.release", _MEMORY, ""),
        ("serialize_stop", "serialize.stop", "Serialization timing", "crucible.serialization", _SERIALIZED, ""),
        ("tensor_op", "ml.tensor_op", "Tensor operation metadata", "crucible.tensor_op", _TENSOR_OP, ""),
        (
            "inference",
            "ml.inference",
            "Model inference timing",
            "crucible.inference crucible.inference.stop",
            _INFERRED,
            "",
        ),
        (
            "train_step",
            "ml.train_step",
            "Training step timing",
            "crucible.training.step",
            _TRAIN_STEP,
            "learning_rate",
        ),
    )
}
"""The aliases of Snakepit's events, by the function that emits each of them."""

_POLL = {"request_id": "request_id", "request_type": "request_type"}
_POLLED = {**_END, "iterations": "iterations", **_POLL}

TINKEX: Final = tuple(
    _alias("tinkex." + name, brief, targets, fields, "tinkex", "iterations")
    for name, brief, targets, fields in (
        ("future.poll.start", "Polling of a future started", "crucible.future.poll.start", _POLL),
        (
            "future.poll.stop",
            "Polling of a future completed",
            "crucible.future.poll.stop",
            {**_POLLED, "status": "result"},
        ),
        (
            "future.poll.exception",
            "Polling of a future failed",
            "crucible.future.poll.exception",
            {**_POLLED, "error": "error"},
        ),
    )
)

ADDED: Final = frozenset(alias.name for alias in (*TRAIN, *FRAMEWORK) if alias.name.endswith(".exception"))
"""Names that no seed has: failures that were added to its families."""

ALIASES: Final = (*KITCHEN, *TRAIN, *FRAMEWORK, *DEPLOYMENT, *SNAKEPIT.values(), *TINKEX, *gpu.ALIASES)

SYNONYMS: Final[Mapping[str, str]] = {
    "lr": "learning_rate",
    "grad_norm": "gradient_norm",
    "epoch_loss": "loss",
    "checkpoint_path": "path",
    "model_name": "model",
    "stage_name": "stage",
}
"""Field names that are understood in every event of ours, besides the field's own name."""

VALUES_IN: Final[Mapping[str, Mapping[object, str]]] = {
    "result": {
        True: "success",
        False: "failure",
        "ok": "success",
        "error": "failure",
        "success": "success",
        "failure": "failure",
        "timeout": "timeout",
        "cancellation": "cancellation",
        "cancelled": "cancellation",
        "skip": "skip",
    },
}
"""Seed values -> ours, by our field."""

VALUES_OUT: Final[Mapping[str, Mapping[str, object]]] = {
    "success": {"success": True, "skip": True, "failure": False, "timeout": False, "cancellation": False},
    "result": {"success": "ok", "skip": "ok", "failure": "error", "timeout": "error", "cancellation": "error"},
    "status": {
        "success": "success", "skip": "success", "failure": "error", "timeout": "error", "cancellation": "error",
    },
}  # fmt: skip
"""Our values -> the seed's, by the seed's field."""
