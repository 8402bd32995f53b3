"""Append whole lines to a file that others may append to, rotate, remove or fill up."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Final

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["AppendFile"]

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
_PRIVATE: Final = 0o600
_LOOK_EVERY_S: Final = 1.0


class AppendFile:
    """Appends batches of lines, each batch by one write under an advisory lock, so that no line is ever torn.

    The file is opened at the first write, with its parent directories, readable by its owner alone; it is opened anew
    when it was moved or removed meanwhile. Used by one thread at a time.

    Attributes:
        error: Why the last batch was not written in full.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._looked_at_s = 0.0
        self._end = 0
        self.error: Exception | None = None

    def append(self, lines: Sequence[bytes]) -> int:
        """Append lines, each with its newline.

        Returns:
            How many of them are in the file, whole; fewer than given when the disk is full or the file unusable.
        """
        data = memoryview(b"".join(lines))
        written = 0
        self.error = None
        try:
            descriptor = self._open()
            with _exclusive(descriptor):
                try:
                    if os.fstat(descriptor).st_size != self._end:  # somebody else wrote, or it is newly opened
                        _end_torn_line(descriptor, self._path)
                    while written < len(data):
                        written += _write(descriptor, data[written:])
                    self._end = os.fstat(descriptor).st_size
                except OSError:
                    whole = bytes(data[:written]).rfind(b"\n") + 1
                    _cut(descriptor, written - whole)
                    written = whole
                    raise
        except (OSError, ValueError) as error:
            self.error = error
            self.close()
            return bytes(data[:written]).count(b"\n")
        return len(lines)

    def close(self) -> None:
        """Close the file; a later append opens it again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor is not None and self._moved(self._descriptor):
            self.close()
        if self._descriptor is None:
            parent = os.path.dirname(self._path)
            if parent:
                os.makedirs(parent, exist_ok=True)
            self._descriptor = os.open(self._path, _FLAGS, _PRIVATE)
            self._end = 0
        return self._descriptor

    def _moved(self, descriptor: int) -> bool:
        now = monotonic()
        if now - self._looked_at_s < _LOOK_EVERY_S:  # on a network file system every look is a request
            return False
        self._looked_at_s = now
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(descriptor))
        except OSError:
            return True


def _write(descriptor: int, data: memoryview) -> int:
    count = os.write(descriptor, data)
    if count == 0:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return count


@contextlib.contextmanager
def _exclusive(descriptor: int) -> Iterator[None]:
    """Hold the advisory lock that all writers of this package take; where there is none, appending is atomic enough."""
    locked = False
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
    try:
        yield
    finally:
        if locked:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)


def _end_torn_line(descriptor: int, path: str) -> None:
    """Begin a new line where a writer died within one: else its rest would spoil ours too."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
    except OSError:  # we may append but not read
        return
    if torn:
        _write(descriptor, memoryview(b"\n"))


def _cut(descriptor: int, torn: int) -> None:
    """Take back the beginning of a line that found no room, unless somebody wrote behind it."""
    with contextlib.suppress(OSError):
        end = os.fstat(descriptor).st_size
        if torn and end == os.lseek(descriptor, 0, os.SEEK_CUR):
            os.ftruncate(descriptor, end - torn)
