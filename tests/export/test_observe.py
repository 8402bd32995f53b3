"""What a session does where nobody listened the last time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import requests

from crucible_otel.export.causes import REFUSED, classify
from crucible_otel.export.observe import observing_session
from tests.export.otlp_server import closed_port


class Counting(requests.adapters.HTTPAdapter):
    """Counts the requests that are really made."""

    made = 0

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Make one."""
        self.made += 1
        return super().send(*args, **kwargs)


@contextmanager
def session() -> Iterator[tuple[Any, Counting, list[object]]]:
    """Make a session, what counts its requests, and what is noted of them."""
    observed: list[object] = []
    counting = Counting()
    with observing_session(observed, lambda: None) as made:
        made.mount("http://", counting)
        yield made, counting, observed


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("timeout", [5, (5, 5), None])
def test_a_refusal_is_found_again_without_a_request(timeout: Any) -> None:
    """It is told as the one that a request met."""
    with closed_port() as url, session() as (made, counting, observed):
        for _ in range(3):
            with pytest.raises(requests.exceptions.ConnectionError) as refused:
                made.request("POST", url, timeout=timeout)
            assert REFUSED == classify(refused.value)
    assert (1, [REFUSED] * 3) == (counting.made, [classify(each) for each in observed])


def test_a_receiver_that_comes_back_gets_the_next_request() -> None:
    """And the requests after it are made at once again."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    with server, session() as (made, counting, _):
        server.server_bind()
        url = f"http://127.0.0.1:{server.server_port}"
        for _ in range(2):
            with pytest.raises(requests.exceptions.ConnectionError):
                made.request("POST", url, timeout=5)
        server.server_activate()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert [200, 200] == [made.request(method="POST", url=url, timeout=5).status_code for _ in range(2)]
        finally:
            server.shutdown()
            thread.join()
        assert (3, False) == (counting.made, made.refused)


def test_a_proxy_that_refuses_says_nothing_of_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try goes by the proxy."""
    with closed_port() as proxy, closed_port() as url, session() as (made, counting, _):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        for _ in range(2):
            with pytest.raises(requests.exceptions.ConnectionError):
                made.request("POST", url, timeout=5)
    assert 2 == counting.made
