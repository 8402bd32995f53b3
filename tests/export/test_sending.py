"""Requests that are written already, sent by the SDK's exporters to a real receiver."""

from __future__ import annotations

import functools
import gzip
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from crucible_otel.config.settings import Settings
from crucible_otel.export.chunk import Batch
from crucible_otel.export.delivery import Delivery, LogDelivery, SpanDelivery
from crucible_otel.export.encode_logs import log_body, log_encoder
from crucible_otel.export.encode_spans import span_body, span_encoder
from crucible_otel.export.otlp import build_log_delivery, build_span_delivery
from crucible_otel.export.pace import PAUSE_S, Pace, Paced
from crucible_otel.export.quiet import Quiet
from crucible_otel.export.sending import byte_sender
from crucible_otel.export.session import PausingSession
from crucible_otel.export.tally import Counts, Ledger
from crucible_otel.testing import OtlpReceiver
from tests.e2e.relay import Relay

RESOURCE = Resource({"service.name": "test"})
SCOPE, OTHER_SCOPE = InstrumentationScope("test"), InstrumentationScope("other")
PROTOCOLS = ("http/protobuf", "grpc")


def span(name: str, scope: InstrumentationScope = SCOPE, **attributes: Any) -> ReadableSpan:
    """Make a span of the SDK."""
    context = SpanContext(1, 2, False)
    return ReadableSpan(
        name, context, resource=RESOURCE, attributes=attributes, start_time=1, end_time=2, instrumentation_scope=scope
    )


def record(name: str) -> ReadableLogRecord:
    """Make a log record of the SDK."""
    return ReadableLogRecord(LogRecord(event_name=name, observed_timestamp=1), RESOURCE, SCOPE)


class Foreign:
    """Of no class that the SDK's encoder knows: what arrives of it has been sent as bytes."""

    resource, instrumentation_scope = RESOURCE, SCOPE

    def __init__(self, name: str) -> None:
        self.name = name

    def readable(self) -> Any:
        return span(f"readable {self.name}")


class ForeignSpan(Foreign):
    def otlp_body(self) -> bytes:
        return span_body(span(self.name))


class ForeignLog(Foreign):
    def otlp_body(self) -> bytes:
        return log_body(record(self.name))


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Receive OTLP."""
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def said() -> list[str]:
    """What the ledger says."""
    return []


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hear what the exporters say, as a pipeline does."""
    noise = Quiet()
    noise.install()
    yield
    noise.remove()


def endpoint(receiver: OtlpReceiver, protocol: str) -> str:
    """Return where it listens."""
    return receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint


def settings(endpoint: str, protocol: str, **given: Any) -> Settings:
    """Resolve settings as configure() would."""
    return Settings(endpoint=endpoint, protocol=protocol, **given).resolve(os.environ)


def delivery(receiver: OtlpReceiver, protocol: str, said: list[str], **given: Any) -> SpanDelivery:
    """Build a delivery of spans."""
    return build_span_delivery(settings(endpoint(receiver, protocol), protocol, **given), Ledger(said.append))


