"""The real pynvml over the NVML library without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.gpu.stub import FLAGS, SCENARIOS, SONAME, SOURCE, GccMissingError, Stub, dump, library

pytestmark = pytest.mark.e2e

ALL_LINKS = 0xFFFFFFFF
NO_INSTANCE = 0xFFFFFFFF
Start = Callable[[str], Stub]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Begins with a scenario: NVML is initialised, and shut down after the test, in which nothing was misused."""
    running: list[tuple[Stub, Any]] = []

    def begin(scenario: str) -> Stub:
        stub = Stub(tmp_path / f"nvml_{len(running)}", scenario)
        loaded = stub.loaded()
        loaded.__enter__()
        running.append((stub, loaded))
        pynvml.nvmlInit()
        return stub

    yield begin
    for stub, loaded in reversed(running):
        pynvml.nvmlShutdown()
        loaded.__exit__(None, None, None)
        assert {} == stub.misuse()


def gpu(index: int = 0) -> Any:
    """Return NVML's handle of a GPU."""
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def code(call: Callable[..., Any], *arguments: Any) -> int:
    """Return NVML's error of a call, or 0."""
    try:
        call(*arguments)
    except pynvml.NVMLError as error:
        return int(error.value)
    return 0


def values(struct: Any) -> dict[str, Any]:
    """Return the fields of a struct."""
    return {name: getattr(struct, name) for name, *_ in struct._fields_}


def fields(handle: Any, *ids: int | tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return error, type and value of fields."""
    found = pynvml.nvmlDeviceGetFieldValues(handle, list(ids))
    members = dump.MEMBERS
    return [(each.nvmlReturn, each.valueType, getattr(each.value, members[each.valueType])) for each in found]


def becomes(expected: object, read: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 30
    while (found := read()) != expected and time.monotonic() < deadline:
        time.sleep(0.005)
    assert expected == found


# ------------------------------------------------------------------------------------------------------------- building


def test_it_compiles_without_a_warning(tmp_path: Path) -> None:
    """Warnings are errors, also those of the optimiser."""
    command = ["gcc", *FLAGS, "-O3", "-Wshadow=local", "-o", str(tmp_path / "x.so"), str(SOURCE), "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test that needs the library fails, and is not skipped."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GccMissingError, match="need gcc; Debian: apt-get install gcc"):
        library(
            ["nvmlDeviceGetIndex"] if library().exists() and tmp_path.joinpath("fresh").exists() else [str(tmp_path)]
        )


def test_it_is_built_once() -> None:
    """A second test finds it, under the name that pynvml looks for."""
    first = library()
    built = first.stat().st_mtime_ns

    assert (SONAME, built) == (first.name, library().stat().st_mtime_ns)


# -------------------------------------------------------------------------------------------------------------- loading


def test_pynvml_finds_it_in_another_process(tmp_path: Path) -> None:
    """By its name alone, as a driver's; its calls are counted there and read here."""
    stub = Stub(tmp_path, "worked")
    program = """
import pynvml
pynvml.nvmlInit()
print(pynvml.nvmlDeviceGetPowerUsage(pynvml.nvmlDeviceGetHandleByIndex(0)), pynvml.nvmlSystemGetDriverVersion())
"""
    environ = {**os.environ, **stub.environ}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)

    assert (0, "350000 550.54.15\n", "") == (done.returncode, done.stdout, done.stderr)
    assert 1 == stub.count("nvmlDeviceGetPowerUsage", gpu=0)


def test_afterwards_there_is_no_library_again(tmp_path: Path) -> None:
    """The next test starts like one without a driver."""
    with Stub(tmp_path, "worked").loaded():
        pynvml.nvmlInit()

    assert pynvml.NVML_ERROR_LIBRARY_NOT_FOUND == code(pynvml.nvmlInit)


def test_calls_need_an_initialised_library(tmp_path: Path) -> None:
    """A call before the start or after the end fails and is noted."""
    stub = Stub(tmp_path, "worked")
    with stub.loaded():
        pynvml.nvmlInit()
        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
        still = code(pynvml.nvmlDeviceGetCount)
        pynvml.nvmlShutdown()

        assert (0, 1, 1) == (still, code(pynvml.nvmlDeviceGetCount), code(pynvml.nvmlShutdown))
        assert {"uninitialized": 2} == stub.misuse()


