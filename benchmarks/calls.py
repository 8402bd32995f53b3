"""What a call costs until it is sent: ``cx.call`` against the same written with the SDK."""

from __future__ import annotations

import json
import logging
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from contextvars import Context
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmarks.children import figures
from benchmarks.measure import Case, Figures, ratio, rounds
from benchmarks.result import Result, Section

if TYPE_CHECKING:
    from crucible_otel.export.chunk import Batch

METHOD = """\
A call with five histograms (its duration and four phases), two counters (calls, bytes) and a span: CPU time of the
whole process until metrics and spans are OTLP bytes and sent to a process that only reads them. A slice ends with a
flush, which is part of it. *SDK, span and 7 instruments* is `start_as_current_span` with the ten attributes that ours
have, through the batch processor and OTLP/HTTP, and seven instruments, called outside of the span, where they make no
exemplars; *SDK, 7 instruments* leaves the span out; *SDK, span and 2 instruments* is a call of which only the duration
is known. Each way to configure us has a process of its own, in which the SDK is measured too: *all spans* is the
default, *metrics only* is `call_sample_rate=0`, *traces off* is `traces_exporter="none"`. Ours are
`call.record(duration_ns, queue_ns=, ..., nbytes=)` of a `cx.call(...)` that is made once, `with cx.call(...) as call:
call.timing(...)`, `with cx.call(...):` and `call.run(function)`. What is recorded are calls of 0.1 ms to 1 s, in all
buckets; what is timed does nothing, and its phases are shorter than a microsecond. Encoding: 512 such spans, as they
wait, made into a request, against `encode_spans(...)` and `SerializeToString()`; read back, both say the same. That
ours wait as columns of seconds is part of the call."""

RECORD, TIMED, PLAIN, RUN = "record", "with call, timing", "with call", "call.run"
WHOLE, METRICS, SMALL = "SDK, span and 7 instruments", "SDK, 7 instruments", "SDK, span and 2 instruments"
OURS, THEIRS = "hot span", "hot span, SDK"
SPANS, ONLY_METRICS, OFF = "all spans", "metrics only", "traces off"
_MODES: dict[str, dict[str, Any]] = {
    SPANS: {},
    ONLY_METRICS: {"call_sample_rate": 0.0},
    OFF: {"traces_exporter": "none"},
}
_TARGETS = {(SPANS, WHOLE): 60.0, (ONLY_METRICS, WHOLE): 120.0}
_ENCODING_TARGET = 30.0
_ROWS, _ITEMS = 1024, 512
_SLICE = {SPANS: 32 * _ROWS, ONLY_METRICS: 32 * _ROWS, OFF: 32 * _ROWS}
_SDK_SLICE = 2 * _ROWS
_LONG, _SHORT = (5, 9), (1, 3)
_FLUSH_S = 60.0

_DRIVE = """
def drive(start, calls):
    for _ in range(calls // {rows}):
        for duration, queue, serialize, execute, deserialize, nbytes in rows:
            {body}
    flush()
"""
_PHASES = "queue_ns=queue, serialize_ns=serialize, execute_ns=execute, deserialize_ns=deserialize"
_ROW = "duration, queue, serialize, execute, deserialize, nbytes"


def measure(quick: bool) -> Section:
    """Measure in children."""
    found = {mode: figures("calls", mode, str(quick)) for mode in _MODES}
    results = []
    for mode, other, form in (
        (ONLY_METRICS, WHOLE, RECORD),
        (ONLY_METRICS, METRICS, RECORD),
        (SPANS, WHOLE, RECORD),
        (OFF, WHOLE, RECORD),
        (ONLY_METRICS, WHOLE, TIMED),
        (SPANS, WHOLE, TIMED),
        (ONLY_METRICS, SMALL, PLAIN),
        (SPANS, SMALL, PLAIN),
        (ONLY_METRICS, SMALL, RUN),
        (SPANS, SMALL, RUN),
    ):
        spent = found[mode]["process_ns"]
        middle, low, high = ratio(spent[other], spent[form])
        target = _TARGETS.get((mode, other)) if form == RECORD else None
        results.append(Result(name=f"{other} / {form}, {mode}", value=middle, low=low, high=high, target=target))
    encode = found[SPANS]["encode_ns"]
    middle, low, high = ratio(encode[THEIRS], encode[OURS])
    name = "encode_spans / encoding of a call's span"
    results.append(Result(name=name, value=middle, low=low, high=high, target=_ENCODING_TARGET))
    return Section(
        method=METHOD,
        results=tuple(results),
        figures={
            "process_ns": {mode: _medians(each["process_ns"]) for mode, each in found.items()},
            "caller_ns": {mode: _medians(each["thread_ns"]) for mode, each in found.items()},
            "encode_ns": _medians(encode),
            "spans": {mode: each["spans"] for mode, each in found.items()},
        },
    )


def _medians(of: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 1) for name, values in of.items()}


