"""The receiver, against the SDK's own exporters."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk.metrics import Counter
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from crucible_otel.testing import OtlpReceiver, ReceiverCounts
from tests.versions import HTTP_RETRIES_429


@pytest.fixture(scope="module")
def finished_spans() -> Any:
    """A few finished spans of the SDK, to hand to an exporter."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    for name in ("first", "second", "third"):
        provider.get_tracer("test").start_span(name).end()
    return memory.get_finished_spans()


def exporter_of_spans(receiver: OtlpReceiver, wire: Any, exporters: Callable[..., Any], **options: Any) -> Any:
    """Return the SDK's span exporter alone."""
    spans, metrics, logs = exporters(receiver, wire, **options)
    metrics.shutdown()
    logs.shutdown()
    return spans


def test_spans_arrive_as_they_were_made(receiver: OtlpReceiver, wire: Any, start_sdk: Callable[..., Any]) -> None:
    """Ids, kind, times, attributes, events, links, status, scope and resource survive every wire."""
    sdk = start_sdk(receiver, wire)
    tracer = sdk.traces.get_tracer("library", "1.2", schema_url="https://example.org/schema")
    with tracer.start_as_current_span("outer", kind=SpanKind.CLIENT) as outer:
        outer.set_attributes({"text": "ä", "number": 3, "ratio": 0.5, "flag": True, "list": ["a", "b"]})
        outer.add_event("happened", {"at": 1}, timestamp=5_000)
        inner = tracer.start_span("inner", links=[Link(outer.get_span_context(), {"why": "test"})], start_time=1_000)
        inner.set_status(Status(StatusCode.ERROR, "broken"))
        inner.end(end_time=2_500_001_000)
    sdk.flush()

    child, parent = receiver.spans
    context = outer.get_span_context()
    assert ("inner", "error", "broken", 2.5) == (
        child.name,
        child.status_code,
        child.status_message,
        child.duration_s,
    )
    assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (child.trace_id, child.parent_span_id)
    assert [(parent.trace_id, parent.span_id, {"why": "test"})] == [
        (link.trace_id, link.span_id, link.attributes) for link in child.links
    ]
    assert ("client", "unset", "") == (parent.kind, parent.status_code, parent.parent_span_id)
    assert {"text": "ä", "number": 3, "ratio": 0.5, "flag": True, "list": ("a", "b")} == parent.attributes
    assert [("happened", 5_000, {"at": 1})] == [
        (event.name, event.time_ns, event.attributes) for event in parent.events
    ]
    assert ("library", "1.2", "https://example.org/schema") == (
        parent.scope.name,
        parent.scope.version,
        parent.scope.schema_url,
    )
    assert "receiver-test" == parent.resource["service.name"]


def test_logs_arrive_in_the_span_they_were_made_in(
    receiver: OtlpReceiver, wire: Any, start_sdk: Callable[..., Any]
) -> None:
    """Event name, severity, body, attributes and ids survive every wire."""
    sdk = start_sdk(receiver, wire)
    with sdk.traces.get_tracer("test").start_as_current_span("around") as span:
        sdk.logs.get_logger("library").emit(
            event_name="my.event",
            severity_number=SeverityNumber.WARN2,
            severity_text="careful",
            body={"nested": [1, None]},
            attributes={"key": "value"},
            timestamp=7_000,
        )
    sdk.flush()

    [log] = receiver.logs
    assert ("my.event", "WARN2", 14, "careful", 7_000) == (
        log.event_name,
        log.severity,
        log.severity_number,
        log.severity_text,
        log.time_ns,
    )
    assert ({"nested": (1, None)}, {"key": "value"}, "library") == (log.body, log.attributes, log.scope.name)
    assert f"{span.get_span_context().span_id:016x}" == log.span_id
    assert [log.trace_id] == [received.trace_id for received in receiver.spans]


