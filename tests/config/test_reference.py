"""The generated reference."""

from __future__ import annotations

import pathlib

from crucible_otel.config.declare import variable
from crucible_otel.config.otel_env import OTEL_VARIABLES
from crucible_otel.config.reference import render
from crucible_otel.config.settings import SETTINGS

COMMITTED = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "config.md"


def test_committed_reference_is_the_rendered_one() -> None:
    """Who changes a setting regenerates the page."""
    assert COMMITTED.read_text(encoding="utf-8") == render()


def test_reference_lists_every_variable_and_field() -> None:
    """With its default, what it accepts and what it means."""
    lines = [line for line in render().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert {6} == {len(row) for row in cells}
    assert all(row[2] and row[3] and row[4] for row in cells)
    listed = {row[0].strip("`") for row in cells}
    assert {variable(name) for name, each in SETTINGS.items() if each.in_environment} <= listed
    assert {each.listed_as or name for name, each in OTEL_VARIABLES.items()} <= listed
    assert {f"`{name}`" for name in SETTINGS} <= {row[1] for row in cells}
