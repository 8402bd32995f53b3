"""Events become spans, log records and series; hot-path handles and their fold. OpenTelemetry API only."""
