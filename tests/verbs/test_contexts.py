"""However a program leaves what it opened: right parents and outcomes, the exception untouched, contexts restored."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace

import crucible_otel as cx
from crucible_otel.events.scope import current
from tests.captured import Capture

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

Act = Callable[[BaseException], object]


class Story(NamedTuple):
    """What a program does, what it raises, and the spans that are to come of it: path -> outcome."""

    act: Act
    spans: dict[str, str]
    raises: BaseException | None = None


def crash_in_the_loop(error: BaseException) -> None:
    """Raise in the middle of the second epoch's steps."""
    with cx.workflow("w"), cx.stage("s"), cx.train("m") as run:
        for epoch in run.epochs(3):
            for _, step in run.steps(range(3)):
                step.log(loss=1.0)
                if epoch == 1 and step.accumulated and step.number == 5:
                    raise error


def break_out(error: BaseException) -> None:
    """Leave both loops, and go on in the run."""
    with cx.workflow("w"), cx.train("m") as run:
        for _ in run.epochs(3):
            for _, step in run.steps(range(3)):
                step.log(loss=1.0)
                break
            break
        with run.evaluate("test"):
            pass


def nested_evaluation(error: BaseException) -> None:
    """An evaluation that contains another one and a stage; an exception that is caught outside of it."""
    with cx.train("m") as run:
        for _ in run.epochs(1):
            for _ in run.steps(range(1)):
                with (
                    pytest.raises(ValueError, match="boom"),
                    run.evaluate("outer"),
                    cx.stage("generate"),
                    run.evaluate("inner"),
                ):
                    raise error
            with run.checkpoint("c"), run.evaluate("after"):
                pass


def abandoned_iterators(error: BaseException) -> None:
    """Hold iterators and never come back to them."""
    held = []
    with cx.workflow("w"), cx.train("m") as run:
        epochs = run.epochs(3)
        next(epochs)
        steps = run.steps(range(3))
        _, step = next(steps)
        step.log(loss=1.0)
        held += [epochs, steps]


def dropped_iterators(error: BaseException) -> None:
    """Let go of an iterator, and go on in the run."""
    with cx.train("m") as run:
        epochs = run.epochs(3)
        next(epochs)
        del epochs
        with cx.stage("next"):
            pass


def asyncio_tasks(error: BaseException) -> None:
    """Two tasks interleave inside a stage; one of them fails."""

    async def work(name: str, fails: bool) -> None:
        async with cx.stage(name):
            await asyncio.sleep(0)
            with cx.stage("inner"):
                await asyncio.sleep(0)
                if fails:
                    raise error

    async def main() -> None:
        with cx.workflow("w"):
            await asyncio.gather(work("a", False), work("b", True))

    asyncio.run(main())


def cancelled_task(error: BaseException) -> None:
    """Cancel a task in the middle of its stage."""

    @cx.stage("waits")
    async def wait() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        with cx.workflow("w"):
            task = asyncio.create_task(wait())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def thread_pool(error: BaseException) -> None:
    """A pool that was there before, given the context with each task."""

    def work(number: int) -> None:
        with cx.stage(f"task {number}"):
            if number:
                raise error

    with ThreadPoolExecutor(1) as pool, cx.workflow("w"):
        futures = [pool.submit(contextvars.copy_context().run, work, number) for number in range(2)]
        assert [None, error] == [future.exception() for future in futures]


