"""GPUs: their readings as OpenTelemetry instruments, and the profiler on top of them."""
