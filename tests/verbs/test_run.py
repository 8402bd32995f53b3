"""A training run: its life, its epochs, evaluations and checkpoints."""

from __future__ import annotations

import contextvars
import threading
from pathlib import Path
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.verbs.evaluation import flattened, size_of
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def name(short: str) -> str:
    """Return the full name of a training metric or event."""
    return f"crucible.training.{short}"


# -- life --------------------------------------------------------------------------------------------------------------


def test_a_run_is_a_span_with_what_it_was_given(capture: Capture) -> None:
    """Model, plans, configuration as JSON text, further attributes; at its end what it came to."""
    clock = capture.stopped()
    config = {"optimizer": {"lr": 0.1}, "layers": [1, 2]}
    with cx.train("llama", total_steps=9, total_epochs=2, start_step=3, config=config, cluster="a") as run:
        clock.advance(2.5)
        run.step(loss=0.5)
        run.finish(final_loss=0.5)
    span = capture.span("train llama")
    assert {
        "crucible.model.name": "llama",
        "crucible.training.max_steps": 9,
        "crucible.training.max_epochs": 2,
        "crucible.training.start_step": 3,
        "crucible.training.config": '{"optimizer":{"lr":0.1},"layers":[1,2]}',
        "crucible.training.final_loss": 0.5,
        "crucible.training.step": 4,
        "crucible.result": "success",
        "cluster": "a",
    } == dict(span.attributes)
    assert ({5.0: 1}, 2.5) == (capture.buckets(name("duration")), capture.sum(name("duration")))


def test_a_configuration_may_be_any_object_with_attributes(capture: Capture) -> None:
    """What argparse returns, for one."""
    from argparse import Namespace

    capture.configure()
    with cx.train("m", config=Namespace(lr=0.1)):
        pass
    assert '{"lr":0.1}' == capture.span("train m").attributes["crucible.training.config"]


def test_a_run_starts_and_ends_once(capture: Capture) -> None:
    """Callbacks may call start and finish as often as they like."""
    capture.configure()
    run = cx.train("m")
    assert run is run.start()
    assert run is run.start()
    run.finish(error="it diverged")
    run.finish()
    span = capture.span("train m")
    assert ("failure", "it diverged", "_OTHER") == (
        span.attributes["crucible.result"],
        span.status.description,
        span.attributes["error.type"],
    )
    assert 1 == capture.value(name("duration"))


def test_a_run_that_was_not_started_starts_with_its_first_use(capture: Capture) -> None:
    """A step, an epoch or an evaluation does it."""
    capture.configure()
    run = cx.train("m")
    run.step(loss=1.0)
    run.finish()
    assert 1 == capture.value(name("steps"))
    assert ["train m"] == [span.name for span in capture.spans]


def test_a_run_that_was_never_started_does_not_end() -> None:
    """Nothing happens."""
    seen = listen()
    cx.train("m").finish()
    assert [] == seen


def test_the_current_run_is_found(capture: Capture) -> None:
    """The innermost of the calling context; elsewhere the one that was started last; none when all are over."""
    capture.configure()
    assert cx.current_run() is None
    with cx.train("actor") as actor:
        with cx.stage("s"):
            assert actor is cx.current_run()
        with cx.train("critic") as critic:
            assert critic is cx.current_run()
        assert actor is cx.current_run()
        found = []
        stranger = threading.Thread(target=contextvars.Context().run, args=(lambda: found.append(cx.current_run()),))
        stranger.start()
        stranger.join()
        assert found == [actor]
    assert cx.current_run() is None


def test_several_models_in_one_loop_are_several_runs(capture: Capture) -> None:
    """Each has its own steps, numbers, values and durations."""
    clock = capture.stopped()
    with cx.train("actor") as actor, cx.train("critic", start_step=10) as critic:
        for _ in range(3):
            clock.advance(0.01)
            actor.step(loss=1.0)
            clock.advance(0.04)
            critic.step(loss=2.0)
            critic.step(loss=3.0)
    models = ("actor", "critic")
    assert [(3, 3, 1.0), (6, 16, 3.0)] == [
        tuple(capture.value(name(short), crucible__model__name=model) for short in ("steps", "step.current", "loss"))
        for model in models
    ]
    assert ["/train actor", "/train actor/train critic"] == capture.paths()


