"""OTLP over HTTP, byte by byte."""

from __future__ import annotations

import gzip
import http.client
import socket
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from crucible_otel.testing import OtlpReceiver, ReceiverCounts

MIB = 1024 * 1024
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def traces(*spans: Span) -> bytes:
    """Return the body of a request that carries these spans."""
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])]
    ).SerializeToString()


@pytest.fixture
def connection(receiver: OtlpReceiver) -> Iterator[HTTPConnection]:
    """A connection to the receiver."""
    opened = HTTPConnection(receiver.http_endpoint.removeprefix("http://"), timeout=30)
    yield opened
    opened.close()


def post(
    connection: HTTPConnection, body: bytes, path: str = "/v1/traces", **headers: str
) -> tuple[int, bytes, http.client.HTTPResponse]:
    """Send one request and read its answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", path, body, {**PROTOBUF, **named})
    response = connection.getresponse()
    return response.status, response.read(), response


def test_success_is_an_empty_response_message_on_a_connection_that_stays(
    receiver: OtlpReceiver, connection: HTTPConnection
) -> None:
    """One connection serves many requests; the answers are what the protocol wants."""
    for _ in range(3):
        status, body, response = post(connection, traces(Span(name="one")))
        kept = connection.sock
        assert (200, "application/x-protobuf") == (status, response.headers["Content-Type"])
        assert ExportTraceServiceResponse() == ExportTraceServiceResponse.FromString(body)
        assert kept is not None

    assert kept is connection.sock
    assert 3 == len(receiver.spans)


MALFORMED = {
    "noise": ("/v1/traces", b"\xff\xff no protobuf", ""),
    "cut short": ("/v1/traces", traces(Span(name="a longer name"))[:-3], ""),
    "text that is not UTF-8": ("/v1/traces", traces(Span(name="XX")).replace(b"XX", b"\xff\xfe"), ""),
    "trace id of 5 bytes": ("/v1/traces", traces(Span(trace_id=b"12345")), ""),
    "unknown span kind": ("/v1/traces", traces(Span(kind=17)), ""),  # type: ignore[arg-type]
    "negative span kind": ("/v1/traces", traces(Span(kind=-1)), ""),  # type: ignore[arg-type]
    "span id of 16 bytes": (
        "/v1/logs",
        ExportLogsServiceRequest(
            resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=[LogRecord(span_id=b"x" * 16)])])]
        ).SerializeToString(),
        "",
    ),
    "another signal's noise": ("/v1/metrics", b"\x0a\x03abc", ""),
    "no gzip": ("/v1/traces", b"plain", "gzip"),
    "gzip cut short": ("/v1/traces", gzip.compress(traces(Span(name="x")))[:-4], "gzip"),
    "gzip with noise behind it": ("/v1/traces", gzip.compress(traces(Span(name="x"))) + b"noise", "gzip"),
    "gzip that is called deflate": ("/v1/traces", gzip.compress(traces(Span(name="x"))), "deflate"),
}


@pytest.mark.parametrize(("path", "body", "encoding"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_body_is_refused_and_counted(
    receiver: OtlpReceiver, connection: HTTPConnection, path: str, body: bytes, encoding: str
) -> None:
    """It is answered 400 with a Status message, nothing of it is kept, and the connection goes on."""
    status, answer, _ = post(connection, body, path, Content_Encoding=encoding)
    assert 400 == status
    assert "" != Status.FromString(answer).message
    assert ReceiverCounts(malformed=1) == receiver.counts

    post(connection, traces(Span(name="good")))
    assert ["good"] == [span.name for span in receiver.spans]
    assert [(400, body), (200, traces(Span(name="good")))] == [(raw.status, raw.body) for raw in receiver.raw]


REJECTED = {
    "unknown path": (404, "/v1/profiles", {}),
    "JSON": (415, "/v1/traces", {"Content-Type": "application/json"}),
    "no type": (415, "/v1/traces", {"Content-Type": ""}),
    "unknown encoding": (415, "/v1/traces", {"Content-Encoding": "br"}),
}


@pytest.mark.parametrize(("status", "path", "headers"), REJECTED.values(), ids=REJECTED)
def test_what_otlp_does_not_have_is_refused(
    receiver: OtlpReceiver, connection: HTTPConnection, status: int, path: str, headers: dict[str, str]
) -> None:
    """The refusal names what is accepted, and the connection goes on."""
    answered, answer, _ = post(connection, traces(Span()), path, **headers)
    assert status == answered
    assert "accepted" in Status.FromString(answer).message

    assert 200 == post(connection, traces(Span()))[0]
    assert ReceiverCounts(accepted=1, rejected=1) == receiver.counts


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_other_methods_are_refused(receiver: OtlpReceiver, connection: HTTPConnection, method: str) -> None:
    """Only POST exports."""
    connection.request(method, "/v1/traces", headers=PROTOBUF)

    assert 405 == connection.getresponse().status
    assert ReceiverCounts(rejected=1) == receiver.counts


LENGTHS = {
    "none": (411, b""),
    "negative": (400, b"Content-Length: -1\r\n"),
    "no number": (400, b"Content-Length: many\r\n"),
    "too large to read": (413, b"Content-Length: 999999999999999999\r\n"),
    "too large to be a number": (400, b"Content-Length: " + b"9" * 5_000 + b"\r\n"),
}


@pytest.mark.parametrize(("status", "header"), LENGTHS.values(), ids=LENGTHS)
def test_a_body_needs_a_length_that_can_be(receiver: OtlpReceiver, status: int, header: bytes) -> None:
    """Without one the request is refused and the connection closed."""
    host, port = receiver.http_endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n")
        raw.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))

    assert f"HTTP/1.1 {status} ".encode() == answer[: len("HTTP/1.1 ... ")]
    assert ReceiverCounts(rejected=1) == receiver.counts


def test_a_sender_that_leaves_in_mid_body_is_counted(receiver: OtlpReceiver, capfd: pytest.CaptureFixture[str]) -> None:
    """Half a body is no request, and no reason to print anything."""
    host, port = receiver.http_endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")

    assert receiver.wait_for(lambda: receiver.counts.rejected)
    assert ("", "") == tuple(capfd.readouterr())


def test_what_unpacks_to_too_much_is_refused_before_it_does() -> None:
    """A small body that would fill the memory is answered 413."""
    with OtlpReceiver(max_body_bytes=MIB) as receiver:
        connection = HTTPConnection(receiver.http_endpoint.removeprefix("http://"), timeout=30)
        bomb = gzip.compress(bytes(64 * MIB))
        two_halves = gzip.compress(bytes(MIB * 3 // 4)) * 2
        answered = [post(connection, body, Content_Encoding="gzip")[0] for body in (bomb, two_halves)]
        answered.append(post(connection, bytes(MIB + 1))[0])
        connection.close()

    assert [413, 413, 413] == answered
    assert ReceiverCounts(rejected=3) == receiver.counts


def test_a_body_in_several_gzip_members_is_one_body(receiver: OtlpReceiver, connection: HTTPConnection) -> None:
    """Gzip streams may be concatenated (RFC 1952)."""
    body = traces(Span(name="in two members"))

    assert 200 == post(connection, gzip.compress(body[:7]) + gzip.compress(body[7:]), Content_Encoding="gzip")[0]
    assert ["in two members"] == [span.name for span in receiver.spans]


def test_a_sender_may_ask_before_it_sends_the_body(receiver: OtlpReceiver) -> None:
    """``Expect: 100-continue``, as curl sends it with a large body, is answered before the body comes."""
    body = traces(Span(name="asked"))
    host, port = receiver.http_endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert raw.recv(65_536).startswith(b"HTTP/1.1 100 ")
        raw.sendall(body)
        assert raw.recv(65_536).startswith(b"HTTP/1.1 200 ")

    assert ["asked"] == [span.name for span in receiver.spans]


def test_a_planned_failure_says_when_to_come_back(receiver: OtlpReceiver, connection: HTTPConnection) -> None:
    """The header has whole seconds as such, and is absent when nothing was said."""
    receiver.fail_next(status=429, retry_after=7)
    receiver.fail_next(status=503, retry_after=0.5)
    receiver.fail_next(status=500)
    answers = [post(connection, b"") for _ in range(4)]

    assert [(429, "7"), (503, "0.5"), (500, None), (200, None)] == [
        (status, response.headers["Retry-After"]) for status, _, response in answers
    ]


@pytest.mark.parametrize(("items", "kept"), [(1, ["a"]), (5, [])])
def test_a_part_of_a_request_can_be_rejected(
    receiver: OtlpReceiver, connection: HTTPConnection, items: int, kept: list[str]
) -> None:
    """The answer is OTLP's partial success with their number and the reason; what is rejected is not kept."""
    receiver.reject_next(items, message="no room")
    status, body, _ = post(connection, traces(Span(name="a"), Span(name="b")))

    partial = ExportTraceServiceResponse.FromString(body).partial_success
    assert (200, 2 - len(kept), "no room") == (status, partial.rejected_spans, partial.error_message)
    assert kept == [span.name for span in receiver.spans]
    assert (200, b"") == post(connection, traces(Span(name="c")))[:2]


def test_closing_cuts_connections_that_were_kept_alive(receiver: OtlpReceiver, connection: HTTPConnection) -> None:
    """A receiver that is gone takes nothing more, also from senders that it knows."""
    post(connection, traces(Span(name="before")))
    receiver.close()

    with pytest.raises(OSError, match=r".*"):
        post(connection, traces(Span(name="after")))
    assert ["before"] == [span.name for span in receiver.spans]
