"""GPUs through the real servers: the worked numbers in a Collector and in a Prometheus, and a GPU that is lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from crucible_otel.semconv import gpu
from tests.e2e.conftest import StartCollector
from tests.e2e.servers import Collector, Exported, Prometheus, get, promtool
from tests.gpu.stub import Stub
from tests.integration.programs import Program

WORKED = "GPU-6f1c7b1e-5b0a-4c1e-9d3e-1f4f4a2b8c01"
RUN = """
import sys
import crucible_otel as cx
telemetry = cx.configure()
with cx.workflow("finetune"), cx.stage("load"), cx.train("m"):
    print(telemetry.prometheus_url, flush=True)
    sys.stdin.readline()
print("ended", flush=True)
sys.stdin.readline()
"""
"""A run that is open until it gets a line, in a process that lives until it gets another."""

NUMBERS = {
    "hw_gpu_memory_usage_bytes": 40_960 * 1024**2,
    "hw_gpu_memory_limit_bytes": 81_920 * 1024**2,
    "hw_gpu_memory_utilization_ratio": 0.5,
    'hw_gpu_utilization_ratio{hw_gpu_task="general"}': 0.75,
    'hw_temperature_celsius{hw_sensor_location="die"}': 65,
    'hw_power_watts{hw_type="gpu"}': 350,
    "crucible_gpu_power_limit_watts": 400,
    "crucible_gpu_memory_controller_utilization_ratio": 0.4,
    'hw_status{hw_state="ok"}': 1,
    'crucible_gpu_info{hw_driver_version="550.54.15"}': 1,
    'snakepit_gpu_memory_used_mb{device="cuda:0"}': 40_960,
    "snakepit_gpu_memory_total_mb": 81_920,
    "snakepit_gpu_memory_free_mb": 40_960,
    "snakepit_gpu_utilization_gpu_percent": 75,
    "snakepit_gpu_utilization_memory_percent": 50,
    "snakepit_gpu_temperature_celsius": 65,
    "snakepit_gpu_power_watts": 350,
    "snakepit_gpu_power_limit_watts": 400,
    "snakepit_memory_gpu_free_mb": 40_960,
    "snakepit_memory_gpu_total_mb": 81_920,
}
"""40,960 of 81,920 MiB, 75 %, 65 degrees, 350,000 mW, and the rest of the scenario, as Prometheus has it; then the same
under the documents' names."""

