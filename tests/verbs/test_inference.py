"""Inferences."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import crucible_otel as cx
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def amounts(capture: Capture, **attributes: Any) -> dict[str, Any]:
    """Return what the metrics say: sums, and the last rate."""
    return {
        name: next(
            (
                point.sum if hasattr(point, "sum") else point.value
                for point in capture.points(f"crucible.inference.{name}", **attributes)
            ),
            None,
        )
        for name in ("duration", "items", "batch.size", "tokens", "throughput")
    }


def test_an_inference_is_a_span_with_items_tokens_and_their_rate(capture: Capture) -> None:
    """By model and device; the version is on the span only."""
    clock = capture.stopped()
    with cx.inference("bert", batch_size=32, device=("cuda", 0), version=2, shard=1) as inference:
        clock.advance(2.0)
        inference.tokens(500)
        inference.tokens(12)
    span = capture.span("predict bert")
    assert ("INTERNAL", 2 * 10**9) == (span.kind.name, span.end_time - span.start_time)
    assert {
        "crucible.model.name": "bert",
        "crucible.model.version": "2",
        "shard": 1,
        "crucible.inference.batch_size": 32,
        "crucible.inference.tokens": 512,
        "crucible.inference.tokens_per_second": 256.0,
        "crucible.result": "success",
    }.items() <= dict(span.attributes).items()
    where = {"crucible__model__name": "bert", "crucible__device__name": "cuda:0"}
    assert {"duration": 2.0, "items": 32, "batch.size": 32, "tokens": 512, "throughput": 256.0} == amounts(
        capture, **where
    )
    assert [] == capture.logs


def test_without_tokens_there_is_no_rate(capture: Capture) -> None:
    """Nor without a time that they took."""
    clock = capture.stopped()
    with cx.inference("bert"):
        clock.advance(1.0)
    assert {"duration": 1.0, "items": None, "batch.size": None, "tokens": None, "throughput": None} == amounts(capture)
    with cx.inference("bert") as inference:
        inference.tokens(5)
    assert (5, None) == (amounts(capture)["tokens"], amounts(capture)["throughput"])


@pytest.mark.parametrize(
    ("error", "result", "kind"),
    [
        (ValueError("no"), "failure", "ValueError"),
        (TimeoutError(), "timeout", "TimeoutError"),
        (KeyboardInterrupt(), "cancellation", None),
        (asyncio.CancelledError(), "cancellation", None),
    ],
    ids=repr,
)
def test_a_failed_inference_has_no_items(capture: Capture, error: BaseException, result: str, kind: str | None) -> None:
    """Its duration is recorded with its result, and the exception travels on."""
    capture.configure()
    inference = cx.inference("bert", batch_size=8)
    inference.tokens(5)
    with pytest.raises(type(error)) as raised, inference:
        raise error
    assert raised.value is error
    (point,) = capture.points("crucible.inference.duration")
    assert (result, kind) == (point.attributes["crucible.result"], point.attributes.get("error.type"))
    assert (None, None) == (amounts(capture)["items"], amounts(capture)["tokens"])


def test_it_decorates_functions_and_streams(capture: Capture) -> None:
    """Each call is an inference of its own; a stream lasts until it ends or is abandoned."""
    capture.configure()

    @cx.inference("{model}", batch_size=4)
    def predict(model: str) -> str:
        return model

    @cx.inference("streaming")
    def stream() -> Iterator[int]:
        yield from range(3)

    @cx.inference("awaited", batch_size=2)
    async def awaited() -> None:
        await asyncio.sleep(0)

    assert ("a", "b") == (predict("a"), predict("b"))
    assert [0, 1, 2] == list(stream())
    abandoned = stream()
    next(abandoned)
    abandoned.close()
    asyncio.run(awaited())
    assert [("awaited", 2), ("a", 4), ("b", 4)] == sorted(
        (
            (point.attributes["crucible.model.name"], point.value)
            for point in capture.points("crucible.inference.items")
        ),
        key=lambda pair: (pair[1], pair[0]),
    )
    assert ["cancellation", "success"] == sorted(
        span.attributes["crucible.result"] for span in capture.named("predict streaming")
    )


@pytest.mark.parametrize("bad", [-1, "many", 2.5], ids=repr)
def test_what_is_no_number_is_refused(capture: Capture, bad: Any) -> None:
    """Counted; the inference is recorded."""
    capture.configure()
    with cx.inference("bert", batch_size=bad) as inference:
        inference.tokens(bad)
    assert (1, 2) == (capture.value("crucible.inference.duration"), capture.value("crucible.sdk.refused_attributes"))
    assert (None, None) == (amounts(capture)["items"], amounts(capture)["tokens"])


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_rate_that_is_no_number_is_refused(capture: Capture, rate: float) -> None:
    """It is no loss: nobody is told of it, and the last good one stays."""
    capture.configure()
    for each in (7.0, rate):
        cx.execute("snakepit.ml.inference", {"tokens_per_second": each}, {"model": "bert", "device": "cpu"})
    assert (7.0, 1) == (amounts(capture)["throughput"], capture.value("crucible.sdk.refused_attributes"))
    assert ([], []) == (capture.points("crucible.training.nonfinite"), capture.logs)


def test_one_object_can_be_used_again(capture: Capture) -> None:
    """Tokens of the first are not those of the second."""
    capture.configure()
    inference = cx.inference("bert")
    for count in (3, 4):
        with inference:
            inference.tokens(count)
    assert 7 == amounts(capture)["tokens"]


def test_deployments_events_are_one_span(capture: Capture) -> None:
    """Start and stop, whose sizes stand on the span; the model is known at the end."""
    capture.configure()
    seen = listen("crucible_deployment.inference.stop")
    cx.execute("crucible_deployment.inference.start", {}, {"model_name": "bert", "model_version": "2"})
    cx.execute(
        "crucible_deployment.inference.stop", {"duration": 10**9, "batch_size": 4, "input_size": 9, "output_size": 3}
    )
    attributes = capture.span("predict bert").attributes
    assert ("2", 9, 3) == (
        attributes["crucible.model.version"],
        attributes["crucible.inference.input_size"],
        attributes["crucible.inference.output_size"],
    )
    assert (4, 1.0) == (amounts(capture, crucible__model__name="bert")["items"], amounts(capture)["duration"])
    assert {"duration": 10**9, "batch_size": 4, "input_size": 9, "output_size": 3} == seen[0][1]
