"""Seeing what an exporter's transport sees: the exporter tells its caller only that it failed, or not.

What is seen is appended to a list: for each try an :class:`~crucible_otel.export.causes.Answer` or an exception, and
the cause, where a look at the server found one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.sdk.version import __version__

from crucible_otel.export.causes import BROKEN, REFUSED, TOO_LARGE, Answer, Cause, classify

__all__ = ["GivenUpError", "observe_calls", "observing_session"]

Probe = Callable[[], Cause | None]
"""Finds out why a server hangs up without an answer; None when it cannot."""

_GIVES_UP_TOO_MANY = tuple(map(int, __version__.split(".")[:2])) < (1, 45)
"""Whether the exporter gives up on 429, which the OTLP specification says to try again; on 503 none does."""

_TEXT_BYTES = 1000
_PATIENCE_S = 1.0
_PROTOBUF = "application/x-protobuf"


class GivenUpError(Exception):
    """It is no use to try again; not an error that the exporters know, so they do not."""


def observing_session(observed: list[object], probe: Probe) -> Any:
    """Make a ``requests.Session`` that notes each outcome."""
    # requests imports it in its first request: a child forked at that moment would wait for the import for ever.
    import netrc  # noqa: F401

    import requests

    from crucible_otel.export.session import PausingSession

    class ObservingSession(PausingSession):
        refused = False
        """Whether nobody listened there the last time: then whether somebody does is found out first, cheaply."""

        def request(self, *args: Any, **kwargs: Any) -> Any:
            # Else requests would let REQUESTS_CA_BUNDLE win over OTEL_EXPORTER_OTLP_CERTIFICATE.
            if isinstance(self.verify, str):
                kwargs.setdefault("verify", self.verify)
            url: str = kwargs["url"] if "url" in kwargs else args[1]
            try:
                if self.refused and (refusal := refusal_at(url, kwargs.get("timeout"))) is not None:
                    raise requests.ConnectionError(refusal) from refusal
                response = super().request(*args, **kwargs)
            except Exception as error:
                self.look_again()
                self.refused = classify(error) is REFUSED and not self.goes_by_proxy(url)
                # The SDK's last try may begin with no time left, a plain ValueError: what came before says more.
                if type(error) is not ValueError or not observed:
                    _note(error, observed, probe)
                if any(classify(seen).lasting for seen in observed[-2:]):
                    raise GivenUpError from error
                raise
            self.refused = False
            observed.append(_answer(response))
            if not response.ok:
                self.look_again()
            if response.status_code == HTTPStatus.TOO_MANY_REQUESTS and _GIVES_UP_TOO_MANY:
                response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
            return response

        def goes_by_proxy(self, url: str) -> bool:
            return bool(self.proxies or requests.utils.get_environ_proxies(url))

    return ObservingSession()


def refusal_at(url: str, timeout_s: object) -> ConnectionRefusedError | None:
    """Try to connect to where a URL points, at a tenth of the price of a request.

    Args:
        url: The URL.
        timeout_s: How long a request may take, if that is a number.

    Returns:
        The refusal; None when there is none, or it takes a request to know.
    """
    patience_s = min(_PATIENCE_S, timeout_s) if isinstance(timeout_s, (int, float)) else _PATIENCE_S
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname, port), patience_s):
            return None
    except ConnectionRefusedError as error:
        return error
    except (OSError, ValueError):
        return None


def observe_calls(exporter: Any, observed: list[object], probe: Probe) -> None:
    """Make a gRPC exporter note each outcome; one whose inside looks different from the SDK's is left as it is."""
    stub = getattr(exporter, "_stub", None)
    client = getattr(exporter, "_client", None)
    if callable(stub) and hasattr(client, "Export"):
        # It makes a new client when the connection broke.
        exporter._stub = lambda channel: _ObservedClient(stub(channel), observed, probe)
        exporter._client = _ObservedClient(client, observed, probe)


class _ObservedClient:
    def __init__(self, client: Any, observed: list[object], probe: Probe) -> None:
        self._client, self._observed, self._probe = client, observed, probe

    def Export(self, *request: Any, **call: Any) -> Any:
        try:
            response = self._client.Export(*request, **call)
        except Exception as error:
            # As with HTTP: a try without time says nothing.
            if call.get("timeout", 1) > 0 or not self._observed:
                _note(error, self._observed, self._probe)
            # With other lasting causes the exporter makes a new channel first, which it will need.
            if classify(error) is TOO_LARGE:
                raise GivenUpError from error
            raise
        self._observed.append(Answer(200, rejected=_rejected(response)))
        return response


def _note(error: Exception, observed: list[object], probe: Probe) -> None:
    unclear = classify(error) is BROKEN and not any(classify(seen) is BROKEN for seen in observed)
    observed.append(error)
    if unclear and (cause := probe()) is not None:
        observed.append(cause)


def _answer(response: Any) -> Answer:
    content: bytes = response.content or b""
    if not response.ok:
        return Answer(response.status_code, content[:_TEXT_BYTES].decode("utf-8", "replace"))
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return Answer(response.status_code, rejected=_rejected_in(content) if content and kind == _PROTOBUF else 0)


def _rejected_in(content: bytes) -> int:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        # The answers for the other signals differ from it by the names of the fields only.
        return _rejected(ExportTraceServiceResponse.FromString(content))
    except DecodeError:
        return 0


def _rejected(response: Any) -> int:
    """Return the number in an answer's ``partial_success``: ``rejected_spans`` and so on."""
    return sum(max(0, value) for _, value in response.partial_success.ListFields() if isinstance(value, int))
