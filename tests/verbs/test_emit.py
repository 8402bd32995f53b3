"""Events by name: every seed's name becomes the right telemetry, and comes back under its name."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import crucible_otel as cx
from crucible_otel.semconv.registry import ALIASES, EVENTS
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

SAMPLES: dict[str, Any] = {
    "accuracy": 0.75,
    "allocated_mb": 100,
    "batch": 4,
    "batch_idx": 11,
    "batch_size": 32,
    "busy": 5,
    "busy_time": 250_000_000,
    "bytes": 4_096,
    "celsius": 71.0,
    "checkpoint_name": "epoch_1",
    "checkpoint_path": "/models/epoch_1",
    "config": {"epochs": 2, "optimizer": {"lr": 0.1}},
    "deserialize_time": 10_000_000,
    "device": "cuda:0",
    "direction": "encode",
    "dtype": "bf16",
    "duration": 2_000_000_000,
    "epoch": 1,
    "epoch_loss": 2.25,
    "error": "it went wrong",
    "error_type": "ValueError",
    "final_loss": 0.125,
    "format": "arrow",
    "free_mb": 300,
    "function": "linalg.svd",
    "gpu_percent": 93.0,
    "grad_norm": 1.5,
    "gradient_norm": 1.5,
    "idle": 3,
    "input_elements": 18,
    "input_shapes": [[2, 3], [3, 4]],
    "input_size": 10,
    "iterations": 5,
    "kind": "error",
    "learning_rate": 0.001,
    "library": "numpy",
    "limit_watts": 400.0,
    "loss": 2.5,
    "lr": 0.001,
    "memory_percent": 40.0,
    "metrics": {"accuracy": 0.91, "f1": 0.88},
    "model": "llama",
    "model_name": "llama",
    "model_version": "2",
    "module": "my.Stage",
    "name": "wikitext",
    "op": "matmul",
    "operation": "numpy.linalg.svd",
    "output_elements": 8,
    "output_shape": [2, 4],
    "output_size": 5,
    "path": "/models/epoch_1",
    "pipeline_id": "p-1",
    "pool": "default",
    "python_time": 1_000_000_000,
    "queue_depth": 2,
    "queue_time": 500_000_000,
    "reason": "it went wrong",
    "reserved_mb": 200,
    "request_id": "r1",
    "request_type": "forward_backward",
    "result": "error",
    "run_id": "run_123",
    "serialize_time": 20_000_000,
    "size": 36_718,
    "size_bytes": 4_096,
    "split": "test",
    "stacktrace": ["a.py:1", "b.py:2"],
    "stage": "load",
    "stage_index": 2,
    "stage_name": "load",
    "status": "success",
    "step": 7,
    "success": True,
    "tokens": 512,
    "tokens_per_second": 256.0,
    "total_epochs": 3,
    "total_mb": 500,
    "total_steps": 100,
    "type": "gpu",
    "used_mb": 200,
    "watts": 250.0,
    "worker_id": "w1",
    "workflow": "finetune",
}


class Becomes(NamedTuple):
    """What an event becomes on its own: the span it makes or leaves open, and what the metrics say then."""

    span: str
    metrics: dict[str, Any]


WORKFLOW_END = Becomes("run_workflow finetune", {"workflow.run.duration": 2.0, "workflow.run.active": None})
STAGE_END = Becomes("run_stage load", {"stage.duration": 2.0, "stage.active": None})
PIPELINE_END = Becomes("run_workflow", {"workflow.run.duration": 2.0})
STEP = {
    "training.steps": 1,
    "training.loss": 2.5,
    "training.gradient.norm": 1.5,
}
CALL = {"calls": 1, "call.duration": 2.0}
INFERRED = {"inference.duration": 2.0, "inference.items": 32, "inference.batch.size": 32}
CHECKPOINT = {"training.checkpoints": 1}
AWAITED = Becomes(
    "await_future forward_backward",
    {"futures": 1, "future.wait_time": 2.0, "future.iterations": 5, "future.pending": None},
)
EXPECTED = {
    "crucible_kitchen.workflow.run.start": Becomes(
        "run_workflow finetune", {"workflow.run.active": 1, "workflow.run.info": 1, "workflow.run.duration": None}
    ),
    "crucible_kitchen.workflow.run.stop": WORKFLOW_END,
    "crucible_kitchen.workflow.run.exception": WORKFLOW_END,
    "crucible_kitchen.stage.run.start": Becomes("run_stage load", {"stage.active": 1}),
    "crucible_kitchen.stage.run.stop": STAGE_END,
    "crucible_kitchen.stage.run.exception": STAGE_END,
    "crucible_kitchen.training.step": Becomes(
        "", {**STEP, "training.learning_rate": 0.001, "training.step.current": 7}
    ),
    "crucible_kitchen.training.epoch": Becomes(
        "", {"training.epochs": 1, "training.epoch.loss": 2.25, "training.epoch.current": 1}
    ),
    "crucible_kitchen.training.checkpoint": Becomes("", {**CHECKPOINT, "checkpoint.size": 4096}),
    "crucible_kitchen.training.eval": Becomes("", {"training.evaluations": 1}),
    "crucible_kitchen.dataset.load": Becomes(
        "load_dataset wikitext", {"dataset.load.duration": 2.0, "dataset.size": 36_718}
    ),
    "crucible_kitchen.dataset.batch": Becomes(
        "", {"dataset.batches": 1, "dataset.records": 32, "dataset.batch.size": 32}
    ),
    "crucible_train.training.start": Becomes("train llama", {"training.duration": None}),
    "crucible_train.training.stop": Becomes("train", {"training.duration": 2.0}),
    "crucible_train.training.exception": Becomes("train", {"training.duration": 2.0}),
    "crucible_train.epoch.start": Becomes("train_epoch", {"training.epoch.current": 1, "training.epochs": None}),
    "crucible_train.epoch.stop": Becomes(
        "train_epoch",
        {
            "training.epochs": 1,
            "training.epoch.loss": 2.5,
            "training.epoch.accuracy": 0.75,
            "training.epoch.duration": 2.0,
        },
    ),
    "crucible_train.epoch.exception": Becomes("train_epoch", {"training.epochs": None, "training.epoch.duration": 2.0}),
    "crucible_train.batch.stop": Becomes("", STEP),
    "crucible_train.checkpoint.saved": Becomes("", CHECKPOINT),
    "crucible_framework.pipeline.start": Becomes("run_workflow", {"workflow.run.active": 1, "workflow.run.info": 1}),
    "crucible_framework.pipeline.stop": PIPELINE_END,
    "crucible_framework.pipeline.exception": PIPELINE_END,
    "crucible_framework.stage.start": Becomes("run_stage load", {"stage.active": 1}),
    "crucible_framework.stage.stop": STAGE_END,
    "crucible_framework.stage.exception": STAGE_END,
    "crucible_deployment.inference.start": Becomes("predict llama", {"inference.duration": None}),
    "crucible_deployment.inference.stop": Becomes("predict", INFERRED),
    "crucible_deployment.inference.exception": Becomes("predict", {"inference.duration": 2.0, "inference.items": None}),
    "snakepit.call.start": Becomes("call numpy.linalg.svd", {"calls": None, "call.duration": None}),
    "snakepit.call.stop": Becomes(
        "call numpy.linalg.svd",
        {
            **CALL,
            "call.queue.duration": 0.5,
            "call.serialize.duration": 0.02,
            "call.execute.duration": 1.0,
            "call.deserialize.duration": 0.01,
        },
    ),
    "snakepit.call.exception": Becomes("call numpy.linalg.svd", {**CALL, "call.execute.duration": None}),
    "snakepit.pool.checkout": Becomes("", {"pool.task.wait_time": 0.5}),
    "snakepit.pool.checkin": Becomes("", {"pool.task.duration": 0.25}),
    "snakepit.pool.size": Becomes(
        "", {"pool.worker.current": 8, "pool.worker.max": 36_718, "pool.task.pending": 2, "pool.task.duration": None}
    ),
    "snakepit.memory.allocate": Becomes(
        "", {"memory.allocated": 4_096, "memory.released": None, "memory.usage": 4_096}
    ),
    "snakepit.memory.release": Becomes(
        "", {"memory.allocated": None, "memory.released": 4_096, "memory.usage": -4_096}
    ),
    "snakepit.serialize.stop": Becomes("", {"serialization.duration": 2.0, "serialization.size": 4_096}),
    "snakepit.ml.tensor_op": Becomes("", {"tensor_op.duration": 2.0, "tensor_op.size": 18 + 8}),
    "snakepit.ml.inference": Becomes(
        "predict llama", {**INFERRED, "inference.tokens": 512, "inference.throughput": 256.0}
    ),
    "snakepit.ml.train_step": Becomes(
        "",
        {
            "training.steps": 1,
            "training.loss": 2.5,
            "training.learning_rate": 0.001,
            "training.step.current": 7,
            "training.step.duration": 2.0,
        },
    ),
    "tinkex.future.poll.start": Becomes("await_future forward_backward", {"future.pending": 1, "futures": None}),
    "tinkex.future.poll.stop": AWAITED,
    "tinkex.future.poll.exception": AWAITED,
    # Reported by observable instruments, which no event feeds.
    "snakepit.gpu.memory.sampled": Becomes("", {}),
    "snakepit.gpu.utilization.sampled": Becomes("", {}),
    "snakepit.gpu.temperature.sampled": Becomes("", {}),
    "snakepit.gpu.power.sampled": Becomes("", {}),
    "snakepit.memory.gpu": Becomes("", {}),
}


def sample(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return measurements and metadata of an alias as its document has them."""
    alias = ALIASES[name]
    return {key: SAMPLES[key] for key in alias.measurements}, {key: SAMPLES[key] for key in alias.metadata}


