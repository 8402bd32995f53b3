"""GPUs.

The ``hw.*`` metrics are OpenTelemetry's (hardware conventions 1.44, in development) wherever their definition fits;
``crucible.gpu.*`` is the rest. Memory usage and limit are up-down counters, as the convention has them (C-44).
"""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv import energy
from crucible_otel.semconv.buckets import CALL_S
from crucible_otel.semconv.model import Alias, Attribute, Event, Field, Metric, MetricKind

ID: Final = "hw.id"
NAME: Final = "hw.name"
MODEL: Final = "hw.model"
VENDOR: Final = "hw.vendor"
PARENT: Final = "hw.parent"
TYPE: Final = "hw.type"
TASK: Final = "hw.gpu.task"
STATE: Final = "hw.state"
SENSOR: Final = "hw.sensor_location"
LIMIT_TYPE: Final = "hw.limit_type"
DRIVER: Final = "hw.driver_version"
SERIAL: Final = "hw.serial_number"
DIRECTION: Final = "network.io.direction"
ERROR_TYPE: Final = "error.type"
CLOCK: Final = "crucible.gpu.clock.domain"
REASON: Final = "crucible.gpu.throttle.reason"
PIPE: Final = "crucible.gpu.pipe.kind"
CAUSE: Final = "crucible.gpu.remap.cause"
MIG_PROFILE: Final = "crucible.gpu.mig.profile"
PCI: Final = "crucible.gpu.pci.address"
SCOPE_ENERGY: Final = "crucible.gpu.scope.energy"
SCOPE_ESTIMATED: Final = "crucible.gpu.scope.energy_estimated"

APPLICATION_CLOCKS: Final = "application_clocks"
BOARD_LIMIT: Final = "board_limit"
DISPLAY_CLOCKS: Final = "display_clocks"
HW_POWER_BRAKE: Final = "hw_power_brake"
HW_SLOWDOWN: Final = "hw_slowdown"
HW_THERMAL: Final = "hw_thermal"
LOW_UTILIZATION: Final = "low_utilization"
POWER_CAP: Final = "power_cap"
RELIABILITY: Final = "reliability"
SW_THERMAL: Final = "sw_thermal"
SYNC_BOOST: Final = "sync_boost"
THERMAL: Final = "thermal"

THROTTLE_REASONS: Final = (
    APPLICATION_CLOCKS,
    DISPLAY_CLOCKS,
    HW_POWER_BRAKE,
    HW_SLOWDOWN,
    HW_THERMAL,
    POWER_CAP,
    SW_THERMAL,
    SYNC_BOOST,
)
"""Why clocks can be low at a moment; an idle GPU's low clocks are no throttling."""
STATES: Final = ("ok", "degraded", "failed", "predicted_failure")

IDENTITY: Final = (ID, NAME, MODEL, VENDOR, PARENT)


def _metric(name: str, kind: MetricKind, unit: str, brief: str, *attributes: str) -> Metric:
    return Metric(name=name, kind=kind, unit=unit, brief=brief, attributes=(*IDENTITY, *attributes))


