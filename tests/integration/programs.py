"""Programs of their own processes: what is under test runs as a user's script does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from crucible_otel.testing import OtlpReceiver

ROOT = Path(__file__).parents[2]
GIVE_UP_S = 60.0
"""What a program may take on a busy machine before the test gives up on it; no promise of anything."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended.

    Attributes:
        code: Exit status; negative for a signal.
        output: What it printed, line by line.
        errors: What it wrote to standard error, line by line: the log.
        at_s: When its end was seen, by the clock that ``time.monotonic()`` reads in the program too.
    """

    code: int
    output: list[str]
    errors: list[str]
    at_s: float

    @property
    def ours(self) -> list[str]:
        """What the package had to say."""
        return [line for line in self.errors if line.startswith(("telemetry", "crucible_otel"))]


class Program:
    """A script in a process of its own.

    Args:
        source: The script; indented as the test is.
        environ: Environment variables besides the test's own.
    """

    def __init__(self, source: str, environ: Mapping[str, str] | None = None) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source)],
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(environ or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kill()
        _, errors = self._process.communicate()
        if error is not None and errors:
            sys.stderr.write(errors)  # pytest shows it with the failure

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def line(self) -> str:
        """Wait for its next line of output and return it; empty when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def until(self, text: str) -> str:
        """Read its output up to a line that has this in it, and return that line."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if text in line:
                return line.rstrip("\n")
        raise AssertionError(f"it ended without saying {text!r}")

    def say(self, text: str = "") -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> Ended:
        """Wait for its end."""
        code, at_s = None, 0.0
        try:
            # Its few lines fit into the pipes; they are read after the moment of its end is noted.
            code = self._process.wait(GIVE_UP_S)
            at_s = time.monotonic()
        except subprocess.TimeoutExpired:
            self._kill()
        output, errors = self._process.communicate()
        assert code is not None, f"still running after {GIVE_UP_S} s\n{output}\n{errors}"
        return Ended(code=code, output=output.splitlines(), errors=errors.splitlines(), at_s=at_s)

    def _kill(self) -> None:
        """End what is left of it, its children too: they hold its pipes open."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def run(source: str, environ: Mapping[str, str] | None = None, *, code: int = 0) -> Ended:
    """Run a script to its end, which must be this one."""
    with Program(source, environ) as program:
        ended = program.end()
    assert code == ended.code, "\n".join([*ended.output, *ended.errors])
    return ended


def sending_to(receiver: OtlpReceiver, **more: str) -> dict[str, str]:
    """Return the environment of a program that sends to a receiver and serves Prometheus on any free port."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
        **more,
    }