def test_a_scenario_with_a_mistake_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The line is named, instead of something being silently unsupported."""
    lines = [
        "gpu 0 power_mW = 1",
        "gpu 0 power_mw = ramp(1)",
        "gpu 0 power_mw = !NO_SUCH_ERROR",
        "error nvmlInit",
        "error f NO_SUCH_ERROR",
        "hang f 0",
        "error f TIMEOUT calls 0",
        "process 0 compute nobody 1",
        "process 0 compute 1 1 what=2",
        "event 0 xid 79 at 4",
        "gpu 0-40 power_mw = 1",
        "nonsense",
    ]
    for line in lines:
        with Stub(tmp_path, f"gpus = 1\n{line}\n").loaded():
            assert (line, pynvml.NVML_ERROR_UNKNOWN) == (line, code(pynvml.nvmlInit))

    assert [f"{tmp_path / 'scenario.nvml'}:2: not understood: {line}" for line in lines] == [
        said.removeprefix("nvml_stub: ") for said in capfd.readouterr().err.splitlines()
    ]


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.nvml")), ids=lambda path: path.stem)
def test_every_scenario_is_understood(path: Path, start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    """And its devices can be had."""
    start(path.stem)
    for index in range(pynvml.nvmlDeviceGetCount()):
        assert pynvml.nvmlDeviceGetUUID(gpu(index)).startswith("GPU-")

    assert "" == capfd.readouterr().err


# -------------------------------------------------------------------------------------------------------------- answers


def test_the_worked_numbers_of_the_documents(start: Start) -> None:
    """40,960 of 81,920 MiB used, 75 %, 65 degrees, 350,000 mW."""
    start("worked")
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu(), version=pynvml.nvmlMemory_v2)

    assert (40_960, 81_920, 40_960) == tuple(each // 1024**2 for each in (memory.used, memory.total, memory.free))
    assert 75 == pynvml.nvmlDeviceGetUtilizationRates(gpu()).gpu
    assert 65 == pynvml.nvmlDeviceGetTemperature(gpu(), pynvml.NVML_TEMPERATURE_GPU)
    assert 350_000 == pynvml.nvmlDeviceGetPowerUsage(gpu())


def test_the_host(start: Start) -> None:
    """Versions, how many GPUs there are, and names of processes."""
    start("h100x8")

    assert "550.54.15" == pynvml.nvmlSystemGetDriverVersion()
    assert "12.550.54.15" == pynvml.nvmlSystemGetNVMLVersion()
    assert (12040, 12040) == (pynvml.nvmlSystemGetCudaDriverVersion(), pynvml.nvmlSystemGetCudaDriverVersion_v2())
    assert 8 == pynvml.nvmlDeviceGetCount()
    assert os.path.realpath("/proc/self/exe") == pynvml.nvmlSystemGetProcessName(os.getpid())
    assert pynvml.NVML_ERROR_INVALID_ARGUMENT == code(pynvml.nvmlDeviceGetHandleByIndex, 8)
    assert "Not Found" == pynvml.nvmlErrorString(pynvml.NVML_ERROR_NOT_FOUND)


def test_a_gpu_is_found_by_each_of_its_names(start: Start) -> None:
    """Index, UUID, serial number and place on the bus, in both spellings, are the same GPU."""
    start("h100x8")
    uuid = "GPU-8c3f52aa-0d4b-7e21-b6a0-000000000003"
    found = [
        gpu(3),
        pynvml.nvmlDeviceGetHandleByUUID(uuid),
        pynvml.nvmlDeviceGetHandleBySerial("1653723015803"),
        pynvml.nvmlDeviceGetHandleByPciBusId("00000000:61:00.0"),
        pynvml.nvmlDeviceGetHandleByPciBusId("0000:61:00.0"),
    ]

    assert [uuid] * 5 == [pynvml.nvmlDeviceGetUUID(each) for each in found]
    assert [3] * 5 == [pynvml.nvmlDeviceGetIndex(each) for each in found]
    assert pynvml.NVML_ERROR_NOT_FOUND == code(pynvml.nvmlDeviceGetHandleByUUID, "GPU-none")
    assert pynvml.NVML_ERROR_NOT_FOUND == code(pynvml.nvmlDeviceGetHandleByPciBusId, "0000:99:00.0")


# Functions of a GPU of the scenario h100x8 (the third, where it matters), and what they return.
H100 = [
    ("nvmlDeviceGetName", (), "NVIDIA H100 80GB HBM3"),
    ("nvmlDeviceGetSerial", (), "1653723015802"),
    ("nvmlDeviceGetBoardPartNumber", (), "692-2G520-0200-000"),
    ("nvmlDeviceGetVbiosVersion", (), "96.00.74.00.01"),
    ("nvmlDeviceGetMinorNumber", (), 2),
    ("nvmlDeviceGetBoardId", (), 6912),
    ("nvmlDeviceGetMultiGpuBoard", (), 0),
    ("nvmlDeviceGetBrand", (), pynvml.NVML_BRAND_NVIDIA),
    ("nvmlDeviceGetArchitecture", (), pynvml.NVML_DEVICE_ARCH_HOPPER),
    ("nvmlDeviceGetCudaComputeCapability", (), (9, 0)),
    ("nvmlDeviceGetNumGpuCores", (), 16896),
    ("nvmlDeviceGetMemoryBusWidth", (), 5120),
    ("nvmlDeviceGetPersistenceMode", (), 1),
    ("nvmlDeviceGetComputeMode", (), 0),
    ("nvmlDeviceGetDisplayActive", (), 0),
    ("nvmlDeviceGetDisplayMode", (), 1),
    ("nvmlDeviceGetPowerSource", (), 0),
    ("nvmlDeviceGetAccountingMode", (), 0),
    ("nvmlDeviceGetEncoderUtilization", (), [0, 167000]),
    ("nvmlDeviceGetDecoderUtilization", (), [0, 167000]),
    ("nvmlDeviceGetJpgUtilization", (), [0, 167000]),
    ("nvmlDeviceGetOfaUtilization", (), [0, 167000]),
    ("nvmlDeviceGetPowerUsage", (), 650_000),
    ("nvmlDeviceGetPowerManagementMode", (), 1),
    ("nvmlDeviceGetPowerManagementLimit", (), 700_000),
    ("nvmlDeviceGetPowerManagementDefaultLimit", (), 700_000),
    ("nvmlDeviceGetPowerManagementLimitConstraints", (), [200_000, 700_000]),
    ("nvmlDeviceGetEnforcedPowerLimit", (), 700_000),
    ("nvmlDeviceGetTotalEnergyConsumption", (), 5_006_500_000),
    ("nvmlDeviceGetPerformanceState", (), 0),
    ("nvmlDeviceGetPowerState", (), 0),
    ("nvmlDeviceGetTemperature", (0,), 62),
    ("nvmlDeviceGetTemperatureV", (0,), 62),
    ("nvmlDeviceGetTemperatureThreshold", (0,), 92),
    ("nvmlDeviceGetTemperatureThreshold", (1,), 89),
    ("nvmlDeviceGetTemperatureThreshold", (2,), 95),
    ("nvmlDeviceGetTemperatureThreshold", (3,), 87),
    ("nvmlDeviceGetMarginTemperature", (), 22),
    ("nvmlDeviceGetClockInfo", (pynvml.NVML_CLOCK_GRAPHICS,), 1755),
    ("nvmlDeviceGetClockInfo", (pynvml.NVML_CLOCK_SM,), 1755),
    ("nvmlDeviceGetClockInfo", (pynvml.NVML_CLOCK_MEM,), 2619),
    ("nvmlDeviceGetClockInfo", (pynvml.NVML_CLOCK_VIDEO,), 1545),
    ("nvmlDeviceGetMaxClockInfo", (pynvml.NVML_CLOCK_SM,), 1980),
    ("nvmlDeviceGetClock", (pynvml.NVML_CLOCK_MEM, pynvml.NVML_CLOCK_ID_CURRENT), 2619),
    ("nvmlDeviceGetClock", (pynvml.NVML_CLOCK_GRAPHICS, pynvml.NVML_CLOCK_ID_CUSTOMER_BOOST_MAX), 1980),
    ("nvmlDeviceGetApplicationsClock", (pynvml.NVML_CLOCK_MEM,), 2619),
    ("nvmlDeviceGetMaxCustomerBoostClock", (pynvml.NVML_CLOCK_GRAPHICS,), 1980),
    ("nvmlDeviceGetCurrentClocksEventReasons", (), 4),
    ("nvmlDeviceGetSupportedClocksEventReasons", (), 0x1FF),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", (), 4),
    ("nvmlDeviceGetSupportedClocksThrottleReasons", (), 0x1FF),
    ("nvmlDeviceGetEccMode", (), [1, 1]),
    ("nvmlDeviceGetTotalEccErrors", (0, 0), 2),
    ("nvmlDeviceGetTotalEccErrors", (1, 0), 0),
    ("nvmlDeviceGetTotalEccErrors", (0, 1), 17),
    ("nvmlDeviceGetTotalEccErrors", (1, 1), 1),
    ("nvmlDeviceGetMemoryErrorCounter", (0, 0, pynvml.NVML_MEMORY_LOCATION_DRAM), 2),
    ("nvmlDeviceGetRemappedRows", (), (0, 1, 0, 0)),
    ("nvmlDeviceGetPcieThroughput", (pynvml.NVML_PCIE_UTIL_TX_BYTES,), 1_200_000),
    ("nvmlDeviceGetPcieThroughput", (pynvml.NVML_PCIE_UTIL_RX_BYTES,), 3_400_000),
    ("nvmlDeviceGetCurrPcieLinkGeneration", (), 5),
    ("nvmlDeviceGetCurrPcieLinkWidth", (), 16),
    ("nvmlDeviceGetMaxPcieLinkGeneration", (), 5),
    ("nvmlDeviceGetGpuMaxPcieLinkGeneration", (), 5),
    ("nvmlDeviceGetMaxPcieLinkWidth", (), 16),
    ("nvmlDeviceGetPcieReplayCounter", (), 3),
    ("nvmlDeviceGetPcieSpeed", (), 32_000),
    ("nvmlDeviceGetPcieLinkMaxSpeed", (), 5),
    ("nvmlDeviceGetNvLinkState", (17,), 1),
    ("nvmlDeviceGetNvLinkVersion", (0,), 7),
    ("nvmlDeviceGetNvLinkCapability", (0, pynvml.NVML_NVLINK_CAP_P2P_SUPPORTED), 1),
    ("nvmlDeviceGetNvLinkErrorCounter", (0, pynvml.NVML_NVLINK_ERROR_DL_REPLAY), 0),
    ("nvmlDeviceGetNvLinkRemoteDeviceType", (0,), pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH),
    ("nvmlDeviceGetNvLinkUtilizationCounter", (0, 0), (66_666, 55_555)),
    ("nvmlDeviceGetSupportedEventTypes", (), 0x1F9F),
    ("nvmlDeviceGetMigMode", (), [0, 0]),
    ("nvmlDeviceGetMaxMigDeviceCount", (), 7),
    ("nvmlGpmQueryIfStreamingEnabled", (), 0),
]


def test_functions_return_what_the_scenario_says(start: Start) -> None:
    """Each one that returns a plain value."""
    start("h100x8").add("system now = 10")
    handle = gpu(2)

    known = [each for each in H100 if hasattr(pynvml, each[0])]  # the oldest pynvml lacks a few

    assert len(H100) - len(known) < 5
    assert known == [(name, arguments, getattr(pynvml, name)(handle, *arguments)) for name, arguments, _ in known]


def test_functions_that_return_structs(start: Start) -> None:
    """Their layout is the one that pynvml expects."""
    start("h100x8").add("system now = 10")
    handle = gpu(1)
    second = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    pci = pynvml.nvmlDeviceGetPciInfo(handle)

    assert {"total": 85520809984, "used": 69372018688, "free": 16148791296} == values(
        pynvml.nvmlDeviceGetMemoryInfo(handle)
    )
    assert (85520809984, 652541952, 68719476736, 16148791296) == (
        second.total,
        second.reserved,
        second.used,
        second.free,
    )
    assert {"bar1Total": 137438953472, "bar1Free": 137436856320, "bar1Used": 2097152} == values(
        pynvml.nvmlDeviceGetBAR1MemoryInfo(handle)
    )
    assert {"gpu": 91, "memory": 47} == values(pynvml.nvmlDeviceGetUtilizationRates(handle))
    assert ("00000000:43:00.0", "0000:43:00.0", 0, 0x43, 0, 0x233010DE) == (
        pci.busId,
        pci.busIdLegacy,
        pci.domain,
        pci.bus,
        pci.device,
        pci.pciDeviceId,
    )
    assert {"referenceTime": 10_000_000, "violationTime": 122_500_000_000} == values(
        pynvml.nvmlDeviceGetViolationStatus(handle, pynvml.NVML_PERF_POLICY_POWER)
    )
    assert {"max": 2559, "high": 1, "partial": 0, "low": 0, "none": 0} == values(
        pynvml.nvmlDeviceGetRowRemapperHistogram(handle)
    )
    assert 2 == pynvml.nvmlDeviceGetDetailedEccErrors(handle, 0, 0).deviceMemory


def test_fans_and_retired_pages(start: Start) -> None:
    """What an H100 does not have."""
    start("geforce").add(
        "gpu 0 fans = 2",
        "gpu 0 fan_percent.1 = 41",
        "gpu 0 fan_target_percent = 30",
        "gpu 0 fan_min_percent = 20",
        "gpu 0 fan_max_percent = 100",
        "gpu 0 retired_pages.0 = 1",
        "gpu 0 retired_pages.1 = 2",
        "gpu 0 retired_pending = 1",
    )

    assert (2, 23) == (pynvml.nvmlDeviceGetNumFans(gpu()), pynvml.nvmlDeviceGetFanSpeed(gpu()))
    assert [23, 41] == [pynvml.nvmlDeviceGetFanSpeed_v2(gpu(), fan) for fan in range(2)]
    assert pynvml.NVML_ERROR_INVALID_ARGUMENT == code(pynvml.nvmlDeviceGetFanSpeed_v2, gpu(), 2)
    assert 30 == pynvml.nvmlDeviceGetTargetFanSpeed(gpu(), 0)
    assert [20, 100] == dump.min_max_fan_speed(gpu())
    assert (1, 2) == tuple(len(pynvml.nvmlDeviceGetRetiredPages(gpu(), cause)) for cause in range(2))
    assert 2 == len(pynvml.nvmlDeviceGetRetiredPages_v2(gpu(), 1))
    assert 1 == pynvml.nvmlDeviceGetRetiredPagesPendingStatus(gpu())


@pytest.mark.skipif("nvmlDeviceGetFanSpeedRPM" not in vars(pynvml), reason="the oldest pynvml does not have it")
def test_rotations_of_fans(start: Start) -> None:
    """Of the first one, a minute."""
    start("geforce").add("gpu 0 fans = 2", "gpu 0 fan_rpm = 1500")

    assert 1500 == pynvml.nvmlDeviceGetFanSpeedRPM(gpu())


def test_what_is_not_mentioned_is_not_supported(start: Start) -> None:
    """Never 0."""
    start("geforce")
    unsupported: list[tuple[str, tuple[int, ...]]] = [
        ("nvmlDeviceGetTotalEnergyConsumption", ()),
        ("nvmlDeviceGetSerial", ()),
        ("nvmlDeviceGetEccMode", ()),
        ("nvmlDeviceGetTotalEccErrors", (0, 0)),
        ("nvmlDeviceGetRemappedRows", ()),
        ("nvmlDeviceGetNvLinkState", (0,)),
        ("nvmlDeviceGetMigMode", ()),
        ("nvmlDeviceGetMarginTemperature", ()),
        ("nvmlDeviceGetPcieThroughput", (0,)),
        ("nvmlDeviceGetViolationStatus", (0,)),
    ]
    known = [each for each in unsupported if hasattr(pynvml, each[0])]  # the oldest pynvml lacks one

    assert len(unsupported) - len(known) < 2
    assert [(name, pynvml.NVML_ERROR_NOT_SUPPORTED) for name, _ in known] == [
        (name, code(getattr(pynvml, name), gpu(), *arguments)) for name, arguments in known
    ]
    assert 0 == pynvml.nvmlGpmQueryDeviceSupport(gpu()).isSupportedDevice


def test_a_struct_of_another_version_is_refused(start: Start) -> None:
    """As a driver does that is older than the program."""
    start("h100x8")

    assert pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH == code(
        lambda: pynvml.nvmlDeviceGetMemoryInfo(gpu(), version=0x03000028)
    )


def test_fields_have_their_own_errors_and_types(start: Start) -> None:
    """One call reads many; each says for itself whether there is a value, and in which member it is."""
    start("h100x8").add("system now = 10", "gpu 0 field.94 = !GPU_IS_LOST", "gpu 0 field.190 = double: 1.5")
    found = fields(gpu(), 83, 186, 185, 82, 3, 193, 94, 190, 197, (138, ALL_LINKS), (138, 0), (139, ALL_LINKS), 300, 0)

    assert [
        (0, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, 5_006_500_000),
        (0, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, 662_000),
        (0, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, 648_000),
        (0, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, 71),
        (0, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, 2),
        (0, pynvml.NVML_VALUE_TYPE_SIGNED_INT, -8),
        (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, 0),
        (0, pynvml.NVML_VALUE_TYPE_DOUBLE, 1.5),
        (0, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, 19_000_000_000),
        (0, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, 3_000_000),
        (0, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, 55_555),
        (0, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, 5_000_000),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, 0),
        (pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, 0),
    ] == found


def test_processes(start: Start) -> None:
    """This process is among them; what a driver cannot tell is None."""
    start("h100x8").add("process 0 graphics 77 none", "process 0 mps 78 1024 gi=1 ci=2")
    own, other = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu())
    samples = pynvml.nvmlDeviceGetProcessUtilization(gpu(), 0)
    newer = pynvml.nvmlDeviceGetProcessesUtilizationInfo(gpu(), 0)
    listed = pynvml.nvmlDeviceGetRunningProcessDetailList(
        gpu(), pynvml.nvmlProcessDetailList_v1, pynvml.NVML_PROCESS_MODE_COMPUTE
    )

    assert (os.getpid(), 1073741824, NO_INSTANCE) == (own.pid, own.usedGpuMemory, own.gpuInstanceId)
    assert (4242, 67108864000) == (other.pid, other.usedGpuMemory)
    assert 2 == len(pynvml.nvmlDeviceGetComputeRunningProcesses_v2(gpu()))
    assert [(77, None)] == [(p.pid, p.usedGpuMemory) for p in pynvml.nvmlDeviceGetGraphicsRunningProcesses(gpu())]
    assert [(78, 1, 2)] == [
        (p.pid, p.gpuInstanceId, p.computeInstanceId) for p in pynvml.nvmlDeviceGetMPSComputeRunningProcesses(gpu())
    ]
    assert [os.getpid(), 4242] == [each.pid for each in listed]
    assert [(4242, 90, 44, 0, 0)] == [(s.pid, s.smUtil, s.memUtil, s.encUtil, s.decUtil) for s in samples]
    assert [(4242, 90, 44, 0)] == [(s.pid, s.smUtil, s.memUtil, s.jpgUtil) for s in newer]
    assert [os.getpid()] == [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu(1))]
    assert pynvml.NVML_ERROR_NOT_FOUND == code(pynvml.nvmlDeviceGetProcessUtilization, gpu(1), 0)


def test_mig_instances(start: Start) -> None:
    """They are devices of their own, with memory and processes; their GPU has no utilization."""
    start("a100_mig")
    whole = gpu()
    parts = [pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, index) for index in range(2)]
    first = pynvml.nvmlDeviceGetAttributes(parts[0])

    assert ([1, 1], [0, 0]) == (pynvml.nvmlDeviceGetMigMode(whole), pynvml.nvmlDeviceGetMigMode(gpu(1)))
    assert 7 == pynvml.nvmlDeviceGetMaxMigDeviceCount(whole)
    assert pynvml.NVML_ERROR_NOT_FOUND == code(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, whole, 2)
    assert pynvml.NVML_ERROR_NOT_FOUND == code(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu(1), 0)
    assert ["MIG-c6d4f1ef", "MIG-1a2b3c4d"] == [pynvml.nvmlDeviceGetUUID(part)[:12] for part in parts]
    assert "NVIDIA A100-SXM4-40GB MIG 3g.20gb" == pynvml.nvmlDeviceGetName(parts[0])
    assert (0, 1) == tuple(pynvml.nvmlDeviceIsMigDeviceHandle(each).value for each in (whole, parts[0]))
    assert pynvml.nvmlDeviceGetUUID(whole) == pynvml.nvmlDeviceGetUUID(
        pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(parts[1])
    )
    assert [(2, 0), (9, 0)] == [
        (pynvml.nvmlDeviceGetGpuInstanceId(part), pynvml.nvmlDeviceGetComputeInstanceId(part)) for part in parts
    ]
    assert (42, 3, 3, 19968) == (
        first.multiprocessorCount,
        first.sharedCopyEngineCount,
        first.gpuInstanceSliceCount,
        first.memorySizeMB,
    )
    assert [4294967296, 1073741824] == [pynvml.nvmlDeviceGetMemoryInfo(part).used for part in parts]
    assert [[4242], [os.getpid()]] == [
        [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(part)] for part in parts
    ]
    assert [9, 2] == [process.gpuInstanceId for process in pynvml.nvmlDeviceGetComputeRunningProcesses(whole)]
    assert [pynvml.NVML_ERROR_NOT_SUPPORTED] * 3 == [
        code(pynvml.nvmlDeviceGetUtilizationRates, each) for each in (whole, *parts)
    ]
    found = pynvml.nvmlDeviceGetHandleByUUID("MIG-1a2b3c4d-42e4-5de3-91c7-45d71c87eb40")
    assert 1 == pynvml.nvmlDeviceGetIndex(found)


def metrics(first: Any, second: Any, *ids: int) -> list[tuple[int, float]]:
    """Return error and value of GPM metrics between two samples."""
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version, request.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, len(ids)
    request.sample1, request.sample2 = first, second
    for index, metric in enumerate(ids):
        request.metrics[index].metricId = metric
    pynvml.nvmlGpmMetricsGet(request)
    return [(request.metrics[index].nvmlReturn, request.metrics[index].value) for index in range(len(ids))]


def test_gpm(start: Start) -> None:
    """Two samples of one device, the older first; values are those of the second's moment."""
    stub = start("h100x8")
    stub.add("system now = 1", "gpu 0 gpm.2 = ramp(0, 10)", "gpu 0 gpm.3 = !NO_DATA")
    first, second = (pynvml.nvmlGpmSampleAlloc() for _ in range(2))
    empty = code(metrics, first, second, 2)
    pynvml.nvmlGpmSampleGet(gpu(), first)
    stub.add("system now = 2")
    pynvml.nvmlGpmSampleGet(gpu(), second)
    stub.add("system now = 9")

    assert 1 == pynvml.nvmlGpmQueryDeviceSupport(gpu()).isSupportedDevice
    assert [(0, 20.0), (0, 62.75), (21, 0.0), (3, 0.0), (2, 0.0)] == metrics(first, second, 2, 5, 3, 30, 0)
    assert (2, 2) == (empty, code(metrics, second, first, 2))
    for sample in (first, second):
        pynvml.nvmlGpmSampleFree(sample)


