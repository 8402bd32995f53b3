"""The embedded OTLP receiver, in a process of its own: what it costs to receive is not what is measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.environment import child


@contextmanager
def receiving() -> Iterator[str]:
    """Receive OTLP/HTTP elsewhere; gives the endpoint."""
    command, options = child("-m", "benchmarks.receiver")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(10)


def _receive() -> None:
    from crucible_otel.testing import OtlpReceiver

    with OtlpReceiver(max_items=1000, max_raw_bytes=0) as receiver:
        print(receiver.http_endpoint, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _receive()
