"""Workflows and stages: as blocks and around every kind of function."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.events.scope import current
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def inside() -> str:
    """Return the span-to-be around the caller, by what its scope is called."""
    scope = current()
    return "" if scope is None else f"{scope.operation.name.rpartition('.')[2]} {next(iter(scope.fields.values()))}"


# -- blocks ------------------------------------------------------------------------------------------------------------


def test_a_workflow_is_a_root_span_with_tags_and_a_run_id(capture: Capture) -> None:
    """Each tag is an attribute, the run id is given or made; while it runs a gauge joins both names."""
    capture.configure()
    with cx.workflow("finetune", run_id="r-1", tags={"dataset": "v3", "shards": 4}, owner="me") as workflow:
        assert "r-1" == workflow.run_id
        info = capture.points("crucible.workflow.run.info")
        assert 1 == capture.value("crucible.workflow.run.active")
    assert [{"crucible.workflow.name": "finetune", "crucible.workflow.run.id": "r-1"}] == [
        dict(point.attributes) for point in info
    ]
    assert [] == capture.points("crucible.workflow.run.info")
    assert (0, 1) == (capture.value("crucible.workflow.run.active"), capture.value("crucible.workflow.run.duration"))
    assert {
        "crucible.workflow.name": "finetune",
        "crucible.workflow.run.id": "r-1",
        "crucible.workflow.tags.dataset": "v3",
        "crucible.workflow.tags.shards": 4,
        "crucible.result": "success",
        "owner": "me",
    } == dict(capture.span("run_workflow finetune").attributes)


def test_run_ids_are_made_anew() -> None:
    """Each run without an id gets one of its own."""
    with cx.workflow("w") as first, cx.workflow("w") as second:
        assert 2 == len({first.run_id, second.run_id})


@pytest.mark.parametrize(("make", "name"), [(cx.workflow, "run_workflow w"), (cx.stage, "run_stage w"), (cx.span, "w")])
def test_one_object_can_be_used_again(capture: Capture, make: Callable[[str], Any], name: str) -> None:
    """What was said of the first time is not said of the second."""
    capture.configure()
    operation = make("w")
    with operation:
        operation.set(mine=1)
        operation.fail("no")
    with operation:
        pass
    first, second = capture.named(name)
    assert (1, "failure") == (first.attributes["mine"], first.attributes["crucible.result"])
    assert (None, "success") == (second.attributes.get("mine"), second.attributes["crucible.result"])
    assert "no" in first.attributes.values()
    assert "no" not in second.attributes.values()


def test_a_stage_knows_its_workflow(capture: Capture) -> None:
    """Module and index stand on its span; workflow name and run id on everything inside."""
    capture.configure()
    with cx.workflow("w", run_id="r"), cx.stage("s", module="my.Stage", index=2):
        cx.dataset.load("d")
    assert {
        "crucible.workflow.name": "w",
        "crucible.workflow.run.id": "r",
        "crucible.stage.name": "s",
        "crucible.stage.module": "my.Stage",
        "crucible.stage.index": 2,
        "crucible.result": "success",
    } == dict(capture.span("run_stage s").attributes)
    (record,) = capture.events("crucible.dataset.load")
    assert ("w", "r", "s") == tuple(
        record.attributes[f"crucible.{key}"] for key in ("workflow.name", "workflow.run.id", "stage.name")
    )
    labels = {"crucible.workflow.name": "w", "crucible.stage.name": "s", "crucible.result": "success"}
    assert [labels] == [dict(point.attributes) for point in capture.points("crucible.stage.duration")]


def test_start_and_end_come_once_each_with_the_same_identity(capture: Capture) -> None:
    """Whatever the end, exactly one of stop and exception."""
    capture.configure()
    seen = listen("crucible_kitchen.workflow.run.start", "crucible_kitchen.workflow.run.stop",
                  "crucible_kitchen.workflow.run.exception")  # fmt: skip
    with cx.workflow("w", run_id="a"):
        pass
    with pytest.raises(ValueError, match="boom"), cx.workflow("w", run_id="b"):
        raise ValueError("boom")
    assert [("start", "a"), ("stop", "a"), ("start", "b"), ("exception", "b")] == [
        (event.rpartition(".")[2], metadata["run_id"]) for event, _, metadata in seen
    ]
    assert "ValueError: boom" == seen[-1][2]["error"]


def test_a_stage_says_how_it_ended(capture: Capture) -> None:
    """Skipped, failed without an exception, and with what it found out; an exception wins over all that."""
    capture.configure()
    seen = listen("crucible_kitchen.stage.run.stop")
    with cx.stage("skipped") as stage:
        stage.skip("cached")
    with cx.stage("failed") as stage:
        stage.fail("too few rows")
    with cx.stage("told") as stage:
        stage.set(rows=5)
    stage = cx.stage("raised")
    with pytest.raises(ValueError, match="boom"), stage:
        raise stage.skip() or ValueError("boom")
    assert [True, False, True] == [metadata["success"] for _, _, metadata in seen]
    assert {
        "run_stage skipped": ("skip", "UNSET", None, "cached", None),
        "run_stage failed": ("failure", "ERROR", "too few rows", None, None),
        "run_stage told": ("success", "UNSET", None, None, 5),
        "run_stage raised": ("failure", "ERROR", "boom", None, None),
    } == {
        span.name: (
            span.attributes["crucible.result"],
            span.status.status_code.name,
            span.status.description,
            span.attributes.get("reason"),
            span.attributes.get("rows"),
        )
        for span in capture.spans
    }
    assert [] == list(capture.span("run_stage failed").events)


def test_what_a_block_adds_does_not_move_its_metrics(capture: Capture) -> None:
    """A field of its identity that is set later changes no metric attribute: what went up comes down."""
    capture.configure()
    with cx.stage("s") as stage:
        stage.set(stage="other")
    (point,) = capture.points("crucible.stage.active")
    assert ("s", 0) == (point.attributes["crucible.stage.name"], point.value)


# -- decorators --------------------------------------------------------------------------------------------------------


def plain(shard: str, size: int = 2) -> str:
    """Say where it runs."""
    return inside()


async def coroutine(shard: str, size: int = 2) -> str:
    """Say where it runs, after giving way."""
    await asyncio.sleep(0)
    return inside()


def generator(shard: str, size: int = 2) -> Generator[str, None, str]:
    """Yield where it runs."""
    for _ in range(size):
        yield inside()
    return inside()


async def async_generator(shard: str, size: int = 2) -> AsyncGenerator[str, None]:
    """Yield where it runs, giving way in between."""
    for _ in range(size):
        await asyncio.sleep(0)
        yield inside()


def drained(function: Callable[..., Any], *args: Any) -> set[str]:
    """Call a function of any kind to its end and return where it said it ran."""

    async def collect(items: AsyncGenerator[str, None]) -> list[str]:
        return [item async for item in items]

    def all_of(items: Generator[str, None, str]) -> list[str]:
        found = []
        while True:
            try:
                found.append(next(items))
            except StopIteration as stop:
                return [*found, stop.value]

    result = function(*args)
    if inspect.iscoroutine(result):
        return {asyncio.run(result)}
    if inspect.isasyncgen(result):
        return set(asyncio.run(collect(result)))
    return set(all_of(result)) if inspect.isgenerator(result) else {result}


KINDS = [plain, coroutine, generator, async_generator]


@pytest.mark.parametrize("function", KINDS)
def test_a_decorated_function_runs_inside_its_stage(capture: Capture, function: Callable[..., Any]) -> None:
    """Every kind: each call is a stage of its own, named after its arguments, and afterwards nothing is open."""
    capture.configure()
    decorated = cx.stage("tokenize {shard} of {size}, {unknown}", module="{shard}")(function)
    assert {"stage tokenize a of 2, {unknown}"} == drained(decorated, "a")
    assert {"stage tokenize b of 1, {unknown}"} == drained(decorated, "b", 1)
    assert "" == inside()
    assert ["run_stage tokenize a of 2, {unknown}", "run_stage tokenize b of 1, {unknown}"] == [
        span.name for span in capture.spans
    ]
    assert ["a", "b"] == [span.attributes["crucible.stage.module"] for span in capture.spans]


@pytest.mark.parametrize("function", KINDS)
def test_a_decorated_function_stays_what_it_is(function: Callable[..., Any]) -> None:
    """Its name, documentation and kind, for whoever looks."""
    decorated = cx.stage("s")(function)
    tests = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    assert [test(function) for test in tests] == [test(decorated) for test in tests]
    assert (function.__name__, function.__doc__) == (decorated.__name__, decorated.__doc__)
    assert inspect.signature(function) == inspect.signature(decorated)


def test_an_object_that_is_called_may_be_asynchronous(capture: Capture) -> None:
    """Its ``__call__`` decides; a class is called to make an object."""

    class Work:
        async def __call__(self) -> str:
            await asyncio.sleep(0)
            return inside()

    capture.configure()
    work = cx.stage("object")(functools.partial(Work()))
    assert "stage object" == asyncio.run(cx.stage("object")(Work())())
    assert isinstance(cx.stage("class")(Work)(), Work)
    assert work is not None


def test_arguments_that_fit_badly_raise_what_they_always_raise() -> None:
    """The function's own TypeError."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'shard'"):
        cx.stage("tokenize {shard}")(plain)()


