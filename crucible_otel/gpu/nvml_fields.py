"""What NVML is asked for, as tables: field ids, clocks, reasons and limits, and what their values are worth.

The numbers are NVML's own (``nvml.h``), written down here because a table must not need the library to be read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from crucible_otel.semconv.gpu import (
    APPLICATION_CLOCKS,
    BOARD_LIMIT,
    DISPLAY_CLOCKS,
    HW_POWER_BRAKE,
    HW_SLOWDOWN,
    HW_THERMAL,
    LOW_UTILIZATION,
    POWER_CAP,
    RELIABILITY,
    SW_THERMAL,
    SYNC_BOOST,
    THERMAL,
)

__all__ = [
    "ALL_LINKS",
    "CLOCKS",
    "ENERGY_FIELDS",
    "FAST_FIELDS",
    "FUNCTION_NOT_FOUND",
    "GONE",
    "GPM_PIPES",
    "GPM_RATIOS",
    "MEMORY_V2",
    "NEVER",
    "REASONS",
    "SLOW_FIELDS",
    "TEMPERATURE_LIMITS",
    "TEMPERATURE_V1",
    "UNKNOWN_VALUES",
    "VALUE_TYPES",
    "Field",
]

ALL_LINKS: Final = 0xFFFFFFFF
"""Scope of an NVLink field: the sum of all links."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One id of ``nvmlDeviceGetFieldValues``.

    Attributes:
        id: NVML's number.
        target: The attribute of the reading.
        key: Its entry there, when it is a mapping.
        scale: From NVML's unit to the reading's.
        scope: NVML's scope of the field.
    """

    id: int
    target: str
    key: str = ""
    scale: float = 1.0
    scope: int = 0


ENERGY_FIELDS: Final = (
    Field(id=83, target="energy_j", scale=1e-3),  # TOTAL_ENERGY_CONSUMPTION, mJ
    Field(id=186, target="power_w", scale=1e-3),  # POWER_INSTANT, mW
    Field(id=185, target="power_w", scale=1e-3),  # POWER_AVERAGE; where there are both, this one, as nvidia-smi has it
)
FAST_FIELDS: Final = (
    *ENERGY_FIELDS,
    Field(id=82, target="temperature_celsius", key="memory"),  # MEMORY_TEMP
    Field(id=197, target="pcie_bytes", key="transmit"),  # PCIE_COUNT_TX_BYTES
    Field(id=198, target="pcie_bytes", key="receive"),
    Field(id=138, target="nvlink_bytes", key="transmit", scale=1024, scope=ALL_LINKS),  # THROUGHPUT_DATA_TX, KiB
    Field(id=139, target="nvlink_bytes", key="receive", scale=1024, scope=ALL_LINKS),
)
SLOW_FIELDS: Final = (
    Field(id=190, target="power_limit_w", scale=1e-3),  # POWER_CURRENT_LIMIT
    # PERF_POLICY_* and CLOCKS_EVENT_REASON_*, ns
    Field(id=74, target="throttle_time_s", key=POWER_CAP, scale=1e-9),
    Field(id=75, target="throttle_time_s", key=THERMAL, scale=1e-9),
    Field(id=76, target="throttle_time_s", key=SYNC_BOOST, scale=1e-9),
    Field(id=77, target="throttle_time_s", key=BOARD_LIMIT, scale=1e-9),
    Field(id=78, target="throttle_time_s", key=LOW_UTILIZATION, scale=1e-9),
    Field(id=79, target="throttle_time_s", key=RELIABILITY, scale=1e-9),
    Field(id=269, target="throttle_time_s", key=SW_THERMAL, scale=1e-9),
    Field(id=270, target="throttle_time_s", key=HW_THERMAL, scale=1e-9),
    Field(id=271, target="throttle_time_s", key=HW_POWER_BRAKE, scale=1e-9),
    Field(id=3, target="errors", key="corrected"),  # ECC_SBE_VOL_TOTAL
    Field(id=4, target="errors", key="uncorrected"),  # ECC_DBE_VOL_TOTAL
    Field(id=94, target="errors", key="pcie_replay"),  # PCIE_REPLAY_COUNTER
    Field(id=142, target="remapped_rows", key="corrected"),
    Field(id=143, target="remapped_rows", key="uncorrected"),
    Field(id=144, target="remap_pending"),
    Field(id=145, target="remap_failed"),
    Field(id=230, target="recovery_needed"),  # GET_GPU_RECOVERY_ACTION: 0 is none
)

CLOCKS: Final[Mapping[str, int]] = {"sm": 1, "memory": 2, "graphics": 0, "video": 3}
TEMPERATURE_LIMITS: Final[Mapping[str, int]] = {"shutdown": 0, "slowdown": 1, "memory_max": 2, "gpu_max": 3}

REASONS: Final[Mapping[int, str]] = {
    0x2: APPLICATION_CLOCKS,
    0x4: POWER_CAP,
    0x8: HW_SLOWDOWN,
    0x10: SYNC_BOOST,
    0x20: SW_THERMAL,
    0x40: HW_THERMAL,
    0x80: HW_POWER_BRAKE,
    0x100: DISPLAY_CLOCKS,
}
"""Bits of ``nvmlDeviceGetCurrentClocksEventReasons``; 0x1, an idle GPU, is no throttling."""

MEMORY_V2: Final = 0x02000028
"""Version of ``nvmlMemory_v2_t``."""
TEMPERATURE_V1: Final = 0x0100000C
"""Version of ``nvmlTemperature_v1_t``."""

GPM_RATIOS: Final[Mapping[int, str]] = {2: "sm_active_ratio", 3: "sm_occupancy_ratio", 10: "dram_active_ratio"}
GPM_PIPES: Final[Mapping[int, str]] = {5: "tensor", 11: "fp64", 12: "fp32", 13: "fp16", 4: "integer"}

VALUE_TYPES: Final[Mapping[int, struct.Struct]] = {
    number: struct.Struct(layout) for number, layout in enumerate(("=d", "=I", "@L", "=Q", "=q", "=i", "=H"))
}
"""How the value of a field is stored, by its type: double, unsigned, unsigned long, 64 bit, signed, signed, short."""
UNKNOWN_VALUES: Final = frozenset({0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})
"""What NVML puts where it has no value though the call succeeded."""

FUNCTION_NOT_FOUND: Final = 13
NEVER: Final = frozenset({2, 3, 4, FUNCTION_NOT_FOUND, 25, 26})
"""Errors that stay: invalid argument, not supported, no permission, no such function, version mismatch, deprecated."""
GONE: Final = frozenset({15, 16})
"""Errors of a device that is lost, or must be reset."""
