"""Worker pools."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.testing import FakeClock
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def workers(capture: Capture, pool: str = "p") -> dict[str, Any]:
    """Return how many workers are idle and busy."""
    points = capture.points("crucible.pool.worker.current", crucible__pool__name=pool)
    return {point.attributes["crucible.pool.worker.state"]: point.value for point in points}


def number(capture: Capture, name: str, pool: str = "p") -> Any:
    """Return the value of a metric of the pool."""
    return capture.value(f"crucible.pool.{name}", crucible__pool__name=pool)


def test_a_checkout_measures_how_long_the_worker_is_busy(capture: Capture) -> None:
    """From the block's beginning to its end; the waiting before it as it was told."""
    clock = capture.stopped()
    pool = cx.pool("p")
    with pool.checkout(worker_id="w1", wait_s=0.5):
        clock.advance(2.0)
    with pool.checkout():
        clock.advance(1.0)
    assert (2, 3.0) == (number(capture, "task.duration"), capture.sum("crucible.pool.task.duration"))
    assert (1, 0.5) == (number(capture, "task.wait_time"), capture.sum("crucible.pool.task.wait_time"))
    assert {} == workers(capture)
    assert [{"crucible.pool.name": "p"}] == [
        dict(point.attributes) for point in capture.points("crucible.pool.task.duration")
    ]


def test_the_waiting_can_be_part_of_the_block(capture: Capture) -> None:
    """It ends when the worker is there, and meanwhile the task is pending."""
    clock = capture.stopped()
    pool = cx.pool("p", size=2)
    with pool.checkout(waiting=True) as task:
        clock.advance(0.25)
        assert (1, {"idle": 2, "busy": 0}) == (number(capture, "task.pending"), workers(capture))
        task.acquired("w1")
        task.acquired("w2")
        assert (0, {"idle": 1, "busy": 1}) == (number(capture, "task.pending"), workers(capture))
        clock.advance(4.0)
    assert (0.25, 4.0) == (
        capture.sum("crucible.pool.task.wait_time"),
        capture.sum("crucible.pool.task.duration"),
    )


def test_who_waits_in_vain_has_had_no_worker(capture: Capture) -> None:
    """Neither a wait nor a busy time, and nobody is pending afterwards."""
    capture.configure()
    pool = cx.pool("p", size=1)
    with pytest.raises(TimeoutError), pool.checkout(waiting=True):
        raise TimeoutError
    assert [None, None, 0] == [number(capture, name) for name in ("task.wait_time", "task.duration", "task.pending")]
    assert {"idle": 1, "busy": 0} == workers(capture)


def test_with_a_size_it_counts_its_workers(capture: Capture) -> None:
    """At once, and with every checkout; more checkouts than workers leave none idle."""
    capture.configure()
    pool = cx.pool("p", size=2)
    assert (2, {"idle": 2, "busy": 0}) == (number(capture, "worker.max"), workers(capture))
    with pool.checkout(), pool.checkout():
        assert {"idle": 0, "busy": 2} == workers(capture)
        with pool.checkout():
            assert {"idle": 0, "busy": 3} == workers(capture)
    assert {"idle": 2, "busy": 0} == workers(capture)


def test_a_pool_can_grow(capture: Capture) -> None:
    """The total that is told last counts, and the counting goes on."""
    capture.configure()
    pool = cx.pool("p", size=2)
    pool.size(total=4)
    with pool.checkout():
        assert (4, {"idle": 3, "busy": 1}) == (number(capture, "worker.max"), workers(capture))


def test_who_tells_the_numbers_is_believed(capture: Capture) -> None:
    """Idle, busy and queue as told; from then on nothing is counted."""
    capture.configure()
    pool = cx.pool("p", size=8)
    pool.size(total=8, idle=3, busy=5, queue_depth=2)
    with pool.checkout():
        assert (2, {"idle": 3, "busy": 5}) == (number(capture, "task.pending"), workers(capture))


def test_two_pools_do_not_mix(capture: Capture) -> None:
    """Inside a training run neither, and by name as by object."""
    capture.configure()
    one, other = cx.pool("one", size=2), cx.pool("other", size=3)
    with cx.train("m"), one.checkout(wait_s=0.1), other.checkout(wait_s=0.2), other.checkout(wait_s=0.4):
        assert [{"idle": 1, "busy": 1}, {"idle": 1, "busy": 2}] == [
            workers(capture, "one"),
            workers(capture, "other"),
        ]
        for pool in ("one", "other"):
            cx.execute("snakepit.pool.checkin", {"busy_time": 10**9}, {"pool": pool, "worker_id": "w"})
    assert [(1, 2), (2, 3)] == [
        (number(capture, "task.wait_time", pool), number(capture, "task.duration", pool)) for pool in ("one", "other")
    ]


def test_objects_of_one_name_are_one_pool(capture: Capture) -> None:
    """Their workers are counted together, whichever object reports; the size is the one that was told last."""
    capture.configure()
    one, other, unsized = cx.pool("p", size=2), cx.pool("p", size=4), cx.pool("p")
    with one.checkout(), other.checkout(), unsized.checkout(), one.checkout(waiting=True):
        assert (4, 1, {"idle": 1, "busy": 3}) == (
            number(capture, "worker.max"),
            number(capture, "task.pending"),
            workers(capture),
        )
    assert {"idle": 4, "busy": 0} == workers(capture)
    other.size(busy=2)
    with one.checkout(), cx.pool("p", size=4).checkout():
        assert {"idle": 4, "busy": 2} == workers(capture)


