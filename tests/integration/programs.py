"""Programs of their own processes: what is under test runs as a user's script does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from crucible_otel.testing import OtlpReceiver

ROOT = Path(__file__).parents[2]
GIVE_UP_S = 60.0
"""What a program may take on a busy machine before the test gives up on it; no promise of anything."""

GRACE_S = 0.5
"""By how much leaving may exceed its timeout on a machine with nothing else to do, as the design has it."""

TRIES = 3
"""How often a duration that is too long is measured again."""

WORK_S = 0.1
"""How much work tells how busy the machine is."""


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
            [sys.executable, "-c", f"import tests.forks\n{textwrap.dedent(source)}"],
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
        _, errors = self._rest()
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
        output, errors = self._rest()
        assert code is not None, f"still running after {GIVE_UP_S} s\n{output}\n{errors}"
        return Ended(code=code, output=output.splitlines(), errors=errors.splitlines(), at_s=at_s)

    def _rest(self) -> tuple[str, str]:
        """Read what is left in its pipes, which end when nobody holds them any more."""
        try:
            return self._process.communicate(timeout=GIVE_UP_S)
        except subprocess.TimeoutExpired as error:
            self._kill()
            raise AssertionError(f"it has ended, and somebody holds its pipes: {_holders(self._process)}") from error

    def _kill(self) -> None:
        """End what is left of it, its children too: they hold its pipes open."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _holders(process: subprocess.Popen[str]) -> list[str]:
    """Return the command lines of those that hold a pipe of a process."""
    pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None and not pipe.closed]
    names = {os.readlink(f"/proc/self/fd/{pipe.fileno()}") for pipe in pipes}
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if names & {os.readlink(held) for held in (each / "fd").iterdir()}:
                command = (each / "cmdline").read_bytes().replace(bytes(1), b" ").decode(errors="replace")
                found.append(f"{each.name}: {command[:200]}")
    return found


def overtime(measure: Callable[[], float], timeout_s: float, grace_s: float = GRACE_S) -> float:
    """Return by how much leaving exceeds its timeout.

    When that is more than it may be, it is measured again, and what exceeds is taken as work: for so much of it as
    others left the processor to us.
    """
    over_s = measure() - timeout_s
    for _ in range(TRIES):
        if over_s < grace_s:
            break
        over_s = min(over_s, (measure() - timeout_s) / _slowness())
    return over_s


def _slowness() -> float:
    """Return how much longer work takes than the processor works on it; 1 on a machine with nothing else to do."""
    begun_s, worked_s = time.perf_counter(), time.process_time()
    while time.process_time() - worked_s < WORK_S:
        pass
    return max(1.0, (time.perf_counter() - begun_s) / (time.process_time() - worked_s))


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