def test_a_value_without_a_text_leaves_the_name_usable(capture: Capture) -> None:
    """The name of its type stands in its place."""

    class Hostile:
        def __str__(self) -> str:
            raise ValueError

    capture.configure()
    cx.stage("s {shard}")(plain)(Hostile())
    assert ["run_stage s Hostile"] == [span.name for span in capture.spans]


def test_what_goes_into_a_decorated_generator_arrives(capture: Capture) -> None:
    """send, throw, the returned value; and close."""
    capture.configure()
    log: list[Any] = []

    @cx.stage("s")
    def echo() -> Generator[Any, Any, str]:
        got = yield "first"
        try:
            while True:
                log.append((got, inside()))
                try:
                    got = yield got
                except KeyError as error:
                    got = repr(error)
                    if got == "KeyError('end')":
                        return "done"
        finally:
            log.append("closed")

    items = echo()
    assert ["first", 1, "KeyError('x')"] == [next(items), items.send(1), items.throw(KeyError("x"))]
    with pytest.raises(StopIteration, match="done"):
        items.throw(KeyError("end"))
    closed = echo()
    next(closed)
    closed.send(2)
    closed.close()
    assert [(1, "stage s"), ("KeyError('x')", "stage s"), "closed", (2, "stage s"), "closed"] == log
    assert ["success", "cancellation"] == [span.attributes["crucible.result"] for span in capture.spans]


