"""Write lines to a stream that may be a terminal, a pipe nobody reads, closed, or not there at all."""

from __future__ import annotations

import os
import select
import stat
import sys
from typing import Final, Literal, Protocol

__all__ = ["Color", "Stream", "Terminal"]

Color = Literal["auto", "always", "never"]

_PATIENCE_MS: Final = 1_000


class Stream(Protocol):
    """The part of a text stream that is used."""

    def write(self, text: str, /) -> object:
        """Take text."""

    def flush(self) -> object:
        """Pass it on."""


class Terminal:
    """Writes lines to a text stream; never raises, and does not wait for a reader who has stopped reading.

    Args:
        stream: The stream; ``None`` for what ``sys.stdout`` is at the time of each line.
        color: ``auto`` colours only on a terminal, and not where ``NO_COLOR`` is set or ``TERM`` is ``dumb``.
    """

    def __init__(self, stream: Stream | None, color: Color) -> None:
        self._stream, self._color = stream, color
        self._patience_ms = _PATIENCE_MS
        self.dropped = 0

    def line(self, text: str, colored: str) -> None:
        """Write one line and pass it on at once.

        Args:
            text: The line without its end.
            colored: The same with colour.
        """
        try:
            stream = sys.stdout if self._stream is None else self._stream
            if stream is None or not self._ready(stream):
                self.dropped += 1
                return
            line = (colored if self._colored(stream) else text) + "\n"
            try:
                stream.write(line)
            except UnicodeEncodeError:
                encoding = getattr(stream, "encoding", None) or "ascii"
                stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except Exception:
            self.dropped += 1

    def _colored(self, stream: Stream) -> bool:
        if self._color != "auto":
            return self._color == "always"
        isatty = getattr(stream, "isatty", None)
        if isatty is None or not isatty():
            return False
        return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def _ready(self, stream: Stream) -> bool:
        """Tell whether the stream takes a line now.

        A pipe whose reader is gone must not be written to: what stays in the stream's buffer makes the interpreter's
        own flush at exit fail, and the program end with status 120. A reader who stopped gets a second, once.
        """
        if not hasattr(select, "poll"):
            return True
        try:
            descriptor = stream.fileno()  # type: ignore[attr-defined]
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return True
        except Exception:  # a stream that is no file
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        state = dict(poll.poll(self._patience_ms)).get(descriptor, 0)
        if state & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            return False
        self._patience_ms = _PATIENCE_MS if state else 0
        return bool(state)