def test_gpm_of_a_mig_instance(start: Start) -> None:
    """By the id of the GPU instance."""
    start("a100_mig").add("gpu 0 gpm_support = 1", "mig 0.1 gpm.2 = 37.5")
    first, second = (pynvml.nvmlGpmSampleAlloc() for _ in range(2))
    for sample in (first, second):
        pynvml.nvmlGpmMigSampleGet(gpu(), 9, sample)

    assert [(0, 37.5)] == metrics(first, second, 2)
    assert pynvml.NVML_ERROR_NOT_SUPPORTED == code(pynvml.nvmlGpmSampleGet, gpu(1), first)
    assert pynvml.NVML_ERROR_INVALID_ARGUMENT == code(pynvml.nvmlGpmMigSampleGet, gpu(), 5, first)


def test_xids_arrive_as_events(start: Start) -> None:
    """Each once to a set that registered for it; a wait for none ends in a timeout."""
    stub = start("a100_mig")
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(gpu(1), pynvml.nvmlEventTypeXidCriticalError, events)
    none = code(pynvml.nvmlEventSetWait_v2, events, 20)
    stub.add("event 0 xid 31", "event 1 xid 48", "event 1 16 5")
    found = pynvml.nvmlEventSetWait_v2(events, 0)
    again = code(pynvml.nvmlEventSetWait_v2, events, 0)
    pynvml.nvmlDeviceRegisterEvents(gpu(0), pynvml.nvmlEventTypeXidCriticalError, events)
    other = pynvml.nvmlEventSetWait_v2(events, 0)

    assert (10, 10) == (none, again)
    assert (8, 48, NO_INSTANCE) == (found.eventType, found.eventData, found.gpuInstanceId)
    assert pynvml.nvmlDeviceGetUUID(gpu(1)) == pynvml.nvmlDeviceGetUUID(found.device)
    assert (31, pynvml.nvmlDeviceGetUUID(gpu())) == (other.eventData, pynvml.nvmlDeviceGetUUID(other.device))
    assert 3 == code(pynvml.nvmlDeviceRegisterEvents, gpu(), 0x8000, events)
    pynvml.nvmlEventSetFree(events)


