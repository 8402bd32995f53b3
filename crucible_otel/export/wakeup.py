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
    """A thread that is told of a signal, and a shield for the signal around forks.

    Args:
        number: The signal, which has a Python handler.
        heard: Called on the thread when it comes.
    """

    def __init__(self, number: int, heard: Callable[[], object]) -> None:
        self._number, self._heard = number, heard
        self._installed = False
        self._fd = -1
        self._masks = threading.local()

    def install(self) -> None:
        """Take the process's wakeup descriptor, unless somebody has it, such as an event loop: then it stays theirs.

        To be done on the main thread.
        """
        if os.name != "posix":
            return
        self._installed = True
        _around_forks(self)
        read_fd, write_fd = _pipe()
        previous = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        if previous != -1:
            signal.set_wakeup_fd(previous)
            os.close(read_fd)
            os.close(write_fd)
            return
        self._fd = write_fd
        self._listen(read_fd)

    def remove(self) -> None:
        """Give the descriptor back; does nothing off the main thread, which alone may do so."""
        if not self._installed or threading.current_thread() is not threading.main_thread():
            return
        self._installed = False
        if self._fd == -1:
            return
        present = signal.set_wakeup_fd(-1)
        if present not in (-1, self._fd):
            signal.set_wakeup_fd(present)
        with suppress(OSError):
            os.write(self._fd, _END)
            os.close(self._fd)
        self._fd = -1

    def _listen(self, read_fd: int) -> None:
        arguments = (read_fd, self._number, self._heard)
        threading.Thread(target=_listen, args=arguments, name="crucible-otel-wakeup", daemon=True).start()
        self._read_fd = read_fd

    # A child forgets what signals came before it runs its first Python, and would write their bytes into its parent's
    # pipe. multiprocessing's Pool sends SIGTERM that early, waits for the child, and would wait for ever. So the child
    # starts with the signal blocked, and gets it when it is ready.

    def before_fork(self) -> None:
        """Block the signal in the thread that forks, and so in the child."""
        if self._installed:
            self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {self._number})

    def after_in_parent(self) -> None:
        """Let it through again."""
        before = self._masks.__dict__.pop("before", None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def after_in_child(self) -> None:
        """Make a pipe and a thread for the child; then let the signal through."""
        if self._installed and self._fd != -1:
            with suppress(OSError):
                os.close(self._read_fd)
                read_fd, write_fd = _pipe()
                # The number stays: only the main thread may tell Python another.
                os.dup2(write_fd, self._fd, inheritable=False)
                os.close(write_fd)
                self._listen(read_fd)
        self.after_in_parent()


def _pipe() -> tuple[int, int]:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    return read_fd, write_fd


def _listen(read_fd: int, number: int, heard: Callable[[], object]) -> None:
    with suppress(OSError):
        while (numbers := os.read(read_fd, 512)) and _END not in numbers:
            if number in numbers:
                heard()
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
