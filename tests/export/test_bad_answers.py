"""What a delivery makes of answers that are neither yes nor no: too large, a part only, silence."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import MetricsData

from crucible_otel.config.settings import Settings
from crucible_otel.export.causes import BROKEN, TOO_LARGE, WANTS_GRPC, Answer, Cause, best, classify
from crucible_otel.export.delivery import Delivery, LogDelivery, MetricDelivery, SpanDelivery
from crucible_otel.export.halves import count_points, halves, halves_of_metrics
from crucible_otel.export.otlp import build_log_delivery, build_metric_delivery, build_span_delivery
from crucible_otel.export.probe import what_listens
from crucible_otel.export.quiet import Quiet
from crucible_otel.export.tally import Counts, Ledger
from crucible_otel.testing import OtlpReceiver
from tests.export.otlp_server import closed_port, grpc_server, http_server
from tests.export.test_otlp import log_records, metrics, spans

BUILD: dict[str, tuple[Callable[..., Any], Callable[[int], Any]]] = {
    "traces": (build_span_delivery, spans),
    "metrics": (build_metric_delivery, metrics),
    "logs": (build_log_delivery, log_records),
}
PROTOCOLS = ["http/protobuf", "grpc"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Install the filter."""
    noise = Quiet()
    noise.install()
    yield
    noise.remove()


class Lost:
    """A ledger that keeps what it says and what it is told of losses."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.lost: list[tuple[str, str, int]] = []
        self.now_s = 0.0
        self.ledger = Ledger(self.lines.append, lambda: self.now_s, lambda *loss: self.lost.append(loss))


@pytest.fixture
def said() -> Lost:
    """What the ledger says."""
    return Lost()


def delivery(signal: str, receiver: OtlpReceiver, protocol: str, ledger: Ledger) -> Any:
    """Build the delivery of a signal towards a receiver."""
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    settings = Settings(endpoint=endpoint, protocol=protocol).resolve(os.environ)  # type: ignore[arg-type]
    return BUILD[signal][0](settings, ledger)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("signal", BUILD)
@pytest.mark.parametrize("status", [429, 503])
def test_what_a_server_cannot_take_now_is_tried_again(signal: str, protocol: str, status: int, said: Lost) -> None:
    """Whatever the release of OpenTelemetry makes of the status: it arrives, once, and nothing is said."""
    with OtlpReceiver() as receiver:
        sender = delivery(signal, receiver, protocol, said.ledger)
        receiver.fail_next(status=status, retry_after=0)
        assert "SUCCESS" == sender.export(BUILD[signal][1](2)).name
        sender.shutdown()

    assert (1, 1) == (receiver.counts.accepted, receiver.counts.failed)
    assert [] == said.lines


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("signal", BUILD)
def test_what_a_server_rejects_of_a_batch_is_counted_and_told_once(signal: str, protocol: str, said: Lost) -> None:
    """A partial success: the rest is delivered, nothing is sent again, the server's own words are not repeated."""
    with OtlpReceiver() as receiver:
        sender = delivery(signal, receiver, protocol, said.ledger)
        receiver.reject_next(2, n=2, message="your token sk-secret is too old")
        assert ["FAILURE", "FAILURE", "SUCCESS"] == [sender.export(BUILD[signal][1](5)).name for _ in range(3)]
        sender.shutdown()
        arrived = [*receiver.spans, *receiver.points(), *receiver.logs]

    assert (11, 3) == (len(arrived), receiver.counts.accepted)
    assert (11, 4) == (sender.tally.counts.delivered, sender.tally.counts.failed)
    assert [(signal, "partial_success", 2)] * 2 == said.lost
    (line,) = said.lines
    assert "took some of it and rejected the rest; look into the receiver's own log" in line
    assert "sk-secret" not in line


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("signal", BUILD)
def test_a_remark_without_a_rejection_loses_nothing(signal: str, protocol: str, said: Lost) -> None:
    """OTLP lets a server send a message with a success."""
    with OtlpReceiver() as receiver:
        sender = delivery(signal, receiver, protocol, said.ledger)
        receiver.reject_next(0, message="deprecated")
        sender.export(BUILD[signal][1](3))
        sender.shutdown()

    assert ((3, 0), [], []) == (
        (sender.tally.counts.delivered, sender.tally.counts.failed), said.lines, said.lost
    )  # fmt: skip


def test_an_answer_that_is_no_protobuf_is_a_success(said: Lost) -> None:
    """A proxy may answer 200 with a page."""
    with http_server(200, {"Content-Type": "text/html"}) as received:
        settings = Settings(endpoint=received.endpoint).resolve(os.environ)
        sender = build_span_delivery(settings, said.ledger)
        sender.export(spans(2))
    assert Counts(delivered=2) == sender.tally.counts


def test_a_rejection_of_more_than_was_sent_is_one_of_all(said: Lost) -> None:
    """A server that cannot count does not make our counts wrong."""
    observed: list[object] = []

    class Exporter:
        def export(self, batch: Any) -> bool:
            observed.append(Answer(200, rejected=1_000))
            return True

    tally = said.ledger.open("traces", "http://there")
    sender = SpanDelivery(Exporter(), tally=tally, ledger=said.ledger, observed=observed)
    sender.export(spans(3))
    assert Counts(failed=3) == tally.counts


