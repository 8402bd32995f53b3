"""Telemetry that is switched off, and telemetry that nobody has configured."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.testing import fresh
from crucible_otel.verbs.managed import Managed
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh")


def course() -> list[Any]:
    """Do what programs do with every verb, and return all they can see of it."""
    seen: list[Any] = []
    with cx.workflow("w", run_id="r", tags={"a": 1}) as workflow:
        seen.append(workflow.run_id)
        workflow.set(x=1)
        with cx.stage("s") as stage:
            stage.skip("cached")
            stage.fail("no")
    with cx.workflow("w") as workflow:
        seen += [len(workflow.run_id), workflow.run_id == workflow.run_id]
    with cx.train("m", total_epochs=2, start_step=10) as run:
        seen.append(run.model)
        for epoch in run.epochs():
            for batch, step in run.steps("abc", accumulate=2):
                seen.append((epoch, batch, step.number, step.accumulated))
                step.log(loss=1.0, tokens=3)
                if batch == "c":
                    step.skip("nan")
            with run.evaluate("test") as evaluation:
                seen += list(evaluation.batches([1, 2]))
                evaluation.log(loss=0.5)
            epoch.log(loss=0.5)
            with run.checkpoint("c", path="/nowhere") as checkpoint:
                checkpoint.set(x=1)
            with run.pause():
                run.checkpoint_saved("d")
        with run.epoch(7) as epoch:
            seen.append(epoch + 0)
        seen += list(run.epochs(5, start=3))
        for epoch in run.epochs(2, start=1):
            seen.append(epoch)
        for batch, step in run.steps(range(2), start=100):
            seen.append((batch, step.number))
            step.log(loss=1.0)
        for log in (False, True):
            for _, step in run.steps(range(3)):
                if log:
                    step.log(loss=1.0)
                break
            seen += [step.number for _, step in run.steps(range(2))]
        run.step(loss=1.0)
        run.skip("nan")
        run.evaluation({"x": 1})
    run = cx.train("m").start()
    run.finish(error=None, final_loss=1.0)
    cx.dataset.load("d", size=5, duration_s=1.0)
    cx.dataset.batch(8, index=0)
    cx.memory.allocate(8, type="gpu", device=0)
    cx.memory.release(8, type="gpu", device=0)
    cx.serialization.record(duration_s=0.1, nbytes=8, direction="decode", format="json")
    cx.tensor_op(duration_s=0.1, op="sum", input_shapes=[(2, 2)], output_shape=())
    with cx.call("numpy", "sum", bytes=5) as call:
        call.timing(queue_ns=1, execute_ns=2)
        call.io(3)
        call.set(x=1)
    with cx.inference("m", batch_size=4, device="cpu") as inference:
        inference.tokens(5)
    with cx.future.poll("sample", request_id="r1") as poll:
        poll.iteration("pending", duration_s=0.1)
        poll.iteration("done")
    cx.future.record("sample", duration_s=1.0, iterations=2)
    seen += [cx.call("builtins", "max").run(max, 1, 2), cx.inference("m")(min)(1, 2)]
    seen += [list(cx.call("a", "b").run(numbers)), asyncio.run(cx.call("a", "b").run(coroutine))]
    started = cx.snakepit.call_start("svd", {"library": "numpy"})
    cx.snakepit.call_stop(started, {"operation": "svd"}, {"python_time": 1})
    cx.snakepit.inference(5, 1, "m", tokens=5)
    cx.snakepit.pool_size("p", 2, 1, 1)
    pool = cx.pool("p", size=2)
    pool.size(total=3, queue_depth=1)
    with pool.checkout("w", wait_s=0.1) as task:
        seen += [pool.name, task.worker_id]
        task.acquired()
    cx.execute("my.event", {"x": 1})
    cx.emit_step({"loss": 1.0})
    seen.append(cx.span("job", {"x": 1}, lambda: "result"))
    with cx.span("block") as span:
        span.set(x=1)
    cx.end_span(cx.start_span("by hand"), {"x": 1})
    seen.append(cx.stage("s")(lambda x: x + 1)(1))
    seen.append(list(cx.stage("s")(numbers)()))
    seen.append(asyncio.run(cx.workflow("w")(coroutine)()))
    seen.append(cx.current_run())
    return seen


def numbers() -> Any:
    """Yield some."""
    yield from range(3)


async def coroutine() -> str:
    """Give way."""
    async with cx.stage("s"):
        await asyncio.sleep(0)
    return "done"


@pytest.mark.parametrize("how", ["argument", "OTEL_SDK_DISABLED", "CRUCIBLE_OTEL_ENABLED", "nothing configured"])
def test_a_program_takes_the_same_course(capture: Capture, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Loops, numbers, returned values, run ids: nothing depends on whether telemetry is on."""
    capture.configure()
    expected = course()
    with fresh():
        if how == "argument":
            assert not cx.configure(enabled=False).enabled
        elif how != "nothing configured":
            monkeypatch.setenv(how, "true" if how == "OTEL_SDK_DISABLED" else "false")
            assert not cx.configure().enabled
        assert expected == course()