def amount(capture: Capture, metric: str) -> Any:
    """Return the value of a gauge or counter, the sum of a histogram, None when there is no point."""
    points = capture.points(metric)
    if not points:
        return None
    return sum(getattr(point, "sum", None) or getattr(point, "value", 0) for point in points)


def prefixed(name: str) -> str:
    """Return the full name of a metric of ours."""
    return f"crucible.{name}"


def test_the_table_knows_every_alias() -> None:
    """An alias that is added gets its row here."""
    assert list(ALIASES) == list(EXPECTED)


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_comes_back_under_its_own_name(name: str) -> None:
    """Whoever subscribes to a seed's name sees exactly what was executed under it."""
    seen = listen(name)
    measurements, metadata = sample(name)
    cx.execute(name, measurements, metadata)
    assert [(name, measurements, metadata)] == seen


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_becomes_its_telemetry(capture: Capture, name: str) -> None:
    """The canonical event for handlers and logs, the span, the metrics; all with the attributes of the fields."""
    capture.configure()
    everything = listen()
    alias, expected = ALIASES[name], EXPECTED[name]
    spec = EVENTS[alias.targets[0]]
    measurements, metadata = sample(name)

    cx.execute(name, measurements, metadata)

    assert [spec.name] == everything.names
    assert expected.metrics == {metric: amount(capture, prefixed(metric)) for metric in expected.metrics}
    started = spec.role == "start"
    assert ([] if started or not expected.span else [expected.span]) == [span.name for span in capture.spans]
    assert ([spec.name] if spec.logged else []) == [record.event_name for record in capture.logs]
    carried = [record.attributes for record in capture.logs] + [span.attributes for span in capture.spans]
    attributes = {field.name: field.attribute for field in spec.fields if field.attribute and field.type != "map"}
    times = {field.name for field in spec.fields if field.unit == "ns"}
    words = {
        "success": "success",
        "result": "failure",
        "input_shapes": "[[2,3],[3,4]]",
        "output_shape": (2, 4),
        "stacktrace": ("a.py:1", "b.py:2"),
    }
    for attached in carried:
        assert alias.family == attached["crucible.source"]
        for seed, ours in alias.fields.items():
            if ours in attributes and ours not in times:
                assert words.get(seed, SAMPLES[seed]) == attached[attributes[ours]]
    assert capture.telemetry is not None
    capture.telemetry.shutdown()
    assert ([expected.span] if expected.span else []) == [span.name for span in capture.spans]


