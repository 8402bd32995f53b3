"""The documents' own GPU metrics: their names and units over the same sample, where they are asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import crucible_otel as cx
from crucible_otel.errors import ConfigurationError
from crucible_otel.gpu.backend import FastReading, SlowReading
from crucible_otel.gpu.instruments import Instruments, observations
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.telling import sampled_fields
from crucible_otel.semconv import gpu
from crucible_otel.semconv.model import SeedMetric
from crucible_otel.semconv.registry import SEED_METRICS
from crucible_otel.testing.nvml import FakeGpu, FakeNvml
from tests.captured import Capture
from tests.gpu.fakes import found, watching
from tests.gpu.test_exporting import sampled
from tests.gpu.test_instruments import FULL, collected

MIB = 1024**2
OWN = {"snakepit.memory.gpu.allocated_mb", "snakepit.memory.gpu.reserved_mb"}

# Unit and value of each, of the device below.
EXPECTED = {
    "snakepit.gpu.memory.used_mb": ("", 40_960),
    "snakepit.gpu.memory.total_mb": ("", 81_920),
    "snakepit.gpu.memory.free_mb": ("", 40_959),
    "snakepit.gpu.utilization.gpu_percent": ("%", 75.0),
    "snakepit.gpu.utilization.memory_percent": ("%", 50.001),
    "snakepit.gpu.temperature.celsius": ("Cel", 65.0),
    "snakepit.gpu.power.watts": ("W", 350.0),
    "snakepit.gpu.power.limit_watts": ("W", 700.0),
    "snakepit.memory.gpu.allocated_mb": ("", 1024),
    "snakepit.memory.gpu.reserved_mb": ("", 2048),
    "snakepit.memory.gpu.free_mb": ("", 40_959),
    "snakepit.memory.gpu.total_mb": ("", 81_920),
}
SCALE = {"By": 1 / MIB, "1": 100.0}
"""From our unit to the seed's, where they differ."""


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PyTorch that uses the GPUs: 1,024 MiB given out, 2,048 held."""
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        memory_allocated=lambda number: 1024 * MIB,
        memory_reserved=lambda number: 2048 * MIB,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]


@pytest.fixture
def full(torch: None) -> Iterator[FakeGpu]:
    """A device that has everything, with half a MiB more in use than 40,960."""
    device = FakeGpu(
        memory_used_bytes=40_960 * MIB + MIB // 2,
        utilization_ratio=0.75,
        power_w=350.0,
        temperature_celsius=65.0,
        fast=FULL.fast,
        slow=FULL.slow,
    )
    with found(FakeNvml([device])):
        yield device


def reported(capture: Capture) -> dict[str, tuple[str, Any]]:
    """Return seed name -> unit and the one value that left."""
    return {
        name: (spec.metric.unit, point.value) for name, spec in SEED_METRICS.items() for point in capture.points(name)
    }


def of_ours(capture: Capture, spec: SeedMetric) -> list[float]:
    """Return what the metric of ours says that is the same."""
    assert spec.of is not None
    points = capture.points(spec.of.name)
    return [point.value for point in points if spec.where.items() <= dict(point.attributes).items()]


def test_names_are_those_of_the_documents() -> None:
    """The three that they spell, and by their pattern one for each measurement of each event."""
    by_event = {
        f"{alias.name.removesuffix('.sampled')}.{measurement}"
        for alias in gpu.ALIASES
        for measurement in alias.measurements
    }

    assert {
        "snakepit.memory.gpu.allocated_mb",
        "snakepit.memory.gpu.free_mb",
        "snakepit.gpu.memory.used_mb",
    } <= SEED_METRICS.keys()
    assert by_event == SEED_METRICS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_each_has_its_unit_its_tag_and_the_value_of_ours(full: FakeGpu, capture: Capture, name: str) -> None:
    """Equal to ours in the same collection, but for the unit; ``*_mb`` are whole MiB."""
    capture.configure(gpu="on", seed_metrics="both")
    assert sampled()
    spec = SEED_METRICS[name]
    (point,) = capture.points(name)

    assert EXPECTED[name] == (spec.metric.unit, point.value)
    assert {"device": "cuda:0", "hw.id": full.uuid} == dict(point.attributes)
    assert isinstance(point.value, int) == name.endswith("_mb")
    if spec.of is not None:
        (ours,) = of_ours(capture, spec)
        same = ours * SCALE.get(spec.of.unit, 1)
        assert point.value == (int(same) if name.endswith("_mb") else pytest.approx(same, abs=1e-3))


def test_they_are_the_measurements_of_the_events(full: FakeGpu, capture: Capture) -> None:
    """A handler of an event gets what the metrics of its name say."""
    got: dict[str, Any] = {}

    def keep(event: str, measurements: Any, metadata: Any, config: Any) -> None:
        got.update({f"{event.removesuffix('.sampled')}.{key}": value for key, value in measurements.items()})

    for number, alias in enumerate(gpu.ALIASES):
        cx.attach_handler(str(number), alias.name, keep)
    capture.configure(gpu="on", seed_metrics="both")
    assert sampled()
    metrics = {name: value for name, (_, value) in reported(capture).items()}
    assert capture.telemetry is not None
    capture.telemetry.shutdown(30)

    assert metrics == got


def test_by_default_there_are_none(full: FakeGpu, capture: Capture) -> None:
    """Ours stand alone."""
    telemetry = capture.configure(gpu="on")
    assert sampled()

    assert "off" == telemetry.settings.seed_metrics
    assert {} == reported(capture)
    assert 1 == len(capture.points("hw.gpu.memory.usage"))


def test_by_default_there_is_no_instrument_of_such_a_name() -> None:
    """They are made when they are first asked for, and once."""
    made: list[str] = []

    class Meter:
        def __getattr__(self, name: str) -> Any:
            return lambda name, callbacks, unit, description: made.append(name)

    meter: Any = Meter()
    before = [len(made) for names in ("off", "both", "only", "off") if Instruments.of(meter, names)]

    assert [len(gpu.METRICS), *[len(gpu.METRICS) + len(SEED_METRICS)] * 3] == before
    assert len(made) == len(set(made))


def test_only_leaves_out_what_has_a_seed_name(full: FakeGpu, capture: Capture) -> None:
    """Of ours the same series are gone; what no document names is still there."""
    capture.configure(gpu="on", seed_metrics="only")
    assert sampled()
    left = {
        name: [{key: value for key, value in point.attributes.items() if key not in gpu.IDENTITY} for point in points]
        for name in (metric.name for metric in gpu.METRICS)
        if (points := capture.points(name))
    }

    assert EXPECTED == reported(capture)
    assert [{gpu.TASK: "encoder"}, {gpu.TASK: "decoder"}] == left[gpu.UTILIZATION.name]
    assert [{gpu.SENSOR: "memory"}] == left[gpu.TEMPERATURE.name]
    replaced = {spec.of.name for spec in SEED_METRICS.values() if spec.of is not None}
    assert {gpu.UTILIZATION.name, gpu.TEMPERATURE.name} == replaced & left.keys()
    assert {gpu.STATUS.name, gpu.INFO.name, gpu.SM_ACTIVE.name, gpu.CLOCK_SPEED.name} <= left.keys()


def test_both_changes_nothing_of_ours(full: FakeGpu) -> None:
    """The same observations with the seeds' beside them."""
    snapshot = watching(FakeNvml([full])).tick(0.0, 0)
    ours, both = observations(snapshot), observations(snapshot, "both")

    assert ours == {name: points for name, points in both.items() if name not in SEED_METRICS}
    assert SEED_METRICS.keys() == both.keys() - ours.keys()


