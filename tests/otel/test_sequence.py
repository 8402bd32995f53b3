"""Numbered events: rewinds, repeats, gaps, no numbers."""

from __future__ import annotations

import pytest

from crucible_otel.semconv.training import STEP_EVENT

from .engines import engine, histogram, value

STEP = "crucible.training.steps"


@pytest.mark.parametrize(
    ("numbers", "counted", "rewinds", "last"),
    [
        ([1, 2, 3], 3, None, 3),
        ([None, None, None], 3, None, 3),
        ([10, 20, 30], 3, None, 30),
        ([0, 1, 2], 3, None, 2),
        ([1, 1, 1], 1, None, 1),
        ([1, 2, 2, 3, 3, 3], 3, None, 3),
        ([1, 2, 3, 1, 2], 5, 1, 2),
        ([5, None, None], 3, None, 7),
        ([1, 2.0, "3"], 3, None, 3),
        ([1, "many", 3], 3, None, 3),
    ],
)
@pytest.mark.parametrize("collected", [False, True])
def test_steps_are_counted_once_per_number(
    numbers: list[object], counted: int, rewinds: int | None, last: int, collected: bool
) -> None:
    """The same number again counts nothing, a lower one is a rewind; whether a collection came in between or not."""
    one, clock, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    for number in numbers:
        clock.advance(0.1)
        handle.record(loss=1.0, step=number)
        if collected:
            one.snapshot()
    assert value(one, STEP) == counted
    assert histogram(one, "crucible.training.step.duration").count == counted
    assert value(one, "crucible.training.rewinds") == rewinds
    assert value(one, "crucible.training.step.current") == last


@pytest.mark.parametrize("collected", [False, True])
def test_a_second_report_of_a_step_adds_what_was_missing(collected: bool) -> None:
    """Its loss stays, its gradient norm and tokens are added, and its time belongs to the next step."""
    one, clock, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    clock.advance(0.1)
    handle.record(loss=1.0, step=1)
    if collected:
        one.snapshot()
    clock.advance(0.1)
    handle.record(loss=9.0, gradient_norm=3.0, tokens=5, step=1)
    clock.advance(0.1)
    handle.record(step=2)
    assert value(one, STEP) == 2
    assert value(one, "crucible.training.loss") == 1.0
    assert value(one, "crucible.training.gradient.norm") == 3.0
    assert value(one, "crucible.training.tokens") == 5
    found = histogram(one, "crucible.training.step.duration")
    assert (found.count, round(found.sum, 6), round(found.max, 6)) == (2, 0.3, 0.2)


def test_the_next_number_counts_what_is_not_folded() -> None:
    """A handle knows its number at any time."""
    one, _, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {}, 100)
    assert (handle.reached(), handle.next_number()) == (None, 101)
    handle.record()
    handle.record(step=200)
    handle.record()
    assert (handle.reached(), handle.next_number()) == (201, 202)
    one.snapshot()
    assert (handle.reached(), handle.next_number()) == (201, 202)


@pytest.mark.parametrize("others", [0, 5, 50])
@pytest.mark.parametrize("unnumbered", [0, 1, 50])
def test_the_next_number_is_found_however_far_back_the_last_one_is(others: int, unnumbered: int) -> None:
    """Records without a number, and those of another run, may stand between."""
    one, _, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    other = one.handle(STEP_EVENT, ("n",), None, {})
    handle.record(loss=1.0, step=200)
    for _ in range(unnumbered):
        handle.record(loss=2.0)
    for number in range(others):
        other.record(loss=3.0, step=number)
    assert (200 + unnumbered, 201 + unnumbered) == (handle.reached(), handle.next_number())
    last = handle.last_record()
    assert last is not None
    assert (2.0 if unnumbered else 1.0) in last