def test_each_metric_of_an_evaluation_is_a_point(capture: Capture) -> None:
    """A map of metrics becomes one gauge point a name, beside the split."""
    capture.configure()
    cx.execute("crucible_kitchen.training.eval", *sample("crucible_kitchen.training.eval"))
    points = capture.points("crucible.training.evaluation.metric", crucible__training__split="test")
    assert {"accuracy": 0.91, "f1": 0.88} == {point.attributes["crucible.metric.name"]: point.value for point in points}


def test_a_step_without_a_gradient_norm_is_valid(capture: Capture) -> None:
    """What is missing leaves its gauge alone."""
    capture.configure()
    cx.emit_step({"loss": 2.5, "lr": 0.1, "grad_norm": 3.0}, {"step": 1})
    cx.emit_step({"loss": 2.0, "lr": 0.1}, {"step": 2})
    values = [capture.value(prefixed(f"training.{name}")) for name in ("steps", "loss", "gradient.norm")]
    assert [2, 2.0, 3.0] == values


@pytest.mark.parametrize(
    ("emit", "event"),
    [
        (cx.emit_step, "crucible.training.step"),
        (cx.emit_epoch, "crucible.training.epoch"),
        (cx.emit_checkpoint, "crucible.training.checkpoint"),
        (cx.emit_evaluation, "crucible.training.evaluation"),
        (cx.emit_dataset_load, "crucible.dataset.load"),
        (cx.emit_dataset_batch, "crucible.dataset.batch"),
    ],
)
def test_each_emit_function_emits_its_event(emit: Callable[..., None], event: str) -> None:
    """By its kind, from measurements and metadata, the guide's names understood."""
    seen = listen()
    emit({"lr": 0.1}, {"step": 0})
    emit({})
    assert [event, event] == seen.names
    assert {"learning_rate": 0.1} == seen[0][1]
    assert 0 == seen[0][2]["step"]


