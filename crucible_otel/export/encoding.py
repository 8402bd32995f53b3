"""From spans or log records to the bytes of one OTLP request."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from opentelemetry.attributes import BoundedAttributes

from crucible_otel.export.chunk import Batch, Chunk
from crucible_otel.export.fork import in_child
from crucible_otel.export.protobuf import attributes, delimited, length_of, text, varint

__all__ = ["Encoded", "Encoder", "attribute_fields", "resource_field", "scope_field"]

_MOST_KEPT: Final = 64
_JOINED_AT_ONCE: Final = 3 * 256
_FRONT: Final = 16 * 1024
_USUAL_BYTES: Final = 4 * 1024 * 1024

_COPIED: Final = (BoundedAttributes, MappingProxyType)


def _nothing() -> None:
    pass


class Encoded(NamedTuple):
    """A request.

    Attributes:
        data: The message; empty when it has no items. A view of memory holds only until ``let_go``.
        written: How many items are in it.
        lost: How many could not be written.
        let_go: To be called when it has been sent, so that the next one is written in the same memory; else it is
            written in other memory.
    """

    data: bytes | memoryview
    written: int
    lost: int
    let_go: Callable[[], object] = _nothing


class Encoder:
    """Writes the request of one signal: items by resource and scope, as the SDK groups them.

    This is the one place where the class of an item decides how it is written. An item of the SDK is written by
    ``body``. One whose class has a method ``otlp_body() -> bytes`` writes itself: the content of its ``Span`` or
    ``LogRecord`` message, without tag and length. Besides that it has the attributes ``resource`` and
    ``instrumentation_scope``, and a method ``readable()`` that gives it as the SDK's class, for exporters that take
    nothing else and for when ``otlp_body`` fails. A chunk writes all its items.

    Args:
        body: Writes the message of an item of the SDK.
        by_sdk: Writes the same by the SDK's encoder; for an item at which ``body`` fails.
    """

    def __init__(self, body: Callable[[Any], bytes], by_sdk: Callable[[Any], bytes]) -> None:
        self._body, self._by_sdk = body, by_sdk
        self._reset()
        in_child(self._reset)

    def _reset(self) -> None:
        # By identity, with the object itself, so that no other one gets its id: the hash of a resource is dear.
        self._kept: dict[int, tuple[Any, bytes]] = {}
        self._rooms: list[_Room] = []

    def encode(self, items: Iterable[Any]) -> Encoded:
        """Write a request of the items; one that cannot be written does not keep the others from it.

        It takes microseconds an item, and a pause between two items is the business of what is iterated over. No more
        than some hundred items are joined at once, and all of them only where they are of several scopes.
        """
        try:
            room = self._rooms.pop()
        except IndexError:  # the first request, or the others are still being sent
            room = _Room()
        request = _Request(room)
        for piece in items.pieces() if isinstance(items, Batch) else (items,):
            if isinstance(piece, Chunk):
                self._write_many(piece, request)
            else:
                self._write(piece, request)
        parts: list[bytes | memoryview] = []
        for resource, scopes in request.groups.items():
            parts += self._of_resource(resource, scopes)
        data: bytes | memoryview | None = room.whole(parts)
        if data is None:
            if isinstance(items, Batch):
                items.pace.pause()  # megabytes are joined in a few tenths of a millisecond, and CPython keeps the GIL
            data = b"".join(parts)

        def let_go() -> None:
            room.empty()
            self._rooms.append(room)

        return Encoded(data, request.written, request.lost, let_go)

    def _write(self, items: Iterable[Any], request: _Request) -> None:
        written = lost = 0
        resource = scope = group = None
        default = self._body
        for item in items:
            try:
                body = getattr(type(item), "otlp_body", default)(item)
            except Exception:
                body = self._otherwise(item)
            if body is None:
                lost += 1
                continue
            if group is None or item.resource is not resource or item.instrumentation_scope is not scope:
                resource, scope = item.resource, item.instrumentation_scope
                group = request.group(resource, scope)
            group.bodies += (b"\x12", varint(len(body)), body)
            if len(group.bodies) >= _JOINED_AT_ONCE:
                group.join()
            written += 1
        request.written += written
        request.lost += lost

    def _write_many(self, chunk: Chunk, request: _Request) -> None:
        try:
            fields = chunk.otlp_fields()
        except Exception:
            try:
                items = list(chunk)
            except Exception:
                request.lost += len(chunk)
            else:
                self._write(items, request)
            return
        request.group(chunk.resource, chunk.instrumentation_scope).add(fields)
        request.written += len(chunk)

    def _otherwise(self, item: Any) -> bytes | None:
        """Write an item at which the usual way failed; None when it cannot be written."""
        try:
            if hasattr(item, "otlp_body"):
                item = item.readable()
                try:
                    return self._body(item)
                except Exception:
                    return self._by_sdk(item)
            return self._by_sdk(item)
        except Exception:
            return None

    def _of_resource(self, resource: Any, scopes: dict[Any, _Group]) -> list[bytes | memoryview]:
        """Write a ``ResourceSpans`` or ``ResourceLogs``, and the tag of the request before it."""
        parts: list[bytes | memoryview] = [self._known(resource, resource_field)]
        for scope, group in scopes.items():
            written = group.written()
            before = self._known(scope, scope_field)
            after = text(3, scope.schema_url) if scope is not None else b""
            parts += (b"\x12", length_of((before, *written, after)), before, *written, after)
        parts.append(text(3, resource.schema_url))
        return [b"\x0a", length_of(parts), *parts]

    def _known(self, thing: Any, write: Callable[[Any], bytes]) -> bytes:
        kept = self._kept.get(id(thing))
        if kept is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            kept = self._kept[id(thing)] = thing, write(thing)
        return kept[1]


class _Request:
    """What is written of a request."""

    __slots__ = ("_last", "_room", "groups", "lost", "written")

    def __init__(self, room: _Room) -> None:
        self._room = room
        self.groups: dict[Any, dict[Any, _Group]] = {}
        self.written = self.lost = 0
        self._last: tuple[Any, Any, _Group] | None = None

    def group(self, resource: Any, scope: Any) -> _Group:
        last = self._last
        if last is not None and last[0] is resource and last[1] is scope:  # the hash of a resource is dear
            return last[2]
        scopes = self.groups.setdefault(resource, {})
        group = scopes.get(scope or None)
        if group is None:
            group = scopes[scope or None] = _Group(self._room)
        self._last = resource, scope, group
        return group


class _Group:
    """The items of one scope: the last ones, and where those before them are written."""

    __slots__ = ("_places", "_room", "bodies")

    def __init__(self, room: _Room) -> None:
        self.bodies: list[bytes] = []
        self._room = room
        self._places: list[slice] = []

    def add(self, fields: bytes | bytearray) -> None:
        """Add what is a field, or several."""
        if self.bodies:
            self.join()
        place, places = self._room.put(fields), self._places
        if places and places[-1].stop == place.start:
            place = slice(places.pop().start, place.stop)
        places.append(place)

    def join(self) -> None:
        """Write down the last items."""
        bodies, self.bodies = self.bodies, []
        self.add(b"".join(bodies))

    def written(self) -> list[memoryview]:
        """Return all of it."""
        self.join()
        return list(map(self._room.view, self._places))


class _Room:
    """Memory in which requests are written, one after the other.

    To give back megabytes after each of them, and to get them again, page by page, takes as long as to write them.
    What is at its front stays free for what comes before the items and tells how long they are.
    """

    __slots__ = ("_data", "_used")

    def __init__(self) -> None:
        self._data = _pages(_USUAL_BYTES)
        self._used = _FRONT

    def put(self, data: bytes | bytearray) -> slice:
        """Write data after what is there; return where it is."""
        start, stop = self._used, self._used + len(data)
        if stop > len(self._data):
            larger = _pages(max(stop, 2 * len(self._data)))
            larger[:start] = memoryview(self._data)[:start]
            self._data = larger
        self._data[start:stop] = data
        self._used = stop
        return slice(start, stop)

    def view(self, place: slice) -> memoryview:
        """Return what is there, which holds until the room is emptied."""
        return memoryview(self._data)[place]

    def whole(self, parts: Sequence[bytes | memoryview]) -> memoryview | None:
        """Return the join of parts of which one is what has been put here; None where that is not so."""
        here = [index for index, part in enumerate(parts) if isinstance(part, memoryview)]
        if len(here) != 1:
            return None
        before, after = b"".join(parts[: here[0]]), b"".join(parts[here[0] + 1 :])
        if len(before) > _FRONT:
            return None
        start = _FRONT - len(before)
        self._data[start:_FRONT] = before
        self.put(after)
        return self.view(slice(start, self._used))

    def empty(self) -> None:
        """Begin anew."""
        self._used = _FRONT
        if len(self._data) > _USUAL_BYTES:  # one large item is no reason to keep as much for good
            self._data = _pages(_USUAL_BYTES)


def _pages(size: int) -> mmap.mmap:
    """Get memory of which nothing is touched before it is written to: to clear megabytes takes a millisecond."""
    own = getattr(mmap, "MAP_PRIVATE", None)  # else a forked child would write into its parent's
    return mmap.mmap(-1, size) if own is None else mmap.mmap(-1, size, flags=own | mmap.MAP_ANONYMOUS)


def resource_field(resource: Any) -> bytes:
    """Write the field of a resource, the same in all requests."""
    return delimited(1, attribute_fields(1, resource.attributes))


def scope_field(scope: Any) -> bytes:
    """Write the field of an instrumentation scope, the same in all requests; an empty one for None."""
    if scope is None:
        return delimited(1, b"")
    return delimited(1, text(1, scope.name) + text(2, scope.version) + attribute_fields(3, scope.attributes))


def attribute_fields(field_number: int, mapping: Any) -> bytes:
    """Write the attributes of something of the SDK: a mapping, or None."""
    # As a dict, which is read at a quarter of the price; the copy is made in one go, whoever is adding to the original.
    return attributes(field_number, mapping.copy() if type(mapping) in _COPIED else mapping)
