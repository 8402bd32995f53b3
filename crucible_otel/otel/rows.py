"""From what was measured of a hot operation to values and records: functions that are compiled from its spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from crucible_otel.otel.family import Family
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Field

Values: TypeAlias = "tuple[Any, ...]"
"""What was measured besides the duration, in the order of the fields; durations in seconds, None for what was not."""

_VALUES = """
def values(get, duration):
    {read}
    {rest}
    return ({values},)
"""
_REST = """{name} = None
    if {any_told}:
        {name} = duration{parts}
        if {name} < 0:
            return None
"""
_ROW = """
def bind(owner, extend, buffer, full, fold):
    def plain(duration):
        extend((owner, {plain}))
        if len(buffer) >= full:
            fold()
    def told(duration, values):
        {values} = values
        extend((owner, {told}))
        if len(buffer) >= full:
            fold()
    return plain, told
"""


def compiled_values(stop: EventSpec, told: Sequence[Field]) -> Callable[[Callable[[str], Any], int], Values | None]:
    """Compile what puts measurements in the order of their fields, with what the parts leave of the duration.

    Args:
        stop: The event of an end: its parts and its rest.
        told: The fields that are measured besides the duration.

    Returns:
        ``values(get, duration_ns)``: given ``get(field)``, in the event's units, the values; None when the parts are
        longer than the whole.
    """
    read = [f"{field.name} = get({field.name!r})" for field in told if field.name != stop.rest]
    rest = ""
    if stop.rest:
        rest = _REST.format(
            name=stop.rest,
            any_told=" or ".join(f"{part} is not None" for part in stop.parts),
            parts="".join(f" - ({part} or 0)" for part in stop.parts),
        )
    texts = (
        f"None if {field.name} is None else {field.name} * 1e-9" if field.unit == "ns" else field.name for field in told
    )
    scope: dict[str, Any] = {}
    exec(_VALUES.format(read="; ".join(read), rest=rest, values=", ".join(texts)), scope)
    values: Callable[[Callable[[str], Any], int], Values | None] = scope["values"]
    return values


def compiled_row(family: Family, told: Sequence[Field]) -> Callable[..., Any]:
    """Compile what makes a family's record of a duration and values.

    Args:
        family: The family.
        told: The fields of the values, in order.

    Returns:
        ``bind(owner, extend, buffer, full, fold)``, which returns ``plain(duration_s)`` and
        ``told(duration_s, values)``.
    """
    totals, named_values = totals_of(family), {field.name for field in told}
    nothing = {name: "0" if name in totals else "None" for name in family.columns}
    plain = [name if name == "duration" else nothing[name] for name in family.columns]
    rows = [
        f"{name} or 0" if name in totals else name if name in named_values else text
        for name, text in zip(family.columns, plain, strict=True)
    ]
    scope: dict[str, Any] = {}
    values = "".join(f"{field.name}, " for field in told)
    exec(_ROW.format(plain=", ".join(plain), told=", ".join(rows), values=values), scope)
    bind: Callable[..., Any] = scope["bind"]
    return bind


def totals_of(family: Family) -> set[str]:
    """Return the columns that are only added up, for which nothing is as good as 0."""
    feeds = family.spec.feeds
    return {feed.field for feed in feeds if feed.how == "sum"} - {feed.field for feed in feeds if feed.how != "sum"}
