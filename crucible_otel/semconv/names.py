"""Names that are not ours, and the identity of our instrumentation scope.

Values are OpenTelemetry's (semantic conventions 1.44.0) unless they start with ``crucible.``.
"""

from __future__ import annotations

from typing import Final

SCOPE_NAME: Final = "crucible_otel"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
PROCESS_PID: Final = "process.pid"
HOST_NAME: Final = "host.name"

CODE_FUNCTION_NAME: Final = "code.function.name"
COMPONENT_TYPE: Final = "otel.component.type"
COMPONENT_NAME: Final = "otel.component.name"
ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
EXCEPTION_ESCAPED: Final = "exception.escaped"
EXCEPTION_EVENT: Final = "exception"

OVERFLOW: Final = "otel.metric.overflow"

RUN_ID: Final = "crucible.run.id"
RANK: Final = "crucible.rank"
LOCAL_RANK: Final = "crucible.local_rank"
NODE_RANK: Final = "crucible.node_rank"
WORLD_SIZE: Final = "crucible.world_size"
LOCAL_WORLD_SIZE: Final = "crucible.local_world_size"
RESTART_COUNT: Final = "crucible.restart_count"

RESULT: Final = "crucible.result"
INCOMPLETE: Final = "crucible.incomplete"
SOURCE: Final = "crucible.source"
WORKFLOW_RUN_ID: Final = "crucible.workflow.run.id"
MODEL_NAME: Final = "crucible.model.name"
SEGMENT_NUMBER: Final = "crucible.trace.segment"
