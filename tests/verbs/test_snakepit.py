"""The functions of Snakepit's telemetry design."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.semconv.aliases import SNAKEPIT
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

MS = 1_000_000
CALL = {"library": "numpy", "function": "linalg.svd"}
EMITS: dict[str, tuple[Callable[[], object], dict[str, Any], dict[str, Any]]] = {
    "call_stop": (
        lambda: cx.snakepit.call_stop(0, {"operation": "svd", "result": "ok"}, {"python_time": 5}),
        {"python_time": 5},
        {"operation": "svd", "result": "ok"},
    ),
    "call_exception": (
        lambda: cx.snakepit.call_exception(0, {"operation": "svd"}, "exit", "gone", ["a", "b"]),
        {},
        {"operation": "svd", "kind": "exit", "reason": "gone", "stacktrace": ["a", "b"]},
    ),
    "pool_checkout": (
        lambda: cx.snakepit.pool_checkout(5, "default", "w1"),
        {"queue_time": 5},
        {"pool": "default", "worker_id": "w1"},
    ),
    "pool_checkin": (
        lambda: cx.snakepit.pool_checkin(5, "default", "w1"),
        {"busy_time": 5},
        {"pool": "default", "worker_id": "w1"},
    ),
    "pool_size": (
        lambda: cx.snakepit.pool_size("default", 8, 3, 5, queue_depth=1),
        {"size": 8, "idle": 3, "busy": 5, "queue_depth": 1},
        {"pool": "default"},
    ),
    "memory_allocate": (
        lambda: cx.snakepit.memory_allocate(64, "gpu", ("cuda", 0)),
        {"bytes": 64},
        {"type": "gpu", "device": ("cuda", 0)},
    ),
    "memory_release": (lambda: cx.snakepit.memory_release(64, "cpu"), {"bytes": 64}, {"type": "cpu"}),
    "serialize_stop": (
        lambda: cx.snakepit.serialize_stop(5, 64, "encode", "arrow"),
        {"duration": 5, "bytes": 64},
        {"direction": "encode", "format": "arrow"},
    ),
    "tensor_op": (
        lambda: cx.snakepit.tensor_op(5, "matmul", [(2, 3), (3, 4)], (2, 4), "bf16", "cpu"),
        {"duration": 5, "input_elements": 18, "output_elements": 8},
        {
            "op": "matmul",
            "input_shapes": [[2, 3], [3, 4]],
            "output_shape": [2, 4],
            "dtype": "bf16",
            "device": "cpu",
        },
    ),
    "inference": (
        lambda: cx.snakepit.inference(2 * 10**9, 32, "bert", "cpu", 512),
        {"duration": 2 * 10**9, "batch_size": 32, "tokens": 512, "tokens_per_second": 256.0},
        {"model": "bert", "device": "cpu"},
    ),
    "train_step": (
        lambda: cx.snakepit.train_step(5, 0.5, 0.1, 1, 7, "llama"),
        {"duration": 5, "loss": 0.5, "learning_rate": 0.1},
        {"epoch": 1, "step": 7, "model": "llama"},
    ),
}


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize("function", EMITS)
def test_each_function_emits_its_event(capture: Capture, function: str, configured: bool) -> None:
    """With the seed's fields, whether telemetry is configured or not."""
    if configured:
        capture.configure()
    emit, measurements, metadata = EMITS[function]
    name = SNAKEPIT[function].name
    seen = listen(name)
    emit()
    assert [(name, metadata)] == [(event, told) for event, _, told in seen]
    assert measurements.items() <= seen[0][1].items()
    assert {"duration"} >= {*seen[0][1]} - {*measurements}


def test_every_alias_has_its_function() -> None:
    """And every function its alias."""
    assert {*SNAKEPIT} == {*cx.snakepit.__all__} == {"call_start", *EMITS}


