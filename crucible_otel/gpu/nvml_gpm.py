"""What the SMs do, by NVML's GPM (Hopper and newer): the difference of two samples."""

from __future__ import annotations

import ctypes
import struct
from math import isfinite
from typing import Any

from crucible_otel.gpu.nvml_calls import Calls
from crucible_otel.gpu.nvml_fields import GPM_PIPES, GPM_RATIOS

__all__ = ["Activity"]

_METRICS = (*GPM_RATIOS, *GPM_PIPES)
_PLACES = (*((name, False) for name in GPM_RATIOS.values()), *((name, True) for name in GPM_PIPES.values()))
"""What each is called, and whether it is a pipe."""
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
        self._library, self._calls = library, calls
        self._key = ("gpm", instance)
        self._before_sample = () if instance is None else (instance,)
        self._get = "nvmlGpmSampleGet" if instance is None else "nvmlGpmMigSampleGet"
        self._samples: tuple[Any, ...] = ()
        self._requests: tuple[tuple[Any, Any], ...] = ()
        self._taken = 0

    def read(self) -> dict[str, Any]:
        """Return the ratios since the last call, as attributes of a reading; nothing on the first.

        Raises:
            DeviceLostError: The device is gone.
        """
        found = self._calls.run(self._key, self._read)
        return found if found is not None else {}

    def close(self) -> None:
        """Free the samples."""
        samples, self._samples, self._requests, self._taken = self._samples, (), (), 0
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
            self._samples = library.nvmlGpmSampleAlloc(), library.nvmlGpmSampleAlloc()
            self._requests = self._request(1, 0), self._request(0, 1)
        turn = self._taken % 2
        calls.check(calls.function(self._get)(calls.handle, *self._before_sample, self._samples[turn]))
        self._taken += 1
        return self._between(*self._requests[turn]) if self._taken > 1 else {}

    def _request(self, before: int, now: int) -> tuple[Any, Any]:
        """Return the question about two of the samples, and where its answers will be."""
        library = self._library
        request = library.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = library.NVML_GPM_METRICS_GET_VERSION, len(_METRICS)
        request.sample1, request.sample2 = self._samples[before], self._samples[now]
        for index, metric in enumerate(_METRICS):
            request.metrics[index].metricId = metric
        size = ctypes.sizeof(library.c_nvmlGpmMetric_t) * len(_METRICS)
        return request, (ctypes.c_char * size).from_buffer(request, type(request).metrics.offset)

    def _between(self, request: Any, answers: Any) -> dict[str, Any]:
        self._calls.check(self._calls.function("nvmlGpmMetricsGet")(ctypes.byref(request)))
        ratios: dict[str, Any] = {}
        pipes: dict[str, float] = {}
        for (name, pipe), (_, code, percent, _) in zip(_PLACES, _RESULT.iter_unpack(answers), strict=True):
            if not code and isfinite(percent):
                (pipes if pipe else ratios)[name] = percent / 100
        if pipes:
            ratios["pipe_active_ratio"] = pipes
        return ratios
