"""From the bytes of an HTTP body to those of the message, without trusting either."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final

from crucible_otel.testing.decode import MalformedBodyError

__all__ = ["BodyTooLargeError", "UnknownEncodingError", "decompress"]

# The window size by which zlib tells the two formats apart.
_WINDOW_BITS: Final[Mapping[str, int]] = {"gzip": 31, "deflate": 15}
_UNCOMPRESSED: Final = ("", "identity")


class BodyTooLargeError(ValueError):
    """A body, or what it unpacks to, is larger than allowed."""


class UnknownEncodingError(ValueError):
    """A body came in a content encoding that OTLP does not have."""


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo the content encoding of a body, never unpacking more than allowed.

    Args:
        body: The bytes as sent.
        encoding: The content encoding; empty for none.
        max_bytes: The most bytes that the result may have.

    Raises:
        BodyTooLargeError: When the result would be larger.
        UnknownEncodingError: When the encoding is none of identity, gzip, deflate.
        MalformedBodyError: When the body is not in that encoding, or is cut short.
    """
    if encoding in _UNCOMPRESSED:
        if len(body) > max_bytes:
            raise BodyTooLargeError(f"the body has more than {max_bytes} bytes")
        return body
    if encoding not in _WINDOW_BITS:
        raise UnknownEncodingError(f"unknown content encoding; accepted: identity, {', '.join(_WINDOW_BITS)}")
    parts: list[bytes] = []
    room_bytes = max_bytes
    while body:
        member = zlib.decompressobj(_WINDOW_BITS[encoding])
        try:
            # One byte more than there is room for shows that there is more.
            part = member.decompress(body, room_bytes + 1)
        except zlib.error as error:
            raise MalformedBodyError(f"the body is not in the content encoding {encoding}: {error}") from error
        if len(part) > room_bytes:
            raise BodyTooLargeError(f"the body unpacks to more than {max_bytes} bytes")
        if not member.eof:
            raise MalformedBodyError(f"the body in the content encoding {encoding} is cut short")
        parts.append(part)
        room_bytes -= len(part)
        body = member.unused_data
    return b"".join(parts)
