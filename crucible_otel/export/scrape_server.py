"""The HTTP endpoint that Prometheus scrapes."""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from crucible_otel.errors import ConfigurationError
from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.fork import in_child

_logger = logging.getLogger(__name__)

_PORTS_TRIED: Final = 100
_LAST_PORT: Final = 65_535
_ANY: Final = {"": "localhost", "0.0.0.0": "localhost", "::": "localhost"}


class _Handler(WSGIRequestHandler):
    timeout = 30  # of a client that says nothing

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing; the standard library prints."""

    def address_string(self) -> str:
        return str(self.client_address[0])


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # Some Python versions share ports between HTTP servers: two ranks on one port, each scraped half of the time.
    allow_reuse_port = False

    def server_bind(self) -> None:
        # HTTPServer asks the DNS for this machine's name, which can take seconds, for a variable nobody reads.
        if self.address_family == socket.AF_INET6 and self.server_address[0] == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    timeout = 0  # handle_request() does not wait: what it handles is there

    def serve_until(self, bell: socket.socket) -> None:
        """Answer requests until the bell can be read.

        ``serve_forever`` looks only every half second whether it is to end, for so long would every program's exit
        wait.
        """
        with bell, selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(bell, selectors.EVENT_READ)
            while bell not in [key.fileobj for key, _ in selector.select()]:
                self.handle_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _logger.debug("a scrape from %s broke off", client_address)


class ScrapeServer:
    """Serves a registry over HTTP.

    The port is taken at once, so that what is wrong with it shows at set-up; requests are answered after
    :meth:`start`. A forked child closes its copy of the socket: the endpoint stays the parent's.

    Args:
        registry: What is served.
        host: Name or address of an interface.
        port: Where to begin; a port that is taken leads to the next free one. 0 for any.
        local_rank: Added to ``port`` unless that is 0.
        faults: Where failed scrapes are counted.

    Attributes:
        url: Where the metrics are, or None when no port was free.

    Raises:
        ConfigurationError: The host is not of this machine, or the port cannot be used.
    """

    def __init__(
        self, registry: CollectorRegistry, host: str, port: int, local_rank: int, *, faults: FaultCounter
    ) -> None:
        if not 0 <= port <= _LAST_PORT:
            raise ConfigurationError("prometheus_port", port, f"0 (any free port) to {_LAST_PORT}")
        self._faults = faults
        self._thread: threading.Thread | None = None
        wanted = port + local_rank if port else 0
        self._server = _listen(host, wanted)
        self.url: str | None = None
        if self._server is None:
            _logger.warning(
                "Prometheus ports %s to %s on %s are all taken; metrics cannot be scraped",
                wanted, min(wanted + _PORTS_TRIED - 1, _LAST_PORT), host,
            )  # fmt: skip
            return
        shown = _ANY.get(host, host)
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{self._server.server_port}/metrics"
        if wanted and self._server.server_port != wanted:
            _logger.warning("Prometheus port %s on %s is taken; serving at %s", wanted, host, self.url)
        self._server.set_app(_never_raising(make_wsgi_app(registry), faults))
        in_child(self._after_fork)

    def start(self) -> None:
        """Answer requests from now on."""
        if self._server is None or self._thread is not None:
            return
        self._bell, heard = socket.socketpair()
        self._thread = threading.Thread(
            target=self._server.serve_until, args=(heard,), name="CrucibleOtelPrometheus", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering and give the port back; may be called again."""
        server, self._server, self.url = self._server, None, None
        if server is None:
            return
        if self._thread is not None:
            self._bell.send(b"!")  # closing it would not do: a forked child may hold the other copy
            self._thread.join(timeout=1.0)
            self._bell.close()
        server.server_close()

    def _after_fork(self) -> None:
        server, thread = self._server, self._thread
        self._server = self._thread = self.url = None
        if server is not None:
            server.socket.close()
        if thread is not None:
            self._bell.close()


def _listen(host: str, wanted: int) -> _Server | None:
    addresses = _addresses(host)
    ports = range(wanted, min(wanted + _PORTS_TRIED, _LAST_PORT + 1)) if wanted else (0,)
    refusal: OSError | None = None
    for port in ports:
        for family, address in addresses:
            try:
                return _bound(family, address, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    break
                refusal = error
        else:
            break
    if refusal is None:
        if not ports:
            raise ConfigurationError("prometheus_port", wanted, f"port and local rank together at most {_LAST_PORT}")
        return None
    if refusal.errno in (errno.EACCES, errno.EPERM):
        raise ConfigurationError("prometheus_port", wanted, "a port that this user may open") from refusal
    raise ConfigurationError("prometheus_host", host, _HOSTS) from refusal


def _bound(family: int, address: str, port: int) -> _Server:
    class Server(_Server):
        address_family = family

    return Server((address, port), _Handler)


def _addresses(host: str) -> list[tuple[int, str]]:
    """Return what a host resolves to, IPv4 first: a scraper that is given ``127.0.0.1`` must find ``localhost``."""
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError("prometheus_host", host, _HOSTS) from error
    pairs = dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)
    return sorted(pairs, key=lambda pair: pair[0] != socket.AF_INET)


_HOSTS: Final = "a name or address of this machine, such as localhost, 0.0.0.0 or ::"


def _never_raising(app: Callable[..., Iterable[bytes]], faults: FaultCounter) -> Callable[..., Iterable[bytes]]:
    """Answer 503 where the application raises; wsgiref would print a traceback into the program's output."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except Exception as error:
            faults.note(type(error).__name__, "a scrape failed", error)
            start_response("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"metrics could not be collected; the program's log says why\n"]

    return answer
