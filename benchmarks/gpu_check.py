"""Whether GPU telemetry is true on this machine: needs an NVIDIA GPU, and PyTorch for the load.

    python -m benchmarks.gpu_check [--seconds 20] [--load "COMMAND"] [--dump gpu_check.json]

It prints, as a page in Markdown, every series next to ``nvidia-smi``'s figure; whether utilization, power, energy,
memory and activity (GPM) move as they should under matrix products; what the sampler costs with this driver; whether
GPM needs privileges; what is absent, and why. It writes down what the driver answered: ``tests/gpu/scenarios`` can
have that, and the stub of the tests then answers the same. Serial numbers and UUIDs are in it.

Exit status: 0 when all is as it should be, 1 when something is not, 2 when there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.gpu_load import Command, Load, Products, available
from benchmarks.gpu_movement import movements
from benchmarks.gpu_smi import FIGURES, Figure, asked
from crucible_otel.gpu.backend import BackendUnavailableError
from crucible_otel.gpu.instruments import observations
from crucible_otel.gpu.nvml import NvmlBackend
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.snapshot import DeviceState, GpuSnapshot
from crucible_otel.gpu.watch import Watch
from crucible_otel.semconv import gpu

TRIES: Final = 3
"""How often a figure that differs is read again: the two are read one after the other."""
EVERY_S: Final = 0.5
NO_PERMISSION: Final = 4
REASONS: Final[Mapping[int, str]] = {
    2: "the driver does not know it",
    3: "not supported",
    NO_PERMISSION: "no permission",
    13: "the driver or pynvml is older than it",
    25: "another version",
    26: "withdrawn",
}
SOURCES: Final[Mapping[str, tuple[object, ...]]] = {
    gpu.UTILIZATION.name: ("nvmlDeviceGetUtilizationRates",),
    gpu.MEMORY_CONTROLLER.name: ("nvmlDeviceGetUtilizationRates",),
    gpu.MEMORY_USAGE.name: ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"),
    gpu.MEMORY_LIMIT.name: ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"),
    gpu.MEMORY_UTILIZATION.name: ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"),
    gpu.IO.name: (197, 198),
    gpu.POWER.name: (185, 186, "nvmlDeviceGetPowerUsage"),
    gpu.ENERGY.name: (83, "nvmlDeviceGetTotalEnergyConsumption"),
    gpu.TEMPERATURE.name: ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature", 82),
    gpu.TEMPERATURE_LIMIT.name: tuple(("nvmlDeviceGetTemperatureThreshold", kind) for kind in range(4)),
    gpu.FAN_SPEED.name: ("nvmlDeviceGetNumFans", *(("nvmlDeviceGetFanSpeed_v2", fan) for fan in range(8))),
    gpu.ERRORS.name: (3, 4, 94),
    gpu.CLOCK_SPEED.name: tuple(("nvmlDeviceGetClockInfo", kind) for kind in range(4)),
    gpu.CLOCK_LIMIT.name: tuple(("nvmlDeviceGetMaxClockInfo", kind) for kind in range(4)),
    gpu.POWER_LIMIT.name: (190, "nvmlDeviceGetEnforcedPowerLimit"),
    gpu.THROTTLE_ACTIVE.name: (
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    ),
    gpu.THROTTLE_TIME.name: (*range(74, 80), *range(269, 272)),
    gpu.NVLINK_IO.name: (138, 139),
    **{metric.name: (("gpm", None),) for metric in (gpu.SM_ACTIVE, gpu.SM_OCCUPANCY, gpu.DRAM_ACTIVE, gpu.PIPE_ACTIVE)},
    gpu.REMAPPED_ROWS.name: (142, 143),
    gpu.REMAP_PENDING.name: (144,),
    gpu.PCIE_GENERATION.name: ("nvmlDeviceGetCurrPcieLinkGeneration",),
    gpu.PCIE_WIDTH.name: ("nvmlDeviceGetCurrPcieLinkWidth",),
    gpu.PROCESS_MEMORY.name: (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetComputeRunningProcesses_v2",
    ),
}
"""Metric -> the calls and ids of fields that it comes from."""
OTHERWISE: Final[Mapping[str, str]] = {
    gpu.PROCESS_MEMORY.name: "the driver does not list this process: it uses no GPU, or is in a container",
    gpu.TORCH_ALLOCATED.name: "PyTorch does not use a GPU in this process",
    gpu.TORCH_RESERVED.name: "PyTorch does not use a GPU in this process",
    gpu.ERRORS.name: "no counter answered, and there was no XID",
}
"""Metric -> why it is absent where the driver refused nothing."""


def series(snapshot: GpuSnapshot, uuid: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return (metric, what its attributes say beyond the identity) -> value, of one device."""
    return {
        (name, tuple(sorted((k, str(v)) for k, v in (each.attributes or {}).items() if k not in gpu.IDENTITY))): float(
            each.value
        )
        for name, found in observations(snapshot).items()
        for each in found
        if (each.attributes or {}).get(gpu.ID) == uuid
    }