def test_an_event_ends_a_wait(start: Start) -> None:
    """Also one that the scenario gets while something waits."""
    stub = start("h100x8")
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(gpu(), pynvml.nvmlEventTypeXidCriticalError, events)
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(pynvml.nvmlEventSetWait_v2(events, 60_000).eventData))
    waiting.start()
    becomes(1, lambda: stub.running("nvmlEventSetWait_v2"))
    stub.add("event 0 xid 94")
    waiting.join(30)
    pynvml.nvmlEventSetFree(events)

    assert [94] == found


def test_a_gpu_gets_lost(start: Start) -> None:
    """Its XID can be had; then it answers nothing, the other does."""
    stub = start("lost")
    stub.add("system now = 0")
    handles = [gpu(0), gpu(1)]
    events = pynvml.nvmlEventSetCreate()
    for handle in handles:
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    before = [pynvml.nvmlDeviceGetPowerUsage(handle) for handle in handles]
    stub.add("system now = 10")

    assert [500_000, 500_000] == before
    assert 79 == pynvml.nvmlEventSetWait_v2(events, 0).eventData
    assert pynvml.NVML_ERROR_GPU_IS_LOST == code(pynvml.nvmlEventSetWait_v2, events, 0)
    lost = [
        (pynvml.nvmlDeviceGetPowerUsage, (handles[1],)),
        (pynvml.nvmlDeviceGetFieldValues, (handles[1], [83])),
        (pynvml.nvmlDeviceGetUUID, (handles[1],)),
        (pynvml.nvmlDeviceGetHandleByIndex, (1,)),
    ]
    assert [pynvml.NVML_ERROR_GPU_IS_LOST] * 4 == [code(call, *arguments) for call, arguments in lost]
    assert (2, 500_000) == (pynvml.nvmlDeviceGetCount(), pynvml.nvmlDeviceGetPowerUsage(handles[0]))


