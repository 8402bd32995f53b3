"""A wire with somebody listening: a TCP relay on loopback that keeps what the client sent."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from types import TracebackType
from urllib.parse import urlsplit

_CHUNK = 65_536


class Relay:
    """Passes connections on to a server; as a context manager it runs inside the block.

    Args:
        url: Where to, as ``http://host:port``.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, url: str) -> None:
        there = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        self._sent: list[bytes] = []
        sent = self._sent

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(there) as server:
                    back = threading.Thread(target=_pass_on, args=(server, self.request, []), daemon=True)
                    back.start()
                    _pass_on(self.request, server, sent)
                    back.join()

        class Listening(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Listening(("127.0.0.1", 0), Connection)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def sent(self) -> bytes:
        """What clients have sent so far, connection by connection as it came."""
        return b"".join(self._sent)

    def __enter__(self) -> Relay:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _pass_on(source: socket.socket, target: socket.socket, kept: list[bytes]) -> None:
    """Copy until the source ends or either breaks, and tell the target that nothing more comes."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            kept.append(data)
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
