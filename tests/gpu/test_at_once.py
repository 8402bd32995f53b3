"""All devices read at once say what each says that is read by itself; over the NVML library without a GPU."""

from __future__ import annotations

import gc
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from crucible_otel.gpu.backend import Device
from crucible_otel.gpu.instruments import observations
from crucible_otel.gpu.nvml import NvmlBackend
from crucible_otel.gpu.nvml_at_once import NvmlAtOnce
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.rounds import Round, RoundSnapshot
from crucible_otel.gpu.snapshot import GpuSnapshot
from crucible_otel.gpu.telling import sampled_fields
from crucible_otel.gpu.watch import Watch
from tests.gpu.stub import SCENARIOS as FOLDER
from tests.gpu.stub import Stub
from tests.gpu.test_watch import readings_kept
from tests.integration.programs import Program

pytestmark = pytest.mark.e2e

TICK_S = 5.0
H100 = "GPU-8c3f52aa-0d4b-7e21-b6a0-{:012}"
Script = Mapping[int, Sequence[str]]
"""Tick -> what is added to the scenario before it."""


class Alone(NvmlBackend):
    """Reads each device by itself."""

    def at_once(self, devices: Sequence[Device]) -> NvmlAtOnce | None:
        """Return nothing."""
        return None


class Run:
    """A watch over a scenario, whose clock goes on by 5 s with each tick.

    Attributes:
        told: Losses and XIDs.
        snapshots: One of each tick.
        stub: What was asked.
    """

    def __init__(
        self, folder: Path, scenario: str, backend: NvmlBackend, ticks: int, script: Script, ownership: Ownership
    ) -> None:
        self.stub = Stub(folder, scenario)
        self.told: list[tuple[str, str, object]] = []
        self.snapshots: list[GpuSnapshot] = []
        with self.stub.loaded():
            backend.open()
            watch = Watch(
                backend,
                ownership,
                on_lost=lambda state, reason: self.told.append(("lost", state.device.uuid, reason)),
                on_fault=lambda state, code: self.told.append(("xid", state.device.uuid, code)),
                environ={},
                wanted=("all",),
            )
            for number in range(ticks):
                self.stub.add(f"system now = {TICK_S * number}", *script.get(number, ()))
                self.snapshots.append(watch.tick(TICK_S * number, number, detailed=False))
            backend.close()
        assert {} == self.stub.misuse()

    @property
    def at_once(self) -> str:
        """Which ticks read all devices at once."""
        return "".join("1" if isinstance(each, RoundSnapshot) else "." for each in self.snapshots)


def ran(
    folder: Path,
    scenario: str,
    backend: NvmlBackend,
    script: Script | None = None,
    *,
    ticks: int = 20,
    ownership: Ownership | None = None,
) -> Run:
    """Let a watch tick."""
    return Run(folder, scenario, backend, ticks, script or {}, ownership or Ownership(None))


def said(snapshot: GpuSnapshot) -> object:
    """Return all that a snapshot says."""
    points = {
        name: [(point.value, dict(point.attributes or {})) for point in points]
        for name, points in observations(snapshot).items()
    }
    points["hw.energy"] = [(round(value, 6), more) for value, more in points.get("hw.energy", [])]
    points["crucible.gpu.throttle.time"] = [
        (round(value, 6), more) for value, more in points.get("crucible.gpu.throttle.time", [])
    ]
    fields = [
        (
            state.name,
            {name: round(value, 6) for name, value in sampled_fields(state).items()},
            state.energy_estimated,
        )
        for state in snapshot.devices
    ]
    return points, fields, snapshot.held, snapshot.taken_s, snapshot.taken_ns


CHANGES: Script = {
    number: (
        f"gpu * temperature_c = {40 + number}",
        f"gpu * clock_sm_mhz = {1000 + number}",
        f"gpu * clock_graphics_mhz = {900 + number}",
        f"gpu * memory_used_bytes = {number}000000",
        f"gpu * power_average_mw = {100_000 + number * 1000}",
        f"gpu * encoder_percent = {number}",
        f"gpu * gpm.2 = {number}.5",
    )
    for number in range(20)
}
OLDER = (
    "gpus = 2",
    "system without = nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetTemperatureV, nvmlDeviceGetCurrentClocksEventReasons, "
    "nvmlDeviceGetComputeRunningProcesses_v3",
    *(f"gpu * field.{each} = !NOT_SUPPORTED" for each in (83, 185, 186, 190)),
)
SCENARIOS: Mapping[str, tuple[str, Sequence[str]]] = {
    "h100x8": ("h100x8", ()),
    "a100_mig": ("a100_mig", ()),
    "geforce": ("geforce", ()),
    "worked": ("worked", ()),
    "older": ("h100x8", OLDER),
    "no activity": ("h100x8", ("gpus = 2", "error nvmlGpmSampleGet NO_PERMISSION")),
    "a counter anew": ("h100x8", ("gpus = 1", "gpu 0 energy_mj = steps(30; 5000, 7000, 100, 900)")),
    "own memory": ("h100x8", ("gpus = 2", "process 1 compute self 12345678", "process 1 compute 1 77")),
    "many processes": ("h100x8", ("gpus = 1", *(f"process 0 compute {each} 5" for each in range(1, 40)))),
}