# ------------------------------------------------------------------------------------------------------- change in time


def test_values_change_with_time(start: Start) -> None:
    """Ramps and steps follow the clock; the clock can be the test's."""
    stub = start("worked")
    stub.add(
        "gpu 0 energy_mj = ramp(1000, 350)",
        "gpu 0 memory_used_bytes = ramp(0, 100, 450)",
        "gpu 0 temperature_c = steps(2; 60, 70, 80)",
        "gpu 0 power_mw = loop(1; 1000, 2000)",
    )
    found = []
    for now in (0, 1.0, 2.5, 5, 100):
        stub.add(f"system now = {now}")
        found.append(
            (
                pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu()),
                pynvml.nvmlDeviceGetMemoryInfo(gpu()).used,
                pynvml.nvmlDeviceGetTemperature(gpu(), 0),
                pynvml.nvmlDeviceGetPowerUsage(gpu()),
            )
        )

    assert [
        (1000, 0, 60, 1000),
        (1350, 100, 60, 2000),
        (1875, 250, 70, 1000),
        (2750, 450, 80, 2000),
        (36000, 450, 80, 1000),
    ] == found


def test_values_change_with_each_reading(start: Start) -> None:
    """A list stays at its last value, a cycle starts again; each function and field follows it for itself."""
    start("worked").add(
        "gpu 0 power_mw = list(1, !TIMEOUT, 3)",
        "gpu 0 temperature_c = cycle(50, 60)",
    )

    assert [0, 10, 0, 0] == [code(pynvml.nvmlDeviceGetPowerUsage, gpu()) for _ in range(4)]
    assert [(0, 1, 1), (0, 1, 1)] == fields(gpu(), 185, 186)
    assert 3 == pynvml.nvmlDeviceGetPowerUsage(gpu())
    assert [50, 60, 50, 60] == [pynvml.nvmlDeviceGetTemperature(gpu(), 0) for _ in range(4)]


