"""Operations on tensors."""

from __future__ import annotations

from typing import Any

import pytest

import crucible_otel as cx
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def sizes(capture: Capture) -> dict[Any, float]:
    """Return the elements by operand."""
    points = capture.points("crucible.tensor_op.size")
    return {point.attributes["crucible.tensor_op.operand"]: point.sum for point in points}


@pytest.mark.parametrize(
    ("inputs", "output", "expected"),
    [
        ([(2, 3), (3, 4)], (2, 4), {"input": 18, "output": 8}),
        ([()], (), {"input": 1, "output": 1}),
        ([], (5,), {"input": 0, "output": 5}),
        ([(0, 7)], None, {"input": 0}),
        (None, [4, 4], {"output": 16}),
    ],
    ids=repr,
)
def test_elements_come_from_the_shapes(capture: Capture, inputs: Any, output: Any, expected: dict[str, int]) -> None:
    """The sum of the products of the inputs, the product of the output; a scalar has one."""
    capture.configure()
    cx.tensor_op(duration_s=0.001, op="matmul", input_shapes=inputs, output_shape=output)
    assert expected == sizes(capture)


def test_durations_are_recorded_by_operation_and_device(capture: Capture) -> None:
    """Neither the type nor the shapes are attributes of a metric."""
    capture.configure()
    for device in ("cuda:0", ("cuda", 0), 0):
        cx.tensor_op(
            duration_s=0.001, op="matmul", input_shapes=[(2, 2)], output_shape=(2, 2), dtype="bf16", device=device
        )
    (point,) = capture.points("crucible.tensor_op.duration")
    assert {"crucible.tensor_op.name": "matmul", "crucible.device.name": "cuda:0"} == dict(point.attributes)
    assert (3, pytest.approx(0.003)) == (point.count, point.sum)


def test_log_events_are_limited_to_one_a_second(capture: Capture) -> None:
    """And carry the shapes and the type."""
    clock = capture.stopped()
    for _ in range(25):
        cx.tensor_op(duration_s=0.001, op="matmul", input_shapes=[(2, 3), (3, 4)], output_shape=(2, 4), dtype="bf16")
        clock.advance(0.1)
    logs = capture.events("crucible.tensor_op")
    assert 3 == len(logs)
    assert {
        "crucible.tensor_op.name": "matmul",
        "crucible.tensor_op.input_shapes": "[[2,3],[3,4]]",
        "crucible.tensor_op.output_shape": (2, 4),
        "crucible.tensor_op.dtype": "bf16",
        "crucible.tensor_op.input_elements": 18,
        "crucible.tensor_op.output_elements": 8,
        "crucible.tensor_op.elapsed": 0.001,
    } == dict(logs[0].attributes)
    assert 25 == capture.value("crucible.tensor_op.duration")


@pytest.mark.parametrize("bad", [[(2, -1)], [(2, None)], 5, [("a",)], [(2.5,)]], ids=repr)
def test_what_is_no_shape_is_refused(capture: Capture, bad: Any) -> None:
    """Counted; the duration and the output are recorded."""
    capture.configure()
    cx.tensor_op(duration_s=0.001, op="matmul", input_shapes=bad, output_shape=(2, 2))
    assert {"output": 4} == sizes(capture)
    assert (1, 1) == (
        capture.value("crucible.tensor_op.duration"),
        capture.value("crucible.sdk.refused_attributes"),
    )


def test_a_size_beyond_any_memory_is_none(capture: Capture) -> None:
    """It would not fit into what is sent."""
    capture.configure()
    cx.tensor_op(duration_s=0.001, op="outer", input_shapes=[(2**40, 2**40)], output_shape=())
    assert {"output": 1} == sizes(capture)


def test_a_handler_gets_every_one(capture: Capture) -> None:
    """Under the seed's name, with elements and shapes."""
    capture.configure()
    seen = listen("snakepit.ml.tensor_op")
    for _ in range(2):
        cx.tensor_op(duration_s=0.5, op="sum", input_shapes=[(2, 2)], output_shape=(), dtype="f32", device="cpu")
    assert [
        (
            "snakepit.ml.tensor_op",
            {"duration": 500_000_000, "input_elements": 4, "output_elements": 1},
            {"op": "sum", "input_shapes": [[2, 2]], "output_shape": [], "dtype": "f32", "device": "cpu"},
        )
    ] * 2 == seen
