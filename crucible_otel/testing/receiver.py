"""An OTLP receiver inside the process: what a test, or the demo, sends its telemetry to.

In use::

    with OtlpReceiver() as receiver:
        ...  # export to receiver.http_endpoint or receiver.grpc_endpoint
        assert receiver.wait_for(lambda: receiver.spans)
        for root in receiver.trace_tree():
            ...  # root.render()
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crucible_otel.testing import series
from crucible_otel.testing.faults import Fault
from crucible_otel.testing.http_server import HttpServer
from crucible_otel.testing.inbox import Inbox, ReceiverCounts
from crucible_otel.testing.records import RawRequest, ReceivedLog, ReceivedMetric, ReceivedSpan, Signal
from crucible_otel.testing.tree import SpanNode, build_trees

if TYPE_CHECKING:
    from crucible_otel.testing.grpc_server import GrpcServer

__all__ = ["OtlpReceiver"]


class OtlpReceiver:
    """Receives traces, metrics and logs over OTLP/HTTP (protobuf) and OTLP/gRPC, and answers questions about them.

    It listens on loopback from the moment it is made until :meth:`close` or the end of the ``with`` block; what has
    arrived stays readable after that. Safe to use from any thread. Its memory is bounded: beyond the limits the oldest
    is forgotten and counted.

    Args:
        http_port: The port for OTLP/HTTP; 0 for any free one.
        grpc_port: The port for OTLP/gRPC; 0 for any free one, opened when first asked for: who does not ask pays
            nothing for gRPC, and may fork.
        max_items: The most spans, the most log records, the most metric points and the most raw requests to keep.
        max_body_bytes: The most bytes that a body may have, decompressed.
        max_raw_bytes: The most bytes of raw bodies to keep.

    Raises:
        OSError: When a port that was asked for is taken.
    """

    def __init__(
        self,
        *,
        http_port: int = 0,
        grpc_port: int = 0,
        max_items: int = 100_000,
        max_body_bytes: int = 64 * 1024 * 1024,
        max_raw_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._inbox = Inbox(max_items=max_items, max_body_bytes=max_body_bytes, max_raw_bytes=max_raw_bytes)
        self._http = HttpServer(self._inbox, http_port)
        self._grpc: GrpcServer | None = None
        if grpc_port:
            try:
                self._open_grpc(grpc_port)
            except OSError:
                self._http.close()
                raise

    def __enter__(self) -> OtlpReceiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, cut the connections and let waiting requests go; again: nothing.

        In a forked child it only gives up the child's hold on the port.
        """
        if os.getpid() != self._owner_pid:
            self._http.close()
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._inbox.close()
        self._http.close()
        if self._grpc is not None:
            self._grpc.close()

    @property
    def http_endpoint(self) -> str:
        """Return the base address for OTLP/HTTP, without the path of a signal (``/v1/traces`` ...)."""
        return f"http://127.0.0.1:{self._http.port}"

    @property
    def grpc_endpoint(self) -> str:
        """Return the address for OTLP/gRPC; asked for the first time it starts listening there.

        Raises:
            RuntimeError: When it is asked for the first time after :meth:`close`.
        """
        return f"http://127.0.0.1:{self._open_grpc(0).port}"

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        """Return the spans, in the order of arrival."""
        return self._inbox.spans()

    @property
    def logs(self) -> tuple[ReceivedLog, ...]:
        """Return the log records and events, in the order of arrival."""
        return self._inbox.logs()

    @property
    def raw(self) -> tuple[RawRequest, ...]:
        """Return the export requests as they came, refused ones too, for tests of the wire."""
        return self._inbox.raw()

    @property
    def counts(self) -> ReceiverCounts:
        """Return how many requests were taken and refused, and what was forgotten."""
        return self._inbox.counts()

    def points(self, name: str | None = None, **attributes: Any) -> tuple[ReceivedMetric, ...]:
        """Return metric points, in the order of arrival.

        Args:
            name: Name of the metric; None for all.
            **attributes: Attributes that a point must have, among others; dotted names by ``**{...}``.
        """
        return series.select(self._inbox.points(), name, attributes)

    def latest(
        self, name: str | None = None, attributes: Mapping[str, Any] | None = None
    ) -> tuple[ReceivedMetric, ...]:
        """Return the newest point of each series and service instance.

        Args:
            name: Name of the metric; None for all.
            attributes: Attributes that a series must have, among others.
        """
        return series.latest(series.select(self._inbox.points(), name, attributes))

    def total(
        self, name: str, attributes: Mapping[str, Any] | None = None, *, of: series.Amount | None = None
    ) -> int | float:
        """Add up a metric over its series and service instances.

        Deltas are all added; of a cumulative series the newest point counts, and the last one before each restart of
        a series that only grows. Nothing received is 0.

        Args:
            name: Name of the metric.
            attributes: Attributes that a series must have, among others.
            of: What to add: ``value``, or ``count`` or ``sum`` of a histogram; by default the value of gauges and
                sums and the count of histograms.
        """
        return series.total(series.select(self._inbox.points(), name, attributes), of)

    def trace_tree(self) -> list[SpanNode]:
        """Return the received spans as trees, their roots by start; a span without its parent is a root."""
        return build_trees(self.spans)

    def wait_for(self, predicate: Callable[[], object], timeout_s: float = 10.0) -> bool:
        """Wait until ``predicate()`` is true; it is asked at once and after every request.

        Args:
            predicate: A question about what has arrived.
            timeout_s: How long to wait at most.

        Returns:
            Whether it became true in time.
        """
        return self._inbox.wait_for(predicate, timeout_s)

    def clear(self) -> None:
        """Forget all that has arrived, the counts too; planned failures stay."""
        self._inbox.clear()

    def fail_next(
        self, n: int = 1, status: int = 503, retry_after: float | None = None, *, signal: Signal | None = None
    ) -> None:
        """Refuse the next requests.

        Args:
            n: How many of them.
            status: The HTTP status to answer with; over gRPC the status code that it stands for (503: UNAVAILABLE).
            retry_after: After how many seconds the sender is told to come back; None to tell it nothing.
            signal: Refuse only those that carry this.
        """
        self._inbox.faults.plan(Fault(status, retry_after, signal), n)

    def reject_next(self, items: int = 1, *, n: int = 1, message: str = "", signal: Signal | None = None) -> None:
        """Take the next requests but for some of their items: OTLP's partial success.

        Args:
            items: How many spans, log records or points of each are left out, the last ones.
            n: How many requests.
            message: Why, for the sender.
            signal: Only those that carry this.
        """
        self._inbox.faults.plan(Fault(200, None, signal, items, message), n)

    def hang(self, hanging: bool = True) -> None:
        """Take requests but leave them without an answer, until ``hang(False)`` or :meth:`close`.

        Those let go by ``hang(False)`` are taken then, if their sender is still there.
        """
        self._inbox.faults.hang(hanging)

    def _open_grpc(self, port: int) -> GrpcServer:
        with self._lock:
            if self._grpc is None:
                if self._closed:
                    raise RuntimeError("the receiver is closed")
                # Imported when needed: gRPC starts threads of its own, which a program that forks must avoid.
                from crucible_otel.testing.grpc_server import GrpcServer

                self._grpc = GrpcServer(self._inbox, port)
            return self._grpc