@pytest.mark.parametrize(
    ("lacking", "absent"),
    [
        (
            {"memory_used_bytes": None},
            {"gpu.memory.used_mb", "gpu.memory.free_mb", "gpu.utilization.memory_percent", "memory.gpu.free_mb"},
        ),
        (
            {"memory_total_bytes": None},
            {
                *("gpu.memory.total_mb", "gpu.memory.free_mb", "gpu.utilization.memory_percent"),
                *("memory.gpu.free_mb", "memory.gpu.total_mb"),
            },
        ),
        ({"memory_total_bytes": 0, "memory_used_bytes": 0}, {"gpu.utilization.memory_percent"}),
        ({"utilization_ratio": None}, {"gpu.utilization.gpu_percent"}),
        ({"temperature_celsius": None}, {"gpu.temperature.celsius"}),
        ({"power_w": None}, {"gpu.power.watts"}),
        ({"slow": SlowReading()}, {"gpu.power.limit_watts"}),
    ],
    ids=lambda case: "-".join(case) if isinstance(case, dict) else "",
)
def test_what_a_device_does_not_have_is_absent(full: FakeGpu, lacking: dict[str, Any], absent: set[str]) -> None:
    """Never 0; a memory of nothing has no part in use."""
    for name, value in lacking.items():
        setattr(full, name, value)
    points = observations(watching(FakeNvml([full])).tick(0.0, 0), "only")

    assert {f"snakepit.{name}" for name in absent} == SEED_METRICS.keys() - {name for name in points if points[name]}