class Narrow:
    """An exporter to a server that takes so much at once, and refuses some items for good."""

    def __init__(self, most: int, count: Callable[[Any], int] = len, cause: object = TOO_LARGE) -> None:
        self.most, self.count, self.cause = most, count, cause
        self.observed: list[object] = []
        self.taken: list[Any] = []
        self.tries = 0

    def export(self, batch: Any, **_: Any) -> bool:
        self.tries += 1
        if self.count(batch) > self.most:
            self.observed.append(self.cause)
            return False
        self.taken.append(batch)
        return True


def sent(exporter: Narrow, kind: type[Delivery], signal: str, said: Lost, batch: Any) -> Counts:
    """Export a batch through a delivery and return what it counted."""
    tally = said.ledger.open(signal, "http://there")
    kind(exporter, tally=tally, ledger=said.ledger, observed=exporter.observed).export(batch)  # type: ignore[attr-defined]
    return tally.counts


@pytest.mark.parametrize(
    ("kind", "signal", "make"), [(SpanDelivery, "traces", spans), (LogDelivery, "logs", log_records)]
)
@pytest.mark.parametrize("cause", [TOO_LARGE, Answer(413), Answer(400, "http: request body too large")])
def test_a_batch_that_is_too_large_is_cut_until_it_fits(
    kind: type[Delivery], signal: str, make: Callable[[int], list[Any]], cause: object, said: Lost
) -> None:
    """Nothing of it is lost, its order stays, and nothing is said."""
    exporter, batch = Narrow(10, cause=cause), make(37)
    counts = sent(exporter, kind, signal, said, batch)
    assert (37, 0) == (counts.delivered, counts.failed)
    assert batch == [item for piece in exporter.taken for item in piece]
    assert [] == said.lines


def test_a_collection_that_is_too_large_is_cut_between_its_points(said: Lost) -> None:
    """Each point arrives once, in the metric, scope and resource that it belongs to."""
    exporter, collection = Narrow(7, count_points), metrics(30)
    assert Counts(accepted=30, delivered=30) == sent(exporter, MetricDelivery, "metrics", said, collection)
    whole = collection.resource_metrics[0].scope_metrics[0]
    pieces = [piece.resource_metrics[0].scope_metrics[0] for piece in exporter.taken]
    assert list(whole.metrics[0].data.data_points) == [
        point for piece in pieces for metric in piece.metrics for point in metric.data.data_points
    ]
    assert [(whole.scope, whole.metrics[0].name)] * len(pieces) == [
        (each.scope, each.metrics[0].name) for each in pieces
    ]
    assert {collection.resource_metrics[0].resource} == {piece.resource_metrics[0].resource for piece in exporter.taken}


def test_only_the_item_that_is_too_large_by_itself_is_lost(said: Lost) -> None:
    """One giant span does not take its batch with it; it is told with what to change."""
    batch = spans(64)
    giant = batch[41]
    exporter = Narrow(0, lambda piece: int(giant in piece))
    counts = sent(exporter, SpanDelivery, "traces", said, batch)
    assert (63, 1) == (counts.delivered, counts.failed)
    assert "even a single item too large" in said.lines[0]
    assert "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT" in said.lines[0]
    assert [("traces", "export_failed", 1)] == said.lost


def test_the_cutting_is_bounded(said: Lost) -> None:
    """A server that takes nothing at all is asked a number of times that does not grow with the batch."""
    exporter = Narrow(0)
    assert Counts(failed=1_000) == sent(exporter, SpanDelivery, "traces", said, list(range(1_000)))
    assert exporter.tries <= 2 * 32 + 1
    assert 1 == len(said.lines)


def test_another_failure_ends_the_cutting(said: Lost) -> None:
    """Pieces whose server has gone away are not tried one by one, each with its own retries."""
    exporter = Narrow(10)

    def refuse(batch: Any) -> bool:
        exporter.observed.append(ConnectionRefusedError())
        return False

    def export(batch: Any) -> bool:
        arrived = Narrow.export(exporter, batch)
        if arrived:
            exporter.export = refuse  # type: ignore[method-assign, assignment]
        return arrived

    exporter.export = export  # type: ignore[method-assign, assignment]
    counts = sent(exporter, SpanDelivery, "traces", said, spans(40))
    assert (10, 30) == (counts.delivered, counts.failed)
    assert "connection refused" in said.lines[0]


def test_what_cannot_be_cut_is_returned_as_it_is() -> None:
    """A single item, a single point, nothing."""
    assert ([1],) == halves([1])
    one, none = metrics(1), MetricsData([])
    assert (one,) == halves_of_metrics(one)
    assert (none,) == halves_of_metrics(none)


