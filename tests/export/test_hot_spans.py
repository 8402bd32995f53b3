"""Spans of hot events on their way from the buffer through the queue: each counted once, whatever becomes of it."""

from __future__ import annotations

import os
import random
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext, SpanKind

from crucible_otel.config.settings import Settings
from crucible_otel.export.backlog import QueueCounts
from crucible_otel.export.hot_spans import HotColumns, HotSpan, HotSpans
from crucible_otel.export.otlp import build_span_delivery
from crucible_otel.export.queues import SpanQueue
from crucible_otel.export.tally import Counts, Ledger
from crucible_otel.otel.buffer import Under
from crucible_otel.otel.limits import Limits
from crucible_otel.otel.record import Columns, Shape
from crucible_otel.testing import FakeClock, OtlpReceiver
from tests.export.test_batching import in_a_child, until

WAIT_MS = 60_000
NEVER = {"OTEL_BSP_SCHEDULE_DELAY": "1000000"}
START = 1_700_000_000_000_000_000
ABOVE = SpanContext(2**100, 2**50, False)
UNDER = Under(ABOVE, ABOVE.trace_id, ABOVE.span_id, 1)
SHAPE = Shape("call f", SpanKind.CLIENT, {"library": "numpy"}, ("seconds", "bytes"))


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Receive OTLP."""
    with OtlpReceiver() as opened:
        yield opened


class Holding(SpanExporter):
    """An exporter of the user's, which may be held up."""

    def __init__(self) -> None:
        self.batches: list[Sequence[ReadableSpan]] = []
        self.entered, self.go = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep a batch."""
        self.entered.set()
        assert self.go.wait(WAIT_MS / 1000)
        self.batches.append(spans)
        return SpanExportResult.SUCCESS


@dataclass
class Way:
    """A buffer, the queues it ends in, and what they count."""

    hot: HotSpans
    queues: list[SpanQueue]
    lost: list[tuple[str, str, int]] = field(default_factory=list)

    def put(self, number: int, *, shape: Shape = SHAPE, values: Sequence[Any] | None = None) -> None:
        """Have spans in the buffer, by column."""
        starts = [START + each for each in range(number)]
        seconds, sizes = [each * 1e-9 for each in range(1_000, 1_000 + number)], [number] * number
        columns = values if values is not None else [seconds, sizes]
        self.hot.buffer.add(shape, UNDER, starts, [each + 5 for each in starts], columns)

    def flush(self) -> bool:
        """Deliver."""
        return all([queue.force_flush(WAIT_MS) for queue in self.queues])

    @property
    def counts(self) -> Counts:
        """What became of the spans on the first way."""
        return self.queues[0]._delivery.tally.counts

    @property
    def queued(self) -> QueueCounts:
        """What became of them in its queue."""
        return self.queues[0].queue.counts


@contextmanager
def way(*settings: Settings, **bounds: Any) -> Iterator[Way]:
    """Make a buffer in front of queues; ``OTEL_BSP_*`` and ``max_bytes`` bound these."""
    max_bytes = bounds.pop("max_bytes", 2**26)
    environ = {**NEVER, **{f"OTEL_BSP_{name.upper()}": str(value) for name, value in bounds.items()}}
    lost: list[tuple[str, str, int]] = []
    ledger = Ledger(lambda line: None, on_lost=lambda *loss: lost.append(loss))
    queues = [SpanQueue(build_span_delivery(each, ledger), ledger, environ, max_bytes=max_bytes) for each in settings]
    provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource({"service.name": "s"}), shutdown_on_exit=False)
    hot = HotSpans(clock=FakeClock(), provider=provider, queues=queues, settings=settings[0])
    hot.buffer.rate = 1.0
    try:
        yield Way(hot, queues, lost)
    finally:
        for queue in queues:
            queue.shutdown(WAIT_MS)


def over(receiver: OtlpReceiver, **given: Any) -> Settings:
    """Return settings for a way to a receiver."""
    return Settings(endpoint=receiver.http_endpoint, trace_span_limit=10**6, **given).resolve(os.environ)


def to(exporter: SpanExporter) -> Settings:
    """Return settings for a way to an exporter of the user's."""
    return Settings(span_exporter=exporter, trace_span_limit=10**6).resolve(os.environ)


def once(receiver: OtlpReceiver) -> int:
    """Return how many spans have arrived, each of which must have come once."""
    spans = receiver.spans
    assert len(spans) == len({span.span_id for span in spans})
    return len(spans)