def test_without_torch_its_metrics_are_absent() -> None:
    """And a bare device has none at all."""
    bare = FakeGpu(memory_total_bytes=None, memory_used_bytes=None, utilization_ratio=None, fast=FastReading())
    names = [
        set(observations(watching(FakeNvml([each])).tick(0.0, 0), "both")) & SEED_METRICS.keys()
        for each in (FULL, bare)
    ]

    assert [SEED_METRICS.keys() - OWN, set()] == names


def test_series_of_a_lost_device_end(full: FakeGpu) -> None:
    """All of them; of ours the status is left in every mode."""
    nvml = FakeNvml([full])
    watch = watching(nvml)
    watch.tick(0.0, 0)
    full.lost = True
    snapshot = watch.tick(5.0, 0)

    assert [{gpu.STATUS.name}] * 2 == [
        {name for name, points in observations(snapshot, names).items() if points} for names in ("both", "only")
    ]


def test_a_process_that_does_not_report_the_device_reports_itself(full: FakeGpu, tmp_path: Path) -> None:
    """What its own allocator says, also when a profiler has the device read."""
    holder = (
        "import sys; from pathlib import Path; from crucible_otel.gpu.ownership import Ownership;"
        "print(Ownership(Path(sys.argv[1])).owns(sys.argv[2]), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(tmp_path), full.uuid]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert "True" == other.stdout.readline().strip()
        snapshot = watching(FakeNvml([full]), ownership=Ownership(tmp_path)).tick(0.0, 0, detailed=True)
        other.kill()
    (state,) = snapshot.devices

    assert (False, 40_960) == (state.owned, sampled_fields(state)["used_mb"])
    assert OWN == observations(snapshot, "both").keys() & SEED_METRICS.keys()


def test_an_application_s_provider_gets_them_as_the_setting_is(
    fresh: None, full: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one meter, whatever was set before."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr("opentelemetry.metrics.get_meter_provider", lambda: provider)
    settings: dict[str, Any] = {"gpu": "on", "traces_exporter": "none", "logs_exporter": "none"}
    seen = []
    for names in ("off", "both", "only", "off"):
        telemetry = cx.configure(**settings, seed_metrics=names)
        assert sampled()
        here = collected(reader)
        telemetry.shutdown(30)
        seen.append([len(here.get(name, [])) for name in ("hw.gpu.memory.usage", "snakepit.gpu.memory.used_mb")])
    provider.shutdown()

    assert [[1, 0], [1, 1], [0, 1], [1, 0]] == seen


def test_another_value_is_refused(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``configure()``, naming the variable, the value and what is accepted."""
    monkeypatch.setenv("CRUCIBLE_OTEL_SEED_METRICS", "also")
    with pytest.raises(
        ConfigurationError, match=r"CRUCIBLE_OTEL_SEED_METRICS='also' is not usable; accepted: off, only or both"
    ):
        cx.configure()
