"""What sampling GPUs costs: the CPU time of a tick and of a collection, over the NVML library without a GPU.

    python -m benchmarks.gpu               # on a clock that the benchmark moves
    python -m benchmarks.gpu --awake 60    # and a real sampler for a minute, with its waking up

The library answers at once, so these are the costs of Python and of pynvml, without what a real driver adds. A tick is
the mean over 30 s of the default interval: six fast readings, three looks at the processes, one slow reading. It is
measured twice: one tick after the other, and with something between two ticks that takes the processor's caches, as
the program does in five seconds. A tick keeps what it is told as it comes: a collection, which comes once a minute,
makes out what the ticks before it were told, and is printed beside them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from opentelemetry.metrics import CallbackOptions

from crucible_otel.gpu.instruments import Instruments, observations
from crucible_otel.gpu.nvml import NvmlBackend
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.sampler import Sampler
from crucible_otel.gpu.snapshot import GpuSnapshot
from crucible_otel.gpu.watch import SLOW_EVERY_S, Watch
from tests.gpu.stub import Stub

INTERVAL_S = 5.0
GPUS = (1, 8, 16)
CYCLES = 60
TICKS_A_COLLECTION: Final = 12
"""At the default intervals: it makes out what they were told."""
CACHES = bytearray(64 * 1024 * 1024)
"""More than fits into the caches of a processor."""
TRIED: Final = 10
"""Ticks before a sampler is measured: with the first ones it learns what the devices can be asked."""
COLDER: Final = 6
"""Of how many cycles one is also measured with cold caches, which takes longer."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What was measured with so many GPUs.

    Attributes:
        gpus: How many.
        tick_us: CPU time of a tick, the mean of 30 s; the median of many such.
        cold_us: The same with cold caches.
        collect_us: CPU time of a collection after the ticks of a minute.
        series: What it reports.
    """

    gpus: int
    tick_us: float
    cold_us: float
    collect_us: float
    series: int

    @property
    def of_a_core(self) -> float:
        """Part of a core that ticks every five seconds take."""
        return self.tick_us / 1e6 / INTERVAL_S

    @property
    def of_a_core_cold(self) -> float:
        """The same with cold caches."""
        return self.cold_us / 1e6 / INTERVAL_S

    @property
    def of_a_core_collected(self) -> float:
        """Part of a core that cold ticks and a collection a minute take together."""
        return self.of_a_core_cold + self.collect_us / 1e6 / INTERVAL_S / TICKS_A_COLLECTION


class CollectingMeter:
    """Keeps the callbacks of observable instruments."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[CallbackOptions], object]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda name, callbacks, **more: self.callbacks.extend(callbacks)


def cpu_us(run: Callable[[], object], rounds: int, before: Callable[[], object] = lambda: None) -> float:
    """Return the median CPU time of a call, in microseconds, without what is done before each."""
    found = []
    for _ in range(rounds):
        before()
        begun_ns = time.thread_time_ns()
        run()
        found.append((time.thread_time_ns() - begun_ns) / 1000)
    return statistics.median(found)


def stub(gpus: int, folder: Path) -> Stub:
    """Return a node of so many H100."""
    made = Stub(folder, "h100x8", reload_ms=3_600_000)
    made.add(f"gpus = {gpus}")
    return made


