"""What every operation verb returns: a context manager that is a decorator too.

As a decorator it takes functions, coroutine functions, generators and asynchronous generators. A generator's context
is exchanged around each resumption, by value, so that an abandoned one leaves nothing behind.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import AsyncGenerator, Callable, Generator
from types import TracebackType
from typing import Any, TypeVar

from crucible_otel.events.runtime import Runtime, runtime
from crucible_otel.events.scope import Frame, Scope, swap
from crucible_otel.semconv.model import Operation

F = TypeVar("F", bound=Callable[..., Any])
_PLACE = re.compile(r"\{(\w+)\}")


class Managed:
    """An operation around a block or a function.

    Attributes:
        fields: What identifies it, by field name.
    """

    def __init__(self, operation: Operation, fields: dict[str, Any]) -> None:
        self._operation, self.fields = operation, fields
        self._open: list[tuple[Runtime, Scope]] = []
        self._yields: dict[str, Any] = {}
        self._measurements: dict[str, Any] = {}
        self._result = ""

    # -- as a context manager ----------------------------------------------------------------------------------------

    def __enter__(self: M) -> M:
        """Start it and make it current."""
        self._begin(enter=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it; an exception travels on."""
        self._end(error)

    async def __aenter__(self: M) -> M:
        """Start it and make it current."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it; an exception travels on."""
        self._end(error)

    # -- what the block may say --------------------------------------------------------------------------------------

    @property
    def scope(self) -> Scope | None:
        """The open scope, None outside the block."""
        return self._open[-1][1] if self._open else None

    def set(self, **fields: Any) -> None:
        """Add fields that stand on the span and in the end event."""
        self._yields.update(fields)

    def skip(self, reason: str = "") -> None:
        """Say that there was nothing to do: it ends with the result ``skip``."""
        self._result = "skip"
        if reason:
            self._yields["reason"] = reason

    def fail(self, reason: str = "") -> None:
        """Say that it failed, without an exception: it ends with the result ``failure``."""
        self._result = "failure"
        if reason:
            self._yields["error"] = reason

    # -- as a decorator ----------------------------------------------------------------------------------------------

    def __call__(self, function: F) -> F:
        """Wrap a function; each call is an operation of its own."""
        wrapper: Any
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
                one = self._for(function, args, kwargs)
                async for item in one._drive_async(function(*args, **kwargs)):
                    yield item

        elif inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self._for(function, args, kwargs):
                    return await function(*args, **kwargs)

        elif inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
                return (yield from self._for(function, args, kwargs)._drive(function(*args, **kwargs)))

        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self._for(function, args, kwargs):
                    return function(*args, **kwargs)

        return wrapper  # type: ignore[no-any-return]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _begin(self, *, enter: bool) -> Scope | None:
        current = runtime()
        if not current.enabled:
            return None
        scope = current.open(self._operation, dict(self.fields), enter=enter)
        self._open.append((current, scope))
        return scope

    def _end(self, error: BaseException | None = None) -> None:
        if not self._open:
            return
        current, scope = self._open.pop()
        self._ending(current, scope)
        current.close(
            scope,
            error=error,
            result=self._result if error is None else "",
            measurements=self._measurements,
            metadata=self._yields,
        )

    def _ending(self, current: Runtime, scope: Scope) -> None:
        """Hook of the verbs that know more at the end."""

    def _for(self: M, function: Callable[..., Any], args: Any, kwargs: Any) -> M:
        """Return the operation of one call; ``{name}`` in a field is replaced by that argument."""
        fields = self.fields
        if any(isinstance(value, str) and "{" in value for value in fields.values()):
            try:
                bound = inspect.signature(function).bind_partial(*args, **kwargs)
                bound.apply_defaults()
                given = bound.arguments
                fields = {
                    key: _PLACE.sub(lambda found: _text(given, found), value) if isinstance(value, str) else value
                    for key, value in fields.items()
                }
            except Exception:
                fields = self.fields
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.fields, copy._open, copy._yields, copy._measurements = dict(fields), [], {}, {}
        return copy

    def _drive(self, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        scope = self._begin(enter=False)
        if scope is None:
            return (yield from generator)
        advance: Callable[[], Any] = functools.partial(next, generator)
        try:
            while True:
                before = Frame(swap(scope))
                try:
                    item = advance()
                except StopIteration as stop:
                    self._end()
                    return stop.value
                finally:
                    before.restore()
                try:
                    sent = yield item
                except GeneratorExit:
                    before = Frame(swap(scope))
                    try:
                        generator.close()
                    finally:
                        before.restore()
                    raise
                except BaseException as thrown:
                    advance = functools.partial(generator.throw, thrown)
                else:
                    advance = functools.partial(generator.send, sent)
        except BaseException as error:
            self._end(error)
            raise

    async def _drive_async(self, generator: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
        scope = self._begin(enter=False)
        if scope is None:
            async for item in generator:
                yield item
            return
        advance: Callable[[], Any] = generator.__anext__
        try:
            while True:
                before = Frame(swap(scope))
                try:
                    item = await advance()
                except StopAsyncIteration:
                    self._end()
                    return
                finally:
                    before.restore()
                try:
                    sent = yield item
                except GeneratorExit:
                    before = Frame(swap(scope))
                    try:
                        await generator.aclose()
                    finally:
                        before.restore()
                    raise
                except BaseException as thrown:
                    advance = functools.partial(generator.athrow, thrown)
                else:
                    advance = functools.partial(generator.asend, sent)
        except BaseException as error:
            self._end(error)
            raise


M = TypeVar("M", bound=Managed)


def _text(given: Any, found: re.Match[str]) -> str:
    name = found.group(1)
    return str(given[name])[:128] if name in given else found.group(0)


class Nothing:
    """Stands in for every verb's object while telemetry is switched off: it does nothing, at the price of a call."""

    scope = None

    def __enter__(self: N) -> N:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    async def __aenter__(self: N) -> N:
        """Do nothing."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Do nothing."""

    def __call__(self, function: F) -> F:
        """Return the function as it is."""
        return function

    def set(self, **fields: Any) -> None:
        """Do nothing."""

    def skip(self, reason: str = "") -> None:
        """Do nothing."""

    def fail(self, reason: str = "") -> None:
        """Do nothing."""


N = TypeVar("N", bound=Nothing)
NOTHING = Nothing()
