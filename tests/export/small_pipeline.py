"""A pipeline of traces and logs out of the pieces, as programs under test use it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from crucible_otel.config.settings import Settings
from crucible_otel.export.hooks import ExitHooks
from crucible_otel.export.leave import Departure, Part
from crucible_otel.export.providers import Route, log_route, trace_route
from crucible_otel.export.quiet import Quiet
from crucible_otel.export.resource import build_resource
from crucible_otel.export.tally import Ledger


class SmallPipeline:
    """Built like the real one, without metrics."""

    def __init__(
        self, before_leaving: Callable[[str], object] | None = None, extra: tuple[Part, ...] = (), **given: Any
    ) -> None:
        settings = Settings(**given).resolve(os.environ)
        resource = build_resource(settings)
        self.ledger = Ledger()
        self.quiet = Quiet()
        self.quiet.install()
        self.traces: Route = trace_route(settings, resource, self.ledger)
        self.logs: Route = log_route(settings, resource, self.ledger)
        self.departure = Departure(
            (self.traces.part, self.logs.part, *extra),
            exit_timeout_s=settings.exit_timeout_s,
            before_leaving=before_leaving,
            last_word=self._last_word,
        )
        self.hooks = ExitHooks(self.departure, handle_sigterm=settings.handle_sigterm)
        self.hooks.install()
        self.tracer = self.traces.provider.get_tracer("test")
        self.logger = self.logs.provider.get_logger("test")

    def span(self, name: str) -> None:
        self.tracer.start_span(name).end()

    def shutdown(self, timeout_s: float | None = None) -> bool:
        good = self.departure.shutdown(timeout_s)
        self.hooks.remove()
        self.quiet.remove()
        return good

    def _last_word(self) -> None:
        self.ledger.give_up()
        if word := self.ledger.last_word():
            logging.getLogger("crucible_otel").warning(word)


def spawned(name: str) -> None:
    """What a child that was spawned does."""
    SmallPipeline().span(name)
