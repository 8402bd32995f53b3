"""``python -m benchmarks.gil``: for how long exporting in the background keeps the other threads from running.

A thread reads the clock in a tight loop while 50,000 spans leave, and makes an object of 2 kB each time. It does
nothing else, so a gap between two readings is time in which it could not run: another thread held the GIL, or the
machine had other things to do. The object is there because glibc puts together what was freed in small pieces, such as
the lock of each of the SDK's spans, when somebody asks for a kilobyte or more, as programs do all the time. Where
nobody did, it would put thousands together at once, once in some 4,000 spans, in whatever call of the queue's thread
frees something larger: that was seen to take 0.4 to 1.05 ms. What belongs to the former is the processor time that the
other threads of this process used in the gap, which on a busy machine is that of several slices: the loop may be kept
waiting for a processor long after it could have had the GIL. So the target holds for what a queue's thread does of its
own: the processor time that it uses between two moments at which it lets go of the GIL, which are its pauses, its waits
for something to do, the reads and writes of its sockets, and looks for a file (after which nearly always another thread
has had its turn). Work in which the garbage collector ran is shown apart, because that runs on any thread that makes
objects. Compared are a loop in which nothing is exported, our queue in front of an exporter that only looks at each
item, of the encoder, and of our OTLP/HTTP delivery, our collections of metrics and their delivery, and the SDK's batch
processor in front of its exporter, which never pauses.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

from benchmarks.environment import prepare
from benchmarks.receiver import receiving
from benchmarks.result import Result, Section

METHOD = """\
A thread reads the clock in a tight loop and makes an object of 2 kB each time, while {items:,} spans leave, or the
metrics of {functions} functions, seven each, are collected and sent again and again. (Where nobody asks for memory,
glibc leaves the small pieces that spans leave behind to be put together by the thousand, which takes up to a
millisecond.) It does nothing else, so a gap between two readings is time in which it could not run; the longest wait is
the one in which other threads of the process used the processor most, as the processor time they used. On a busy
machine that is more than the GIL was held at a time. The work at a time is the processor time that the queue's thread
used between two moments at which it let go of the GIL: its pauses, its waits for something to do, the reads and writes
of its sockets, and looks for a file; shown is what it is in all but one case of a thousand. On a machine that is shared
the very longest says more about the neighbours. How much is measured, too: before and after each of {turns} turns a
loop runs that is always the same and takes {control} ms by itself, with such pauses between. Work is that of the {calm}
turns in which this loop took least at its longest, waits are those of all; the last line is the loop in these turns.
Waits and work in which the garbage collector ran are left out."""

NOTHING, SDK = "nothing is exported", "the SDK's batch processor and exporter"
CONTROL = "the same loop again and again"
OURS = (
    "our queue, an exporter that looks at items",
    "our queue and encoder",
    "our queue and delivery",
    "our metrics, collected and delivered",
)
TARGET_MS: Final = 1.0
_CONTROL_MS: Final = 0.3
_CONTROLS: Final = 300
_ALL_BUT: Final = 0.001
_TURNS: Final = 6
_CALM: Final = 3
_ITEMS: Final = 50_000
_GAP_NS: Final = 50_000
_OBJECT_BYTES: Final = 2_000
_THREADS: Final = ("crucible-otel-spans", "looking", "crucible-otel-metrics", "crucible-otel-before-leaving")
_FUNCTIONS: Final = 200
_COLLECTIONS: Final = 30


class _Tasks(SimpleQueue[Any]):
    get = SimpleQueue.get


_LETTING_GO: Final[Any] = (
    (time, "sleep"),
    (_Tasks, "get"),
    (os, "stat"),
    (socket.socket, "connect"),
    (socket.socket, "sendall"),
    (socket.socket, "recv_into"),
)
_ATTRIBUTES: Final = {f"key.{number}": f"value {number}" for number in range(8)}


@dataclass
class Gaps:
    """What the loop found, in milliseconds.

    Attributes:
        seconds: How long it ran.
        wall: How long the thread could not run, for each gap of 50 us and more.
        held: Processor time that other threads of the process used in the gap.
        collected: The same of gaps in which the garbage collector ran.
        worked: Processor time that the queue's thread used between two moments at which it let go of the GIL.
        control: Processor time of the loop that is always the same.
    """

    seconds: float = 0.0
    wall: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    collected: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)

    @property
    def usual(self) -> float:
        """What work takes at most, in all but one case of a thousand."""
        return _usual(self.worked)


@dataclass(frozen=True)
class Item:
    """A span as the hot path may keep it."""

    number: int
    nbytes: int = 300


def watch(until: Callable[[], bool]) -> Gaps:
    """Read the clock until it is time to stop; return the gaps."""
    gaps, collections = Gaps(), [0]

    def count(phase: str, info: dict[str, int]) -> None:
        collections[0] += 1

    gc.callbacks.append(count)
    wall, process, thread = time.perf_counter_ns, time.process_time_ns, time.thread_time_ns
    begin = before = wall()
    spent, seen = process() - thread(), 0
    while not until():
        now = wall()
        others = process() - thread()
        bytes(_OBJECT_BYTES)
        if now - before > _GAP_NS:
            gaps.wall.append((now - before) / 1e6)
            (gaps.collected if collections[0] != seen or seen % 2 else gaps.held).append((others - spent) / 1e6)
        before, spent, seen = now, others, collections[0]
    gc.callbacks.remove(count)
    gaps.seconds = (wall() - begin) / 1e9
    return gaps


class Work:
    """Measures what the threads of our queues do between two moments at which they let go of the GIL.

    Attributes:
        ms: The processor time of each, but of those in which the garbage collector ran.
    """

    def __init__(self) -> None:
        self.ms: list[float] = []
        self._here = threading.local()

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure queues that are made meanwhile."""
        from crucible_otel.export import batching, delivery, merging, pace, readers, workers

        calls = [(where, name, getattr(where, name)) for where, name in _LETTING_GO]
        workers.SimpleQueue = _Tasks  # type: ignore[attr-defined]
        for where, name, call in calls:
            setattr(where, name, self._letting_go(call))
        modules: tuple[Any, ...] = (batching, delivery, merging, pace, readers)
        real = pace.Pace
        for module in modules:
            module.Pace = lambda **options: real(sleep=time.sleep, **options)
        gc.callbacks.append(self._collected)
        try:
            yield
        finally:
            gc.callbacks.remove(self._collected)
            for module in modules:
                module.Pace = real
            for where, name, call in calls:
                setattr(where, name, call)
            workers.SimpleQueue = SimpleQueue  # type: ignore[attr-defined]

    def _letting_go(self, call: Callable[..., Any]) -> Callable[..., Any]:
        here, spent = self._here, time.thread_time_ns

        def measured(*arguments: Any, **options: Any) -> Any:
            begun = getattr(here, "begun", None)
            if begun is not None:
                self.ms.append((spent() - begun) / 1e6)
            try:
                return call(*arguments, **options)
            finally:
                here.begun = spent() if threading.current_thread().name in _THREADS else None

        return measured

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        self._here.begun = None


