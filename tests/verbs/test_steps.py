"""The loop over training steps: durations, data waits, numbers, samples; what counts and what does not."""

from __future__ import annotations

import gc
from collections import UserDict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

import crucible_otel as cx
from crucible_otel.testing import FakeClock
from crucible_otel.verbs.run import Run
from crucible_otel.verbs.steps import size_of
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

STEPS = "crucible.training.steps"
DURATION = "crucible.training.step.duration"
WAIT = "crucible.training.data_wait.duration"
SAMPLES = "crucible.training.samples"
TOKENS = "crucible.training.tokens"
CURRENT = "crucible.training.step.current"
REWINDS = "crucible.training.rewinds"


def slow(clock: FakeClock, batches: Iterable[Any], wait_s: float = 0.25) -> Iterator[Any]:
    """A loader whose batches take their time."""
    for batch in batches:
        clock.advance(wait_s)
        yield batch


# -- durations ---------------------------------------------------------------------------------------------------------


def test_a_step_runs_from_its_data_to_the_next_iteration(capture: Capture) -> None:
    """The wait for data is measured beside the step, not in it."""
    clock = capture.stopped()
    with cx.train("m") as run:
        for _, step in run.steps(slow(clock, range(3))):
            clock.advance(0.5)
            step.log(loss=1.0)
            clock.advance(0.5)
    assert (3, 3.0) == (capture.value(STEPS), capture.sum(DURATION))
    assert {1.0: 3} == capture.buckets(DURATION)
    assert ({0.25: 3}, 0.75) == (capture.buckets(WAIT), capture.sum(WAIT))


def test_accumulated_batches_make_one_step(capture: Capture) -> None:
    """One optimizer step of four batches, also when the loader ends in the middle of one; all waits are its own."""
    clock = capture.stopped()
    course = []
    with cx.train("m") as run:
        for batch, step in run.steps(slow(clock, range(6)), accumulate=4):
            course.append((batch, step.number, step.accumulated))
            clock.advance(0.5)
            step.log(loss=float(batch), tokens=10)
    assert [(0, 1, 1), (1, 1, 2), (2, 1, 3), (3, 1, 4), (4, 2, 1), (5, 2, 2)] == course
    assert (2, 3.0, 1.5) == (capture.value(STEPS), capture.sum(DURATION), capture.sum(WAIT))
    assert {2.5: 1, 1.0: 1} == capture.buckets(DURATION)
    assert (60, 5.0) == (capture.value(TOKENS), capture.value("crucible.training.loss"))


@pytest.mark.parametrize("block", ["evaluate", "checkpoint", "pause", "nested"])
@pytest.mark.parametrize("place", ["inside", "between"])
def test_what_is_no_training_is_no_part_of_a_step(capture: Capture, block: str, place: str) -> None:
    """An evaluation, a checkpoint, a pause of two seconds changes no bucket; nested ones are left out once."""
    clock = capture.stopped()

    def aside(run: Run) -> None:
        if block == "nested":
            with run.evaluate("a"):
                clock.advance(0.5)
                with run.checkpoint("c"), run.pause():
                    clock.advance(1.0)
                clock.advance(0.5)
            return
        with run.pause() if block == "pause" else getattr(run, block)("x"):
            clock.advance(2.0)

    with cx.train("m") as run:
        for _ in range(2):
            for _, step in run.steps(range(2)):
                clock.advance(0.04)
                step.log(loss=1.0)
                if place == "inside":
                    aside(run)
                clock.advance(0.04)
            if place == "between":
                aside(run)
    assert {0.1: 4} == capture.buckets(DURATION)
    assert 0.32 == pytest.approx(capture.sum(DURATION))