def test_time_passes_by_itself(start: Start) -> None:
    """Without a clock of the test's, it is that of the machine."""
    start("worked").add("gpu 0 energy_mj = ramp(0, 1000000)")
    before = pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu())
    becomes(True, lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu()) > before)


def test_whole_numbers_are_exact(start: Start) -> None:
    """Up to the greatest that fits, where a double would have lost the last digits."""
    start("worked").add("gpu 0 energy_mj = 18446744073709551613", "gpu 0 field.83 = 9007199254740993")

    assert 18446744073709551613 == pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu())
    assert [(0, 3, 9007199254740993)] == fields(gpu(), 83)


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_errors_are_injected_as_told(start: Start) -> None:
    """By function or pattern, device, and number of the call."""
    stub = start("h100x8")
    stub.add(
        "error nvmlDeviceGetPowerUsage@0 NO_PERMISSION",
        "error nvmlDeviceGet*Utilization@1 UNKNOWN",
        "error nvmlDeviceGetTemperature TIMEOUT calls 2",
        "error nvmlDeviceGetName INSUFFICIENT_SIZE calls 2-3",
        "error nvmlDeviceGetSerial 15 calls 3-",
        "error nvmlDeviceGetMinorNumber IN_USE every 2",
        "error nvmlDeviceGetHandleByIndex_v2@7 GPU_IS_LOST",
    )
    first, second = gpu(0), gpu(1)

    assert [4, 4, 0] == [code(pynvml.nvmlDeviceGetPowerUsage, each) for each in (first, first, second)]
    assert [0, 999, 999] == [
        code(pynvml.nvmlDeviceGetEncoderUtilization, first),
        code(pynvml.nvmlDeviceGetEncoderUtilization, second),
        code(pynvml.nvmlDeviceGetDecoderUtilization, second),
    ]
    assert [0, 10, 0] == [code(pynvml.nvmlDeviceGetTemperature, first, 0) for _ in range(3)]
    assert [0, 7, 7, 0] == [code(pynvml.nvmlDeviceGetName, first) for _ in range(4)]
    assert [0, 0, 15, 15] == [code(pynvml.nvmlDeviceGetSerial, first) for _ in range(4)]
    assert [0, 19, 0, 19] == [code(pynvml.nvmlDeviceGetMinorNumber, first) for _ in range(4)]
    assert [0, 15] == [code(pynvml.nvmlDeviceGetHandleByIndex, index) for index in (6, 7)]


