"""GPU metrics without a line of code: what ``configure()`` starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from opentelemetry.metrics import Meter

from crucible_otel.events.runtime import runtime
from crucible_otel.gpu import telling
from crucible_otel.gpu.energy import ScopeEnergy
from crucible_otel.gpu.instruments import Instruments
from crucible_otel.gpu.sampler import STALE_AFTER, Sampler, Subscription
from crucible_otel.gpu.shared import sampler, source
from crucible_otel.gpu.snapshot import GpuSnapshot
from crucible_otel.semconv.seed import OFF

__all__ = ["LAST_SAMPLE_S", "GpuExport", "start"]

logger = logging.getLogger("crucible_otel")

LAST_SAMPLE_S: Final = 0.3
"""How long the end of the program waits for a last sample."""


class GpuExport:
    """Samples the GPUs for the instruments of one meter and the energy of scopes; :func:`start` makes it.

    Args:
        meter: Where the instruments are.
        interval_s: Between two samples.
        devices: See :func:`crucible_otel.gpu.selection.choose`.
        insist: Whether it is worth a warning when there is nothing to sample.
        names: Under which names; see :func:`crucible_otel.gpu.instruments.observations`.
    """

    def __init__(
        self, meter: Meter, *, interval_s: float, devices: Sequence[str], insist: bool, names: str = OFF
    ) -> None:
        self._interval_s, self._devices, self._insist = interval_s, tuple(devices), insist
        self._sampler: Sampler = sampler()
        self._subscription: Subscription | None = None
        self._instruments = Instruments.of(meter, names)
        self._instruments.bind(self._fresh)
        self._energy = ScopeEnergy(self._sampler, STALE_AFTER * interval_s)
        self._runtime = runtime()
        self._runtime.hooks = (*self._runtime.hooks, self._energy.opened)
        self.resume()

    def resume(self) -> None:
        """Sample, if it does not: in a forked child it begins anew."""
        if self._subscription is None or not self._subscription.active:
            self._sampler.wanted = self._devices
            self._sampler.on_unavailable, self._sampler.on_unknown = self._unavailable, self._unknown
            self._energy.forget()
            self._subscription = self._sampler.subscribe(self._interval_s, self._energy.sampled, detailed=False)

    def leave(self, timeout_s: float = LAST_SAMPLE_S) -> None:
        """Take a last sample, if that is quick, and sample no more; what was sampled can still be collected."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close(timeout_s)

    def close(self) -> None:
        """Report nothing any more."""
        self.leave(0)
        self._instruments.unbind(self._fresh)
        self._runtime.hooks = tuple(hook for hook in self._runtime.hooks if hook != self._energy.opened)

    def _fresh(self) -> GpuSnapshot:
        return self._sampler.fresh(self._interval_s)

    def _unavailable(self, reason: str) -> None:
        _say_none(self._insist, reason)

    def _unknown(self, words: Sequence[str]) -> None:
        logger.warning("gpu_devices: no GPU is meant by %s", ", ".join(words))


def start(meter: Meter, *, mode: str, interval_s: float, devices: Sequence[str], names: str = OFF) -> GpuExport | None:
    """Start the GPU metrics.

    Args:
        meter: Where the instruments are made; any OpenTelemetry meter.
        mode: ``auto``: where there is a driver; ``on``: with a warning where there is none; ``off``.
        interval_s: Between two samples.
        devices: See :func:`crucible_otel.gpu.selection.choose`.
        names: See :func:`crucible_otel.gpu.instruments.observations`.

    Returns:
        What stops them; None when there is nothing to start. Then nothing was loaded, and no thread runs.
    """
    if mode == "off":
        return None
    try:
        if source().is_there():
            return GpuExport(meter, interval_s=interval_s, devices=devices, insist=mode == "on", names=names)
    except Exception as error:  # as where no thread can be started: the rest of telemetry goes on without GPUs
        telling.failed_inside(error)
        return None
    _say_none(mode == "on", "the driver's library was not found")
    return None


def _say_none(insist: bool, reason: str) -> None:
    logger.log(logging.WARNING if insist else logging.INFO, "no GPU metrics: %s", reason)
