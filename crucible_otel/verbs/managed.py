"""What every operation verb returns: a context manager that is a decorator too."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar, cast

from crucible_otel.events.names import text
from crucible_otel.events.runtime import Runtime, runtime
from crucible_otel.events.scope import Scope, chain, current
from crucible_otel.semconv.model import Operation
from crucible_otel.verbs.wrapping import wrap

F = TypeVar("F", bound=Callable[..., Any])
_PLACE = re.compile(r"\{(\w+)\}")
_PLACE_CHARACTERS = 128


class Managed:
    """An operation around a block or a function.

    Attributes:
        fields: What identifies it, by field name.
    """

    _places: dict[str, str] | None = None
    """The fields in which the argument of a call is to be put; None when nobody has looked yet."""

    def __init__(self, operation: Operation, fields: dict[str, Any]) -> None:
        self._operation, self.fields = operation, fields
        self._open: list[tuple[Runtime, Scope, Managed]] = []
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

    # -- as a decorator ----------------------------------------------------------------------------------------------

    def __call__(self, function: F) -> F:
        """Wrap a function, coroutine function or generator; each call is an operation of its own."""
        return cast("F", wrap(function, self._for))

    # -- what the block may say --------------------------------------------------------------------------------------

    @property
    def scope(self) -> Scope | None:
        """The open scope, None outside the block."""
        return next((scope for _, scope, owner in reversed(self._open) if owner is self), None)

    def set(self, **fields: Any) -> None:
        """Add fields that stand on the span and in the end event."""
        self._yields.update(fields)

    def skip(self, reason: str = "") -> None:
        """Say that there was nothing to do: it ends with the result ``skip``."""
        self._say("skip", "reason", reason)

    def fail(self, reason: str = "") -> None:
        """Say that it failed, without an exception: it ends with the result ``failure``."""
        self._say("failure", "error", reason)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _say(self, result: str, field: str, reason: object) -> None:
        self._result = result
        if reason is not None and text(reason):
            self._yields[field] = text(reason)

    def _begin(self, *, enter: bool) -> Scope | None:
        current = runtime()
        if not current.enabled:
            return None
        scope = current.open(self._operation, dict(self.fields), enter=enter)
        self._open.append((current, scope, self))
        return scope

    def _end(self, error: BaseException | None = None) -> None:
        ended = self._taken()
        owner = self
        if ended is not None:
            current, scope, owner = ended
            owner._close(current, scope, error)
        owner._forget()

    def _forget(self) -> None:
        """Forget what was said: none of it is said of the next one."""
        self._measurements, self._yields, self._result = {}, {}, ""

    def _taken(self) -> tuple[Runtime, Scope, Managed] | None:
        """Take the one that the calling context is inside of, where threads or tasks share this object."""
        around = chain(current()) if len(self._open) > 1 else ()
        for each in reversed(self._open.copy()):
            if not around or each[1] in around:
                with suppress(ValueError):  # of another thread, meanwhile
                    self._open.remove(each)
                    return each
        with suppress(IndexError):
            return self._open.pop()
        return None

    def _close(self, current: Runtime, scope: Scope, error: BaseException | None) -> None:
        try:
            self._ending(current, scope)
        except Exception as fault:
            current.fault(self._operation.name, fault)
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
        one = type(self).__new__(type(self))
        one.__dict__.update(self.__dict__)
        one.fields, one._open, one._yields, one._measurements, one._result = dict(self.fields), [], {}, {}, ""
        if self._places is None:
            places = {key: value for key, value in self.fields.items() if isinstance(value, str) and "{" in value}
            self._places = one._places = places
        if self._places:
            try:
                bound = inspect.signature(function).bind_partial(*args, **kwargs)
                bound.apply_defaults()
            except (TypeError, ValueError):  # the call itself will say so
                return one
            given = {**kwargs, **bound.arguments}
            filled = {key: _PLACE.sub(lambda at: _filled(given, at), value) for key, value in self._places.items()}
            one.fields.update(filled)
        return one


M = TypeVar("M", bound=Managed)


def _filled(given: dict[str, Any], place: re.Match[str]) -> str:
    name = place.group(1)
    return text(given[name])[:_PLACE_CHARACTERS] if name in given else place.group(0)