def test_metrics_arrive_with_what_their_kind_has(
    receiver: OtlpReceiver, wire: Any, start_sdk: Callable[..., Any]
) -> None:
    """Counters, up-down counters, gauges and histograms survive every wire."""
    sdk = start_sdk(receiver, wire)
    meter = sdk.metrics.get_meter("library")
    meter.create_counter("steps", unit="{step}", description="Steps made").add(3, {"model": "m"})
    meter.create_up_down_counter("open").add(-2)
    meter.create_gauge("loss").set(0.25)
    histogram = meter.create_histogram("latency", unit="s", explicit_bucket_boundaries_advisory=[1.0, 2.0])
    for value in (0.5, 1.5, 9.0):
        histogram.record(value)
    sdk.flush()

    [steps], [opened], [loss], [latency] = (receiver.points(name) for name in ("steps", "open", "loss", "latency"))
    assert ("sum", True, "cumulative", 3, "{step}", "Steps made", {"model": "m"}) == (
        steps.kind,
        steps.monotonic,
        steps.temporality,
        steps.value,
        steps.unit,
        steps.description,
        steps.attributes,
    )
    assert ("sum", False, -2) == (opened.kind, opened.monotonic, opened.value)
    assert ("gauge", "unspecified", 0.25) == (loss.kind, loss.temporality, loss.value)
    assert ("histogram", None, 3, 11.0, 0.5, 9.0, (1, 1, 1), (1.0, 2.0)) == (
        latency.kind,
        latency.value,
        latency.count,
        latency.sum,
        latency.min,
        latency.max,
        latency.buckets,
        latency.bounds,
    )
    assert steps.start_ns <= steps.time_ns


@pytest.mark.parametrize(("compression", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_raw_requests_are_kept_as_they_were_sent(
    receiver: OtlpReceiver,
    compression: str,
    unpack: Callable[[bytes], bytes],
    finished_spans: Any,
    make_wire: Callable[..., Any],
    exporters,
) -> None:
    """A test of the wire sees the compressed body and the headers; their values are not shown by accident."""
    wire = make_wire("http/protobuf", compression)
    exporter = exporter_of_spans(receiver, wire, exporters, headers={"Authorization": "secret-token"})
    exporter.export(finished_spans)
    exporter.shutdown()

    [raw] = receiver.raw
    assert ("traces", "http/protobuf", 200) == (raw.signal, raw.protocol, raw.status)
    assert (compression, "secret-token") == (raw.headers["content-encoding"], raw.headers["authorization"])
    assert b"third" in unpack(raw.body)
    assert "secret-token" not in repr(raw)


def test_metadata_of_grpc_requests_is_kept(
    receiver: OtlpReceiver, finished_spans: Any, make_wire: Callable[..., Any], exporters: Callable[..., Any]
) -> None:
    """Headers given to the gRPC exporter arrive as metadata."""
    exporter = exporter_of_spans(receiver, make_wire("grpc"), exporters, headers={"x-tenant": "blue"})
    exporter.export(finished_spans)
    exporter.shutdown()

    [raw] = receiver.raw
    assert ("grpc", "blue") == (raw.protocol, raw.headers["x-tenant"])


def test_concurrent_senders_lose_and_double_nothing(
    receiver: OtlpReceiver, finished_spans: Any, make_wire: Callable[..., Any], exporters: Callable[..., Any]
) -> None:
    """Eight threads on both protocols at once: every span is there, every request is counted."""

    def send(number: int) -> None:
        wire = make_wire("grpc" if number % 2 else "http/protobuf", "gzip")
        exporter = exporter_of_spans(receiver, wire, exporters)
        for _ in range(25):
            exporter.export(finished_spans)
        exporter.shutdown()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(8)))

    assert ReceiverCounts(accepted=200) == receiver.counts
    assert [200, 200, 200] == [
        sum(span.name == name for span in receiver.spans) for name in ("first", "second", "third")
    ]
    assert 100 == sum(raw.protocol == "grpc" for raw in receiver.raw)


