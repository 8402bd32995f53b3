"""What telemetry costs: ratios of CPU time, each measured within one process. ``python -m benchmarks --help``."""
