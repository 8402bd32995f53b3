"""Blocks that take down the spans they make, for the program that ``hot_story.py`` is.

The account is the program's own: which block stands inside which is told by its text, when something happened by a
clock that it sets before each step. Only the ids are asked of OpenTelemetry, by who runs inside a block.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

import crucible_otel as cx

FOLDER_VARIABLE: Final = "HOT_STORY_FOLDER"
"""Names the folder of the accounts: one file a process."""

_AT: Final[ContextVar[int]] = ContextVar("at", default=0)
_STEP_NS: Final = 1_009
_PAUSE_NS: Final = 10**9


class Ticks:
    """Times that nobody else has: each is later than all that were read before."""

    def __init__(self) -> None:
        self._ticks = count(time.time_ns(), _STEP_NS)

    def read(self) -> int:
        """Return a time, and have it be the present in this context."""
        at_ns = next(self._ticks)
        _AT.set(at_ns)
        return at_ns

    def pause(self) -> None:
        """Let other processes have some time; nobody may read meanwhile."""
        self._ticks = count(next(self._ticks) + _PAUSE_NS, _STEP_NS)

    def leave(self) -> None:
        """Have the machine's time be the present in this context."""
        _AT.set(0)


class ClockOfTicks:
    """The clock that telemetry is given: what was read last in this context; the machine's for its own threads."""

    def __init__(self) -> None:
        self._base_ns = time.time_ns()

    def now(self) -> float:
        """Return seconds."""
        return (self.time_ns() - self._base_ns) / 1e9

    def time_ns(self) -> int:
        """Return nanoseconds since the epoch."""
        return _AT.get() or time.time_ns()


TICKS: Final = Ticks()
TRACER: Final = trace.get_tracer("app", "1.0")


class Account:
    """What this process made: one line a span."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.pid = os.getpid()

    def take(self, made: Made) -> None:
        """Take a span down that ends now; not what a forked child has of its parent."""
        if made.pid == os.getpid():
            self.lines.append(json.dumps(made.record))

    def begin_anew(self) -> None:
        """Forget what a forked child's parent made."""
        self.lines, self.pid = [], os.getpid()

    def write(self) -> None:
        """Write it down."""
        folder = Path(os.environ[FOLDER_VARIABLE])
        (folder / f"{self.pid}.jsonl").write_text("".join(f"{line}\n" for line in self.lines))


ACCOUNT: Final = Account()
os.register_at_fork(after_in_child=ACCOUNT.begin_anew)


class Made:
    """One span, as the program knows it.

    Args:
        name: Its name.
        parent: The span it is made in; None for none.
        kind: Its kind.
        scope: Who makes it.

    Attributes:
        record: What is taken down.
        context: Its identity, as seen inside it.
    """

    def __init__(self, name: str, parent: Made | None, *, kind: str = "internal", scope: str = "crucible_otel") -> None:
        above = parent.context if parent is not None else None
        self.pid, self.context = os.getpid(), trace.INVALID_SPAN_CONTEXT
        self.record: dict[str, Any] = {
            "name": name,
            "kind": kind,
            "scope": scope,
            "process": self.pid,
            "parent_span_id": f"{above.span_id:016x}" if above is not None else "",
            "remote": above is not None and above.is_remote,
            "status_code": "unset",
            "status_message": "",
            "result": "success" if scope == "crucible_otel" else "",
            "attributes": {},
            "events": [],
            "links": [],
            "start_ns": TICKS.read(),
        }

    def inside(self) -> Span:
        """Take its identity down, which is the current one now."""
        span = trace.get_current_span()
        self.context = context = span.get_span_context()
        self.record |= {
            "trace_id": f"{context.trace_id:032x}",
            "span_id": f"{context.span_id:016x}",
            "trace_state": context.trace_state.to_header(),
        }
        return span

    def ends(self, error: BaseException | None = None) -> int:
        """Say that it ends now, and with what."""
        at_ns = self.record["end_ns"] = TICKS.read()
        if isinstance(error, (GeneratorExit, asyncio.CancelledError)):
            self.record["result"] = "cancellation"
        elif error is not None:
            self.failed(type(error).__name__, str(error))
            self.event("exception", at_ns, {"exception.type": type(error).__name__, "exception.message": str(error)})
        ACCOUNT.take(self)
        return int(at_ns)

    def failed(self, kind: str, message: str) -> None:
        """Take down that it failed."""
        result = "timeout" if kind == "TimeoutError" else "failure"
        self.record |= {"result": result if self.record["result"] else "", "status_message": message}
        self.record["status_code"] = "error"

    def event(self, name: str, at_ns: int, attributes: Mapping[str, Any]) -> None:
        """Take an event down."""
        self.record["events"].append([name, at_ns, dict(attributes)])

    def link(self, context: SpanContext, attributes: Mapping[str, Any]) -> None:
        """Take a link down."""
        ids = [f"{context.trace_id:032x}", f"{context.span_id:016x}"]
        self.record["links"].append([*ids, context.is_remote, dict(attributes)])


