"""The HTTP session of our exporters: one that lets other threads run, and prepares once what all requests share.

It imports requests, so it is itself to be imported only where a session is made.
"""

from __future__ import annotations

import time
from typing import Any

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
    other threads run. This one is made to pause wherever it comes by, and keeps the longest piece, a prepared request,
    for those that differ from it by their bytes alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._prepared: requests.PreparedRequest | None = None
        self._prepared_like: object = None
        for scheme in ("http://", "https://"):
            self.mount(scheme, _PausingAdapter())

    def prepare_again(self) -> None:
        """Keep no prepared request: credentials that it was prepared with may have been refused."""
        self._prepared = None

    def prepare_request(self, request: Any) -> Any:
        """Prepare a request, with pauses before and after."""
        time.sleep(PAUSE_S)
        like = None if self.auth or self.cookies else ({**vars(request), "data": None}, *self.headers.items())
        if self._prepared is not None and like == self._prepared_like and isinstance(request.data, bytes):
            prepared = self._prepared.copy()
            prepared.prepare_body(request.data, None)
        else:
            prepared = super().prepare_request(request)
            if like is not None:
                self._prepared, self._prepared_like = prepared.copy(), like
                self._prepared.body = None
        time.sleep(PAUSE_S)
        return prepared

    def send(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request, with pauses before and after."""
        time.sleep(PAUSE_S)
        response = super().send(*args, **kwargs)
        time.sleep(PAUSE_S)
        return response
