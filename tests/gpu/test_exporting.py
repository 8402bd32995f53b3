"""GPU metrics without a line of code: what ``configure()`` starts, and what it leaves alone."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import crucible_otel as cx
from crucible_otel.gpu import shared
from crucible_otel.testing.nvml import FakeGpu, FakeNvml
from tests.captured import Capture
from tests.gpu.fakes import eventually, found
from tests.gpu.test_instruments import collected

GPU_THREAD = "crucible-otel-gpu"


def threads() -> list[str]:
    """Return the names of the sampler's threads."""
    return [each.name for each in threading.enumerate() if each.name == GPU_THREAD]


def sampled() -> bool:
    """Whether there is a snapshot."""
    return eventually(lambda: shared.sampler().snapshot.taken_ns)


def values(capture: Capture, name: str) -> list[tuple[str, float]]:
    """Return UUID and value of every point that left for a metric."""
    return [(point.attributes["hw.id"], point.value) for point in capture.points(name)]


def test_gpus_are_exported_when_asked_for(capture: Capture) -> None:
    """From the environment alone; one ERROR event for a lost one, in the trace of the run."""
    gpu, other = FakeGpu(memory_used_bytes=42, utilization_ratio=0.75), FakeGpu()
    nvml = FakeNvml([gpu, other])
    with found(nvml):
        capture.configure(gpu="on", gpu_interval_ms=100)
        assert sampled()
        assert [(gpu.uuid, 42), (other.uuid, 0)] == values(capture, "hw.gpu.memory.usage")
        with cx.workflow("w"), cx.train("m"):
            other.lost = True
            nvml.report_fault(gpu, 31)
            assert eventually(lambda: any(state.lost for state in shared.sampler().snapshot.devices))
        assert [(gpu.uuid, 42)] == values(capture, "hw.gpu.memory.usage")
        assert capture.telemetry is not None
        capture.telemetry.shutdown(10)
    (lost,), (xid,) = capture.events("crucible.gpu.lost"), capture.events("crucible.gpu.xid")
    run = capture.span("train m")
    assert [("ERROR", run.context.trace_id)] * 2 == [(each.severity_text, each.trace_id) for each in (lost, xid)]
    assert (other.uuid, "cuda:1") == (lost.attributes["hw.id"], lost.attributes["crucible.gpu.device"])
    assert (31, gpu.uuid) == (xid.attributes["crucible.gpu.xid.code"], xid.attributes["hw.id"])
    assert eventually(lambda: not threads())
    assert not nvml.is_open


def test_the_duration_of_polls_is_reported(capture: Capture) -> None:
    """Of each; those that fail are told apart by their error."""
    gpu = FakeGpu()

    def polls() -> dict[str, int]:
        points = capture.points("crucible.gpu.poll.duration")
        return {point.attributes.get("error.type", ""): point.count for point in points}

    with found(FakeNvml([gpu])):
        capture.configure(gpu="on", gpu_interval_ms=100)
        assert eventually(lambda: polls().get("", 0) > 1)
        gpu.error = ValueError("no")
        assert eventually(lambda: polls().get("ValueError", 0) > 1)

    assert {"", "ValueError"} == set(polls())


