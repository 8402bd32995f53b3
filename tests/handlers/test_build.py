"""The table of handler kinds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crucible_otel.errors import ConfigurationError, UnknownHandlerError
from crucible_otel.events.handler import BuiltHandler
from crucible_otel.handlers import KINDS, build


def test_an_unknown_kind_says_which_exist() -> None:
    """The error lists the kinds."""
    with pytest.raises(UnknownHandlerError, match=r"'carrier-pigeon'.*console, jsonl"):
        build("carrier-pigeon")


def test_every_kind_can_be_given_another_id(tmp_path: Path) -> None:
    """Several handlers of one kind coexist under different ids."""
    options = {"console": {}, "jsonl": {"path": tmp_path / "x"}}
    built = [build(kind, id=f"my-{kind}", **options[kind]) for kind in KINDS]
    assert [f"my-{kind}" for kind in KINDS] == [handler.id for handler in built]
    assert all(isinstance(handler, BuiltHandler) for handler in built)


@pytest.mark.parametrize("value", ["", 3])
def test_an_id_must_be_text(value: object) -> None:
    """An empty or foreign id is refused by name."""
    with pytest.raises(ConfigurationError, match="id="):
        build("console", id=value)


def test_an_option_that_a_kind_does_not_have_is_refused_with_those_it_has() -> None:
    """A typing error in an option is found at once."""
    with pytest.raises(ConfigurationError, match=r"colour='auto'.*'console': batches, color, id, prefix, stream"):
        build("console", colour="auto")


def test_a_kind_is_loaded_only_when_it_is_asked_for() -> None:
    """Importing the package of handlers imports none of them."""
    code = "import sys, crucible_otel.handlers as h; print([m for m in h.KINDS.values() if m in sys.modules])"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "[]\n" == result.stdout
