"""Metrics under the names that the seeds give them, in the seeds' units and with their one tag.

They are reported where the setting ``seed_metrics`` asks for them, from the very sample that feeds ours. Snakepit's
documents spell ``snakepit.memory.gpu.allocated_mb``, ``snakepit.memory.gpu.free_mb`` and
``snakepit.gpu.memory.used_mb``; the others follow from their events: the event's name, without ``sampled``, and the
measurement. ``*_mb`` are whole MiB (C-29) and have no unit, which Prometheus would append to the name (C-27).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crucible_otel.semconv import gpu
from crucible_otel.semconv.model import Metric, SeedMetric

DEVICE: Final = "device"
"""The seeds' tag: ``cuda:0``."""
BOTH: Final = "both"
OFF: Final = "off"
ONLY: Final = "only"

_ANY: Final[Mapping[str, str]] = {}
_FIELDS: Final = {field.name: field for field in gpu.SAMPLE.fields}


def _gauge(name: str, of: Metric | None, where: Mapping[str, str] = _ANY, *, own: bool = False) -> SeedMetric:
    field = _FIELDS[name.rpartition(".")[2]]
    return SeedMetric(
        metric=Metric(
            name=name,
            kind="gauge",
            unit="" if field.name.endswith("_mb") else field.unit,
            brief=f"{field.brief.removesuffix('.')}, in MiB." if field.name.endswith("_mb") else field.brief,
            attributes=(DEVICE, gpu.ID),
        ),
        field=field.name,
        of=of,
        where=where,
        own=own,
    )


GPU: Final = (
    _gauge("snakepit.gpu.memory.used_mb", gpu.MEMORY_USAGE),
    _gauge("snakepit.gpu.memory.total_mb", gpu.MEMORY_LIMIT),
    _gauge("snakepit.gpu.memory.free_mb", None),
    _gauge("snakepit.gpu.utilization.gpu_percent", gpu.UTILIZATION, {gpu.TASK: "general"}),
    _gauge("snakepit.gpu.utilization.memory_percent", gpu.MEMORY_UTILIZATION),
    _gauge("snakepit.gpu.temperature.celsius", gpu.TEMPERATURE, {gpu.SENSOR: "die"}),
    _gauge("snakepit.gpu.power.watts", gpu.POWER),
    _gauge("snakepit.gpu.power.limit_watts", gpu.POWER_LIMIT),
    _gauge("snakepit.memory.gpu.allocated_mb", gpu.TORCH_ALLOCATED, own=True),
    _gauge("snakepit.memory.gpu.reserved_mb", gpu.TORCH_RESERVED, own=True),
    _gauge("snakepit.memory.gpu.free_mb", None),
    _gauge("snakepit.memory.gpu.total_mb", gpu.MEMORY_LIMIT),
)
