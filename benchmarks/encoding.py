"""What it costs to make OTLP bytes of spans and log records."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Case, ratio, rounds
from benchmarks.result import Result, Section

if TYPE_CHECKING:
    from crucible_otel.export.encoding import Encoder

METHOD = """\
512 finished spans of the SDK with 8 attributes each (2 texts, 4 doubles, an int, a bool), and 512 log records with the
same attributes, made into the bytes of one request: by the exporters of `crucible_otel`, and by the SDK's
`encode_spans(...).SerializeToString()` and `encode_logs(...).SerializeToString()`. The bytes are the same. And 512
spans of hot calls with 8 attributes (2 texts, a result, 4 durations, a number of bytes), as they wait in columns, each
with the same content as a span of the SDK."""

_ITEMS = 512


def measure(quick: bool) -> Section:
    """Measure encoding; nothing is sent."""
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    from crucible_otel.export.encode_logs import log_encoder
    from crucible_otel.export.encode_spans import span_encoder

    spans, logs = _spans(), _logs()
    chunks, hot = _hot_spans()
    ways: dict[str, tuple[Callable[[], bytes], Encoder, Any]] = {
        "span": (lambda: encode_spans(spans).SerializeToString(), span_encoder(), spans),
        "log record": (lambda: encode_logs(logs).SerializeToString(), log_encoder(), logs),
        "hot span": (lambda: encode_spans(hot).SerializeToString(), span_encoder(), chunks),
    }
    cases = []
    for name, (sdks, encoder, items) in ways.items():
        theirs, ours = sdks(), bytes(encoder.encode(items).data)
        # Hot spans come by the length of their numbers.
        if (len(theirs) != len(ours)) if items is chunks else (theirs != ours):
            raise ValueError(f"the bytes of a {name} are not those of the SDK")
        cases += [_case(f"{name}, SDK", sdks), _case(f"{name}, ours", partial(_write, encoder, items))]
    found = rounds(cases, 3 if quick else 15)
    results = []
    for name in ways:
        middle, low, high = ratio(found[f"{name}, SDK"].thread_ns, found[f"{name}, ours"].thread_ns)
        results.append(
            Result(
                name=f"SDK's encoder / ours, {name}",
                value=middle,
                low=low,
                high=high,
                target=30.0 if name == "hot span" else 3.0,
            )
        )
    return Section(
        method=METHOD,
        results=tuple(results),
        figures={"ns each": {name: round(each.ns / _ITEMS) for name, each in found.items()}},
    )


def _case(name: str, encode: Callable[[], object]) -> Case:
    def requests(start: int, calls: int) -> None:
        for _ in range(calls):
            encode()

    return Case(name, requests, chunk=1)


def _write(encoder: Encoder, items: Any) -> None:
    encoder.encode(items).let_go()


def _attributes(number: int) -> dict[str, Any]:
    return {
        "rpc.system": "crucible",
        "gen_ai.request.model": "gpt-x",
        "crucible.call.queue.duration": 0.1 + number,
        "crucible.call.serialize.duration": 0.2 + number,
        "crucible.call.execute.duration": 0.3 + number,
        "crucible.call.deserialize.duration": 0.4 + number,
        "crucible.call.io": 512 + number * 1_000,
        "crucible.ok": bool(number % 3),
    }


def _spans() -> list[Any]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("benchmarks", "1")
    with tracer.start_as_current_span("parent"):
        for number in range(_ITEMS):
            tracer.start_span("call", attributes=_attributes(number)).end()
    return list(kept.get_finished_spans())[:_ITEMS]


def _hot_spans() -> tuple[Any, list[Any]]:
    """Return spans of calls as they wait, and as the SDK knows them."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import SpanKind

    from crucible_otel.export.chunk import Batch
    from crucible_otel.export.hot_spans import HotColumns, HotSpan
    from crucible_otel.export.pace import Pace
    from crucible_otel.otel.limits import Limits
    from crucible_otel.otel.record import Columns, Shape, packed

    numbers = range(_ITEMS)
    start = {"rpc.system": "crucible", "gen_ai.request.model": "gpt-x", "crucible.result": "success"}
    durations = [f"crucible.call.{part}.duration" for part in ("queue", "serialize", "execute", "deserialize")]
    shape = Shape("call", SpanKind.INTERNAL, start, (*durations, "crucible.call.io"))
    values = [packed("d", [(1_000_000 * part + number) * 1e-9 for number in numbers]) for part in range(1, 5)]
    columns = Columns(
        shape,
        2**127 + 1,
        2**63 + 1,
        1,
        b"".join([(2**63 + number).to_bytes(8, "big") for number in numbers]),
        packed("Q", [1_700_000_000_000_000_000 + 1_000 * number for number in numbers]),
        packed("Q", [1_700_000_000_010_000_000 + 1_000 * number for number in numbers]),
        (*values, packed("Q", [20_000 + 1_000 * number for number in numbers])),
    )
    kind = type("Span", (HotSpan,), {"__slots__": (), "resource": Resource.create({}), "limits": Limits()})
    batch = Batch(Pace())
    for at in range(0, _ITEMS, 256):
        batch.extend(HotColumns(columns[at : at + 256], kind))
    return batch, [span.readable() for span in batch]


def _logs() -> list[Any]:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

    kept = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    logger = provider.get_logger("benchmarks", "1")
    for number in range(_ITEMS):
        logger.emit(event_name="crucible.call.stop", body="call", attributes=_attributes(number))
    return list(kept.get_finished_logs())
