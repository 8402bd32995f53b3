"""Hearing of a signal while the main thread is deep in C code.

Python runs a signal's handler on the main thread, between two bytecodes. A main thread that waits in a collective, a
semaphore or a long kernel gets there late or never: SIGTERM would neither save telemetry nor, with a handler installed
where there was none, end the process any more. What the C level does at once is write a byte to
``signal.set_wakeup_fd``; here a thread reads it.
"""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Wakeup"]

_END = b"\0"


class Wakeup:
    """A thread that is told of every signal that has a Python handler.

    Args:
        heard: Called on that thread with the number of each signal.
    """

    def __init__(self, heard: Callable[[int], object]) -> None:
        self._heard = heard
        self._active = False
        self._forking = 0

    def install(self) -> bool:
        """Take the process's wakeup descriptor, to be done on the main thread.

        Returns:
            False where somebody else, such as an event loop, has it; then it stays theirs.
        """
        if os.name != "posix":
            return False
        self._read_fd, self._fd = _pipe()
        previous = signal.set_wakeup_fd(self._fd, warn_on_full_buffer=False)
        if previous != -1:
            signal.set_wakeup_fd(previous)
            os.close(self._read_fd)
            os.close(self._fd)
            return False
        self._write_fd, self._null_fd = os.dup(self._fd), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._active = True
        self._listen()
        _around_forks(self)
        return True

    def remove(self) -> None:
        """Give the descriptor back; does nothing off the main thread, which alone may do so."""
        if not self._active or threading.current_thread() is not threading.main_thread():
            return
        self._active = False
        present = signal.set_wakeup_fd(-1)
        if present not in (-1, self._fd):
            signal.set_wakeup_fd(present)
        os.write(self._write_fd, _END)
        for fd in (self._fd, self._write_fd, self._null_fd):
            os.close(fd)

    def _listen(self) -> None:
        threading.Thread(
            target=_listen, args=(self._read_fd, self._heard), name="crucible-otel-wakeup", daemon=True
        ).start()

    # The number of the descriptor never changes, since only the main thread could change it; what it refers to does.
    # A child that gets a signal before it runs any Python must not wake its parent's thread.

    def before_fork(self) -> None:
        """Let signals go nowhere: in the child until it has a pipe of its own, in the parent for the moment."""
        if self._active:
            self._forking += 1
            with suppress(OSError):
                os.dup2(self._null_fd, self._fd, inheritable=False)

    def after_in_parent(self) -> None:
        """Hear again."""
        if self._active:
            self._forking = max(0, self._forking - 1)
            if not self._forking:
                with suppress(OSError):
                    os.dup2(self._write_fd, self._fd, inheritable=False)

    def after_in_child(self) -> None:
        """Make a pipe and a thread for the child."""
        if not self._active:
            return
        self._forking = 0
        with suppress(OSError):
            os.close(self._read_fd)
            os.close(self._write_fd)
            self._read_fd, self._write_fd = _pipe()
            os.dup2(self._write_fd, self._fd, inheritable=False)
            self._listen()


def _pipe() -> tuple[int, int]:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    return read_fd, write_fd


def _listen(read_fd: int, heard: Callable[[int], object]) -> None:
    with suppress(OSError):
        while (numbers := os.read(read_fd, 512)) and _END not in numbers:
            for number in set(numbers):
                heard(number)
        os.close(read_fd)


def _around_forks(wakeup: Wakeup) -> None:
    weak = weakref.ref(wakeup)

    def call(name: str) -> Callable[[], None]:
        def hook() -> None:
            if alive := weak():
                getattr(alive, name)()

        return hook

    os.register_at_fork(
        before=call("before_fork"),
        after_in_parent=call("after_in_parent"),
        after_in_child=call("after_in_child"),
    )
