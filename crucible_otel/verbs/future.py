"""Futures: ``cx.future.poll`` and ``cx.future.record``."""

from __future__ import annotations

from typing import Any, cast

from crucible_otel.events.names import text
from crucible_otel.events.outcome import as_error, result_of
from crucible_otel.events.runtime import runtime
from crucible_otel.semconv.future import POLL_EVENT, POLL_OPERATION
from crucible_otel.verbs import hot
from crucible_otel.verbs.given import duration_ns, guarded, present, quietly, whole
from crucible_otel.verbs.managed import Managed
from crucible_otel.verbs.quiet import QUIET_POLL

__all__ = ["poll", "record"]


class Poll(Managed):
    """The polling of a future; see :func:`poll`."""

    @guarded
    def iteration(
        self,
        status: str = "pending",
        *,
        duration_s: float | None = None,
        status_code: int | None = None,
        should_retry: bool | None = None,
    ) -> None:
        """Report that the future was polled once.

        Args:
            status: The answer, such as ``pending`` or ``done``; few different ones, because it becomes a metric
                attribute.
            duration_s: Seconds that the answer took.
            status_code: Status code of the answer, where it has one; on events only, as the next.
            should_retry: Whether it will be polled again.
        """
        number = self._measurements["iterations"] = self._measurements.get("iterations", 0) + 1
        scope, fields = self.scope, self.fields
        told = {
            "iteration": number,
            "elapsed_time": None if scope is None else max(0.0, runtime().clock.now() - scope.started_s),
            "request_id": fields["request_id"],
            "request_type": fields["request_type"],
            "status": status,
            "status_code": status_code,
            "should_retry": should_retry,
        }
        hot.record(POLL_EVENT, {"duration": duration_ns(duration_s, "future.poll.iteration(duration_s)")}, told)


def poll(request_type: str, *, request_id: object = None, **fields: Any) -> Poll:
    """Poll a future until it is done: a span, how long it took and how many polls, its result.

    Use it around the block or the coroutine that asks for the result again and again, with ``iteration()`` each time;
    or as a decorator of a function, coroutine function or generator.

    Args:
        request_type: What the future is the result of, such as ``forward_backward``; few different ones, because it
            becomes a metric attribute.
        request_id: Which future; on its span and events only.
        fields: Further attributes of its span and events.
    """
    if not runtime().enabled:
        return cast("Poll", QUIET_POLL)
    return Poll(POLL_OPERATION, {"request_id": request_id, "request_type": text(request_type), **fields})


@quietly
def record(
    request_type: str,
    *,
    duration_s: float | None = None,
    iterations: int | None = None,
    error: BaseException | str | None = None,
    request_id: object = None,
    **fields: Any,
) -> None:
    """Report a future that has been polled until its end; with a duration it becomes a span too.

    Args:
        request_type: What the future is the result of.
        duration_s: Seconds that it was polled.
        iterations: Polls it took.
        error: What it failed with; None when it is done.
        request_id: Which future; on its span and events only.
        fields: Further attributes of its span and events.
    """
    failure = as_error(error)
    result = result_of(failure)
    measurements = present(
        duration=duration_ns(duration_s, "future.record(duration_s)"),
        iterations=whole(iterations, "future.record(iterations)", least=0),
    )
    metadata = {"request_id": request_id, "request_type": text(request_type), **fields, "result": result}
    spec = POLL_OPERATION.stop if result == "success" else POLL_OPERATION.exception
    runtime().end_orphan(spec, measurements, present(**metadata), failure, "")