def test_switched_off_there_is_no_thread_and_no_port() -> None:
    """And no SDK; handlers that were asked for stay out too."""
    code = """
import sys, threading
import crucible_otel as cx
telemetry = cx.configure(handlers=["console"], service_name="x")
with cx.train("m") as run:
    for _, step in run.steps(range(3)):
        step.log(loss=1.0)
assert 1 == threading.active_count(), threading.enumerate()
heavy = ("opentelemetry.sdk", "prometheus_client", "grpc", "http.")
assert not [name for name in sys.modules if name.startswith(heavy)]
assert {} == cx.handlers()
assert (False, None, {"enabled": False}) == (telemetry.enabled, telemetry.prometheus_url, telemetry.status())
assert telemetry.flush() and telemetry.shutdown()
"""
    environment = {"OTEL_SDK_DISABLED": "true", "CRUCIBLE_OTEL_HANDLERS": "console"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_switched_off_no_event_reaches_a_handler(capture: Capture) -> None:
    """Attached before or after."""
    before = listen(handler_id="before")
    capture.configure(enabled=False)
    after = listen(handler_id="after")
    course()
    assert ([], []) == (before, after)


def test_switched_off_a_decorator_returns_the_function_itself(capture: Capture) -> None:
    """Nothing at all is in the way."""
    capture.configure(enabled=False)
    assert numbers is cx.stage("s")(numbers)
    assert numbers is cx.span("s")(numbers)
    assert numbers is cx.workflow("s")(numbers)
    assert numbers is cx.call("a", "b")(numbers)
    assert numbers is cx.inference("m")(numbers)
    assert numbers is cx.future.poll("m")(numbers)


def test_switched_off_bad_values_are_not_even_looked_at(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """No warning about what nobody records."""
    capture.configure(enabled=False)
    caplog.clear()
    cx.memory.allocate(-1)
    cx.serialization.record(duration_s=-1, direction="sideways")
    cx.tensor_op(duration_s=-1, op="sum", input_shapes=5)  # type: ignore[arg-type]
    cx.pool("p").size(total=-1)
    cx.future.record("m", duration_s=-1, iterations=-1)
    with cx.future.poll("m") as poll:
        poll.iteration(duration_s=-1)
    with cx.call("a", "b", bytes=-1) as call, cx.inference("m", batch_size=-1) as inference:
        call.timing(queue_ns=-1)
        inference.tokens(-1)
    cx.snakepit.call_stop(cx.snakepit.call_start("svd") + 10**18)
    cx.snakepit.pool_checkout(-1, "p")
    assert [] == caplog.records


def test_what_was_decorated_before_does_nothing_once_switched_off(capture: Capture) -> None:
    """Functions of every kind go on."""
    seen = listen()
    plain, generated, awaited = cx.stage("a")(lambda: 1), cx.stage("b")(numbers), cx.stage("c")(coroutine)
    capture.configure(enabled=False)
    assert (1, [0, 1, 2], "done") == (plain(), list(generated()), asyncio.run(awaited()))
    assert [] == seen


def test_after_a_shutdown_it_is_on_again(capture: Capture) -> None:
    """Handlers get events, as before configure()."""
    capture.configure(enabled=False).shutdown()
    seen = listen()
    with cx.stage("s"):
        pass
    assert 2 == len(seen)


def makers() -> dict[str, Callable[[], Any]]:
    """Return what makes each verb's object."""
    return {
        "workflow": lambda: cx.workflow("w"),
        "stage": lambda: cx.stage("s"),
        "span": lambda: cx.span("s"),
        "run": lambda: cx.train("m").start(),
        "evaluation": lambda: cx.train("m").evaluate("test"),
        "checkpoint": lambda: cx.train("m").checkpoint("c"),
        "step": lambda: next(iter(cx.train("m").steps([1])))[1],
        "epoch": lambda: next(iter(cx.train("m").epochs(1))),
        "call": lambda: cx.call("a", "b"),
        "inference": lambda: cx.inference("m"),
        "poll": lambda: cx.future.poll("m"),
        "pool": lambda: cx.pool("p", size=1),
        "checkout": lambda: cx.pool("p").checkout(),
    }


# For the modules of the verbs themselves.
INSIDE = {
    "come_back", "disowned", "epoch_dropped", "epoch_ending", "epoch_opened", "handle", "now", "owned", "point",
    "runtime", "settle", "step_aside",
}  # fmt: skip


@pytest.mark.parametrize("kind", makers())
def test_the_objects_have_the_same_names(capture: Capture, kind: str) -> None:
    """Whatever a program asks of a verb's object exists when telemetry is off."""
    with fresh():
        names = {name for name in dir(makers()[kind]()) if not name.startswith("_")}
    capture.configure(enabled=False)
    quiet = makers()[kind]()
    assert not isinstance(quiet, Managed)
    assert set() == names - INSIDE - set(dir(quiet))


# -- nothing configured ------------------------------------------------------------------------------------------------


def test_handlers_alone_get_everything() -> None:
    """With all that is known of where it happened; steps with their numbers and times."""
    seen = listen("crucible_kitchen.stage.run.start", "crucible_kitchen.training.step", "crucible_train.epoch.stop")
    batches = listen("crucible_kitchen.dataset.batch", handler_id="batches")
    with cx.stage("s"), cx.train("m") as run:
        for _ in run.epochs(1):
            for batch, step in run.steps(range(2)):
                step.log(loss=float(batch), learning_rate=0.1)
                cx.dataset.batch(4, dataset="d")
    assert [
        ("crucible_kitchen.stage.run.start", {}, {"stage": "s"}),
        ("crucible_kitchen.training.step", {"loss": 0.0, "lr": 0.1}, {"step": 1}),
        ("crucible_kitchen.training.step", {"loss": 1.0, "lr": 0.1}, {"step": 2}),
        "crucible_train.epoch.stop",
    ] == [*seen[:-1], seen[-1][0]]
    assert [{"batch_size": 4}] * 2 == [measurements for _, measurements, _ in batches]


def test_nothing_configured_starts_nothing() -> None:
    """No thread, whatever a program does."""
    before = threading.active_count()
    course()
    assert before == threading.active_count()


def test_a_failing_handler_is_no_problem_either(caplog: pytest.LogCaptureFixture) -> None:
    """It is reported once."""

    def bad(*args: Any) -> None:
        raise ZeroDivisionError

    cx.attach_handler("bad", None, bad)
    course()
    line = bad.__code__.co_firstlineno + 1
    assert [f"handler 'bad' raised ZeroDivisionError at test_quiet.py:{line} (1 so far); it stays attached"] == [
        record.message for record in caplog.records
    ]
