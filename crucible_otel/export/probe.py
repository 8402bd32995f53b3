"""Finding out what listens at an endpoint that hangs up on us without a word.

A gRPC server cuts an HTTP connection, and a TLS server a plain one, at times so fast that its hint is lost.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies

from crucible_otel.export.causes import WANTS_GRPC, WANTS_TLS, Cause

__all__ = ["what_listens"]

_TIMEOUT_S = 1.0
# HTTP/2's connection preface and an empty SETTINGS frame. A server of HTTP/2 sends a SETTINGS frame of its own first:
# three bytes of length, the type, flags, and stream 0.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HEADER_BYTES = 9
_SETTINGS = 4


def what_listens(endpoint: str, protocol: str) -> Cause | None:
    """Look what listens at an endpoint; takes two seconds at most, sends nothing of the user's.

    Args:
        endpoint: Where we export to.
        protocol: How: ``http/protobuf`` or ``grpc``.

    Returns:
        The cause why it does not answer, None when it cannot be told.
    """
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    if not host or getproxies():
        return None
    http = protocol == "http/protobuf"
    with suppress(OSError):
        if parts.scheme == "https":
            return WANTS_GRPC if http and _speaks_tls(host, port, "h2") == "h2" else None
        if http and _speaks_http2(host, port):
            return WANTS_GRPC
        return WANTS_TLS if _speaks_tls(host, port) is not None else None
    return None


def _speaks_http2(host: str, port: int) -> bool:
    with socket.create_connection((host, port), _TIMEOUT_S) as connection:
        connection.sendall(_PREFACE)
        head = b""
        while len(head) < _HEADER_BYTES and (more := connection.recv(_HEADER_BYTES - len(head))):
            head += more
    return len(head) == _HEADER_BYTES and head[3] == _SETTINGS and not any(head[5:])


def _speaks_tls(host: str, port: int, *alpn: str) -> str | None:
    """Shake hands; return the protocol agreed on, empty for none, or None when the server does not speak TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent after the handshake: who it is does not matter.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn or ("h2", "http/1.1")))
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=host) as wrapped,
        ):
            return wrapped.selected_alpn_protocol() or ""
    except ssl.SSLError:
        return None
