"""The check of a machine's GPUs, over the NVML library without a GPU and a script that is called nvidia-smi."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import gpu_check, gpu_smi
from crucible_otel.gpu.instruments import observations
from crucible_otel.gpu.nvml import NvmlBackend
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.watch import Watch
from crucible_otel.semconv import gpu
from tests.gpu.stub import Stub
from tests.gpu.stub.dump import scenario

pytestmark = pytest.mark.e2e  # it builds the stub with gcc
ROOT = Path(__file__).resolve().parents[2]
FIRST = "GPU-8c3f52aa-0d4b-7e21-b6a0-000000000000"

SAID = {
    "utilization.gpu": "90", "utilization.encoder": "0", "utilization.decoder": "0", "utilization.memory": "47",
    "memory.used": "65536", "memory.total": "81559", "power.draw": "648.00", "enforced.power.limit": "700.00",
    "temperature.gpu": "60", "temperature.memory": "71", "fan.speed": "[N/A]", "clocks.sm": "1755",
    "clocks.mem": "2619", "clocks.gr": "1755", "clocks.video": "1545", "clocks.max.sm": "1980",
    "clocks.max.mem": "2619", "clocks.max.gr": "1980", "pcie.link.width.current": "16",
    "clocks_event_reasons.sw_power_cap": "Active", "clocks_event_reasons.hw_slowdown": "Not Active",
    "clocks_event_reasons.hw_thermal_slowdown": "Not Active",
    "clocks_event_reasons.hw_power_brake_slowdown": "Not Active",
    "clocks_event_reasons.sw_thermal_slowdown": "Not Active", "clocks_event_reasons.sync_boost": "Not Active",
}  # fmt: skip
"""What nvidia-smi says of the first GPU of the scenario; it is too old for the PCIe generation."""

SMI = """#!{python}
import sys
said = {said!r}
(uuid,) = [each.partition("=")[2] for each in sys.argv if each.startswith("--id=")]
(fields,) = [each.partition("=")[2].split(",") for each in sys.argv if each.startswith("--query-gpu=")]
unknown = [each for each in fields if each not in said]
if unknown or uuid != {uuid!r}:
    sys.exit(f'Field "{{unknown}}" is not a valid field to query.')
print(", ".join(said[each] for each in fields))
"""

QUIET = (
    "gpus = 1",
    "gpu 0 power_average_mw = 100000",
    "gpu 0 utilization_gpu_percent = 0",
    "gpu 0 energy_mj = ramp(1000000, 100000)",
    *(f"gpu 0 gpm.{metric} = 0" for metric in (2, 3, 4, 5, 10, 11, 12, 13)),
)
QUIET_SAID = {**SAID, "power.draw": "100.00", "utilization.gpu": "0"}

WORK = """
import os, sys, time
path = {path!r}
text = open(path).read()
lines = [
    "gpu 0 power_average_mw = 600000", "gpu 0 utilization_gpu_percent = 99",
    "gpu 0 energy_mj = ramp(1000000000, 600000)", "gpu 0 memory_used_bytes = 75000000000",
    *(f"gpu 0 gpm.{{metric}} = 60" for metric in (2, 3, 5, 10)),
]
open(path + ".work", "w").write("\\n".join([text, *lines, ""]))
os.replace(path + ".work", path)
time.sleep(600)
"""
"""A load that moves the figures of the scenario; energy as 600 W have it."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How a check ended."""

    code: int
    page: str
    errors: str
    dump: Path


def checked(
    folder: Path, stub: Stub | None, said: Mapping[str, str] | None = None, load: str = "", **environ: str
) -> Checked:
    """Run the check in a process of its own."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    if said is not None:
        smi = programs / "nvidia-smi"
        smi.write_text(SMI.format(python=sys.executable, said=dict(said), uuid=FIRST))
        smi.chmod(0o755)
    found = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **environ}
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--seconds", "2", "--dump", str(folder / "dump.json")]
    command += ["--load", f"{sys.executable} {load}"] if load else []
    environment = {**found, **(stub.environ if stub is not None else {}), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return Checked(code=ended.returncode, page=ended.stdout, errors=ended.stderr, dump=folder / "dump.json")


def quiet(folder: Path, *lines: str) -> Stub:
    """Return one H100 that does nothing."""
    stub = Stub(folder / "nvml", "h100x8")
    stub.add(*QUIET, *lines)
    return stub


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """Return a check in which all is as it should be."""
    folder = tmp_path_factory.mktemp("check")
    stub = quiet(folder)
    work = folder / "work.py"
    work.write_text(WORK.format(path=str(stub.scenario_path)))
    return checked(folder, stub, QUIET_SAID, str(work))


def test_all_is_as_it_should_be(whole: Checked) -> None:
    """The figures agree, move as they should, and it says so with its exit status."""
    assert (0, "") == (whole.code, whole.errors), whole.page
    assert whole.page.endswith("## Result\n\nAll is as it should be.\n")
    assert "**" not in whole.page


def test_every_figure_stands_next_to_nvidia_smis(whole: Checked) -> None:
    """In our units; one that nvidia-smi does not know has none."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in whole.page.splitlines() if "| `" in line]
    beside = {(row[0].strip("`"), row[1]): (row[2], row[3], row[4]) for row in rows}

    assert ("100", "100 (`power.draw`)", "agrees") == beside[gpu.POWER.name, ""]
    assert ("68719476736", "68719476736 (`memory.used`)", "agrees") == beside[gpu.MEMORY_USAGE.name, ""]
    assert ("1", "1 (`clocks_event_reasons.sw_power_cap`)", "agrees") == beside[gpu.THROTTLE_ACTIVE.name, gpu.POWER_CAP]
    assert ("5", "-", "") == beside[gpu.PCIE_GENERATION.name, ""]
    absent = {gpu.FAN_SPEED.name, gpu.PROCESS_MEMORY.name, gpu.TORCH_ALLOCATED.name, gpu.TORCH_RESERVED.name}
    assert {metric.name for metric in gpu.METRICS} - absent <= {name for name, _ in beside}