def compared(watch: Watch, state: DeviceState) -> tuple[list[str], list[str]]:
    """Return the rows of the table of a device, and what differs from nvidia-smi."""
    known = {
        (each.metric, *sorted(each.attributes.items())): each for each in FIGURES if state.device.parent_uuid is None
    }
    rows: list[str] = []
    differing: list[str] = []
    for _ in range(TRIES):
        theirs = asked(state.device.uuid) if known else {}
        mine = series(watch.tick(time.monotonic(), time.time_ns()), state.device.uuid)
        rows, differing, shown = [], [], set[str]()
        for (name, attributes), value in mine.items():
            telling = [(key, text) for key, text in attributes if key != gpu.TYPE]
            figure = known.get((name, *telling))
            labels = ", ".join(text for _, text in telling)
            said, verdict = _beside(figure, theirs, value)
            if figure is not None:
                shown.add(figure.query)
            if verdict == "**differs**":
                differing.append(f"{name} ({labels}): {value:g}, nvidia-smi says {said}")
            rows.append(f"| `{name}` | {labels} | {value:.12g} | {said} | {verdict} |")
        for figure in known.values():
            if theirs.get(figure.query) is not None and figure.query not in shown:
                differing.append(f"{figure.metric} {dict(figure.attributes)}: absent, nvidia-smi has {figure.query}")
        if not differing:
            break
        time.sleep(EVERY_S)
    return rows, differing


def _beside(figure: Figure | None, theirs: Mapping[str, float | None], value: float) -> tuple[str, str]:
    said = theirs.get(figure.query) if figure is not None else None
    if figure is None or said is None:
        return "-", ""
    scaled = said * figure.scale
    return f"{scaled:.12g} (`{figure.query}`)", "agrees" if figure.agrees(value, scaled) else "**differs**"


def absent(backend: NvmlBackend, snapshot: GpuSnapshot, state: DeviceState) -> list[str]:
    """Return a line for each metric that a device does not have, with the reason."""
    there = {name for name, _ in series(snapshot, state.device.uuid)}
    refused = backend.refused(state.device)
    lines = []
    for metric in gpu.METRICS:
        if metric.name in there:
            continue
        why = sorted({REASONS.get(refused[key], f"NVML error {refused[key]}") for key in _keys(metric.name, refused)})
        reason = ", ".join(why) or OTHERWISE.get(metric.name, "it was not told, and not refused")
        if state.device.parent_uuid is not None:
            reason = "NVML has it of the whole GPU only"
        elif state.device.divided and not why:
            reason = "the GPU is divided (MIG)"
        lines.append(f"- `{metric.name}`: {reason}")
    return lines


def _keys(name: str, refused: Mapping[object, int]) -> list[object]:
    return [key for key in SOURCES.get(name, ()) if key in refused]


def sampled(watch: Watch, duration_s: float) -> list[GpuSnapshot]:
    """Return samples of a while."""
    found, end_s = list[GpuSnapshot](), time.monotonic() + duration_s
    while time.monotonic() < end_s or len(found) < 3:
        found.append(watch.tick(time.monotonic(), time.time_ns()))
        time.sleep(EVERY_S)
    return found