def test_what_a_run_reports_belongs_to_it_wherever_it_is_called(capture: Capture) -> None:
    """A checkpoint reported from a thread of its own lies in the run's epoch, not in that thread's nothing."""
    capture.configure()
    with cx.train("m") as run:
        for _ in run.epochs(1):
            run.step(loss=1.0)
            writer = threading.Thread(
                target=contextvars.Context().run, args=(lambda: run.checkpoint_saved("c", duration_s=0.5),)
            )
            writer.start()
            writer.join()
    (record,) = capture.events(name("checkpoint"))
    assert capture.span("train_epoch").context.span_id == record.span_id
    assert (0, 1, "m") == tuple(record.attributes[key] for key in (name("epoch"), name("step"), "crucible.model.name"))


# -- epochs ------------------------------------------------------------------------------------------------------------


def test_an_epoch_is_a_number(capture: Capture) -> None:
    """It counts from 0, indexes, formats and compares as an integer."""
    capture.configure()
    with cx.train("m") as run:
        epochs = list(run.epochs(3))
    assert [0, 1, 2] == epochs
    assert ["0", "b", 2.0, True] == [f"{epochs[0]}", "abc"[epochs[1]], epochs[2] / 1, isinstance(epochs[0], int)]


@pytest.mark.parametrize(
    ("expected", "given", "options"),
    [
        ([0, 1, 2], {"total_epochs": 3}, {}),
        ([0, 1], {"total_epochs": 3}, {"total": 2}),
        ([2, 3, 4], {}, {"total": 5, "start": 2}),
        ([], {}, {"total": 2, "start": 2}),
        ([0, 1, 2, 3], {}, {}),
        ([7, 8, 9, 10], {}, {"start": 7}),
    ],
)
def test_epochs_go_from_start_to_total(expected: list[int], given: Any, options: Any) -> None:
    """``total`` counts those made before; without a plan the loop goes on until it is left."""
    numbers = []
    with cx.train("m", **given) as run:
        for epoch in run.epochs(**options):
            numbers.append(epoch)
            if len(numbers) == 4:
                break
    assert expected == numbers


def test_an_epoch_reports_what_it_came_to(capture: Capture) -> None:
    """On its span, in its metrics, under the seeds' names; logged values add up, counts are exact."""
    clock = capture.stopped()
    kitchen = listen("crucible_kitchen.training.epoch", handler_id="kitchen")
    train = listen("crucible_train.epoch.stop", handler_id="train")
    with cx.train("m", total_epochs=2) as run:
        for epoch in run.epochs():
            clock.advance(1.5)
            epoch.log(loss=1.0 / (epoch + 1), metrics={"val": {"f1": 0.5}})
            epoch.log(accuracy=0.5, metrics={"ppl": 3.0})
    values = [capture.value(name(short)) for short in ("epochs", "epoch.loss", "epoch.accuracy", "epoch.current")]
    assert [2, 0.5, 0.5, 1] == values
    assert {5.0: 2} == capture.buckets(name("epoch.duration"))
    assert {"val.f1": 0.5, "ppl": 3.0} == {
        point.attributes["crucible.metric.name"]: point.value for point in capture.points(name("metric"))
    }
    assert [(1.0, 0), (0.5, 1)] == [(values["epoch_loss"], metadata["epoch"]) for _, values, metadata in kitchen]
    assert {2} == {metadata["total_epochs"] for _, _, metadata in kitchen}
    assert [1_500_000_000] * 2 == [values["duration"] for _, values, _ in train]
    spans = [dict(span.attributes) for span in capture.named("train_epoch")]
    assert [(0, 1.0), (1, 0.5)] == [(span[name("epoch")], span[name("loss.value")]) for span in spans]


def test_an_epoch_by_number(capture: Capture) -> None:
    """As a block."""
    capture.configure()
    with cx.train("m") as run, run.epoch(7) as epoch:
        epoch.log(loss=0.5)
    assert (7, 0.5) == (epoch, capture.value(name("epoch.loss")))
    assert ["/train m", "/train m/train_epoch"] == capture.paths()