def test_a_pool_that_nobody_has_any_more_is_forgotten(capture: Capture) -> None:
    """One that is described anew starts anew; so does one of telemetry that is configured anew."""
    telemetry = capture.configure()
    told = cx.pool("p", size=8)
    told.size(idle=8, busy=0)
    del told
    pool = cx.pool("p", size=2)
    with pool.checkout():
        assert {"idle": 1, "busy": 1} == workers(capture)
    pool.size(busy=2)
    telemetry.shutdown()
    capture.configure()
    with cx.pool("p", size=2).checkout():
        assert {"idle": 1, "busy": 1} == workers(capture)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no"), "ValueError"),
        (TimeoutError(), "TimeoutError"),
        (KeyboardInterrupt(), None),
        (asyncio.CancelledError(), None),
        (GeneratorExit(), None),
        (SystemExit(3), "SystemExit"),
    ],
    ids=repr,
)
def test_an_exception_passes_and_is_the_error_type(capture: Capture, error: BaseException, kind: str | None) -> None:
    """Of a failure; a cancellation is none. The worker is back either way."""
    capture.configure()
    pool = cx.pool("p", size=1)
    with pytest.raises(type(error)) as raised, pool.checkout():
        raise error
    assert raised.value is error
    (point,) = capture.points("crucible.pool.task.duration")
    assert kind == point.attributes.get("error.type")
    assert {"idle": 1, "busy": 0} == workers(capture)


def test_threads_and_tasks_use_one_pool(capture: Capture) -> None:
    """What is counted at last is right, and no checkout is lost."""
    capture.configure()
    pool = cx.pool("p", size=4)

    def work() -> None:
        for _ in range(500):
            with pool.checkout(wait_s=0.001):
                pass

    async def task() -> None:
        for _ in range(100):
            async with pool.checkout(wait_s=0.001):
                await asyncio.sleep(0)

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(10)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    for thread in threads:
        thread.join()
    assert [5_000, 5_000] == [number(capture, name) for name in ("task.wait_time", "task.duration")]
    assert {"idle": 4, "busy": 0} == workers(capture)


def test_a_generator_that_is_abandoned_returns_its_worker(capture: Capture) -> None:
    """When it is closed."""
    capture.configure()
    pool = cx.pool("p", size=1)

    def results() -> Any:
        with pool.checkout():
            yield 1
            yield 2

    generator = results()
    next(generator)
    assert {"idle": 0, "busy": 1} == workers(capture)
    del generator
    assert {"idle": 1, "busy": 0} == workers(capture)


def test_a_forked_child_leaves_its_parents_workers_alone(capture: Capture) -> None:
    """It neither returns them nor counts them; its own are counted."""
    capture.configure()
    pool = cx.pool("p", size=2)
    seen = listen("crucible.pool.checkin", "crucible.pool.size")
    parents = pool.checkout()
    parents.__enter__()
    read, write = os.pipe()
    if os.fork() == 0:
        del seen[:]
        with pool.checkout():
            pass
        told = [(event.rpartition(".")[2], values.get("busy")) for event, values, _ in seen]
        del seen[:]
        parents.__exit__(None, None, None)
        told += [(event.rpartition(".")[2], values.get("busy")) for event, values, _ in seen]
        os.write(write, repr(told).encode())
        os._exit(0)
    os.wait()
    assert "[('size', 1), ('checkin', None), ('size', 0), ('size', 0)]" == os.read(read, 1000).decode()
    parents.__exit__(None, None, None)
    assert ({"idle": 2, "busy": 0}, 1) == (workers(capture), number(capture, "task.duration"))


def test_handlers_get_every_one(capture: Capture) -> None:
    """Under the seed's names, with the worker's id and nanoseconds; a handler may use the pool itself."""
    clock: FakeClock = capture.stopped()
    seen = listen("snakepit.pool.checkout", "snakepit.pool.checkin", "snakepit.pool.size")
    pool = cx.pool("p", size=1)
    cx.attach_handler(
        "user", ["crucible.pool.size"], lambda *args: pool.checkout().__enter__().__exit__(None, None, None)
    )
    with pool.checkout("w1", wait_s=0.5):
        clock.advance(1.0)
    told = [each for each in seen if each[2].get("worker_id") == "w1"]
    assert [
        ("snakepit.pool.checkout", {"queue_time": 500_000_000}, {"pool": "p", "worker_id": "w1"}),
        ("snakepit.pool.checkin", {"busy_time": 10**9}, {"pool": "p", "worker_id": "w1"}),
    ] == told
    assert ("snakepit.pool.size", {"size": 1, "idle": 1, "busy": 0, "queue_depth": 0}, {"pool": "p"}) == seen[0]


@pytest.mark.parametrize("bad", [-1, "many", 2.5], ids=repr)
def test_what_is_no_number_of_workers_is_refused(capture: Capture, bad: Any) -> None:
    """Counted; the rest is recorded."""
    capture.configure()
    pool = cx.pool("p", size=bad)
    pool.size(total=bad, idle=bad, busy=1)
    with pool.checkout(wait_s=bad if bad != 2.5 else -0.5):
        pass
    assert {"busy": 1} == workers(capture)
    assert 4 == capture.value("crucible.sdk.refused_attributes")
    assert [None, None] == [number(capture, name) for name in ("worker.max", "task.wait_time")]
