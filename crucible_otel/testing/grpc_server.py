"""OTLP over gRPC."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from crucible_otel.testing.inbox import Answer, Inbox, Request
from crucible_otel.testing.records import Signal

__all__ = ["GrpcServer"]

_SERVICES: Final[dict[str, Signal]] = {
    trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name: "traces",
    metrics_service_pb2.DESCRIPTOR.services_by_name["MetricsService"].full_name: "metrics",
    logs_service_pb2.DESCRIPTOR.services_by_name["LogsService"].full_name: "logs",
}
# The OTLP specification's pairs first ("Failures"), then those of gRPC's own HTTP mapping.
_CODES: Final[dict[int, grpc.StatusCode]] = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.BAD_GATEWAY: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.UNIMPLEMENTED,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
}
_NANOSECONDS: Final = 1_000_000_000
_WORKERS: Final = 16


class GrpcServer:
    """Listens on a loopback port without encryption.

    Args:
        inbox: Where requests go.
        port: The port; 0 for any free one.

    Raises:
        OSError: When the port is taken.
    """

    def __init__(self, inbox: Inbox, port: int = 0) -> None:
        self._owner_pid = os.getpid()
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="otlp-receiver-grpc")
        self._server = grpc.server(
            self._workers,
            handlers=[
                grpc.method_handlers_generic_handler(
                    # No deserialiser: the inbox wants the bytes, and counts those that cannot be decoded.
                    service,
                    {"Export": grpc.unary_unary_rpc_method_handler(_export(inbox, signal))},
                )
                for service, signal in _SERVICES.items()
            ],
            options=[("grpc.max_receive_message_length", inbox.max_body_bytes), ("grpc.so_reuseport", 0)],
        )
        try:
            self.port: int = self._server.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on port {port}: {error}") from error
        self._server.start()

    def close(self) -> None:
        """Stop listening and end the calls that are open."""
        if os.getpid() != self._owner_pid:
            return
        self._server.stop(grace=None).wait()
        self._workers.shutdown()


def _export(inbox: Inbox, signal: Signal) -> Callable[[bytes, Any], bytes]:
    def export(body: bytes, context: Any) -> bytes:
        context.add_callback(inbox.faults.wake)
        answer = inbox.receive(
            Request(
                signal=signal,
                protocol="grpc",
                headers={name: _text(value) for name, value in context.invocation_metadata()},
                body=body,
                sender_is_there=context.is_active,
            )
        )
        if answer.status != HTTPStatus.OK:
            _abort(context, answer)
        return answer.body

    return export


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.hex()


def _abort(context: Any, answer: Answer) -> None:
    code = _CODES.get(answer.status, grpc.StatusCode.UNKNOWN)
    if answer.retry_after_s is not None:
        seconds, nanos = divmod(round(answer.retry_after_s * _NANOSECONDS), _NANOSECONDS)
        info = RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos))
        detail = AnyMessage()
        detail.Pack(info)
        status = Status(code=code.value[0], message=answer.message, details=[detail])
        context.set_trailing_metadata(
            (
                # The first is the standard's place; the Python exporter reads the second.
                ("grpc-status-details-bin", status.SerializeToString()),
                ("google.rpc.retryinfo-bin", info.SerializeToString()),
            )
        )
    context.abort(code, answer.message)