# -- pairs -------------------------------------------------------------------------------------------------------------


def train(job: str, pause: Callable[[], Any] = lambda: None) -> None:
    """Train by raw events, as the README of CrucibleTelemetry does."""
    cx.execute("crucible_train.training.start", {"system_time": 1}, {"model_name": job, "config": {"epochs": 1}})
    pause()
    cx.execute("crucible_train.epoch.start", {"system_time": 1}, {"epoch": 1})
    pause()
    cx.execute("crucible_train.batch.stop", {"loss": 1.0, "gradient_norm": 0.5}, {"epoch": 1, "batch": 0})
    pause()
    cx.execute("crucible_train.epoch.stop", {"duration": 10**9, "loss": 1.0, "accuracy": 0.5}, {"epoch": 1})
    pause()
    cx.execute("crucible_train.training.stop", {"duration": 2 * 10**9}, {"final_loss": 0.5})


def test_a_pair_becomes_one_span_with_the_right_parent(capture: Capture) -> None:
    """Training contains its epoch; the end's own duration counts, its fields stand on the span."""
    capture.configure()
    train("a")
    assert ["/train a", "/train a/train_epoch"] == capture.paths()
    span = capture.span("train a")
    assert 2 * 10**9 == span.end_time - span.start_time
    assert ("success", 0.5, '{"epochs":1}') == (
        span.attributes["crucible.result"],
        span.attributes["crucible.training.final_loss"],
        span.attributes["crucible.training.config"],
    )
    assert 1 == capture.value("crucible.training.steps", crucible__model__name="a")


