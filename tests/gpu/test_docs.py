"""The page about GPUs says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import crucible_otel as cx
from crucible_otel.semconv.gpu import METRICS
from crucible_otel.semconv.registry import SEED_METRICS
from crucible_otel.testing.nvml import FakeGpu, FakeNvml
from tests.gpu.fakes import found

PAGE = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")


def test_every_metric_is_described() -> None:
    """In the first column of the table, by its name or, after one of the same family, by the end of it."""
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named: set[str] = set()
    for row in rows:
        first, *rest = re.findall(r"`([^`]+)`", row)
        named |= {first} | {f"{first[: len(first) - cut]}{end}" for end in rest for cut in range(len(first))}

    assert [] == [metric.name for metric in METRICS if metric.name not in named]


def test_every_metric_of_the_documents_is_described() -> None:
    """In the section about them, by its name or by the end of it."""
    section = PAGE.partition("## The documents' metrics")[2].partition("\n## ")[0]
    words = re.findall(r"`([^`]+)`", section)
    spelled = {word for word in words if word.startswith("snakepit.")}
    whole = spelled | {f"{name.rpartition('.')[0]}{end}" for name in spelled for end in words if end.startswith(".")}

    assert [] == [name for name in SEED_METRICS if name not in whole]


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands there."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    gpu = FakeGpu(energy_j=100.0, utilization_ratio=0.75, memory_used_bytes=1024**3)

    def train_one_epoch() -> None:
        gpu.energy_j = 150.0

    with found(FakeNvml([gpu])):
        exec(code, {"cx": cx, "train_one_epoch": train_one_epoch})

    assert "50.0 75.0 1024 50.0\n" == capsys.readouterr().out
