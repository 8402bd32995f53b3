"""The energy of runs, stages and epochs: on the span, as a metric, and true about what it is made of."""

from __future__ import annotations

import os
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.events.runtime import runtime
from crucible_otel.gpu import shared
from crucible_otel.gpu.backend import Device, ProcessReading
from crucible_otel.gpu.energy import MEASURED, Opening, ScopeEnergy, used_since
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.snapshot import EMPTY, DeviceState, GpuSnapshot
from crucible_otel.testing.nvml import FakeGpu, FakeNvml
from tests.captured import Capture, listen
from tests.gpu.fakes import eventually, found, watching

REACH_S = 15.0
USED, SOURCE, UNSAMPLED = (f"crucible.gpu.energy.{each}" for each in ("used", "source", "unsampled"))


def state(energy_j: float | None, power_w: float | None = None, number: int = 0, **more: Any) -> DeviceState:
    """Return a device that CUDA sees."""
    device = Device(uuid=f"GPU-{number}", index=number, model="m", divided=more.pop("divided", False))
    name = more.pop("name", f"cuda:{number}")
    return DeviceState(device=device, name=name, energy_j=energy_j, power_w=power_w, **more)


def at(taken_s: float, *states: DeviceState) -> GpuSnapshot:
    """Return a snapshot of a moment."""
    return GpuSnapshot(taken_s=taken_s, taken_ns=1, devices=states)


def used(opened_s: float, closed_s: float, *samples: GpuSnapshot) -> tuple[float, bool, float] | None:
    """Return energy, whether it is estimated and the time without samples of a scope, given the samples in order."""
    before = [each for each in samples if each.taken_s <= opened_s]
    after = [each for each in samples if each.taken_s > opened_s]
    opening = Opening(opened_s=opened_s, before=before[-1] if before else EMPTY, after=after[0] if after else None)
    use = used_since(opening, lambda: samples[-1], closed_s, REACH_S)
    return None if use is None else (use.energy_j, use.estimated, use.unsampled_s)


def test_energy_between_samples_is_interpolated_and_after_the_last_assumed() -> None:
    """100 J/s, then 300: from the middle of the first interval to 2 s behind the last sample, at 250 W."""
    samples = at(0, state(0.0)), at(10, state(1000.0)), at(20, state(4000.0, 250.0))

    assert (4000.0 - 500.0 + 2 * 250.0, False, 2.0) == used(5, 22, *samples)
    assert (3500.0, False, 0.0) == used(5, 20, *samples)


def test_without_a_sample_inside_power_is_all_there_is() -> None:
    """And that is said: the whole scope is without samples. Without power nothing is claimed."""
    assert (3 * 200.0, False, 3.0) == used(1, 4, at(0, state(7.0, 200.0)))
    assert used(1, 4, at(0, state(7.0))) is None


def test_a_power_is_not_assumed_for_ever() -> None:
    """Where the driver hangs: energy up to the last sample and a while, and how long there was none."""
    assert (1000.0 + REACH_S * 100.0, False, 190.0) == used(0, 200, at(0, state(0.0)), at(10, state(1000.0, 100.0)))
    assert used(100, 200, at(0, state(0.0, 100.0))) is None


def test_a_scope_that_begins_before_the_first_sample_counts_from_its_power() -> None:
    """As one that begins while the driver's library still starts."""
    assert (2 * 100.0 + 800.0, False, 2.0) == used(0, 10, at(2, state(0.0, 100.0)), at(10, state(800.0, 100.0)))
    assert used(0, 1, EMPTY) is None


def test_integrated_power_of_one_marks_the_sum() -> None:
    """Two devices, of which one has no counter; a third tells nothing."""
    first = at(0, state(0.0), state(0.0, number=1, energy_estimated=True), state(None, number=2))
    last = at(10, state(100.0), state(50.0, number=1, energy_estimated=True), state(None, number=2))

    assert (150.0, True, 0.0) == used(0, 10, first, last)
    assert used(0, 10, at(0, state(None)), at(10, state(None))) is None


def test_a_lost_device_counts_until_it_was_lost() -> None:
    """Its last total stays, and no power is assumed."""
    assert (100.0, False, 5.0) == used(0, 15, at(0, state(0.0, 50.0)), at(10, state(100.0, lost=True)))


def test_a_device_that_appears_later_counts_from_then_on() -> None:
    """Its total begins with its first sample."""
    samples = at(0, state(0.0)), at(10, state(10.0)), at(20, state(20.0), state(5.0, number=1))

    assert (25.0, False, 0.0) == used(0, 20, *samples)