def test_a_start_and_its_stop_are_one_span(capture: Capture) -> None:
    """The duration runs from the start; phases and result stand on it; what happens between is inside."""
    clock = capture.stopped()
    started = cx.snakepit.call_start("svd", {**CALL, "worker_id": "w1", "device": "cuda:0"})
    with cx.span("inside"):
        clock.advance(1.0)
    cx.snakepit.call_stop(started, {**CALL, "operation": "svd", "result": "ok"}, {"python_time": 900 * MS})
    assert ["/call numpy.linalg.svd", "/call numpy.linalg.svd/inside"] == capture.paths()
    span = capture.span("call numpy.linalg.svd")
    assert 10**9 == span.end_time - span.start_time
    assert {
        "crucible.call.operation": "svd",
        "crucible.call.execute_time": pytest.approx(0.9),
        "crucible.call.unattributed_time": pytest.approx(0.1),
        "crucible.result": "success",
        "crucible.source": "snakepit",
    }.items() <= dict(span.attributes).items()
    assert (1, 1) == (capture.value("crucible.calls"), capture.value("crucible.call.execute.duration"))


def test_a_failed_call_is_a_failure(capture: Capture) -> None:
    """By an exception, by its words, or by a stop that says so; with the type as far as it is told."""
    capture.configure()
    for end in (
        lambda at: cx.snakepit.call_exception(at, {"operation": "a"}, "error", ValueError("no"), ["here"]),
        lambda at: cx.snakepit.call_exception(at, {"operation": "a"}, "exit", "worker died"),
        lambda at: cx.snakepit.call_stop(at, {"operation": "a", "result": "error", "error_type": "OOM"}),
    ):
        end(cx.snakepit.call_start("a", CALL))
    assert [("ValueError", "ERROR"), ("exit", "ERROR"), ("OOM", "ERROR")] == [
        (span.attributes["error.type"], span.status.status_code.name) for span in capture.spans
    ]
    assert {("failure", "ValueError"), ("failure", "exit"), ("failure", "OOM")} == {
        (point.attributes["crucible.result"], point.attributes["error.type"])
        for point in capture.points("crucible.calls")
    }
    assert ("here",) == capture.spans[0].attributes["crucible.call.stacktrace"]


def pair(name: str, pause: Callable[[], Any]) -> None:
    """Make a call with another inside, giving way between their events."""
    outer = cx.snakepit.call_start("same", {"library": "lib", "function": name})
    pause()
    inner = cx.snakepit.call_start("inner", {"library": "lib", "function": "inner"})
    pause()
    cx.snakepit.call_stop(inner, {"operation": "inner", "result": "ok"})
    pause()
    cx.snakepit.call_stop(outer, {"operation": "same", "result": "ok"})


def test_concurrent_calls_of_one_name_do_not_mix(capture: Capture) -> None:
    """A stop means the start of its own context, in threads, in copied contexts and in tasks."""
    capture.configure()
    barrier = threading.Barrier(4)
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(pair, f"t{number}", barrier.wait))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def task(number: int) -> None:
        started = cx.snakepit.call_start("same", {"library": "lib", "function": f"a{number}"})
        await asyncio.sleep(0)
        cx.snakepit.call_stop(started, {"operation": "same"}, {"queue_time": number})

    async def tasks() -> None:
        await asyncio.gather(*(task(number) for number in range(4)))

    asyncio.run(tasks())
    expected = [f"/call lib.t{number}{rest}" for number in range(4) for rest in ("", "/call lib.inner")]
    expected += [f"/call lib.a{number}" for number in range(4)]
    assert sorted(expected) == capture.paths()
    for number in range(4):
        attributes = capture.span(f"call lib.a{number}").attributes
        assert number * 1e-9 == attributes["crucible.call.queue_time"]


