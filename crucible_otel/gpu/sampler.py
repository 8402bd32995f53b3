"""The one thread that calls a GPU library, and the snapshot that everybody else reads.

Nobody waits for the library: a collection reads the last snapshot, an end waits for a bounded time. The thread lives as
long as somebody has a :class:`Subscription`; in a forked child there is none until it makes one.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final

from crucible_otel.gpu.backend import BackendUnavailableError, GpuBackend
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.snapshot import EMPTY, DeviceState, GpuSnapshot
from crucible_otel.gpu.watch import SLOW_EVERY_S, Watch

__all__ = ["STALE_AFTER", "Sampler", "Subscription"]

STALE_AFTER: Final = 3
"""Intervals after which a snapshot is too old to be reported."""


class Subscription:
    """Somebody's wish to have a sample now and then; made by :meth:`Sampler.subscribe`.

    Attributes:
        interval_s: How often; None while nothing is wanted.
        detailed: Whether devices that another process reports are wanted too.
    """

    def __init__(
        self, sampler: Sampler, interval_s: float | None, on_sample: Callable[[GpuSnapshot], object], detailed: bool
    ) -> None:
        self._sampler, self.interval_s, self.detailed = sampler, interval_s, detailed
        self.on_sample = on_sample
        self.due_s = float("-inf")

    @property
    def active(self) -> bool:
        """Whether it holds: not after its end, nor in a forked child."""
        return self._sampler.has(self)

    def set_interval(self, interval_s: float | None, *, at_once: bool = True) -> None:
        """Have samples this often from now on.

        Args:
            interval_s: Seconds between two; None for none until further notice.
            at_once: Whether the first comes now, and not after an interval.
        """
        self.due_s = float("-inf") if at_once or interval_s is None else time.monotonic() + interval_s
        self.interval_s = interval_s
        self._sampler.wake()

    def close(self, timeout_s: float = 0.0) -> bool:
        """Have no samples any more.

        Args:
            timeout_s: How long to wait for a last one; without it, and when the library hangs, there is none.

        Returns:
            Whether it came, if it was to come.
        """
        return self._sampler.leave(self, timeout_s)


class Sampler:
    """Samples the devices of this host on a thread of its own.

    Args:
        make: Makes the backend, on that thread.
        ownership: Makes what decides which devices this process reports, on that thread.
        on_sample: Called on that thread with every snapshot, before the subscribers.
        on_unavailable: Called on that thread with the reason when there is nothing to sample.
        on_lost: See :class:`crucible_otel.gpu.watch.Watch`.
        on_fault: See there.
        on_error: Called with an error of ours, which ends no sampling.
        on_poll: Called on that thread with the seconds that reading all devices took, and with its error or None.
        on_unknown: Called with the words in ``wanted`` that mean no device.
        slow_every_s: See there.

    Attributes:
        snapshot: The last one.
        wanted: Which devices; see :func:`crucible_otel.gpu.selection.choose`. Holds from the next start of the thread.
    """

    def __init__(
        self,
        make: Callable[[], GpuBackend],
        ownership: Callable[[], Ownership],
        *,
        on_sample: Callable[[GpuSnapshot], object] = lambda snapshot: None,
        on_unavailable: Callable[[str], object] = lambda reason: None,
        on_lost: Callable[[DeviceState, str], object] = lambda state, reason: None,
        on_fault: Callable[[DeviceState, int], object] = lambda state, code: None,
        on_error: Callable[[Exception], object] = lambda error: None,
        on_poll: Callable[[float, Exception | None], object] = lambda duration_s, error: None,
        on_unknown: Callable[[Sequence[str]], object] = lambda words: None,
        slow_every_s: float = SLOW_EVERY_S,
    ) -> None:
        self._make, self._make_ownership, self._slow_every_s = make, ownership, slow_every_s
        self._on_sample, self.on_unavailable, self.on_unknown = on_sample, on_unavailable, on_unknown
        self._on_lost, self._on_fault, self._on_error = on_lost, on_fault, on_error
        self._on_poll = on_poll
        self.wanted: tuple[str, ...] = ()
        self.snapshot: GpuSnapshot = EMPTY
        self._ownership: Ownership | None = None
        self._reset()
        _SAMPLERS.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._awake = threading.Lock()  # free while there is something for the thread to look at
        self._awake.acquire()
        self._subscriptions: tuple[Subscription, ...] = ()
        self._thread: threading.Thread | None = None
        self._asked = self._served = 0
        self._refused = False
        self.snapshot = EMPTY

    # -- for everybody -----------------------------------------------------------------------------------------------

    def subscribe(
        self, interval_s: float | None, on_sample: Callable[[GpuSnapshot], object], *, detailed: bool = True
    ) -> Subscription:
        """Have samples from now on.

        Args:
            interval_s: How often; None for none until :meth:`Subscription.set_interval`.
            on_sample: Called with each, on the sampler's thread.
            detailed: Whether also the devices that another process reports are read.
        """
        subscription = Subscription(self, interval_s, on_sample, detailed)
        with self._changed:
            self._subscriptions = (*self._subscriptions, subscription)
            self._refused = False
            self._ensure_thread()
            self._wake_up()
        return subscription

    def sample_now(self, timeout_s: float = 5.0) -> GpuSnapshot | None:
        """Have a sample taken at once, for all subscribers.

        Args:
            timeout_s: How long to wait for it.

        Returns:
            The snapshot; None when there is nothing to sample, nobody subscribes or time ran out.
        """
        with self._changed:
            if not self._subscriptions:
                return None
            self._ensure_thread()
            return self.snapshot if self._ask(timeout_s) else None

    def fresh(self, interval_s: float, now_s: float | None = None) -> GpuSnapshot:
        """Return the last snapshot, or an empty one when it is too old to be true. Waits for nothing.

        Args:
            interval_s: How often there should be one.
            now_s: The monotonic clock.
        """
        snapshot = self.snapshot
        age_s = (time.monotonic() if now_s is None else now_s) - snapshot.taken_s
        return snapshot if age_s <= STALE_AFTER * interval_s else EMPTY

    @property
    def running(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    # -- for subscriptions -------------------------------------------------------------------------------------------

    def has(self, subscription: Subscription) -> bool:
        """Whether a subscription holds."""
        return subscription in self._subscriptions

    def wake(self) -> None:
        """Have the thread look again at what is wanted."""
        with self._changed:
            if self._subscriptions:
                self._ensure_thread()
            self._wake_up()

    def leave(self, subscription: Subscription, timeout_s: float) -> bool:
        """End a subscription, with a last sample within the time."""
        with self._changed:
            if subscription not in self._subscriptions:
                return True
            served = timeout_s <= 0 or not self.running or self._ask(timeout_s)
            self._subscriptions = tuple(each for each in self._subscriptions if each is not subscription)
            self._wake_up()
            return served

    # -- inside; the lock is held ------------------------------------------------------------------------------------

    def _ask(self, timeout_s: float) -> bool:
        if not self.running:
            return False
        self._asked += 1
        number, thread = self._asked, self._thread
        self._wake_up()
        self._changed.wait_for(lambda: self._served >= number or self._thread is not thread, timeout_s)
        return self._served >= number

    def _ensure_thread(self) -> None:
        if not self.running and not self._refused:  # only a new subscriber has a library looked for again
            self._thread = threading.Thread(target=self._run, name="crucible-otel-gpu", daemon=True)
            self._thread.start()

    def _wake_up(self) -> None:
        if self._awake.locked():
            self._awake.release()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        backend = None
        try:
            backend = self._make()
            backend.open()
            self._serve(backend)
        except BackendUnavailableError as error:
            self._refused = True
            self._gone()
            self.on_unavailable(str(error))
        except Exception as error:
            self._gone()
            self._on_error(error)
        finally:
            self._gone()
            if backend is not None:
                self._close(backend)

    def _serve(self, backend: GpuBackend) -> None:
        ownership = self._ownership = self._make_ownership()
        watch = Watch(
            backend,
            ownership,
            on_lost=self._on_lost,
            on_fault=self._on_fault,
            wanted=self.wanted,
            slow_every_s=self._slow_every_s,
        )
        if watch.unknown:
            self.on_unknown(watch.unknown)
        while True:
            subscriptions, asked = self._subscriptions, self._asked
            if not subscriptions:
                if self._left():
                    return
                continue
            if asked <= self._served:
                wait_s = _next_s(subscriptions) - time.monotonic()
                if wait_s > 0:
                    self._awake.acquire(timeout=min(wait_s, threading.TIMEOUT_MAX))
                    continue
            try:
                self._tick(watch, subscriptions, everybody=asked > self._served)
            except Exception as error:
                self._on_error(error)
                self._put_off(subscriptions)
            if asked > self._served:
                with self._changed:
                    self._served = asked
                    self._changed.notify_all()

    def _left(self) -> bool:
        """End this thread, if nobody has come meanwhile."""
        with self._changed:
            if not self._subscriptions:
                self._leave_thread()
            return not self._subscriptions

    def _tick(self, watch: Watch, subscriptions: Sequence[Subscription], *, everybody: bool) -> None:
        now_s = time.monotonic()
        due = [each for each in subscriptions if each.interval_s is not None and each.due_s <= now_s]
        try:
            snapshot = watch.tick(now_s, time.time_ns(), detailed=any(each.detailed for each in subscriptions))
        except Exception as error:
            self._on_poll(time.monotonic() - now_s, error)
            raise
        self.snapshot = snapshot
        self._on_poll(time.monotonic() - now_s, None)
        for each in due:
            # On a grid, so that a slow reading makes no drift; what was missed is not made up for.
            late = each.due_s + (each.interval_s or 0) <= now_s
            each.due_s = now_s + (each.interval_s or 0) if late else each.due_s + (each.interval_s or 0)
        wanting = subscriptions if everybody else due
        for on_sample in (self._on_sample, *(each.on_sample for each in wanting)):
            try:
                on_sample(snapshot)
            except Exception as error:
                self._on_error(error)

    def _put_off(self, subscriptions: Sequence[Subscription]) -> None:
        """After a tick that failed: not again before the next interval."""
        now_s = time.monotonic()
        for each in subscriptions:
            if each.interval_s is not None and each.due_s <= now_s:
                each.due_s = now_s + each.interval_s

    def _gone(self) -> None:
        with self._changed:
            if self._thread is threading.current_thread():
                self._leave_thread()

    def _leave_thread(self) -> None:
        if self._ownership is not None:
            self._ownership.release()
        self._ownership, self._thread = None, None
        self._changed.notify_all()

    def _close(self, backend: GpuBackend) -> None:
        try:
            backend.close()
        except Exception as error:
            self._on_error(error)

    def forget_parent(self) -> None:
        """In a forked child: nothing runs, nobody subscribes, and the locks are the parent's."""
        ownership, self._ownership = self._ownership, None
        if ownership is not None:
            ownership.forget()
        self._reset()


def _next_s(subscriptions: Sequence[Subscription]) -> float:
    return min([each.due_s for each in subscriptions if each.interval_s is not None], default=float("inf"))


_SAMPLERS: weakref.WeakSet[Sampler] = weakref.WeakSet()


def _after_fork() -> None:
    for sampler in list(_SAMPLERS):
        sampler.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
