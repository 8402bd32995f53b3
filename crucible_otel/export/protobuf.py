"""Writing OTLP messages as bytes, without making the message objects first.

Byte for byte what the SDK's encoder (``opentelemetry.exporter.otlp.proto.common``) serialises, at a fraction of its
price: fields in the order of their numbers, numbers at their shortest.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

__all__ = [
    "BYTES",
    "FIXED32",
    "FIXED64",
    "VARINT",
    "any_value",
    "attributes",
    "delimited",
    "double",
    "fixed32",
    "fixed64",
    "key_value",
    "length_of",
    "signed",
    "tag",
    "text",
    "varint",
]

_logger = logging.getLogger("crucible_otel")

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
"""The wire types; https://protobuf.dev/programming-guides/encoding."""

_ALL_64: Final = 2**64 - 1

_MOST_CACHED: Final = 2_048
_LONGEST_CACHED: Final = 64

double: Final = struct.Struct("<d").pack
"""``double(number) -> bytes``, eight of them, without a tag."""
fixed32: Final = struct.Struct("<I").pack
"""``fixed32(number) -> bytes``, four of them, unsigned, without a tag."""
fixed64: Final = struct.Struct("<Q").pack
"""``fixed64(number) -> bytes``, eight of them, unsigned, without a tag."""


# -- the wire format ---------------------------------------------------------------------------------------------------


def _long_varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


_SMALL: Final = tuple(_long_varint(number) for number in range(1_024))
_SMALLS: Final = len(_SMALL)


