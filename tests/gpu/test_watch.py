"""One tick: what is read of every device, and what is remembered."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from crucible_otel.gpu.backend import FastReading, SlowReading
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.snapshot import DeviceState
from crucible_otel.testing.nvml import FakeGpu, FakeNvml
from tests.gpu.fakes import watching


class NotOurs(Ownership):
    """Another process reports the devices, until ``ours``."""

    ours = False

    def __init__(self) -> None:
        super().__init__(None)

    def owns(self, uuid: str) -> bool:
        """Return what the test says."""
        return self.ours


def energies(states: tuple[DeviceState, ...]) -> list[float | None]:
    """Return the energy of every device."""
    return [state.energy_j for state in states]


def readings_kept() -> int:
    """Return how many readings there are."""
    gc.collect()
    return sum(isinstance(each, FastReading) for each in gc.get_objects())


def test_counters_begin_with_the_first_reading_and_survive_a_driver_reset() -> None:
    """What was counted before is nobody's here; a counter that starts anew adds to what there was."""
    gpu = FakeGpu(energy_j=1000.0, fast=FastReading(pcie_bytes={"transmit": 10}))
    watch = watching(FakeNvml([gpu]))
    found = []
    for now_s, (energy_j, pcie) in enumerate(((1000.0, 10), (1350.0, 15), (20.0, 3), (30.0, 4))):
        gpu.energy_j, gpu.fast = energy_j, FastReading(pcie_bytes={"transmit": pcie})
        (state,) = watch.tick(float(now_s), 0).devices
        found.append((state.totals["energy_j"][""], state.totals["pcie_bytes"]["transmit"]))

    assert [(0, 0), (350, 5), (370, 8), (380, 9)] == found


def test_counters_of_the_slow_reading_grow_with_it() -> None:
    """Throttle time, ECC errors and replays; an XID in between is counted with them."""
    gpu = FakeGpu()
    nvml = FakeNvml([gpu])
    watch, found = watching(nvml, slow_every_s=30.0), []
    for now_s, amount in ((0.0, 100.0), (29.0, 103.0), (30.0, 104.0), (60.0, 1.0)):
        gpu.slow = SlowReading(throttle_time_s={"power_cap": amount}, errors={"corrected": amount})
        if now_s == 29.0:
            nvml.report_fault(gpu, 31)
        (state,) = watch.tick(now_s, 0).devices
        found.append((state.totals["throttle_time_s"]["power_cap"], dict(state.totals["errors"])))

    assert [
        (0, {"corrected": 0}),
        (0, {"corrected": 0, "xid": 1}),
        (4, {"corrected": 4, "xid": 1}),
        (5, {"corrected": 5, "xid": 1}),
    ] == found


def test_a_snapshot_stays_as_it_was() -> None:
    """The next tick changes nothing in it."""
    gpu = FakeGpu(energy_j=0.0, fast=FastReading(pcie_bytes={"transmit": 1}))
    watch = watching(FakeNvml([gpu]))
    (before,) = watch.tick(0.0, 0).devices
    gpu.energy_j, gpu.fast = 5.0, FastReading(pcie_bytes={"transmit": 4})
    (after,) = watch.tick(1.0, 0).devices

    assert [(0, 0), (5, 3)] == [
        (state.totals["energy_j"][""], state.totals["pcie_bytes"]["transmit"]) for state in (before, after)
    ]


def test_counters_nobody_looked_at_are_added_up_when_somebody_does() -> None:
    """Also what was counted before a driver began anew; an earlier snapshot that is looked at later is what it was."""
    gpu = FakeGpu()
    watch, seen = watching(FakeNvml([gpu])), []
    for now_s, pcie in enumerate((10, 15, 3, 4, 9)):
        gpu.fast = FastReading(pcie_bytes={"transmit": pcie})
        seen.append(watch.tick(float(now_s), 0).devices[0])

    assert 14 == seen[-1].totals["pcie_bytes"]["transmit"]
    assert [0, 5, 8, 9, 14] == [state.totals["pcie_bytes"]["transmit"] for state in seen]
    assert (["pcie_bytes"], 1, False) == (list(seen[0].totals), len(seen[0].totals), "errors" in seen[0].totals)