UTILIZATION: Final = _metric(
    "hw.gpu.utilization", "gauge", "1", "Part of the time in which the GPU, or one of its engines, worked.", TASK
)
MEMORY_USAGE: Final = _metric("hw.gpu.memory.usage", "updowncounter", "By", "Device memory in use, by any process.")
MEMORY_LIMIT: Final = _metric("hw.gpu.memory.limit", "updowncounter", "By", "Device memory there is.")
MEMORY_UTILIZATION: Final = _metric("hw.gpu.memory.utilization", "gauge", "1", "Part of device memory in use.")
IO: Final = _metric("hw.gpu.io", "counter", "By", "Bytes between the GPU and the host, over PCIe.", DIRECTION)
POWER: Final = _metric("hw.power", "gauge", "W", "Power that the GPU draws.", TYPE)
ENERGY: Final = _metric("hw.energy", "counter", "J", "Energy that the GPU has used.", TYPE)
TEMPERATURE: Final = _metric("hw.temperature", "gauge", "Cel", "Temperature of the GPU.", SENSOR)
TEMPERATURE_LIMIT: Final = _metric(
    "hw.temperature.limit", "gauge", "Cel", "Temperature at which something happens.", SENSOR, LIMIT_TYPE
)
FAN_SPEED: Final = _metric("hw.fan.speed_ratio", "gauge", "1", "Speed of a fan, of its maximum.", SENSOR)
ERRORS: Final = _metric("hw.errors", "counter", "{error}", "Errors of the GPU.", TYPE, ERROR_TYPE)
STATUS: Final = _metric("hw.status", "updowncounter", "1", "1 for the state that the GPU is in, else 0.", TYPE, STATE)

INFO: Final = _metric(
    "crucible.gpu.info", "gauge", "", "1; joins a GPU with what identifies it.", DRIVER, SERIAL, PCI, MIG_PROFILE
)
MEMORY_CONTROLLER: Final = _metric(
    "crucible.gpu.memory_controller.utilization",
    "gauge",
    "1",
    "Part of the time in which device memory was read or written.",
)
CLOCK_SPEED: Final = _metric("crucible.gpu.clock.speed", "gauge", "Hz", "Clock frequency.", CLOCK)
CLOCK_LIMIT: Final = _metric("crucible.gpu.clock.limit", "gauge", "Hz", "Highest clock frequency.", CLOCK)
POWER_LIMIT: Final = _metric("crucible.gpu.power.limit", "gauge", "W", "Power limit that is enforced.")
THROTTLE_ACTIVE: Final = _metric(
    "crucible.gpu.throttle.active", "updowncounter", "", "1 while the reason keeps the clocks low, else 0.", REASON
)
THROTTLE_TIME: Final = _metric(
    "crucible.gpu.throttle.time", "counter", "s", "Time for which the reason kept the clocks low.", REASON
)
NVLINK_IO: Final = _metric("crucible.gpu.nvlink.io", "counter", "By", "Payload over all NVLinks.", DIRECTION)
SM_ACTIVE: Final = _metric(
    "crucible.gpu.sm.active", "gauge", "1", "Part of the time in which an SM had work, averaged over the SMs."
)
SM_OCCUPANCY: Final = _metric("crucible.gpu.sm.occupancy", "gauge", "1", "Resident warps, of those there could be.")
DRAM_ACTIVE: Final = _metric(
    "crucible.gpu.dram.active", "gauge", "1", "Part of the device memory's peak bandwidth that was used."
)
PIPE_ACTIVE: Final = _metric(
    "crucible.gpu.pipe.active", "gauge", "1", "Part of the cycles in which a kind of pipe worked.", PIPE
)
REMAPPED_ROWS: Final = _metric(
    "crucible.gpu.memory.row.remapped", "updowncounter", "{row}", "Rows of memory that were replaced, ever.", CAUSE
)
REMAP_PENDING: Final = _metric(
    "crucible.gpu.memory.row.pending", "updowncounter", "", "1 while a replacement of rows waits for a reset, else 0."
)
PCIE_GENERATION: Final = _metric("crucible.gpu.pcie.generation", "gauge", "", "Generation of the PCIe link, now.")
PCIE_WIDTH: Final = _metric("crucible.gpu.pcie.width", "gauge", "{lane}", "Lanes of the PCIe link, now.")
PROCESS_MEMORY: Final = _metric(
    "crucible.gpu.process.memory.usage", "updowncounter", "By", "Device memory that this process holds."
)
TORCH_ALLOCATED: Final = _metric(
    "crucible.gpu.torch.memory.allocated",
    "updowncounter",
    "By",
    "Device memory that PyTorch's allocator has given out in this process.",
)
TORCH_RESERVED: Final = _metric(
    "crucible.gpu.torch.memory.reserved",
    "updowncounter",
    "By",
    "Device memory that PyTorch's allocator holds in this process.",
)

