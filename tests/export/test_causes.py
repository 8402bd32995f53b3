"""The causes that are told, and the guide that lists them."""

from __future__ import annotations

from crucible_otel.export import causes
from crucible_otel.export.causes import Cause, classify
from tests.export.causes_table import documented


def test_the_guide_lists_every_cause_with_its_setting_as_the_lines_have_them() -> None:
    """Word for word, and none that there is not."""
    told = {value.reason: value.remedy for value in vars(causes).values() if isinstance(value, Cause)}
    assert told == documented()


def test_every_cause_has_a_kind_a_reason_and_a_remedy_without_a_full_stop() -> None:
    """They are parts of a sentence."""
    told = [value for value in vars(causes).values() if isinstance(value, Cause)]
    assert [] == [each for each in told if not (each.kind and each.reason and each.remedy)]
    assert [] == [each for each in told if each.reason.endswith(".") or each.remedy.endswith(".")]


def test_a_refused_connection_is_known_by_its_exception() -> None:
    """Whatever the texts around it say: a host may be called what another cause is."""
    error = OSError("https://SSL.example: failed")
    error.__cause__ = ConnectionRefusedError(111, "verweigert")
    assert "refused" == classify(error).kind