def test_the_definite_cause_wins_over_what_other_tries_saw() -> None:
    """Among the tries of one export; without any, the last one."""
    definite = classify(Answer(401))
    assert definite == best([BROKEN, definite, BROKEN])
    assert classify(ConnectionRefusedError()) == best([BROKEN, classify(ConnectionRefusedError())])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("StatusCode.UNAVAILABLE last error: Custom verification check failed with error: UNAUTHENTICATED: "
         "Hostname Verification Check failed.", "certificate is for another host"),
        ("certificate verify failed: IP address mismatch, certificate is not valid for '1.2.3.4'", "for another host"),
        ("certificate verify failed: unable to get local issuer certificate", "not trusted"),
        ("StatusCode.UNIMPLEMENTED Received http2 header with status: 404", "an HTTP server listens there"),
        ("StatusCode.UNAVAILABLE errors resolving x:1: [address lookup failed: Domain name not found]", "not known"),
        ("SSLError(SSLEOFError(8, 'EOF occurred in violation of protocol'))", "closed without an answer"),
        ("StatusCode.UNAUTHENTICATED the TLS certificate is not one of ours", "refuses our credentials"),
    ],
)  # fmt: skip
def test_what_real_servers_say_is_understood(text: str, reason: str) -> None:
    """The texts that gRPC, OpenSSL and the Collector were seen to give."""
    assert reason in classify((text,)).reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(400, "http: request body too large"), "HTTP 400, the server finds even a single item too large"),
        (Answer(400, "Client sent an HTTP request to an HTTPS server.\n"), "the server speaks TLS only"),
        (Answer(400, "bad"), "HTTP 400, the server rejects the request"),
        (Answer(500, "request body too large"), "HTTP 500, the server failed"),
    ],
)
def test_a_refusals_text_decides_where_its_status_does_not(answer: Answer, reason: str) -> None:
    """The Collector's 400 for a body that is too large, Go's for a plain request to a TLS server."""
    assert reason == classify(answer).reason


def test_one_line_a_minute_for_one_trouble_that_shows_in_several_ways(said: Lost) -> None:
    """A vague cause is not told where another was; a definite one is told after a vague one."""
    vague, definite = BROKEN, WANTS_GRPC
    one, two, three = (said.ledger.open(signal, f"http://there/v1/{signal}") for signal in BUILD)
    said.ledger.complain(one, definite)
    said.ledger.complain(two, vague)
    said.ledger.complain(three, definite)
    assert 1 == len(said.lines)
    said.now_s += 61
    said.ledger.complain(one, vague)
    said.ledger.complain(two, classify(ConnectionRefusedError()))
    said.ledger.complain(three, definite)
    assert ["closed without", "gRPC server"] == [
        next(word for word in ("closed without", "gRPC server") if word in line) for line in said.lines[1:]
    ]


def lose(said: Lost, cause: Cause) -> None:
    """Lose two items of each signal."""
    for signal in BUILD:
        tally = said.ledger.open(signal, f"http://there/v1/{signal}")
        tally.accept(2)
        tally.fail(2, cause)
        said.ledger.complain(tally, cause)


def test_what_is_lost_on_leaving_is_said_once_with_what_to_change(said: Lost) -> None:
    """No warning of the first loss just before the last word; one line for all signals."""
    said.ledger.leaving()
    lose(said, WANTS_GRPC)
    assert [] == said.lines
    assert (
        "telemetry ends with 2 spans, 2 log records, 2 metric points dropped, not delivered to http://there "
        f"({WANTS_GRPC.reason}; {WANTS_GRPC.remedy})" == said.ledger.last_word()
    )


def test_the_last_word_does_not_repeat_what_to_change(said: Lost) -> None:
    """Unless the warning that said so is a minute old."""
    lose(said, WANTS_GRPC)
    assert WANTS_GRPC.remedy not in str(said.ledger.last_word())
    said.now_s += 61
    assert WANTS_GRPC.remedy in str(said.ledger.last_word())


@contextmanager
def hanging_up() -> Iterator[str]:
    """Accept connections and close them at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_what_listens_is_found_out_or_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gRPC server is known by its first frame; of the rest nothing is claimed."""
    with grpc_server() as received:
        assert what_listens(received.endpoint, "http/protobuf") is WANTS_GRPC
        assert what_listens(received.endpoint, "grpc") is None
        monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
        assert what_listens(received.endpoint, "http/protobuf") is None
        monkeypatch.delenv("HTTP_PROXY")
    with http_server() as received:
        assert what_listens(received.endpoint, "http/protobuf") is None
    with hanging_up() as address:
        assert [None] * 4 == [
            what_listens(f"{scheme}://{address}", protocol) for scheme in ("http", "https") for protocol in PROTOCOLS
        ]
    with closed_port() as endpoint:
        assert what_listens(endpoint, "http/protobuf") is None
    assert what_listens("http://a:port", "grpc") is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_hangs_up_is_asked_once(protocol: str, said: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of tries; what cannot be told is told as what it is."""
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr("crucible_otel.export.otlp.what_listens", lambda *which: asked.append(which))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    with hanging_up() as address:
        settings = Settings(endpoint=f"http://{address}", protocol=protocol).resolve(os.environ)  # type: ignore[arg-type]
        sender = build_span_delivery(settings, said.ledger)
        sender.export(spans(1))
    assert 1 == len(asked)
    assert "closed without an answer" in said.lines[0]
