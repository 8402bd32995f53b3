"""Fields that events of several families share."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.model import Field
from crucible_otel.semconv.names import ERROR_TYPE

WORKFLOW: Final = Field(
    name="workflow", attribute="crucible.workflow.name", brief="Name of the workflow.", context=True
)
WORKFLOW_RUN_ID: Final = Field(
    name="run_id", attribute="crucible.workflow.run.id", brief="Identity of this run of the workflow.", context=True
)
STAGE: Final = Field(name="stage", attribute="crucible.stage.name", brief="Name of the stage.", context=True)
MODEL: Final = Field(name="model", attribute="crucible.model.name", brief="Name of the model.", context=True)
EPOCH: Final = Field(
    name="epoch", attribute="crucible.training.epoch", brief="Number of the epoch.", type="int", context=True
)
STEP: Final = Field(name="step", attribute="crucible.training.step", brief="Number of the training step.", type="int")
TOTAL_STEPS: Final = Field(
    name="total_steps", attribute="crucible.training.max_steps", brief="Steps planned.", type="int", context=True
)
TOTAL_EPOCHS: Final = Field(
    name="total_epochs", attribute="crucible.training.max_epochs", brief="Epochs planned.", type="int", context=True
)
DURATION: Final = Field(
    name="duration", attribute="", unit="ns", brief="Elapsed time of a monotonic clock.", measurement=True, type="int"
)
DEVICE: Final = Field(name="device", attribute="crucible.device.name", brief="Device, such as cuda:0 or cpu.")
WORKER: Final = Field(name="worker_id", attribute="crucible.pool.worker.id", brief="Which worker.")
RESULT: Final = Field(name="result", attribute="crucible.result", brief="How it ended.")
ERROR: Final = Field(name="error", brief="The exception: its type and the first 300 characters of its text.")
ERROR_KIND: Final = Field(name="error_type", attribute=ERROR_TYPE, brief="Type of the exception.")

LOSS: Final = Field(
    name="loss", attribute="crucible.training.loss.value", brief="Loss.", measurement=True, type="double"
)
ACCURACY: Final = Field(
    name="accuracy", attribute="crucible.training.accuracy.value", brief="Accuracy.", measurement=True, type="double"
)
LEARNING_RATE: Final = Field(
    name="learning_rate",
    attribute="crucible.training.learning_rate.value",
    brief="Learning rate.",
    measurement=True,
    type="double",
)
GRADIENT_NORM: Final = Field(
    name="gradient_norm",
    attribute="crucible.training.gradient.norm.value",
    brief="Norm of the gradient.",
    measurement=True,
    type="double",
)
METRICS: Final = Field(
    name="metrics",
    attribute="crucible.training.metrics",
    brief="Further values, name -> number; JSON text on spans and log records.",
    measurement=True,
    type="map",
)

CONTEXT: Final = (WORKFLOW, WORKFLOW_RUN_ID, STAGE)
OUTCOME: Final = (DURATION, RESULT)
FAILURE: Final = (DURATION, RESULT, ERROR, ERROR_KIND)