@pytest.mark.parametrize("block", ["evaluate", "checkpoint", "pause", "epoch"])
def test_a_pause_before_the_primitive_is_no_part_of_it(capture: Capture, block: str) -> None:
    """``run.step`` measures from the end of what is no training."""
    clock = capture.stopped()
    with cx.train("m") as run:
        clock.advance(0.04)
        run.step(loss=1.0)
        with run.epoch(1) if block == "epoch" else run.pause() if block == "pause" else getattr(run, block)("x"):
            clock.advance(2.0 if block != "epoch" else 0.0)
        clock.advance(0.04)
        run.step(loss=1.0)
    assert {0.05: 2} == capture.buckets(DURATION)


def test_a_pause_of_the_loop_between_steps_changes_no_bucket(capture: Capture) -> None:
    """Two loops with an hour between them."""
    clock = capture.stopped()
    with cx.train("m") as run:
        for _ in range(2):
            for _, _ in run.steps(range(1)):
                clock.advance(0.04)
            clock.advance(3600)
    assert {0.05: 2} == capture.buckets(DURATION)


def test_a_loop_left_by_break_counts_its_last_step_if_it_was_logged(capture: Capture) -> None:
    """Whatever the reason for leaving: who logged a step has made it."""
    clock = capture.stopped()
    with cx.train("m") as run:
        for _, step in run.steps(range(5)):
            clock.advance(0.04)
            step.log(loss=1.0)
            if step.number == 2:
                break
        clock.advance(10)
        for _ in run.steps(range(5)):
            break
    assert (2, 0.08) == (capture.value(STEPS), pytest.approx(capture.sum(DURATION)))


def test_a_loop_that_is_kept_ends_with_the_run(capture: Capture) -> None:
    """Its last step counts then, and not once more when the loop is let go."""
    capture.stopped()
    with cx.train("m") as run:
        loop = run.steps(range(5))
        _, step = next(loop)
        step.log(loss=1.0)
    assert 1 == capture.value(STEPS)
    del loop
    gc.collect()
    assert 1 == capture.value(STEPS)


def test_each_loop_of_a_run_leaves_out_what_is_no_training(capture: Capture) -> None:
    """Also one around another; both end with the run, if somebody holds them."""
    clock = capture.stopped()
    with cx.train("m") as run:
        loops = [run.steps(range(3)), run.steps(range(3), start=10)]
        for loop in loops:
            _, step = next(loop)
            step.log(loss=1.0)
        clock.advance(0.04)
        with run.pause():
            clock.advance(2.0)
    assert (2, pytest.approx(0.08)) == (capture.value(STEPS), capture.sum(DURATION))


def test_an_exception_of_the_loader_travels_on(capture: Capture) -> None:
    """In the middle of a step too: the step in progress counts if it was logged."""
    capture.stopped()
    error = OSError("disk")

    def loader() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    def train() -> None:
        for _, step in run.steps(loader(), accumulate=3):
            step.log(loss=1.0)

    run = cx.train("m").start()
    with pytest.raises(OSError, match="disk") as caught:
        train()
    assert error is caught.value
    run.finish()
    assert 1 == capture.value(STEPS)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_steps_are_numbered_from_one_through_all_loops(capture: Capture) -> None:
    """Each loop goes on where the last one ended."""
    capture.stopped()
    with cx.train("m") as run:
        numbers = [[step.number for _, step in run.steps(range(2))] for _ in range(2)]
        run.step(loss=1.0)
        numbers.append([step.number for _, step in run.steps(range(1))])
        assert 6 == run.reached()
    assert [[1, 2], [3, 4], [6]] == numbers
    assert (6, 6) == (capture.value(STEPS), capture.value(CURRENT))


def test_a_run_goes_on_from_the_steps_made_earlier(capture: Capture) -> None:
    """``start_step`` of the run and ``start`` of the loop are the number of the last step made before."""
    capture.stopped()
    with cx.train("m", start_step=100) as run:
        assert run.reached() is None
        first = [step.number for _, step in run.steps(range(2))]
        second = [step.number for _, step in run.steps(range(2), start=200)]
    assert [[101, 102], [201, 202]] == [first, second]
    assert (4, 202, None) == (capture.value(STEPS), capture.value(CURRENT), capture.value(REWINDS))


