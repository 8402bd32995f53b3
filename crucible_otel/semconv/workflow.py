"""Workflows and their stages."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.buckets import LONG_S
from crucible_otel.semconv.build import operation
from crucible_otel.semconv.energy import ENERGY, energy
from crucible_otel.semconv.fields import STAGE, WORKFLOW, WORKFLOW_RUN_ID
from crucible_otel.semconv.model import Feed, Field, Metric
from crucible_otel.semconv.names import ERROR_TYPE

RUN_DURATION: Final = Metric(
    name="crucible.workflow.run.duration",
    kind="histogram",
    unit="s",
    brief="Duration of workflow runs.",
    attributes=("crucible.workflow.name", "crucible.result", ERROR_TYPE),
    buckets=LONG_S,
)
RUN_ACTIVE: Final = Metric(
    name="crucible.workflow.run.active",
    kind="updowncounter",
    unit="{run}",
    brief="Workflow runs in progress.",
    attributes=("crucible.workflow.name",),
)
RUN_INFO: Final = Metric(
    name="crucible.workflow.run.info",
    kind="gauge",
    unit="",
    brief="1 while this run of the workflow is in progress; joins the workflow's name with its run id.",
    attributes=("crucible.workflow.name", "crucible.workflow.run.id"),
)
STAGE_DURATION: Final = Metric(
    name="crucible.stage.duration",
    kind="histogram",
    unit="s",
    brief="Duration of stages.",
    attributes=("crucible.workflow.name", "crucible.stage.name", "crucible.result", ERROR_TYPE),
    buckets=LONG_S,
)
STAGE_ACTIVE: Final = Metric(
    name="crucible.stage.active",
    kind="updowncounter",
    unit="{stage}",
    brief="Stages in progress.",
    attributes=("crucible.workflow.name", "crucible.stage.name"),
)

WORKFLOW_OPERATION: Final = operation(
    "crucible.workflow",
    "run_workflow {workflow}",
    "Workflow run",
    identity=(
        WORKFLOW,
        WORKFLOW_RUN_ID,
        Field(
            name="tags",
            attribute="crucible.workflow.tags",
            brief="The caller's tags; each one becomes an attribute below this name.",
            type="map",
        ),
    ),
    yields=ENERGY,
    on_start=(Feed(metric=RUN_ACTIVE, how="up"), Feed(metric=RUN_INFO, how="on")),
    on_end=(
        energy("crucible.workflow.run.energy", "workflow runs", "crucible.workflow.name"),
        Feed(metric=RUN_DURATION, how="record", field="duration", scale=1e-9),
        Feed(metric=RUN_ACTIVE, how="down"),
        Feed(metric=RUN_INFO, how="off"),
    ),
    failure="ERROR",
)
STAGE_OPERATION: Final = operation(
    "crucible.stage",
    "run_stage {stage}",
    "Stage",
    identity=(
        STAGE,
        Field(name="module", attribute="crucible.stage.module", brief="Module or class that implements the stage."),
        Field(name="stage_index", attribute="crucible.stage.index", brief="Position in the workflow.", type="int"),
    ),
    yields=ENERGY,
    on_start=(Feed(metric=STAGE_ACTIVE, how="up"),),
    on_end=(
        energy("crucible.stage.energy", "stages", "crucible.workflow.name", "crucible.stage.name"),
        Feed(metric=STAGE_DURATION, how="record", field="duration", scale=1e-9),
        Feed(metric=STAGE_ACTIVE, how="down"),
    ),
)

OPERATIONS: Final = (WORKFLOW_OPERATION, STAGE_OPERATION)
EVENTS: Final = ()
