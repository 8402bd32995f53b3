"""The README's program, word for word, with environment variables alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crucible_otel.testing import OtlpReceiver

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
LOOP = re.search(r"<!-- loop -->\n```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def program() -> str:
    """The newcomer's program."""
    assert LOOP is not None
    return LOOP.group(1)


def test_it_takes_fewer_than_five_added_lines_in_fifteen(program: str) -> None:
    """The lines that are ours are marked, and no other one mentions us."""
    lines = [line for line in program.splitlines() if line.strip()]
    added = [line for line in lines if re.search(r"# \+ \d$", line)]
    ours = [line for line in lines if re.search(r"\bcx\b|\bstep\.log\b", line)]
    assert (len(lines) <= 15, len(added), added) == (True, 4, ours)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_it_runs_as_it_stands(program: str, protocol: str, tmp_path: Path) -> None:
    """No argument and no Settings: the environment says where everything goes."""
    script = tmp_path / "loop.py"
    script.write_text(program, encoding="utf-8")
    with OtlpReceiver() as receiver:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        environ |= {
            "OTEL_SERVICE_NAME": "line",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
            "CRUCIBLE_OTEL_HANDLERS": "console",
        }
        done = subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(r"^weight (2\.9|3\.0)", done.stdout, re.MULTILINE)
        assert done.stdout.startswith("[Kitchen] Step 1/? | loss=")
        (root,) = receiver.trace_tree()
        assert [node.span.name for _, node in root.walk()] == ["train line"] + ["train_epoch"] * 3
        assert root.span.resource["service.name"] == "line"
        assert receiver.total("crucible.training.steps") == 150
        assert receiver.total("crucible.training.samples") == 150 * 16
        assert {log.trace_id for log in receiver.logs} == {root.span.trace_id}
