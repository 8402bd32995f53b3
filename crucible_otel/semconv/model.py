"""The record types in which the semantic conventions are written down.

Everything in ``semconv`` is data made of these: frozen, hashable where it matters, free of behaviour. What is
emitted, rendered, aliased and tested derives from the tables, so a name is spelled once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as _default
from typing import Literal

MetricKind = Literal["counter", "updowncounter", "histogram", "gauge"]
"""The OpenTelemetry instrument kind that a metric is declared as."""

AttributeType = Literal["string", "int", "double", "boolean", "string[]", "int[]"]

How = Literal["count", "sum", "record", "set", "on", "off", "up", "down", "add", "take", "rewind"]
"""What an event does to an instrument: ``count`` adds 1, ``sum`` adds the field, ``record`` records it in a histogram,
``set`` sets a gauge or the level of an up-down counter, ``on`` sets a gauge to 1 and ``off`` ends its point,
``up``/``down`` add 1 to or take 1 from an up-down counter, ``add``/``take`` do so with the field, ``rewind`` counts the
times the event's sequence number went down."""

Severity = Literal["DEBUG", "INFO", "WARN", "ERROR", "FATAL"]

Role = Literal["start", "stop", "exception", "point"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """One attribute.

    Attributes:
        name: The full dotted name.
        type: Its value type.
        brief: One sentence.
        values: The closed set of values, or empty when open.
        on: Where it may stand: ``resource``, ``span``, ``metric``, ``event``.
    """

    name: str
    type: AttributeType
    brief: str
    values: tuple[str, ...] = ()
    on: tuple[str, ...] = ("span", "event")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One instrument.

    Attributes:
        name: The full dotted name.
        kind: The instrument kind.
        unit: UCUM unit; empty for a bare number.
        brief: One sentence, the instrument's description.
        attributes: Its closed set of attribute names, in order.
        buckets: Upper bounds, floats, of a histogram.
    """

    name: str
    kind: MetricKind
    unit: str
    brief: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One value of an event, as it is called on the bus.

    Attributes:
        name: The bare key in ``measurements`` or ``metadata``.
        attribute: The attribute it becomes on spans and log records; empty when it becomes none.
        unit: The unit of a measurement (``ns``, ``By``, ``{step}``), empty for a bare number.
        brief: One sentence.
        measurement: Whether it stands in ``measurements`` (a number) or in ``metadata``.
        type: The value type.
        context: Whether it is filled in from the enclosing scopes when the event does not carry it.
    """

    name: str
    attribute: str = ""
    unit: str = ""
    brief: str = ""
    measurement: bool = False
    type: AttributeType | Literal["map"] = "string"
    context: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """What one event does to one instrument.

    Attributes:
        metric: The instrument.
        how: See :data:`How`.
        field: The measurement it takes; empty for ``count``, ``up`` and ``down``.
        scale: Factor from the event's unit to the metric's (1e-9 from ns to s).
        constants: Attribute values that are fixed for this feed.
        each: The attribute that takes the key when the field is a map name -> number.
    """

    metric: Metric
    how: How
    field: str = ""
    scale: float = 1.0
    constants: Mapping[str, str] = _default(default_factory=dict)
    each: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event of the bus.

    Attributes:
        name: The canonical name.
        brief: One sentence.
        severity: Severity of the log event made of it.
        role: Whether it starts or ends an operation, or is a point.
        operation: Name of the operation it belongs to; empty for a point outside any.
        fields: Its measurements and metadata.
        feeds: What it does to instruments.
        hot: Whether it travels through a pre-bound handle and its fold instead of one by one.
            Its record holds seconds where the bus has nanoseconds. Hot events that feed one metric share their series.
        timing: Of a hot event: ``interval`` when its duration runs from the previous one to this, ``given`` when the
            caller passes every measurement.
        sequence: Of a hot event: the field that numbers it. The same number again is merged, a lower one is a rewind.
        graphs: Of a hot event: the fields whose values may carry an autograd graph, which must not be kept.
        logged: Whether it becomes a log event.
        span: Of a point that carries a ``duration``: template of the name of the span it becomes after the fact; of a
            hot one those do that are sampled.
        parts: Of an end: measurements that are parts of its ``duration``; together they are no more than that.
        rest: The measurement that says how much of the duration no part accounts for.
    """

    name: str
    brief: str
    severity: Severity = "INFO"
    role: Role = "point"
    operation: str = ""
    fields: tuple[Field, ...] = ()
    feeds: tuple[Feed, ...] = ()
    hot: bool = False
    timing: Literal["interval", "given"] = "given"
    sequence: str = ""
    graphs: tuple[str, ...] = ()
    logged: bool = True
    span: str = ""
    parts: tuple[str, ...] = ()
    rest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """Something with a beginning and an end: a span and its start, stop and exception events.

    Attributes:
        name: The canonical prefix of its events.
        span: Span name template; ``{field}`` is replaced by the value of that field.
        kind: Span kind.
        start: The start event.
        stop: The event of an end without exception.
        exception: The event of an end by exception.
        hot: Of a high-frequency operation: the records that its end makes, each a hot event whose feeds have the same
            attributes. The first is made by every end, a second one by an end without exception. Gauges are fed by the
            events, for what is numbered by nothing cannot say since when it was not finite.
    """

    name: str
    span: str
    start: Event
    stop: Event
    exception: Event
    kind: Literal["internal", "client", "server"] = "internal"
    hot: tuple[Event, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Alias:
    """A seed's name for an event of ours.

    Attributes:
        name: The seed's dotted name.
        family: The seed's first name part, by which the families are told apart.
        targets: Canonical events it stands for. What is executed under the alias becomes the first; who subscribes
            to the alias gets all of them.
        fields: The seed's field name -> ours.
        brief: The seed's own description.
        category: The category of the event in the seed (``training``, ``framework`` ...), or the seed's own.
        measurements: The seed's names of the fields that stand in ``measurements``.
        metadata: The seed's names of the fields that stand in ``metadata``.
    """

    name: str
    family: str
    targets: tuple[str, ...]
    fields: Mapping[str, str]
    brief: str
    category: str
    measurements: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedMetric:
    """A metric under the name that a seed gives it.

    Attributes:
        metric: The metric.
        field: The field of the event it is a value of.
        of: The metric of ours that says the same; None when none does.
        where: The attributes of that one's series, where not all of its series say the same.
        own: Whether it is of the process alone, so that every process reports it.
    """

    metric: Metric
    field: str
    of: Metric | None = None
    where: Mapping[str, str] = _default(default_factory=dict)
    own: bool = False
