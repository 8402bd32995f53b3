"""Kind ``jsonl``: every event as one line of strict JSON, appended to a file by a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from crucible_otel.errors import ConfigurationError
from crucible_otel.events.handler import BuiltHandler
from crucible_otel.events.sanitize import json_text, plain
from crucible_otel.handlers._append import AppendFile
from crucible_otel.handlers._background import Background

__all__ = ["ID", "JsonlHandler", "make"]

ID: Final = "crucible-kitchen-jsonl"

_log: Final = logging.getLogger(__name__)

_DIGITS: Final = {"seconds": 0, "milliseconds": 3, "microseconds": 6, "nanoseconds": 9}
_NAMES: Final = ("canonical", "seed")
_QUEUE_SIZE: Final = 65_536
_QUEUE_BYTES: Final = 64 * 1_024 * 1_024
_PAUSE_EVERY: Final = 64
_PAUSE_S: Final = 20e-6

_SHORT: Final = 256
_FEW: Final = 64
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1

_Waiting = tuple[int, str, Mapping[str, Any], Mapping[str, Any]]


def make(
    *,
    path: str | os.PathLike[str] | None = None,
    names: Literal["canonical", "seed"] = "canonical",
    precision: Literal["seconds", "milliseconds", "microseconds", "nanoseconds"] = "seconds",
    queue_size: int = _QUEUE_SIZE,
    clock_ns: Callable[[], int] = time.time_ns,
) -> BuiltHandler:
    """Make a handler that writes every event to a file.

    A line is ``{"timestamp":"2024-01-15T10:30:00Z","event":...,"measurements":{...},"metadata":{...}}``. The file is
    created with its parent directories at the first event, readable by its owner alone, and appended to.

    Args:
        path: The file; a relative one is resolved now, ``~`` is the home directory.
        names: Whether events carry canonical names or the seed's.
        precision: Resolution of the timestamps.
        queue_size: How many events may wait for the disk; more are dropped, counted and said once.
        clock_ns: Unix time in nanoseconds.

    Raises:
        ConfigurationError: An option that cannot be used; above all a missing path.
    """
    file = _path(path)
    if names not in _NAMES:
        raise ConfigurationError("names", names, f"one of: {', '.join(_NAMES)}")
    if precision not in tuple(_DIGITS):  # not the map itself: what was given may have no hash
        raise ConfigurationError("precision", precision, f"one of: {', '.join(_DIGITS)}")
    if type(queue_size) is not int or queue_size < 1:
        raise ConfigurationError("queue_size", queue_size, "a whole number of at least 1")
    if not callable(clock_ns):
        raise ConfigurationError("clock_ns", clock_ns, "a function that returns Unix nanoseconds")
    handler = JsonlHandler(file, digits=_DIGITS[precision], queue_size=queue_size, clock_ns=clock_ns)
    return BuiltHandler(
        id=ID, handle=handler, flush=handler.flush, close=handler.close, dropped=handler.lost, names=names
    )


def _path(path: object) -> str:
    accepted = "the path of a file to append to (the jsonl handler cannot do without)"
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError("path", path, accepted)
    text = os.fsdecode(path)
    if not text or "\0" in text or text.endswith(os.sep):
        raise ConfigurationError("path", path, accepted)
    try:
        full = os.path.abspath(os.path.expanduser(text))
        directory = os.path.isdir(full)
    except OSError as error:
        raise ConfigurationError("path", path, f"{accepted}: {error.strerror}") from error
    if directory:
        raise ConfigurationError("path", path, f"{accepted}, not a directory")
    return full


class JsonlHandler:
    """The handler itself; see :func:`make`.

    An event of short plain values waits as it is and is encoded by the writing thread. Any other is encoded at once:
    its values may change, or hold memory, a graph or a file, by the time the thread comes to it.
    """

    def __init__(self, path: str, *, digits: int, queue_size: int, clock_ns: Callable[[], int]) -> None:
        self._path, self._digits, self._clock_ns = path, digits, clock_ns
        self._second = (-1, "")
        self._file = AppendFile(path)
        self._queue: Background[_Waiting | bytes] = Background(
            self._write, name="crucible-otel-jsonl", size=queue_size, forget=self._forget
        )
        self._forget()

    def __call__(
        self, event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any], config: object = None
    ) -> None:
        """Accept an event, or count it as dropped when too many wait; never waits for the disk."""
        now_ns = self._clock_ns()
        if type(event) is str and _simple(measurements) and _simple(metadata):
            self._queue.offer((now_ns, event, dict(measurements), dict(metadata)))
            return
        line = self._line((now_ns, str(plain(event)), _map(measurements), _map(metadata)))
        with self._sizes:
            fits = self._waiting_bytes + len(line) <= _QUEUE_BYTES
            self._waiting_bytes += len(line) if fits else 0
            self._oversize += not fits
        if fits and not self._queue.offer(line):
            self._release(len(line))

    def status(self) -> dict[str, int]:
        """Return how many events were ``written``, ``dropped`` before the queue and ``failed`` at the file."""
        return {"written": self._written, "dropped": self._queue.dropped + self._oversize, "failed": self._failed}

    def lost(self) -> int:
        """Return how many events are not in the file and will not be."""
        status = self.status()
        return status["dropped"] + status["failed"]

    def flush(self, timeout_s: float) -> bool:
        """Write what was accepted; False when the time ran out."""
        return self._queue.flush(timeout_s)

    def close(self) -> None:
        """Write what was accepted and end the thread; gives up on a file that takes nothing."""
        if not self._queue.close():
            _log.warning("%s did not take all events in time", self._path)
            return  # the thread may still be in the middle of a write
        self._file.close()

    def _forget(self) -> None:
        self._file.close()
        self._sizes = threading.RLock()
        self._waiting_bytes = self._written = self._failed = self._oversize = 0
        self._said: set[str] = set()

    def _release(self, size: int) -> None:
        with self._sizes:
            self._waiting_bytes -= size

    def _write(self, batch: list[_Waiting | bytes]) -> None:
        lines = []
        for number, item in enumerate(batch):
            if isinstance(item, bytes):
                lines.append(item)
                self._release(len(item))
                continue
            lines.append(self._line(item))
            if number % _PAUSE_EVERY == _PAUSE_EVERY - 1:
                time.sleep(_PAUSE_S)  # the training thread else waits a whole switch interval for the GIL
        written = self._file.append(lines)
        self._written += written
        self._failed += len(lines) - written
        if written < len(lines):
            self._once("failed", "cannot write events to %s (%s): they are lost, training goes on", self._file.error)
        dropped = self._queue.dropped + self._oversize
        if dropped:
            self._once("dropped", "too many events wait for %s: %s dropped so far, training goes on", dropped)

    def _once(self, what: str, message: str, detail: object) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning(message, self._path, detail)

    def _line(self, waiting: _Waiting) -> bytes:
        time_ns, event, measurements, metadata = waiting
        seconds, fraction = divmod(time_ns, 1_000_000_000)
        point = f".{fraction:09d}"[: self._digits + 1] if self._digits else ""
        known, second = self._second
        if seconds != known:
            second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            self._second = (seconds, second)
        record = {
            "timestamp": f"{second}{point}Z",
            "event": event,
            "measurements": measurements,
            "metadata": metadata,
        }
        return (json_text(record) + "\n").encode()


def _simple(values: object) -> bool:
    """Tell whether the values are few, short and immutable, and stand in JSON as they are."""
    if type(values) is not dict or len(values) > _FEW:
        return False
    for key, value in values.items():
        if type(key) is not str or not 0 < len(key) <= _SHORT:
            return False
        kind = type(value)
        if kind is str:
            if len(value) > _SHORT:
                return False
        elif kind is int:
            if not _INT_MIN <= value <= _INT_MAX:
                return False
        elif kind is not float and kind is not bool and value is not None:
            return False
    return True


def _map(values: object) -> dict[str, Any]:
    result = plain(values)
    return result if isinstance(result, dict) else {} if result is None else {"value": result}