def test_an_epoch_that_fails_is_not_counted(capture: Capture) -> None:
    """Its duration is, as a failure."""
    capture.configure()

    def fail() -> None:
        with cx.train("m") as run:
            for epoch in run.epochs(2):
                if epoch == 1:
                    raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()
    assert 1 == capture.value(name("epochs"))
    assert [1, 1] == [
        capture.value(name("epoch.duration"), crucible__result=result) for result in ("success", "failure")
    ]


def test_an_epoch_left_by_break_ends_where_it_was_left(capture: Capture) -> None:
    """Not when the run goes on, but when the loop was left."""
    clock = capture.stopped()
    with cx.train("m") as run:
        for _ in run.epochs(3):
            clock.advance(1.0)
            break
        clock.advance(100.0)
        run.step(loss=1.0)
        with run.evaluate("test"):
            pass
    span = capture.span("train_epoch")
    assert (10**9, "success") == (span.end_time - span.start_time, span.attributes["crucible.result"])
    assert ["/train m", "/train m/evaluate test", "/train m/train_epoch"] == capture.paths()


def test_the_first_and_the_last_step_of_an_epoch_are_log_events(capture: Capture) -> None:
    """However fast the steps are; in between one a second."""
    clock = capture.stopped()
    with cx.train("m") as run:
        for _ in run.epochs(2):
            for batch, step in run.steps(range(25)):
                clock.advance(0.1)
                step.log(loss=float(batch))
    numbers = [record.attributes[name("step")] for record in capture.events(name("step"))]
    assert [1, 11, 21, 25, 26, 36, 46, 50] == numbers


@pytest.mark.parametrize(("interval_s", "expected"), [(0.0, 6), (2.0, 2), (86_400.0, 2)])
def test_the_rate_of_step_events_is_a_setting(capture: Capture, interval_s: float, expected: int) -> None:
    """Zero logs every step."""
    clock = capture.stopped(step_event_interval_s=interval_s)
    with cx.train("m") as run:
        for _ in range(6):
            clock.advance(0.25)
            run.step(loss=1.0)
    assert expected == len(capture.events(name("step")))


# -- evaluations -------------------------------------------------------------------------------------------------------


def test_an_evaluation_is_a_span_and_counts_no_step(capture: Capture) -> None:
    """Its batches are no steps, its values are gauges by split and name."""
    clock = capture.stopped()
    seen = listen("crucible_kitchen.training.eval")
    with cx.train("m") as run:
        run.step(loss=1.0)
        with run.evaluate("validation", device="cpu") as evaluation:
            for _ in evaluation.batches(range(5)):
                clock.advance(0.1)
            evaluation.log(loss=0.5, accuracy=0.75)
            evaluation.log({"per_class": {"cat": 0.5, "dog": {"small": 1}}, 7: 0.25})
    assert (1, 1) == (capture.value(name("steps")), capture.value(name("evaluations")))
    points = capture.points(name("evaluation.metric"), crucible__training__split="validation")
    expected = {"loss": 0.5, "accuracy": 0.75, "per_class.cat": 0.5, "per_class.dog.small": 1, "7": 0.25}
    assert expected == {point.attributes["crucible.metric.name"]: point.value for point in points}
    assert {0.5: 1} == capture.buckets(name("evaluation.duration"), crucible__training__split="validation")
    ((_, measurements, metadata),) = seen
    assert ({"metrics": expected}, "validation", 1) == (measurements, metadata["split"], metadata["step"])
    assert "cpu" == capture.span("evaluate validation").attributes["device"]


def test_an_evaluation_made_elsewhere_is_a_point(capture: Capture) -> None:
    """No span; the step is the last one unless it is given, and 0 is a step."""
    capture.configure()
    with cx.train("m") as run:
        run.step(step=4)
        run.evaluation({"accuracy": 0.5})
        run.evaluation({"accuracy": {"top1": 0.75}}, split="test", step=0)
    assert ["train m"] == [span.name for span in capture.spans]
    events = capture.events(name("evaluation"))
    assert [("validation", 4), ("test", 0)] == [
        (record.attributes[name("split")], record.attributes[name("step")]) for record in events
    ]
    assert 0.75 == capture.value(name("evaluation.metric"), crucible__metric__name="accuracy.top1")


