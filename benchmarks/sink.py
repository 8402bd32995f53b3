"""A process that reads OTLP/HTTP requests, finds them good and does nothing else with them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from benchmarks.environment import child


@contextmanager
def sink() -> Iterator[str]:
    """Have one beside this process; gives its endpoint."""
    command, options = child("-m", "benchmarks.sink")
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class _Reader(BaseHTTPRequestHandler):
    """Reads a request and finds it good."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), _Reader) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
