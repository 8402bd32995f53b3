"""What a newcomer types: three lines in a shell, and a program that names no backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.conftest import StartCollector
from tests.e2e.servers import Jaeger, Prometheus
from tests.e2e.test_restart import start_minimal
from tests.integration.programs import GIVE_UP_S, ROOT
from tests.integration.test_environment_alone import EPOCHS, MADE, readme_loop

WITH_A_COLLECTOR = """
export OTEL_SERVICE_NAME=finetune
export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318
python train.py
"""
WITHOUT = """
export OTEL_SERVICE_NAME=laptop OTEL_LOGS_EXPORTER=none OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318
export OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://localhost:9090/api/v1/otlp/v1/metrics
python train.py
"""


def type_in(lines: str, addresses: Mapping[str, str], folder: Path) -> str:
    """Type lines into a shell, next to the README's loop as ``train.py``; return the service's name.

    Args:
        lines: The lines.
        addresses: Where the servers are in the lines -> where they are in the test.
        folder: Where the shell is.
    """
    commands = lines.strip().splitlines()
    assert 3 == len(commands)
    for known, here in addresses.items():
        assert known in lines
        lines = lines.replace(known, here.removeprefix("http://"))
    # The first page has the same lines, and its test looks for what they left behind.
    lines = re.sub(r"(?<=OTEL_SERVICE_NAME=)\S+", r"\g<0>-here", lines)
    (folder / "train.py").write_text(readme_loop())
    environ = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",  # nobody reads it here, and 9464 may be somebody's
    }
    shell = ["sh", "-e", "-c", lines]
    ended = subprocess.run(
        shell, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=GIVE_UP_S
    )
    assert (0, "") == (ended.returncode, ended.stderr)
    (service,) = re.findall(r"OTEL_SERVICE_NAME=(\S+)", lines)
    return str(service)


def check_trace(jaeger: Jaeger, service: str) -> None:
    """Check that the loop's trace is in Jaeger, whole: the training and its epochs."""
    (found,) = jaeger.search(service, operation="train line")
    spans = jaeger.trace(found["traceID"], spans=1 + EPOCHS)
    assert ["train line", *["train_epoch"] * EPOCHS] == sorted(span.name for span in spans)
    (root,) = (span for span in spans if not span.parent_span_id)
    assert {"": 1, root.span_id: EPOCHS} == {
        parent: sum(span.parent_span_id == parent for span in spans) for parent in ("", root.span_id)
    }
    assert {service} == {span.resource["service.name"] for span in spans}


def test_three_lines_bring_a_run_through_a_collector_into_jaeger_and_prometheus(
    collector: StartCollector, jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path
) -> None:
    """No argument, no ``Settings``: the trace is whole, and the steps are all there when the program has ended."""
    port = prometheus.take_ports()
    server = start_minimal(collector, jaeger, port)

    service = type_in(WITH_A_COLLECTOR, {"localhost:4318": server.otlp_http}, tmp_path)

    check_trace(jaeger, service)
    at = f'{{instance="127.0.0.1:{port}"}}'
    prometheus.becomes(MADE, f"crucible_training_steps_total{at}")
    prometheus.becomes(MADE, f"crucible_training_step_duration_seconds_count{at}")


def test_three_lines_bring_a_run_into_jaeger_and_prometheus_without_a_collector(
    jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path
) -> None:
    """Both have an OTLP receiver of their own."""
    addresses = {"localhost:4318": jaeger.otlp_http, "localhost:9090": prometheus.url}
    service = type_in(WITHOUT, addresses, tmp_path)

    check_trace(jaeger, service)
    prometheus.becomes(MADE, f'crucible_training_steps_total{{job="{service}"}}')
    prometheus.becomes(MADE, f'crucible_training_step_duration_seconds_count{{job="{service}"}}')
