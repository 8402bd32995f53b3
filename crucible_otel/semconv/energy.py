"""Energy that the GPUs use during an operation: which operations say it, and how."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.model import Feed, Field, Metric

SOURCE: Final = "crucible.gpu.energy.source"
COUNTER: Final = "counter"
POWER: Final = "power"

ENERGY_J: Final = Field(
    name="energy_j",
    attribute="crucible.gpu.energy.used",
    unit="J",
    brief="Energy of the GPUs that this process uses, joules.",
    measurement=True,
    type="double",
)
ENERGY_SOURCE: Final = Field(
    name="energy_source",
    attribute=SOURCE,
    brief="Whether the energy is that of the GPUs' counters, or integrated power where one of them has none.",
)
ENERGY_UNSAMPLED: Final = Field(
    name="energy_unsampled",
    attribute="crucible.gpu.energy.unsampled",
    unit="ns",
    brief="Time at the beginning and the end that no sample encloses; in it the power was that of the nearest one.",
    measurement=True,
    type="int",
)
ENERGY: Final = (ENERGY_J, ENERGY_SOURCE, ENERGY_UNSAMPLED)
"""What the end of an operation says of it: an operation that has these fields is measured."""


def energy(name: str, noun: str, *attributes: str) -> Feed:
    """Return the feed of the counter of an operation's energy.

    Args:
        name: Of the metric.
        noun: What it is the energy of, in its brief.
        attributes: What tells its series apart.
    """
    metric = Metric(
        name=name,
        kind="counter",
        unit="J",
        brief=f"Energy that the GPUs of this process used during {noun}.",
        attributes=(*attributes, SOURCE),
    )
    return Feed(metric=metric, how="sum", field=ENERGY_J.name)