def main(arguments: list[str] | None = None) -> int:
    """Run the cases and print the gaps; 1 when the target was missed and ``--strict`` was said."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gil", description="How long the GIL is held.")
    parser.add_argument("--items", type=int, default=_ITEMS, help="spans that leave (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="fail when the target is missed")
    options = parser.parse_args(arguments)
    prepare()
    from crucible_otel.export import pace

    print(f"{options.items:,} items; a slice of work is {pace.SLICE_S * 1e3:g} ms; all figures in ms")
    print(f"{'':44s} {'gaps':>6s} {'longest':>8s} {'held':>8s} {'with GC':>8s} {'worked':>8s} {'> 1 ms':>7s} {'s':>6s}")
    sound = [_show(name, gaps) or name not in OURS for name, gaps in _cases(options.items)]
    return 1 if options.strict and not all(sound) else 0


def measure(quick: bool) -> Section:
    """Measure all ways."""
    items = 1_000 if quick else _ITEMS
    found = dict(_cases(items))
    return Section(
        method=METHOD.format(items=items, control=_CONTROL_MS, turns=_TURNS, calm=_CALM, functions=_FUNCTIONS),
        results=tuple(
            result
            for name, gaps in found.items()
            for result in (
                *([_result(f"longest wait, {name}", max(gaps.held, default=0.0))] if name != CONTROL else ()),
                *([_result(f"work at a time, {name}", gaps.usual, TARGET_MS)] if name in OURS else ()),
                *([_result(f"work at a time, {name}", gaps.usual)] if name == CONTROL else ()),
            )
        ),
        figures={
            name: {
                "gaps": len(gaps.wall),
                "waits over 1 ms": _over(gaps.held),
                "longest work, ms": round(max(gaps.worked, default=0.0), 2),
                "work over 1 ms": _over(gaps.worked),
                "pieces of work": len(gaps.worked),
                "longest with GC, ms": round(max(gaps.collected, default=0.0), 2),
                "s": round(gaps.seconds, 2),
            }
            for name, gaps in found.items()
        },
    )


def _result(name: str, found: float, target: float | None = None) -> Result:
    return Result(name=name, value=found, unit="ms", better="less", target=target)


def _usual(work: list[float]) -> float:
    """Return what work takes at most, in all but one case of a thousand."""
    return sorted(work)[-1 - int(len(work) * _ALL_BUT)] if work else 0.0


def _cases(items: int) -> Iterator[tuple[str, Gaps]]:
    with receiving() as endpoint:
        yield NOTHING, watch(_after(min(1.0, items / _ITEMS)))
        turns = _TURNS if items >= _ITEMS else _CALM  # a few do to see that it works
        part = items // turns
        ours: tuple[Callable[[], Gaps], ...] = (
            lambda: _looking(part),
            lambda: _exporting(part, endpoint, "encoder"),
            lambda: _exporting(part, endpoint, "delivery"),
            lambda: _collecting(_COLLECTIONS * items // _ITEMS // turns + 1, endpoint),
        )
        controls = Gaps()
        for name, case in zip(OURS, ours, strict=True):
            gaps = _in_turns(partial(_working, case), turns, min(_CONTROLS, items // 100))
            controls.worked += gaps.control
            yield name, gaps
        yield SDK, _exporting(items, endpoint, "sdk")
        yield CONTROL, controls


def _in_turns(turn: Callable[[], Gaps], turns: int, controls: int) -> Gaps:
    """Repeat a turn, and keep the work of those in which the machine was calm."""
    found, tried = Gaps(), list[Gaps]()
    before = _looping(controls)
    for _ in range(turns):
        gaps, after = turn(), _looping(controls)
        gaps.control, before = before + after, after
        tried.append(gaps)
        found.seconds += gaps.seconds
        found.wall += gaps.wall
        found.held += gaps.held
        found.collected += gaps.collected
    for gaps in sorted(tried, key=lambda each: max(each.control, default=0.0))[:_CALM]:
        found.worked += gaps.worked
        found.control += gaps.control
    return found


def _working(case: Callable[[], Gaps]) -> Gaps:
    work = Work()
    with work.measured():
        gaps = case()
    gaps.worked = work.ms
    return gaps


def _show(name: str, gaps: Gaps) -> bool:
    print(
        f"{name:44s} {len(gaps.wall):6,d} {max(gaps.wall, default=0.0):8.2f} {max(gaps.held, default=0.0):8.2f} "
        f"{max(gaps.collected, default=0.0):8.2f} {gaps.usual:8.2f} {_over(gaps.worked):7d} {gaps.seconds:6.2f}"
    )
    return gaps.usual <= TARGET_MS


def _over(work: list[float]) -> int:
    return sum(each > TARGET_MS for each in work)


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def _looping(pieces: int) -> list[float]:
    """Do the same work again and again, with pauses; returns what it took, in milliseconds."""
    spent, worked = time.thread_time_ns, list[float]()

    def work(times: int) -> None:
        for number in range(times):
            hash(number)

    def calibrated() -> int:
        begun = spent()
        work(100_000)
        return round(100_000 * _CONTROL_MS * 1e6 / (spent() - begun))

    def repeat() -> None:
        times = calibrated()
        for _ in range(pieces):
            time.sleep(0.00005)
            begun = spent()
            work(times)
            worked.append((spent() - begun) / 1e6)

    with _elsewhere(repeat) as done:
        watch(done)
    return worked


def _looking(number: int) -> Gaps:
    from crucible_otel.export.backlog import Bounds
    from crucible_otel.export.batching import BatchQueue

    def look(batch: Any) -> None:
        for item in batch:
            hash((item.number, item.nbytes))

    queue = BatchQueue(look, name="looking", bounds=Bounds(delay_s=1000))
    waiting = iter([[Item(each) for each in range(number)], *[()] * number])
    queue.sources.append(lambda everything: next(waiting))
    with _elsewhere(lambda: queue.force_flush(600_000)) as done:
        gaps = watch(done)
    queue.shutdown()
    return gaps


def _exporting(number: int, endpoint: str, what: str) -> Gaps:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from crucible_otel.config.settings import Settings
    from crucible_otel.export.encode_spans import span_encoder
    from crucible_otel.export.otlp import build_span_delivery
    from crucible_otel.export.queues import SpanQueue
    from crucible_otel.export.tally import Ledger

    kept: list[Any] = []

    class Keep(SpanProcessor):
        def on_end(self, span: Any) -> None:
            kept.append(span)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Keep())
    tracer = provider.get_tracer("benchmark")
    for each in range(number):
        tracer.start_span(f"span {each}", attributes=_ATTRIBUTES).end()
    processor: Any
    ledger = Ledger()
    if what == "sdk":
        exporter = OTLPSpanExporter(f"{endpoint}/v1/traces")
        processor = BatchSpanProcessor(exporter, max_queue_size=number, schedule_delay_millis=1_000_000)
    else:
        delivery = build_span_delivery(Settings(endpoint=endpoint).resolve({}), ledger, {})
        if what == "encoder":
            encoder = span_encoder()
            delivery.export = lambda batch: encoder.encode(batch).let_go()  # type: ignore[method-assign, assignment, return-value]
        processor = SpanQueue(delivery, ledger, {"OTEL_BSP_SCHEDULE_DELAY": "1000000"}, max_bytes=2**34)
    while kept:  # nobody else holds them any more
        processor.on_end(kept.pop())

    with _elsewhere(lambda: processor.force_flush(600_000)) as done:
        gaps = watch(done)
    processor.shutdown()
    assert what != "delivery" or number == ledger.tallies[0].counts.delivered, ledger.tallies[0].counts
    return gaps


def _collecting(number: int, endpoint: str) -> Gaps:
    """Collect the metrics of calls of many functions again and again."""
    import crucible_otel as cx

    options: dict[str, Any] = {"traces_exporter": "none", "logs_exporter": "none", "prometheus_port": 0, "gpu": "off"}
    with cx.configure(endpoint=endpoint, **options) as telemetry:
        for function in range(_FUNCTIONS):
            phases = dict.fromkeys(("queue_ns", "serialize_ns", "execute_ns", "deserialize_ns"), 1_000_000)
            cx.call("library", f"function {function}").record(5_000_000, **phases, nbytes=1024)
        with _elsewhere(lambda: [telemetry.flush(600) for _ in range(number)]) as done:
            return watch(done)


@contextmanager
def _elsewhere(work: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Do something on another thread; gives what says whether it is done."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    yield done.is_set
    thread.join()


if __name__ == "__main__":
    sys.exit(main())
