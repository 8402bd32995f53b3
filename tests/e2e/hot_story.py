"""A program that makes hot and full spans in every way that contexts make difficult, and takes down what it made.

Run by ``test_hot_spans.py``, in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import Status, StatusCode

import crucible_otel as cx
from tests.e2e.hot_account import (
    ACCOUNT,
    TICKS,
    Block,
    ClockOfTicks,
    Full,
    Made,
    call,
    fails,
    inference,
    link_to,
    stage,
    write_on,
)

THREADS, ROUNDS, TASKS, GENERATORS, CHILDREN = 8, 25, 1_000, 20, 3


# -- blocks, functions, threads ----------------------------------------------------------------------------------------


def nested(above: Made) -> None:
    """Full spans in hot ones, hot ones in full ones, hot ones in hot ones; with all that can be written on them."""
    with stage("nested", above) as part:
        for number in range(ROUNDS):
            with call("outer", part, worker_id=f"w{number}") as outer:
                write_on(outer, number)
                with Full("in a call", outer, links=(part,)) as full:
                    write_on(full, number)
                    with call("inner", full) as inner:
                        link_to(inner, outer, number)
                        link_to(inner, full, -number)
                        with inference(inner) as predicted:
                            write_on(predicted, number)
                            with Full("innermost", predicted):
                                pass
                    fails(Full("fails", full), ValueError("in a full span"))
                fails(call("failing", outer), ValueError("bäd input"), number)
                fails(call("slow", outer), TimeoutError("too slow"))
        with call("renamed", part) as renamed:
            trace.get_current_span().update_name("app.renamed")
            renamed.record["name"] = "app.renamed"
        with call("approved", part) as approved:
            trace.get_current_span().set_status(Status(StatusCode.OK))
            approved.record["status_code"] = "ok"
        with call("said to fail", part) as said:
            said.verb.fail("no such thing")
            said.failed("", "no such thing")
        with call("skipped", part) as skipped:
            skipped.verb.skip()
            skipped.record["result"] = "skip"
        decorated(part)


def decorated(above: Made) -> None:
    """Functions that are calls, also one inside itself."""

    @cx.call("lib", "recursive")
    def recursive(made: Made, depth: int) -> None:
        made.inside()
        if depth:
            recursive(Made("call lib.recursive", made), depth - 1)
        made.ends()

    def plain(made: Made) -> None:
        made.inside()
        made.ends()

    recursive(Made("call lib.recursive", above), 3)
    cx.call("lib", "run").run(plain, Made("call lib.run", above))


def threads(above: Made) -> None:
    """Threads that go on in this context, threads that begin with none, and one that has it from a header."""

    def work(parent: Made | None) -> None:
        for number in range(ROUNDS):
            with call("threaded", parent) as outer:
                if number % 5 == 0:
                    write_on(outer, number)
                with Full("in a thread", outer) as full, call("deep", full):
                    pass
                if number % 7 == 0:
                    fails(call("failing", outer), ValueError(f"in a thread {number}"))

    def received(header: dict[str, str], sender: Made) -> None:
        otel_context.attach(extract({**header, "tracestate": "vendor=a1,other=b2"}))
        remote = trace.get_current_span().get_span_context()
        assert remote.is_remote
        assert sender.context.span_id == remote.span_id
        there = Made("", sender)
        there.context = remote
        with call("handled", there) as handled, Full("in a handler", handled) as full, call("deep", full) as deep:
            pass
        assert ["vendor=a1,other=b2"] * 3 == [each.record["trace_state"] for each in (handled, full, deep)]

    with stage("threads", above) as part, call("sends", part) as sender:
        header: dict[str, str] = {}
        inject(header)
        made = [threading.Thread(target=contextvars.copy_context().run, args=(work, sender)) for _ in range(THREADS)]
        made += [threading.Thread(target=work, args=(None,)), threading.Thread(target=received, args=(header, sender))]
        for thread in made:
            thread.start()
        for thread in made:
            thread.join()


# -- tasks -------------------------------------------------------------------------------------------------------------


@cx.call("lib", "coroutine")
async def coroutine(made: Made) -> None:
    """Be a call."""
    made.inside()
    await asyncio.sleep(0)
    made.ends()


@cx.call("lib", "astream")
async def astream(made: Made) -> AsyncGenerator[int, None]:
    """Be a call that goes on while others run."""
    made.inside()
    try:
        for item in range(5):
            with Full("in an async generator", made):
                await asyncio.sleep(0)
            yield item
    except BaseException as error:
        made.ends(error)
        raise
    made.ends()


async def task(number: int, parent: Made) -> None:
    """Be one of many; some fail, some wait until they are cancelled."""
    async with call("task", parent) as outer:
        await asyncio.sleep(0)
        with Full("in a task", outer) as full:
            await asyncio.sleep(0)
            with inference(full):
                await asyncio.sleep(0)
        if number % 10 == 0:
            write_on(outer, number)
        if number % 25 == 1:
            raise ValueError(f"task {number}")
        if number % 25 == 2:
            await asyncio.Event().wait()
        if number % 3 == 0:
            await coroutine(Made("call lib.coroutine", outer))


async def streamed(parent: Made) -> None:
    """Leave asynchronous generators half-way: one closes them, or whoever collects garbage."""
    for stop in range(6):
        items = astream(Made("call lib.astream", parent))
        async for item in items:
            with call("consumes", parent):
                await asyncio.sleep(0)
            if item == stop:
                break
        if stop % 2:
            await items.aclose()
        del items


async def many(parent: Made) -> None:
    """Run a thousand tasks that take turns."""
    made = [asyncio.ensure_future(task(number, parent)) for number in range(TASKS)]
    waiting = [each for number, each in enumerate(made) if number % 25 == 2]
    await asyncio.wait(set(made) - set(waiting))
    for each in waiting:
        each.cancel()
    ends = await asyncio.gather(*made, return_exceptions=True)
    assert TASKS // 25 == len([end for end in ends if isinstance(end, ValueError)])
    assert len(waiting) == len([end for end in ends if isinstance(end, asyncio.CancelledError)])
    await streamed(parent)


def tasks(above: Made) -> None:
    """A thousand tasks in one event loop."""
    with stage("tasks", above) as part:
        asyncio.run(many(part))


# -- generators --------------------------------------------------------------------------------------------------------


@cx.call("lib", "stream")
def stream(made: Made) -> Generator[int, None, None]:
    """Be a call that goes on while others run."""
    made.inside()
    try:
        for item in range(4):
            with Full("in a generator", made):
                pass
            yield item
    except BaseException as error:
        made.ends(error)
        raise
    made.ends()


def holding(parent: Made) -> Generator[Made, None, None]:
    """Keep calls open while others run, which are inside of them."""
    with call("held", parent) as held, inference(held) as inner:
        yield inner
        yield inner


def advance(generator: Generator[Made, None, None]) -> None:
    """Go on to where calls are held open."""
    with call("while held", next(generator)) as made:
        write_on(made, 0)


def close_elsewhere(generator: Generator[Any, None, None]) -> None:
    """Close it in another thread."""
    thread = threading.Thread(target=generator.close)
    thread.start()
    thread.join()


def generators(above: Made) -> None:
    """Generators that are calls, and such with calls inside; abandoned half-way, here or in another thread."""
    with stage("generators", above) as part:
        for number in range(GENERATORS):
            items = stream(Made("call lib.stream", part))
            for item in items:
                with call("consumes", part):
                    pass
                if item == number % 5:
                    break
            if number % 4 == 3:
                close_elsewhere(items)
            del items
            with call("after a generator", part):
                pass
        taking_turns(part)
        for number in range(GENERATORS):
            held = holding(part)
            contextvars.copy_context().run(advance, held)
            if number % 2:
                close_elsewhere(held)
            del held
            with call("after a held one", part):
                pass
    gc.collect()


def taking_turns(above: Made) -> None:
    """Two that begin in one order, go on in turns, and end half-way in the same order."""
    first = stream(Made("call lib.stream", above))
    assert next(first) == 0
    second = stream(Made("call lib.stream", above))
    assert next(second) == 0
    for item in (1, 2):
        assert [item, item] == [next(first), next(second)]
        with call("between two", above):
            pass
    first.close()
    second.close()


# -- forks -------------------------------------------------------------------------------------------------------------


class Leave(BaseException):
    """Takes a forked child out of its parent's blocks."""


