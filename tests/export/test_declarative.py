"""``OTEL_CONFIG_FILE``, in processes of their own, because it sets the global providers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from crucible_otel.testing import OtlpReceiver

FILE = """
file_format: "1.1"
resource: {{attributes: [{{name: service.name, value: from-file}}]}}
tracer_provider: {{processors: [{{batch: {{exporter: {{otlp_http: {{endpoint: "{endpoint}/v1/traces"}}}}}}}}]}}
meter_provider: {{readers: [{{periodic: {{exporter: {{otlp_http: {{endpoint: "{endpoint}/v1/metrics"}}}}}}}}]}}
logger_provider: {{processors: [{{batch: {{exporter: {{otlp_http: {{endpoint: "{endpoint}/v1/logs"}}}}}}}}]}}
"""
PROGRAM = """
import crucible_otel as cx
with cx.configure() as telemetry:
    with cx.train("m") as run:
        for batch, step in run.steps([[1]] * 4):
            step.log(loss=1.0)
    print(telemetry.status()["joined"])
"""


def _run(path: Path) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PYTEST"))}
    environ["OTEL_CONFIG_FILE"] = str(path)
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, timeout=60)


def test_the_file_makes_the_providers_and_we_join_them(tmp_path: Path) -> None:
    """Spans, metrics and events go where the file says, under its service name."""
    with OtlpReceiver() as receiver:
        path = tmp_path / "otel.yaml"
        path.write_text(FILE.format(endpoint=receiver.http_endpoint))
        done = _run(path)
        assert (done.returncode, done.stdout.strip()) == (0, "['traces', 'metrics', 'logs']"), done.stderr
        assert [span.name for span in receiver.spans] == ["train m"]
        assert {span.resource["service.name"] for span in receiver.spans} == {"from-file"}
        assert receiver.total("crucible.training.steps") == 4
        assert "crucible.training.stop" in {log.event_name for log in receiver.logs}


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    """The error says which variable, which file and why."""
    path = tmp_path / "otel.yaml"
    path.write_text("file_format: nonsense")
    done = _run(path)
    assert done.returncode != 0
    assert "ConfigurationError: OTEL_CONFIG_FILE=" in done.stderr