def test_readings_are_not_kept_for_ever() -> None:
    """When nobody ever looks at the counters, they are added up now and then, and the readings let go."""
    gpu = FakeGpu()
    before = readings_kept()
    watch = watching(FakeNvml([gpu]))
    for now_s in range(1000):
        gpu.fast = FastReading(pcie_bytes={"transmit": now_s})
        (state,) = watch.tick(float(now_s), 0).devices

    assert readings_kept() - before < 100
    assert 999 == state.totals["pcie_bytes"]["transmit"]


def test_energy_without_a_counter_is_integrated_power() -> None:
    """By trapezoids, and marked so."""
    gpu = FakeGpu(power_w=100.0)
    watch = watching(FakeNvml([gpu]))
    watch.tick(0.0, 0)
    gpu.power_w = 300.0
    (state,) = watch.tick(2.0, 0).devices

    assert (400.0, True) == (state.energy_j, state.energy_estimated)
    assert "energy_j" not in state.totals


def test_a_lost_device_is_told_once_and_asked_no_more() -> None:
    """The others go on."""
    lost, other = FakeGpu(), FakeGpu()
    nvml, told = FakeNvml([lost, other]), list[tuple[Any, ...]]()
    watch = watching(nvml, told)
    watch.tick(0.0, 0)
    lost.lost = True
    watch.tick(1.0, 0)
    asked = nvml.calls["read_fast"]
    last = watch.tick(2.0, 0)

    assert [("lost", lost.uuid, f"{lost.uuid} is lost")] == told
    assert [True, False] == [state.lost for state in last.devices]
    assert 1 == nvml.calls["read_fast"] - asked


def test_an_xid_is_told_and_counted() -> None:
    """Each one; after number 79 the GPU counts as failed."""
    gpu = FakeGpu()
    nvml, told = FakeNvml([gpu]), list[tuple[Any, ...]]()
    watch = watching(nvml, told)
    for code in (13, 79):
        nvml.report_fault(gpu, code)
    (state,) = watch.tick(0.0, 0).devices

    assert [("xid", gpu.uuid, 13), ("xid", gpu.uuid, 79)] == told
    assert (2, True) == (state.totals["errors"]["xid"], state.failed)


def test_slow_readings_are_rare_and_kept() -> None:
    """Between them the last one counts."""
    gpu = FakeGpu(slow=SlowReading(fan_ratio=(0.5,)))
    nvml = FakeNvml([gpu])
    watch = watching(nvml, slow_every_s=30.0)
    found = [watch.tick(float(now_s), 0).devices[0].slow.fan_ratio for now_s in range(0, 60, 10)]

    assert [(0.5,)] * 6 == found
    assert 2 == nvml.calls["read_slow"]


def test_processes_are_looked_at_now_and_then() -> None:
    """A driver takes longest for them; between two looks the last figure counts."""
    nvml = FakeNvml([FakeGpu(process_memory_bytes=7)])
    watch = watching(nvml)
    found = [watch.tick(float(now_s), 0).devices[0].process.memory_bytes for now_s in range(0, 20, 2)]

    assert ([7] * 10, 2) == (found, nvml.calls["read_process"])


def test_what_another_process_reports_is_read_only_for_details() -> None:
    """The process's own share always; faults of such a device are not told. Taken over, it is read at once."""
    gpu = FakeGpu(process_memory_bytes=7, energy_j=50.0)
    nvml, told, owner = FakeNvml([gpu]), list[tuple[Any, ...]](), NotOurs()
    watch = watching(nvml, told, ownership=owner)
    nvml.report_fault(gpu, 13)
    (state,) = watch.tick(0.0, 0, detailed=False).devices

    assert (False, 7, None) == (state.owned, state.process.memory_bytes, state.fast.memory_used_bytes)
    assert ([], 0) == (told, nvml.calls["read_fast"])
    assert 0 == watch.tick(1.0, 0, detailed=True).devices[0].fast.memory_used_bytes
    owner.ours = True
    (state,) = watch.tick(2.0, 0, detailed=False).devices
    assert (True, 0) == (state.owned, state.fast.memory_used_bytes)


def test_one_process_at_a_time_owns_a_device(tmp_path: Path) -> None:
    """The lock decides on every tick."""
    watch = watching(FakeNvml([FakeGpu()]), ownership=Ownership(tmp_path))

    assert [True] == [state.owned for state in watch.tick(0.0, 0).devices]
    assert [f"GPU-00000000-0000-0000-0000-{0:012}.lock"] == [each.name for each in tmp_path.glob("*.lock")]
