"""Hearing what the SDK logs about our own pipeline, instead of the user's terminal.

An exporter's only word about a failure is a log line, one per retry and one per batch. While one of our deliveries
or queues calls into the SDK, that thread's records go to the caller here and no further. Records of the application's
own exporters, which share these loggers, pass untouched.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

__all__ = ["Quiet", "listening"]

Listener = Callable[[logging.LogRecord], object]

_LOGGERS = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.common._internal",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.grpc._log_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.metric_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.sdk._logs._internal.export",
)
"""A filter works only on the very logger it is added to, so every one is named."""

_here = threading.local()


def _nobody(record: logging.LogRecord) -> None:
    return None


@contextmanager
def listening(listener: Listener = _nobody) -> Iterator[None]:
    """Give what this thread logs on the SDK's loggers to ``listener`` for the duration of the block."""
    before = getattr(_here, "listener", None)
    _here.listener = listener
    try:
        yield
    finally:
        _here.listener = before


class Quiet(logging.Filter):
    """The filter of one pipeline: installed when it is built, removed when it is shut down."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a record unless it was made on behalf of our pipeline."""
        listener: Listener | None = getattr(_here, "listener", None)
        if listener is None:
            return True
        listener(record)
        return False

    def install(self, more: Iterable[str] = ()) -> None:
        """Add the filter to the SDK's loggers and to those named."""
        for name in {*_LOGGERS, *more}:
            logger = logging.getLogger(name)
            # First in line: the SDK's own filter against repetition would hide all but one record of a kind.
            if self not in logger.filters:
                logger.filters.insert(0, self)

    def remove(self) -> None:
        """Take the filter away again, wherever it was installed."""
        for name, logger in list(logging.Logger.manager.loggerDict.items()):
            if name.startswith("opentelemetry") and isinstance(logger, logging.Logger):
                logger.removeFilter(self)
