"""Print the settings: every variable and field with its default and what it accepts."""

from __future__ import annotations

import argparse
from typing import Final

from crucible_otel.config.reference import render

HELP: Final = "print the settings: every variable and field, its default and what it accepts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: it has none."""


def main(arguments: argparse.Namespace) -> int:
    """Print them."""
    print(render(), end="")
    return 0
