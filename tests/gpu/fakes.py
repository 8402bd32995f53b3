"""GPUs of the tests: the fake behind the real sampler, and what is made of its snapshots."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.sampler import Sampler
from crucible_otel.gpu.shared import Source, use
from crucible_otel.gpu.snapshot import GpuSnapshot
from crucible_otel.gpu.watch import Watch
from crucible_otel.testing.nvml import FakeNvml

PATIENCE_S = 30.0


@contextmanager
def found(nvml: FakeNvml | None, folder: Path | None = None) -> Iterator[None]:
    """Have the package find these GPUs, or none."""
    before = use(Source(make=lambda: nvml, is_there=lambda: nvml is not None, folder=lambda: folder))  # type: ignore[arg-type,return-value]
    try:
        yield
    finally:
        use(before)


def watching(nvml: FakeNvml, told: list[tuple[Any, ...]] | None = None, **options: Any) -> Watch:
    """Return a watch over all GPUs, opened; losses and XIDs go to the list."""
    nvml.open()
    kept: list[tuple[Any, ...]] = [] if told is None else told
    return Watch(
        nvml,
        options.pop("ownership", Ownership(None)),
        on_lost=lambda state, reason: kept.append(("lost", state.device.uuid, reason)),
        on_fault=lambda state, code: kept.append(("xid", state.device.uuid, code)),
        environ=options.pop("environ", {}),
        **options,
    )


class Samples:
    """What a subscriber got, and a way to wait for more."""

    def __init__(self) -> None:
        self.all: list[GpuSnapshot] = []
        self._arrived = threading.Condition()

    def __call__(self, snapshot: GpuSnapshot) -> None:
        """Take one."""
        with self._arrived:
            self.all.append(snapshot)
            self._arrived.notify_all()

    def wait_for(self, count: int) -> list[GpuSnapshot]:
        """Return them when there are so many."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.all) >= count, PATIENCE_S)
            return list(self.all)


def sampling(nvml: FakeNvml, **options: Any) -> Sampler:
    """Return a sampler that reports all devices."""
    return Sampler(lambda: nvml, lambda: Ownership(None), **options)


def eventually(condition: Callable[[], object]) -> bool:
    """Whether something comes true in reasonable time."""
    waiting, tries = threading.Event(), 0
    while not condition():
        tries += 1
        if tries > PATIENCE_S * 100:
            return False
        waiting.wait(0.01)
    return True
