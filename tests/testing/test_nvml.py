"""The GPUs that are not there."""

from __future__ import annotations

import threading

import pytest

from crucible_otel.gpu.backend import (
    BackendUnavailableError,
    DeviceFault,
    DeviceLostError,
    FastReading,
    GpuBackend,
    ProcessReading,
    SlowReading,
)
from crucible_otel.testing import FakeGpu, FakeNvml

GIB = 1024**3


def opened(*gpus: FakeGpu) -> FakeNvml:
    """Return a backend that is open, as its protocol."""
    nvml = FakeNvml(gpus)
    backend: GpuBackend = nvml
    backend.open()
    return nvml


def test_readings_are_what_the_test_says() -> None:
    """And what it does not say is absent."""
    gpu = FakeGpu(memory_used_bytes=40 * GIB, utilization_ratio=0.75, temperature_celsius=65.0, power_w=350.0)
    nvml = opened(gpu)
    reading = nvml.read_fast(nvml.devices()[0])

    assert (80 * GIB, 40 * GIB, 40 * GIB) == (
        reading.memory_total_bytes,
        reading.memory_used_bytes,
        reading.memory_free_bytes,
    )
    assert (0.75, {"die": 65.0}, 350.0) == (reading.utilization_ratio, reading.temperature_celsius, reading.power_w)
    assert (None, {}) == (reading.energy_j, reading.clock_hz)


def test_a_change_is_in_the_next_reading() -> None:
    """The GPU is the test's own, also while something samples it."""
    gpu = FakeGpu(energy_j=1.0)
    nvml = opened(gpu)
    device = nvml.devices()[0]
    before = nvml.read_fast(device).energy_j
    gpu.energy_j = 351.0

    assert (1.0, 351.0) == (before, nvml.read_fast(device).energy_j)


def test_the_rest_of_a_reading_is_given_as_one() -> None:
    """The attributes of the GPU are put on top of it."""
    fast = FastReading(temperature_celsius={"memory": 71.0}, clock_hz={"sm": 1.7e9}, power_w=1.0)
    slow = SlowReading(fan_ratio=(0.5,))
    nvml = opened(FakeGpu(fast=fast, slow=slow, temperature_celsius=60.0, process_memory_bytes=GIB, power_w=2.0))
    device = nvml.devices()[0]
    reading = nvml.read_fast(device)

    assert {"memory": 71.0, "die": 60.0} == reading.temperature_celsius
    assert ({"sm": 1.7e9}, 2.0) == (reading.clock_hz, reading.power_w)
    assert slow == nvml.read_slow(device)
    assert ProcessReading(memory_bytes=GIB) == nvml.read_process(device)


def test_devices_have_an_identity_each() -> None:
    """A divided GPU is followed by its instances, which know their parent."""
    nvml = opened(FakeGpu(name="A100", instances=[FakeGpu(mig_profile="3g.20gb"), FakeGpu()]), FakeGpu(uuid="GPU-b"))
    whole, first, second, other = nvml.devices()

    assert (True, False, False, False) == tuple(device.divided for device in (whole, first, second, other))
    assert (None, whole.uuid, whole.uuid, None) == tuple(device.parent_uuid for device in (whole, first, second, other))
    assert ("3g.20gb", "1g.10gb") == (first.mig_profile, second.mig_profile)
    assert ("GPU-b", 1, "550.54.15") == (other.uuid, other.index, other.driver_version)
    assert 4 == len({device.uuid for device in nvml.devices()})


def test_two_gpus_of_one_identity_are_refused() -> None:
    """The message names it."""
    with pytest.raises(ValueError, match=r"uuid='GPU-a' .*accepted: one of its own"):
        FakeNvml([FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-a")])


def test_a_lost_gpu_answers_nothing() -> None:
    """The others do."""
    gone = FakeGpu(lost=True)
    nvml = opened(gone, FakeGpu())
    first, second = nvml.devices()
    for read in (nvml.read_fast, nvml.read_slow, nvml.read_process):
        with pytest.raises(DeviceLostError, match=first.uuid):
            read(first)

    assert 0.0 == nvml.read_fast(second).utilization_ratio


def test_a_backend_may_fail_in_any_way() -> None:
    """What a GPU is to raise is raised."""
    nvml = opened(FakeGpu(error=OSError("broken")))
    with pytest.raises(OSError, match="broken"):
        nvml.read_fast(nvml.devices()[0])


def test_faults_are_reported_once() -> None:
    """In the order in which they happened."""
    gpu = FakeGpu()
    nvml = opened(gpu)
    nvml.report_fault(gpu, 48)
    nvml.report_fault(gpu, 79)

    assert [DeviceFault(uuid=gpu.uuid, code=48), DeviceFault(uuid=gpu.uuid, code=79)] == nvml.read_faults()
    assert [] == nvml.read_faults()


def test_there_may_be_no_library() -> None:
    """It says why, as NVML does."""
    with pytest.raises(BackendUnavailableError, match="no driver"):
        FakeNvml(unavailable="no driver").open()


def test_a_hang_lasts_until_it_is_left() -> None:
    """The call that waits returns afterwards."""
    nvml = opened(FakeGpu())
    device = nvml.devices()[0]
    found: list[FastReading] = []
    thread = threading.Thread(target=lambda: found.append(nvml.read_fast(device)))
    with nvml.hanging():
        thread.start()
        thread.join(0.05)
        waits = thread.is_alive()
    thread.join(30)

    assert (True, 1) == (waits, len(found))


def test_calls_are_counted() -> None:
    """And it is known whether the library is open."""
    nvml = opened(FakeGpu())
    before = nvml.is_open
    for _ in range(3):
        nvml.read_fast(nvml.devices()[0])
    nvml.close()

    assert {"open": 1, "devices": 3, "read_fast": 3, "close": 1} == nvml.calls
    assert (True, False) == (before, nvml.is_open)