def measure(gpus: int, folder: Path, cycles: int = CYCLES) -> Cost:
    """Measure ticks and collections.

    Args:
        gpus: How many.
        folder: For the scenario.
        cycles: How often 30 s are measured.
    """
    with stub(gpus, folder).loaded():
        backend = NvmlBackend()
        backend.open()
        watch = Watch(backend, Ownership(None), on_lost=print, on_fault=print, environ={})
        ticks, now_s = round(SLOW_EVERY_S / INTERVAL_S), 0.0

        def tick() -> GpuSnapshot:
            nonlocal now_s
            now_s += INTERVAL_S
            return watch.tick(now_s, 0, detailed=False)

        def cycle() -> None:
            for _ in range(ticks):
                tick()

        cycle()  # what is tried once
        tick_us = cpu_us(cycle, cycles) / ticks
        cold = [cpu_us(tick, 1, before=lambda: bytes(CACHES)) for _ in range(ticks * max(cycles // COLDER, 1))]
        cold_us = statistics.median(sum(cold[at : at + ticks]) / ticks for at in range(0, len(cold), ticks))
        meter = CollectingMeter()
        instruments = Instruments(meter)  # type: ignore[arg-type]
        snapshot = GpuSnapshot(taken_s=0.0, taken_ns=0)

        def minute() -> None:
            nonlocal snapshot
            for _ in range(TICKS_A_COLLECTION):
                snapshot = tick()

        def collect() -> None:
            for callback in meter.callbacks:
                callback(CallbackOptions())

        instruments.bind(lambda: snapshot)
        collect_us = cpu_us(collect, cycles, before=minute)
        backend.close()
    series = sum(len(points) for points in observations(snapshot).values())
    return Cost(gpus=gpus, tick_us=tick_us, cold_us=cold_us, collect_us=collect_us, series=series)


def awake(gpus: int, folder: Path, duration_s: float, interval_s: float = INTERVAL_S) -> tuple[int, float]:
    """Return how often a sampler ticked in a time, and the part of a core that its thread took."""
    with stub(gpus, folder).loaded():
        sampler, taken = Sampler(NvmlBackend, lambda: Ownership(None)), list[GpuSnapshot]()
        subscription = sampler.subscribe(0.01, taken.append, detailed=False)
        while len(taken) < TRIED:
            time.sleep(0.01)
        subscription.set_interval(interval_s)
        (thread,) = (each for each in threading.enumerate() if each.name == "crucible-otel-gpu")
        clock = time.pthread_getcpuclockid(thread.ident or 0)
        begun_s, before_s, ticks = time.monotonic(), time.clock_gettime(clock), len(taken)
        time.sleep(duration_s)
        part = (time.clock_gettime(clock) - before_s) / (time.monotonic() - begun_s)
        ticks = len(taken) - ticks
        subscription.close()
        thread.join()
    return ticks, part


def waking(duration_s: float, interval_s: float = INTERVAL_S) -> float:
    """Return the part of a core that a thread takes which wakes up so often and does nothing."""
    spent_s = 0.0

    def wake() -> None:
        nonlocal spent_s
        lock, begun_s = threading.Lock(), time.thread_time()
        lock.acquire()
        for _ in range(max(round(duration_s / interval_s), 1)):
            lock.acquire(timeout=interval_s)
        spent_s = time.thread_time() - begun_s

    thread = threading.Thread(target=wake)
    thread.start()
    thread.join()
    return spent_s / duration_s


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=CYCLES, help="how often 30 s are measured")
    parser.add_argument("--awake", type=float, metavar="SECONDS", help="let a real sampler run for so long, too")
    options = parser.parse_args(argv)
    print("GPUs  us a tick  us a GPU    cold  us a collection  series  of a core, every 5 s     cold  and collected")
    with tempfile.TemporaryDirectory() as folder:
        for gpus in GPUS:
            cost = measure(gpus, Path(folder) / str(gpus), options.cycles)
            print(
                f"{gpus:>4}  {cost.tick_us:>9.0f}  {cost.tick_us / gpus:>8.0f}  {cost.cold_us:>6.0f}"
                f"  {cost.collect_us:>15.0f}  {cost.series:>6}  {cost.of_a_core:>22.4%}  {cost.of_a_core_cold:>7.4%}"
                f"  {cost.of_a_core_collected:>13.4%}",
                flush=True,
            )
        if options.awake:
            print(f"a thread that only wakes up every 5 s: {waking(options.awake):.4%} of a core", flush=True)
        for gpus in GPUS if options.awake else ():
            ticks, part = awake(gpus, Path(folder) / f"awake{gpus}", options.awake)
            print(f"a sampler of {gpus} GPUs, {ticks} ticks in {options.awake:g} s: {part:.4%} of a core", flush=True)


if __name__ == "__main__":
    main()
