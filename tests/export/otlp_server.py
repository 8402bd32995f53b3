"""Small OTLP servers on loopback ports, which answer as a test wants."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

WAIT_S = 20.0


class Received:
    """What a server has received."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.spans: list[tuple[str, dict[str, Any]]] = []
        self.logs: list[str] = []

    def names(self) -> list[str]:
        return sorted(name for name, _ in self.spans)

    def until(self, condition: Callable[[Received], bool]) -> bool:
        deadline = time.monotonic() + WAIT_S
        while not condition(self) and time.monotonic() < deadline:
            time.sleep(0.01)
        return condition(self)

    def take_spans(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            resource = {each.key: _value(each.value) for each in group.resource.attributes}
            self.spans += [(span.name, resource) for scope in group.scope_spans for span in scope.spans]

    def take_logs(self, request: ExportLogsServiceRequest) -> None:
        for group in request.resource_logs:
            self.logs += [record.event_name for scope in group.scope_logs for record in scope.log_records]


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


@contextmanager
def http_server(status: int = 200, headers: dict[str, str] | None = None) -> Iterator[Received]:
    """Serve OTLP over HTTP, always with this status."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if status == 200 and self.path.endswith("/v1/traces"):
                received.take_spans(ExportTraceServiceRequest.FromString(body))
            if status == 200 and self.path.endswith("/v1/logs"):
                received.take_logs(ExportLogsServiceRequest.FromString(body))
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    received.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def grpc_server(code: grpc.StatusCode | None = None) -> Iterator[Received]:
    """Serve OTLP over gRPC; with a code, refuse every request with it."""
    received = Received()

    def answer(request: Any, context: Any, take: Callable[[Any], None], response: Any) -> Any:
        received.requests.append(("grpc", dict(context.invocation_metadata())))
        if code is not None:
            context.abort(code, "no; your token was sk-secret")
        take(request)
        return response

    class Traces(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            return answer(request, context, received.take_spans, ExportTraceServiceResponse())

    class Logs(LogsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            return answer(request, context, received.take_logs, ExportLogsServiceResponse())

    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(Traces(), server)
    add_LogsServiceServicer_to_server(Logs(), server)
    received.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield received
    finally:
        server.stop(0).wait()


@contextmanager
def hung_server() -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def closed_port() -> Iterator[str]:
    """Hold a port on which nobody listens: connections are refused, and nobody else can be given it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"
