"""Serialization: ``cx.serialization.record``."""

from __future__ import annotations

from crucible_otel.events.runtime import runtime
from crucible_otel.semconv.serialization import DIRECTIONS, SERIALIZATION_EVENT
from crucible_otel.verbs import hot
from crucible_otel.verbs.given import duration_ns, quietly, whole

__all__ = ["record"]


@quietly
def record(
    *, duration_s: float | None = None, nbytes: int | None = None, direction: str = "encode", format: str = ""
) -> None:
    """Report that a value was encoded or decoded.

    Args:
        duration_s: Seconds it took.
        nbytes: Bytes of the encoded form.
        direction: ``encode`` or ``decode``.
        format: Format, such as ``json`` or ``arrow``; few different ones, because it becomes a metric attribute.
    """
    way: str | None = direction
    if direction not in DIRECTIONS:
        runtime().refuse("serialization.record(direction)", direction, f"one of {', '.join(DIRECTIONS)} is needed")
        way = None
    took = duration_ns(duration_s, "serialization.record(duration_s)")
    size = whole(nbytes, "serialization.record(nbytes)", least=0)
    if took is not None or size is not None:
        hot.record(SERIALIZATION_EVENT, {"duration": took, "bytes": size}, {"direction": way, "format": format or None})
