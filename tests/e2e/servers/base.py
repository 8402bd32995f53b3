"""What all servers have in common: a process, a log, a moment when they are ready, an end."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from tests.conftest import CONFIGURES

GIVE_UP_S: Final = 60.0
"""What anything may take on a busy machine before a test gives up on it; no promise of anything."""

_POLL_S: Final = 0.05
_STOPS_S: Final = 20.0
# Below the range from which the system gives ports away by itself.
_PORTS: Final = range(20_000, 32_000)
_GIVEN: Final[set[int]] = set()
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_Answer = TypeVar("_Answer")


def get(url: str) -> str:
    """Fetch a page of this machine, past any proxy.

    Raises:
        urllib.error.HTTPError: When the answer is not a good one.
        OSError: When nobody answers.
    """
    with _DIRECT.open(url, timeout=30) as response:
        return str(response.read().decode())


def get_json(url: str) -> Any:
    """Fetch a page of this machine and parse it as JSON."""
    return json.loads(get(url))


def until(
    ask: Callable[[], _Answer], what: str, timeout_s: float = GIVE_UP_S, wanted: Callable[[_Answer], object] = bool
) -> _Answer:
    """Ask until the answer is as wanted, and return it; one that comes as an ``OSError`` is not.

    Args:
        ask: The question.
        what: What is waited for, for the error.
        timeout_s: When to give up.
        wanted: Says of an answer whether it will do; without it a true one does.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        last: object
        try:
            last = answer = ask()
            if wanted(answer):
                return answer
        except OSError as error:
            last = error
        assert time.monotonic() < deadline_s, f"{what}: after {timeout_s:g} s still {last!r:.2000}"
        time.sleep(_POLL_S)


def free_ports(count: int) -> list[int]:
    """Return so many neighbouring ports of loopback that nobody has, nor was given before: he may not listen yet."""
    while True:
        first = random.SystemRandom().choice(_PORTS)
        ports = list(range(first, first + count))
        if not _GIVEN.isdisjoint(ports):
            continue
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        _GIVEN.update(ports)
        return ports


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a server: no proxy, nothing that configures telemetry, and what is given."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not CONFIGURES.fullmatch(name)
    }
    return {**kept, **(more or {})}


class Server(ABC):
    """A real server in a process of its own, on loopback; as a context manager it runs inside the block.

    Args:
        command: The program and its arguments.
        folder: For its files; made when it is not there.
        environ: Environment variables besides those of the tests.

    Attributes:
        folder: Its files, kept over a restart.
        log: What it wrote, of all its lives.
    """

    def __init__(self, command: Sequence[str | Path], folder: Path, environ: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / f"{type(self).__name__.lower()}.log"
        self.log.touch()
        self._command = [str(part) for part in command]
        self._environ = environment(environ)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it takes requests; an ``OSError`` means no."""

    @property
    def log_text(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        assert not self.is_running, "it runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environ, cwd=self.folder
            )
        try:
            until(self._is_ready_or_dead, f"{type(self).__name__} becomes ready")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int | None:
        """Ask it to end, as an operator does (SIGTERM), and return its exit status; None when it did not run."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.terminate()
        try:
            return process.wait(_STOPS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def kill(self) -> None:
        """End it as a crash does (SIGKILL): it has no time to save anything."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Start it again at the same addresses with the same files, stopping it first when it runs."""
        self.stop()
        self.start()

    def _is_ready_or_dead(self) -> bool:
        assert self.is_running, f"{' '.join(self._command)} ended at once:\n{self.log_text}"
        return self.is_ready()