def scenario(name: str, *more: str) -> str:
    """Return the text of a scenario."""
    base, lines = SCENARIOS[name]
    return "\n".join((FOLDER.joinpath(f"{base}.nvml").read_text(), *lines, *more, ""))


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_read_at_once_is_what_each_says_by_itself(tmp_path: Path, name: str) -> None:
    """Of values that change; looked at when all is over, the last first."""
    alone = ran(tmp_path / "alone", scenario(name), Alone(), CHANGES)
    together = ran(tmp_path / "together", scenario(name), NvmlBackend(), CHANGES)
    found = [said(each) for each in reversed(together.snapshots)][::-1]

    assert [said(each) for each in alone.snapshots] == found
    assert ("." * 20, "1" * 18) == (alone.at_once, together.at_once[2:])
    assert set(together.stub.called()) == set(alone.stub.called())


TROUBLE: Mapping[str, tuple[Script, str]] = {
    "a call for a while": (
        {5: ("gpu 1 utilization_gpu_percent = !TIMEOUT",), 7: ("gpu 1 utilization_gpu_percent = 3",)},
        "..111....11111111111",
    ),
    "a call that has an older one": ({5: ("error nvmlDeviceGetMemoryInfo_v2@0 UNKNOWN",)}, "..111..............."),
    "a call for good": ({5: ("error nvmlDeviceGetTemperatureV@1 NOT_SUPPORTED",)}, "..111..1111111111111"),
    "a field for a while": (
        {5: ("gpu 1 field.197 = !TIMEOUT",), 8: ("gpu 1 field.197 = ull: 5",)},
        "..111....11111111111",
    ),
    "a field for good": (
        {5: ("gpu 1 field.185 = !NOT_SUPPORTED", "gpu 1 field.186 = !NOT_SUPPORTED")},
        "..111.11111111111111",
    ),
    "a field without a value": ({5: ("gpu 1 field.82 = uint: 4294967295",)}, "..111111111111111111"),
    "all fields": ({5: ("error nvmlDeviceGetFieldValues@1 UNKNOWN",)}, "..111..............."),
    "activity": ({5: ("error nvmlGpmSampleGet@1 UNKNOWN",)}, "..111..............."),
    "the slow reading": ({5: ("error nvmlDeviceGetEncoderUtilization@0 UNKNOWN",)}, "..1111.............."),
    "a slow field": ({5: ("gpu 0 field.3 = !UNKNOWN",), 9: ("gpu 0 field.3 = ull: 9",)}, "..1111.1111111111111"),
    "the processes": (
        {5: ("error nvmlDeviceGetComputeRunningProcesses_v3@0 UNKNOWN",)},
        "..1111..............",
    ),
    "more processes": (
        {5: tuple(f"process 0 compute {each} 5" for each in range(1, 40))},
        "..1111.1111111111111",
    ),
    "a lost device": ({5: ("gpu 1 lost = 1",)}, "..111..............."),
    "an xid": ({0: ("event 1 xid 31 after 30", "event 1 xid 79 after 45")}, "..1111.11.1111111111"),
}
"""What goes wrong, and at which ticks all are read at once then."""


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_what_it_is_without(tmp_path: Path, name: str) -> None:
    """What fails, ends or is lost while all are read at once: metrics, counters and events are as by themselves."""
    trouble, at_once = TROUBLE[name]
    script = {number: (*lines, *trouble.get(number, ())) for number, lines in CHANGES.items()}
    text = scenario("h100x8", "gpus = 2")
    alone = ran(tmp_path / "alone", text, Alone(), script)
    together = ran(tmp_path / "together", text, NvmlBackend(), script)

    assert [said(each) for each in alone.snapshots] == [said(each) for each in together.snapshots]
    assert (alone.told, at_once) == (together.told, together.at_once)


