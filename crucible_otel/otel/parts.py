"""Durations that are made of parts."""

from __future__ import annotations

from crucible_otel.events.event import Event


def divide(event: Event) -> bool:
    """Say in an event how much of its duration its parts do not account for.

    Parts that are longer than the whole, because another machine's clock measured them, are cut in their order.

    Returns:
        Whether a part had to be cut.
    """
    measurements, spec = event.measurements, event.spec
    left = measurements.get("duration")
    told = [name for name in spec.parts if isinstance(measurements.get(name), int)]
    if not told or not isinstance(left, int):
        return False
    cut = False
    for name in told:
        if measurements[name] > left:
            measurements[name], cut = left, True
        left -= measurements[name]
    measurements[spec.rest] = left
    return cut
