"""When to leave: at exit, on SIGTERM, and at the end of a forked child."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import parent_process, util
from types import FrameType
from typing import Any

from crucible_otel.export.fork import in_child
from crucible_otel.export.leave import CHILD_TIMEOUT_S, Departure
from crucible_otel.export.wakeup import Wakeup

try:
    import ctypes
except ImportError:  # a Python built without libffi
    ctypes = None  # type: ignore[assignment]

__all__ = ["ExitHooks"]


class ExitHooks:
    """The hooks of one pipeline into the process.

    Args:
        departure: What is to happen then.
        handle_sigterm: Whether SIGTERM is one of the occasions.
    """

    def __init__(self, departure: Departure, *, handle_sigterm: bool = True) -> None:
        self._departure, self._handle_sigterm = departure, handle_sigterm
        self._previous: Any = None
        self._handler: Callable[[int, FrameType | None], object] | None = None
        self._dying = False
        self._death = threading.Lock()
        self._wakeup = Wakeup(signal.SIGTERM, self._on_wakeup)
        in_child(self._after_fork)

    def _after_fork(self) -> None:
        self._dying = False
        self._death = threading.Lock()

    def install(self) -> None:
        """Hook in. SIGTERM is left alone off the main thread, where it is ignored, and where C code handles it."""
        atexit.register(self._at_exit)
        # A child of multiprocessing ends by os._exit, which runs no atexit hook but does run these finalizers.
        util.register_after_fork(self, ExitHooks._finalize_child)
        if parent_process() is not None:
            self._finalize_child()
        if self._handle_sigterm and threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGTERM)
            if previous is signal.SIG_DFL or callable(previous):
                self._previous, self._handler = previous, self._on_sigterm
                signal.signal(signal.SIGTERM, self._handler)
                self._wakeup.install()

    def remove(self) -> None:
        """Unhook, as far as the calling thread may."""
        atexit.unregister(self._at_exit)
        if self._handler is None or threading.current_thread() is not threading.main_thread():
            return
        self._wakeup.remove()
        if signal.getsignal(signal.SIGTERM) == self._handler:
            signal.signal(signal.SIGTERM, self._previous)
        self._handler = None

    def _at_exit(self) -> None:
        self._departure.shutdown(reason="exit")
        deadline = time.monotonic() + 1.0
        while self._dying and time.monotonic() < deadline:
            time.sleep(0.01)  # SIGTERM came first, and is to be what this process ends by

    def _finalize_child(self) -> None:
        # Before the finalizers of lower priority, which may wait for the child's own children.
        util.Finalize(None, self._departure.shutdown, args=(CHILD_TIMEOUT_S, "child"), exitpriority=100)

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> object:
        """Wake, and nothing else: the main thread may hold any lock at this moment."""
        if callable(self._previous):
            self._departure.in_background(self._flush)
            return self._previous(signum, frame)
        if not self._dying:
            self._dying = True
            self._departure.in_background(self._leave_and_die)
            if self._departure.closed:  # then nobody may be there any more to be woken
                _default_and_again(signum)
        elif self._departure.closed:
            _default_and_again(signum)
        return None

    def _on_wakeup(self) -> None:
        """Do the same on the wakeup thread, for a main thread that cannot; both doing it is as good as one."""
        if signal.getsignal(signal.SIGTERM) != self._handler:
            return
        if callable(self._previous):
            self._departure.in_background(self._flush)
        else:
            self._dying = True
            self._leave_and_die()

    def _flush(self) -> None:
        self._departure.flush(self._departure.exit_timeout_s)

    def _leave_and_die(self) -> None:
        if not self._death.acquire(blocking=False):
            return  # the other of the two threads is at it, and would be killed before its last word
        try:
            self._departure.shutdown(reason="sigterm")
        finally:
            _default_from_any_thread(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)


def _default_and_again(signum: int) -> None:
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def _default_from_any_thread(signum: int) -> None:
    """Restore the default disposition: ``signal.signal`` works on the main thread only, which may never come back.

    Where this fails, the signal reaches our own handler once more, and that does it.
    """
    if ctypes is None:
        return
    try:
        libc_signal = ctypes.CDLL(None).signal
        libc_signal.argtypes, libc_signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        libc_signal(signum, None)
    except (AttributeError, OSError, TypeError):
        return
