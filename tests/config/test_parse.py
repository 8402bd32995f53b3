"""The parsers, whatever they are given."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_otel.config.otel_env import OTEL_VARIABLES
from crucible_otel.config.parse import Parser, check_argument, read_variable
from crucible_otel.config.settings import SETTINGS
from crucible_otel.errors import ConfigurationError

PARSERS: dict[str, Parser[object]] = {
    **{name: each.parser for name, each in SETTINGS.items()},
    **{name: each.parser for name, each in OTEL_VARIABLES.items()},
}
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.text()),
    st.dictionaries(st.text(), st.text()),
    st.builds(object),
)
TEXT = st.one_of(st.text(), st.from_regex(r"[a-z]*[=:,%/ .0-9a-f-]+", fullmatch=True))


@given(name=st.sampled_from(sorted(PARSERS)), text=TEXT)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_is_read_or_refused(name: str, text: str) -> None:
    """No text makes a parser raise anything but the error that names it; what was read is taken as an argument too."""
    with contextlib.suppress(ConfigurationError):
        value = read_variable(name, text, PARSERS[name])
        if name in SETTINGS:
            assert value == PARSERS[name].check(value)


@given(name=st.sampled_from(sorted(SETTINGS)), value=ANYTHING)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_argument_is_taken_or_refused(name: str, value: object) -> None:
    """No object makes a parser raise anything but the error that names it; taking twice is taking once."""
    with contextlib.suppress(ConfigurationError):
        taken = check_argument(name, value, PARSERS[name])
        assert taken == PARSERS[name].check(taken)


@pytest.mark.parametrize("name", PARSERS)
def test_accepted_is_said_in_words(name: str) -> None:
    """One line, for errors and the reference."""
    accepted = PARSERS[name].accepted
    assert accepted
    assert "\n" not in accepted


def test_numbers_of_other_libraries_are_taken() -> None:
    """NumPy's numbers are numbers."""
    numpy = pytest.importorskip("numpy")
    assert 5 == check_argument("prometheus_port", numpy.int64(5), PARSERS["prometheus_port"])
    assert 0.5 == check_argument("sample_rate", numpy.float32(0.5), PARSERS["sample_rate"])