def test_a_stop_without_a_start_is_a_span_of_its_duration(capture: Capture) -> None:
    """Where it happens; one whose start time is none has no span, and is counted all the same."""
    clock = capture.stopped()
    started = round(clock.now() * 1e9)
    clock.advance(2.0)
    with cx.stage("s"):
        cx.snakepit.call_stop(started, {**CALL, "operation": "svd"})
        cx.snakepit.call_stop(clock.now() - 0.5, {**CALL, "operation": "svd"})
        cx.snakepit.call_stop(None, {**CALL, "operation": "svd"})  # type: ignore[arg-type]
    lasted = [span.end_time - span.start_time for span in capture.named("call numpy.linalg.svd")]
    assert [2 * 10**9, 10**9 // 2] == lasted
    assert 3 == capture.value("crucible.calls")


def test_a_start_without_an_end_is_closed_at_shutdown(capture: Capture) -> None:
    """As cancelled and incomplete."""
    telemetry = capture.configure()
    cx.snakepit.call_start("svd", CALL)
    telemetry.shutdown()
    attributes = capture.span("call numpy.linalg.svd").attributes
    assert ("cancellation", True) == (attributes["crucible.result"], attributes["crucible.incomplete"])


def test_a_step_is_a_training_step(capture: Capture) -> None:
    """Counted once, with its loss, rate, duration and number, by model."""
    capture.configure()
    for step in (1, 2, 3):
        cx.snakepit.train_step(250 * MS, 1.0 / step, 0.1, 1, step, "llama")
    model = {"crucible__model__name": "llama"}
    names = ("steps", "step.current", "loss", "learning_rate", "step.duration")
    assert [3, 3, 1.0 / 3, 0.1, 3] == [capture.value(f"crucible.training.{name}", **model) for name in names]
    assert 0.75 == capture.sum("crucible.training.step.duration", **model)


def test_an_inference_of_no_time_has_no_rate(capture: Capture) -> None:
    """Instead of a division by zero; without tokens neither. One that took time is a span."""
    capture.configure()
    seen = listen("snakepit.ml.inference")
    cx.snakepit.inference(0, 1, "bert", "cpu", tokens=5)
    cx.snakepit.inference(10**9, 1, "bert", "cpu")
    assert [set(), set()] == [{"tokens_per_second"} & {*measurements} for _, measurements, _ in seen]
    assert [0, 10**9] == [span.end_time - span.start_time for span in capture.named("predict bert")]


REFUSED: list[tuple[str, tuple[Any, ...]]] = [
    ("call_stop", ("yesterday", {})),
    ("call_exception", (10**30, {})),
    ("pool_checkout", (-1, "p")),
    ("pool_checkin", ("long", "p")),
    ("pool_size", ("p", "many")),
    ("memory_allocate", (-5, "cpu")),
    ("memory_release", (0.5, "cpu")),
    ("serialize_stop", (float("nan"), 5, "encode", "json")),
    ("inference", (5, -1, "bert")),
    ("tensor_op", (5, "sum", 5, ())),
    ("train_step", ("long", 0.5, 0.1, 1, 1, "m")),
]


@pytest.mark.parametrize(("function", "arguments"), REFUSED, ids=[function for function, _ in REFUSED])
def test_what_cannot_be_used_is_counted_and_never_raises(
    capture: Capture, function: str, arguments: tuple[Any, ...]
) -> None:
    """The event is emitted without it."""
    capture.configure()
    seen = listen()
    getattr(cx.snakepit, function)(*arguments)
    assert 1 == capture.value("crucible.sdk.refused_attributes")
    assert 1 == len(seen)


class Hostile:
    """Raises whatever it is asked."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __index__ = __float__ = __iter__ = __str__  # type: ignore[assignment]


def test_hostile_arguments_never_raise(capture: Capture) -> None:
    """Whatever a program hands in."""
    capture.configure()
    bad: Any = Hostile()
    cx.snakepit.call_stop(cx.snakepit.call_start(bad, bad), bad, bad)
    cx.snakepit.call_exception(bad, bad, bad, bad, bad)
    cx.snakepit.pool_checkout(bad, bad, bad)
    cx.snakepit.pool_checkin(bad, bad, bad)
    cx.snakepit.pool_size(bad, bad, bad, bad, bad)
    cx.snakepit.memory_allocate(bad, bad, bad)
    cx.snakepit.memory_release(bad, bad, bad)
    cx.snakepit.serialize_stop(bad, bad, bad, bad)
    cx.snakepit.tensor_op(bad, bad, bad, bad, bad, bad)
    cx.snakepit.inference(bad, bad, bad, bad, bad)
    cx.snakepit.train_step(bad, bad, bad, bad, bad, bad)
    with (
        cx.call(bad, bad, bytes=bad, worker_id=bad) as call,
        cx.inference(bad, batch_size=bad, device=bad) as inference,
    ):
        call.timing(queue_ns=bad)
        call.io(bad)
        inference.tokens(bad)
    with cx.pool(bad, size=bad).checkout(bad, wait_s=bad) as task:
        task.acquired(bad)
    cx.memory.allocate(bad, type=bad, device=bad)
    cx.serialization.record(duration_s=bad, nbytes=bad, direction=bad, format=bad)
    cx.tensor_op(duration_s=bad, op=bad, input_shapes=bad, output_shape=bad, dtype=bad, device=bad)
    assert None is capture.value("crucible.sdk.faults")
