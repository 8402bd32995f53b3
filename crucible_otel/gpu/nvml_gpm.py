"""What the SMs do, by NVML's GPM (Hopper and newer): the difference of two samples."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from math import isfinite
from typing import Any

from crucible_otel.gpu.nvml_calls import Calls
from crucible_otel.gpu.nvml_fields import GPM_PIPES, GPM_RATIOS

__all__ = ["Activity", "ratios"]

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
        self._get_name = "nvmlGpmSampleGet" if instance is None else "nvmlGpmMigSampleGet"
        self._samples: tuple[Any, ...] = ()
        self._get: Callable[..., int]
        self._compare: Callable[..., int]
        self._turns: tuple[tuple[Any, Any, Any], ...] = ()
        self._taken, self._steady = 0, False

    def read(self) -> bytes | None:
        """Return the answers about the time since the last call, for :func:`ratios`; None on the first.

        Raises:
            DeviceLostError: The device is gone.
        """
        if self._steady:
            found, code = self._take()
            if code:
                self._steady = False
                self._calls.failed(self._key, code)
            return found
        begun: bytes | None = self._calls.run(self._key, self._begin)
        self._steady = begun is not None
        return begun

    @property
    def settled(self) -> bool:
        """Whether it is answered each time, or never will be."""
        return self._steady or self._key in self._calls.never

    def turn(self, number: int) -> tuple[tuple[tuple[Any, tuple[Any, ...]], ...], Any] | None:
        """Return the calls of a reading that is so many later than the next, and where it is answered; None without."""
        if not self._steady:
            return None
        arguments, request, answers = self._turns[(self._taken + number) % 2]
        return ((self._get, arguments), (self._compare, (request,))), answers

    def passed(self, readings: int) -> None:
        """Go on after so many readings that others made by :meth:`turn`."""
        self._taken += readings if self._steady else 0

    def close(self) -> None:
        """Free the samples."""
        samples, self._samples, self._turns, self._taken = self._samples, (), (), 0
        self._steady = False
        for sample in samples:
            try:
                self._library.nvmlGpmSampleFree(sample)
            except self._library.NVMLError:
                continue

    def _take(self) -> tuple[bytes | None, int]:
        """Take a sample, and return the answers or NVML's code of an error."""
        arguments, request, answers = self._turns[self._taken % 2]
        code = self._get(*arguments)
        if not code:
            self._taken += 1
            if self._taken == 1:
                return None, 0
            code = self._compare(request)
        return (None, code) if code else (bytes(answers), 0)

    def _begin(self) -> bytes | None:
        """Take a sample when none has been taken, or the last could not be."""
        if not self._turns:
            self._prepare()
        found, code = self._take()
        self._calls.check(code)
        return found

    def _prepare(self) -> None:
        library, calls = self._library, self._calls
        if not library.nvmlGpmQueryDeviceSupport(calls.handle).isSupportedDevice:
            raise library.NVMLError(library.NVML_ERROR_NOT_SUPPORTED)
        self._get, self._compare = calls.function(self._get_name), calls.function("nvmlGpmMetricsGet")
        self._samples = library.nvmlGpmSampleAlloc(), library.nvmlGpmSampleAlloc()
        self._turns = self._turn(1, 0), self._turn(0, 1)

    def _turn(self, before: int, now: int) -> tuple[Any, Any, Any]:
        """Return what a sample is taken with, the question about it and the other, and where its answers will be."""
        library = self._library
        request = library.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = library.NVML_GPM_METRICS_GET_VERSION, len(_METRICS)
        request.sample1, request.sample2 = self._samples[before], self._samples[now]
        for index, metric in enumerate(_METRICS):
            request.metrics[index].metricId = metric
        size = ctypes.sizeof(library.c_nvmlGpmMetric_t) * len(_METRICS)
        answers = (ctypes.c_char * size).from_buffer(request, type(request).metrics.offset)
        return (self._calls.handle, *self._before_sample, self._samples[now]), ctypes.byref(request), answers


def ratios(answers: bytes) -> dict[str, Any]:
    """Return what the answers say, as attributes of a reading."""
    found: dict[str, Any] = {}
    pipes: dict[str, float] = {}
    for (name, pipe), (_, code, percent, _) in zip(_PLACES, _RESULT.iter_unpack(answers), strict=True):
        if not code and isfinite(percent):
            (pipes if pipe else found)[name] = percent / 100
    if pipes:
        found["pipe_active_ratio"] = pipes
    return found