def cost(backend: NvmlBackend, gpus: int) -> list[str]:
    """Return what a tick costs with this driver."""
    rows = []
    for name, every_s, step_s in (("fast", 1e9, 0.01), ("with processes and the slow reading", 0.0, 10.0)):
        watch = Watch(
            backend, Ownership(None), on_lost=_ignore, on_fault=_ignore, wanted=("all",), slow_every_s=every_s
        )
        now_s, wall, cpu = time.monotonic(), list[float](), list[float]()
        for _ in range(13):
            now_s += step_s
            begun_s, used_s = time.perf_counter(), time.thread_time()
            watch.tick(now_s, 0)
            cpu.append(time.thread_time() - used_s)
            wall.append(time.perf_counter() - begun_s)
        cpu_ms, wall_ms = (sorted(each)[len(each) // 2] * 1e3 for each in (cpu, wall))
        rows.append(f"| {name} | {cpu_ms:.3f} | {wall_ms:.3f} | {cpu_ms / max(gpus, 1):.3f} | {cpu_ms / 5e3:.4%} |")
    return rows


def _ignore(*args: object) -> None:
    """Losses and XIDs are no matter of the cost."""


def privileges(backend: NvmlBackend, state: DeviceState) -> str:
    """Return whether GPM works for this user."""
    code = backend.refused(state.device).get(("gpm", None))
    user = f"as user {os.getuid()}" if hasattr(os, "getuid") else "for this user"
    if code is None:
        return f"works {user}"
    if code == NO_PERMISSION:
        return f"needs privileges: it is refused {user} (root, or the driver's NVreg_RestrictProfilingToAdminUsers=0)"
    return f"is not there: {REASONS.get(code, f'NVML error {code}')}"


def check(backend: NvmlBackend, load: Load | None, seconds: float, dump_to: Path) -> list[str]:
    """Print the page and return what is not as it should be."""
    from tests.gpu.stub.dump import record

    watch = Watch(backend, Ownership(None), on_lost=_ignore, on_fault=_ignore, wanted=("all",), slow_every_s=5.0)
    idle = sampled(watch, min(seconds, 5.0))
    wrong: list[str] = []
    for state in idle[-1].devices:
        device = state.device
        print(f"\n## {device.model} ({device.uuid}), driver {device.driver_version}\n")
        print("| Metric | Series | Ours | nvidia-smi | |\n|---|---|---|---|---|")
        rows, differing = compared(watch, state)
        print("\n".join(rows))
        wrong += differing
        print("\nAbsent:\n")
        print("\n".join(absent(backend, idle[-1], state)) or "- nothing")
        print(f"\nGPM {privileges(backend, state)}.")
    if load is None:
        print(f"\nNo load: {available()} Whether the figures move was not checked.")
        written = record(rounds=3, pause_s=1.0)
    else:
        with load:
            sampled(watch, min(seconds / 4, 3.0))  # until it runs, and the driver's averages have forgotten what was
            busy = sampled(watch, seconds)
            written = record(rounds=3, pause_s=1.0)
            moved = movements(idle, busy, load.allocated_bytes)
        print(f"\n## Under load: {load.name}\n")
        print("| GPU | | Idle | Loaded | |\n|---|---|---|---|---|")
        print("\n".join(each.row for each in moved))
        wrong += [each.text for each in moved if each.failed]
    print(
        "\n## Cost of a tick\n\n| Tick | ms of CPU | ms | ms of CPU a GPU | of a core, every 5 s |\n"
        "|---|---|---|---|---|"
    )
    gpus = sum(state.device.parent_uuid is None for state in idle[-1].devices)
    print("\n".join(cost(backend, gpus)))
    dump_to.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"\nWhat the driver answered is in {dump_to} ({len(written['calls'])} calls).")
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Check this machine."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the load runs")
    parser.add_argument("--load", metavar="COMMAND", help="a command that loads the GPUs, in place of PyTorch")
    parser.add_argument("--dump", type=Path, default=Path("gpu_check.json"), help="where to write the answers")
    options = parser.parse_args(argv)
    backend = NvmlBackend()
    try:
        backend.open()
    except BackendUnavailableError as error:
        print(f"no NVIDIA GPU to check: {error}", file=sys.stderr)
        return 2
    try:
        if not backend.devices():
            print("no NVIDIA GPU to check: the driver knows of none", file=sys.stderr)
            return 2
        load: Load | None = Command(options.load) if options.load else Products() if not available() else None
        wrong = check(backend, load, options.seconds, options.dump)
    finally:
        backend.close()
    print("\n## Result\n")
    print("\n".join(f"- {each}" for each in wrong) or "All is as it should be.")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
