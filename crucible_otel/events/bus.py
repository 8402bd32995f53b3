"""The bus: who gets which event, under which name.

Subscriptions are held in tables that are replaced, never changed, so that delivery takes no lock. A handler that
raises is isolated, counted and reported at a bounded rate; it stays attached.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any, Literal

from crucible_otel.errors import ConfigurationError, DuplicateHandlerError
from crucible_otel.events.event import Event
from crucible_otel.events.handler import BuiltHandler, Handle
from crucible_otel.events.names import EventName, dotted_all
from crucible_otel.events.raised import raised_at
from crucible_otel.events.translate import outward, seed_of
from crucible_otel.semconv.model import Alias
from crucible_otel.semconv.registry import ALIASES

logger = logging.getLogger("crucible_otel")

Filter = Callable[[str, dict[str, Any], dict[str, Any]], bool]
_REPORT_EVERY_S = 60.0


class Subscription:
    """One attached handler.

    Attributes:
        id: Its id.
        events: What it subscribes to; ``None`` for everything.
        failures: Exceptions it, or its filter, has raised.
    """

    def __init__(self, handler: BuiltHandler, filter: Filter | None, every: int) -> None:
        self.id, self.events, self.failures = handler.id, handler.events, 0
        self.handler = handler
        self._filter, self._every = filter, every
        self._seen: dict[str, count[int]] = {}
        self._reported_s = -_REPORT_EVERY_S
        self._inside: set[int] = set()

    def deliver(self, event: Event, alias: Alias | None, on_failure: Callable[[str], None] | None) -> None:
        """Call the handler for an event, under the alias if there is one."""
        sampled = self._every > 1 and event.spec.role == "point"
        if sampled and next(self._seen.setdefault(event.name, count())) % self._every:
            return
        thread = threading.get_ident()
        if thread in self._inside:  # an event that the handler itself emits
            return
        self._inside.add(thread)
        try:
            if alias is None:
                name, measurements, metadata = event.name, dict(event.measurements), dict(event.metadata)
            else:
                name = alias.name
                measurements, metadata = outward(alias, event.measurements, event.metadata)
            if self._filter is None or self._filter(name, measurements, metadata):
                self.handler.handle(name, measurements, metadata, self.handler.config)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.failures += 1
            if on_failure is not None:
                on_failure(self.id)
            self.report(error, "; it stays attached")
        finally:
            self._inside.discard(thread)

    def report(self, error: BaseException, when: str) -> None:
        """Log a failure, at a bounded rate: where it was raised, and for who debugs the whole of it."""
        now = time.monotonic()
        if now - self._reported_s >= _REPORT_EVERY_S:
            self._reported_s = now
            logger.warning("handler %r raised %s (%d so far)%s", self.id, raised_at(error), self.failures, when)
            logger.debug("what handler %r raised:", self.id, exc_info=error)


class Bus:
    """The subscriptions of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: dict[str, Subscription] = {}
        self._by_name: Mapping[str, tuple[tuple[Subscription, Alias | None], ...]] = {}
        self._everything: tuple[Subscription, ...] = ()
        self._listeners: list[weakref.WeakMethod[Callable[[], None]]] = []
        self.on_failure: Callable[[str], None] | None = None

    # -- registration ------------------------------------------------------------------------------------------------

    def attach(
        self, handler: BuiltHandler, *, filter: Filter | None = None, every: int = 1, replace: bool = False
    ) -> str:
        """Attach a built handler and return its id.

        Raises:
            DuplicateHandlerError: The id is taken and ``replace`` is false.
            ConfigurationError: ``filter`` or ``every`` cannot be used.
        """
        check_delivery(filter, every)
        with self._lock:
            old = self._subscriptions.get(handler.id)
            if old is not None and not replace:
                raise DuplicateHandlerError(handler.id)
            self._subscriptions = {**self._subscriptions, handler.id: Subscription(handler, filter, every)}
            self._rebuild()
        if old is not None:
            self._close(old, 1.0)
        self._changed()
        return handler.id

    def detach(self, handler_id: str, *, timeout_s: float = 5.0) -> bool:
        """Detach a handler, deliver what it accepted and close it; False if there is no such handler."""
        with self._lock:
            old = self._subscriptions.get(handler_id)
            if old is None:
                return False
            self._subscriptions = {key: value for key, value in self._subscriptions.items() if key != handler_id}
            self._rebuild()
        self._changed()
        self._close(old, timeout_s)
        return True

    def handlers(self, prefix: str = "") -> dict[str, tuple[str, ...] | None]:
        """Return id -> subscribed names (``None`` for everything) of the handlers whose id starts with ``prefix``."""
        return {key: value.events for key, value in self._subscriptions.items() if key.startswith(prefix)}

    def failures(self) -> dict[str, int]:
        """Return id -> exceptions raised so far."""
        return {key: value.failures for key, value in self._subscriptions.items()}

    def dropped(self) -> dict[str, int]:
        """Return id -> events that a handler was given and has lost so far: its queue was full, its file took none."""
        return {key: value.handler.dropped() for key, value in self._subscriptions.items()}

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call a bound method whenever a handler comes or goes, as long as its object lives."""
        self._listeners = [known for known in self._listeners if known() is not None]
        self._listeners.append(weakref.WeakMethod(listener))

    def flush(self, timeout_s: float) -> bool:
        """Have every handler deliver what it accepted; False if one ran out of time."""
        deadline = time.monotonic() + timeout_s
        done = [
            self._guarded(each, each.handler.flush, max(0.0, deadline - time.monotonic()))
            for each in self._subscriptions.values()
        ]
        return all(done)

    # -- delivery ----------------------------------------------------------------------------------------------------

    def wants(self, name: str) -> bool:
        """Return whether any handler subscribes to a canonical event."""
        return bool(self._everything) or name in self._by_name

    def deliver(self, event: Event) -> None:
        """Give an event to its subscribers."""
        for subscription, alias in self._by_name.get(event.name, ()):
            subscription.deliver(event, alias, self.on_failure)
        for subscription in self._everything:
            alias = seed_of(event.name) if subscription.handler.names == "seed" else None
            subscription.deliver(event, alias, self.on_failure)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _rebuild(self) -> None:
        table: dict[str, dict[str, tuple[Subscription, Alias | None]]] = {}
        for subscription in self._subscriptions.values():
            for name in subscription.events or ():
                alias = ALIASES.get(name)
                for target in alias.targets if alias is not None else (name,):
                    table.setdefault(target, {}).setdefault(subscription.id, (subscription, alias))
        self._by_name = {name: tuple(found.values()) for name, found in table.items()}
        self._everything = tuple(each for each in self._subscriptions.values() if each.events is None)

    def _changed(self) -> None:
        for reference in self._listeners:
            listener = reference()
            if listener is not None:
                listener()

    def _close(self, subscription: Subscription, timeout_s: float) -> None:
        self._guarded(subscription, subscription.handler.flush, timeout_s)
        self._guarded(subscription, subscription.handler.close)

    def _guarded(self, subscription: Subscription, call: Callable[..., object], *args: object) -> bool:
        try:
            return call(*args) is not False
        except Exception as error:
            subscription.failures += 1
            subscription.report(error, " when it was to deliver or to end")
            return False


def check_delivery(filter: Filter | None, every: int) -> tuple[Filter | None, int]:
    """Return what decides which events a handler gets.

    Raises:
        ConfigurationError: One of them cannot be used.
    """
    if filter is not None and not callable(filter):
        raise ConfigurationError("filter", filter, "a callable of (event, measurements, metadata), or None")
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ConfigurationError("every", every, "a whole number of at least 1")
    return filter, every


def custom(
    handler_id: str, events: Iterable[EventName] | EventName | None, handle: Handle, config: object = None,
    names: Literal["canonical", "seed"] = "canonical",
) -> BuiltHandler:  # fmt: skip
    """Make a handler of a plain function.

    Raises:
        ConfigurationError: An empty id, something that cannot be called, or names that are none.
    """
    if not isinstance(handler_id, str) or not handler_id:
        raise ConfigurationError("handler_id", handler_id, "a non-empty string")
    if not callable(handle):
        raise ConfigurationError("handler", handle, "a callable of (event, measurements, metadata, config)")
    if names not in ("canonical", "seed"):
        raise ConfigurationError("names", names, "canonical or seed")
    try:
        wanted = dotted_all(events)
    except TypeError:
        wanted = ()
    if wanted is not None and (not wanted or not all(wanted)):
        raise ConfigurationError("events", events, "event names, dotted or in parts, or None for everything")
    return BuiltHandler(id=handler_id, events=wanted, handle=handle, config=config, names=names)