def test_a_step_inside_an_epoch_says_which(capture: Capture) -> None:
    """The log event of a raw step lies in the epoch's span and carries all its fields."""
    capture.configure()
    train("a")
    (step,) = capture.events("crucible.training.step")
    assert capture.span("train_epoch").context.span_id == step.span_id
    assert {
        "crucible.model.name": "a",
        "crucible.training.epoch": 1,
        "crucible.training.batch": 0,
        "crucible.training.loss.value": 1.0,
        "crucible.training.gradient.norm.value": 0.5,
    }.items() <= dict(step.attributes).items()


def in_threads(jobs: list[str]) -> None:
    """Run the jobs at once, in step, each in a thread."""
    barrier = threading.Barrier(len(jobs))
    threads = [threading.Thread(target=train, args=(job, barrier.wait)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_copied_contexts(jobs: list[str]) -> None:
    """Run the jobs at once in threads that know what is around them."""
    barrier = threading.Barrier(len(jobs))
    copies = [contextvars.copy_context() for _ in jobs]
    threads = [
        threading.Thread(target=copy.run, args=(train, job, barrier.wait))
        for copy, job in zip(copies, jobs, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_tasks(jobs: list[str]) -> None:
    """Run the jobs at once, each in a task that gives way between its events."""

    async def job(name: str) -> None:
        cx.execute("crucible_train.training.start", {}, {"model_name": name})
        await asyncio.sleep(0)
        cx.execute("crucible_train.epoch.start", {}, {"epoch": 1})
        await asyncio.sleep(0)
        cx.execute("crucible_train.batch.stop", {"loss": 1.0}, {"epoch": 1, "batch": 0})
        await asyncio.sleep(0)
        cx.execute("crucible_train.epoch.stop", {"duration": 10**9, "loss": 1.0}, {"epoch": 1})
        await asyncio.sleep(0)
        cx.execute("crucible_train.training.stop", {"duration": 2 * 10**9})

    async def main() -> None:
        await asyncio.gather(*(job(name) for name in jobs))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("run", "around"), [(in_threads, ""), (in_copied_contexts, "/run_workflow w"), (in_tasks, "/run_workflow w")]
)
def test_concurrent_jobs_do_not_mix(capture: Capture, run: Callable[[list[str]], None], around: str) -> None:
    """Two jobs whose events interleave: each end finds its own start."""
    capture.configure()
    with cx.workflow("w"):
        run(["a", "b"])
    inside = [path for path in capture.paths() if "train" in path]
    assert [f"{around}/train {job}{rest}" for job in "ab" for rest in ("", "/train_epoch")] == inside
    assert [1, 1] == [capture.value("crucible.training.steps", crucible__model__name=job) for job in "ab"]
    assert {10**9} == {span.end_time - span.start_time for span in capture.named("train_epoch")}


def test_the_kitchens_guide_becomes_one_tree(capture: Capture) -> None:
    """Workflow contains stage; a failed stage has one recorded exception, the workflow succeeds."""
    capture.configure()
    cx.execute(("crucible_kitchen", "workflow", "run", "start"), {}, {"workflow": "w", "run_id": "r"})
    cx.execute("crucible_kitchen.stage.run.start", {}, {"stage": "a", "module": "m"})
    cx.execute("crucible_kitchen.stage.run.stop", {"duration": 5}, {"stage": "a", "module": "m", "success": False})
    cx.execute("crucible_kitchen.stage.run.start", {}, {"stage": "b"})
    cx.execute("crucible_kitchen.stage.run.exception", {"duration": 5}, {"stage": "b", "error": ValueError("boom")})
    cx.execute("crucible_kitchen.workflow.run.stop", {"duration": 50}, {"workflow": "w", "run_id": "r"})
    assert ["/run_workflow w", "/run_workflow w/run_stage a", "/run_workflow w/run_stage b"] == capture.paths()
    outcomes = {
        span.name: (span.attributes["crucible.result"], span.status.status_code.name, len(span.events))
        for span in capture.spans
    }
    assert {
        "run_workflow w": ("success", "UNSET", 0),
        "run_stage a": ("failure", "ERROR", 0),
        "run_stage b": ("failure", "ERROR", 1),
    } == outcomes
    assert {"r"} == {span.attributes["crucible.workflow.run.id"] for span in capture.spans}
    (exception,) = capture.span("run_stage b").events
    assert ("exception", "ValueError", "boom") == (
        exception.name,
        exception.attributes["exception.type"],
        exception.attributes["exception.message"],
    )
    active = [capture.value(prefixed(name)) for name in ("workflow.run.active", "workflow.run.info")]
    assert [0, None] == active


def test_an_end_that_finds_no_start_becomes_a_span(capture: Capture) -> None:
    """As long as its duration, under what is around it; without a duration there is none, and nothing counts down."""
    capture.configure()
    with cx.workflow("w"):
        cx.execute("crucible_kitchen.stage.run.stop", {"duration": 10**9}, {"stage": "late", "success": True})
        cx.execute("crucible_kitchen.stage.run.stop", {}, {"stage": "unknown"})
    assert ["/run_workflow w", "/run_workflow w/run_stage late"] == capture.paths()
    span = capture.span("run_stage late")
    assert (10**9, "success") == (span.end_time - span.start_time, span.attributes["crucible.result"])
    assert [] == capture.points("crucible.stage.active")


def test_a_start_without_an_end_is_closed_at_shutdown(capture: Capture) -> None:
    """As cancelled and incomplete, whatever it was called by."""
    telemetry = capture.configure()
    cx.execute("crucible_framework.pipeline.start", {}, {"pipeline_id": "p"})
    cx.execute("crucible_kitchen.stage.run.start", {}, {"stage": "s"})
    telemetry.shutdown()
    assert ["/run_workflow", "/run_workflow/run_stage s"] == capture.paths()
    assert {("cancellation", True, "UNSET")} == {
        (span.attributes["crucible.result"], span.attributes["crucible.incomplete"], span.status.status_code.name)
        for span in capture.spans
    }


def test_an_end_passes_over_a_start_that_it_does_not_mean(capture: Capture) -> None:
    """A stage that never got its end does not take that of the stage around it."""
    telemetry = capture.configure()
    for stage in ("outer", "forgotten"):
        cx.execute("crucible_kitchen.stage.run.start", {}, {"stage": stage})
    cx.execute("crucible_kitchen.stage.run.stop", {"duration": 5}, {"stage": "outer"})
    assert ["run_stage outer"] == [span.name for span in capture.spans]
    telemetry.shutdown()
    assert "cancellation" == capture.span("run_stage forgotten").attributes["crucible.result"]


def test_a_raw_end_never_ends_what_a_verb_has_opened(capture: Capture) -> None:
    """The block ends when it ends."""
    capture.configure()
    with cx.stage("mine"):
        cx.execute("crucible_kitchen.stage.run.exception", {}, {"stage": "mine", "error": "no"})
        assert [] == list(capture.spans)
    assert "success" == capture.span("run_stage mine").attributes["crucible.result"]


OUTER_FIRST = ["kitchen.start", "framework.start", "framework.stop", "kitchen.stop"]
OUTER_LAST = ["framework.start", "kitchen.start", "kitchen.stop", "framework.stop"]
CROSSED = ["kitchen.start", "framework.start", "kitchen.stop", "framework.stop"]


@pytest.mark.parametrize("order", [OUTER_FIRST, OUTER_LAST, CROSSED], ids=["kitchen", "framework", "crossed"])
def test_two_families_for_one_thing_make_one_span(capture: Capture, order: list[str]) -> None:
    """Only the outer one, once in every metric, in whatever order the ends come; twice in a row too."""
    capture.configure()
    names = {"kitchen": "crucible_kitchen.stage.run", "framework": "crucible_framework.stage"}
    for _ in range(2):
        for each in order:
            family, _, part = each.partition(".")
            measurements = {"duration": 10**9} if part == "stop" else {}
            cx.execute(f"{names[family]}.{part}", measurements, {"stage" if family == "kitchen" else "stage_name": "s"})
    assert ["/run_stage s", "/run_stage s"] == capture.paths()
    assert 2 == capture.value("crucible.stage.duration")
    assert 0 == capture.value("crucible.stage.active")


def test_workflow_and_pipeline_are_one(capture: Capture) -> None:
    """The pipeline inside the workflow is the workflow, its stages are the stages; its id is not the run id then."""
    capture.configure()
    with cx.workflow("w", run_id="r"):
        cx.execute("crucible_framework.pipeline.start", {}, {"pipeline_id": "p"})
        cx.execute("crucible_framework.stage.start", {}, {"stage_name": "s", "stage_index": 0})
        cx.execute("crucible_framework.stage.stop", {"duration": 5}, {"stage_name": "s", "stage_index": 0})
        cx.execute("crucible_framework.pipeline.stop", {"duration": 5}, {"pipeline_id": "p"})
    assert ["/run_workflow w", "/run_workflow w/run_stage s"] == capture.paths()
    assert {"r"} == {span.attributes["crucible.workflow.run.id"] for span in capture.spans}


def test_a_raw_stage_of_another_name_is_a_stage_of_its_own(capture: Capture) -> None:
    """Two families, two things: both have spans."""
    capture.configure()
    cx.execute("crucible_kitchen.stage.run.start", {}, {"stage": "outer"})
    cx.execute("crucible_framework.stage.start", {}, {"stage_name": "inner"})
    cx.execute("crucible_framework.stage.stop", {"duration": 5}, {"stage_name": "inner"})
    cx.execute("crucible_kitchen.stage.run.stop", {"duration": 5}, {"stage": "outer"})
    assert ["/run_stage outer", "/run_stage outer/run_stage inner"] == capture.paths()


# -- the user's own ----------------------------------------------------------------------------------------------------


def test_an_own_event_reaches_handlers_and_logs_but_no_metric(capture: Capture) -> None:
    """With what is known of where it happened, its own fields untouched, inside the span around it."""
    capture.configure()
    seen = listen("myapp.cache.miss")
    with cx.workflow("w", run_id="r"):
        cx.execute(("myapp", "cache", "miss"), {"lr": 3, "count": 1}, {"count": "many", "result": "ok", "key": None})
    context = {"workflow": "w", "run_id": "r"}
    expected = {"count": "many", "result": "ok", "key": None, **context}
    assert [("myapp.cache.miss", {"lr": 3, "count": 1}, expected)] == seen
    (record,) = capture.events("myapp.cache.miss")
    assert capture.span("run_workflow w").context.span_id == record.span_id
    assert ("INFO", 3, "ok") == (record.severity_text, record.attributes["lr"], record.attributes["result"])
    assert {"run_workflow w"} == {span.name for span in capture.spans}


def test_own_events_never_raise_whatever_they_carry(capture: Capture) -> None:
    """Keys that are no text, values without a text, maps that are none."""

    class Hostile:
        def __str__(self) -> str:
            raise ValueError

    capture.configure()
    seen = listen("e")
    cx.execute("e", {1: 2}, {None: Hostile()})
    cx.execute("e", 5, [])  # type: ignore[arg-type]
    cx.execute("e", {Hostile(): 1}, None)
    cx.execute(Hostile())  # type: ignore[arg-type]
    assert 3 == len(seen)
    assert 3 == len(capture.events("e"))
