"""Pausing in the background."""

from __future__ import annotations

from crucible_otel.export.pace import PAUSE_S, SLICE_S, Pace, Paced, free


class Machine:
    """A clock that work and sleep move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.longest_s = self.worked_s = 0.0
        self.pauses = 0

    def clock(self) -> float:
        """Return the time."""
        return self.now_s

    def work(self, seconds: float) -> None:
        """Take time."""
        self.now_s += seconds
        self.worked_s += seconds
        self.longest_s = max(self.longest_s, self.worked_s)

    def sleep(self, seconds: float) -> None:
        """Let others run."""
        assert PAUSE_S == seconds
        self.now_s += seconds
        self.worked_s = 0.0
        self.pauses += 1


def paced(machine: Machine, number: int) -> Paced[int]:
    """Return a batch of numbers."""
    return Paced(Pace(machine.clock, machine.sleep), range(number))


def test_whoever_iterates_over_a_batch_pauses_before_a_millisecond_is_over() -> None:
    """With items that take little and items that take much, and when the one follows the other."""
    for costs_s in ([2e-7] * 20_000, [5e-5] * 1000, [3e-4] * 100, [2e-7] * 5_000 + [5e-5] * 1000):
        machine = Machine()
        seen = []
        for item in paced(machine, len(costs_s)):
            seen.append(item)
            machine.work(costs_s[item])

        assert list(range(len(costs_s))) == seen
        assert machine.pauses >= sum(costs_s) / 0.001 - 1
        # The first dear one after many cheap ones comes as a surprise: a slice of the size that was right before.
        surprise_s = 64 * 5e-5 if len(set(costs_s)) > 1 else 0
        assert machine.longest_s < max(0.001, surprise_s + SLICE_S)


def test_work_that_takes_no_time_is_not_paused() -> None:
    """Where nothing is to be gained a pause would only cost."""
    machine = Machine()

    assert 1000 == sum(1 for _ in paced(machine, 1000))
    assert 0 == machine.pauses


def test_a_pause_begins_a_new_slice() -> None:
    """However much of the last one has gone."""
    machine = Machine()
    pace = Pace(machine.clock, machine.sleep)
    machine.work(SLICE_S * 0.9)
    pace.pause()
    machine.work(SLICE_S * 0.9)
    assert (1, True) == (machine.pauses, 0.8 < pace.breathe() < 1)


def test_a_batch_is_a_list() -> None:
    """Length, index, slice and equality; empty when it was let go of."""
    machine = Machine()
    batch = paced(machine, 300)

    assert (300, 7, [298, 299]) == (len(batch), batch[7], batch[298:])
    assert list(range(300)) == batch
    free(batch, Pace(machine.clock, machine.sleep))
    assert [] == batch


def test_nobody_is_made_to_wait_for_ever() -> None:
    """After its patience is over it pauses no more."""
    machine = Machine()
    pace = Pace(machine.clock, machine.sleep, patience_s=0.05)
    for _ in range(1000):
        machine.work(1.01 * SLICE_S)
        pace.breathe()
    pace.pause()

    assert 0.05 / (SLICE_S + PAUSE_S) - 1 < machine.pauses < 0.05 / (SLICE_S + PAUSE_S) + 2