def test_errors_of_one_field_or_metric(start: Start) -> None:
    """The others of the same call have their values."""
    start("h100x8").add("error field.83@0 UNKNOWN calls 2", "error gpm.5 NO_DATA")
    first, second = (pynvml.nvmlGpmSampleAlloc() for _ in range(2))
    for sample in (first, second):
        pynvml.nvmlGpmSampleGet(gpu(), sample)

    assert [[0, 0], [999, 0], [0, 0]] == [[each[0] for each in fields(gpu(), 83, 82)] for _ in range(3)]
    assert [0, 0] == [each[0] for each in fields(gpu(1), 83, 82)]
    assert [(0, 91.25), (21, 0.0)] == metrics(first, second, 2, 5)


def test_every_error_of_nvml_can_be_injected(start: Start) -> None:
    """By the name that it has in pynvml, which raises the class of that name."""
    stub = start("worked")
    errors = {
        name.removeprefix("NVML_ERROR_"): value
        for name, value in vars(pynvml).items()
        if name.startswith("NVML_ERROR_") and name != "NVML_ERROR_RESET_TYPE_NOT_SUPPORTED"
    }
    found = {}
    for name in errors:
        stub.write(f"gpus = 1\nerror nvmlDeviceGetCount_v2 {name}\n")
        found[name] = code(pynvml.nvmlDeviceGetCount)

    assert errors == found


@pytest.mark.parametrize("name", ["DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH", "NO_PERMISSION"])
def test_the_start_itself_may_fail(tmp_path: Path, name: str) -> None:
    """As with a driver that is not loaded or does not fit."""
    with Stub(tmp_path, f"gpus = 1\nerror nvmlInitWithFlags {name} calls 1\n").loaded():
        assert [getattr(pynvml, f"NVML_ERROR_{name}"), 0] == [code(pynvml.nvmlInit) for _ in range(2)]


def test_an_older_library_lacks_functions(tmp_path: Path) -> None:
    """The symbol is not there, which pynvml says in its own way; another library follows in the same process."""
    scenario = (SCENARIOS / "h100x8.nvml").read_text()
    older = f"{scenario}system without = nvmlDeviceGetMemoryInfo_v2, nvmlGpmSampleGet\n"
    found = []
    for number, text in enumerate((older, scenario)):
        with Stub(tmp_path / str(number), text).loaded():
            pynvml.nvmlInit()
            found.append(
                [code(pynvml.nvmlDeviceGetMemoryInfo, gpu(), *version) for version in ((pynvml.nvmlMemory_v2,), ())]
            )

    assert [[pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, 0], [0, 0]] == found


def test_a_hang_lasts_as_long_as_the_scenario_says(start: Start) -> None:
    """It is seen from outside, other changes do not end it, and the call returns its value afterwards."""
    hang = "hang nvmlDeviceGetPowerUsage@0 60"
    stub = start("worked")
    stub.add(hang)
    handle = gpu()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(pynvml.nvmlDeviceGetPowerUsage(handle)))
    thread.start()
    becomes(1, lambda: stub.running("nvmlDeviceGetPowerUsage"))
    stub.add("gpu 0 power_mw = 123")
    thread.join(0.1)
    waits = thread.is_alive()
    stub.remove(hang)
    thread.join(30)

    assert (True, [123], 0) == (waits, found, stub.running("nvmlDeviceGetPowerUsage"))


def test_a_hang_ends_by_itself(start: Start) -> None:
    """Of the calls that are told to."""
    start("worked").add("hang nvmlDeviceGetPowerUsage 0.3 calls 2")
    took = []
    for _ in range(3):
        before = time.monotonic()
        pynvml.nvmlDeviceGetPowerUsage(gpu())
        took.append(time.monotonic() - before)

    assert took[1] >= 0.3


# ------------------------------------------------------------------------------------------------------------- counting


def test_calls_are_counted(start: Start) -> None:
    """Of functions and fields, at all and by device; failing ones too."""
    stub = start("a100_mig")
    first, part = gpu(0), pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu(0), 1)
    for handle in (first, gpu(1), part, part):
        code(pynvml.nvmlDeviceGetUtilizationRates, handle)
        pynvml.nvmlDeviceGetFieldValues(handle, [83, 82])
    pynvml.nvmlDeviceGetFieldValues(first, [83])

    assert [4, 1, 1, 2, 0] == [
        stub.count("nvmlDeviceGetUtilizationRates"),
        stub.count("nvmlDeviceGetUtilizationRates", gpu=0),
        stub.count("nvmlDeviceGetUtilizationRates", gpu=1),
        stub.count("nvmlDeviceGetUtilizationRates", gpu=0, mig=1),
        stub.count("nvmlDeviceGetUtilizationRates", gpu=0, mig=0),
    ]
    assert [5, 2, 4, 0] == [
        stub.count("field.83"),
        stub.count("field.83", gpu=0),
        stub.count("field.82"),
        stub.count("field.94"),
    ]
    assert [1, 1, 3, 0] == [
        stub.count("nvmlInitWithFlags"),
        stub.count("nvmlDeviceGetHandleByIndex_v2", gpu=1),
        stub.count("nvmlDeviceGetHandleByIndex_v2"),
        stub.count("nvmlShutdown"),
    ]


