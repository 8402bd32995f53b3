"""Each device once per host: whoever holds a device's lock file reports it, the other processes only themselves.

The kernel lets go of the lock when its holder ends, however it ends, and the next process that asks has it. The lock is
of the process (POSIX), not of the open file: a forked child does not have it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Ownership", "runtime_folder"]

_FOLDER: Final = "crucible_otel"


class Ownership:
    """The locks of this process.

    Args:
        folder: Where the lock files are; None where there is no place that only this user may write. Then, and where
            the system has no such locks, every process reports every device: twice is better than not at all.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder if fcntl is not None else None
        self._held: dict[str, int] = {}

    def owns(self, uuid: str) -> bool:
        """Whether this process reports the device: it does already, or nobody else does any more."""
        if self._folder is None or uuid in self._held:
            return True
        try:
            file = os.open(
                self._folder / f"{uuid.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError:
            return True
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._held[uuid] = file
        return True

    def release(self, uuids: Iterable[str] | None = None) -> None:
        """Let others report these devices, or all."""
        for uuid in list(self._held) if uuids is None else list(uuids):
            file = self._held.pop(uuid, None)
            if file is not None:
                os.close(file)

    def forget(self) -> None:
        """In a forked child: the locks are the parent's, and closing the files here leaves them so."""
        self.release()


def runtime_folder() -> Path | None:
    """Return a folder of mode 0700 that belongs to this user; None when there is none to be had."""
    if not hasattr(os, "getuid"):  # pragma: no cover - not on Windows
        return None
    user = os.getuid()
    places = (
        (os.environ.get("XDG_RUNTIME_DIR", ""), _FOLDER),
        (f"/run/user/{user}", _FOLDER),
        (tempfile.gettempdir(), f"{_FOLDER}-{user}"),
    )
    for place, name in places:
        if place and os.path.isdir(place):
            folder = Path(place) / name
            if _is_private(folder, user):
                return folder
    return None


def _is_private(folder: Path, user: int) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077
    return False
