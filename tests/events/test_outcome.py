"""How an operation ended."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
from typing import Any

import pytest

from crucible_otel.events.outcome import Reported, Terminated, as_error, result_named, result_of, type_name


class Unprintable:
    """Something without a text."""

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        ("success", None),
        ("success", SystemExit()),
        ("success", SystemExit(0)),
        ("failure", SystemExit(1)),
        ("failure", SystemExit("message")),
        ("failure", ValueError("x")),
        ("failure", MemoryError()),
        ("timeout", TimeoutError()),
        ("timeout", asyncio.TimeoutError()),
        ("cancellation", KeyboardInterrupt()),
        ("cancellation", GeneratorExit()),
        ("cancellation", asyncio.CancelledError()),
        ("cancellation", concurrent.futures.CancelledError()),
        ("cancellation", Terminated("the process left")),
    ],
)
def test_the_exception_decides(expected: str, error: BaseException | None) -> None:
    """Interrupts and closed generators are cancellations, an exit without a code is a success."""
    assert expected == result_of(error)


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        ("success", "success"),
        ("success", "ok"),
        ("success", True),
        ("failure", False),
        ("failure", "error"),
        ("skip", "skip"),
        ("cancellation", "cancelled"),
        ("timeout", "timeout"),
        ("", "great"),
        ("", None),
        ("", 7),
        ("", []),
        ("", Unprintable()),
    ],
)
def test_every_seeds_word_for_an_outcome_is_understood(expected: str, given: Any) -> None:
    """Truth values, ok/error, success/failure; what is none of them is none."""
    assert expected == result_named(given)


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        ("ValueError", ValueError()),
        ("json.decoder.JSONDecodeError", json.JSONDecodeError("x", "y", 0)),
        ("RemoteError", Reported("boom", "RemoteError")),
    ],
    ids=["builtin", "library", "reported"],
)
def test_the_type_has_its_full_name(expected: str, error: BaseException) -> None:
    """With its module, except for builtins; of a reported failure as it was reported."""
    assert expected == type_name(error)


def test_an_error_in_words_becomes_one() -> None:
    """An exception stays itself, text becomes the text of a reported failure, nothing stays nothing."""
    error = ValueError("x")
    assert as_error(error) is error
    assert as_error(None) is None
    assert ("boom", "_OTHER") == (str(as_error("boom")), type_name(as_error("boom") or error))
    assert "Unprintable" == str(as_error(Unprintable()))
