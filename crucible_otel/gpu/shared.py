"""The one sampler of this process, shared by the exporter and every profiler; and where its backend comes from."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crucible_otel.gpu import telling
from crucible_otel.gpu.backend import GpuBackend
from crucible_otel.gpu.ownership import Ownership, runtime_folder
from crucible_otel.gpu.sampler import Sampler

__all__ = ["NVML", "Source", "sampler", "source", "use"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where GPUs are found.

    Attributes:
        make: Makes the backend; called on the sampler's thread.
        is_there: Whether there can be anything to find; quick, and nothing is started when it says no.
        folder: Where the lock files of the devices are; None where there is no private place.
    """

    make: Callable[[], GpuBackend]
    is_there: Callable[[], bool]
    folder: Callable[[], Path | None] = runtime_folder


def _nvml() -> GpuBackend:
    from crucible_otel.gpu.nvml import NvmlBackend

    return NvmlBackend()


def _nvml_is_there() -> bool:
    from crucible_otel.gpu.nvml import library_is_there

    return library_is_there()


NVML: Final = Source(make=_nvml, is_there=_nvml_is_there)

_lock = threading.Lock()
_source: Source = NVML
_sampler: Sampler | None = None


def source() -> Source:
    """Return where GPUs are found."""
    return _source


def use(new: Source) -> Source:
    """Find GPUs elsewhere from now on, as a test does, and return where they were found before."""
    global _source, _sampler
    with _lock:
        before, _source, _sampler = _source, new, None
    return before


def sampler() -> Sampler:
    """Return the sampler; its thread runs while somebody subscribes."""
    global _sampler
    with _lock:
        if _sampler is None:
            given = _source
            _sampler = Sampler(
                given.make,
                lambda: Ownership(given.folder()),
                on_sample=telling.sample,
                on_lost=telling.lost,
                on_fault=telling.xid,
                on_error=telling.failed_inside,
                on_poll=telling.polled,
            )
        return _sampler
