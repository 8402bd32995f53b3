"""OTLP over HTTP with protobuf bodies."""

from __future__ import annotations

import os
import re
import selectors
import socket
import socketserver
import sys
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from google.rpc.status_pb2 import Status

from crucible_otel.testing.inbox import Answer, Inbox, Request
from crucible_otel.testing.records import Signal

__all__ = ["HttpServer"]

PATHS: Final[dict[str, Signal]] = {"/v1/traces": "traces", "/v1/metrics": "metrics", "/v1/logs": "logs"}
CONTENT_TYPE: Final = "application/x-protobuf"
_LENGTH: Final = re.compile("[0-9]{1,18}")
_CHUNK_BYTES: Final = 65_536
_JOIN_TIMEOUT_S: Final = 1.0


class HttpServer:
    """Listens on a loopback port, a thread for each connection.

    Args:
        inbox: Where requests go.
        port: The port; 0 for any free one.
    """

    def __init__(self, inbox: Inbox, port: int = 0) -> None:
        self._server = _Server(("127.0.0.1", port), inbox)
        self._owner_pid = os.getpid()
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="otlp-receiver-http", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening and cut the connections that are open."""
        if os.getpid() == self._owner_pid:
            self._server.shutdown()
            self._thread.join()
            self._server.cut_connections()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], inbox: Inbox) -> None:
        self.inbox = inbox
        self._connections_lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._cut = False
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would look the host's name up, which can take seconds without a name server.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", int(self.server_address[1])

    def add_connection(self, connection: socket.socket) -> None:
        with self._connections_lock:
            self._connections[connection] = threading.current_thread()
            if self._cut:
                _cut(connection)

    def remove_connection(self, connection: socket.socket) -> None:
        with self._connections_lock:
            self._connections.pop(connection, None)

    def cut_connections(self) -> None:
        """End all connections: kept-alive ones would outlive the listening socket and go on being served."""
        # A forked child holds the listening socket too; shutting it down frees the port all the same.
        _cut(self.socket)
        with self._connections_lock:
            self._cut = True
            threads = list(self._connections.values())
            for connection in self._connections:
                _cut(connection)
        for thread in threads:
            thread.join(_JOIN_TIMEOUT_S)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A sender that goes away in mid-sentence is what a test may be about, not an error of the receiver.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "crucible-otel"
    sys_version = ""
    server: _Server
    # Header and body leave in one segment at once: no wait for a delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.server.add_connection(self.connection)

    def finish(self) -> None:
        self.server.remove_connection(self.connection)
        super().finish()

    def do_POST(self) -> None:
        given = self.headers.get("Content-Length", "")
        if not _LENGTH.fullmatch(given):
            self._reject(HTTPStatus.BAD_REQUEST if given else HTTPStatus.LENGTH_REQUIRED, "a Content-Length is needed")
            return
        length = int(given)
        if length > self.server.inbox.max_body_bytes:
            self._discard(length)
            self._reject(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
            return
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            self.server.inbox.reject()
            return
        signal = PATHS.get(self.path)
        if signal is None:
            self._reject(HTTPStatus.NOT_FOUND, f"unknown path; accepted: {', '.join(PATHS)}", keep_alive=True)
        elif self.headers.get_content_type() != CONTENT_TYPE:
            self._reject(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"accepted: {CONTENT_TYPE}", keep_alive=True)
        else:
            self._answer(
                self.server.inbox.receive(
                    Request(
                        signal=signal,
                        protocol="http/protobuf",
                        headers={name.lower(): value for name, value in self.headers.items()},
                        body=body,
                        encoding=self.headers.get("Content-Encoding", "").strip().lower(),
                        sender_is_there=self._sender_is_there,
                    )
                )
            )

    def do_GET(self) -> None:
        self._reject(HTTPStatus.METHOD_NOT_ALLOWED, "accepted: POST")

    do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = do_GET

    def handle_expect_100(self) -> bool:
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def _reject(self, status: HTTPStatus, message: str, *, keep_alive: bool = False) -> None:
        self.server.inbox.reject()
        self.close_connection = self.close_connection or not keep_alive
        self._answer(Answer(status=status, message=message))

    def _answer(self, answer: Answer) -> None:
        # A refusal carries a Status (OTLP specification, "Failures").
        refused = answer.status != HTTPStatus.OK
        body = Status(message=answer.message).SerializeToString() if refused else answer.body
        self.send_response(answer.status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        if answer.retry_after_s is not None:
            self.send_header("Retry-After", f"{answer.retry_after_s:g}")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _discard(self, length: int) -> None:
        # A sender that is still writing when the connection closes would see a reset instead of the answer.
        left = min(length, self.server.inbox.max_body_bytes + 16 * _CHUNK_BYTES)
        while left > 0 and (chunk := self.rfile.read(min(left, _CHUNK_BYTES))):
            left -= len(chunk)

    def _sender_is_there(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            if not selector.select(0):
                return True
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: what arrived can be asked of the receiver."""
