"""What NVML told on one tick, kept as it came and made out when somebody looks: few ticks are ever looked at whole."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from crucible_otel.gpu.backend import FastReading
from crucible_otel.gpu.nvml_batch import Answers
from crucible_otel.gpu.nvml_fields import CLOCKS, MEMORY_V2, REASONS, TEMPERATURE_V1
from crucible_otel.gpu.nvml_gpm import ratios

__all__ = ["MHZ", "Room", "ToldReading"]

MHZ: Final = 1_000_000
_DIE: Final = 0
_MOVED: Final = ("pcie_bytes", "nvlink_bytes")


class Room(ctypes.Structure):
    """Where NVML puts the answers of the calls of one tick, so that one copy keeps them all."""

    _fields_ = (
        ("memory_v2", ctypes.c_ulonglong * 5),
        ("memory_v1", ctypes.c_ulonglong * 3),
        ("reasons", ctypes.c_ulonglong * 1),
        ("utilization", ctypes.c_uint * 2),
        ("temperature", ctypes.c_int * 3),
        ("temperature_before", ctypes.c_int * 1),
        *((name, ctypes.c_uint * 1) for name in CLOCKS),
    )
    memory_v2: ctypes.Array[ctypes.c_ulonglong]
    memory_v1: ctypes.Array[ctypes.c_ulonglong]
    reasons: ctypes.Array[ctypes.c_ulonglong]
    utilization: ctypes.Array[ctypes.c_uint]
    temperature: ctypes.Array[ctypes.c_int]
    temperature_before: ctypes.Array[ctypes.c_int]

    def __init__(self) -> None:
        super().__init__()
        ctypes.c_uint.from_buffer(self.memory_v2).value = MEMORY_V2
        self.temperature[:] = [TEMPERATURE_V1, _DIE, 0]


class ToldReading(FastReading):
    """A reading whose attributes are made when they are first asked for; energy and power are there from the start.

    Args:
        energy_j: See :class:`FastReading`.
        power_w: See there.
        told: What is valid in the room: names of its places.
        room: What is in them.
        fields: What the call for fields has told; None without.
        activity: The answers of GPM; None without.
    """

    __slots__ = ("answers",)
    answers: tuple[Sequence[str], bytes, Answers | None, bytes | None]

    def __init__(
        self,
        energy_j: float | None,
        power_w: float | None,
        told: Sequence[str],
        room: bytes,
        fields: Answers | None,
        activity: bytes | None,
    ) -> None:
        _keep_energy(self, energy_j)
        _keep_power(self, power_w)
        _keep_answers(self, (told, room, fields, activity))

    def __getattr__(self, name: str) -> Any:
        """Make an attribute that is not there yet; two threads that ask at once make the same."""
        part = _PART_OF.get(name)
        if part is None:
            raise AttributeError(name)
        names, make = part
        found = make(self)
        for each in names:
            object.__setattr__(self, each, found.get(each, _DEFAULTS[each]))
        return found.get(name, _DEFAULTS[name])


# What is frozen keeps its attributes so; a tick makes many of these.
_keep_energy: Final = vars(FastReading)["energy_j"].__set__
_keep_power: Final = vars(FastReading)["power_w"].__set__
_keep_answers: Final = vars(ToldReading)["answers"].__set__


def _memory(of: ToldReading) -> dict[str, Any]:
    told, room, _, _ = of.answers
    if "memory_v2" in told:  # without what the driver keeps for itself
        _, total, _, free, used = Room.from_buffer_copy(room).memory_v2
    elif "memory_v1" in told:
        total, free, used = Room.from_buffer_copy(room).memory_v1
    else:
        return {}
    return {"memory_used_bytes": used, "memory_total_bytes": total, "memory_free_bytes": free}


def _utilization(of: ToldReading) -> dict[str, Any]:
    told, room, _, _ = of.answers
    if "utilization" not in told:
        return {}
    busy, memory = Room.from_buffer_copy(room).utilization
    return {"utilization_ratio": busy / 100, "memory_controller_ratio": memory / 100}


def _temperature(of: ToldReading) -> dict[str, Any]:
    told, room, fields, _ = of.answers
    found = fields.entries("temperature_celsius") if fields is not None else {}
    if "temperature" in told:
        found["die"] = float(Room.from_buffer_copy(room).temperature[2])
    elif "temperature_before" in told:
        found["die"] = float(Room.from_buffer_copy(room).temperature_before[0])
    return {"temperature_celsius": found} if found else {}


def _clocks(of: ToldReading) -> dict[str, Any]:
    told, room, _, _ = of.answers
    copied = Room.from_buffer_copy(room)
    found = {name: float(getattr(copied, name)[0] * MHZ) for name in CLOCKS if name in told}
    return {"clock_hz": found} if found else {}


def _reasons(of: ToldReading) -> dict[str, Any]:
    told, room, _, _ = of.answers
    return {"throttle_reasons": _named(Room.from_buffer_copy(room).reasons[0])} if "reasons" in told else {}


def _moved(of: ToldReading) -> dict[str, Any]:
    fields = of.answers[2]
    found = {target: fields.entries(target) for target in _MOVED} if fields is not None else {}
    return {target: entries for target, entries in found.items() if entries}


def _activity(of: ToldReading) -> dict[str, Any]:
    answers = of.answers[3]
    return ratios(answers) if answers is not None else {}


@functools.lru_cache(maxsize=64)
def _named(bits: int) -> frozenset[str]:
    return frozenset(name for bit, name in REASONS.items() if bits & bit)


_PARTS: Final[Mapping[tuple[str, ...], Callable[[ToldReading], Mapping[str, Any]]]] = {
    ("memory_used_bytes", "memory_total_bytes", "memory_free_bytes"): _memory,
    ("utilization_ratio", "memory_controller_ratio"): _utilization,
    ("temperature_celsius",): _temperature,
    ("clock_hz",): _clocks,
    ("throttle_reasons",): _reasons,
    _MOVED: _moved,
    ("sm_active_ratio", "sm_occupancy_ratio", "dram_active_ratio", "pipe_active_ratio"): _activity,
}
_PART_OF: Final = {name: (names, make) for names, make in _PARTS.items() for name in names}
_BLANK: Final = FastReading()
_DEFAULTS: Final[Mapping[str, Any]] = {name: getattr(_BLANK, name) for name in _PART_OF}