def varint(number: int) -> bytes:
    """Write an unsigned number, or a length, in as few bytes as it takes.

    Args:
        number: Not negative, less than 2**64.
    """
    if number < _SMALLS:
        return _SMALL[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 0x20_0000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    return _long_varint(number)


def signed(number: int) -> bytes:
    """Write an ``int64``: a negative one takes ten bytes.

    Args:
        number: From -2**63 to 2**63 - 1.

    Raises:
        ValueError: It is out of this range.
    """
    if not -0x8000_0000_0000_0000 <= number <= 0x7FFF_FFFF_FFFF_FFFF:
        raise ValueError(f"Value out of range: {number}")
    return varint(number) if number >= 0 else _long_varint(number & _ALL_64)


def tag(field_number: int, wire_type: int = BYTES) -> bytes:
    """Write what precedes a field's value."""
    return varint(field_number << 3 | wire_type)


def length_of(parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """Write the length of what is the join of the parts."""
    return varint(sum(map(len, parts)))


def delimited(field_number: int, content: bytes) -> bytes:
    """Write a field whose value is bytes or a message, an empty one too."""
    return b"%b%b%b" % (varint(field_number << 3 | BYTES), varint(len(content)), content)


def text(field_number: int, value: str | None) -> bytes:
    """Write a field whose value is text; nothing when it is empty.

    Raises:
        UnicodeEncodeError: It holds half of a surrogate pair.
    """
    return delimited(field_number, value.encode()) if value else b""


# -- OTLP's values -----------------------------------------------------------------------------------------------------


def _of_bool(value: bool) -> bytes:
    return b"\x10\x01" if value else b"\x10\x00"


def _of_text(value: str) -> bytes:
    content = value.encode()
    return b"\x0a%b%b" % (varint(len(content)), content)


def _of_int(value: int) -> bytes:
    return b"\x18" + signed(value)


def _of_float(value: float) -> bytes:
    return b"\x21" + double(value)


def _of_bytes(value: bytes) -> bytes:
    return b"\x3a%b%b" % (varint(len(value)), value)


def _of_sequence(value: Iterable[Any]) -> bytes:
    contents = [any_value(each) for each in value]
    return delimited(5, b"".join([part for content in contents for part in (b"\x0a", varint(len(content)), content)]))


def _of_mapping(value: Mapping[Any, Any]) -> bytes:
    # Unlike among attributes, one value that cannot be written spoils the whole map.
    pairs = [_pair(str(key), each) for key, each in value.items()]
    return delimited(6, b"".join([part for pair in pairs for part in (b"\x0a", pair)]))


def _of_none(value: None) -> bytes:
    return b""


_WRITERS: Final[dict[type, Callable[[Any], bytes]]] = {
    bool: _of_bool,
    str: _of_text,
    int: _of_int,
    float: _of_float,
    bytes: _of_bytes,
    tuple: _of_sequence,
    list: _of_sequence,
    dict: _of_mapping,
    type(None): _of_none,
}

_BASES: Final[tuple[tuple[type, Callable[[Any], bytes]], ...]] = (
    (str, _of_text),
    (int, _of_int),
    (float, _of_float),
    (bytes, _of_bytes),
    (Sequence, _of_sequence),
    (Mapping, _of_mapping),
)
"""For what is not of one of the types above but of one derived from it; the first that fits, as in the SDK."""


def any_value(value: Any) -> bytes:
    """Write the content of an ``AnyValue``, without tag and length.

    Args:
        value: Text, bool, int, float, bytes, None, a sequence or a mapping of these, at any depth.

    Raises:
        TypeError: It is, or holds, something else.
        ValueError: It is, or holds, an int of more than 64 bits, or text with half of a surrogate pair.
    """
    writer = _WRITERS.get(type(value))
    if writer is None:
        writer = next((writer for base, writer in _BASES if isinstance(value, base)), None)
        if writer is None:
            raise TypeError(f"a value of type {type(value).__name__} cannot be written")
    return writer(value)


# -- OTLP's attributes -------------------------------------------------------------------------------------------------

_texts: dict[tuple[str, str], bytes] = {}
_flags: dict[tuple[str, bool], bytes] = {}
_double_heads: dict[str, bytes] = {}
_int_heads: dict[tuple[str, int], bytes] = {}
"""What comes again and again: whole pairs, and what precedes the number in a pair. Each is emptied when it is full."""


def _keep(cache: dict[Any, bytes], key: Any, written: bytes) -> bytes:
    if len(cache) >= _MOST_CACHED:
        cache.clear()
    cache[key] = written
    return written


def _head(key: str, value_length: int) -> bytes:
    """Write a ``KeyValue`` with its length as far as the content of its value, which has this length."""
    name = text(1, key)
    before = b"%b\x12%b" % (name, varint(value_length))
    return varint(len(before) + value_length) + before


def _text_pair(key: str, value: str) -> bytes:
    pair = _texts.get((key, value))
    if pair is None:
        content = _of_text(value)
        pair = _head(key, len(content)) + content
        if len(value) <= _LONGEST_CACHED:
            _keep(_texts, (key, value), pair)
    return pair


def _bool_pair(key: str, value: bool) -> bytes:
    pair = _flags.get((key, value))
    return _keep(_flags, (key, value), _head(key, 2) + _of_bool(value)) if pair is None else pair


def _float_pair(key: str, value: float) -> bytes:
    head = _double_heads.get(key)
    if head is None:
        head = _keep(_double_heads, key, _head(key, 9) + b"\x21")
    return head + double(value)


def _int_pair(key: str, value: int) -> bytes:
    content = _SMALL[value] if 0 <= value < _SMALLS else signed(value)
    length = len(content)
    head = _int_heads.get((key, length))
    if head is None:
        head = _keep(_int_heads, (key, length), _head(key, length + 1) + b"\x18")
    return head + content


_PAIR_WRITERS: Final[dict[type, Callable[[str, Any], bytes]]] = {
    str: _text_pair,
    bool: _bool_pair,
    float: _float_pair,
    int: _int_pair,
}


def _pair(key: str, value: Any) -> bytes:
    """Write a ``KeyValue`` with its length, without tag."""
    if type(key) is str:
        writer = _PAIR_WRITERS.get(type(value))
        if writer is not None:
            return writer(key, value)
    elif not isinstance(key, str):
        raise TypeError(f"a key of type {type(key).__name__} cannot be written")
    content = any_value(value)
    return _head(key, len(content)) + content


def key_value(field_number: int, key: str, value: Any) -> bytes:
    """Write a field whose value is a ``KeyValue``.

    Raises:
        TypeError: The key is not text, or the value of a type that OTLP does not have.
        ValueError: The value is an int of more than 64 bits, or key or value hold half of a surrogate pair.
    """
    return varint(field_number << 3 | BYTES) + _pair(key, value)


def attributes(field_number: int, mapping: Mapping[str, Any] | None) -> bytes:
    """Write each attribute as a field; as in the SDK, one that cannot be written is left out and the others go.

    Args:
        field_number: The field's number in the message they belong to.
        mapping: The attributes.
    """
    if not mapping:
        return b""
    pairs = [b""]
    writers = _PAIR_WRITERS
    for key, value in mapping.items():
        try:
            # As _pair() does, without the call.
            writer = writers.get(type(value)) if type(key) is str else None
            pairs.append(_pair(key, value) if writer is None else writer(key, value))
        except Exception as error:
            _logger.debug("the attribute %r cannot be sent: %s", key, type(error).__name__)
    return varint(field_number << 3 | BYTES).join(pairs)
