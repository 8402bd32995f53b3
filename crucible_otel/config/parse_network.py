"""Parsers of what goes over the network: attributes and headers in W3C baggage style, endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

from crucible_otel.config.masking import MASK, MaskedHeaders, mask_url
from crucible_otel.config.parse import Parser, ensure, string

__all__ = ["headers", "is_http_url", "mapping", "url"]


def _pairs(value: str) -> Iterable[tuple[str, str]]:
    """Yield the pairs of the W3C baggage form ``key=value,key=value``, undecoded."""
    for item in value.split(","):
        if item.strip():
            key, equals, rest = item.partition("=")
            ensure(equals)
            yield key.strip(), rest.strip()


def mapping() -> Parser[dict[str, str]]:
    """Names to text; in the environment ``key=value,key=value`` with percent-encoded values."""

    def check(value: object) -> dict[str, str]:
        if not isinstance(value, Mapping):
            raise TypeError
        taken = {string(key).strip(): string(each) for key, each in value.items()}
        ensure(all(taken))
        return taken

    def read(value: str) -> dict[str, str]:
        return check({key: unquote(each, errors="strict") for key, each in _pairs(value)})

    return Parser(
        accepted="key=value pairs separated by commas, values percent-encoded "
        "(as an argument: a mapping of text to text)",
        check=check,
        read=read,
    )


_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*").fullmatch
_UNENCODED = re.compile(r'["\\;]').search
"""What must be percent-encoded in a variable: the SDK leaves out a header with one of these, and logs it in full."""


def headers() -> Parser[MaskedHeaders]:
    """HTTP headers, names in lower case, values masked wherever they are shown.

    Values in the environment are percent-decoded unless they hold a space, as the SDK does it.
    """
    plain = mapping()

    def check(value: object) -> MaskedHeaders:
        taken = MaskedHeaders({key.lower(): each.strip() for key, each in plain.check(value).items()})
        # Printable ASCII: what both HTTP and gRPC can carry; a line break would smuggle in a header.
        ensure(all(_HEADER_NAME(key) and _HEADER_VALUE(each) for key, each in taken.items()))
        return taken

    def read(value: str) -> MaskedHeaders:
        ensure(not _UNENCODED(value))
        decoded = (
            (unquote(key), each if " " in each else unquote(each, errors="strict")) for key, each in _pairs(value)
        )
        return check(dict(decoded))

    return Parser(
        accepted="key=value pairs separated by commas, header names and percent-encoded printable ASCII values, "
        "without a bare quotation mark, semicolon or backslash "
        "(as an argument: a mapping of text to text)",
        check=check,
        read=read,
        show=lambda value: value if isinstance(value, MaskedHeaders) else MASK,
    )


_TARGET = re.compile(
    r"(?:dns|ipv4|ipv6|unix):[^\s]+|[A-Za-z0-9._-]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}"
).fullmatch
"""A gRPC target without scheme http or https."""


def is_http_url(value: str) -> bool:
    """Whether ``value`` is an http or https URL with a host and, if any, a valid port."""
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _show_url(value: object) -> object:
    if isinstance(value, str):
        return mask_url(value)
    return None if value is None else f"<{type(value).__name__}>"


def url() -> Parser[str]:
    """An OTLP endpoint: an http or https URL or, for gRPC, a target such as ``host:port``."""

    def check(value: object) -> str:
        taken = string(value)
        ensure(not re.search(r"[\s\x00-\x1f]", taken))
        ensure(is_http_url(taken) or _TARGET(taken))
        return taken

    return Parser(
        accepted="a URL such as http://localhost:4318 (with grpc also host:port)",
        check=check,
        read=check,
        show=_show_url,
    )