def test_what_goes_into_a_decorated_async_generator_arrives(capture: Capture) -> None:
    """asend, athrow and aclose."""
    capture.configure()
    log: list[Any] = []

    @cx.stage("s")
    async def echo() -> AsyncGenerator[Any, Any]:
        got = yield "first"
        try:
            while True:
                log.append((got, inside()))
                try:
                    got = yield got
                except KeyError as error:
                    got = repr(error)
        finally:
            log.append("closed")

    async def main() -> list[Any]:
        items = echo()
        answers = [await items.__anext__(), await items.asend(1), await items.athrow(KeyError("x"))]
        await items.aclose()
        return answers

    assert ["first", 1, "KeyError('x')"] == asyncio.run(main())
    assert [(1, "stage s"), ("KeyError('x')", "stage s"), "closed"] == log
    assert ["cancellation"] == [span.attributes["crucible.result"] for span in capture.spans]


def test_one_decorated_function_may_run_in_many_threads_at_once(capture: Capture) -> None:
    """Calls do not know of each other."""
    capture.configure()
    barrier = threading.Barrier(4)

    @cx.stage("s {number}")
    def work(number: int) -> None:
        barrier.wait()
        assert f"stage s {number}" == inside()
        barrier.wait()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [f"/run_stage s {number}" for number in range(4)] == capture.paths()


def test_a_decorated_function_may_call_itself(capture: Capture) -> None:
    """Each call inside the one around it."""
    capture.configure()

    @cx.stage("s")
    def count(number: int) -> None:
        if number:
            count(number - 1)

    count(2)
    assert ["/run_stage s", "/run_stage s/run_stage s", "/run_stage s/run_stage s/run_stage s"] == capture.paths()


def test_a_decorated_workflow_has_a_run_id_for_each_call(capture: Capture) -> None:
    """And the run id of the decorator is none of a call."""
    capture.configure()
    main: Callable[[], Coroutine[Any, Any, str]] = cx.workflow("w")(functools.partial(coroutine, "x").func)
    ids = []
    for _ in range(2):
        asyncio.run(main("x"))  # type: ignore[call-arg]
        ids.append(capture.spans[-1].attributes["crucible.workflow.run.id"])
    assert 2 == len(set(ids))


def test_decorated_before_configure_is_as_good(capture: Capture) -> None:
    """Decorators run at import, configure() later."""
    decorated = cx.stage("s")(plain)
    capture.configure()
    decorated("x")
    assert ["run_stage s"] == [span.name for span in capture.spans]
