"""Sending a request that is written already, through the SDK's own OTLP exporters.

So their retries, TLS, credentials, headers, timeout, size limit and compression are those of every other request, and
what the environment says of them holds. The only place that knows how these exporters look inside; where one looks
different, it gets items and writes them by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

__all__ = ["Send", "byte_sender"]

Send = Callable[["bytes | memoryview", int], object]
"""``send(request, number of items in it)``; returns what the exporter's ``export`` does, and has no more use for the
request then."""

_ENCODERS = ("encode_spans", "encode_logs", "encode_metrics")


class _Written:
    """Stands for the items of a request, and for the message made of them."""

    def __init__(self, data: bytes | memoryview, number: int) -> None:
        self._data, self._number = data, number

    def __len__(self) -> int:
        return self._number

    def SerializeToString(self) -> bytes | memoryview:
        return self._data

    SerializePartialToString = SerializeToString

    # A collection, or the message of one, whose points are counted.

    @property
    def resource_metrics(self) -> Any:
        return (SimpleNamespace(scope_metrics=(SimpleNamespace(metrics=(self,)),)),)

    def WhichOneof(self, oneof_group: str) -> str:
        return oneof_group

    @property
    def data(self) -> Any:
        return SimpleNamespace(data_points=range(self._number))


def byte_sender(exporter: Any) -> Send | None:
    """Return what sends bytes through an OTLP exporter.

    Args:
        exporter: One that nobody else uses: a gRPC one is changed so that it takes bytes as well as items.
            It is not to cut collections of metrics itself.

    Returns:
        None where the exporter's inside is not known.
    """
    if callable(getattr(exporter, "_translate_data", None)):
        return _grpc_sender(exporter)
    return _http_sender(exporter)


def _http_sender(exporter: Any) -> Send | None:
    """Run ``export`` as it is, but for the encoder that it calls: nothing else of it is about items."""
    export = getattr(type(exporter), "export", None)
    if not isinstance(export, FunctionType):
        return None
    names = [name for name in _ENCODERS if name in export.__code__.co_names and name in export.__globals__]
    if not names or export.__closure__:
        return None
    passing = FunctionType(
        export.__code__, {**export.__globals__, **dict.fromkeys(names, _as_it_is)}, export.__name__, export.__defaults__
    )
    passing.__kwdefaults__ = export.__kwdefaults__
    if getattr(_session_of(exporter), "takes_views", False):
        return lambda data, number: passing(exporter, _Written(data, number))
    return lambda data, number: passing(exporter, _Written(bytes(data), number))


def _session_of(exporter: Any) -> Any:
    """Return what an exporter sends with; None where that is not known."""
    transport = getattr(getattr(exporter, "_client", None), "_transport", exporter)
    return getattr(transport, "_session", None)


def _as_it_is(items: Any) -> Any:
    return items


def _grpc_sender(exporter: Any) -> Send | None:
    """Have the message left as it is, and the stub write bytes as they are."""
    stub, channel = getattr(exporter, "_stub", None), getattr(exporter, "_channel", None)
    if not callable(stub) or not hasattr(channel, "unary_unary") or not hasattr(exporter, "_client"):
        return None
    translate: Callable[[Any], Any] = exporter._translate_data

    def passing(items: Any) -> Any:
        return bytes(items.SerializeToString()) if isinstance(items, _Written) else translate(items)

    # It makes a new client when the connection broke.
    exporter._stub = lambda channel: stub(_Channel(channel))
    exporter._client = exporter._stub(channel)
    exporter._translate_data = passing
    return lambda data, number: exporter.export(_Written(data, number))


class _Channel:
    """A channel whose calls take bytes, too."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def unary_unary(self, method: str, request_serializer: Any = None, *args: Any, **options: Any) -> Any:
        def serialize(request: Any) -> Any:
            return request if isinstance(request, bytes) else request_serializer(request)

        return self._channel.unary_unary(method, serialize, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)