def works(parent: Made) -> None:
    """Do what a forked child does."""
    for number in range(ROUNDS):
        with call("in a child", parent) as outer:
            write_on(outer, number)
            with Full("in a child", outer) as full, inference(full):
                pass
        fails(call("failing in a child", parent), ValueError(f"child {number}"))


def forks(above: Made, telemetry: cx.Telemetry) -> None:
    """Children forked inside a call: one leaves at once, one by an exception, one goes on outside of its parent's."""

    def leaves() -> None:
        ACCOUNT.write()
        TICKS.leave()
        assert telemetry.flush(timeout_s=30)

    try:
        with stage("forks", above) as part:
            try:
                with call("forks", part) as outer:
                    for number in range(CHILDREN):
                        with call("before a fork", outer):
                            pass
                        pid = os.fork()
                        if not pid:
                            works(outer)
                            if number == 0:
                                leaves()
                                os._exit(0)
                            if number == 1:
                                leaves()
                                sys.exit()
                            raise Leave
                        assert (pid, 0) == os.waitpid(pid, 0)
                        TICKS.pause()
            except Leave:
                works(part)
                raise
    except Leave:
        works(above)
        ACCOUNT.write()
        sys.exit()


# -- those who look on -------------------------------------------------------------------------------------------------


def listened(above: Made) -> None:
    """Handlers that come and go while calls are open: those that are heard are made another way."""
    heard: list[object] = []

    def handler(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        heard.append(metadata["function"])

    with stage("listened", above) as part, call("opened before", part) as before:
        cx.attach_handler("mine", "crucible.call.stop", handler)
        with call("heard", before) as made, Full("in a heard one", made) as full, inference(full) as inner:
            write_on(inner, 0)
            fails(call("failing", inner), ValueError("heard"), 1)
        with call("opened while heard", before) as outer:
            write_on(outer, 2)
            cx.detach("mine")
            with call("unheard", outer) as made, Full("in an unheard one", made) as full, call("deep", full):
                pass
            link_to(outer, made, 3)
    assert heard == ["heard"], heard


class Processor(SpanProcessor):
    """The application's own, which sees every span begin and end.

    Attributes:
        begun: The ids of those that began.
        ended: Of those that ended.
    """

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        """Take it down."""
        self.begun.append(span.get_span_context().span_id)

    def on_end(self, span: ReadableSpan) -> None:
        """Take it down."""
        self.ended.append(span.get_span_context().span_id)


def processed(above: Made) -> None:
    """A processor of the application's that comes while a call is open: from then on no span is buffered."""
    processor = Processor()
    with stage("processed", above) as part, call("opened before", part) as before:
        trace.get_tracer_provider().add_span_processor(processor)  # type: ignore[attr-defined]
        with call("seen", before) as outer, Full("in a seen one", outer) as full, inference(full) as inner:
            write_on(inner, 0)
        failing = call("failing", before)
        fails(failing, ValueError("seen"), 1)
    begun = [made.context.span_id for made in (outer, full, inner, failing)]
    ended = [made.context.span_id for made in (inner, full, outer, failing, part)]
    assert begun == processor.begun
    assert ended == [span_id for span_id in processor.ended if span_id != before.context.span_id]


def tell() -> None:
    """Configure telemetry as the environment says, and tell the story."""
    telemetry = cx.configure(clock=ClockOfTicks())
    with Block(cx.workflow("hot"), "run_workflow hot", None) as top:
        for part in (nested, listened, threads, tasks, generators):
            part(top)
        forks(top, telemetry)
        for part in (generators, listened, processed):
            part(top)
    ACCOUNT.write()
    TICKS.leave()
    assert telemetry.shutdown(timeout_s=30)
    sys.stdout.write(json.dumps(telemetry.status()["signals"]))