def test_misuse_is_noted(tmp_path: Path) -> None:
    """Two calls at once, an end while one runs, and the use of what was freed."""
    stub = Stub(tmp_path, "worked")
    with stub.loaded():
        pynvml.nvmlInit()
        handle = gpu()
        sample = pynvml.nvmlGpmSampleAlloc()
        pynvml.nvmlGpmSampleFree(sample)
        again = code(pynvml.nvmlGpmSampleFree, sample)
        stub.add("hang nvmlDeviceGetPowerUsage 60")
        thread = threading.Thread(target=pynvml.nvmlDeviceGetPowerUsage, args=(handle,))
        thread.start()
        becomes(1, lambda: stub.running("nvmlDeviceGetPowerUsage"))
        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
        stub.remove("hang nvmlDeviceGetPowerUsage 60")
        thread.join(30)

    assert pynvml.NVML_ERROR_INVALID_ARGUMENT == again
    assert {"concurrent": 2, "shutdown_while_busy": 1, "freed": 1} == stub.misuse()


def forked(read: Callable[[], int]) -> int:
    """Return what a function returns in a forked child."""
    child = os.fork()
    if not child:
        os._exit(read())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_may_have_to_start_anew(start: Start) -> None:
    """As told; its calls are counted with its parent's."""
    stub = start("worked")
    handle = gpu()
    goes_on = forked(lambda: code(pynvml.nvmlDeviceGetPowerUsage, handle))
    stub.add("system fork_safe = 0")
    pynvml.nvmlDeviceGetCount()
    anew = forked(lambda: code(pynvml.nvmlInit))

    assert (0, 0, 1) == (goes_on, anew, stub.count("nvmlDeviceGetPowerUsage"))


def test_a_forked_child_that_does_not_start_anew(tmp_path: Path) -> None:
    """Is told that nothing is initialised."""
    with Stub(tmp_path, "gpus = 1\nsystem fork_safe = 0\ngpu 0 power_mw = 1\n").loaded():
        pynvml.nvmlInit()
        handle = gpu()

        assert 1 == forked(lambda: code(pynvml.nvmlDeviceGetPowerUsage, handle))
        assert 0 == code(pynvml.nvmlDeviceGetPowerUsage, handle)


# ---------------------------------------------------------------------------------------------------------------- dumps


def recorded(folder: Path, scenario: str, rounds: int = 1) -> Any:
    """Return a dump of what the stub says under a scenario, as it comes back from a file."""
    stub = Stub(folder, scenario)
    with stub.loaded():
        pynvml.nvmlInit()
        found = dump.record(rounds)
        pynvml.nvmlShutdown()
    assert {} == stub.misuse()
    for call in found["calls"]:
        call.pop("t_s", None)
    return json.loads(json.dumps(found))


@pytest.mark.parametrize("name", ["worked", "h100x8", "a100_mig", "geforce", "none"])
def test_a_dump_is_replayed_as_it_was(tmp_path: Path, name: str) -> None:
    """What was recorded, errors included, is what the scenario made of it says."""
    still = "system now = 5\n"
    first = recorded(tmp_path / "a", (SCENARIOS / f"{name}.nvml").read_text() + still)

    assert first == recorded(tmp_path / "b", dump.scenario(first) + still)


def test_a_dump_of_many_rounds_is_replayed_in_turn(tmp_path: Path) -> None:
    """Values that changed come one after the other."""
    scenario = (
        "gpus = 1\nsystem now = 5\ngpu 0 uuid = GPU-a\n"
        "gpu 0 power_mw = list(1, 2, !TIMEOUT)\ngpu 0 field.83 = list(7, 8, 9)\n"
    )
    first = recorded(tmp_path / "a", scenario, rounds=3)
    lines = dump.scenario(first).splitlines()

    assert "gpu 0 field.83 = ull: list(7, 8, 9)" in lines
    assert [1, 2, 10] == [
        call.get("result", call.get("error"))
        for call in first["calls"]
        if "nvmlDeviceGetPowerUsage" == call["function"]
    ]
    assert first == recorded(tmp_path / "b", dump.scenario(first) + "system now = 5\n", rounds=3)


def test_what_an_old_driver_lacks_is_lacking_in_its_replay(tmp_path: Path) -> None:
    """The older functions speak for the newer ones."""
    without = "nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetTemperatureV"
    scenario = (SCENARIOS / "geforce.nvml").read_text() + f"system now = 5\nsystem without = {without}\n"
    first = recorded(tmp_path / "a", scenario)
    replay = dump.scenario(first)
    (lacking,) = [line.partition(" = ")[2] for line in replay.splitlines() if line.startswith("system without = ")]
    unknown = {name for name in dump.KEYS if not hasattr(pynvml, name)} - dump.WRAPPERS.keys()

    assert {*without.split(", "), *unknown} == set(lacking.split(", "))
    assert first == recorded(tmp_path / "b", replay + "system now = 5\n")


def test_what_needs_privileges_needs_them_in_its_replay(tmp_path: Path) -> None:
    """An error of a whole call is more than that of its parts."""
    scenario = (SCENARIOS / "h100x8.nvml").read_text()
    denied = "system now = 5\nerror nvmlGpmSampleGet NO_PERMISSION\nerror nvmlDeviceGetFieldValues@3 UNKNOWN\n"
    first = recorded(tmp_path / "a", scenario + denied)

    assert first == recorded(tmp_path / "b", dump.scenario(first) + "system now = 5\n")


def test_another_file_is_no_dump() -> None:
    """The message says which format is accepted."""
    with pytest.raises(ValueError, match=r"format=None .*accepted: 'crucible_otel\.nvml/1'"):
        dump.scenario({})