@pytest.mark.parametrize("status", [429, 503] if HTTP_RETRIES_429 else [503])
def test_the_sdk_retries_what_is_refused_for_now(
    receiver: OtlpReceiver, plain_wire: Any, status: int, finished_spans: Any, exporters
) -> None:
    """It comes back when it is told to, and what it brings arrives once."""
    receiver.fail_next(2, status=status, retry_after=0)
    exporter = exporter_of_spans(receiver, plain_wire, exporters)

    assert "SUCCESS" == exporter.export(finished_spans).name
    exporter.shutdown()
    assert ReceiverCounts(accepted=1, failed=2) == receiver.counts
    assert [status, status, 200] == [raw.status for raw in receiver.raw]
    assert 3 == len(receiver.spans)


def test_the_sdk_gives_up_what_is_refused_for_good(
    receiver: OtlpReceiver, plain_wire: Any, finished_spans: Any, exporters: Callable[..., Any]
) -> None:
    """A status that is not to be retried loses the batch, and only that one."""
    receiver.fail_next(status=400)
    exporter = exporter_of_spans(receiver, plain_wire, exporters)

    assert ["FAILURE", "SUCCESS"] == [exporter.export(finished_spans).name for _ in range(2)]
    exporter.shutdown()
    assert ReceiverCounts(accepted=1, failed=1) == receiver.counts


def test_one_signal_can_fail_alone(receiver: OtlpReceiver, plain_wire: Any, start_sdk: Callable[..., Any]) -> None:
    """A failure that is planned for metrics waits for metrics."""
    receiver.fail_next(status=400, signal="metrics")
    sdk = start_sdk(receiver, plain_wire)
    sdk.traces.get_tracer("test").start_span("span").end()
    sdk.metrics.get_meter("test").create_counter("count").add(1)
    sdk.flush()

    assert {"traces": 200, "metrics": 400} == {raw.signal: raw.status for raw in receiver.raw}
    assert ((), 1) == (receiver.points(), len(receiver.spans))


def test_a_hanging_receiver_answers_nobody(
    receiver: OtlpReceiver, plain_wire: Any, finished_spans: Any, exporters: Callable[..., Any]
) -> None:
    """A sender that gave up waiting has delivered nothing, also when the receiver wakes up."""
    # On a busy machine a call may be given up before it has reached the receiver.
    while not receiver.counts.abandoned:
        receiver.hang()
        impatient = exporter_of_spans(receiver, plain_wire, exporters, timeout=0.3)
        assert "FAILURE" == impatient.export(finished_spans).name
        impatient.shutdown()
        # A gRPC server hears of it by itself, a little later; over HTTP it looks when it wakes up.
        if plain_wire.protocol != "grpc":
            receiver.hang(False)
        receiver.wait_for(lambda: receiver.counts.abandoned, timeout_s=2)
    receiver.hang(False)

    assert () == receiver.spans
    exporter = exporter_of_spans(receiver, plain_wire, exporters)
    assert "SUCCESS" == exporter.export(finished_spans).name
    exporter.shutdown()
    assert 3 == len(receiver.spans)


def test_a_patient_sender_is_served_when_the_receiver_wakes_up(
    receiver: OtlpReceiver, plain_wire: Any, finished_spans: Any, exporters
) -> None:
    """A slow receiver loses nothing."""
    receiver.hang()
    exporter = exporter_of_spans(receiver, plain_wire, exporters)
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(exporter.export, finished_spans)
        assert not receiver.wait_for(lambda: receiver.spans, timeout_s=0.2)
        receiver.hang(False)
        assert "SUCCESS" == result.result().name
    exporter.shutdown()

    assert ReceiverCounts(accepted=1) == receiver.counts


def test_closing_lets_waiting_senders_go(plain_wire: Any, finished_spans: Any, exporters: Callable[..., Any]) -> None:
    """Nobody is left waiting for a receiver that is gone."""
    with OtlpReceiver() as receiver:
        receiver.hang()
        exporter = exporter_of_spans(receiver, plain_wire, exporters, timeout=2)
        with ThreadPoolExecutor(1) as thread:
            result = thread.submit(exporter.export, finished_spans)
            assert not receiver.wait_for(lambda: receiver.spans, timeout_s=0.2)
            receiver.close()
            assert "FAILURE" == result.result().name
        exporter.shutdown()

    assert () == receiver.spans