def thread_with_copied_context(error: BaseException) -> None:
    """Threads that know what is around them, and one that does not."""

    def work(name: str) -> None:
        with cx.stage(name):
            pass

    with cx.workflow("w"):
        copy = contextvars.copy_context()
        threads = [
            threading.Thread(target=copy.run, args=(work, "inside")),
            threading.Thread(target=contextvars.Context().run, args=(work, "outside")),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def generator_abandoned(error: BaseException) -> None:
    """A stage around a generator that is left half-way, while its consumer has stages of its own."""

    @cx.stage("produce")
    def produce() -> Generator[int, None, None]:
        with cx.stage("before"):
            yield 1
        with cx.stage("inside"):
            yield 2
            with cx.stage("deeper"):
                yield 3
        raise AssertionError

    with cx.workflow("w"):
        for number in produce():
            with cx.stage("consume"):
                pass
            if number == 3:
                break


def generator_that_fails(error: BaseException) -> None:
    """A stage around a generator that raises between two items."""

    @cx.stage("produce")
    def produce() -> Generator[int, None, None]:
        yield 1
        raise error

    with cx.workflow("w"):
        list(produce())


def async_generator_abandoned(error: BaseException) -> None:
    """The same for an asynchronous one, closed by the event loop."""

    @cx.stage("produce")
    async def produce() -> AsyncGenerator[int, None]:
        with cx.stage("inside"):
            for number in range(3):
                await asyncio.sleep(0)
                yield number

    async def main() -> None:
        with cx.workflow("w"):
            async for _ in produce():
                with cx.stage("consume"):
                    await asyncio.sleep(0)
                break
            gc.collect()
            await asyncio.sleep(0)

    asyncio.run(main())


def raised_in_blocks(error: BaseException) -> None:
    """Raise from inside everything."""
    with cx.workflow("w"), cx.stage("s"), cx.train("m") as run, run.epoch(4), run.evaluate("test"):
        raise error


def run_by_hand(error: BaseException) -> None:
    """Start and finish without blocks, the epoch left open."""
    run = cx.train("m").start()
    next(run.epochs(2))
    run.step(loss=1.0)
    run.finish(error=error)
    run.finish()


BOOM, STOP, LEAVE, DIE = ValueError("boom"), KeyboardInterrupt(), SystemExit(0), SystemExit(3)
BLOCKS = (
    "/run_workflow w",
    "/run_workflow w/run_stage s",
    "/run_workflow w/run_stage s/train m",
    "/run_workflow w/run_stage s/train m/train_epoch",
    "/run_workflow w/run_stage s/train m/train_epoch/evaluate test",
)
STORIES = {
    "crash in the loop": Story(
        crash_in_the_loop,
        {
            "/run_workflow w": "failure",
            "/run_workflow w/run_stage s": "failure",
            "/run_workflow w/run_stage s/train m": "failure",
            "/run_workflow w/run_stage s/train m/train_epoch": "success failure",
        },
        BOOM,
    ),
    "break": Story(
        break_out,
        {
            "/run_workflow w": "success",
            "/run_workflow w/train m": "success",
            "/run_workflow w/train m/train_epoch": "success",
            "/run_workflow w/train m/evaluate test": "success",
        },
    ),
    "KeyboardInterrupt": Story(raised_in_blocks, dict.fromkeys(BLOCKS, "cancellation"), STOP),
    "SystemExit(0)": Story(raised_in_blocks, dict.fromkeys(BLOCKS, "success"), LEAVE),
    "SystemExit(3)": Story(raised_in_blocks, dict.fromkeys(BLOCKS, "failure"), DIE),
    "timeout": Story(raised_in_blocks, dict.fromkeys(BLOCKS, "timeout"), TimeoutError("late")),
    "nested evaluation": Story(
        nested_evaluation,
        {
            "/train m": "success",
            "/train m/train_epoch": "success",
            "/train m/train_epoch/evaluate outer": "failure",
            "/train m/train_epoch/evaluate outer/run_stage generate": "failure",
            "/train m/train_epoch/evaluate outer/run_stage generate/evaluate inner": "failure",
            "/train m/train_epoch/save_checkpoint": "success",
            "/train m/train_epoch/save_checkpoint/evaluate after": "success",
        },
    ),
    "abandoned iterators": Story(
        abandoned_iterators,
        {
            "/run_workflow w": "success",
            "/run_workflow w/train m": "success",
            "/run_workflow w/train m/train_epoch": "success",
        },
    ),
    "dropped iterators": Story(
        dropped_iterators,
        {"/train m": "success", "/train m/run_stage next": "success", "/train m/train_epoch": "success"},
    ),
    "asyncio task": Story(
        asyncio_tasks,
        {
            "/run_workflow w": "failure",
            "/run_workflow w/run_stage a": "success",
            "/run_workflow w/run_stage a/run_stage inner": "success",
            "/run_workflow w/run_stage b": "failure",
            "/run_workflow w/run_stage b/run_stage inner": "failure",
        },
        BOOM,
    ),
    "cancelled task": Story(
        cancelled_task, {"/run_workflow w": "success", "/run_workflow w/run_stage waits": "cancellation"}
    ),
    "thread by copy_context": Story(
        thread_with_copied_context,
        {"/run_stage outside": "success", "/run_workflow w": "success", "/run_workflow w/run_stage inside": "success"},
    ),
    "thread pool by copy_context": Story(
        thread_pool,
        {
            "/run_workflow w": "success",
            "/run_workflow w/run_stage task 0": "success",
            "/run_workflow w/run_stage task 1": "failure",
        },
    ),
    "generator abandoned": Story(
        generator_abandoned,
        {
            "/run_workflow w": "success",
            "/run_workflow w/run_stage consume": "success success success",
            "/run_workflow w/run_stage produce": "cancellation",
            "/run_workflow w/run_stage produce/run_stage before": "success",
            "/run_workflow w/run_stage produce/run_stage inside": "cancellation",
            "/run_workflow w/run_stage produce/run_stage inside/run_stage deeper": "cancellation",
        },
    ),
    "generator that fails": Story(
        generator_that_fails, {"/run_workflow w": "failure", "/run_workflow w/run_stage produce": "failure"}, BOOM
    ),
    "async generator": Story(
        async_generator_abandoned,
        {
            "/run_workflow w": "success",
            "/run_workflow w/run_stage consume": "success",
            "/run_workflow w/run_stage produce": "cancellation",
            "/run_workflow w/run_stage produce/run_stage inside": "cancellation",
        },
    ),
    "run by hand": Story(run_by_hand, {"/train m": "failure", "/train m/train_epoch": "failure"}),
}


def found(capture: Capture) -> dict[str, str]:
    """Return the spans, path -> outcomes in the order of their ends."""
    outcomes: dict[str, str] = {}
    by_id = {span.context.span_id: span for span in capture.spans}
    for span in capture.spans:
        path, above = f"/{span.name}", span
        while above.parent is not None:
            above = by_id[above.parent.span_id]
            path = f"/{above.name}{path}"
        outcomes[path] = f"{outcomes.get(path, '')} {span.attributes['crucible.result']}".strip()
    return outcomes


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_however_it_is_left(capture: Capture, story: Story) -> None:
    """Parents, outcomes, statuses, one exception record a failed span, and everything as it was before."""
    capture.configure()
    before = otel_context.get_current()

    try:
        story.act(story.raises or BOOM)
        raised = None
    except BaseException as error:
        raised = error

    assert story.raises is raised
    assert before == otel_context.get_current()
    assert current() is None
    assert not trace.get_current_span().get_span_context().is_valid
    gc.collect()
    assert story.spans == found(capture)
    told = {"failure": ("ERROR", ["exception"]), "timeout": ("ERROR", ["exception"])}
    assert [told.get(span.attributes["crucible.result"], ("UNSET", [])) for span in capture.spans] == [
        (span.status.status_code.name, [event.name for event in span.events]) for span in capture.spans
    ]
    assert [span.attributes["crucible.result"] in told for span in capture.spans] == [
        "error.type" in span.attributes for span in capture.spans
    ]


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_the_same_without_any_telemetry(story: Story) -> None:
    """Nothing configured: the program takes the same course, and leaves no context behind."""
    before = otel_context.get_current()
    try:
        story.act(story.raises or BOOM)
        raised = None
    except BaseException as error:
        raised = error
    assert story.raises is raised
    assert before == otel_context.get_current()


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_the_same_switched_off(capture: Capture, story: Story) -> None:
    """Telemetry off: the program takes the same course."""
    capture.configure(enabled=False)
    try:
        story.act(story.raises or BOOM)
        raised = None
    except BaseException as error:
        raised = error
    assert story.raises is raised
    assert () == capture.spans


def test_a_failure_is_recorded_with_its_type_message_and_stack(capture: Capture) -> None:
    """As OpenTelemetry's conventions say; the log event of the failure carries it too, and the metric its type."""
    capture.configure()
    with pytest.raises(ZeroDivisionError), cx.stage("s"):
        _ = 1 / 0
    span = capture.span("run_stage s")
    attributes = span.events[0].attributes
    assert ("ZeroDivisionError", "division by zero") == (
        attributes["exception.type"],
        attributes["exception.message"],
    )
    assert "_ = 1 / 0" in attributes["exception.stacktrace"]
    assert ("ZeroDivisionError", "division by zero") == (span.attributes["error.type"], span.status.description)
    (record,) = capture.events("crucible.stage.exception")
    assert ("WARN", "ZeroDivisionError", span.context.span_id, span.context.trace_id) == (
        record.severity_text,
        record.attributes["exception.type"],
        record.span_id,
        record.trace_id,
    )
    points = capture.points("crucible.stage.duration", error__type="ZeroDivisionError")
    assert ["failure"] == [point.attributes["crucible.result"] for point in points]


def test_a_shutdown_inside_a_block_leaves_nothing_behind(capture: Capture) -> None:
    """What is open is closed as incomplete; the next run begins a trace of its own, inside nothing."""
    telemetry = capture.configure()
    with cx.workflow("first"), cx.train("m") as run:
        next(run.epochs(2))
        telemetry.shutdown()
        assert current() is None
    assert current() is None
    incomplete = {span.name: span.attributes["crucible.incomplete"] for span in capture.spans}
    assert {"run_workflow first": True, "train m": True, "train_epoch": True} == incomplete
    with Capture().configure(), cx.workflow("second") as second:
        assert second.scope is not None
        assert second.scope.parent is None


# -- one run in another -----------------------------------------------------------------------------------------------


def test_epochs_belong_to_their_run_whatever_was_opened_since(capture: Capture) -> None:
    """Such as a critic's run that was opened after the actor's: afterwards its context is current again."""
    capture.configure()
    with cx.train("actor") as actor, cx.train("critic") as critic:
        inside = otel_context.get_current()
        for _ in actor.epochs(1):
            actor.step(loss=1.0)
            with cx.span("rollout"):
                pass
        assert inside is otel_context.get_current()
        for _ in critic.epochs(1):
            critic.step(loss=2.0)
    assert sorted(
        [
            "/train actor",
            "/train actor/train_epoch",
            "/train actor/train_epoch/rollout",
            "/train actor/train critic",
            "/train actor/train critic/train_epoch",
        ]
    ) == sorted(capture.paths())
    models = [span.attributes["crucible.model.name"] for span in capture.named("train_epoch")]
    assert ["actor", "critic"] == models


def test_epochs_of_two_runs_in_turns_belong_to_their_own(capture: Capture) -> None:
    """As a loop over both makes them."""
    capture.configure()
    before = otel_context.get_current()
    with cx.train("actor") as actor, cx.train("critic") as critic:
        for _ in zip(actor.epochs(2), critic.epochs(2), strict=True):
            actor.step(loss=1.0)
            critic.step(loss=2.0)
    assert before == otel_context.get_current()
    epochs = [path for path in capture.paths() if path.endswith("/train_epoch")]
    assert ["/train actor/train critic/train_epoch"] * 2 + ["/train actor/train_epoch"] * 2 == sorted(epochs)
    assert 2 == capture.value("crucible.training.steps", crucible__model__name="actor")


def test_an_epoch_of_another_run_that_never_begins_leaves_the_context_as_it_was(capture: Capture) -> None:
    """As where Ctrl-C comes while a handler is told of it."""
    capture.configure()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with cx.train("actor") as actor, cx.train("critic"):
        inside = otel_context.get_current()
        cx.attach_handler("interrupted", "crucible.training.epoch.start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            actor.epoch(1).__enter__()
        cx.detach("interrupted")
        assert inside is otel_context.get_current()
