"""Threads that are started early and wait, because none can be started when they are needed most.

From Python 3.12 on, ``Thread.start`` raises in an atexit hook; in a signal handler it could deadlock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

__all__ = ["Outcome", "Parked"]

Task: TypeAlias = Callable[[], object]


class Parked:
    """One daemon thread, asleep until it is given something to do; tasks run one after the other.

    Args:
        name: The name of the thread.
    """

    def __init__(self, name: str) -> None:
        # SimpleQueue.put is reentrant: a signal handler may wake us in the middle of another put.
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True).start()

    def post(self, task: Task) -> None:
        """Have a task done; returns at once and takes no lock."""
        self._tasks.put(task)

    def retire(self) -> None:
        """End the thread once it has done what it was given."""
        self._tasks.put(None)


def _work(tasks: SimpleQueue[Task | None]) -> None:
    while (task := tasks.get()) is not None:
        try:
            task()
        except BaseException as error:  # the thread must live on, even through a SystemExit of the user's code
            logging.getLogger("crucible_otel").debug("a task of leaving failed: %s", type(error).__name__)


class Outcome:
    """A task's result that can be waited for, with a deadline.

    Args:
        run: What to do; its truth is the result, an exception counts as False.
    """

    def __init__(self, run: Callable[[], object]) -> None:
        self._run, self._done = run, threading.Event()
        self.good = False

    def __call__(self) -> None:
        """Do it, on the thread that is to do it."""
        try:
            self.good = self._run() is not False
        finally:
            self._done.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most this long, and return whether it has come."""
        return self._done.wait(max(0.0, seconds))