def test_what_is_absent_is_explained(whole: Checked) -> None:
    """By the driver's own word, or by what this process does not do."""
    lines = re.findall(r"^- `([^`]+)`: (.+)$", whole.page, re.MULTILINE)

    assert (gpu.FAN_SPEED.name, "not supported") in lines
    assert (gpu.TORCH_ALLOCATED.name, "PyTorch does not use a GPU in this process") in lines
    assert re.search(r"^GPM works as user \d+\.$", whole.page, re.MULTILINE)


def test_the_load_moves_the_figures(whole: Checked) -> None:
    """Each line says idle, loaded, and whether it is as it should be."""
    moved = dict(re.findall(r"^\| GPU 0 \| ([^|]+?) \|.*\| ([^|]+?) \|$", whole.page, re.MULTILINE))

    assert {"as it should"} == set(moved.values())
    assert {"utilization", "power, W", "memory used, bytes", "SM active", "busiest pipe"} <= set(moved)
    assert any(figure.startswith("energy a second") for figure in moved)


def test_the_cost_with_this_driver_is_measured(whole: Checked) -> None:
    """Of a fast tick, and of one with everything."""
    assert 2 == len(re.findall(r"^\| (?:fast|with processes).*% \|$", whole.page, re.MULTILINE))


def test_the_dump_is_replayed(whole: Checked, tmp_path: Path) -> None:
    """The stub answers what the driver answered: the same metrics, and what stands still with the same values."""
    stub = Stub(tmp_path, scenario(json.loads(whole.dump.read_text())))
    with stub.loaded():
        backend = NvmlBackend()
        backend.open()
        watch = Watch(backend, Ownership(None), on_lost=print, on_fault=print, environ={})
        watch.tick(0.0, 0)
        snapshot = watch.tick(10.0, 0)
        backend.close()
    (state,) = snapshot.devices
    page = {line.split("`")[1] for line in whole.page.splitlines() if line.startswith("| `")}

    assert (FIRST, "NVIDIA H100 80GB HBM3") == (state.device.uuid, state.device.model)
    assert (600.0, 0.99, 0.6) == (state.fast.power_w, state.fast.utilization_ratio, state.fast.sm_active_ratio)
    page.discard(gpu.PROCESS_MEMORY.name)  # that process is gone
    assert page <= {name for name, points in observations(snapshot).items() if points}
    assert {} == stub.misuse()


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    """No library, no driver, no device: a line on standard error, and an exit status that is not 0."""
    no_driver = Stub(tmp_path / "a", "gpus = 1\nerror nvmlInitWithFlags DRIVER_NOT_LOADED\n")
    found = [checked(tmp_path, stub) for stub in (None, no_driver, Stub(tmp_path / "b", "gpus = 0\n"))]

    assert [(2, "")] * 3 == [(each.code, each.page) for each in found]
    assert [
        "no NVIDIA GPU to check: libnvidia-ml.so.1 was not found\n",
        "no NVIDIA GPU to check: NVML: Driver Not Loaded\n",
        "no NVIDIA GPU to check: the driver knows of none\n",
    ] == [each.errors for each in found]
    assert not found[0].dump.exists()


def test_what_differs_and_what_does_not_move_is_wrong(tmp_path: Path) -> None:
    """A figure that is not nvidia-smi's, one that we lack, and a load that is none."""
    idle = tmp_path / "idle.py"
    idle.write_text("import time; time.sleep(600)")
    said = {**QUIET_SAID, "temperature.gpu": "45", "fan.speed": "30"}
    found = checked(tmp_path, quiet(tmp_path), said, str(idle))
    wrong = found.page.partition("## Result\n\n")[2].splitlines()

    assert 1 == found.code
    assert "- hw.temperature (die): 60, nvidia-smi says 45 (`temperature.gpu`)" in wrong
    assert "- hw.fan.speed_ratio {'hw.sensor_location': 'fan0'}: absent, nvidia-smi has fan.speed" in wrong
    assert "- utilization of GPU 0: 0.0 idle, 0.0 under load" in wrong
    assert any(each.startswith("- memory used") for each in wrong)


def test_gpm_that_needs_privileges_is_said(tmp_path: Path) -> None:
    """And PyTorch that is not there, and nvidia-smi that is not."""
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    found = checked(tmp_path, quiet(tmp_path, "error nvmlGpmSampleGet NO_PERMISSION"))

    assert 0 == found.code, found.page
    assert "GPM needs privileges: it is refused as user" in found.page
    assert "`crucible.gpu.sm.active`: no permission" in found.page
    assert "agrees" not in found.page
    assert "Whether the figures move was not checked." in found.page


def test_every_metric_has_a_source_or_a_reason() -> None:
    """What is absent can be explained; the status and the identity always are there."""
    known = {*gpu_check.SOURCES, *gpu_check.OTHERWISE, gpu.STATUS.name, gpu.INFO.name}

    assert {metric.name for metric in gpu.METRICS} == known
    assert {each.metric for each in gpu_smi.FIGURES} <= {metric.name for metric in gpu.METRICS}
