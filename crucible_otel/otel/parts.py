"""Durations that are made of parts."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from crucible_otel.semconv.model import Event as EventSpec


def divide(spec: EventSpec, measurements: MutableMapping[str, Any], duration: Any) -> bool:
    """Say how much of a duration its parts do not account for.

    Parts that are longer than the whole, because another machine's clock measured them, are cut in their order.

    Args:
        spec: The event: which measurements are parts, and which takes the rest.
        measurements: By field name, in nanoseconds; changed in place.
        duration: The whole, in nanoseconds.

    Returns:
        Whether a part had to be cut.
    """
    told = [name for name in spec.parts if isinstance(measurements.get(name), int)]
    if not told or not isinstance(duration, int):
        return False
    left, cut = duration, False
    for name in told:
        if measurements[name] > left:
            measurements[name], cut = left, True
        left -= measurements[name]
    measurements[spec.rest] = left
    return cut
