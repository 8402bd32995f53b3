"""What the observable instruments report, on any provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from crucible_otel.gpu.backend import FastReading, SlowReading
from crucible_otel.gpu.instruments import Instruments, observations
from crucible_otel.gpu.snapshot import EMPTY, GpuSnapshot
from crucible_otel.semconv import gpu
from crucible_otel.testing.nvml import FakeGpu, FakeNvml
from tests.gpu.fakes import watching

GIB = 1024**3
FULL = FakeGpu(
    memory_used_bytes=40 * GIB,
    utilization_ratio=0.75,
    power_w=350.0,
    energy_j=1000.0,
    temperature_celsius=65.0,
    process_memory_bytes=GIB,
    fast=FastReading(
        memory_controller_ratio=0.4,
        temperature_celsius={"memory": 80.0},
        clock_hz={"sm": 1.98e9, "memory": 2.619e9},
        throttle_reasons=frozenset({gpu.POWER_CAP}),
        pcie_bytes={"transmit": 10.0, "receive": 20.0},
        nvlink_bytes={"transmit": 30.0, "receive": 40.0},
        sm_active_ratio=0.9,
        sm_occupancy_ratio=0.5,
        dram_active_ratio=0.6,
        pipe_active_ratio={"tensor": 0.7, "fp32": 0.1},
    ),
    slow=SlowReading(
        power_limit_w=700.0,
        throttle_time_s={gpu.POWER_CAP: 3.0},
        errors={"corrected": 1.0, "uncorrected": 0.0, "pcie_replay": 0.0},
        engine_utilization_ratio={"encoder": 0.0, "decoder": 0.25},
        fan_ratio=(0.3, 0.4),
        temperature_limit_celsius={"shutdown": 95.0, "slowdown": 90.0, "gpu_max": 88.0, "memory_max": 105.0},
        clock_limit_hz={"sm": 1.98e9},
        remapped_rows={"corrected": 2.0, "uncorrected": 0.0},
        remap_pending=False,
        remap_failed=False,
        recovery_needed=False,
        pcie_generation=5,
        pcie_width_lanes=16,
    ),
)


def reported(snapshot: GpuSnapshot) -> dict[str, dict[tuple[str, ...], float]]:
    """Return metric -> what stands in its attributes beyond the identity -> value."""
    return {
        name: {
            tuple(value for key, value in (each.attributes or {}).items() if key not in gpu.IDENTITY): each.value
            for each in found
        }
        for name, found in observations(snapshot).items()
        if found
    }


def test_everything_a_device_has_is_reported() -> None:
    """The worked numbers: 40,960 of 81,920 MiB, 75 %, 65 degrees, 350,000 mW; ratios, seconds, bytes and hertz."""
    found = reported(watching(FakeNvml([FULL])).tick(0.0, 0))

    assert {
        "hw.gpu.utilization": {("general",): 0.75, ("encoder",): 0.0, ("decoder",): 0.25},
        "hw.gpu.memory.usage": {(): 40_960 * 1024**2},
        "hw.gpu.memory.limit": {(): 81_920 * 1024**2},
        "hw.gpu.memory.utilization": {(): 0.5},
        "hw.gpu.io": {("transmit",): 0, ("receive",): 0},
        "hw.power": {("gpu",): 350.0},
        "hw.energy": {("gpu",): 0},
        "hw.temperature": {("die",): 65.0, ("memory",): 80.0},
        "hw.temperature.limit": {
            ("die", "high.critical"): 95.0,
            ("die", "high.degraded"): 90.0,
            ("die", "max"): 88.0,
            ("memory", "max"): 105.0,
        },
        "hw.fan.speed_ratio": {("fan0",): 0.3, ("fan1",): 0.4},
        "hw.errors": {("gpu", "corrected"): 0, ("gpu", "uncorrected"): 0, ("gpu", "pcie_replay"): 0},
        "hw.status": {
            ("gpu", "ok"): 1,
            ("gpu", "degraded"): 0,
            ("gpu", "failed"): 0,
            ("gpu", "predicted_failure"): 0,
        },
        "crucible.gpu.info": {("550.54.15",): 1},
        "crucible.gpu.memory_controller.utilization": {(): 0.4},
        "crucible.gpu.clock.speed": {("sm",): 1.98e9, ("memory",): 2.619e9},
        "crucible.gpu.clock.limit": {("sm",): 1.98e9},
        "crucible.gpu.power.limit": {(): 700.0},
        "crucible.gpu.throttle.active": {(reason,): int(reason == gpu.POWER_CAP) for reason in gpu.THROTTLE_REASONS},
        "crucible.gpu.throttle.time": {(gpu.POWER_CAP,): 0},
        "crucible.gpu.nvlink.io": {("transmit",): 0, ("receive",): 0},
        "crucible.gpu.sm.active": {(): 0.9},
        "crucible.gpu.sm.occupancy": {(): 0.5},
        "crucible.gpu.dram.active": {(): 0.6},
        "crucible.gpu.pipe.active": {("tensor",): 0.7, ("fp32",): 0.1},
        "crucible.gpu.memory.row.remapped": {("corrected",): 2.0, ("uncorrected",): 0.0},
        "crucible.gpu.memory.row.pending": {(): 0},
        "crucible.gpu.pcie.generation": {(): 5},
        "crucible.gpu.pcie.width": {(): 16},
        "crucible.gpu.process.memory.usage": {(): GIB},
    } == found


def test_what_a_device_does_not_have_is_absent() -> None:
    """Never 0: of a device without readings there is its identity and its status."""
    bare = FakeGpu(memory_total_bytes=None, memory_used_bytes=None, utilization_ratio=None)

    assert {"crucible.gpu.info", "hw.status"} == set(reported(watching(FakeNvml([bare])).tick(0.0, 0)))


def test_attributes_are_those_of_the_tables() -> None:
    """The closed set of each metric, nothing else; and every metric but PyTorch's is reported by a full device."""
    found = observations(watching(FakeNvml([FULL])).tick(0.0, 0))
    allowed = {metric.name: set(metric.attributes) for metric in gpu.METRICS}

    assert {} == {
        name: set(each.attributes or {}) - allowed[name]
        for name, points in found.items()
        for each in points
        if not set(each.attributes or {}) <= allowed[name]
    }
    assert {gpu.TORCH_ALLOCATED.name, gpu.TORCH_RESERVED.name} == allowed.keys() - {
        name for name, points in found.items() if points
    }