def test_a_lower_number_is_a_rewind_and_the_same_one_is_merged(capture: Capture) -> None:
    """A restart from a checkpoint counts as such; a second report of a step adds what was missing."""
    capture.stopped()
    with cx.train("m") as run:
        run.step(step=10, loss=3.0)
        run.step(step=10, learning_rate=0.5, tokens=7)
        run.step(step=11, loss=2.0)
        run.step(step=5, loss=1.0)
        run.step(loss=0.5)
    assert [4, 6, 1, 0.5, 0.5, 7] == [
        capture.value(name)
        for name in (
            STEPS, CURRENT, REWINDS, "crucible.training.loss", "crucible.training.learning_rate", TOKENS,
        )
    ]  # fmt: skip


def test_a_skipped_step_is_counted_as_such(capture: Capture) -> None:
    """Not among the steps made, with its reason, and with a log event; the next step made has its number."""
    capture.stopped()
    seen = listen("crucible.training.skip")
    numbers = []
    with cx.train("m") as run:
        for batch, step in run.steps(range(3)):
            numbers.append(step.number)
            if batch == 1:
                step.skip("overflow")
            else:
                step.log(loss=1.0)
        run.skip("nan", step=9)
    assert ([1, 2, 2], 2) == (numbers, run.reached())
    assert (2, 1) == (capture.value(STEPS), capture.value("crucible.training.skipped_steps", **REASON))
    assert [("overflow", 2), ("nan", 9)] == [(metadata["reason"], metadata["step"]) for _, _, metadata in seen]
    assert ["WARN", "WARN"] == [record.severity_text for record in capture.events("crucible.training.skip")]


REASON = {"crucible.training.skip.reason": "overflow"}


# -- samples and values ------------------------------------------------------------------------------------------------

IMAGES, LABELS = np.zeros((8, 3, 4)), np.zeros(8)


@pytest.mark.parametrize(
    ("expected", "batch"),
    [
        (8, IMAGES),
        (8, (IMAGES, LABELS)),
        (8, [IMAGES, LABELS]),
        (8, {"x": IMAGES, "y": LABELS}),
        (8, UserDict(x=IMAGES, y=LABELS)),
        (8, ((IMAGES, LABELS), LABELS)),
        (8, ({"x": IMAGES}, LABELS)),
        (3, ["a", "b", "c"]),
        (2, [(IMAGES, 1), (IMAGES, 2)]),
        (2, [{"x": 1}, {"x": 2}]),
        (2, (["a", "b"], [1, 2])),
        (4, range(4)),
        (1, np.float64(3)),
        (0, 7),
        (0, None),
        (0, []),
        (0, ()),
        (0, {}),
    ],
)
def test_samples_are_inferred_from_a_batch(expected: int, batch: Any) -> None:
    """The first dimension of its first array, or its length; nothing where it cannot be told."""
    assert expected == size_of(batch)


@pytest.mark.parametrize(
    ("expected", "options", "logged"), [(24, {}, {}), (15, {"samples": 5}, {}), (6, {}, {"samples": 2})]
)
def test_samples_are_counted(capture: Capture, expected: int, options: Any, logged: Any) -> None:
    """As inferred, as the loop says, or as the step says."""
    capture.stopped()
    with cx.train("m") as run:
        for _, step in run.steps([(IMAGES, LABELS)] * 3, **options):
            step.log(**logged)
    assert expected == capture.value(SAMPLES)