def bodies(receiver: OtlpReceiver) -> list[bytes]:
    """Return what arrived, unpacked."""
    return [
        gzip.decompress(raw.body) if raw.headers.get("content-encoding") == "gzip" else raw.body for raw in receiver.raw
    ]


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_arrives_is_what_was_written(protocol: str, compression: str, receiver: OtlpReceiver) -> None:
    """To the byte, with headers, over both protocols, of both signals, items of the SDK and others together."""
    given = settings(endpoint(receiver, protocol), protocol, compression=compression, headers={"X-Team": "ml"})
    ledger = Ledger()
    spans, logs = [span("a"), ForeignSpan("b")], [record("a"), ForeignLog("b")]
    deliveries: list[tuple[Delivery, list[Any]]] = [
        (build_span_delivery(given, ledger), spans),
        (build_log_delivery(given, ledger), logs),
    ]
    for each, items in deliveries:
        assert "SUCCESS" == each.export(items).name  # type: ignore[attr-defined]
        each.shutdown()
    assert [span_encoder().encode(spans).data, log_encoder().encode(logs).data] == bodies(receiver)
    assert ["traces", "logs"] == [raw.signal for raw in receiver.raw]
    assert ["ml", "ml"] == [raw.headers["x-team"] for raw in receiver.raw]
    assert ["a", "b"] == [each.name for each in receiver.spans]
    assert ["a", "b"] == [each.event_name for each in receiver.logs]
    assert [Counts(delivered=2)] * 2 == [tally.counts for tally in ledger.tallies]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_are_compressed_on_the_wire_when_asked(
    protocol: str, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a setting as by the SDK's variable."""
    text = "x" * 20_000
    sent = []
    for setting, variable in (("none", None), ("gzip", None), (None, "gzip")):
        if variable is not None:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", variable)
        with Relay(endpoint(receiver, protocol)) as wire:
            sender = build_span_delivery(
                settings(wire.url, protocol, **({"compression": setting} if setting else {})), Ledger()
            )
            sender.export([span("a", text=text), ForeignSpan("b")])  # type: ignore[list-item]
            sender.shutdown()
            sent.append(wire.sent)
    assert [True, False, False] == [len(each) > len(text) for each in sent]
    assert ["a", "b"] * 3 == [each.name for each in receiver.spans]
    assert [text] * 3 == [each.attributes["text"] for each in receiver.spans if each.name == "a"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_are_sent_again_as_the_sdk_sends_again(protocol: str, receiver: OtlpReceiver, said: list[str]) -> None:
    """After an answer that says so; over gRPC on a connection that is made anew."""
    receiver.fail_next(1, status=503)
    sender = delivery(receiver, protocol, said)
    items: Any = [ForeignSpan("a")]
    assert SpanExportResult.SUCCESS is sender.export(items)
    assert SpanExportResult.SUCCESS is sender.export(items)
    sender.shutdown()
    assert [span_encoder().encode(items).data] * 3 == bodies(receiver)
    assert ([503, 200, 200], ["a", "a"]) == (
        [raw.status for raw in receiver.raw],
        [each.name for each in receiver.spans],
    )
    assert (Counts(delivered=2), []) == (sender.tally.counts, said)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_that_is_too_large_is_written_again_in_halves(protocol: str, said: list[str]) -> None:
    """Each half is a request of its own; nothing is lost, the order stays."""
    items: Any = [ForeignSpan(f"span {number:03}") for number in range(50)]
    with OtlpReceiver(max_body_bytes=1_000) as receiver:
        sender = delivery(receiver, protocol, said)
        sender.export(items)
        sender.shutdown()
        assert [item.name for item in items] == [each.name for each in receiver.spans]
    assert (Counts(delivered=50), []) == (sender.tally.counts, said)


def test_what_the_exporter_itself_finds_too_large_is_cut_too(receiver: OtlpReceiver, said: list[str]) -> None:
    """It refuses before it sends; not all versions have such a limit."""
    sender = delivery(receiver, "http/protobuf", said)
    if not hasattr(sender.exporter, "_max_request_size"):
        pytest.skip("the exporter of this version has no limit")
    sender.exporter._max_request_size = 1_000
    sender.export([ForeignSpan(str(number)) for number in range(50)])  # type: ignore[misc]
    sender.shutdown()
    assert (50, Counts(delivered=50)) == (len(receiver.spans), sender.tally.counts)
    assert 1_000 >= max(map(len, bodies(receiver)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_rejected_part_and_one_that_cannot_be_written_are_counted(
    protocol: str, receiver: OtlpReceiver, said: list[str]
) -> None:
    """Each of them once; what is left has arrived."""
    lost: list[tuple[str, str, int]] = []
    ledger = Ledger(said.append, on_lost=lambda *what: lost.append(what))
    sender = build_span_delivery(settings(endpoint(receiver, protocol), protocol), ledger)
    receiver.reject_next(items=2)
    assert SpanExportResult.FAILURE is sender.export([span("a"), span("\ud800"), span("b"), span("c")])
    assert SpanExportResult.FAILURE is sender.export([span("\ud800")])
    sender.shutdown()
    assert Counts(delivered=1, failed=4) == sender.tally.counts
    assert [("traces", "export_failed", 1), ("traces", "partial_success", 2), ("traces", "export_failed", 1)] == lost
    assert 1 == len(receiver.raw)  # an empty request is not sent
    assert "rejected the rest" in said[0]


def test_what_cannot_be_written_is_told(receiver: OtlpReceiver, said: list[str]) -> None:
    """With what to change."""
    delivery(receiver, "http/protobuf", said).export([span("a"), span("\ud800")])
    assert 1 == len(said)
    assert "cannot be written as OTLP; keep halves of surrogate pairs out of names" in said[0]
    assert "Dropped so far: 1 span." in said[0]


def test_a_forked_child_sends_bytes_over_its_own_connection(receiver: OtlpReceiver, said: list[str]) -> None:
    """The exporter that is made anew takes them, too."""
    sender = delivery(receiver, "http/protobuf", said)
    sender.export([ForeignSpan("parent")])  # type: ignore[list-item]
    child = os.fork()
    if child == 0:
        os._exit(0 if sender.export([ForeignSpan("child")]) is SpanExportResult.SUCCESS else 1)  # type: ignore[list-item]
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ["parent", "child"] == [each.name for each in receiver.spans]


class Changed(SpanExporter):
    """An exporter that asks the message for more than its bytes, as those of a later version may."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def export(self, spans: Any) -> SpanExportResult:
        message = encode_spans(spans)
        self.sizes.append(len(message.resource_spans[0].scope_spans[0].spans))
        return SpanExportResult.SUCCESS


class Wrapped(InMemorySpanExporter):
    """One whose export is not the SDK's function itself."""

    @functools.wraps(InMemorySpanExporter.export)
    def _export(self, spans: Any) -> SpanExportResult:
        return InMemorySpanExporter.export(self, spans)

    export = functools.partialmethod(_export)  # type: ignore[assignment]


def ours(exporter: Any) -> SpanDelivery:
    """Deliver through an exporter as if it was ours."""
    return SpanDelivery(exporter, tally=Ledger().open("traces", "there"), ledger=Ledger(), rebuild=lambda: exporter)


def test_an_exporter_of_a_later_version_gets_objects_when_it_wants_more_than_bytes() -> None:
    """From the first batch on, which is not lost."""
    exporter = Changed()
    assert byte_sender(exporter) is not None
    sender = ours(exporter)
    for number in (1, 2):
        assert SpanExportResult.SUCCESS is sender.export([ForeignSpan("a"), *[span("b")] * number])  # type: ignore[list-item]
    assert ([2, 3], Counts(delivered=5)) == (exporter.sizes, sender.tally.counts)


@pytest.mark.parametrize("kind", [InMemorySpanExporter, Wrapped])
def test_an_exporter_with_another_inside_gets_objects(kind: type[InMemorySpanExporter]) -> None:
    """Of the SDK's class, whatever they were."""
    exporter = kind()
    assert None is byte_sender(exporter)
    batch: Any = (span("a"), ForeignSpan("b"))
    assert SpanExportResult.SUCCESS is ours(exporter).export(batch)
    assert ["a", "readable b"] == [each.name for each in exporter.get_finished_spans()]


def test_a_users_exporter_gets_objects(receiver: OtlpReceiver) -> None:
    """One of the SDK's own class is still the user's, who may look at what it exports."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    users = OTLPSpanExporter(f"{receiver.http_endpoint}/v1/traces")
    given = Settings(span_exporter=users).resolve(os.environ)
    build_span_delivery(given, Ledger()).export([ForeignSpan("b")])  # type: ignore[list-item]
    assert ["readable b"] == [each.name for each in receiver.spans]


@pytest.mark.parametrize(("kind", "expected"), [(PausingSession, memoryview), (requests.Session, bytes)])
def test_only_a_session_of_ours_is_given_memory_to_look_at(
    receiver: OtlpReceiver, kind: type[requests.Session], expected: type
) -> None:
    """That of a provider of credentials may sign what it sends."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    given: list[object] = []

    class Noting(kind):  # type: ignore[misc, valid-type]
        def request(self, *args: Any, **kwargs: Any) -> Any:
            given.append(kwargs["data"])
            return super().request(*args, **kwargs)

        def post(self, *args: Any, **kwargs: Any) -> Any:  # what older exporters call
            return self.request("POST", *args, **kwargs)

    send = byte_sender(OTLPSpanExporter(f"{receiver.http_endpoint}/v1/traces", session=Noting()))
    assert send is not None
    send(memoryview(bytes(span_encoder().encode([span("a")]).data)), 1)
    assert ([expected], ["a"]) == (list(map(type, given)), [each.name for each in receiver.spans])


@pytest.mark.parametrize(("scopes", "pauses"), [([SCOPE, SCOPE], 1), ([SCOPE, OTHER_SCOPE], 2)])
def test_a_request_is_sent_after_a_pause(
    receiver: OtlpReceiver, scopes: list[InstrumentationScope], pauses: int
) -> None:
    """And joined after another where it is not written in one piece: neither lets other threads run for a while."""
    paused: list[float] = []
    batch = Batch(Pace(lambda: 0.0, paused.append))
    batch.extend([span(scope.name, scope) for scope in scopes])
    given = Settings(endpoint=receiver.http_endpoint).resolve(os.environ)
    build_span_delivery(given, Ledger()).export(batch)
    assert ([PAUSE_S] * pauses, 2) == (paused, len(receiver.spans))


def test_a_users_exporter_gets_a_list_that_pauses_while_it_is_read() -> None:
    """Of the SDK's spans; it may keep it."""
    taken: list[Any] = []

    class Keeps(InMemorySpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            taken.append(spans)
            return super().export(spans)

    tally = Ledger().open("traces", "there")
    sender = SpanDelivery(Keeps(), tally=tally, ledger=Ledger())
    mixed: list[Any] = [span("a"), ForeignSpan("b")]
    sender.export(mixed)
    assert ([Paced], ["a", "readable b"]) == ([type(each) for each in taken], [each.name for each in taken[0]])
    assert isinstance(mixed[1], ForeignSpan)


def test_log_records_of_another_class_reach_a_users_exporter_as_the_sdks() -> None:
    """As spans do."""

    class Log(ForeignLog):
        def readable(self) -> Any:
            return record("readable")

    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter

    exporter = InMemoryLogRecordExporter()
    sender = LogDelivery(exporter, tally=Ledger().open("logs", "there"), ledger=Ledger())
    sender.export([record("a"), Log("b")])  # type: ignore[list-item]
    assert ["a", "readable"] == [each.log_record.event_name for each in exporter.get_finished_logs()]
