"""Print what is emitted: spans, events, metrics, attributes and aliases, and the names they have in Prometheus."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Final

from crucible_otel.semconv.render import render, render_prometheus

HELP: Final = "print what is emitted: the reference of spans, events, metrics and attributes"

_FORMATS: Final[Mapping[str, Callable[[], str]]] = {"markdown": render, "prometheus": render_prometheus}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default="markdown",
        help="markdown: the whole reference; prometheus: the names to query, with types and labels (%(default)s)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Print it."""
    print(_FORMATS[arguments.format](), end="")
    return 0