def test_a_device_of_another_process_is_not_read_at_once(tmp_path: Path) -> None:
    """Until the other lets go of it."""
    other, mine = Ownership(tmp_path), Ownership(tmp_path)
    program = f"""
    import sys
    from pathlib import Path
    from crucible_otel.gpu.ownership import Ownership
    print(Ownership(Path({str(tmp_path)!r})).owns({H100.format(0)!r}), flush=True)
    sys.stdin.readline()
    """
    with Program(textwrap.dedent(program)) as holder:
        assert "True" == holder.line()
        held = ran(tmp_path / "held", scenario("h100x8", "gpus = 1"), NvmlBackend(), ticks=5, ownership=mine)
        holder.say()
        assert 0 == holder.end().code
    free = ran(tmp_path / "free", scenario("h100x8", "gpus = 1"), NvmlBackend(), ticks=5, ownership=other)
    other.release()

    assert (".....", "..111") == (held.at_once, free.at_once)
    assert [{False}, {True}] == [{each.devices[0].owned for each in run.snapshots} for run in (held, free)]


def rounds_kept() -> int:
    """Return how many rounds there are."""
    gc.collect()
    return sum(isinstance(each, Round) for each in gc.get_objects())


@pytest.mark.parametrize(
    "looking", [lambda snapshot: None, lambda snapshot: snapshot.devices[0].energy_j], ids=["nobody", "energy"]
)
def test_rounds_are_not_kept_for_ever(tmp_path: Path, looking: Callable[[GpuSnapshot], object]) -> None:
    """Not when nobody ever looks, nor when somebody never looks at the counters; which have counted all at the end."""
    stub = Stub(tmp_path, scenario("h100x8", "gpus = 1", "gpu 0 pcie_tx_bytes = ramp(0, 1000)"))
    before, kept = rounds_kept() + readings_kept(), []
    with stub.loaded():
        backend = NvmlBackend()
        backend.open()
        watch = Watch(backend, Ownership(None), on_lost=print, on_fault=print, environ={})
        for number in range(400):
            if not number % 100:
                stub.add(f"system now = {number}")
            snapshot = watch.tick(TICK_S * number, number, detailed=False)
            looking(snapshot)
            if not number % 50:
                kept.append(rounds_kept() + readings_kept() - before)
        backend.close()

    assert 150 > max(kept)
    assert 300_000 == snapshot.devices[0].totals["pcie_bytes"]["transmit"]


def test_two_threads_that_look_at_once_find_the_same(tmp_path: Path) -> None:
    """Each at all snapshots, one of them from the last to the first."""
    run = ran(tmp_path, scenario("h100x8", "gpus = 2"), NvmlBackend(), CHANGES)
    found: dict[int, list[object]] = {}
    begin = threading.Barrier(2)

    def look(step: int) -> None:
        begin.wait()
        found[step] = [said(each) for each in run.snapshots[::step]][::step]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=look, args=(step,)) for step in (1, -1)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    sys.setswitchinterval(before)

    assert found[1] == found[-1]
    assert 20 == len(found[1])


def test_what_is_read_at_once_is_asked_no_more_than_alone(tmp_path: Path) -> None:
    """Each call and each field, over two minutes."""
    alone = ran(tmp_path / "alone", scenario("h100x8"), Alone(), ticks=24)
    together = ran(tmp_path / "together", scenario("h100x8"), NvmlBackend(), ticks=24)
    counts = [{call: each.stub.count(call) for call in each.stub.called()} for each in (alone, together)]

    assert counts[0] == counts[1]
    assert 24 * 8 == counts[1]["nvmlDeviceGetFieldValues"] - 4 * 8  # with the slow readings


def test_what_was_let_go_is_not_read(tmp_path: Path) -> None:
    """When the devices are asked for again: the samples of GPM are freed, and what was made for them has ended."""
    stub = Stub(tmp_path, scenario("h100x8", "gpus = 1"))
    with stub.loaded():
        backend = NvmlBackend()
        backend.open()
        devices = backend.devices()
        for _ in range(2):
            backend.read_fast(devices[0])
        backend.read_slow(devices[0])
        at_once = backend.at_once(devices)
        assert at_once is not None
        found = [at_once.read_fast() is not None, at_once.read_slow() is not None, at_once.read_process() is not None]
        backend.devices()
        ended = [at_once.read_fast(), at_once.read_slow(), at_once.read_process()]
        at_once.end()
        backend.close()

    assert ([True] * 3, [None] * 3, {}) == (found, ended, stub.misuse())
