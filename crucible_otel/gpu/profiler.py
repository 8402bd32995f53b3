"""The GPU profiler: samples kept in memory, newest first, and what a handle can do with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

from crucible_otel.errors import ConfigurationError
from crucible_otel.gpu.sampler import Subscription
from crucible_otel.gpu.shared import sampler, source
from crucible_otel.gpu.snapshot import GpuSnapshot
from crucible_otel.gpu.telling import sampled_fields
from crucible_otel.semconv.gpu import METRICS
from crucible_otel.semconv.prometheus import TYPES, label_name, sample_names
from crucible_otel.semconv.seed import GPU as SEED_METRICS

__all__ = ["SHORTEST_MS", "GPUProfiler", "Sample", "history"]

Sample = tuple[datetime, dict[str, dict[str, Any]]]
"""When (UTC), and what was read, by device: ``used_mb``, ``total_mb``, ``free_mb`` (whole MiB), ``gpu_percent``,
``memory_percent``, ``celsius``, ``watts``, ``limit_watts``, ``joules`` since sampling began; with PyTorch on the GPU
``allocated_mb`` and ``reserved_mb`` of this process. What a device does not have is not in it."""

SHORTEST_MS: Final = 100
"""The shortest interval; the driver measures no faster."""

_latest: GPUProfiler | None = None


class GPUProfiler:
    """Samples the GPUs periodically and keeps the last samples. Made by :meth:`start`.

    It needs no ``configure()``. Where there is no GPU it starts, and does nothing. All profilers and the automatic GPU
    metrics share one thread; every sample also goes to handlers of the ``snakepit.gpu.*.sampled`` events.
    """

    def __init__(self, *, interval_ms: int, max_samples: int) -> None:
        self._interval_ms = interval_ms
        self._samples: deque[tuple[int, dict[str, dict[str, Any]]]] = deque(maxlen=max_samples)
        self._taken = self._devices = 0
        self._enabled = self._stopped = False
        self._subscription: Subscription | None = None

    @classmethod
    def start(cls, *, interval_ms: int = 5000, enabled: bool = True, max_samples: int = 1000) -> GPUProfiler:
        """Start a profiler.

        Args:
            interval_ms: Milliseconds between two samples.
            enabled: Whether it samples periodically from the beginning.
            max_samples: How many samples are kept; the oldest give way.

        Returns:
            The handle; :func:`history` reads the one that was started last.

        Raises:
            ConfigurationError: An interval below 100 ms, or no room for a sample.
        """
        global _latest
        if isinstance(max_samples, bool) or not isinstance(max_samples, int) or max_samples < 1:
            raise ConfigurationError("max_samples", max_samples, "a whole number of at least 1")
        profiler = cls(interval_ms=_checked(interval_ms), max_samples=max_samples)
        if enabled:
            profiler.enable()
        _latest = profiler
        return profiler

    def sample_now(self, timeout_s: float = 5.0) -> dict[str, dict[str, Any]] | None:
        """Take a sample at once, also while disabled.

        Args:
            timeout_s: How long to wait for the driver.

        Returns:
            The sample by device, as in :data:`Sample`; None when there is none.
        """
        if self._stopped or not self._subscribe():
            return None
        snapshot = sampler().sample_now(timeout_s)
        return _by_device(snapshot) if snapshot is not None else None

    def history(self, limit: int = 100) -> list[Sample]:
        """Return the newest samples, newest first.

        Args:
            limit: How many at most.
        """
        kept = list(self._samples)[::-1][: max(0, limit)]
        return [
            (_moment(taken_ns), {name: dict(found) for name, found in devices.items()}) for taken_ns, devices in kept
        ]

    def get_stats(self) -> dict[str, Any]:
        """Return ``sample_count`` (taken so far), ``last_sample_time`` (UTC, or None) and ``device_count``."""
        last = self._samples[-1][0] if self._samples else None
        return {
            "sample_count": self._taken,
            "last_sample_time": _moment(last) if last is not None else None,
            "device_count": self._devices,
        }

    def enable(self) -> None:
        """Sample periodically; a second call changes nothing."""
        if not self._stopped and not self._enabled:
            self._enabled = True
            self._apply()
        elif self._enabled and self._subscription is not None and not self._subscription.active:
            self._apply()  # a forked child goes on by itself

    def disable(self) -> None:
        """Sample no more until :meth:`enable`; what was sampled stays."""
        self._enabled = False
        if self._subscription is not None:
            self._subscription.set_interval(None)

    def set_interval(self, interval_ms: int) -> None:
        """Sample this often from now on.

        Args:
            interval_ms: Milliseconds between two samples.

        Raises:
            ConfigurationError: It is below 100 ms.
        """
        self._interval_ms = _checked(interval_ms)
        if self._enabled:
            self._apply()

    def stop(self) -> None:
        """End it; what was sampled can still be read."""
        self._stopped, self._enabled = True, False
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    @staticmethod
    def definitions(*, seed: bool = False) -> list[dict[str, Any]]:
        """Return what the GPU metrics are, for Prometheus: name, query name, type, unit, labels, description.

        Args:
            seed: Whether under the names of Snakepit's documents, which ``CRUCIBLE_OTEL_SEED_METRICS`` switches on.
        """
        return [
            {
                "name": metric.name,
                "prometheus_name": sample_names(metric)[0],
                "type": TYPES[metric.kind],
                "unit": metric.unit,
                "labels": tuple(map(label_name, metric.attributes)),
                "description": metric.brief,
            }
            for metric in ((each.metric for each in SEED_METRICS) if seed else METRICS)
        ]

    def _apply(self) -> None:
        if self._subscribe() and self._subscription is not None:
            self._subscription.set_interval(self._interval_ms / 1000 if self._enabled else None)

    def _subscribe(self) -> bool:
        if self._subscription is None or not self._subscription.active:
            if not source().is_there():
                return False
            self._subscription = sampler().subscribe(None, self._keep)
        return True

    def _keep(self, snapshot: GpuSnapshot) -> None:
        found = _by_device(snapshot)
        if found:
            self._samples.append((snapshot.taken_ns, found))
            self._taken, self._devices = self._taken + 1, len(found)


def history(limit: int = 100) -> list[Sample]:
    """Return the newest samples of the profiler that was started last, newest first; none without one.

    Args:
        limit: How many at most.
    """
    return _latest.history(limit) if _latest is not None else []


def _by_device(snapshot: GpuSnapshot) -> dict[str, dict[str, Any]]:
    found: Mapping[str, dict[str, Any]] = {
        state.name: sampled_fields(state) for state in snapshot.devices if not state.lost
    }
    return {name: fields for name, fields in found.items() if fields}


def _moment(taken_ns: int) -> datetime:
    return datetime.fromtimestamp(taken_ns / 1e9, timezone.utc)


def _checked(interval_ms: object) -> int:
    if isinstance(interval_ms, bool) or not isinstance(interval_ms, int) or interval_ms < SHORTEST_MS:
        raise ConfigurationError("interval_ms", interval_ms, f"a whole number of at least {SHORTEST_MS} milliseconds")
    return interval_ms