@pytest.mark.parametrize(
    ("other", "held", "expected"),
    [
        ({}, frozenset(), 30.0),
        ({}, {"GPU-0"}, 10.0),
        ({"name": "GPU-1"}, frozenset(), 10.0),
        ({"divided": True}, frozenset(), 10.0),
    ],
)
def test_the_devices_of_this_process_count(other: dict[str, Any], held: frozenset[str], expected: float) -> None:
    """Those it holds memory on, else all that CUDA sees; not a divided one, whose instances share its energy."""
    first = at(0, state(0.0), state(0.0, number=1, **other))
    last = at(10, state(10.0), state(20.0, number=1, **other))
    use = used_since(Opening(opened_s=0, before=first, after=last), lambda: last, 10, REACH_S, held)

    assert use is not None
    assert expected == use.energy_j


def test_a_process_holds_what_it_was_seen_to_hold() -> None:
    """By the driver's list or PyTorch's allocator, at any sample."""

    class Sampled:
        snapshot = at(10, state(10.0), state(20.0, number=1), state(40.0, number=2))

    hook = ScopeEnergy(Sampled(), REACH_S, now=lambda: 10.0)
    with_memory = state(0.0, process=ProcessReading(memory_bytes=7))
    hook.sampled(at(0, with_memory, state(0.0, number=1, torch_reserved_bytes=7), state(0.0, number=2)))
    hook.sampled(at(5, state(5.0), state(10.0, number=1), state(20.0, number=2)))

    assert {"GPU-0", "GPU-1"} == hook._held
    hook.forget()
    assert set() == hook._held


def test_a_rank_reads_the_energy_of_devices_that_another_reports() -> None:
    """And nothing else of them; the counters of the device stay with who reports it."""

    class Another(Ownership):
        def owns(self, uuid: str) -> bool:
            return False

    gpu = FakeGpu(energy_j=1000.0, power_w=300.0, memory_used_bytes=5)
    nvml = FakeNvml([gpu])
    watch = watching(nvml, ownership=Another(None))
    watch.tick(0.0, 0, detailed=False)
    gpu.energy_j = 1300.0
    (seen,) = watch.tick(1.0, 0, detailed=False).devices

    assert (300.0, 300.0, None) == (seen.energy_j, seen.power_w, seen.fast.memory_used_bytes)
    assert ({}, 0) == (dict(seen.totals), nvml.calls["read_fast"])


def test_runs_stages_and_epochs_say_their_energy(capture: Capture) -> None:
    """On the span and as a metric, the same; an evaluation inside says none."""
    gpu = FakeGpu(energy_j=1000.0, power_w=0.0)
    seen = listen("crucible.stage.stop")
    with found(FakeNvml([gpu])):
        capture.configure(gpu="on", gpu_interval_ms=100)
        assert eventually(lambda: shared.sampler().snapshot.devices)
        with cx.workflow("w"), cx.stage("s"), cx.train("m") as run, run.epoch(0), run.evaluate("validation"):
            assert eventually(lambda: shared.sampler().snapshot.devices[0].energy_j == 0.0)
            begun = shared.sampler().snapshot
            assert eventually(lambda: shared.sampler().snapshot is not begun)
            gpu.energy_j = 1500.0
            assert eventually(lambda: shared.sampler().snapshot.devices[0].energy_j == 500.0)
        spans = {each.name: each.attributes for each in capture.spans}
        metrics = {
            name: [(point.attributes[SOURCE], point.value) for point in capture.points(name)]
            for name in (
                "crucible.workflow.run.energy",
                "crucible.stage.energy",
                "crucible.training.energy",
                "crucible.training.epoch.energy",
            )
        }

    assert {"run_workflow w": 500.0, "run_stage s": 500.0, "train m": 500.0, "train_epoch": 500.0} == {
        name: attributes[USED] for name, attributes in spans.items() if USED in attributes
    }
    assert {"counter"} == {attributes[SOURCE] for attributes in spans.values() if SOURCE in attributes}
    assert all(attributes[UNSAMPLED] >= 0 for attributes in spans.values() if USED in attributes)
    assert [[("counter", 500.0)]] * 4 == list(metrics.values())
    assert {"w", "s"} == {
        capture.points("crucible.stage.energy")[0].attributes[f"crucible.{each}.name"] for each in ("workflow", "stage")
    }
    ((_, measurements, metadata),) = seen
    assert (500.0, "counter") == (measurements["energy_j"], metadata["energy_source"])


