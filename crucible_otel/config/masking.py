"""Keeping secrets out of reprs, logs and errors."""

from __future__ import annotations

import re

__all__ = ["MASK", "MaskedHeaders", "mask_url", "shorten"]

MASK = "***"

# Greedy up to the last "@": a password may hold any character, "/" and "@" included. Too much masked is no harm.
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", re.DOTALL)
_QUERY = re.compile(r"[?#].*$", re.DOTALL)
_LONGEST = 200
_MANY = 20
_LARGE = 10**18


class MaskedHeaders(dict[str, str]):
    """Headers that show their names and never their values."""

    def __repr__(self) -> str:
        return repr(dict.fromkeys(self, MASK))


def mask_url(url: str) -> str:
    """Return ``url`` without its user information, query and fragment, which may all hold tokens."""
    return _QUERY.sub(f"?{MASK}", _USERINFO.sub(rf"\g<1>{MASK}@", url))


def shorten(value: object) -> object:
    """Return what of ``value`` may stand in an error: plain and short values; of others the type, never their repr."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else value[:_LONGEST] + "…"
    if isinstance(value, (list, tuple)):
        return tuple(shorten(each) for each in value[:_MANY])
    if isinstance(value, dict):
        return {shorten(key): shorten(each) for key, each in list(value.items())[:_MANY]}
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGE):
        return value
    return f"<{value.__name__} class>" if isinstance(value, type) else f"<{type(value).__name__}>"