def test_devices_of_the_setting_are_exported(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """And a word that means none is warned about."""
    one, two = FakeGpu(), FakeGpu()
    with found(FakeNvml([one, two])):
        capture.configure(gpu="on", gpu_devices=("1", "9"))
        assert sampled()
        assert {two.uuid} == {uuid for uuid, _ in values(capture, "hw.gpu.memory.usage")}
        assert capture.telemetry is not None
        capture.telemetry.shutdown(10)

    assert ["gpu_devices: no GPU is meant by 9"] == [each.message for each in caplog.records if "gpu" in each.message]


@pytest.mark.parametrize(("mode", "level"), [("auto", logging.INFO), ("on", logging.WARNING)])
def test_without_a_driver_there_is_one_line(
    capture: Capture, caplog: pytest.LogCaptureFixture, mode: str, level: int
) -> None:
    """INFO in auto mode, a warning when GPUs are insisted on; no thread."""
    caplog.set_level(logging.INFO, "crucible_otel")
    with found(None):
        capture.configure(gpu=mode)

    assert [("no GPU metrics: the driver's library was not found", level)] == [
        (each.getMessage(), each.levelno) for each in caplog.records if "GPU" in each.getMessage()
    ]
    assert [] == threads()


def test_a_library_without_a_driver_is_said_from_the_thread(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """Where only the driver's library is installed; nothing is reported and nothing runs on."""
    caplog.set_level(logging.INFO, "crucible_otel")
    with found(FakeNvml(unavailable="NVML: Driver Not Loaded")):
        capture.configure(gpu="on")
        assert eventually(lambda: [each for each in caplog.records if "Driver Not Loaded" in each.getMessage()])
        assert eventually(lambda: not threads())
        assert [] == values(capture, "crucible.gpu.info")


def test_an_error_of_ours_costs_the_gpu_metrics_only(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, configure() returns all the same, and the error is counted."""

    def refuse(thread: threading.Thread) -> None:
        if thread.name == GPU_THREAD:
            raise RuntimeError("can't start new thread")
        start(thread)

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with found(FakeNvml([FakeGpu()])):
        capture.configure(gpu="on")

    assert [] == capture.points("crucible.gpu.info")
    assert 1 == capture.value("crucible.sdk.faults", crucible__sdk__component="gpu")


def test_inside_pytest_and_when_off_nothing_is_looked_for(capture: Capture) -> None:
    """Unless it is asked for."""
    nvml = FakeNvml([FakeGpu()])
    with found(nvml):
        telemetry = capture.configure()

    assert ("off", 0, []) == (telemetry.settings.gpu, nvml.calls.total(), threads())


def test_zero_cost_without_a_driver() -> None:
    """In auto mode, outside pytest: neither pynvml nor a thread, and one line at INFO."""
    code = (
        "import logging, sys, threading; logging.basicConfig(level=logging.INFO, format='%(levelname)s %(message)s');"
        "import crucible_otel as cx;"
        "from crucible_otel.gpu import nvml; nvml._LIBRARIES = {'linux': 'libthere-is-none.so.1'};"
        "cx.configure(traces_exporter='none', metrics_exporter='none', logs_exporter='none');"
        f"print('pynvml' in sys.modules, {GPU_THREAD!r} in [each.name for each in threading.enumerate()])"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)

    assert "False False" == done.stdout.strip()
    assert ["INFO no GPU metrics: the driver's library was not found"] == [
        line for line in done.stderr.splitlines() if "GPU" in line
    ]


def test_an_application_s_provider_gets_them_too(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through its own reader, and no more after our shutdown; a second configure() makes no second instruments."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr("opentelemetry.metrics.get_meter_provider", lambda: provider)
    settings: dict[str, Any] = {"gpu": "on", "traces_exporter": "none", "logs_exporter": "none"}
    with found(FakeNvml([FakeGpu(memory_used_bytes=7)])):
        for _ in range(2):
            telemetry = cx.configure(**settings)
            assert sampled()
            here = collected(reader)
            telemetry.shutdown(10)
            reader.get_metrics_data()  # what the flush at the end collected
            after = collected(reader)

            assert [7] == [point.value for point in here["hw.gpu.memory.usage"]]
            assert [] == after.get("hw.gpu.memory.usage", [])
    provider.shutdown()


def test_events_reach_only_who_subscribes(capture: Capture) -> None:
    """One sample under every name, in whole MiB, with what the device has."""
    got: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    names = ("memory.sampled", "utilization.sampled", "temperature.sampled", "power.sampled")
    for name in names:
        cx.attach_handler(name, f"snakepit.gpu.{name}", lambda event, m, d, config: got.append((event, m, d)))
    cx.attach_handler("g", "snakepit.memory.gpu", lambda event, m, d, config: got.append((event, m, d)))
    gpu = FakeGpu(memory_used_bytes=40 * 1024**3, utilization_ratio=0.75, power_w=350.0, temperature_celsius=65.0)
    with found(FakeNvml([gpu])):
        capture.configure(gpu="on")
        assert eventually(lambda: len(got) >= 5)
        assert capture.telemetry is not None
        capture.telemetry.shutdown(10)
    events = {event: measurements for event, measurements, _ in got}

    assert {
        "snakepit.gpu.memory.sampled": {"used_mb": 40_960, "total_mb": 81_920, "free_mb": 40_960},
        "snakepit.gpu.utilization.sampled": {"gpu_percent": 75.0, "memory_percent": 50.0},
        "snakepit.gpu.temperature.sampled": {"celsius": 65.0},
        "snakepit.gpu.power.sampled": {"watts": 350.0},
        "snakepit.memory.gpu": {"free_mb": 40_960, "total_mb": 81_920},
    } == events
    assert {"cuda:0"} == {metadata["device"] for _, _, metadata in got}


def test_one_process_reports_a_device_and_the_next_takes_over(tmp_path: Path, capture: Capture) -> None:
    """While another process holds the lock this one reports only itself."""
    gpu = FakeGpu(process_memory_bytes=3)
    holder = (
        "import sys; from pathlib import Path; from crucible_otel.gpu.ownership import Ownership;"
        "print(Ownership(Path(sys.argv[1])).owns(sys.argv[2]), flush=True); sys.stdin.read()"
    )
    uuid = f"GPU-00000000-0000-0000-0000-{0:012}"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path), uuid],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert "True" == other.stdout.readline().strip()
        with found(FakeNvml([gpu]), tmp_path):
            capture.configure(gpu="on", gpu_interval_ms=100)
            assert sampled()
            assert ([], [(uuid, 3)]) == (
                values(capture, "hw.gpu.memory.usage"),
                values(capture, "crucible.gpu.process.memory.usage"),
            )
            other.kill()
            other.wait()
            assert eventually(lambda: shared.sampler().snapshot.devices[0].owned)
            assert [(uuid, 0)] == values(capture, "hw.gpu.memory.usage")
            assert capture.telemetry is not None
            capture.telemetry.shutdown(10)