def test_nested_maps_become_flat_names() -> None:
    """Joined by dots; text and truth values stay, what is no number is none, no depth is too deep."""
    endless: dict[str, Any] = {"x": 1}
    endless["again"] = endless
    flat = flattened(endless)
    assert (1, 1) == (flat["x"], flat["again.again.x"])
    assert {"a": 1, "b.c": 2.5, "b.d": "text", "e": None} == flattened(
        {"a": 1, "b": {"c": 2.5, "d": "text"}, "e": object()}
    )


# -- checkpoints -------------------------------------------------------------------------------------------------------


def saved(path: Path, *sizes: int) -> Path:
    """Write files of these sizes below a folder."""
    (path / "deep").mkdir(parents=True)
    for index, size in enumerate(sizes):
        (path / "deep" / f"{index}.bin").write_bytes(b"x" * size)
    return path


@pytest.mark.parametrize("kind", ["file", "folder", "text", "bytes", "given", "missing", "nul", "none", "no path"])
def test_a_checkpoint_knows_its_size(capture: Capture, tmp_path: Path, kind: str) -> None:
    """Of a file, of all files below a folder, or as given; a path that cannot be read has none, and nothing raises."""
    clock = capture.stopped()
    folder = saved(tmp_path / "checkpoint", 300, 700)
    file = folder / "deep" / "1.bin"
    paths: dict[str, Any] = {
        "file": file,
        "folder": folder,
        "text": str(file),
        "bytes": bytes(file),
        "given": "s3://bucket/key",
        "missing": tmp_path / "nothing",
        "nul": "a\0b",
        "none": None,
        "no path": object(),
    }
    expected = {"file": 700, "folder": 1000, "text": 700, "bytes": 700, "given": 12_345}.get(kind)
    with cx.train("m") as run:
        run.step(loss=1.0)
        with run.checkpoint("c", path=paths[kind], size_bytes=12_345 if kind == "given" else None):
            clock.advance(0.25)
    span = capture.span("save_checkpoint")
    assert (expected, "c", 1) == (
        span.attributes.get("crucible.checkpoint.size_bytes"),
        span.attributes["crucible.checkpoint.name"],
        span.attributes[name("step")],
    )
    assert [expected] * (expected is not None) == [point.sum for point in capture.points("crucible.checkpoint.size")]
    assert (1, {0.25: 1}) == (capture.value(name("checkpoints")), capture.buckets("crucible.checkpoint.duration"))


def test_the_size_of_a_folder_with_very_many_files_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking at them would take longer than saving."""
    monkeypatch.setattr("crucible_otel.verbs.evaluation._FILES_LOOKED_AT", 2)
    assert size_of(str(saved(tmp_path / "many", 1, 2, 3))) is None


def test_a_checkpoint_that_fails_is_not_counted(capture: Capture) -> None:
    """The exception travels on."""
    capture.configure()
    with cx.train("m") as run, pytest.raises(OSError, match="disk full"), run.checkpoint("c"):
        raise OSError("disk full")
    assert capture.value(name("checkpoints")) is None
    assert 1 == capture.value("crucible.checkpoint.duration", crucible__result="failure")


def test_a_checkpoint_saved_elsewhere_is_a_point(capture: Capture) -> None:
    """With a duration it becomes a span after the fact; step 0 is a step."""
    capture.configure()
    seen = listen("crucible_kitchen.training.checkpoint")
    with cx.train("m") as run:
        run.checkpoint_saved("a", path=Path("/tmp/a"), size_bytes=7, step=0)
        run.checkpoint_saved("b", duration_s=0.5, size_bytes=9)
        run.checkpoint_saved("c", duration_s=0)
    first, second = [metadata for _, _, metadata in seen][:2]
    assert ({"checkpoint_name": "a", "path": "/tmp/a"}, {"checkpoint_name": "b"}) == (first, second)
    assert [500_000_000, 0] == [span.end_time - span.start_time for span in capture.named("save_checkpoint")]
    assert ["/train m", "/train m/save_checkpoint", "/train m/save_checkpoint"] == capture.paths()
    assert (3, 16) == (capture.value(name("checkpoints")), capture.sum("crucible.checkpoint.size"))
    assert 0 == capture.events(name("checkpoint"))[0].attributes[name("step")]
