"""Operations on tensors."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.buckets import ELEMENTS, OP_S
from crucible_otel.semconv.fields import CONTEXT, DEVICE
from crucible_otel.semconv.model import Event, Feed, Field, Metric

_NAME = "crucible.tensor_op.name"
_OPERAND = "crucible.tensor_op.operand"

DURATION: Final = Metric(
    name="crucible.tensor_op.duration",
    kind="histogram",
    unit="s",
    brief="Duration of operations on tensors.",
    attributes=(_NAME, DEVICE.attribute),
    buckets=OP_S,
)
SIZE: Final = Metric(
    name="crucible.tensor_op.size",
    kind="histogram",
    unit="{element}",
    brief="Elements that went into operations on tensors and came out of them.",
    attributes=(_NAME, DEVICE.attribute, _OPERAND),
    buckets=ELEMENTS,
)


def _elements(name: str, brief: str) -> Field:
    return Field(
        name=name,
        attribute=f"crucible.tensor_op.{name}",
        unit="{element}",
        brief=brief,
        measurement=True,
        type="int",
    )


TENSOR_OP_EVENT: Final = Event(
    name="crucible.tensor_op",
    brief="Operation on tensors completed.",
    severity="DEBUG",
    hot=True,
    fields=(
        Field(
            name="duration",
            attribute="crucible.tensor_op.elapsed",
            unit="ns",
            brief="How long it took; seconds on log records.",
            measurement=True,
            type="int",
        ),
        _elements("input_elements", "Elements of all inputs."),
        _elements("output_elements", "Elements of the output; 1 for a scalar."),
        Field(name="op", attribute=_NAME, brief="Name of the operation, such as matmul."),
        Field(
            name="input_shapes",
            attribute="crucible.tensor_op.input_shapes",
            brief="Shapes of the inputs; JSON text on log records.",
        ),
        Field(
            name="output_shape", attribute="crucible.tensor_op.output_shape", brief="Shape of the output.", type="int[]"
        ),
        Field(name="dtype", attribute="crucible.tensor_op.dtype", brief="Type of the elements."),
        DEVICE,
        *CONTEXT,
    ),
    feeds=(
        Feed(metric=DURATION, how="record", field="duration", scale=1e-9),
        Feed(metric=SIZE, how="record", field="input_elements", constants={_OPERAND: "input"}),
        Feed(metric=SIZE, how="record", field="output_elements", constants={_OPERAND: "output"}),
    ),
)

OPERATIONS: Final = ()
EVENTS: Final = (TENSOR_OP_EVENT,)