def test_several_logs_of_a_step_make_one(capture: Capture) -> None:
    """Counts add up, of other values the last one counts, further metrics come together."""
    capture.stopped()
    seen = listen("crucible.training.step")
    with cx.train("m") as run:
        for _, step in run.steps(range(1)):
            step.log(loss=2.0, tokens=5, metrics={"ppl": 3.0})
            step.log(loss=1.0, tokens=6, samples=2, metrics={"acc": 0.5})
            step.log(learning_rate=0.1, samples=3)
    ((_, measurements, _),) = seen
    assert {"loss": 1.0, "learning_rate": 0.1, "tokens": 11, "samples": 5, "metrics": {"ppl": 3.0, "acc": 0.5}} == {
        name: value for name, value in measurements.items() if name not in ("duration", "data_wait")
    }
    assert [0.5, 3.0] == [
        capture.value("crucible.training.metric", **{"crucible.metric.name": name}) for name in ("acc", "ppl")
    ]


def test_values_of_a_step_do_not_reach_the_next(capture: Capture) -> None:
    """What a step does not say is not known of it."""
    capture.stopped()
    seen = listen("crucible.training.step")
    with cx.train("m") as run:
        for batch, step in run.steps(range(2)):
            if batch == 0:
                step.log(loss=1.0, tokens=5)
    assert [True, False] == ["loss" in measurements for _, measurements, _ in seen]
    assert 5 == capture.value(TOKENS)


def test_a_handler_gets_every_step(capture: Capture) -> None:
    """Attached in the middle of a run, for as long as it is attached; with numbers, times and where it happened."""
    clock = capture.stopped()
    with cx.workflow("w", run_id="r"), cx.train("m", total_steps=6) as run:
        for _ in run.epochs(1):
            for batch, step in run.steps(range(6)):
                clock.advance(0.5)
                step.log(loss=float(batch))
                if batch == 1:
                    seen = listen("crucible_kitchen.training.step")
                if batch == 4:
                    cx.detach("seen")
    assert [2, 3, 4] == [metadata["step"] for _, _, metadata in seen]
    assert [1.0, 2.0, 3.0] == [measurements["loss"] for _, measurements, _ in seen]
    assert {6} == {metadata["total_steps"] for _, _, metadata in seen}
    ours = listen("crucible.training.step")
    with cx.workflow("w", run_id="r"), cx.train("m") as run, run.epoch(3):
        for _ in run.steps(range(1)):
            clock.advance(0.5)
    assert {"duration": 500_000_000, "data_wait": 0} == ours[0][1]
    assert {"step": 1, "epoch": 3, "model": "m", "workflow": "w", "run_id": "r"} == ours[0][2]


def test_the_loop_makes_the_records_that_its_handle_would_make(capture: Capture) -> None:
    """What it puts into the buffer by itself is what ``commit`` puts there."""
    made = []
    for slowly in (False, True):
        with cx.train("m") as run:
            run.step(loss=1.0)  # the first record looks who listens
            for batch, step in run.steps([[0] * size for size in (3, 4, 5)], start=1):
                step.log(loss=len(batch) / 2, learning_rate=0.1, gradient_norm=0.5, tokens=7 * len(batch))
                if slowly:
                    run.handle.rearm()
                assert slowly == (run.handle.due_s < 0)
            columns = run.handle._family.columns
            width = len(columns) + 1
            rows = np.array(run.handle._family.waiting(), object).reshape(-1, width)[-3:, 1:]
            made.append([dict(zip(columns, row, strict=True)) for row in rows])
    for row in (*made[0], *made[1]):
        assert 0 <= row.pop("duration") < 10
        assert 0 <= row.pop("data_wait") < 10
    assert made[0] == made[1]
    assert [
        {"loss": 1.5, "learning_rate": 0.1, "gradient_norm": 0.5, "tokens": 21, "samples": 3, "step": 2},
        {"loss": 2.0, "learning_rate": 0.1, "gradient_norm": 0.5, "tokens": 28, "samples": 4, "step": 3},
        {"loss": 2.5, "learning_rate": 0.1, "gradient_norm": 0.5, "tokens": 35, "samples": 5, "step": 4},
    ] == made[0]
