"""Why a delivery failed, in words that name the setting to change.

Only these words are ever shown: what a server or an exception says may quote a URL with a key in it, or a header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from crucible_otel.events.raised import raised_at

__all__ = [
    "BROKEN",
    "ENDED",
    "EXIT",
    "INTERRUPTED",
    "PARTIAL",
    "QUEUE_FULL",
    "REFUSED",
    "TOO_LARGE",
    "UNWRITABLE",
    "WANTS_GRPC",
    "WANTS_TLS",
    "Answer",
    "Cause",
    "best",
    "classify",
    "raised",
    "remedy_for",
    "without_secrets",
]


class Cause(NamedTuple):
    """A reason and a remedy.

    Attributes:
        kind: Tells causes apart.
        reason: What went wrong.
        remedy: What to change.
        vague: Whether one trouble shows this way once and more clearly another time: not worth a second warning.
        lasting: Whether it is no use to try again soon.
    """

    kind: str
    reason: str
    remedy: str
    vague: bool = False
    lasting: bool = False


class Answer(NamedTuple):
    """What a server answered; its text decides, and is never shown.

    Attributes:
        status: The HTTP status; 200 for a gRPC call that succeeded.
        text: The beginning of what else it said.
        rejected: How many items it left out (OTLP's partial success).
    """

    status: int
    text: str = ""
    rejected: int = 0


_OTLP = "OTEL_EXPORTER_OTLP_"
_ENDPOINT = "CRUCIBLE_OTEL_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL = "CRUCIBLE_OTEL_PROTOCOL or OTEL_EXPORTER_OTLP_PROTOCOL"
_HEADERS = "CRUCIBLE_OTEL_HEADERS or OTEL_EXPORTER_OTLP_HEADERS"
_CERTIFICATE = "OTEL_EXPORTER_OTLP_CERTIFICATE"

QUEUE_FULL = Cause(
    "queue_full",
    "more is made than is taken away, the export queue is full",
    "raise CRUCIBLE_OTEL_QUEUE_MAX_BYTES and, where set, OTEL_BSP_MAX_QUEUE_SIZE or OTEL_BLRP_MAX_QUEUE_SIZE",
    # What a backend that is away leads to.
    vague=True,
)
INTERRUPTED = Cause(
    "interrupted", "time was up before it was delivered", "raise CRUCIBLE_OTEL_EXIT_TIMEOUT_S", vague=True
)
ENDED = Cause("ended", "telemetry had been shut down", "shut it down later")
EXIT = Cause("no_answer", "no answer before time was up", f"check the receiver, or set {_ENDPOINT}", vague=True)
PARTIAL = Cause(
    "partial_success",
    "the server took some of it and rejected the rest",
    "look into the receiver's own log for what it rejects",
)
TOO_LARGE = Cause(
    "too_large",
    "the server finds even a single item too large",
    "raise the receiver's limit, or set OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    lasting=True,
)
UNWRITABLE = Cause(
    "unwritable",
    "some of it cannot be written as OTLP",
    "keep halves of surrogate pairs out of names and messages, times after 1970, and metrics within 64 bits",
)

REFUSED = Cause(
    "refused",
    "connection refused, nothing listens there",
    f"start an OTLP receiver there, or set {_ENDPOINT}",
    vague=True,
)
_HOST = Cause("unknown_host", "the host name is not known", f"set {_ENDPOINT}")
_UNREACHABLE = Cause("unreachable", "the host cannot be reached", f"set {_ENDPOINT}", vague=True)
_NO_ANSWER = Cause("no_answer", "no answer in time", f"check the receiver, or set {_ENDPOINT}", vague=True)
BROKEN = Cause(
    "connection",
    "the connection was closed without an answer",
    f"check the receiver, or set {_ENDPOINT}",
    vague=True,
)
WANTS_GRPC = Cause("protocol", "a gRPC server listens there, not an HTTP one", f"set {_PROTOCOL} to grpc", lasting=True)
_WANTS_HTTP = Cause(
    "protocol",
    "an HTTP server listens there, not a gRPC one",
    f"set {_PROTOCOL} to http/protobuf, or use the gRPC port (usually 4317) in {_ENDPOINT}",
    lasting=True,
)
_NO_TLS = Cause("tls", "the server does not speak TLS", f"use http:// in {_ENDPOINT}", lasting=True)
_CERTIFICATE_HOST = Cause(
    "certificate_host",
    "the server's certificate is for another host",
    f"use the host that it names in {_ENDPOINT}",
    lasting=True,
)
_TLS = Cause(
    "certificate", "TLS failed, the certificate is not trusted or not usable", f"set {_CERTIFICATE}", lasting=True
)
WANTS_TLS = Cause("tls", "the server speaks TLS only", f"use https:// in {_ENDPOINT}", lasting=True)
_UNAUTHORISED = Cause("unauthorised", "the server refuses our credentials", f"set {_HEADERS}")
_NO_OTLP = Cause("no_otlp", "the server has no OTLP receiver at this path", f"set {_ENDPOINT}")
_OVERLOADED = Cause("overloaded", "the server is overloaded or not ready", "scale the receiver, or send less")
_REDIRECTED = Cause("redirected", "the server redirects elsewhere", f"set {_ENDPOINT} to where it redirects")
_REJECTED = Cause("rejected", "the server rejects the request", f"check {_ENDPOINT} and {_PROTOCOL}")
_FAULT = Cause("server", "the server failed", "look into the receiver's own log")
_UNKNOWN = Cause("unknown", "the exporter gave no reason", f"check {_ENDPOINT}", vague=True)

_STATUS: dict[int, Cause] = {
    401: _UNAUTHORISED,
    403: _UNAUTHORISED,
    407: _UNAUTHORISED,
    404: _NO_OTLP,
    405: _NO_OTLP,
    408: _NO_ANSWER,
    413: TOO_LARGE,
    429: _OVERLOADED,
    502: _OVERLOADED,
    503: _OVERLOADED,
    504: _OVERLOADED,
}

_ANSWERS: tuple[tuple[str, Cause], ...] = (
    # The Collector answers 400, not 413.
    (r"(body|entity|payload|message) too large", TOO_LARGE),
    # Servers in Go; nginx.
    (r"HTTP request to an HTTPS server|HTTP request was sent to HTTPS port", WANTS_TLS),
)
"""Searched in what a server that refuses says besides its status."""

_TEXTS: tuple[tuple[str, Cause], ...] = (
    (r"StatusCode\.(UNAUTHENTICATED|PERMISSION_DENIED)", _UNAUTHORISED),
    (r"BadStatusLine\('\\x00\\x00", WANTS_GRPC),
    (r"HTTP/2 \(|http1\.x server|Expected SETTINGS frame|unsupported protocol HTTP", _WANTS_HTTP),
    (r"http2 header with status: (400|404|405|415)", _WANTS_HTTP),
    (r"WRONG_VERSION_NUMBER|wrong version number|record layer failure|UNEXPECTED_MESSAGE", _NO_TLS),
    (r"Host ?name mismatch|IP address mismatch|Hostname Verification|not in peer certificate", _CERTIFICATE_HOST),
    (r"SSLEOFError|UNEXPECTED_EOF|SSLZeroReturn", BROKEN),
    (r"Tls handshake failed|SSL|CERTIFICATE|certificate|\bTLS\b", _TLS),
    (r"larger than max|message too large|exceeds max_request_size|PayloadTooLarge", TOO_LARGE),
    (r"Connection refused|ConnectionRefused|actively refused", REFUSED),
    (r"NameResolutionError|gaierror|Name or service not known|nodename nor servname", _HOST),
    (r"DNS resolution failed|errors resolving|Domain name not found", _HOST),
    (r"No route to host|Network is unreachable|Host is down", _UNREACHABLE),
    (r"BadStatusLine\('\\x15\\x03", WANTS_TLS),
    (r"DEADLINE_EXCEEDED|Timeout|timed out", _NO_ANSWER),
    (r"UNIMPLEMENTED", _NO_OTLP),
    (r"RESOURCE_EXHAUSTED", _OVERLOADED),
    (r"RemoteDisconnected|Connection aborted|Connection reset|ConnectionReset|Broken pipe|BadStatusLine", BROKEN),
    (r"Socket closed|UNAVAILABLE", BROKEN),
    (r"INVALID_ARGUMENT|FAILED_PRECONDITION", _REJECTED),
    (r"StatusCode\.(INTERNAL|UNKNOWN|DATA_LOSS|ABORTED)", _FAULT),
)
"""Searched in this order in the names and texts of an exception and all its causes."""

_CLIENTS = ("requests", "urllib3")
"""They raise their own exceptions while they handle what went wrong, and do not always say from what."""


def classify(observed: object) -> Cause:
    """Find the cause behind what was observed.

    Args:
        observed: An answer, an HTTP status, an exception, a sequence of these or of texts, a cause, or None.

    Returns:
        A known cause, or one that names the status or the exception's type and nothing else.
    """
    if isinstance(observed, Cause):
        return observed
    if isinstance(observed, Answer):
        return _of_status(observed.status, observed.text)
    if isinstance(observed, int):
        return _of_status(observed)
    if isinstance(observed, BaseException) and _is_refusal(observed):  # most often; the texts would take ten looks
        return REFUSED
    text = "\n".join(_texts(observed))
    for pattern, cause in _TEXTS:
        if re.search(pattern, text):
            return cause
    if isinstance(observed, BaseException):
        name = type(observed).__name__
        return _UNKNOWN._replace(kind=name, reason=f"the exporter failed ({name})")
    if isinstance(observed, tuple):
        for part in observed:
            if isinstance(part, (int, BaseException)) and not isinstance(part, bool):
                return classify(part)
    return _UNKNOWN


def raised(error: BaseException) -> Cause:
    """Return the cause behind what an exporter of the user's raised, which says where: it is his to mend."""
    cause = classify(error)
    known = cause.kind != type(error).__name__
    where = raised_at(error)
    return cause._replace(reason=f"{cause.reason} ({where})" if known else f"it raised {where}")


def remedy_for(cause: Cause, exporter: str | None) -> str:
    """Return what to change.

    Args:
        cause: The cause.
        exporter: The class of an exporter of the user's, which our settings do not reach; None for one of ours.
    """
    is_ours = exporter is None or _OTLP not in cause.remedy
    return cause.remedy if is_ours else f"look into {exporter}"


def best(causes: Sequence[Cause]) -> Cause:
    """Choose among the causes of one loss, as its tries saw them: the last one that says something definite."""
    return next((cause for cause in reversed(causes) if not cause.vague), causes[-1])


def _of_status(status: int, text: str = "") -> Cause:
    kinds = {3: _REDIRECTED, 4: _REJECTED, 5: _FAULT}
    cause = _STATUS.get(status) or kinds.get(status // 100, _UNKNOWN)
    if 400 <= status < 500:
        cause = next((said for pattern, said in _ANSWERS if re.search(pattern, text)), cause)
    if cause is WANTS_TLS:
        return cause
    kind = cause.kind if cause is TOO_LARGE else f"http_{status}"
    return cause._replace(kind=kind, reason=f"HTTP {status}, {cause.reason}")


def _is_refusal(error: BaseException) -> bool:
    """Return whether an exception goes back to a refused connection."""
    for _ in range(8):
        # Of others the context may be an earlier try, or the user's own trouble, which was being handled meanwhile.
        inside = type(error).__module__.partition(".")[0] in _CLIENTS
        before = error.__cause__ or (error.__context__ if inside else None)
        if before is None:
            break
        error = before
    return isinstance(error, ConnectionRefusedError)


def _texts(observed: object, depth: int = 0) -> Iterator[str]:
    if observed is None or depth > 8:
        return
    if isinstance(observed, (tuple, list)):
        for part in observed:
            yield from _texts(part, depth + 1)
    elif isinstance(observed, BaseException):
        yield f"{type(observed).__name__} {_safe_repr(observed)}"
        yield from _texts(observed.__cause__ or observed.__context__, depth + 1)
        yield from _texts([part for part in observed.args if isinstance(part, BaseException)], depth + 1)
    elif not isinstance(observed, (int, float)):
        yield str(observed)


def _safe_repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # a broken __repr__ must not turn a lost batch into a crash
        return ""


def without_secrets(endpoint: str) -> str:
    """Return an endpoint without user, password, query and fragment."""
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "an endpoint that is not a URL"
    host = f"[{host}]" if ":" in host else host
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    return f"{scheme}{host}{f':{port}' if port else ''}{parts.path}"
