"""The way out of the process: providers, readers, OTLP, Prometheus, leaving."""