class Block(Made):
    """A block of ours: a verb around code, synchronous or not.

    Args:
        verb: What ``cx.call`` and its like return.
    """

    def __init__(self, verb: Any, name: str, parent: Made | None) -> None:
        super().__init__(name, parent)
        self.verb = verb

    def __enter__(self) -> Block:
        self.verb.__enter__()
        self.inside()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ends(error)
        self.verb.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Block:
        await self.verb.__aenter__()
        self.inside()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ends(error)
        await self.verb.__aexit__(kind, error, traceback)


class Full(Made):
    """A block of the application's own, with a span of the SDK."""

    def __init__(self, name: str, parent: Made | None, *, links: tuple[Made, ...] = ()) -> None:
        super().__init__(name, parent, kind="client", scope="app")
        self._links = links

    def __enter__(self) -> Full:
        linked = [Link(each.context, {"app.linked": index}) for index, each in enumerate(self._links)]
        for each in linked:
            self.link(each.context, each.attributes or {})
        self._block = TRACER.start_as_current_span(
            self.record["name"],
            kind=SpanKind.CLIENT,
            links=linked,
            start_time=self.record["start_ns"],
            record_exception=False,
            set_status_on_exception=False,
            end_on_exit=False,
        )
        self._block.__enter__()
        self._span = self.inside()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        at_ns = self.ends(error)
        self._block.__exit__(kind, error, traceback)
        if self.record["status_code"] == "error":
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
            assert error is not None
            self._span.record_exception(error, timestamp=at_ns)
        self._span.end(at_ns)


def call(name: str, parent: Made | None, **fields: Any) -> Block:
    """Return a call."""
    return Block(cx.call("lib", name, **fields), f"call lib.{name}", parent)


def stage(name: str, parent: Made | None) -> Block:
    """Return a stage."""
    return Block(cx.stage(name), f"run_stage {name}", parent)


def inference(parent: Made | None) -> Block:
    """Return an inference."""
    return Block(cx.inference("tiny", batch_size=4), "predict tiny", parent)


# -- what is written on the current span -------------------------------------------------------------------------------


def write_on(made: Made, number: int) -> None:
    """Write on the span that is current, which is this one, all that a span has room for."""
    span = trace.get_current_span()
    attributes = {
        "app.number": number,
        "app.large": -(2**63) + number,
        "app.share": number / 3,
        "app.text": f"wört {number} \N{GRINNING FACE}",
        "app.even": number % 2 == 0,
        "app.list": [number, number + 1],
    }
    span.set_attribute("app.number", -1)  # the last one counts
    span.set_attributes(attributes)
    made.record["attributes"].update(attributes)
    at_ns = TICKS.read()
    span.add_event("app.noticed", {"app.number": number}, _told_to(span, at_ns))
    made.event("app.noticed", at_ns, {"app.number": number})
    at_ns = TICKS.read()
    span.add_event("app.earlier", timestamp=at_ns - 17)
    made.event("app.earlier", at_ns - 17, {})
    at_ns = TICKS.read()
    error = KeyError(f"handled {number}")
    span.record_exception(error, {"app.handled": True}, _told_to(span, at_ns))
    about = {"exception.type": "KeyError", "exception.message": str(error), "app.handled": True}
    made.event("exception", at_ns, about)


def _told_to(span: Span, at_ns: int) -> int | None:
    """Return the time for a span that knows another clock than ours."""
    return at_ns if isinstance(span, ReadableSpan) else None


def link_to(made: Made, other: Made, number: int) -> None:
    """Link the current span, which is this one, to another."""
    trace.get_current_span().add_link(other.context, {"app.linked": number})
    made.link(other.context, {"app.linked": number})


def fails(block: Block | Full, error: BaseException, number: int | None = None) -> None:
    """Run a block that fails; with a number, something is written on it before."""
    raised: BaseException | None = None
    try:
        with block as made:
            if number is not None:
                write_on(made, number)
            raise error
    except type(error) as caught:
        raised = caught
    assert raised is error