def test_a_mig_instance_is_a_device_with_a_parent() -> None:
    """Its own memory under its own UUID; power and status are the GPU's."""
    part = FakeGpu(memory_total_bytes=10 * GIB, memory_used_bytes=GIB, utilization_ratio=None, mig_profile="1g.10gb")
    whole = FakeGpu(utilization_ratio=None, power_w=200.0, instances=[part])
    found = observations(watching(FakeNvml([whole])).tick(0.0, 0))

    assert [(whole.uuid, None, 0), (part.uuid, whole.uuid, GIB)] == [
        (each.attributes[gpu.ID], each.attributes.get(gpu.PARENT), each.value)
        for each in found["hw.gpu.memory.usage"]
        if each.attributes
    ]
    assert [whole.uuid] == [each.attributes[gpu.ID] for each in found["hw.power"] if each.attributes]
    assert {whole.uuid} == {each.attributes[gpu.ID] for each in found["hw.status"] if each.attributes}
    assert "1g.10gb" in [each.attributes.get(gpu.MIG_PROFILE) for each in found["crucible.gpu.info"] if each.attributes]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"fast": FastReading(throttle_reasons=frozenset({gpu.POWER_CAP}))}, "ok"),
        ({"fast": FastReading(throttle_reasons=frozenset({gpu.HW_THERMAL}))}, "degraded"),
        ({"slow": SlowReading(remap_pending=True)}, "predicted_failure"),
        ({"slow": SlowReading(recovery_needed=True)}, "predicted_failure"),
        ({"lost": True}, "failed"),
    ],
)
def test_status_is_one_of_four(change: dict[str, Any], state: str) -> None:
    """By the worst that is known."""
    found = reported(watching(FakeNvml([FakeGpu(**change)])).tick(0.0, 0))

    assert [("gpu", state)] == [key for key, value in found["hw.status"].items() if value]


def test_series_of_a_lost_device_end() -> None:
    """All but the status that says so."""
    assert {"hw.status"} == set(reported(watching(FakeNvml([FakeGpu(lost=True)])).tick(0.0, 0)))


def collected(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """Return metric -> points."""
    data = reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)
        for resource in (data.resource_metrics if data is not None else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_instruments_are_of_the_declared_kinds() -> None:
    """Observable ones, made once a meter; without a source they report nothing."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    meter = provider.get_meter("test")
    instruments = Instruments.of(meter)
    snapshot = watching(FakeNvml([FULL])).tick(0.0, 0)
    fresh: Callable[[], GpuSnapshot] = lambda: snapshot  # noqa: E731 - compared by identity
    silent = collected(reader)
    instruments.bind(fresh)
    found = collected(reader)
    instruments.unbind(lambda: EMPTY)
    still = collected(reader)
    instruments.unbind(fresh)
    kinds = {metric.name: metric.kind for metric in gpu.METRICS}

    assert instruments is Instruments.of(meter)
    assert {} == {name: points for name, points in silent.items() if points}
    assert len(gpu.METRICS) - 2 == len(found) == len(still)
    assert {name for name, points in found.items() if hasattr(points[0], "start_time_unix_nano")} >= {
        name for name in found if kinds[name] != "gauge"
    }
    assert {} == {name: points for name, points in collected(reader).items() if points}
    provider.shutdown()


def test_a_callback_waits_for_nothing() -> None:
    """It looks up what was made of the snapshot: once, however many instruments there are."""
    asked: list[int] = []
    callbacks: list[Any] = []

    class Meter:
        def __getattr__(self, name: str) -> Any:
            return lambda name, callbacks, unit, description: all_callbacks(callbacks)

    def all_callbacks(given: list[Any]) -> None:
        callbacks.extend(given)

    snapshot = watching(FakeNvml([FULL])).tick(0.0, 0)

    def fresh() -> GpuSnapshot:
        asked.append(1)
        return snapshot

    instruments = Instruments(Meter())  # type: ignore[arg-type]
    instruments.bind(fresh)
    first = [report(CallbackOptions()) for report in callbacks]
    second = [report(CallbackOptions()) for report in callbacks]

    assert len(gpu.METRICS) * 2 == len(asked)
    assert [id(each) for each in first] == [id(each) for each in second]
