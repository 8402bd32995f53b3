"""GPU telemetry end to end: programs with the real pynvml over the NVML library without a GPU."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import SOURCES
from crucible_otel.gpu.nvml import NvmlBackend
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.watch import Watch
from crucible_otel.semconv import gpu
from crucible_otel.testing import OtlpReceiver
from tests.gpu.fakes import eventually
from tests.gpu.stub import Stub
from tests.integration.programs import Program, run, sending_to

pytestmark = pytest.mark.e2e

WORKED = "GPU-6f1c7b1e-5b0a-4c1e-9d3e-1f4f4a2b8c01"
H100 = "GPU-8c3f52aa-0d4b-7e21-b6a0-{:012}"

TELL = """
import crucible_otel as cx, logging, sys, time
logging.basicConfig(level=logging.INFO)
telemetry = cx.configure()
print(telemetry.prometheus_url, flush=True)
for line in sys.stdin:
    if line.startswith("flush"):
        print(telemetry.flush(5), flush=True)
    else:
        break
"""
"""Samples, flushes when told to, and ends with its input or an empty line."""

OUTSIDE = """
import os
for name in ("PYTEST_CURRENT_TEST", "PYTEST_VERSION"):
    os.environ.pop(name, None)
"""
"""Makes a program one that no test has begun: then there are other defaults."""


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Where the programs send to."""
    with OtlpReceiver() as receiver:
        yield receiver


def sampling(stub: Stub, receiver: OtlpReceiver, **more: str) -> dict[str, str]:
    """Return the environment of a program that samples ten times a second."""
    return {
        **stub.environ,
        **sending_to(receiver),
        "CRUCIBLE_OTEL_GPU": "on",
        "CRUCIBLE_OTEL_GPU_INTERVAL_MS": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        **more,
    }


def asked(stub: Stub, name: str, gpu: int | None = None) -> int:
    """Return how often a function was asked for, also while the program is about to make the file of the counters."""
    try:
        return stub.count(name, gpu)
    except (ValueError, OSError):
        return 0


def running(stub: Stub, name: str) -> int:
    """Return how many calls of a function have not returned, also while there is no file of the counters yet."""
    try:
        return stub.running(name)
    except (ValueError, OSError):
        return 0


def latest(receiver: OtlpReceiver, name: str, **attributes: Any) -> dict[tuple[str, ...], float]:
    """Return UUID and further attributes -> the last value of a metric."""
    return {
        (point.attributes[gpu.ID], *(v for k, v in point.attributes.items() if k not in gpu.IDENTITY)): point.value or 0
        for point in receiver.points(name, **attributes)
    }


def scraped(url: str, *beginnings: str) -> dict[str, float]:
    """Return sample with its labels -> value, of those on a Prometheus page that begin so; by default the GPU's."""
    with urllib.request.urlopen(url, timeout=30) as response:
        page = response.read().decode().splitlines()
    lines = [line for line in page if line.startswith(beginnings or ("hw_", "crucible_gpu"))]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def sample(page: Mapping[str, float], name: str, *labels: str) -> float:
    """Return the only sample of a name with these labels."""
    (found,) = [
        value for key, value in page.items() if key.partition("{")[0] == name and all(each in key for each in labels)
    ]
    return found


