"""What has arrived, whichever way it came: thread-safe, and bounded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from crucible_otel.testing.decode import MalformedBodyError, decode
from crucible_otel.testing.faults import Faults
from crucible_otel.testing.records import (
    Protocol,
    RawRequest,
    ReceivedLog,
    ReceivedMetric,
    ReceivedSpan,
    Records,
    Signal,
)
from crucible_otel.testing.wire import BodyTooLargeError, UnknownEncodingError, decompress

__all__ = ["Answer", "Inbox", "ReceiverCounts", "Request"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverCounts:
    """What the receiver has done since it was started or cleared.

    Every request is counted once, in one of the first five.

    Attributes:
        accepted: Requests that were stored.
        malformed: Requests answered 400, because their body could not be decoded.
        rejected: Requests refused for another fault of theirs: size, path, method, type, encoding.
        failed: Requests refused because the test wanted it.
        abandoned: Requests that were left waiting until the sender, or the receiver, went away.
        overflowed_records: Spans, log records and points forgotten because newer ones needed their place.
        overflowed_requests: Raw requests forgotten for the same reason.
    """

    accepted: int = 0
    malformed: int = 0
    rejected: int = 0
    failed: int = 0
    abandoned: int = 0
    overflowed_records: int = 0
    overflowed_requests: int = 0

    @property
    def requests(self) -> int:
        """Return the number of all requests."""
        return self.accepted + self.malformed + self.rejected + self.failed + self.abandoned


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """An export request on its way in.

    Attributes:
        signal: What its address says it carries.
        protocol: How it came.
        headers: Its headers or metadata, names in lower case.
        body: Its body as sent.
        encoding: The content encoding that is still to be undone.
        sender_is_there: Whether anybody still waits for the answer.
    """

    signal: Signal
    protocol: Protocol
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    encoding: str = ""
    sender_is_there: Callable[[], bool] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """How a request is to be answered.

    Attributes:
        status: The HTTP status.
        message: What is wrong, empty when nothing is.
        retry_after_s: After how many seconds the sender may come back, if that is to be said.
        rejected: How many items were left out of a request that was taken otherwise.
    """

    status: int
    message: str = ""
    retry_after_s: float | None = None
    rejected: int = 0

    @property
    def body(self) -> bytes:
        """What a request that was taken is answered with; empty for full success."""
        if not self.rejected and not self.message:
            return b""
        # The answers for the other signals differ from it by the names of the fields only.
        partial = ExportTracePartialSuccess(rejected_spans=self.rejected, error_message=self.message)
        return ExportTraceServiceResponse(partial_success=partial).SerializeToString()


_NOTHING: Final = Records()
# Why a request is refused -> the status to say so with, and the count it goes to.
_REFUSALS: Final[Mapping[type[ValueError], tuple[HTTPStatus, str]]] = {
    MalformedBodyError: (HTTPStatus.BAD_REQUEST, "malformed"),
    BodyTooLargeError: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "rejected"),
    UnknownEncodingError: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "rejected"),
}


class Inbox:
    """Takes requests from any thread and keeps the newest of what they carry.

    Args:
        max_items: The most spans, the most log records, the most points and the most raw requests to keep.
        max_body_bytes: The most bytes a decompressed body may have.
        max_raw_bytes: The most bytes of raw bodies to keep.
    """

    def __init__(self, *, max_items: int, max_body_bytes: int, max_raw_bytes: int) -> None:
        self.faults = Faults()
        self.max_body_bytes = max_body_bytes
        self._max_raw_bytes = max_raw_bytes
        self._changed = threading.Condition()
        self._version = 0
        self._closed = False
        self._spans: deque[ReceivedSpan] = deque(maxlen=max_items)
        self._logs: deque[ReceivedLog] = deque(maxlen=max_items)
        self._points: deque[ReceivedMetric] = deque(maxlen=max_items)
        self._raw: deque[RawRequest] = deque(maxlen=max_items)
        self._raw_bytes = 0
        self._counts = ReceiverCounts()

    def receive(self, request: Request) -> Answer:
        """Take one request and say how to answer it."""
        if not self.faults.wait(request.sender_is_there):
            gone = Answer(status=HTTPStatus.SERVICE_UNAVAILABLE, message="the receiver is closed")
            return self._file(request, "abandoned", gone)
        fault = self.faults.take(request.signal)
        if fault and fault.status != HTTPStatus.OK:
            answer = Answer(status=fault.status, message="refused as the test asked", retry_after_s=fault.retry_after_s)
            return self._file(request, "failed", answer)
        try:
            payload = decompress(request.body, request.encoding, self.max_body_bytes)
            records = decode(request.signal, payload)
        except tuple(_REFUSALS) as error:
            status, count = _REFUSALS[type(error)]
            return self._file(request, count, Answer(status=status, message=str(error)))
        answer = Answer(status=HTTPStatus.OK)
        if fault:
            records, rejected = _without_last(records, fault.rejected)
            answer = replace(answer, rejected=rejected, message=fault.message)
        return self._file(request, "accepted", answer, records)

    def reject(self) -> None:
        """Count a request that was refused before it could be taken."""
        with self._changed:
            self._count("rejected")

    def spans(self) -> tuple[ReceivedSpan, ...]:
        """Return the spans that are kept, oldest first."""
        with self._changed:
            return tuple(self._spans)

    def logs(self) -> tuple[ReceivedLog, ...]:
        """Return the log records that are kept, oldest first."""
        with self._changed:
            return tuple(self._logs)

    def points(self) -> tuple[ReceivedMetric, ...]:
        """Return the points that are kept, oldest first."""
        with self._changed:
            return tuple(self._points)

    def raw(self) -> tuple[RawRequest, ...]:
        """Return the requests that are kept as they came, oldest first."""
        with self._changed:
            return tuple(self._raw)

    def counts(self) -> ReceiverCounts:
        """Return the counts."""
        return self._counts

    def clear(self) -> None:
        """Forget everything that has arrived, the counts too."""
        with self._changed:
            for kept in self._stores():
                kept.clear()
            self._raw_bytes = 0
            self._counts = ReceiverCounts()
            self._notify()

    def wait_for(self, predicate: Callable[[], object], timeout_s: float) -> bool:
        """Wait until ``predicate()`` is true; it is asked again after every request.

        Returns:
            Whether it became true in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            seen = self._version
            # Asked without the lock, so that a slow question does not keep senders waiting.
            if predicate():
                return True
            with self._changed:
                if self._closed:
                    return False
                if self._version == seen and not self._changed.wait(deadline_s - time.monotonic()):
                    return False

    def close(self) -> None:
        """Wake everything that waits; what has arrived stays readable."""
        self.faults.close()
        with self._changed:
            self._closed = True
            self._notify()

    def _file(self, request: Request, count: str, answer: Answer, records: Records = _NOTHING) -> Answer:
        raw = RawRequest(
            signal=request.signal,
            protocol=request.protocol,
            status=int(answer.status),
            headers=request.headers,
            body=request.body,
        )
        with self._changed:
            self._keep_raw(raw)
            for kept, new in zip(self._stores(), records, strict=False):
                self._keep(kept, new)
            self._count(count)
        return answer

    def _stores(self) -> tuple[deque[Any], ...]:
        # The first three in the order of Records.
        return self._spans, self._logs, self._points, self._raw

    def _keep(self, kept: deque[Any], new: Collection[Any]) -> None:
        assert kept.maxlen is not None
        overflowed = max(0, len(kept) + len(new) - kept.maxlen)
        kept.extend(new)
        if overflowed:
            self._count("overflowed_records", overflowed)

    def _keep_raw(self, raw: RawRequest) -> None:
        self._raw_bytes += len(raw.body)
        while self._raw and (len(self._raw) == self._raw.maxlen or self._raw_bytes > self._max_raw_bytes):
            self._raw_bytes -= len(self._raw.popleft().body)
            self._count("overflowed_requests")
        self._raw.append(raw)

    def _count(self, name: str, number: int = 1) -> None:
        self._counts = replace(self._counts, **{name: getattr(self._counts, name) + number})
        self._notify()

    def _notify(self) -> None:
        self._version += 1
        self._changed.notify_all()


def _without_last(records: Records, number: int) -> tuple[Records, int]:
    """Leave out the last records of a request, which all are of one kind; return also how many these were."""
    count = len(records.spans) + len(records.logs) + len(records.points)
    kept = max(0, count - number)
    return Records(records.spans[:kept], records.logs[:kept], records.points[:kept]), count - kept
