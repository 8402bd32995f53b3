"""Operations on tensors: ``cx.tensor_op``."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from crucible_otel.events.names import text
from crucible_otel.events.runtime import runtime
from crucible_otel.semconv.tensor import TENSOR_OP_EVENT
from crucible_otel.verbs.given import duration_ns, quietly
from crucible_otel.verbs.hot import record

Shape = Sequence[int]
_LARGEST = 2**53


@quietly
def tensor_op(
    *,
    duration_s: float | None = None,
    op: str,
    input_shapes: Iterable[Shape] | None = None,
    output_shape: Shape | None = None,
    dtype: object = None,
    device: object = None,
) -> None:
    """Report an operation on tensors: how long it took, and how many elements went in and came out.

    Args:
        duration_s: Seconds it took.
        op: Name of the operation; few different ones, because it becomes a metric attribute.
        input_shapes: Shapes of the inputs; ``()`` is the shape of a scalar.
        output_shape: Shape of the output.
        dtype: Type of the elements; on events only, as the shapes are.
        device: ``cuda:0``, ``("cuda", 0)``, 0 or a framework's own device.
    """
    elements, told = described(op, input_shapes, output_shape, dtype, device)
    record(TENSOR_OP_EVENT, {"duration": duration_ns(duration_s, "tensor_op(duration_s)"), **elements}, told)


def described(
    op: object, inputs: Any, output: Any, dtype: object, device: object
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the event says of it besides its duration: the elements, and everything else."""
    shapes = _shapes(inputs)
    out = None if output is None else _shapes((output,))
    told = {
        "op": op,
        "input_shapes": shapes,
        "output_shape": out[0] if out else None,
        "dtype": None if dtype is None else text(dtype),
        "device": device,
    }
    return {"input_elements": _elements(shapes), "output_elements": _elements(out)}, told


def _shapes(given: Any) -> list[list[int]] | None:
    if given is None:
        return None
    try:
        shapes = [[operator.index(size) for size in shape] for shape in given]
        if all(size >= 0 for shape in shapes for size in shape):
            return shapes
    except Exception:
        pass
    runtime().refuse("tensor_op(shapes)", given, "shapes of whole numbers are needed")
    return None


def _elements(shapes: list[list[int]] | None) -> int | None:
    found = None if shapes is None else sum(map(math.prod, shapes))
    return found if found is None or found < _LARGEST else None
