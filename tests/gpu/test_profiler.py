"""The profiler: every method of both documents, and the measured block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.errors import ConfigurationError
from crucible_otel.gpu import shared
from crucible_otel.gpu.profiler import GPUProfiler
from crucible_otel.gpu.snapshot import GpuSnapshot
from crucible_otel.semconv.gpu import METRICS
from crucible_otel.semconv.registry import SEED_METRICS
from crucible_otel.testing.nvml import FakeGpu, FakeNvml
from tests.captured import Capture
from tests.gpu.fakes import eventually, found, watching

GIB = 1024**3
FIELDS = {
    "used_mb": 40_960,
    "total_mb": 81_920,
    "free_mb": 40_960,
    "gpu_percent": 75.0,
    "memory_percent": 50.0,
    "celsius": 65.0,
    "watts": 350.0,
}


@pytest.fixture
def gpu() -> FakeGpu:
    """The worked numbers of the documents."""
    return FakeGpu(memory_used_bytes=40 * GIB, utilization_ratio=0.75, temperature_celsius=65.0, power_w=350.0)


@pytest.fixture
def nvml(gpu: FakeGpu) -> Iterator[FakeNvml]:
    """A library that has just this GPU."""
    nvml = FakeNvml([gpu])
    with found(nvml):
        yield nvml


@pytest.fixture
def profiler(nvml: FakeNvml) -> Iterator[GPUProfiler]:
    """One that samples only when it is told to."""
    profiler = cx.gpu.GPUProfiler.start(enabled=False)
    yield profiler
    profiler.stop()


def test_a_sample_can_be_had_while_disabled(profiler: GPUProfiler) -> None:
    """With the energy since sampling began where power can be integrated."""
    before = datetime.now(timezone.utc)
    sample = profiler.sample_now()
    stats = profiler.get_stats()

    assert {"cuda:0": {**FIELDS, "joules": 0.0}} == sample
    assert (1, 1) == (stats["sample_count"], stats["device_count"])
    assert before <= stats["last_sample_time"] <= datetime.now(timezone.utc)
    assert [(stats["last_sample_time"], sample)] == profiler.history() == cx.gpu.history()


def test_history_keeps_the_newest_thousand(profiler: GPUProfiler, gpu: FakeGpu, nvml: FakeNvml) -> None:
    """1,005 ticks leave 1,000 samples, newest first, the oldest dropped."""
    watch = watching(nvml)
    for tick in range(1005):
        gpu.memory_used_bytes = tick * 1024**2
        profiler._keep(watch.tick(float(tick), tick))
    kept = profiler.history(limit=2000)

    assert list(range(1004, 4, -1)) == [devices["cuda:0"]["used_mb"] for _, devices in kept]
    assert 100 == len(profiler.history())
    assert [1004, 1003] == [devices["cuda:0"]["used_mb"] for _, devices in profiler.history(2)]
    assert (1005, []) == (profiler.get_stats()["sample_count"], profiler.history(0))


def test_periodic_sampling_starts_and_stops(nvml: FakeNvml) -> None:
    """Enabling twice makes no second timer; a disabled one keeps what it has."""
    profiler = GPUProfiler.start(interval_ms=100)
    profiler.enable()
    assert eventually(lambda: profiler.get_stats()["sample_count"] >= 3)
    profiler.disable()
    profiler.sample_now()
    count = profiler.get_stats()["sample_count"]
    profiler.sample_now()

    assert count + 1 == profiler.get_stats()["sample_count"]
    profiler.enable()
    assert eventually(lambda: profiler.get_stats()["sample_count"] > count + 1)
    profiler.stop()
    assert eventually(lambda: not shared.sampler().running)
    assert (None, 1) == (profiler.sample_now(), nvml.calls["close"])
    assert profiler.history()


def test_the_interval_changes_without_a_restart(nvml: FakeNvml) -> None:
    """What was kept stays, and the library is not opened again."""
    profiler = GPUProfiler.start(interval_ms=1_000_000)
    assert eventually(lambda: profiler.get_stats()["sample_count"] == 1)
    profiler.set_interval(100)
    assert eventually(lambda: profiler.get_stats()["sample_count"] >= 3)
    profiler.stop()

    assert 1 == nvml.calls["open"]


@pytest.mark.parametrize("interval_ms", [0, -1, 99, 1.5, "1000", True, None])
def test_intervals_that_cannot_be_used_are_refused(profiler: GPUProfiler, interval_ms: Any) -> None:
    """By start and by set_interval, naming what is accepted."""
    for call in (lambda: GPUProfiler.start(interval_ms=interval_ms), lambda: profiler.set_interval(interval_ms)):
        with pytest.raises(ConfigurationError, match=r"interval_ms.*at least 100 milliseconds"):
            call()


def test_a_profiler_without_room_is_refused() -> None:
    """A ring holds at least one sample."""
    with pytest.raises(ConfigurationError, match="max_samples"):
        GPUProfiler.start(max_samples=0)


def test_without_a_gpu_it_starts_and_does_nothing() -> None:
    """No error, no thread, no samples."""
    with found(None):
        profiler = GPUProfiler.start()
        stats = profiler.get_stats()

        assert (None, [], []) == (profiler.sample_now(), profiler.history(), cx.gpu.history())
        assert {"sample_count": 0, "last_sample_time": None, "device_count": 0} == stats
        assert not shared.sampler().running
        profiler.disable()
        profiler.set_interval(200)
        profiler.stop()


def test_a_sample_that_fails_gives_no_data_and_sampling_goes_on(profiler: GPUProfiler, gpu: FakeGpu) -> None:
    """No crash, no entry."""
    gpu.error = RuntimeError("odd")
    failed = profiler.sample_now()
    none = profiler.history()
    gpu.error = None

    assert ([], 65.0) == (none, (profiler.sample_now() or {})["cuda:0"]["celsius"])
    assert failed in (None, {})


def test_definitions_are_those_of_the_tables() -> None:
    """Each metric with the name that Prometheus has for it."""
    definitions = {each["name"]: each for each in GPUProfiler.definitions()}

    assert [metric.name for metric in METRICS] == list(definitions)
    assert "hw_gpu_memory_usage_bytes" == definitions["hw.gpu.memory.usage"]["prometheus_name"]
    assert "gauge" == definitions["hw.gpu.utilization"]["type"]


def test_definitions_are_also_those_of_the_documents() -> None:
    """Under their names, with the tag that they have there."""
    definitions = {each["name"]: each for each in GPUProfiler.definitions(seed=True)}
    used = definitions["snakepit.gpu.memory.used_mb"]

    assert list(SEED_METRICS) == list(definitions)
    assert ("snakepit_gpu_memory_used_mb", "gauge", ("device", "hw_id")) == (
        used["prometheus_name"],
        used["type"],
        used["labels"],
    )


def test_a_scope_measures_what_is_used_inside(nvml: FakeNvml, gpu: FakeGpu, capture: Capture) -> None:
    """Means, maxima and energy, to the caller, on the span and as an event in its trace."""
    capture.configure()
    gpu.energy_j = 1000.0
    with cx.workflow("w"), cx.gpu.scope("epoch/3") as g:
        gpu.energy_j, gpu.power_w = 1700.0, 450.0
    (event,) = capture.events("crucible.gpu.scope")
    span = capture.span("run_workflow w")

    assert (700.0, False, 400.0, 450.0) == (g.energy_j, g.energy_estimated, g.mean["watts"], g.max["watts"])
    assert (75.0, 700.0) == (g.devices["cuda:0"].mean["gpu_percent"], g.devices["cuda:0"].energy_j)
    assert (700.0, False) == (
        span.attributes["crucible.gpu.scope.energy"],
        span.attributes["crucible.gpu.scope.energy_estimated"],
    )
    assert ("epoch/3", span.context.trace_id) == (event.attributes["crucible.gpu.scope.name"], event.trace_id)


def test_a_scope_without_an_energy_counter_integrates_power(nvml: FakeNvml, gpu: FakeGpu) -> None:
    """And says so."""
    with cx.gpu.scope("s") as g:
        time.sleep(0.05)

    assert g.energy_estimated
    assert g.energy_j is not None
    assert 0.05 * 350 * 0.9 <= g.energy_j


def test_a_scope_without_gpus_is_empty() -> None:
    """It costs nothing and raises nothing."""
    with found(None), cx.gpu.scope("s") as g:
        pass

    assert (None, {}, {}, {}) == (g.energy_j, g.mean, g.max, g.devices)


def test_a_scope_passes_exceptions_through(nvml: FakeNvml) -> None:
    """And is measured all the same."""
    measured = cx.gpu.scope("s")
    with pytest.raises(KeyError), measured:
        raise KeyError("mine")

    assert 75.0 == measured.mean["gpu_percent"]


def test_every_sample_is_told_without_configure(fresh: None, profiler: GPUProfiler) -> None:
    """To handlers of the documents' events, once a device."""
    got: list[tuple[str, dict[str, Any]]] = []
    cx.attach_handler("h", "snakepit.memory.gpu", lambda event, m, d, config: got.append((d["device"], m)))
    profiler.sample_now()

    assert [("cuda:0", {"free_mb": 40_960, "total_mb": 81_920})] == got


def test_a_snapshot_of_lost_devices_is_no_sample(profiler: GPUProfiler) -> None:
    """An empty one neither."""
    profiler._keep(GpuSnapshot(taken_s=0.0, taken_ns=1))

    assert 0 == profiler.get_stats()["sample_count"]
