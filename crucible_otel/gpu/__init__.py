"""GPUs: their readings as OpenTelemetry instruments, and the profiler on top of them.

    profiler = cx.gpu.GPUProfiler.start(interval_ms=1000)
    with cx.gpu.scope("epoch/3") as g:
        train_one_epoch()
    print(g.energy_j, profiler.history(10))

The metrics need none of it: ``configure()`` starts them where there is a driver.
"""

from crucible_otel.gpu.measured import DeviceUse, GpuScope, scope
from crucible_otel.gpu.profiler import GPUProfiler, Sample, history

__all__ = ["DeviceUse", "GPUProfiler", "GpuScope", "Sample", "history", "scope"]