def test_each_span_is_delivered_as_it_was_put(receiver: OtlpReceiver) -> None:
    """With its parent, its times and its values; chunks count as their spans."""
    with way(over(receiver)) as made:
        made.put(1_000)
        assert made.flush()
        assert Counts(accepted=1_000, delivered=1_000) == made.counts
        assert (1_000, 1_000, 0, 0) == made.queued[:4]
    spans = sorted(receiver.spans, key=lambda span: span.start_ns)
    assert [START + each for each in range(1_000)] == [span.start_ns for span in spans]
    assert {(5, f"{ABOVE.trace_id:032x}", f"{ABOVE.span_id:016x}")} == {
        (span.end_ns - span.start_ns, span.trace_id, span.parent_span_id) for span in spans
    }
    assert [{"library": "numpy", "seconds": (1_000 + each) * 1e-9, "bytes": 1_000} for each in range(1_000)] == [
        span.attributes for span in spans
    ]
    assert 1_000 == once(receiver)


def test_what_is_not_folded_yet_is_fetched_by_a_flush_only(receiver: OtlpReceiver) -> None:
    """Else whoever records could not fold, and would have thousands of rows to fold at once."""
    folded: list[int] = []
    with way(over(receiver)) as made:
        made.hot.buffer.folds.append(lambda over: folded.append(len(receiver.spans)))
        made.put(20_000)
        made.hot.buffer.hurry()
        until(lambda: len(receiver.spans) > 10_000)
        assert not folded
        assert made.flush()
        assert folded
        assert 20_000 == once(receiver)


def test_a_users_exporter_gets_spans_of_the_sdk() -> None:
    """A list of them; another one behind the same buffer gets the same."""
    exporters = Holding(), Holding()
    for each in exporters:
        each.go.set()
    with way(*map(to, exporters)) as made:
        made.put(600)
        assert made.flush()
        assert Counts(accepted=600, delivered=600) == made.counts
    for each in exporters:
        spans = [span for batch in each.batches for span in batch]
        assert all(isinstance(batch, list) for batch in each.batches)
        assert 600 == len({span.context.span_id for span in spans})
        assert {ReadableSpan} == {type(span) for span in spans}
        assert [START + number for number in range(600)] == [span.start_time for span in spans]


def test_what_a_server_rejects_is_counted_by_spans(receiver: OtlpReceiver) -> None:
    """Of a request with chunks."""
    receiver.reject_next(3)
    with way(over(receiver)) as made:
        made.put(500)
        assert made.flush()
        assert Counts(accepted=500, delivered=497, failed=3) == made.counts
        assert [("traces", "partial_success", 3)] == made.lost


def test_what_a_server_refuses_is_counted_by_spans(receiver: OtlpReceiver) -> None:
    """All of it."""
    receiver.fail_next(status=400)
    with way(over(receiver)) as made:
        made.put(500)
        assert made.flush()
        assert Counts(accepted=500, failed=500) == made.counts
        assert [("traces", "export_failed", 500)] == made.lost


def test_a_request_that_is_too_large_is_cut_inside_chunks() -> None:
    """Until it fits; nothing is lost."""
    with OtlpReceiver(max_body_bytes=5_000) as narrow, way(over(narrow)) as made:
        made.put(301)
        assert made.flush()
        assert Counts(accepted=301, delivered=301) == made.counts
        assert 301 == once(narrow)
        assert len(narrow.raw) > 8


@pytest.mark.parametrize(("bounds", "sizes"), [({"max_export_batch_size": 100}, [100] * 7), ({}, [700])])
def test_a_batch_keeps_its_bound_and_cuts_a_chunk_for_it(bounds: dict[str, Any], sizes: list[int]) -> None:
    """In order."""
    exporter = Holding()
    exporter.go.set()
    with way(to(exporter), **bounds) as made:
        made.put(700)
        assert made.flush()
        assert (700, 700, 0, 0) == made.queued[:4]
    assert sizes == [len(batch) for batch in exporter.batches]
    assert [START + each for each in range(700)] == [span.start_time for batch in exporter.batches for span in batch]


@pytest.mark.parametrize("bounds", [{"max_queue_size": 800}, {"max_bytes": 800 * 190}])
def test_what_does_not_fit_is_dropped_and_counted_by_spans(bounds: dict[str, Any]) -> None:
    """The first ones of a chunk are kept; seven eighths are theirs, the rest is for spans that come one by one."""
    exporter = Holding()
    weight = HotColumns(_columns(1), _span_class()).nbytes
    if "max_bytes" in bounds:
        bounds = {"max_bytes": 800 * weight}
    with way(to(exporter), **bounds) as made:
        made.put(1_500)
        made.queues[0].queue.wake()
        assert exporter.entered.wait(WAIT_MS / 1000)
        exporter.go.set()
        assert made.flush()
        assert (1_500, 700, 0, 0, 800, 0) == made.queued
        assert Counts(accepted=1_500, delivered=700, queue_full=800) == made.counts
        made.put(100)
        assert made.flush()
        assert Counts(accepted=1_600, delivered=800, queue_full=800) == made.counts
    assert [("traces", "queue_full", 800)] == made.lost


def test_what_comes_after_the_end_is_counted_by_spans(receiver: OtlpReceiver) -> None:
    """And what is there before it is delivered by the shutdown."""
    with way(over(receiver)) as made:
        made.put(300)
        made.queues[0].shutdown(WAIT_MS)
        made.put(20_000)
        made.hot.buffer.hurry()
        assert Counts(accepted=20_300, delivered=300, failed=20_000) == made.counts
    assert 300 == once(receiver)


