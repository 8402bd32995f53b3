"""The benchmark of sampling runs and says what it found; how fast anything was is not asserted."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gpu

pytestmark = pytest.mark.e2e  # it builds the stub with gcc


def test_it_prints_a_line_for_each_number_of_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    """Ticks, warm and cold, collections and what part of a core they are."""
    gpu.main(["--cycles", "1"])
    head, *rows = capsys.readouterr().out.splitlines()

    assert "of a core, every 5 s" in head
    assert [str(each) for each in gpu.GPUS] == [row.split()[0] for row in rows]
    assert all(row.endswith("%") for row in rows)


def test_a_tick_is_the_mean_of_30_s(tmp_path: Path) -> None:
    """Six fast readings of each GPU, three looks at its processes, one slow reading; all its series are reported."""
    cost = gpu.measure(2, tmp_path, cycles=2)
    asked = gpu.Stub(tmp_path, (tmp_path / "scenario.nvml").read_text(), reload_ms=3_600_000)
    begun = 1 + 2 + 1 + 2 * 2  # what is tried once, the cycles and a cold one; a minute before each collection

    assert begun * 6 == asked.count("nvmlDeviceGetUtilizationRates", gpu=0)
    assert begun * 3 == asked.count("nvmlDeviceGetComputeRunningProcesses_v3", gpu=0)
    assert begun == asked.count("nvmlDeviceGetCurrPcieLinkWidth", gpu=0)
    assert (2, True) == (cost.gpus, cost.series > 100)
    assert 0 < cost.of_a_core < 1
    assert 0 < cost.of_a_core_cold < 1


def test_a_sampler_is_measured_while_it_runs(tmp_path: Path) -> None:
    """By the processor time of its thread."""
    ticks, part = gpu.awake(1, tmp_path, duration_s=0.5, interval_s=0.1)

    assert ticks > 0
    assert 0 < part < 1
