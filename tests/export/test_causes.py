"""The causes that are told, and the guide that lists them."""

from __future__ import annotations

import ssl

import requests

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


def test_a_refusal_that_was_being_handled_is_not_the_cause_of_what_comes_then() -> None:
    """As where an exporter tries once more while it handles its first try."""
    trouble = ssl.SSLCertVerificationError("CERTIFICATE_VERIFY_FAILED")
    trouble.__context__ = ConnectionRefusedError(111, "Connection refused")
    error = requests.exceptions.SSLError(trouble)
    error.__context__ = trouble
    assert "certificate" == classify(error).kind


def test_a_refusal_that_the_client_does_not_name_as_its_cause_is_found() -> None:
    """It raises its own exception while it handles the one before."""
    error = requests.exceptions.ConnectionError()
    error.__context__ = ConnectionRefusedError(111, "verweigert")
    assert "refused" == classify(error).kind
