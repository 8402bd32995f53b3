"""What ``nvidia-smi`` says of a GPU, and which of our series says the same."""

from __future__ import annotations

import contextlib
import csv
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from crucible_otel.semconv import gpu

__all__ = ["FIGURES", "Figure", "asked"]

_MIB: Final = 1024 * 1024
_NONE: Final = ("", "n/a", "not supported", "unknown error", "not available", "gpu requires reset")
_WORDS: Final = {"active": 1.0, "not active": 0.0, "enabled": 1.0, "disabled": 0.0}
GIVE_UP_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A field of ``nvidia-smi --query-gpu`` and our series of it.

    Attributes:
        query: Its name there.
        metric: Our metric.
        attributes: Which series of it.
        scale: From its unit to ours.
        slack: How much they may differ, read one after the other: absolutely, in our unit.
        slack_ratio: And relatively.
    """

    query: str
    metric: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    slack: float = 0.0
    slack_ratio: float = 0.0

    def agrees(self, ours: float, theirs: float) -> bool:
        """Whether two figures are near enough."""
        return abs(ours - theirs) <= max(self.slack, self.slack_ratio * abs(theirs)) + 1e-9


def _clock(name: str, short: str, metric: str, prefix: str) -> Figure:
    return Figure(
        query=f"{prefix}.{short}", metric=metric, attributes={gpu.CLOCK: name}, scale=1e6, slack=15e6, slack_ratio=0.25
    )


def _reason(name: str, reason: str) -> Figure:
    return Figure(
        query=f"clocks_event_reasons.{name}", metric=gpu.THROTTLE_ACTIVE.name, attributes={gpu.REASON: reason}
    )


FIGURES: Final = (
    Figure(
        query="utilization.gpu",
        metric=gpu.UTILIZATION.name,
        attributes={gpu.TASK: "general"},
        scale=0.01,
        slack=0.1,
    ),
    Figure(query="utilization.encoder", metric=gpu.UTILIZATION.name, attributes={gpu.TASK: "encoder"}, scale=0.01),
    Figure(query="utilization.decoder", metric=gpu.UTILIZATION.name, attributes={gpu.TASK: "decoder"}, scale=0.01),
    Figure(query="utilization.memory", metric=gpu.MEMORY_CONTROLLER.name, scale=0.01, slack=0.1),
    Figure(query="memory.used", metric=gpu.MEMORY_USAGE.name, scale=_MIB, slack=64 * _MIB),
    Figure(query="memory.total", metric=gpu.MEMORY_LIMIT.name, scale=_MIB, slack=_MIB),
    Figure(query="power.draw", metric=gpu.POWER.name, slack=5.0, slack_ratio=0.1),
    Figure(query="enforced.power.limit", metric=gpu.POWER_LIMIT.name, slack=0.5),
    Figure(query="temperature.gpu", metric=gpu.TEMPERATURE.name, attributes={gpu.SENSOR: "die"}, slack=2.0),
    Figure(query="temperature.memory", metric=gpu.TEMPERATURE.name, attributes={gpu.SENSOR: "memory"}, slack=2.0),
    Figure(query="fan.speed", metric=gpu.FAN_SPEED.name, attributes={gpu.SENSOR: "fan0"}, scale=0.01, slack=0.05),
    _clock("sm", "sm", gpu.CLOCK_SPEED.name, "clocks"),
    _clock("memory", "mem", gpu.CLOCK_SPEED.name, "clocks"),
    _clock("graphics", "gr", gpu.CLOCK_SPEED.name, "clocks"),
    _clock("video", "video", gpu.CLOCK_SPEED.name, "clocks"),
    _clock("sm", "sm", gpu.CLOCK_LIMIT.name, "clocks.max"),
    _clock("memory", "mem", gpu.CLOCK_LIMIT.name, "clocks.max"),
    _clock("graphics", "gr", gpu.CLOCK_LIMIT.name, "clocks.max"),
    Figure(query="pcie.link.gen.gpucurrent", metric=gpu.PCIE_GENERATION.name),
    Figure(query="pcie.link.width.current", metric=gpu.PCIE_WIDTH.name),
    _reason("sw_power_cap", gpu.POWER_CAP),
    _reason("hw_slowdown", gpu.HW_SLOWDOWN),
    _reason("hw_thermal_slowdown", gpu.HW_THERMAL),
    _reason("hw_power_brake_slowdown", gpu.HW_POWER_BRAKE),
    _reason("sw_thermal_slowdown", gpu.SW_THERMAL),
    _reason("sync_boost", gpu.SYNC_BOOST),
)
"""Counters are not among them: ours begin with the process."""


def asked(uuid: str, figures: Iterable[Figure] = FIGURES) -> dict[str, float | None]:
    """Return field -> value in nvidia-smi's unit; None where it has none. Empty where there is no nvidia-smi.

    Args:
        uuid: Of the GPU.
        figures: What to ask for.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    fields = list(dict.fromkeys(each.query for each in figures))
    found = _ask(program, uuid, fields)
    if found is None:  # one field that it does not know spoils them all
        found = [None if (one := _ask(program, uuid, [each])) is None else one[0] for each in fields]
    return dict(zip(fields, found, strict=True))


def _ask(program: str, uuid: str, fields: list[str]) -> list[float | None] | None:
    command = [program, f"--id={uuid}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    with contextlib.suppress(subprocess.SubprocessError):
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIVE_UP_S)
        rows = list(csv.reader(answer.stdout.splitlines(), skipinitialspace=True))
        if [len(fields)] == [len(row) for row in rows]:
            return [_value(text) for text in rows[0]]
    return None


def _value(text: str) -> float | None:
    plain = text.strip(" []").lower()
    if plain in _WORDS:
        return _WORDS[plain]
    if plain in _NONE:
        return None
    with contextlib.suppress(ValueError):
        return float(plain)
    return None
