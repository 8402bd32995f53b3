"""The sampler's thread: who gets samples, what a hang costs, and what a fork leaves."""

from __future__ import annotations

import os
import time

from crucible_otel.gpu.sampler import STALE_AFTER
from crucible_otel.gpu.snapshot import EMPTY, GpuSnapshot
from crucible_otel.testing.nvml import FakeGpu, FakeNvml
from tests.gpu.fakes import Samples, eventually, sampling


def test_nobody_subscribes_nothing_runs() -> None:
    """No thread, and the library is not touched."""
    nvml = FakeNvml([FakeGpu()])
    sampler = sampling(nvml)

    assert (None, False, 0) == (sampler.sample_now(), sampler.running, nvml.calls.total())


def test_subscribers_get_samples_at_their_interval() -> None:
    """From the first one at once; the thread opens the library once and closes it when the last one left."""
    nvml, fast, slow = FakeNvml([FakeGpu()]), Samples(), Samples()
    sampler = sampling(nvml)
    often = sampler.subscribe(0.01, fast)
    rarely = sampler.subscribe(1000.0, slow)
    fast.wait_for(5)

    assert 1 == len(slow.wait_for(1))
    assert sampler.snapshot in fast.all or sampler.running
    often.close()
    rarely.close()
    assert eventually(lambda: not nvml.is_open)
    assert (1, 1) == (nvml.calls["open"], nvml.calls["close"])


def test_a_sample_can_be_had_at_once() -> None:
    """Also by a subscriber that wants none by itself."""
    samples = Samples()
    sampler = sampling(FakeNvml([FakeGpu(memory_used_bytes=5)]))
    subscription = sampler.subscribe(None, samples)
    found = sampler.sample_now()
    subscription.close()

    assert found is not None
    assert ([5], [found]) == ([state.fast.memory_used_bytes for state in found.devices], samples.all)


def test_an_interval_can_be_changed_and_stopped() -> None:
    """Without a second thread."""
    nvml, samples = FakeNvml([FakeGpu()]), Samples()
    sampler = sampling(nvml)
    subscription = sampler.subscribe(1000.0, samples)
    samples.wait_for(1)
    subscription.set_interval(0.01)
    samples.wait_for(4)
    subscription.set_interval(None)
    sampler.sample_now()
    rest = len(samples.all)
    sampler.sample_now()
    subscription.close()

    assert rest + 1 == len(samples.all)
    assert 1 == nvml.calls["open"]


def test_a_hang_keeps_nobody_waiting() -> None:
    """The last snapshot can be read until it is stale; whoever wants a new one, or leaves, waits for his own time."""
    nvml, samples = FakeNvml([FakeGpu()]), Samples()
    sampler = sampling(nvml)
    subscription = sampler.subscribe(0.01, samples)
    samples.wait_for(1)
    with nvml.hanging():
        assert eventually(lambda: None is sampler.sample_now(0.01))
        last = sampler.snapshot
        fresh = sampler.fresh(1.0, last.taken_s + STALE_AFTER)
        stale = sampler.fresh(1.0, last.taken_s + STALE_AFTER + 0.1)
        before = time.monotonic()
        came = subscription.close(0.01)
        took_s = time.monotonic() - before

    assert (last, EMPTY, False) == (fresh, stale, came)
    assert 10 > took_s
    assert eventually(lambda: not nvml.is_open)


def test_a_tick_that_fails_is_not_the_last() -> None:
    """An error of the backend is told, and sampling goes on."""
    gpu, errors, samples = FakeGpu(error=RuntimeError("odd")), list[Exception](), Samples()
    sampler = sampling(FakeNvml([gpu]), on_error=errors.append)
    subscription = sampler.subscribe(0.01, samples)
    assert eventually(lambda: len(errors) > 1)
    gpu.error = None
    samples.wait_for(2)
    subscription.close()

    assert {"odd"} == {str(error) for error in errors}


def test_a_subscriber_that_fails_harms_no_other() -> None:
    """Nor itself: it gets the next sample too."""
    errors, samples = list[Exception](), Samples()

    def fails(snapshot: GpuSnapshot) -> None:
        raise ValueError("mine")

    sampler = sampling(FakeNvml([FakeGpu()]), on_error=errors.append)
    bad = sampler.subscribe(0.01, fails)
    good = sampler.subscribe(0.01, samples)
    samples.wait_for(3)
    assert eventually(lambda: len(errors) > 2)
    bad.close()
    good.close()

    assert {"mine"} == {str(error) for error in errors}


def test_without_a_library_the_thread_ends() -> None:
    """It says why, once; nothing is open."""
    reasons: list[str] = []
    nvml = FakeNvml(unavailable="no driver")
    sampler = sampling(nvml, on_unavailable=reasons.append)
    subscription = sampler.subscribe(0.01, Samples())

    assert eventually(lambda: reasons)
    assert eventually(lambda: not sampler.running)
    assert (None, ["no driver"]) == (sampler.sample_now(0.01), reasons)
    subscription.close()


def test_a_forked_child_samples_only_when_it_asks() -> None:
    """It has no snapshot of the parent's and no thread; its own subscription opens the library anew."""
    nvml, samples = FakeNvml([FakeGpu()]), Samples()
    sampler = sampling(nvml)
    subscription = sampler.subscribe(0.01, samples)
    samples.wait_for(1)
    child = os.fork()
    if child == 0:
        clean = sampler.snapshot is EMPTY and not sampler.running and not subscription.active
        own = Samples()
        opened = nvml.calls["open"]
        sampler.subscribe(0.01, own)
        own.wait_for(2)
        os._exit(0 if clean and nvml.calls["open"] == opened + 1 else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    subscription.close()

    assert 0 == status