def test_what_is_left_when_the_time_is_over_is_counted_by_spans() -> None:
    """Behind an exporter that hangs."""
    exporter = Holding()
    with way(to(exporter), max_export_batch_size=100) as made:
        made.put(550)
        made.queues[0].queue.wake()
        assert exporter.entered.wait(WAIT_MS / 1000)
        assert not made.queues[0].queue.shutdown(20)
        exporter.go.set()
        thread = made.queues[0].queue._thread
        assert thread is not None
        thread.join(WAIT_MS / 1000)
        assert Counts(accepted=550, delivered=100, failed=450) == made.counts


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_child_delivers_its_own_spans_only(receiver: OtlpReceiver) -> None:
    """What waits in the parent, in its buffer and in its queue, is the parent's."""
    with way(over(receiver)) as made:
        made.put(300)
        made.queues[0].queue.put_many(HotColumns(_columns(50), _span_class()))

        def child() -> None:
            assert (0, 0) == (made.queued.offered, len(made.hot.buffer.columns))
            made.put(200)
            assert made.flush()
            assert Counts(accepted=200, delivered=200) == made.counts

        assert 0 == in_a_child(child)
        assert made.flush()
        assert Counts(accepted=350, delivered=350) == made.counts
    assert 550 == len(receiver.spans)


def test_many_that_nobody_fetches_go_to_the_queue() -> None:
    """When the exporter holds the thread that would: they are bounded and counted there."""
    exporter = Holding()
    with way(to(exporter), max_export_batch_size=1_000) as made:
        made.put(1_000)
        made.queues[0].queue.wake()
        assert exporter.entered.wait(WAIT_MS / 1000)
        made.put(16_383)
        made.hot.buffer.hurry()
        assert 1_000 == made.queued.offered
        made.put(10)
        made.hot.buffer.hurry()
        assert 17_393 == made.queued.offered
        exporter.go.set()
        assert made.flush()
        assert Counts(accepted=17_393, delivered=17_393) == made.counts


def test_a_span_that_cannot_be_written_costs_itself_only(receiver: OtlpReceiver) -> None:
    """The others of its chunk arrive."""
    shape = Shape("call f", SpanKind.CLIENT, {}, ("seconds", "bytes"))
    with way(over(receiver)) as made:
        made.put(300, shape=shape)
        made.put(300, shape=shape)
        made.hot.buffer.columns[1].start_ns[7] = -1  # type: ignore[index]
        assert made.flush()
        assert Counts(accepted=600, delivered=599, failed=1) == made.counts
    assert 599 == once(receiver)


@pytest.mark.parametrize("values", [0, 1, 4])
def test_an_estimate_is_within_a_factor_of_two(values: int) -> None:
    """Of the memory that a span in columns of whole numbers really takes."""
    _columns(10, values)
    tracemalloc.start()
    try:
        all_of_them = _columns(4_096, values)
        kept = [HotColumns(all_of_them[at : at + 256], _span_class()) for at in range(0, 4_096, 256)]
        del all_of_them
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken / 2 < sum(each.nbytes for each in kept) < taken * 2


def test_a_chunk_weighs_as_much_as_what_is_written_of_it() -> None:
    """Where that is more than what waits: a batch is bounded by it, so that a receiver takes it."""
    shape = Shape("s", SpanKind.INTERNAL, {"text": "x" * 5_000})
    columns = Columns(shape, 1, 2, 1, bytes(160), [1] * 20, [2] * 20, ())
    chunk = HotColumns(columns, _span_class())
    assert 20 * 5_000 < len(chunk.otlp_fields()) <= chunk.nbytes


def test_a_chunk_is_a_sequence_of_its_spans() -> None:
    """Of which a part is one, too."""
    chunk = HotColumns(_columns(20), _span_class())
    spans = list(chunk)
    assert (20, spans, spans[3:7]) == (len(chunk), [chunk[each] for each in range(20)], list(chunk[3:7]))
    assert (spans[-1], HotColumns) == (chunk[-1], type(chunk[2:]))
    with pytest.raises(IndexError):
        chunk[20]


def _columns(number: int, values: int = 2) -> Columns:
    shape = Shape("call numpy.svd", SpanKind.CLIENT, {}, [f"value.{each}" for each in range(values)])
    ids = random.Random(number).randbytes(8 * number)
    columns = tuple([[10**9 + each for each in range(number)] for _ in range(values)])
    starts, ends = ([START + offset + each for each in range(number)] for offset in (0, 1))
    return Columns(shape, 2**100, 2**50, 1, ids, starts, ends, columns)


def _span_class() -> type[HotSpan]:
    return type("Span", (HotSpan,), {"__slots__": (), "resource": Resource({}), "limits": Limits()})
