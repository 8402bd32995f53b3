"""OTLP over gRPC, below the SDK's exporters."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from crucible_otel.testing import OtlpReceiver, ReceiverCounts

Export = Callable[..., bytes]


def caller(receiver: OtlpReceiver) -> tuple[grpc.Channel, Export]:
    """Return a channel and a function that exports bytes as they are."""
    channel = grpc.insecure_channel(receiver.grpc_endpoint.removeprefix("http://"))
    return channel, channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")


@pytest.fixture
def export(receiver: OtlpReceiver) -> Iterator[Export]:
    """A function that exports bytes as they are."""
    channel, function = caller(receiver)
    with channel:
        yield function


def test_success_is_an_empty_response_message(receiver: OtlpReceiver, export: Export) -> None:
    """As the protocol wants it."""
    request = ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[Span(name="a")])])]
    )
    answer = export(request.SerializeToString(), timeout=30)

    assert ExportTraceServiceResponse() == ExportTraceServiceResponse.FromString(answer)
    assert ["a"] == [span.name for span in receiver.spans]


def test_a_malformed_message_is_refused_and_counted(receiver: OtlpReceiver, export: Export) -> None:
    """It is an invalid argument, not an error of the receiver."""
    with pytest.raises(grpc.RpcError) as refused:
        export(b"\xff\xff no protobuf", timeout=30)

    assert grpc.StatusCode.INVALID_ARGUMENT is refused.value.code()
    assert "no export request for traces" in refused.value.details()
    assert ReceiverCounts(malformed=1) == receiver.counts
    assert [(400, b"\xff\xff no protobuf")] == [(raw.status, raw.body) for raw in receiver.raw]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_that_is_too_large_is_refused(compression: grpc.Compression) -> None:
    """The limit holds for the message after decompression."""
    with OtlpReceiver(max_body_bytes=1_000) as receiver:
        channel, export = caller(receiver)
        with channel, pytest.raises(grpc.RpcError) as refused:
            export(bytes(100_000), timeout=30, compression=compression)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is refused.value.code()
    assert () == receiver.spans


CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    418: grpc.StatusCode.UNKNOWN,
}


@pytest.mark.parametrize(("status", "code"), CODES.items(), ids=map(str, CODES))
def test_a_planned_failure_becomes_a_status_code(
    receiver: OtlpReceiver, export: Export, status: int, code: grpc.StatusCode
) -> None:
    """One number plans a failure for both protocols."""
    receiver.fail_next(status=status)
    with pytest.raises(grpc.RpcError) as refused:
        export(b"", timeout=30)

    assert (code, []) == (refused.value.code(), list(refused.value.trailing_metadata()))
    assert [status] == [raw.status for raw in receiver.raw]


def test_a_planned_failure_says_when_to_come_back(receiver: OtlpReceiver, export: Export) -> None:
    """In the details of the status, where the standard has it, and where the Python exporter looks."""
    receiver.fail_next(status=429, retry_after=1.25)
    with pytest.raises(grpc.RpcError) as refused:
        export(b"", timeout=30)

    trailer = dict(refused.value.trailing_metadata())
    status = Status.FromString(trailer["grpc-status-details-bin"])
    in_details, in_trailer = RetryInfo(), RetryInfo.FromString(trailer["google.rpc.retryinfo-bin"])
    assert status.details[0].Unpack(in_details)
    assert (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], 1.25, 1.25) == (
        status.code,
        in_details.retry_delay.ToTimedelta().total_seconds(),
        in_trailer.retry_delay.ToTimedelta().total_seconds(),
    )


def give_up_calls(receiver: OtlpReceiver, export: Export, number: int) -> None:
    """Make calls that nobody waits for until the receiver has counted so many.

    On a busy machine a call may be given up before it has reached the receiver.
    """
    while receiver.counts.abandoned < number:
        with pytest.raises(grpc.RpcError) as refused:
            export(b"", timeout=0.05)
        assert grpc.StatusCode.DEADLINE_EXCEEDED is refused.value.code()


def test_a_call_that_is_given_up_frees_its_place(receiver: OtlpReceiver, export: Export) -> None:
    """A receiver that hangs for long does not run out of threads for callers that have left."""
    receiver.hang()
    give_up_calls(receiver, export, 20)
    receiver.hang(False)

    export(b"", timeout=30)
    assert receiver.counts.accepted


def test_a_call_that_is_given_up_is_noticed_while_the_receiver_hangs(receiver: OtlpReceiver, export: Export) -> None:
    """It is counted when its caller leaves, not when the receiver wakes up."""
    receiver.hang()
    give_up_calls(receiver, export, 1)
