"""What a session sends that keeps what its requests have in common: the same as a session of ``requests``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from crucible_otel.export.observe import observing_session
from tests.export.otlp_server import closed_port

Received = list[tuple[str, str, list[tuple[str, str]], bytes]]


@pytest.fixture
def received() -> Received:
    """Return what the server gets: method, path, headers in their order, body."""
    return []


@pytest.fixture
def url(received: Received, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Serve, without a proxy: ``/closed`` is for a certain user, ``/cookie`` sets one, all else is answered 200."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.command, self.path, self.headers.items(), body))
            known = self.headers["Authorization"] == "Basic YW5uOm5ldw=="
            self.send_response(401 if self.path == "/closed" and not known else 200)
            if self.path == "/cookie":
                self.send_header("Set-Cookie", "a=b")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_POST

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


CALLS: dict[str, list[dict[str, Any]]] = {
    "bodies of several lengths": [{"data": b"x" * size} for size in (1, 1, 100_000, 0, 7)],
    "no body": [{"data": b"x"}, {}, {"data": b"y"}],
    "other headers": [{"data": b"x", "headers": {"A": value}} for value in ("1", "1", "2", "1")],
    "another path": [{"data": b"x"}, {"data": b"x", "path": "/v1/logs"}, {"data": b"x"}],
    "another method": [{"data": b"x"}, {"data": b"x", "method": "PUT"}, {"data": b"x"}],
    "a query": [{"data": b"x"}, {"data": b"x", "params": {"q": "1"}}, {"data": b"x"}],
    "a user": [{"data": b"x"}, {"data": b"x", "auth": ("ann", "secret")}, {"data": b"x"}],
    "a form": [{"data": b"x"}, {"data": {"a": "b"}}, {"data": b"x"}, {"json": {"a": 1}}, {"data": b"x"}],
    "cookies": [{"data": b"x", "path": "/cookie"}] * 3,
}


@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS.keys())
def test_the_same_is_sent(calls: list[dict[str, Any]], url: str, received: Received) -> None:
    """Whatever one request after the other asks for, byte for byte."""
    with requests.Session() as plain, observing_session([], lambda: None) as ours:
        for session in (plain, ours):
            session.headers["Content-Type"] = "application/x-protobuf"
            for call in calls:
                options = {"method": "POST", "path": "/v1/traces", **call}
                assert 200 == session.request(url=url + options.pop("path"), timeout=5, **options).status_code
    assert received[len(calls) :] == received[: len(calls)]


def test_headers_of_the_session_may_change(url: str, received: Received) -> None:
    """A token that is renewed is sent from then on."""
    with observing_session([], lambda: None) as made:
        for token in ("old", "old", "new", "new"):
            made.headers["X-Token"] = token
            made.request("POST", url, data=b"x", timeout=5)
    assert ["old", "old", "new", "new"] == [dict(headers)["X-Token"] for _, _, headers, _ in received]


def test_what_the_session_authenticates_with_is_asked_each_time(url: str, received: Received) -> None:
    """As it may look into the body, or make another token."""
    tokens = iter("abc")

    def sign(request: Any) -> Any:
        request.headers["X-Token"] = next(tokens)
        return request

    with observing_session([], lambda: None) as made:
        made.request("POST", url, data=b"x", timeout=5)
        made.auth = sign
        for _ in range(3):
            made.request("POST", url, data=b"x", timeout=5)
    assert [None, *"abc"] == [dict(headers).get("X-Token") for _, _, headers, _ in received]


def test_a_refusal_has_the_credentials_read_again(url: str, received: Received, tmp_path: Path) -> None:
    """Those of a netrc file that was written anew."""
    netrc = tmp_path / "netrc"
    with observing_session([], lambda: None) as made:
        statuses = []
        for password in ("old", "old", "new", "new"):
            netrc.write_text(f"machine 127.0.0.1 login ann password {password}\n")
            statuses.append(made.request("POST", f"{url}/closed", data=b"x", timeout=5).status_code)
    assert [401, 401, 200, 200] == statuses


SETTINGS: dict[str, list[dict[str, Any]]] = {
    "nothing": [{}, {}],
    "a proxy of the request": [{}, {"proxies": {"http": "http://a:1"}}, {"proxies": {"http": "http://b:1"}}, {}],
    "certificates of the request": [{}, {"verify": "ca.pem"}, {"verify": False}, {"cert": "c.pem"}, {}],
    "another receiver": [{"url": "http://inside/"}, {"url": "http://outside/"}, {"url": "http://inside/"}],
    "proxies of the session": [{}, {"session": {"proxies": {"http": "http://c:1"}}}, {"session": {"proxies": {}}}],
    "certificates of the session": [{}, {"session": {"verify": False}}, {"session": {"verify": True, "cert": "d"}}],
    "streams": [{}, {"stream": True}, {"session": {"stream": True}}],
    "an environment that does not count": [{}, {"session": {"trust_env": False}}, {"session": {"trust_env": True}}],
}


@pytest.mark.parametrize("calls", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_environment_says_the_same(calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a request and the session say besides."""
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("no_proxy", "inside")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "bundle.pem")
    with requests.Session() as plain, observing_session([], lambda: None) as ours:
        for call in calls:
            given = {"url": "http://outside/", "proxies": {}, "stream": None, "verify": None, "cert": None, **call}
            found = []
            for session in (plain, ours):
                for name, value in given.get("session", {}).items():
                    setattr(session, name, value)
                asked = {name: value for name, value in given.items() if name != "session"}
                asked["proxies"] = dict(given["proxies"])
                found.append(session.merge_environment_settings(**asked))
            assert found[1] == found[0]
            found[1]["proxies"]["http"] = "changed by who got it"


def test_a_failure_has_the_environment_read_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is gone is not asked for ever."""
    with closed_port() as proxy, observing_session([], lambda: None) as made:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(requests.ConnectionError):
            made.request("POST", url, data=b"x", timeout=5)
        monkeypatch.delenv("http_proxy")
        assert 200 == made.request("POST", url, data=b"x", timeout=5).status_code