POLL_DURATION: Final = Metric(
    name="crucible.gpu.poll.duration",
    kind="histogram",
    unit="s",
    brief="Duration of reading all GPUs once.",
    attributes=(ERROR_TYPE,),
    buckets=CALL_S,
)
METRICS_OF_ITS_OWN: Final = (POLL_DURATION,)
"""Recorded by the sampler, fed by no event."""

METRICS: Final = (
    UTILIZATION,
    MEMORY_USAGE,
    MEMORY_LIMIT,
    MEMORY_UTILIZATION,
    IO,
    POWER,
    ENERGY,
    TEMPERATURE,
    TEMPERATURE_LIMIT,
    FAN_SPEED,
    ERRORS,
    STATUS,
    INFO,
    MEMORY_CONTROLLER,
    CLOCK_SPEED,
    CLOCK_LIMIT,
    POWER_LIMIT,
    THROTTLE_ACTIVE,
    THROTTLE_TIME,
    NVLINK_IO,
    SM_ACTIVE,
    SM_OCCUPANCY,
    DRAM_ACTIVE,
    PIPE_ACTIVE,
    REMAPPED_ROWS,
    REMAP_PENDING,
    PCIE_GENERATION,
    PCIE_WIDTH,
    PROCESS_MEMORY,
    TORCH_ALLOCATED,
    TORCH_RESERVED,
)
"""What observable instruments report from the sampler's cache; no event feeds them."""

_DEVICE: Final = Field(name="device", attribute="crucible.gpu.device", brief="Name in this process, such as cuda:0.")
_UUID: Final = Field(name="uuid", attribute=ID, brief="The GPU's UUID.")


def _measured(name: str, unit: str, brief: str, kind: str = "double") -> Field:
    return Field(name=name, unit=unit, brief=brief, measurement=True, type="int" if kind == "int" else "double")


SAMPLE: Final = Event(
    name="crucible.gpu.sample",
    brief="A GPU was sampled.",
    severity="DEBUG",
    logged=False,
    fields=(
        _measured("used_mb", "MiBy", "Device memory in use.", "int"),
        _measured("total_mb", "MiBy", "Device memory there is.", "int"),
        _measured("free_mb", "MiBy", "Device memory nobody uses.", "int"),
        _measured("allocated_mb", "MiBy", "What PyTorch's allocator has given out in this process.", "int"),
        _measured("reserved_mb", "MiBy", "What PyTorch's allocator holds in this process.", "int"),
        _measured("gpu_percent", "%", "Part of the time in which a kernel ran."),
        _measured("memory_percent", "%", "Device memory in use, of what there is."),
        _measured("celsius", "Cel", "Temperature of the die."),
        _measured("watts", "W", "Power drawn."),
        _measured("limit_watts", "W", "Power limit."),
        _measured("joules", "J", "Energy used since sampling began."),
        _DEVICE,
        _UUID,
    ),
)
XID: Final = Event(
    name="crucible.gpu.xid",
    brief="The driver reported an error of a GPU (XID).",
    severity="ERROR",
    fields=(
        Field(name="code", attribute="crucible.gpu.xid.code", brief="NVIDIA's number of the error.", type="int"),
        _DEVICE,
        _UUID,
    ),
)
LOST: Final = Event(
    name="crucible.gpu.lost",
    brief="A GPU stopped answering and is not asked any more.",
    severity="ERROR",
    fields=(Field(name="reason", attribute="crucible.gpu.lost.reason", brief="What the driver said."), _DEVICE, _UUID),
)

