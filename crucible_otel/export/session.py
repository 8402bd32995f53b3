"""The HTTP session of our exporters: one that lets other threads run, and prepares once what all requests share.

It imports requests, so it is itself to be imported only where a session is made.
"""

from __future__ import annotations

import time
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter

from crucible_otel.export.pace import PAUSE_S

__all__ = ["PausingSession"]


class _PausingAdapter(HTTPAdapter):
    def add_headers(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(PAUSE_S)  # between finding a connection and writing to it

    def build_response(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(PAUSE_S)
        return super().build_response(*args, **kwargs)


class PausingSession(requests.Session):
    """A session that sends what one of requests does.

    That works for a millisecond before the first byte leaves, and for another after the last has come, without letting
    other threads run. This one is made to pause wherever it comes by, and keeps what takes longest: a prepared request,
    for those that differ from it by their bytes alone, and what the environment says of proxies and certificates.
    """

    takes_views: Final = True
    """Whether what is sent may be a view of memory: a session of somebody else's may sign it, and want bytes."""

    def __init__(self) -> None:
        super().__init__()
        # Each with what it was made of, in one piece: another thread may flush.
        self._prepared: tuple[object, requests.PreparedRequest] | None = None
        self._merged: tuple[object, dict[str, Any]] | None = None
        for scheme in ("http://", "https://"):
            self.mount(scheme, _PausingAdapter())

    def look_again(self) -> None:
        """Keep nothing: what went wrong may be due to credentials or to a proxy that have changed since."""
        self._prepared = self._merged = None

    def prepare_request(self, request: Any) -> Any:
        """Prepare a request, with a pause after."""
        like = None if self.auth or self.cookies else ({**vars(request), "data": None}, *self.headers.items())
        kept = self._prepared
        if kept is not None and like == kept[0] and isinstance(request.data, (bytes, memoryview)):
            prepared = kept[1].copy()
            prepared.prepare_body(request.data, None)
        else:
            time.sleep(PAUSE_S)
            prepared = super().prepare_request(request)
            if like is not None:
                bare = prepared.copy()
                bare.body = None
                self._prepared = like, bare
        time.sleep(PAUSE_S)
        return prepared

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Return what a request is to be sent with; to find out, the whole environment is read."""
        given = (url, dict(proxies or ()), stream, verify, cert)
        of = (*given, dict(self.proxies), self.stream, self.verify, self.cert, self.trust_env)
        kept = self._merged
        if kept is None or of != kept[0]:
            merged = super().merge_environment_settings(url, dict(proxies or ()), stream, verify, cert)
            kept = self._merged = of, dict(merged)
        return {**kept[1], "proxies": dict(kept[1]["proxies"])}

    def send(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request, with a pause after."""
        response = super().send(*args, **kwargs)
        time.sleep(PAUSE_S)
        return response
