"""Worker pools: ``cx.pool``."""

from __future__ import annotations

import os
import weakref
from types import TracebackType
from typing import cast

from crucible_otel.events.names import text
from crucible_otel.events.outcome import result_of, type_name
from crucible_otel.events.runtime import Runtime, runtime
from crucible_otel.semconv.pool import CHECKIN_EVENT, CHECKOUT_EVENT, SIZE_EVENT
from crucible_otel.verbs.given import duration_ns, quietly, whole
from crucible_otel.verbs.hot import record
from crucible_otel.verbs.quiet import QuietPool

_FAILED = ("failure", "timeout")


class _Workers:
    """What is known of the workers of a pool; shared by all its objects.

    Attributes:
        total: Workers it has room for.
        counts: Whether it counts by itself who is busy.
        believed: Whether somebody else has told that.
        busy: Checkouts that have a worker.
        waiting: Checkouts that wait for one.
    """

    __slots__ = ("__weakref__", "_process", "believed", "busy", "counts", "total", "waiting")

    def __init__(self) -> None:
        self.total: int | None = None
        self.counts = self.believed = False
        self.busy: set[Checkout] = set()
        self.waiting: set[Checkout] = set()
        self._process = os.getpid()

    def forget_parent(self) -> None:
        """Leave the workers of the process that this one was forked from to that."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self.busy.clear()
            self.waiting.clear()


_POOLS: weakref.WeakKeyDictionary[Runtime, weakref.WeakValueDictionary[str, _Workers]] = weakref.WeakKeyDictionary()


class Pool:
    """A pool of workers; see :func:`pool`.

    Attributes:
        name: Its name.
    """

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        of_runtime = _POOLS.setdefault(runtime(), weakref.WeakValueDictionary())
        self._workers = workers = of_runtime.setdefault(name, _Workers())
        if total is not None:
            workers.total, workers.counts = total, not workers.believed

    def checkout(self, worker_id: object = None, *, wait_s: float | None = None, waiting: bool = False) -> Checkout:
        """Use a worker during a block, which is how long it is busy.

        Args:
            worker_id: Which one; on events only.
            wait_s: Seconds spent waiting for it before the block.
            waiting: Whether the waiting is part of the block: it ends with ``acquired()``, and a block that ends
                without has got no worker.
        """
        return Checkout(self, worker_id, wait_s, waiting)

    @quietly
    def size(
        self,
        *,
        total: int | None = None,
        idle: int | None = None,
        busy: int | None = None,
        queue_depth: int | None = None,
    ) -> None:
        """Say what the pool looks like now.

        Who tells the idle or busy workers, or the queue, is believed: from then on the pool does not count them itself.

        Args:
            total: Workers it has room for.
            idle: Workers without a task.
            busy: Workers with a task.
            queue_depth: Tasks that wait for a worker.
        """
        given = {"total": total, "idle": idle, "busy": busy, "queue_depth": queue_depth}
        told = {name: whole(value, f"pool.size({name})", least=0) for name, value in given.items()}
        if told["total"] is not None:
            self._workers.total = told["total"]
        if {told["idle"], told["busy"], told["queue_depth"]} != {None}:
            self._workers.counts, self._workers.believed = False, True
        if set(told.values()) != {None}:
            record(SIZE_EVENT, told, {"pool": self.name})

    @quietly
    def _count(self) -> None:
        """Report what is known by counting.

        There is no lock to wait for, nor to be held by a handler: who finds that the numbers have moved on meanwhile
        reports again, so that the last report is always the right one.
        """
        workers = self._workers
        while workers.counts:
            busy, waiting = len(workers.busy), len(workers.waiting)
            total = workers.total
            idle = None if total is None else max(0, total - busy)
            told = {"total": total, "idle": idle, "busy": busy, "queue_depth": waiting}
            record(SIZE_EVENT, told, {"pool": self.name})
            if (busy, waiting, total) == (len(workers.busy), len(workers.waiting), workers.total):
                return


class Checkout:
    """A worker in use; see :meth:`Pool.checkout`."""

    __slots__ = ("_began_s", "_pool", "_wait_s", "_waiting", "worker_id")

    def __init__(self, pool: Pool, worker_id: object, wait_s: float | None, waiting: bool) -> None:
        self._pool, self.worker_id, self._wait_s, self._waiting = pool, worker_id, wait_s, waiting
        self._began_s: float | None = None

    def __enter__(self) -> Checkout:
        """Begin."""
        _begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Return the worker; an exception travels on."""
        _end(self, error)

    async def __aenter__(self) -> Checkout:
        """Begin."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Return the worker; an exception travels on."""
        _end(self, error)

    def acquired(self, worker_id: object = None) -> None:
        """Say that the waiting is over; does nothing in a block that does not wait.

        Args:
            worker_id: Which worker it is; on events only.
        """
        _acquired(self, worker_id)


@quietly
def _begin(checkout: Checkout) -> None:
    checkout._began_s = runtime().clock.now()
    pool = checkout._pool
    pool._workers.forget_parent()
    if checkout._waiting:
        pool._workers.waiting.add(checkout)
        pool._count()
    else:
        _taken(checkout, duration_ns(checkout._wait_s, "pool.checkout(wait_s)"))


@quietly
def _acquired(checkout: Checkout, worker_id: object) -> None:
    pool, began_s = checkout._pool, checkout._began_s
    if worker_id is not None:
        checkout.worker_id = worker_id
    if began_s is None or checkout not in pool._workers.waiting:
        return
    pool._workers.waiting.discard(checkout)
    now_s = runtime().clock.now()
    checkout._began_s = now_s
    _taken(checkout, max(0, round((now_s - began_s) * 1e9)))


def _taken(checkout: Checkout, waited: int | None) -> None:
    pool = checkout._pool
    pool._workers.busy.add(checkout)
    record(CHECKOUT_EVENT, {"queue_time": waited}, {"pool": pool.name, "worker_id": checkout.worker_id})
    pool._count()


@quietly
def _end(checkout: Checkout, error: BaseException | None) -> None:
    pool, began_s = checkout._pool, checkout._began_s
    if began_s is None:
        return
    checkout._began_s = None
    pool._workers.forget_parent()
    if checkout in pool._workers.waiting:
        pool._workers.waiting.discard(checkout)
    elif checkout in pool._workers.busy:
        pool._workers.busy.discard(checkout)
        failed = error is not None and result_of(error) in _FAILED
        told = {
            "pool": pool.name,
            "worker_id": checkout.worker_id,
            "error_type": type_name(error) if error is not None and failed else None,
        }
        busy = max(0, round((runtime().clock.now() - began_s) * 1e9))
        record(CHECKIN_EVENT, {"busy_time": busy}, told)
    pool._count()


def pool(name: str, *, size: int | None = None) -> Pool:
    """Describe a pool of workers; make one of these for each pool and keep it.

    With a size it counts by itself how many workers are busy and idle, from the checkouts that are made through it.
    Objects of one name are one pool, as loggers are: their checkouts are counted together, and the size that was told
    last is its size. Two pools need two names, as OpenTelemetry asks of the pools of database clients.

    Args:
        name: Name of the pool; few different ones, because it becomes a metric attribute.
        size: Workers it has room for.
    """
    if not runtime().enabled:
        return cast("Pool", QuietPool(text(name)))
    made = Pool(text(name), whole(size, "pool(size)", least=0))
    made._count()
    return made
