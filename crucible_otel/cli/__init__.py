"""The command line: ``crucible-otel``."""
