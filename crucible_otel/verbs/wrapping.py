"""An operation as a decorator: of functions, coroutine functions, generators and asynchronous generators.

A generator's context is exchanged around each resumption, by value: what runs inside it is inside its operation, what
runs between two items is not, and one that is abandoned leaves nothing behind.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Protocol

from opentelemetry import context as otel_context

from crucible_otel.events.scope import Scope


class Driven(Protocol):
    """An operation around one call."""

    def __enter__(self) -> Any:
        """Start it and make it current."""

    def __exit__(self, *error: Any) -> None:
        """End it."""

    def _begin(self, *, enter: bool) -> Scope | None:
        """Start it; None when telemetry is switched off."""

    def _end(self, error: BaseException | None = None) -> None:
        """End it."""


def wrap(function: Callable[..., Any], prepare: Callable[..., Driven]) -> Callable[..., Any]:
    """Return the function with an operation around each of its calls.

    Args:
        function: Anything that can be called.
        prepare: ``prepare(function, args, kwargs)`` returns the operation of one call.
    """
    plain = inspect.isroutine(function) or inspect.isclass(function)
    called = function if plain else getattr(function, "__call__", function)  # noqa: B004 - to look at, not to call
    for is_kind, wrapped in _KINDS:
        if is_kind(function) or is_kind(called):
            return wrapped(function, prepare)
    return _function(function, prepare)


def _function(function: Callable[..., Any], prepare: Callable[..., Driven]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with prepare(function, args, kwargs):
            return function(*args, **kwargs)

    return wrapper


def _coroutine_function(function: Callable[..., Any], prepare: Callable[..., Driven]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with prepare(function, args, kwargs):
            return await function(*args, **kwargs)

    return wrapper


class _Inside:
    """The context inside a generator: current while it runs, kept while it waits."""

    def __init__(self, scope: Scope | None) -> None:
        self._inner = self._outer = otel_context.get_current() if scope is None else scope.inside()

    def __enter__(self) -> None:
        self._outer = otel_context.get_current()
        otel_context.attach(self._inner)

    def __exit__(self, *error: object) -> None:
        self._inner = otel_context.get_current()
        otel_context.attach(self._outer)


def _generator_function(function: Callable[..., Any], prepare: Callable[..., Driven]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        operation, generator = prepare(function, args, kwargs), function(*args, **kwargs)
        inside = _Inside(operation._begin(enter=False))
        advance: Callable[[], Any] = functools.partial(next, generator)
        try:
            while True:
                try:
                    with inside:
                        item = advance()
                except StopIteration as stop:
                    operation._end()
                    return stop.value
                try:
                    sent = yield item
                except GeneratorExit:
                    with inside:
                        generator.close()
                    raise
                except BaseException as thrown:
                    advance = functools.partial(generator.throw, thrown)
                else:
                    advance = functools.partial(generator.send, sent)
        except BaseException as error:
            operation._end(error)
            raise

    return wrapper


def _async_generator_function(function: Callable[..., Any], prepare: Callable[..., Driven]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        operation, generator = prepare(function, args, kwargs), function(*args, **kwargs)
        inside = _Inside(operation._begin(enter=False))
        advance: Callable[[], Any] = generator.__anext__
        try:
            while True:
                try:
                    with inside:
                        item = await advance()
                except StopAsyncIteration:
                    operation._end()
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    with inside:
                        await generator.aclose()
                    raise
                except BaseException as thrown:
                    advance = functools.partial(generator.athrow, thrown)
                else:
                    advance = functools.partial(generator.asend, sent)
        except BaseException as error:
            operation._end(error)
            raise

    return wrapper


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[..., Callable[..., Any]]], ...] = (
    (inspect.isasyncgenfunction, _async_generator_function),
    (inspect.iscoroutinefunction, _coroutine_function),
    (inspect.isgeneratorfunction, _generator_function),
)
