"""The attributes that are not fields of an event: outcomes, and what stands on the resource."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv import names
from crucible_otel.semconv.model import Attribute

RESULT: Final = "crucible.result"
RESULTS: Final = ("success", "failure", "timeout", "cancellation", "skip")

ATTRIBUTES: Final = (
    Attribute(
        name=RESULT,
        type="string",
        brief="How an operation ended.",
        values=RESULTS,
        on=("span", "metric", "event"),
    ),
    Attribute(
        name=names.ERROR_TYPE,
        type="string",
        brief="Type of the exception; present on failure only.",
        on=("span", "metric", "event"),
    ),
    Attribute(
        name=names.SOURCE,
        type="string",
        brief="Family of the name an event came in by, such as crucible_train; absent when it came from a verb.",
    ),
    Attribute(
        name="crucible.workflow.name", type="string", brief="Name of the workflow.", on=("span", "metric", "event")
    ),
    Attribute(
        name="crucible.workflow.run.id",
        type="string",
        brief="Identity of this run of the workflow; of metrics only the one that joins it with the name has it.",
        on=("span", "metric", "event"),
    ),
    Attribute(name="crucible.stage.name", type="string", brief="Name of the stage.", on=("span", "metric", "event")),
    Attribute(name="crucible.model.name", type="string", brief="Name of the model.", on=("span", "metric", "event")),
    Attribute(
        name="crucible.call.library", type="string", brief="Library that is called.", on=("span", "metric", "event")
    ),
    Attribute(
        name=names.CODE_FUNCTION_NAME,
        type="string",
        brief="Function that is called.",
        on=("span", "metric", "event"),
    ),
    Attribute(
        name="crucible.dataset.name", type="string", brief="Name of the dataset.", on=("span", "metric", "event")
    ),
    Attribute(
        name="crucible.training.split",
        type="string",
        brief="Part of the data: train, validation, test or the caller's own.",
        on=("span", "metric", "event"),
    ),
    Attribute(
        name="crucible.device.name",
        type="string",
        brief="Device, such as cuda:0 or cpu.",
        on=("span", "metric", "event"),
    ),
    Attribute(
        name="crucible.memory.type", type="string", brief="Kind of memory: cpu or gpu.", on=("span", "metric", "event")
    ),
    Attribute(name="crucible.pool.name", type="string", brief="Name of the pool.", on=("span", "metric", "event")),
    Attribute(
        name="crucible.pool.worker.state",
        type="string",
        brief="What the workers are doing.",
        values=("idle", "busy"),
        on=("metric",),
    ),
    Attribute(
        name="crucible.serialization.format",
        type="string",
        brief="Format, such as json or arrow.",
        on=("span", "metric", "event"),
    ),
    Attribute(
        name="crucible.serialization.direction",
        type="string",
        brief="Into the format or out of it.",
        values=("encode", "decode"),
        on=("span", "metric", "event"),
    ),
    Attribute(
        name="crucible.tensor_op.name", type="string", brief="Name of the operation.", on=("span", "metric", "event")
    ),
    Attribute(
        name="crucible.tensor_op.operand",
        type="string",
        brief="What went in, or what came out.",
        values=("input", "output"),
        on=("metric",),
    ),
    Attribute(
        name="crucible.future.kind",
        type="string",
        brief="What the future is the result of.",
        on=("span", "metric", "event"),
    ),
    Attribute(
        name="crucible.future.status",
        type="string",
        brief="What a poll of a future was answered with, such as pending or done.",
        on=("metric",),
    ),
    Attribute(name="crucible.metric.name", type="string", brief="Name of a value of the user's.", on=("metric",)),
    Attribute(
        name="crucible.training.skip.reason",
        type="string",
        brief="Why a step was not made: nan, overflow, user or the caller's own.",
        on=("metric", "event"),
    ),
    Attribute(
        name="crucible.training.signal",
        type="string",
        brief="Which value of the training.",
        on=("metric", "event"),
    ),
    Attribute(
        name="crucible.io.direction", type="string", brief="Read or write.", values=("read", "write"), on=("metric",)
    ),
    Attribute(
        name="crucible.sdk.signal",
        type="string",
        brief="Which signal.",
        values=("traces", "metrics", "logs"),
        on=("metric",),
    ),
    Attribute(
        name=names.COMPONENT_TYPE,
        type="string",
        brief="Kind of a processor or exporter of the SDK, such as batching_span_processor.",
        on=("metric",),
    ),
    Attribute(
        name=names.COMPONENT_NAME,
        type="string",
        brief="Which one: its type and a number.",
        on=("metric",),
    ),
    Attribute(name="crucible.sdk.drop.reason", type="string", brief="Why it was dropped.", on=("metric",)),
    Attribute(name="crucible.sdk.handler.id", type="string", brief="Id of the handler.", on=("metric",)),
    Attribute(
        name="crucible.sdk.refusal.reason",
        type="string",
        brief="What happened to the value.",
        values=("converted", "dropped"),
        on=("metric",),
    ),
    Attribute(name="crucible.sdk.metric.name", type="string", brief="Name of the metric.", on=("metric",)),
    Attribute(name="crucible.sdk.component", type="string", brief="Part of the SDK.", on=("metric",)),
    Attribute(
        name="crucible.incomplete",
        type="boolean",
        brief="True on a span that was still open when telemetry was shut down.",
        on=("span", "event"),
    ),
    Attribute(
        name=names.SEGMENT_NUMBER,
        type="int",
        brief="Which part of a trace that has too many spans for one, from 2; on the root span of the part.",
        on=("span",),
    ),
    Attribute(name=names.RUN_ID, type="string", brief="Identity of the job this process belongs to.", on=("resource",)),
    Attribute(name=names.RANK, type="int", brief="Rank of the process in the job.", on=("resource",)),
    Attribute(name=names.LOCAL_RANK, type="int", brief="Rank of the process on its host.", on=("resource",)),
    Attribute(name=names.NODE_RANK, type="int", brief="Rank of the host in the job.", on=("resource",)),
    Attribute(name=names.WORLD_SIZE, type="int", brief="Processes in the job.", on=("resource",)),
    Attribute(name=names.LOCAL_WORLD_SIZE, type="int", brief="Processes of the job on this host.", on=("resource",)),
    Attribute(name=names.RESTART_COUNT, type="int", brief="Times the launcher restarted the job.", on=("resource",)),
)
