"""Between the seeds' names and ours."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from crucible_otel.events.translate import inward, nanoseconds, outward, seed_of, text_keys
from crucible_otel.semconv.registry import ALIASES, EVENTS

STEP = EVENTS["crucible.training.step"]
STAGE_STOP = EVENTS["crucible.stage.stop"]


class Hostile:
    """Raises whatever it is asked."""

    def __str__(self) -> str:
        raise ValueError

    def __lt__(self, other: object) -> bool:
        raise ValueError

    __gt__ = __le__ = __ge__ = __float__ = __index__ = __lt__  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        (0, 0),
        (1_500_000_000, 1_500_000_000),
        (2, 1.6),
        (None, -1),
        (None, float("nan")),
        (None, float("inf")),
        (None, 10**30),
        (None, None),
        (None, "5"),
        (None, True),
        (None, timedelta(seconds=1)),
        (None, Hostile()),
    ],
)
def test_a_duration_is_whole_nanoseconds_or_none(expected: int | None, given: Any) -> None:
    """Numbers of zero and more; anything else is no duration."""
    assert expected == nanoseconds(given)


def test_keys_become_text() -> None:
    """A map's keys whatever they are; what is no map has none."""
    assert {"a": 1, "2": 3, "None": 4} == text_keys({"a": 1, 2: 3, None: 4})
    assert [{}, {}, {}, {}] == [text_keys(given) for given in (None, 5, [("a", 1)], {Hostile(): 1})]


def test_fields_come_in_under_our_names_at_their_place() -> None:
    """The seed's names, synonyms, and values on the wrong side of the event."""
    alias = ALIASES["crucible_kitchen.training.step"]
    given = inward(STEP, alias, {"loss": 1.0, "lr": 0.1, "step": 3}, {"grad_norm": 2.0, "epoch": 1, "note": "x"})
    assert ({"gradient_norm": 2.0, "loss": 1.0, "learning_rate": 0.1}, {"epoch": 1, "note": "x", "step": 3}) == given


def test_a_measurement_wins_over_the_same_field_in_the_metadata() -> None:
    """Numbers are measured, metadata only says."""
    assert ({"loss": 1.0}, {}) == inward(STEP, None, {"loss": 1.0}, {"loss": 2.0})


@pytest.mark.parametrize(("expected", "given"), [(1_500_000, 1.5), (None, "soon"), (None, float("nan"))])
def test_milliseconds_are_a_duration_too(expected: int | None, given: Any) -> None:
    """``duration_ms`` becomes nanoseconds; what is no number is left out."""
    measurements, _ = inward(STAGE_STOP, None, {"duration_ms": given}, {})
    assert expected == measurements.get("duration")


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        ("success", {"success": True}),
        ("failure", {"success": False}),
        ("failure", {"result": "error"}),
        ("success", {"result": "ok"}),
        ("timeout", {"result": "timeout"}),
    ],
    ids=repr,
)
def test_every_form_of_an_outcome_is_the_result(expected: str, given: dict[str, Any]) -> None:
    """``success`` and ``result`` in the words of every seed."""
    assert expected == inward(STAGE_STOP, None, {}, given)[1]["result"]


def test_an_alias_subscriber_gets_no_field_of_ours() -> None:
    """Only the seed's own fields, and the user's."""
    alias = ALIASES["crucible_kitchen.stage.run.stop"]
    metadata = {"stage": "s", "result": "failure", "workflow": "w", "run_id": "r", "mine": 1}
    assert ({"duration": 5}, {"stage": "s", "success": False, "mine": 1}) == outward(alias, {"duration": 5}, metadata)


def test_the_first_seed_that_has_an_event_names_it() -> None:
    """CrucibleKitchen's name, where there is one; none for what is only ours."""
    names = [seed_of(name) for name in ("crucible.training.step", "crucible.training.start", "crucible.training.skip")]
    assert ["crucible_kitchen.training.step", "crucible_train.training.start", None] == [
        alias.name if alias is not None else None for alias in names
    ]