def _measure(mode: str, quick: bool) -> dict[str, Any]:
    import crucible_otel as cx
    from benchmarks.sdk_calls import FUNCTION, LIBRARY, Sdk
    from benchmarks.sink import sink

    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    with (
        sink() as endpoint,
        cx.configure(endpoint=endpoint, prometheus_port=0, gpu="off", **_MODES[mode]) as telemetry,
    ):
        sdk, context = Sdk(endpoint), Context()
        context.run(cx.stage("calls").__enter__)
        rows, size, sdk_size = (128, 128, 128) if quick else (_ROWS, _SLICE[mode], _SDK_SLICE)

        def flush() -> None:
            assert telemetry.flush(_FLUSH_S)

        def ours(name: str, body: str, **scope: Any) -> Case:
            drive = _driver(body, rows, flush=flush, call=cx.call, library=LIBRARY, function=FUNCTION, **scope)
            return Case(name, drive, slice_s=1e-6, chunk=size, context=context)

        def theirs(name: str, body: str, **scope: Any) -> Case:
            return Case(name, _driver(body, rows, flush=sdk.flush, **scope), slice_s=1e-6, chunk=sdk_size)

        bound = cx.call(LIBRARY, FUNCTION)
        cases = [
            ours(RECORD, f"record(duration, {_PHASES}, nbytes=nbytes)", record=bound.record),
            ours(TIMED, f"with call(library, function, bytes=nbytes) as one: one.timing({_PHASES})", powers=_SHORT),
            ours(PLAIN, "with call(library, function): pass"),
            ours(RUN, "run(called)", run=bound.run, called=lambda: None),
            theirs(WHOLE, f"whole({_ROW})", whole=sdk.whole),
            theirs(METRICS, f"metrics({_ROW})", metrics=sdk.metrics),
            theirs(SMALL, "plain()", plain=sdk.plain),
        ]
        bare = Case("(the bare loop)", _driver("pass", rows, flush=lambda: None), chunk=rows)
        spent = rounds(cases, 3 if quick else 9, bare=bare)
        encoded = context.run(_encode, quick) if mode == SPANS else {}
        sdk.shutdown()
        made = sum(case.made for case in cases if case.name in (WHOLE, SMALL))
        assert made == sdk.exported, (made, sdk.exported)
    return {
        "process_ns": {name: each.process_ns for name, each in spent.items()},
        "thread_ns": {name: each.thread_ns for name, each in spent.items()},
        "encode_ns": {name: each.thread_ns for name, each in encoded.items()},
        "spans": next((each for each in telemetry.status()["signals"] if each["signal"] == "traces"), None),
    }


def _driver(body: str, size: int, powers: tuple[int, int] = _LONG, **scope: Any) -> Callable[[int, int], None]:
    scope["rows"] = list(islice(_rows(*powers), size))
    exec(compile(_DRIVE.format(body=body, rows=size), "<call>", "exec"), scope)
    drive: Callable[[int, int], None] = scope["drive"]
    return drive


def _rows(least: int, most: int) -> Iterator[tuple[int, ...]]:
    """Make durations between these powers of ten, in ns and no order, what they were spent on, and bytes."""
    chance = random.Random(0)
    for _ in range(_ROWS):
        duration = round(10 ** chance.uniform(least, most))
        shares = [chance.random() for _ in range(5)]
        yield duration, *(int(duration * share / sum(shares)) for share in shares[:4]), chance.randrange(1 << 20)


def _encode(quick: bool) -> dict[str, Figures]:
    """Measure the encoding of spans as a call makes them; nothing is sent."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    from crucible_otel.export.encode_spans import span_encoder

    items = _items()
    spans = [item.readable() for item in items]
    encoder = span_encoder()
    ways: dict[str, Callable[[], object]] = {
        OURS: lambda: encoder.encode(items).let_go(),
        THEIRS: lambda: encode_spans(spans).SerializeToString(),
    }
    request, ours = encode_spans(spans), type(encode_spans(spans)).FromString(bytes(encoder.encode(items).data))
    for message in (request, ours):  # ours come by the length of their numbers
        message.resource_spans[0].scope_spans[0].spans.sort(key=lambda span: span.span_id)
    if ours != request:
        raise ValueError("a call's span as bytes does not say what the SDK says")

    def case(name: str, encode: Callable[[], object]) -> Case:
        def drive(start: int, calls: int) -> None:
            for _ in range(calls // _ITEMS):
                encode()

        return Case(name, drive, chunk=_ITEMS)

    return rounds([case(name, encode) for name, encode in ways.items()], 3 if quick else 15)


def _items() -> Batch:
    """Return finished spans of calls, as they wait for their export."""
    from opentelemetry.sdk.trace import TracerProvider

    import crucible_otel as cx
    from benchmarks.sdk_calls import FUNCTION, LIBRARY
    from crucible_otel.config.settings import Settings
    from crucible_otel.events.runtime import runtime
    from crucible_otel.export.chunk import Batch
    from crucible_otel.export.hot_spans import HotSpans
    from crucible_otel.export.pace import Pace

    queue = SimpleNamespace(sources=[])
    kept = HotSpans(
        clock=runtime().clock,
        provider=TracerProvider(shutdown_on_exit=False),
        queues=[SimpleNamespace(queue=queue)],
        settings=Settings().resolve({}),
    )
    made, record = runtime().operations["crucible.call"].buffer, cx.call(LIBRARY, FUNCTION).record
    for duration, queued, serialize, execute, deserialize, nbytes in islice(_rows(*_LONG), 2 * _ITEMS):
        record(
            duration,
            queue_ns=queued,
            serialize_ns=serialize,
            execute_ns=execute,
            deserialize_ns=deserialize,
            nbytes=nbytes,
        )
    kept.buffer.columns += made.fetch_columns()
    kept.buffer.records += made.fetch()
    batch = Batch(Pace())
    for spans in queue.sources[0](True):
        batch.extend(spans)
    if len(batch) < _ITEMS:  # the queue has fetched some
        raise ValueError(f"of {2 * _ITEMS} calls {len(batch)} are spans")
    return batch[:_ITEMS]


if __name__ == "__main__":
    from benchmarks.environment import prepare

    prepare()
    print(json.dumps(_measure(sys.argv[1], sys.argv[2] == "True")))