def test_a_receiver_can_come_back_on_the_same_port(
    plain_wire: Any, finished_spans: Any, exporters: Callable[..., Any]
) -> None:
    """One exporter sends before, loses while away, and sends again after a restart of what it sends to."""
    with OtlpReceiver() as first:
        exporter = exporter_of_spans(first, plain_wire, exporters, timeout=2)
        ports = {"http_port": int(first.http_endpoint.rpartition(":")[2])}
        if plain_wire.protocol == "grpc":
            ports["grpc_port"] = int(first.grpc_endpoint.rpartition(":")[2])
        results = [exporter.export(finished_spans)]
    results.append(exporter.export(finished_spans))
    with OtlpReceiver(**ports) as second:
        # A gRPC channel that failed waits before it connects again.
        while exporter.export(finished_spans).name != "SUCCESS":
            pass
    exporter.shutdown()

    assert ["SUCCESS", "FAILURE"] == [result.name for result in results]
    assert (3, 3) == (len(first.spans), len(second.spans))


@pytest.mark.parametrize("option", ["http_port", "grpc_port"])
def test_a_taken_port_is_refused(receiver: OtlpReceiver, option: str) -> None:
    """Asking for a port that is in use fails at once, and leaves nothing behind."""
    taken = int(receiver.http_endpoint.rpartition(":")[2])

    with pytest.raises(OSError, match=r"in use|cannot listen"):
        OtlpReceiver(**{option: taken})


def test_memory_is_bounded_and_what_is_forgotten_is_counted(
    finished_spans: Any, make_wire: Callable[..., Any], exporters: Callable[..., Any]
) -> None:
    """The newest records stay."""
    with OtlpReceiver(max_items=4) as receiver:
        exporter = exporter_of_spans(receiver, make_wire("http/protobuf"), exporters)
        for _ in range(6):
            exporter.export(finished_spans)
        exporter.shutdown()

    assert ["third", "first", "second", "third"] == [span.name for span in receiver.spans]
    assert ReceiverCounts(accepted=6, overflowed_records=14, overflowed_requests=2) == receiver.counts
    assert 4 == len(receiver.raw)


def test_raw_bodies_are_bounded_by_their_bytes(
    finished_spans: Any, make_wire: Callable[..., Any], exporters: Callable[..., Any]
) -> None:
    """A few large requests must not fill the memory where many small ones would not."""
    with OtlpReceiver(max_raw_bytes=1) as receiver:
        exporter = exporter_of_spans(receiver, make_wire("http/protobuf"), exporters)
        for _ in range(3):
            exporter.export(finished_spans)
        exporter.shutdown()

    assert (1, 2, 9) == (len(receiver.raw), receiver.counts.overflowed_requests, len(receiver.spans))


def test_waiting_ends_with_what_is_waited_for(
    receiver: OtlpReceiver, plain_wire: Any, finished_spans: Any, exporters: Callable[..., Any]
) -> None:
    """A waiting thread is woken by the request that makes its question true."""
    exporter = exporter_of_spans(receiver, plain_wire, exporters)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(receiver.wait_for, lambda: len(receiver.spans) >= 6, 60)
        exporter.export(finished_spans)
        exporter.export(finished_spans)
        assert waiting.result()
    exporter.shutdown()


def test_waiting_ends_with_the_time_or_the_receiver() -> None:
    """What does not come is not waited for beyond the time given, nor beyond the receiver's end."""
    with OtlpReceiver() as receiver:
        assert not receiver.wait_for(lambda: False, timeout_s=0)
        closing = threading.Timer(0.1, receiver.close)
        closing.start()
        assert not receiver.wait_for(lambda: False, timeout_s=60)
        closing.join()
        assert receiver.wait_for(lambda: True, timeout_s=0)


