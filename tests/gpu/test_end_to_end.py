"""GPU telemetry end to end: programs with the real pynvml over the NVML library without a GPU."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

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


def latest(receiver: OtlpReceiver, name: str, **attributes: Any) -> dict[tuple[str, ...], float]:
    """Return UUID and further attributes -> the last value of a metric."""
    return {
        (point.attributes[gpu.ID], *(v for k, v in point.attributes.items() if k not in gpu.IDENTITY)): point.value or 0
        for point in receiver.points(name, **attributes)
    }


def scraped(url: str) -> dict[str, float]:
    """Return sample with the labels that matter -> value, of the GPU's on a Prometheus page."""
    with urllib.request.urlopen(url, timeout=30) as response:
        lines = [line for line in response.read().decode().splitlines() if line.startswith(("hw_", "crucible_gpu"))]
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


READS = [
    "nvmlDeviceGetFieldValues", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo*",
    "nvmlDeviceGetTemperature*",
    "nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocks*", "nvmlGpm*", "nvmlDeviceGetComputeRunningProcesses*",
    "nvmlDeviceGetEncoderUtilization", "nvmlDeviceGetDecoderUtilization", "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetCurrPcieLink*", "nvmlDeviceGetTemperatureThreshold", "nvmlEventSetWait*", "nvmlEventSetCreate",
    "nvmlDeviceGetMigMode", "nvmlDeviceGetSerial", "nvmlDeviceGetPciInfo*", "nvmlDeviceGetName", "field.83", "gpm.2",
]  # fmt: skip

ERRORS = ("NOT_SUPPORTED", "NO_PERMISSION", "FUNCTION_NOT_FOUND", "UNKNOWN", "TIMEOUT")

READ_ALL = """
import sys
from pathlib import Path
from crucible_otel.gpu.nvml import NvmlBackend
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.instruments import observations
from crucible_otel.gpu.watch import Watch
from tests.gpu.stub import Stub

reads = {reads!r}
for error in {errors!r}:
    for read in ["", *reads]:
        stub = Stub(Path(sys.argv[1]) / f"{{error}}-{{reads.index(read) if read else -1}}", "h100x8")
        stub.add("gpus = 1")
        if read:
            stub.add(f"error {{read}} {{error}}")
        with stub.loaded():
            backend = NvmlBackend()
            backend.open()
            watch = Watch(backend, Ownership(None), on_lost=print, on_fault=print, environ={{}})
            watch.tick(0.0, 0)
            found = {{name for name, points in observations(watch.tick(100.0, 0)).items() if points}}
            backend.close()
        print(error, read or "-", len(found), bool(stub.misuse()), flush=True)
"""


def test_no_failing_call_takes_another_with_it(tmp_path: Path) -> None:
    """Each call with each error: only its own metrics are missing, and the rest is there."""
    (tmp_path / "program.py").write_text(READ_ALL.format(reads=READS, errors=ERRORS))
    ended = run(f"import sys; sys.argv = ['', {str(tmp_path)!r}]; exec(open({str(tmp_path / 'program.py')!r}).read())")
    found = [line.split() for line in ended.output]
    whole = int(found[0][2])
    missing = {(error, read): whole - int(count) for error, read, count, _ in found}

    assert 5 * (1 + len(READS)) == len(found)
    assert {"False"} == {misuse for *_, misuse in found}
    assert {0} == {count for (_, read), count in missing.items() if read == "-"}
    # Six metrics have no source but the fields, four none but GPM, memory is behind three.
    assert {"nvmlDeviceGetFieldValues": 6, "nvmlGpm*": 4, "nvmlDeviceGetMemoryInfo*": 3} == {
        read: count for (error, read), count in missing.items() if error == "NOT_SUPPORTED" and count > 2
    }
    assert {read: {missing["NOT_SUPPORTED", read]} for read in READS} == {
        read: {missing[error, read] for error in ERRORS} for read in READS
    }


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
