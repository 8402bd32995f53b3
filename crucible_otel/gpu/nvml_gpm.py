"""What the SMs do, by NVML's GPM (Hopper and newer): the difference of two samples."""

from __future__ import annotations

import ctypes
import math
import struct
from typing import Any

from crucible_otel.gpu.nvml_calls import Calls
from crucible_otel.gpu.nvml_fields import GPM_PIPES, GPM_RATIOS

__all__ = ["Activity"]

_METRICS = (*GPM_RATIOS, *GPM_PIPES)
_RESULT = struct.Struct(f"@IId{3 * struct.calcsize('P')}s")
"""``nvmlGpmMetric_t``: metric, return, value, and three texts."""


class Activity:
    """The two samples of one device, used in turn. A buffer is never shared: two readers of one have crashed drivers.

    Args:
        library: The module ``pynvml``.
        calls: Of the GPU; of a MIG instance those of its GPU.
        instance: The MIG instance's GPU instance id, or None.
    """

    def __init__(self, library: Any, calls: Calls, instance: int | None = None) -> None:
        self._library, self._calls, self._instance = library, calls, instance
        self._key = ("gpm", instance)
        self._samples: list[Any] = []
        self._taken = 0
        self._request: Any = None
        self._results: Any = None

    def read(self) -> dict[str, Any]:
        """Return the ratios since the last call, as attributes of a reading; nothing on the first.

        Raises:
            DeviceLostError: The device is gone.
        """
        found = self._calls.run(self._key, self._read)
        return found if found is not None else {}

    def close(self) -> None:
        """Free the samples."""
        samples, self._samples, self._taken = self._samples, [], 0
        for sample in samples:
            try:
                self._library.nvmlGpmSampleFree(sample)
            except self._library.NVMLError:
                continue

    def _read(self) -> dict[str, Any]:
        library, calls = self._library, self._calls
        if not self._samples:
            if not library.nvmlGpmQueryDeviceSupport(calls.handle).isSupportedDevice:
                raise library.NVMLError(library.NVML_ERROR_NOT_SUPPORTED)
            self._samples = [library.nvmlGpmSampleAlloc(), library.nvmlGpmSampleAlloc()]
        now = self._samples[self._taken % 2]
        if self._instance is None:
            library.nvmlGpmSampleGet(calls.handle, now)
        else:
            library.nvmlGpmMigSampleGet(calls.handle, self._instance, now)
        self._taken += 1
        return self._between(self._samples[self._taken % 2], now) if self._taken > 1 else {}

    def _between(self, before: Any, now: Any) -> dict[str, Any]:
        request = self._request
        if request is None:
            request = self._request = self._library.c_nvmlGpmMetricsGet_t()
            request.version, request.numMetrics = self._library.NVML_GPM_METRICS_GET_VERSION, len(_METRICS)
            for index, metric in enumerate(_METRICS):
                request.metrics[index].metricId = metric
            size = ctypes.sizeof(self._library.c_nvmlGpmMetric_t)
            place = type(request).metrics.offset
            self._results = (ctypes.c_char * (size * len(_METRICS))).from_buffer(request, place)
        request.sample1, request.sample2 = before, now
        self._library.nvmlGpmMetricsGet(request)
        ratios: dict[str, Any] = {}
        pipes: dict[str, float] = {}
        for metric, (_, code, percent, _) in zip(_METRICS, _RESULT.iter_unpack(self._results), strict=True):
            if code or not math.isfinite(percent):
                continue
            if metric in GPM_RATIOS:
                ratios[GPM_RATIOS[metric]] = percent / 100
            else:
                pipes[GPM_PIPES[metric]] = percent / 100
        return {**ratios, "pipe_active_ratio": pipes} if pipes else ratios