SCOPE: Final = Event(
    name="crucible.gpu.scope",
    brief="A block of code ended whose use of the GPUs was measured.",
    fields=(
        Field(name="name", attribute="crucible.gpu.scope.name", brief="Name of the block."),
        Field(
            name="energy_j",
            attribute=SCOPE_ENERGY,
            unit="J",
            brief="Energy that the GPUs used meanwhile.",
            measurement=True,
            type="double",
        ),
        Field(
            name="estimated",
            attribute=SCOPE_ESTIMATED,
            brief="Whether the energy of a GPU is integrated power, because it has no counter.",
            type="boolean",
        ),
        Field(
            name="mean",
            attribute="crucible.gpu.scope.mean",
            brief="Means over the GPUs and the samples.",
            measurement=True,
            type="map",
        ),
        Field(
            name="max",
            attribute="crucible.gpu.scope.max",
            brief="Maxima over the GPUs and the samples.",
            measurement=True,
            type="map",
        ),
    ),
)

OPERATIONS: Final = ()
EVENTS: Final = (SAMPLE, XID, LOST, SCOPE)


def _alias(name: str, brief: str, measurements: str) -> Alias:
    return Alias(
        name=name,
        family=name.partition(".")[0],
        targets=(SAMPLE.name,),
        fields={field: field for field in (*measurements.split(), "device")},
        brief=brief,
        measurements=tuple(measurements.split()),
        metadata=("device",),
        category="snakepit",
    )


ALIASES: Final = (
    _alias("snakepit.gpu.memory.sampled", "GPU memory sampled", "used_mb total_mb free_mb"),
    _alias("snakepit.gpu.utilization.sampled", "GPU utilization sampled", "gpu_percent memory_percent"),
    _alias("snakepit.gpu.temperature.sampled", "GPU temperature sampled", "celsius"),
    _alias("snakepit.gpu.power.sampled", "GPU power sampled", "watts limit_watts"),
    _alias("snakepit.memory.gpu", "GPU memory snapshot", "allocated_mb reserved_mb free_mb total_mb"),
)
"""All are delivered from one sample. ``*_mb`` are whole MiB (C-29)."""


def _attribute(name: str, brief: str, values: tuple[str, ...] = (), *on: str) -> Attribute:
    return Attribute(name=name, type="string", brief=brief, values=values, on=(*on, "metric"))


ATTRIBUTES: Final = (
    _attribute(ID, "The library's exact UUID of the GPU or MIG instance.", (), "event"),
    _attribute(NAME, "Such as GPU 0, by the driver's numbers."),
    _attribute(MODEL, "The maker's name of the model."),
    _attribute(VENDOR, "The maker."),
    _attribute(PARENT, "UUID of the GPU that a MIG instance is a part of."),
    _attribute(TYPE, "Kind of hardware.", ("gpu",)),
    _attribute(TASK, "Engine of the GPU.", ("general", "encoder", "decoder")),
    _attribute(STATE, "State of the GPU.", STATES),
    _attribute(SENSOR, "Which part of the GPU, or which fan."),
    _attribute(LIMIT_TYPE, "What happens at the limit."),
    _attribute(DRIVER, "Version of the driver."),
    _attribute(SERIAL, "Serial number of the board."),
    _attribute(DIRECTION, "From the GPU or to it.", ("transmit", "receive")),
    _attribute(CLOCK, "Which clock.", ("sm", "memory", "graphics", "video")),
    _attribute(REASON, "What keeps the clocks low."),
    _attribute(PIPE, "Which pipe.", ("tensor", "fp64", "fp32", "fp16", "integer")),
    _attribute(CAUSE, "Kind of memory error that led to the replacement.", ("corrected", "uncorrected")),
    _attribute(MIG_PROFILE, "Profile of a MIG instance, such as 1g.10gb."),
    _attribute(PCI, "Address of the GPU on the PCI bus."),
    _attribute(energy.SOURCE, energy.ENERGY_SOURCE.brief, (energy.COUNTER, energy.POWER), "span", "event"),
)