def test_worked_numbers_arrive_over_otlp_and_on_prometheus(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """40,960 of 81,920 MiB, 75 %, 65 degrees, 350,000 mW; energy grows by 350 J a second; the rest is absent."""
    stub = Stub(tmp_path / "nvml", "worked")
    with Program(TELL, sampling(stub, receiver)) as program:
        url = program.line()
        assert receiver.wait_for(lambda: latest(receiver, "hw.energy").get((WORKED, "gpu"), 0) > 100, 60)
        page = scraped(url)
        program.say()
        assert 0 == program.end().code
    names = {point.name for point in receiver.points() if point.name.startswith(("hw.", "crucible.gpu."))}

    assert {
        "hw.gpu.utilization": {(WORKED, "general"): 0.75},
        "hw.gpu.memory.usage": {(WORKED,): 40_960 * 1024**2},
        "hw.gpu.memory.limit": {(WORKED,): 81_920 * 1024**2},
        "hw.gpu.memory.utilization": {(WORKED,): 0.5},
        "hw.power": {(WORKED, "gpu"): 350.0},
        "hw.temperature": {(WORKED, "die"): 65.0},
        "crucible.gpu.power.limit": {(WORKED,): 400.0},
        "crucible.gpu.memory_controller.utilization": {(WORKED,): 0.4},
    } == {
        name: latest(receiver, name)
        for name in names - {"hw.energy", "hw.status", "crucible.gpu.info", "crucible.gpu.poll.duration"}
    }
    (energy, *_), kinds = receiver.points("hw.energy"), {point.name: point for point in receiver.points()}
    assert ("sum", True, "cumulative") == (energy.kind, energy.monotonic, energy.temporality)
    assert ("sum", False) == (kinds["hw.gpu.memory.usage"].kind, kinds["hw.gpu.memory.usage"].monotonic)
    assert "gauge" == kinds["hw.power"].kind
    assert 40_960 * 1024**2 == sample(page, "hw_gpu_memory_usage_bytes", WORKED)
    assert 81_920 * 1024**2 == sample(page, "hw_gpu_memory_limit_bytes", WORKED)
    assert 0.75 == sample(page, "hw_gpu_utilization_ratio", WORKED, 'hw_gpu_task="general"')
    assert 65.0 == sample(page, "hw_temperature_celsius", WORKED)
    assert 350.0 == sample(page, "hw_power_watts", WORKED)
    assert 1.0 == sample(page, "crucible_gpu_info", WORKED, 'hw_driver_version="550.54.15"')
    assert {} == stub.misuse()
    assert 1 == stub.count("nvmlInitWithFlags") == stub.count("nvmlShutdown")


SEEDS = {
    "snakepit.gpu.memory.used_mb": ("", 40_960, "snakepit_gpu_memory_used_mb"),
    "snakepit.gpu.memory.total_mb": ("", 81_920, "snakepit_gpu_memory_total_mb"),
    "snakepit.gpu.memory.free_mb": ("", 40_960, "snakepit_gpu_memory_free_mb"),
    "snakepit.gpu.utilization.gpu_percent": ("%", 75, "snakepit_gpu_utilization_gpu_percent"),
    "snakepit.gpu.utilization.memory_percent": ("%", 50, "snakepit_gpu_utilization_memory_percent"),
    "snakepit.gpu.temperature.celsius": ("Cel", 65, "snakepit_gpu_temperature_celsius"),
    "snakepit.gpu.power.watts": ("W", 350, "snakepit_gpu_power_watts"),
    "snakepit.gpu.power.limit_watts": ("W", 400, "snakepit_gpu_power_limit_watts"),
    "snakepit.memory.gpu.free_mb": ("", 40_960, "snakepit_memory_gpu_free_mb"),
    "snakepit.memory.gpu.total_mb": ("", 81_920, "snakepit_memory_gpu_total_mb"),
}
"""Unit, value and name in Prometheus of what the documents name; without PyTorch the allocator says nothing."""


@pytest.mark.parametrize("mode", ["off", "both", "only"])
def test_the_documents_metrics_leave_where_they_are_asked_for(
    tmp_path: Path, receiver: OtlpReceiver, mode: str
) -> None:
    """Over OTLP and on the Prometheus page, from the readings that are made anyway; else there is none of them."""
    stub = Stub(tmp_path / "nvml", "worked")
    with Program(TELL, sampling(stub, receiver, CRUCIBLE_OTEL_SEED_METRICS=mode)) as program:
        url = program.line()
        assert receiver.wait_for(lambda: latest(receiver, "hw.energy").get((WORKED, "gpu"), 0) > 100, 60)
        page = scraped(url, "snakepit_", "hw_gpu_memory_usage")
        program.say()
        assert 0 == program.end().code
    points = {point.name: point for point in receiver.points() if point.name.startswith("snakepit.")}
    left = {"hw.gpu.memory.usage", "hw.power", "hw.temperature", "hw.gpu.utilization"} & {
        point.name for point in receiver.points()
    }

    expected = {} if mode == "off" else SEEDS
    assert {name: (unit, value) for name, (unit, value, _) in expected.items()} == {
        name: (point.unit, point.value) for name, point in points.items()
    }
    assert {("gauge", "cuda:0", WORKED)} >= {
        (point.kind, point.attributes["device"], point.attributes["hw.id"]) for point in points.values()
    }
    assert {name: value for _, value, name in expected.values()} == {
        name: sample(page, name, 'device="cuda:0"', f'hw_id="{WORKED}"')
        for name in {key.partition("{")[0] for key in page if key.startswith("snakepit_")}
    }
    assert (0 if mode == "only" else 4) == len(left)
    assert (mode == "only") == (not [key for key in page if key.startswith("hw_gpu_memory_usage")])
    assert {} == stub.misuse()


def test_a_hopper_tells_what_its_sms_do(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """GPM, NVLink, throttling and the rest, of each of eight; own memory by the process's number."""
    stub = Stub(tmp_path / "nvml", "h100x8")
    with Program(TELL, sampling(stub, receiver)) as program:
        program.line()
        assert receiver.wait_for(lambda: len(latest(receiver, "crucible.gpu.sm.active")) == 8, 60)
        program.say()
        assert 0 == program.end().code
    first = H100.format(0)

    assert {(H100.format(each),): 0.9125 for each in range(8)} == latest(receiver, "crucible.gpu.sm.active")
    assert 0.6275 == latest(receiver, "crucible.gpu.pipe.active")[first, "tensor"]
    assert 1.755e9 == latest(receiver, "crucible.gpu.clock.speed")[first, "sm"]
    assert 1 == latest(receiver, "crucible.gpu.throttle.active")[first, gpu.POWER_CAP]
    assert 0 == latest(receiver, "crucible.gpu.throttle.time")[first, gpu.POWER_CAP]  # it was read once
    assert 0 < latest(receiver, "hw.gpu.io")[first, "transmit"] < latest(receiver, "hw.gpu.io")[first, "receive"]
    assert 0 < latest(receiver, "crucible.gpu.nvlink.io")[first, "transmit"]
    assert 89.0 == latest(receiver, "hw.temperature.limit")[first, "die", "high.degraded"]
    assert 1024**3 == latest(receiver, "crucible.gpu.process.memory.usage")[(first,)]
    assert 1 == latest(receiver, "hw.status")[first, "gpu", "ok"]
    assert not receiver.points("hw.fan.speed_ratio")
    assert {} == stub.misuse()


def test_mig_instances_are_devices_with_a_parent(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """Memory of the instance under its own UUID; the divided GPU has power but no utilization."""
    stub = Stub(tmp_path / "nvml", "a100_mig")
    with Program(TELL, sampling(stub, receiver)) as program:
        program.line()
        assert receiver.wait_for(lambda: len(latest(receiver, "hw.gpu.memory.usage")) == 4, 60)
        program.say()
        assert 0 == program.end().code
    parent, other = (f"GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a0{index}" for index in (0, 1))
    parts = ["MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-1a2b3c4d-42e4-5de3-91c7-45d71c87eb40"]
    infos = {point.attributes[gpu.ID]: point.attributes for point in receiver.points("crucible.gpu.info")}

    assert {(parts[0],): 4 * 1024**3, (parts[1],): 1024**3, (parent,): 5 * 1024**3, (other,): 5 * 1024**3} == latest(
        receiver, "hw.gpu.memory.usage"
    )
    assert {(other, "general"), (other, "encoder"), (other, "decoder")} == set(latest(receiver, "hw.gpu.utilization"))
    assert {(parent, "gpu"): 212.0, (other, "gpu"): 212.0} == latest(receiver, "hw.power")
    assert [(parent, "3g.20gb"), (parent, "1g.5gb")] == [
        (infos[part][gpu.PARENT], infos[part][gpu.MIG_PROFILE]) for part in parts
    ]
    assert {(parts[1],): 768 * 1024**2} == latest(receiver, "crucible.gpu.process.memory.usage")
    assert {} == stub.misuse()


ERRORS = ("NOT_SUPPORTED", "NO_PERMISSION", "TIMEOUT")
"""Two that stay, one that passes."""

READ_ALL = """
import json, sys
from pathlib import Path
from crucible_otel.gpu.nvml import NvmlBackend
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.instruments import observations
from crucible_otel.gpu.watch import Watch
from tests.gpu.stub import SCENARIOS, Stub

def read(folder, scenario, *lines):
    text = (SCENARIOS / f"{{scenario}}.nvml").read_text()
    stub = Stub(Path(sys.argv[1]) / folder, "\\n".join((text, *lines, "")))
    with stub.loaded():
        backend = NvmlBackend()
        backend.open()
        watch = Watch(backend, Ownership(None), on_lost=print, on_fault=print, environ={{}}, wanted=("all",))
        watch.tick(0.0, 0)
        found = {{name for name, points in observations(watch.tick(100.0, 0)).items() if points}}
        backend.close()
    assert not stub.misuse(), (lines, stub.misuse())
    return stub, found

older = ("gpus = 1", *(f"gpu 0 field.{{each}} = !NOT_SUPPORTED" for each in (83, 185, 186, 190)), {older!r})
for name, scenario, *lines in (
    ("h100", "h100x8", "gpus = 1"), ("mig", "a100_mig"), ("geforce", "geforce"), ("older", "h100x8", *older)
):
    stub, whole = read(name, scenario, *lines)
    for call in stub.called():
        missing = set()
        for error in () if call in {start!r} else {errors!r} if name == "h100" else ("UNKNOWN",):
            _, found = read(f"{{name}}-{{call}}-{{error}}", scenario, *lines, f"error {{call}} {{error}}")
            missing |= whole - found
        print(json.dumps([name, call, sorted(missing)]), flush=True)
"""
OLDER = (
    "system without = nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetTemperatureV, nvmlDeviceGetCurrentClocksEventReasons, "
    "nvmlDeviceGetComputeRunningProcesses_v3"
)
START = ("nvmlInitWithFlags", "nvmlShutdown", "nvmlErrorString")
"""Without these nothing begins or ends; how that is said is tested elsewhere."""
FIND = {"nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID"}
"""Without these there is no device."""


PARTS = {"nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex"}
"""Without these there are no instances, which alone have the processes of a divided GPU."""


def sources(call: str) -> set[str]:
    """Return the metrics that a call may take with it."""
    if call in PARTS:
        return {gpu.PROCESS_MEMORY.name}
    if call == "nvmlDeviceGetFieldValues":
        return {name for name, keys in SOURCES.items() if any(isinstance(key, int) for key in keys)}
    if call.startswith("nvmlGpm"):
        return {name for name, keys in SOURCES.items() if ("gpm", None) in keys}
    wanted = int(call.partition(".")[2]) if call.startswith("field.") else call
    return {
        name
        for name, keys in SOURCES.items()
        if any(key == wanted or (isinstance(key, tuple) and key[0] == wanted) for key in keys)
    }


def test_no_failing_call_takes_another_with_it(tmp_path: Path) -> None:
    """Each call that is made and each field, with each error: only metrics that come from it are missing."""
    code = READ_ALL.format(errors=ERRORS, start=START, older=OLDER)
    (tmp_path / "program.py").write_text(code)
    source = f"import sys; sys.argv = ['', {str(tmp_path)!r}]; exec(open({str(tmp_path / 'program.py')!r}).read())"
    with Program(source) as program:
        found = [json.loads(line) for line in iter(program.line, "")]
        assert 0 == program.end().code
    calls = {call for _, call, _ in found}

    assert {"nvmlDeviceGetFieldValues", "nvmlGpmMetricsGet", "nvmlDeviceGetPowerUsage", "field.83"} <= calls
    assert len(calls) > 60
    assert [] == [each for each in found if each[1] not in FIND and not set(each[2]) <= sources(each[1])]
    taken = {(name, call): len(missing) for name, call, missing in found}
    # Four metrics have no other source than GPM; without its devices a machine has none.
    assert 4 == taken["h100", "nvmlGpmMetricsGet"]
    assert all(taken["h100", call] > 20 for call in FIND)
    # What has two sources is missing only where the other is too.
    assert 0 == taken["h100", "nvmlDeviceGetMemoryInfo_v2"] == taken["h100", "nvmlDeviceGetTemperatureV"]
    assert 3 == taken["older", "nvmlDeviceGetMemoryInfo"]
    assert 1 == taken["older", "nvmlDeviceGetPowerUsage"] == taken["older", "nvmlDeviceGetTotalEnergyConsumption"]


def test_a_reading_that_is_looked_at_later_is_what_it_was(tmp_path: Path) -> None:
    """The next readings are put into the same memory; of a whole GPU and of an instance."""
    stub = Stub(tmp_path / "nvml", "a100_mig")
    amounts = (
        "memory_used_bytes = {0}000",
        "temperature_c = {0}",
        "memory_temperature_c = 1{0}",
        "clock_sm_mhz = {0}00",
        "clock_graphics_mhz = {0}01",
        "pcie_tx_bytes = {0}000000",
        "clock_reasons = 0x{0}",
    )
    with stub.loaded():
        backend = NvmlBackend()
        backend.open()
        whole, part = next(
            (gpu, each) for gpu in backend.devices() for each in backend.devices() if each.parent_uuid == gpu.uuid
        )
        found = []
        for number in (2, 4):
            stub.add(*(f"gpu * {line.format(number)}" for line in amounts), f"mig *.* memory_used_bytes = {number}")
            backend.read_slow(whole)
            found.append((backend.read_fast(whole), backend.read_fast(part).memory_used_bytes))
        told = [
            (
                fast.memory_used_bytes,
                fast.temperature_celsius,
                fast.clock_hz["sm"],
                fast.clock_hz["graphics"],
                fast.pcie_bytes["transmit"],
                fast.throttle_reasons,
            )
            for fast, _ in found
        ]
        backend.close()

    assert [
        (2000, {"memory": 12, "die": 2}, 200e6, 201e6, 2000000, frozenset({gpu.APPLICATION_CLOCKS})),
        (4000, {"memory": 14, "die": 4}, 400e6, 401e6, 4000000, frozenset({gpu.POWER_CAP})),
    ] == told
    assert [2, 4] == [used for _, used in found]
    assert not hasattr(found[0][0], "what_no_reading_has")


def test_a_call_that_fails_is_tried_again_and_the_older_one_taken_meanwhile(tmp_path: Path) -> None:
    """After two failures it is left out once; missing is only what no other call tells."""
    stub = Stub(tmp_path / "nvml", "h100x8")
    with stub.loaded():
        backend = NvmlBackend()
        backend.open()
        device = backend.devices()[0]
        steady = backend.read_fast(device)
        stub.add(
            "error nvmlDeviceGetMemoryInfo_v2@0 UNKNOWN calls 1-2",
            "error nvmlDeviceGetUtilizationRates@0 UNKNOWN calls 1-2",
            "error nvmlGpmSampleGet@0 UNKNOWN calls 1-2",
        )
        found = [backend.read_fast(device) for _ in range(4)]
        told = [
            (
                fast.memory_total_bytes is not None,
                fast.utilization_ratio is not None,
                fast.sm_active_ratio is not None,
                "die" in fast.temperature_celsius,
                len(fast.clock_hz),
                fast.throttle_reasons is not None,
            )
            for fast in (steady, *found)
        ]
        backend.close()
    whole = (True, True, True, True, 2, True)

    assert [
        (True, True, False, True, 2, True),  # there is no activity before the second
        (True, False, False, True, 2, True),
        (True, False, False, True, 2, True),
        (True, False, False, True, 2, True),
        whole,
    ] == told
    assert 3 == stub.count("nvmlDeviceGetMemoryInfo", gpu=0)
    assert 4 == stub.count("nvmlDeviceGetMemoryInfo_v2", gpu=0) == stub.count("nvmlDeviceGetUtilizationRates", gpu=0)
    assert 5 == stub.count("nvmlDeviceGetTemperatureV", gpu=0)


def test_what_was_made_for_the_devices_is_freed(tmp_path: Path) -> None:
    """Samples of GPM and sets of events, also when the devices are asked for again."""
    stub = Stub(tmp_path / "nvml", "h100x8")
    with stub.loaded():
        backend = NvmlBackend()
        backend.open()
        for _ in range(2):
            watch = Watch(backend, Ownership(None), on_lost=print, on_fault=print, environ={})
            for now_s in (0.0, 5.0):
                watch.tick(now_s, 0)
        backend.close()

    assert 2 * 8 * 2 == stub.count("nvmlGpmSampleAlloc") == stub.count("nvmlGpmSampleFree")
    assert 2 == stub.count("nvmlEventSetCreate") == stub.count("nvmlEventSetFree")
    assert {} == stub.misuse()


def test_what_is_not_supported_is_asked_once(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """A driver without a reading is not asked for it again and again."""
    stub = Stub(tmp_path / "nvml", "geforce")
    with Program(TELL, sampling(stub, receiver)) as program:
        program.line()
        assert eventually(lambda: asked(stub, "nvmlDeviceGetUtilizationRates") > 10)
        program.say()
        assert 0 == program.end().code

    assert (1, 1) == (stub.count("field.82"), stub.count("nvmlDeviceGetTotalEnergyConsumption"))


def test_a_hang_delays_no_scrape_and_no_exit(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """NVML does not return for 30 s: the page is there at once, and the program leaves within its exit timeout."""
    stub = Stub(tmp_path / "nvml", "worked")
    with Program(TELL, sampling(stub, receiver, CRUCIBLE_OTEL_GPU_INTERVAL_MS="5000")) as program:
        url = program.line()
        assert receiver.wait_for(lambda: latest(receiver, "hw.power"), 60)
        stub.add("hang nvmlDeviceGetUtilizationRates 30")
        assert eventually(lambda: stub.running("nvmlDeviceGetUtilizationRates"))
        begun = stub.count("nvmlDeviceGetUtilizationRates")
        page = scraped(url)
        program.say()
        ended = program.end()

    assert 350.0 == sample(page, "hw_power_watts", WORKED)
    assert (0, begun, 1) == (
        ended.code,
        stub.count("nvmlDeviceGetUtilizationRates"),
        stub.running("nvmlDeviceGetUtilizationRates"),
    )


@pytest.mark.parametrize(
    "call", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlDeviceGetFieldValues", "nvmlGpmSampleGet"]
)
def test_a_hang_from_the_start_delays_neither_start_nor_end(tmp_path: Path, receiver: OtlpReceiver, call: str) -> None:
    """Wherever NVML hangs for minutes: ``configure()``, a flush, a scrape and the exit are done while it still does."""
    stub = Stub(tmp_path / "nvml", "h100x8")
    stub.add(f"hang {call} 300")
    with Program(TELL, sampling(stub, receiver)) as program:
        url = program.line()
        assert eventually(lambda: running(stub, call))
        page = scraped(url)
        program.say("flush")
        assert "True" == program.line()
        program.say()
        ended = program.end()

    assert {} == page
    assert (0, 1, 1) == (ended.code, stub.count(call), stub.running(call))


@pytest.mark.parametrize(("mode", "initialised"), [(None, 1), ("auto", 1), ("on", 1), ("off", 0)])
def test_a_driver_is_found_without_a_word(
    tmp_path: Path, receiver: OtlpReceiver, mode: str | None, initialised: int
) -> None:
    """With no variable at all, at the default interval: the first sample is taken at once. ``off``: none, ever."""
    stub = Stub(tmp_path / "nvml", "worked")
    environ = {**stub.environ, **sending_to(receiver), "OTEL_METRIC_EXPORT_INTERVAL": "200"}
    with Program(OUTSIDE + TELL, environ if mode is None else {**environ, "CRUCIBLE_OTEL_GPU": mode}) as program:
        program.line()
        if initialised:
            assert receiver.wait_for(lambda: latest(receiver, "hw.power"), 60)
        program.say("flush")
        program.line()
        program.say()
        assert 0 == program.end().code

    assert {(WORKED, "gpu"): 350.0} if initialised else {} == latest(receiver, "hw.power")
    assert initialised == asked(stub, "nvmlInitWithFlags") == asked(stub, "nvmlShutdown")


def test_a_lost_gpu_is_told_and_its_series_end(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """One ERROR event for the loss and one for XID 79; the other GPU goes on, the lost one is not asked again."""
    stub = Stub(tmp_path / "nvml", "lost")
    healthy, lost = (f"GPU-0f0f0f0f-1111-2222-3333-44444444444{index}" for index in (0, 1))
    stub.add("gpu 1 lost = steps(1; 0, 1)", "event 1 xid 79 after 1")
    with Program(TELL, sampling(stub, receiver)) as program:
        url = program.line()
        assert receiver.wait_for(lambda: [each for each in receiver.logs if each.event_name == gpu.LOST.name], 60)
        times = stub.count("nvmlDeviceGetUtilizationRates", gpu=1)
        before = stub.count("nvmlDeviceGetUtilizationRates", gpu=0)
        assert eventually(lambda: asked(stub, "nvmlDeviceGetUtilizationRates", gpu=0) > before + 5)
        page = scraped(url)
        program.say()
        assert 0 == program.end().code
    events = [(each.event_name, each.severity_text, each.attributes[gpu.ID]) for each in receiver.logs]

    assert 1 == events.count((gpu.LOST.name, "ERROR", lost))
    assert 1 == events.count((gpu.XID.name, "ERROR", lost))
    assert {"hw_status"} == {key.partition("{")[0] for key in page if lost in key}
    assert 1.0 == sample(page, "hw_status", lost, 'hw_state="failed"')
    assert 500.0 == sample(page, "hw_power_watts", healthy)
    assert times == stub.count("nvmlDeviceGetUtilizationRates", gpu=1)


def test_ranks_report_each_device_once_and_take_over(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """Two processes: one has the devices, both have themselves; when the first is killed the second has them."""
    stub = Stub(tmp_path / "nvml", "h100x8")
    stub.add("gpus = 1")
    environ = sampling(stub, receiver)

    def reporters() -> list[str]:
        return sorted({str(each.resource["crucible.rank"]) for each in receiver.points("hw.power")})

    def own() -> list[str]:
        points = receiver.points("crucible.gpu.process.memory.usage")
        return sorted({str(each.resource["crucible.rank"]) for each in points})

    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    with Program(TELL, {**environ, **world, "RANK": "0", "LOCAL_RANK": "0"}) as first:
        first.line()
        assert receiver.wait_for(reporters, 60)
        with Program(TELL, {**environ, **world, "RANK": "1", "LOCAL_RANK": "1"}) as second:
            second.line()
            assert receiver.wait_for(lambda: own() == ["0", "1"], 60)
            alone = reporters()
            os.kill(first.pid, 9)
            assert receiver.wait_for(lambda: reporters() == ["0", "1"], 60)
            second.say()
            assert 0 == second.end().code

    assert ["0"] == alone


TICKS = """
import sys, threading
import crucible_otel as cx
from crucible_otel.gpu import shared
telemetry = cx.configure()
before, told = None, threading.Thread(target=sys.stdin.readline)
told.start()
while told.is_alive():
    snapshot = shared.sampler().snapshot
    if snapshot is not before and snapshot.devices:
        print(snapshot.taken_ns, *(int(state.owned) for state in snapshot.devices), flush=True)
        before = snapshot
    told.join(0.005)
"""
"""Says of every sample when it was taken and which devices the process reports, until it gets a line."""


def test_a_device_is_taken_over_within_two_intervals(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """Of the samples that begin after the owner was killed, the second at the latest has its devices."""
    stub = Stub(tmp_path / "nvml", "h100x8")
    environ = sampling(stub, receiver)
    with Program(TICKS, environ) as first:
        assert "1" * 8 == "".join(first.line().split()[1:])
        with Program(TICKS, environ) as second:
            assert "0" * 8 == "".join(second.line().split()[1:])
            os.kill(first.pid, 9)
            first.end()
            killed_ns = time.time_ns()
            after = []
            while len(after) < 2:
                taken_ns, *owned = map(int, second.line().split())
                after += [owned] if taken_ns > killed_ns else []
            second.say()
            assert 0 == second.end().code

    assert [1] * 8 == after[1]


ENERGY = """
import crucible_otel as cx, time
from crucible_otel.gpu import shared
telemetry = cx.configure()
while not shared.sampler().snapshot.taken_ns:
    time.sleep(0.01)
with cx.workflow("w"), cx.stage("s"), cx.train("m") as run:
    for epoch in run.epochs(2):
        before = shared.sampler().snapshot
        time.sleep(0.5)
        while shared.sampler().snapshot is before:
            time.sleep(0.01)
telemetry.shutdown()
"""


@pytest.mark.parametrize("counted", [True, False])
def test_every_rank_says_the_energy_of_its_scopes(tmp_path: Path, receiver: OtlpReceiver, counted: bool) -> None:
    """Of the device it sees, also where another process reports it: at 350 W all along, 350 J for each second."""
    stub = Stub(tmp_path / "nvml", "worked")
    if not counted:
        stub.add("gpu 0 energy_mj = !NOT_SUPPORTED")
    environ = sampling(stub, receiver, CUDA_VISIBLE_DEVICES="0")
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    with (
        Program(ENERGY, {**environ, **world, "RANK": "0", "LOCAL_RANK": "0"}) as first,
        Program(ENERGY, {**environ, **world, "RANK": "1", "LOCAL_RANK": "1"}) as second,
    ):
        assert [0, 0] == [each.end().code for each in (first, second)]
    spans = [span for span in receiver.spans if "crucible.gpu.energy.used" in span.attributes]
    names = ["run_stage s", "run_workflow w", "train m", "train_epoch", "train_epoch"]

    for rank in (0, 1):
        mine = [span for span in spans if span.resource["crucible.rank"] == rank]
        assert names == sorted(span.name for span in mine)
        for span in mine:
            # The clocks of the program and of the scenario are read at different moments, of a loaded machine too.
            assert span.attributes["crucible.gpu.energy.used"] == pytest.approx(350 * span.duration_s, rel=0.5)
            assert ("counter" if counted else "power") == span.attributes["crucible.gpu.energy.source"]
        *_, point = [
            point
            for point in receiver.points("crucible.training.epoch.energy")
            if point.resource["crucible.rank"] == rank
        ]
        epochs = [span.attributes["crucible.gpu.energy.used"] for span in mine if span.name == "train_epoch"]
        assert point.value == pytest.approx(sum(epochs))
    assert {} == stub.misuse()


def test_a_forked_child_leaves_the_parents_driver_alone(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """It asks nothing until it configures; then it initialises the library itself."""
    stub = Stub(tmp_path / "nvml", "worked")
    stub.add("system fork_safe = 0")
    code = """
    import os, sys, time
    import crucible_otel as cx
    from crucible_otel.gpu import shared
    telemetry = cx.configure()
    while not shared.sampler().snapshot.taken_ns:
        time.sleep(0.01)
    child = os.fork()
    if child == 0:
        quiet = not shared.sampler().running and not shared.sampler().snapshot.devices
        cx.configure()
        while not shared.sampler().snapshot.taken_ns:
            time.sleep(0.01)
        # the parent reports the device
        states = shared.sampler().snapshot.devices
        print("child", quiet, [state.owned for state in states], flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("parent", [state.owned for state in shared.sampler().snapshot.devices], flush=True)
    """
    ended = run(code, sampling(stub, receiver))

    assert ["child True [False]", "parent [True]"] == ended.output
    assert 2 == stub.count("nvmlInitWithFlags")
    assert {} == stub.misuse()


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("1", {1}),
        (f"{H100.format(2)},{H100.format(0)}", {0, 2}),
        (H100.format(3)[:-1], set()),
        ("", set()),
    ],
)
def test_visible_devices_are_sampled(tmp_path: Path, receiver: OtlpReceiver, listed: str, expected: set[int]) -> None:
    """By index and by UUID; a beginning that several have means none."""
    stub = Stub(tmp_path / "nvml", "h100x8")
    with Program(TELL, sampling(stub, receiver, CUDA_VISIBLE_DEVICES=listed)) as program:
        program.line()
        assert eventually(lambda: asked(stub, "nvmlDeviceGetCount_v2"))
        if expected:
            assert receiver.wait_for(lambda: receiver.points("hw.power"), 60)
        program.say()
        assert 0 == program.end().code

    assert {H100.format(index) for index in expected} == {key[0] for key in latest(receiver, "hw.power")}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("1", {1}),
        (H100.format(2), {2}),
        (f"{H100.format(2)}, 0", {0, 2}),
        (H100.format(5).upper(), {5}),
        ("all", set(range(8))),
    ],
)
def test_devices_are_chosen_by_the_variable(
    tmp_path: Path, receiver: OtlpReceiver, wanted: str, expected: set[int]
) -> None:
    """By index and by UUID, in any letters, whatever CUDA is let see."""
    stub = Stub(tmp_path / "nvml", "h100x8")
    environ = sampling(stub, receiver, CUDA_VISIBLE_DEVICES="7", CRUCIBLE_OTEL_GPU_DEVICES=wanted)
    with Program(TELL, environ) as program:
        program.line()
        assert receiver.wait_for(lambda: receiver.points("hw.power"), 60)
        program.say()
        assert 0 == program.end().code

    assert {H100.format(index) for index in expected} == {key[0] for key in latest(receiver, "hw.power")}


def test_a_mig_uuid_is_visible(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """The instance, and its GPU for what only the GPU has."""
    stub, part = Stub(tmp_path / "nvml", "a100_mig"), "MIG-1a2b3c4d-42e4-5de3-91c7-45d71c87eb40"
    with Program(TELL, sampling(stub, receiver, CUDA_VISIBLE_DEVICES=part)) as program:
        program.line()
        assert receiver.wait_for(lambda: receiver.points("hw.gpu.memory.usage"), 60)
        program.say()
        assert 0 == program.end().code

    assert {(part,), ("GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a00",)} == set(latest(receiver, "hw.gpu.memory.usage"))


@pytest.mark.parametrize(("mode", "level"), [("auto", "INFO"), ("on", "WARNING")])
def test_a_library_without_a_driver_is_one_line(tmp_path: Path, receiver: OtlpReceiver, mode: str, level: str) -> None:
    """As in a container image with the library but no GPU passed in."""
    stub = Stub(tmp_path / "nvml", "gpus = 1\nerror nvmlInitWithFlags DRIVER_NOT_LOADED\n")
    with Program(TELL, sampling(stub, receiver, CRUCIBLE_OTEL_GPU=mode)) as program:
        program.line()
        assert eventually(lambda: asked(stub, "nvmlInitWithFlags"))
        program.say("flush")
        program.line()
        program.say()
        ended = program.end()

    assert [f"{level}:crucible_otel:no GPU metrics: NVML: Driver Not Loaded"] == [
        line for line in ended.errors if "GPU" in line
    ]
    assert not receiver.points("crucible.gpu.info")


HISTORY = """
import time
import crucible_otel as cx
from crucible_otel.gpu import shared
profiler = cx.gpu.GPUProfiler.start(enabled=False)
for _ in range(1005):
    assert profiler.sample_now(30) is not None
kept = profiler.history(limit=5000)
times = [at for at, _ in kept]
print(len(kept), times == sorted(times, reverse=True), profiler.get_stats()["sample_count"])
print(sorted(kept[0][1]["cuda:0"].items()))
profiler.stop()
"""


def test_history_keeps_a_thousand_of_1005_ticks(tmp_path: Path) -> None:
    """Newest first, in whole MiB, percent, degrees and watts."""
    stub = Stub(tmp_path / "nvml", "worked")
    stub.add("gpu 0 energy_mj = 5")
    ended = run(HISTORY, stub.environ)

    assert [
        "1000 True 1005",
        "[('celsius', 65.0), ('free_mb', 40960), ('gpu_percent', 75.0), ('joules', 0.0), ('limit_watts', 400.0), "
        "('memory_percent', 50.0), ('total_mb', 81920), ('used_mb', 40960), ('watts', 350.0)]",
    ] == ended.output
    assert {} == stub.misuse()
