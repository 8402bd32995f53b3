"""Telemetry that has ended: nothing of it is kept, and what its user still has in hand does no harm."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import crucible_otel as cx
from crucible_otel.events.runtime import runtime
from crucible_otel.otel.engine import FOLD_AT, Engine

pytestmark = pytest.mark.usefixtures("fresh")

_ROUNDS = 8
_KNOWN_FOR_A_WHILE = 4
"""The last ones: threads that are about to leave still know them."""

BATCHES = [[1, 2]] * 3


def configured(**settings: Any) -> cx.Telemetry:
    """Telemetry that sends nothing."""
    return cx.configure(traces_exporter="none", metrics_exporter="none", logs_exporter="none", gpu="off", **settings)


def run_steps() -> None:
    """Steps on the short way and on the long one."""
    with cx.train("m") as run:
        run.step(loss=1.0)
        run.step(loss=float("nan"), metrics={"ppl": 2.0})


def unfinished_run() -> cx.Run:
    """A run that telemetry ends."""
    run = cx.train("m").start()
    run.step(loss=1.0)
    return run


def failed_run() -> None:
    """A run that an exception ends."""
    with suppress(KeyError), cx.train("m") as run:
        run.step(loss=1.0)
        raise KeyError


def loop() -> None:
    """The loop over epochs and steps."""
    with cx.train("m") as run:
        for _ in run.epochs(2):
            for _, step in run.steps(BATCHES):
                step.log(loss=1.0)


def loop_that_is_left() -> Any:
    """The loop over steps, left in the middle."""
    with cx.train("m") as run:
        steps = iter(run.steps(BATCHES))
        next(steps)[1].log(loss=1.0)
    return steps


def blocks() -> None:
    """A run inside of other blocks, with blocks in it."""
    with cx.workflow("w"), cx.stage("s"), cx.train("m") as run:
        with run.evaluate() as evaluation:
            evaluation.log(loss=1.0)
        with run.checkpoint("c"):
            run.step(loss=1.0)


def pool() -> None:
    """A pool of workers."""
    workers = cx.pool("p", size=2)
    with workers.checkout(worker_id="w"):
        workers.size(total=3)


def calls() -> None:
    """Calls as a block and as a row."""
    with cx.stage("s"), cx.call("a", "g"):
        cx.call("a", "f").record(10, queue_ns=1, serialize_ns=1, execute_ns=1, deserialize_ns=1, nbytes=5)


def inference() -> None:
    """An inference."""
    with cx.inference("m", batch_size=2) as asked:
        asked.tokens(3)


def raw_events() -> None:
    """Steps by the name of their event, in a run and outside."""
    with cx.train("m"):
        cx.execute("crucible.training.step", {"loss": 1.0}, {})
    cx.execute("crucible.training.step", {"loss": 1.0}, {})


def point_events() -> None:
    """All that is recorded without a run."""
    cx.dataset.batch(3, dataset="d")
    cx.serialization.record(duration_s=0.1, nbytes=3, direction="encode", format="json")
    cx.memory.allocate(3, type="cpu", device="cpu")
    cx.tensor_op(duration_s=0.1, op="matmul", input_shapes=[(2, 2)], output_shape=(2, 2), dtype="bf16", device="cpu")
    cx.emit_step({"loss": 0.5})


USES = [
    run_steps, unfinished_run, failed_run, loop, loop_that_is_left, blocks, pool, calls, inference, raw_events,
    point_events,
]  # fmt: skip


def left(use: Callable[[], object], between: Callable[[], object] = int, **settings: Any) -> int:
    """Begin and end telemetry again and again; return how many of the engines are still there."""
    engines: list[weakref.ref[Any]] = []
    for _ in range(_ROUNDS):
        with configured(**settings):
            engines.append(weakref.ref(runtime().engine))
            use()
        between()
        if runtime().engine is not None:
            engines.append(weakref.ref(runtime().engine))
    gc.collect()
    return sum(engine() is not None for engine in engines)


@pytest.mark.parametrize("use", USES)
def test_what_has_ended_is_let_go(use: Callable[[], object]) -> None:
    """However often telemetry begins and ends in one process, and whatever is recorded in between."""
    assert left(use) <= _KNOWN_FOR_A_WHILE


@pytest.mark.parametrize("use", [run_steps, unfinished_run, loop, loop_that_is_left, raw_events])
@pytest.mark.parametrize("is_joined", [False, True])
def test_steps_with_spans_are_let_go_too(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[], object], is_joined: bool
) -> None:
    """Those of our provider, and those of the application's."""
    if is_joined:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))
    assert left(use, step_sample_rate=1.0) <= _KNOWN_FOR_A_WHILE


@pytest.mark.parametrize("use", [run_steps, failed_run, loop, loop_that_is_left, pool, raw_events, point_events])
def test_what_nobody_configured_is_let_go_when_somebody_does(use: Callable[[], object]) -> None:
    """A process that records before and after its telemetry."""
    assert left(int, use) <= _KNOWN_FOR_A_WHILE


@pytest.mark.parametrize("settings", [{}, {"step_sample_rate": 1.0}])
def test_a_run_that_outlives_telemetry_does_no_harm(settings: dict[str, Any]) -> None:
    """Its steps go on to be numbered, and no more of them is kept than before."""
    with configured(**settings):
        run = unfinished_run()
        engine = runtime().engine
        assert isinstance(engine, Engine)
    family = engine.families["crucible.training.step"]
    for _ in range(5 * FOLD_AT):
        run.step(loss=1.0)
    for _ in run.epochs(2):
        for _, step in run.steps(BATCHES):
            step.log(loss=float("nan"))
    run.finish()
    run.step(loss=1.0)
    assert 5 * FOLD_AT + 1 + 6 == step.number
    assert len(family.buffer) <= family.full


def test_what_else_outlives_telemetry_does_no_harm() -> None:
    """A call, a pool's checkout, an inference: made before its end, used after it."""
    with configured():
        call, checkout, inferred = cx.call("a", "f"), cx.pool("p", size=2).checkout(), cx.inference("m")
        with call:
            pass
        checkout.__enter__()
        inferred.__enter__()
        engine = runtime().engine
    assert isinstance(engine, Engine)
    waiting = [len(each.buffer) for each in engine.families.values()]
    checkout.__exit__(None, None, None)
    inferred.__exit__(None, None, None)
    for _ in range(3 * FOLD_AT):
        call.record(10, queue_ns=1, serialize_ns=1, execute_ns=1, deserialize_ns=1, nbytes=5)
    assert waiting == [len(each.buffer) for each in engine.families.values()]
