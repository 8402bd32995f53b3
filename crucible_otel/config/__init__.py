"""Where settings come from: arguments, ``CRUCIBLE_OTEL_*``, ``OTEL_*``, defaults, in this order."""
