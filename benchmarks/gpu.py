"""What sampling GPUs costs: the CPU time of a tick and of a collection, over the NVML library without a GPU.

    python -m benchmarks.gpu

The library answers at once, so these are the costs of Python and of pynvml, without what a real driver adds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.metrics import CallbackOptions

from crucible_otel.gpu.instruments import Instruments, observations
from crucible_otel.gpu.nvml import NvmlBackend
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.snapshot import GpuSnapshot
from crucible_otel.gpu.watch import Watch
from tests.gpu.stub import Stub

INTERVAL_S = 5.0
ROUNDS = 300


class CollectingMeter:
    """Keeps the callbacks of observable instruments."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[CallbackOptions], object]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda name, callbacks, **more: self.callbacks.extend(callbacks)


def cpu_us(run: Callable[[], object]) -> float:
    """Return the median CPU time of a call, in microseconds."""
    found = []
    for _ in range(ROUNDS):
        before = time.thread_time_ns()
        run()
        found.append((time.thread_time_ns() - before) / 1000)
    return statistics.median(found)


def measure(gpus: int, folder: Path) -> tuple[float, float, float]:
    """Return the CPU time of a fast tick, of one with slow readings, and of a collection after a tick, in us."""
    stub = Stub(folder, "h100x8", reload_ms=3_600_000)
    stub.add(f"gpus = {gpus}")
    with stub.loaded():
        backend = NvmlBackend()
        backend.open()
        watches = [
            Watch(
                backend,
                Ownership(None),
                on_lost=print,
                on_fault=print,
                environ={},
                slow_every_s=every_s,
            )
            for every_s in (1e9, 0.0)
        ]
        fast, slow = (cpu_us(lambda watch=watch: watch.tick(time.monotonic(), 0)) for watch in watches)
        snapshot = watches[0].tick(time.monotonic(), 0)
        meter = CollectingMeter()
        instruments = Instruments(meter)  # type: ignore[arg-type]
        snapshots: list[GpuSnapshot] = []

        def collect() -> None:
            snapshots[:] = [GpuSnapshot(taken_s=0.0, taken_ns=1, devices=snapshot.devices)]
            for callback in meter.callbacks:
                callback(CallbackOptions())

        instruments.bind(lambda: snapshots[0])
        collection = cpu_us(collect)
        series = sum(len(points) for points in observations(snapshot).values())
        print(
            f"{gpus:>4}  {fast:>10.0f}  {slow:>10.0f}  {collection:>10.0f}  {series:>6}"
            f"  {(fast * 5 + slow) / 6 / 1e6 / INTERVAL_S:>12.4%}"
        )
        backend.close()
    return fast, slow, collection


def main() -> None:
    """Print the table."""
    print("GPUs   tick (us)   slow (us)  collect (us) series  of a core, every 5 s")
    with tempfile.TemporaryDirectory() as folder:
        for gpus in (1, 8, 16):
            measure(gpus, Path(folder) / str(gpus))


if __name__ == "__main__":
    main()