def test_clearing_forgets_what_has_arrived(
    receiver: OtlpReceiver, plain_wire: Any, start_sdk: Callable[..., Any]
) -> None:
    """A test may start from nothing; what comes after that is there."""
    sdk = start_sdk(receiver, plain_wire)
    counter = sdk.metrics.get_meter("test").create_counter("count")
    counter.add(1)
    sdk.flush()
    receiver.clear()
    assert ((), (), ReceiverCounts()) == (receiver.points(), receiver.raw, receiver.counts)

    counter.add(1)
    sdk.flush()
    assert 2 == receiver.total("count")


def test_what_has_arrived_stays_readable_after_closing(
    plain_wire: Any, finished_spans: Any, exporters: Callable[..., Any]
) -> None:
    """Closing twice is closing once, and questions are answered after it; only a new port is not opened."""
    with OtlpReceiver() as receiver:
        exporter = exporter_of_spans(receiver, plain_wire, exporters)
        exporter.export(finished_spans)
        exporter.shutdown()
    receiver.close()

    assert 3 == len(receiver.spans)
    if plain_wire.protocol == "http/protobuf":
        with pytest.raises(RuntimeError, match="closed"):
            _ = receiver.grpc_endpoint


def test_a_forked_child_does_not_take_the_receiver_with_it(
    receiver: OtlpReceiver, make_wire: Callable[..., Any], finished_spans: Any, exporters: Callable[..., Any]
) -> None:
    """A child that leaves the with block closes its own hold on the port only."""
    child = os.fork()
    if child == 0:
        try:
            receiver.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    exporter = exporter_of_spans(receiver, make_wire("http/protobuf"), exporters)
    assert "SUCCESS" == exporter.export(finished_spans).name
    exporter.shutdown()


def test_totals_add_up_processes_under_both_temporalities(
    receiver: OtlpReceiver, plain_wire: Any, start_sdk: Callable[..., Any]
) -> None:
    """Two instances count for themselves; cumulative values are not added to their own past, deltas are."""
    for instance in ("one", "two"):
        for name, options in (
            ("cumulative", {}),
            ("delta", {"metrics": {"preferred_temporality": {Counter: AggregationTemporality.DELTA}}}),
        ):
            sdk = start_sdk(receiver, plain_wire, instance=instance, **options)
            counter = sdk.metrics.get_meter("test").create_counter(name)
            for value in (1, 2, 4):
                counter.add(value, {"parity": "odd" if value % 2 else "even"})
                assert sdk.metrics.force_flush()

    assert (14, 14) == (receiver.total("cumulative"), receiver.total("delta"))
    assert (2, 12) == tuple(receiver.total("cumulative", {"parity": parity}) for parity in ("odd", "even"))
    assert [1, 6, 1, 6] == [point.value for point in receiver.latest("cumulative")]
    assert {"cumulative"} == {point.temporality for point in receiver.points("cumulative", parity="even")}


def test_only_what_is_used_is_loaded() -> None:
    """Neither pytest nor the SDK is needed, and gRPC, which threads and forks badly, only when asked for."""
    code = """if True:
        import sys
        from crucible_otel.testing import FakeClock
        loaded = [[name for name in ("google.protobuf", "grpc", "pytest") if name in sys.modules]]
        from crucible_otel.testing import OtlpReceiver
        with OtlpReceiver() as receiver:
            loaded.append([name for name in ("grpc", "opentelemetry.sdk", "pytest") if name in sys.modules])
            receiver.grpc_endpoint
            loaded.append([name for name in ("grpc", "opentelemetry.sdk", "pytest") if name in sys.modules])
        print(loaded)
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)

    assert ("[[], [], ['grpc']]\n", "", 0) == (done.stdout, done.stderr, done.returncode)


def test_the_metric_exporter_sees_success(receiver: OtlpReceiver, wire: Any, exporters: Callable[..., Any]) -> None:
    """An empty metrics request is a request too."""
    spans, metrics, logs = exporters(receiver, wire)
    assert MetricExportResult.SUCCESS is metrics.export(MetricsData(resource_metrics=[]))
    for exporter in (spans, metrics, logs):
        exporter.shutdown()

    assert ReceiverCounts(accepted=1) == receiver.counts