def test_energy_without_a_counter_says_so(capture: Capture) -> None:
    """On the span and on the metric: it is integrated power."""
    with found(FakeNvml([FakeGpu(power_w=200.0)])):
        capture.configure(gpu="on", gpu_interval_ms=100)
        assert eventually(lambda: shared.sampler().snapshot.devices)
        with cx.stage("s"):
            begun = shared.sampler().snapshot
            assert eventually(lambda: shared.sampler().snapshot is not begun)
        attributes = capture.span("run_stage s").attributes
        (point,) = capture.points("crucible.stage.energy")

    assert ("power", "power") == (attributes[SOURCE], point.attributes[SOURCE])
    assert 0 < attributes[USED] == point.value


def test_a_failed_stage_says_its_energy_too(capture: Capture) -> None:
    """What was used was used."""
    with found(FakeNvml([FakeGpu(energy_j=0.0, power_w=100.0)])):
        capture.configure(gpu="on", gpu_interval_ms=100)
        assert eventually(lambda: shared.sampler().snapshot.devices)
        with pytest.raises(ValueError, match="no"), cx.stage("s"):
            raise ValueError("no")

        assert USED in capture.span("run_stage s").attributes


def test_what_ends_with_the_process_has_the_last_sample(capture: Capture) -> None:
    """A run that is still open at shutdown: its end is measured after the last sample was taken."""
    gpu = FakeGpu(energy_j=0.0, power_w=0.0)
    with found(FakeNvml([gpu])):
        telemetry = capture.configure(gpu="on", gpu_interval_ms=3_600_000)
        assert eventually(lambda: shared.sampler().snapshot.devices)
        run = cx.train("m").start()
        gpu.energy_j = 70.0
        assert telemetry.shutdown(10)
        assert run is not None

    assert 0 < capture.span("train m").attributes[USED] <= 70.0
    assert capture.span("train m").attributes[UNSAMPLED] < 60


def test_energy_that_the_caller_gives_is_kept(capture: Capture) -> None:
    """As from a power meter in the rack."""
    with found(FakeNvml([FakeGpu(energy_j=0.0, power_w=100.0)])):
        capture.configure(gpu="on", gpu_interval_ms=100)
        assert eventually(lambda: shared.sampler().snapshot.devices)
        cx.execute("crucible.stage.start", {}, {"stage": "s"})
        cx.execute("crucible.stage.stop", {"energy_j": 12.5}, {"stage": "s"})

        assert 12.5 == capture.span("run_stage s").attributes[USED]
        assert SOURCE not in capture.span("run_stage s").attributes


def test_without_gpus_nothing_is_hooked(capture: Capture) -> None:
    """Nor after the end of telemetry."""
    with found(None):
        capture.configure(gpu="auto")
        assert () == runtime().hooks
        with cx.stage("s"):
            pass
        assert USED not in capture.span("run_stage s").attributes
        assert capture.telemetry is not None
        capture.telemetry.shutdown(10)
    with found(FakeNvml([FakeGpu()])):
        telemetry = capture.configure(gpu="on")
        hooked = runtime()
        assert 1 == len(hooked.hooks)
        telemetry.shutdown(10)

    assert () == hooked.hooks


def test_the_measured_operations_are_those_of_the_tables() -> None:
    """What has room for its energy: runs, stages, training and epochs."""
    assert {"crucible.workflow", "crucible.stage", "crucible.training", "crucible.training.epoch"} == MEASURED


def test_a_hang_costs_a_scope_nothing(capture: Capture) -> None:
    """Beginning and end only read what is there: no wait for the driver, and no claim beyond what is known."""
    nvml = FakeNvml([FakeGpu(energy_j=0.0)])
    with found(nvml):
        capture.configure(gpu="on", gpu_interval_ms=100)
        assert eventually(lambda: shared.sampler().snapshot.devices)
        with nvml.hanging():
            called = nvml.calls["read_fast"]
            assert eventually(lambda: nvml.calls["read_fast"] > called)
            taken = shared.sampler().snapshot
            for _ in range(2000):
                with cx.stage("s"):
                    pass
            assert taken is shared.sampler().snapshot

        assert [] == [each for each in capture.named("run_stage s") if USED in each.attributes]


def test_a_forked_child_measures_what_it_began(capture: Capture) -> None:
    """What its parent has begun is the parent's: when it samples itself, that waits for nothing any more."""
    with found(FakeNvml([FakeGpu(energy_j=0.0)])):
        capture.configure(gpu="on", gpu_interval_ms=3_600_000)
        hook = runtime().hooks[0].__self__  # type: ignore[attr-defined]
        assert eventually(lambda: shared.sampler().snapshot.devices)
        with cx.stage("s"):
            child = os.fork()
            if child == 0:
                try:
                    inherited = len(hook._waiting)
                    cx.configure()
                    os._exit(0 if (inherited, len(hook._waiting), len(runtime().hooks)) == (1, 0, 1) else 1)
                finally:
                    os._exit(2)
            assert (child, 0) == os.waitpid(child, 0)