ABBREVIATED = re.compile(r"snakepit_\w+_mb metric names should not contain abbreviated units")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose locks are of this test only."""
    (tmp_path / "runtime").mkdir(mode=0o700)
    return tmp_path


def environment(stub: Stub, collector: Collector, port: int, folder: Path) -> dict[str, str]:
    """Return that of a program that samples ten times a second, sends to a Collector and is scraped at a port."""
    return {
        **stub.environ,
        "XDG_RUNTIME_DIR": str(folder / "runtime"),
        "CRUCIBLE_OTEL_GPU": "on",
        "CRUCIBLE_OTEL_GPU_INTERVAL_MS": "100",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp_http,
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "CRUCIBLE_OTEL_SEED_METRICS": "both",
    }


def config(port: int) -> dict[str, Any]:
    """Return the configuration of a Collector that serves metrics at a port and writes all signals to a file."""
    signals = {signal: {"receivers": ["otlp"], "exporters": ["file"]} for signal in ("traces", "logs", "metrics")}
    signals["metrics"]["exporters"].append("prometheus")
    return {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": "127.0.0.1:4318"}}}},
        "exporters": {
            "file": {"path": "seen.jsonl", "flush_interval": "100ms"},
            "prometheus": {"endpoint": f"127.0.0.1:{port}"},
        },
        "service": {"pipelines": signals},
    }


def at(expression: str, port: int, **labels: str) -> str:
    """Return PromQL of what was scraped at a port; ``name`` or ``name{label="value"}``."""
    name, _, rest = expression.partition("{")
    wanted = {"instance": f"127.0.0.1:{port}", **labels}
    selector = ",".join([f'{key}="{value}"' for key, value in wanted.items()] + [rest.rstrip("}")] * bool(rest))
    return f"{name}{{{selector}}}"


def xids(seen: Exported, uuid: str) -> list[Any]:
    """Return the log records of the XIDs of a GPU."""
    return [log for log in seen.logs if log.event_name == gpu.XID.name and log.attributes[gpu.ID] == uuid]


def test_the_worked_numbers_arrive_by_both_routes(
    collector: StartCollector, prometheus: Prometheus, folder: Path
) -> None:
    """A real Prometheus has them from the program's own page and from the Collector's; a stage has its energy there."""
    stub, own, collected = Stub(folder / "nvml", "worked"), prometheus.take_ports(), prometheus.take_ports()
    server = collector(config(collected))
    with Program(RUN, environment(stub, server, own, folder)) as program:
        url = program.line()
        for port in (own, collected):
            for expression, expected in NUMBERS.items():
                prometheus.becomes(expected, at(expression, port, hw_id=WORKED))
            prometheus.holds(
                lambda found: [value for _, value in found if value > 100], at("hw_energy_joules_total", port)
            )
        checked = promtool("check", "metrics", text=get(url))
        # The documents write MB in their names, which promtool would have as bytes.
        complaints = [line for line in checked.stderr.splitlines() if not ABBREVIATED.fullmatch(line)]
        assert ("", []) == (checked.stdout, complaints)
        program.say()
        assert "ended" == program.line()
        stage = 'crucible_stage_energy_joules_total{crucible_stage_name="load",crucible_gpu_energy_source="counter"}'
        ((_, here),), ((_, there),) = (
            prometheus.holds(lambda found: [value for _, value in found if value > 100], at(stage, port))
            for port in (own, collected)
        )
        program.say()
        ended = program.end()
    seen: Exported = server.exported("seen.jsonl")
    seen.wait_for(lambda each: [span for span in each.spans if span.name == "run_workflow finetune"])
    spans = {span.name: span.attributes.get("crucible.gpu.energy.used") for span in seen.spans}

    assert (0, []) == (ended.code, ended.errors)
    assert here == there == pytest.approx(spans["run_stage load"])
    assert {"run_workflow finetune", "run_stage load", "train m"} == set(spans)
    assert 0 < spans["train m"] <= spans["run_stage load"] <= spans["run_workflow finetune"]
    assert {} == stub.misuse()


def test_the_series_of_a_lost_gpu_end_in_prometheus(
    collector: StartCollector, prometheus: Prometheus, folder: Path
) -> None:
    """Its power is gone at the next scrape, its status says failed; the loss, and an XID, are in the run's trace."""
    stub, own, collected = Stub(folder / "nvml", "lost"), prometheus.take_ports(), prometheus.take_ports()
    stub.add("gpu 1 lost = 0")
    healthy, lost = (f"GPU-0f0f0f0f-1111-2222-3333-44444444444{index}" for index in (0, 1))
    server = collector(config(collected))
    with Program(RUN, environment(stub, server, own, folder)) as program:
        program.line()
        prometheus.becomes(500, at("hw_power_watts", own, hw_id=lost))
        stub.add("gpu 1 lost = 1")
        prometheus.becomes(1, at('hw_status{hw_state="failed"}', own, hw_id=lost))
        prometheus.holds(lambda found: not found, at("hw_power_watts", own, hw_id=lost))
        prometheus.becomes(500, at("hw_power_watts", own, hw_id=healthy))
        stub.add("event 0 xid 31")
        prometheus.becomes(1, at('hw_errors_total{error_type="xid"}', own, hw_id=healthy))
        for line in ("ended", ""):
            program.say()
            assert line == program.line()
        assert 0 == program.end().code
    seen: Exported = server.exported("seen.jsonl")
    seen.wait_for(lambda each: [span for span in each.spans if span.name == "train m"])
    seen.wait_for(lambda each: [log for log in each.logs if log.event_name == gpu.LOST.name])
    seen.wait_for(lambda each: xids(each, healthy))
    (told,) = [log for log in seen.logs if log.event_name == gpu.LOST.name]
    (fault,) = xids(seen, healthy)
    (run,) = [span for span in seen.spans if span.name == "train m"]

    assert ("ERROR", lost) == (told.severity_text, told.attributes[gpu.ID])
    assert ("ERROR", 31) == (fault.severity_text, fault.attributes["crucible.gpu.xid.code"])
    assert [(run.trace_id, run.span_id)] * 2 == [(log.trace_id, log.span_id) for log in (told, fault)]
