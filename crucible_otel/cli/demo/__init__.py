"""Train a small real model on scikit-learn's handwritten digits and show the telemetry that arrives.

Nothing else must run: spans, metrics and logs go to an OTLP receiver inside the program, unless
OTEL_EXPORTER_OTLP_ENDPOINT, or that of one signal, says where to send them. PyTorch is used where it is installed,
NumPy otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crucible_otel.errors import MissingExtraError

if TYPE_CHECKING:
    from crucible_otel.cli.demo.result import DemoResult

HELP: Final = "train a small real model and show what arrived"

_NEEDS: Final = {"numpy": "NumPy", "sklearn": "scikit-learn"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--epochs", type=_positive, default=3, help="passes over the data (default: %(default)s)")
    parser.add_argument("--batch-size", type=_positive, default=32, help="samples in a step (default: %(default)s)")
    parser.add_argument("--seed", type=_natural, default=7, help="same seed, same losses (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="where checkpoints, events and the picture go (default: ./%(default)s)",
    )
    parser.add_argument(
        "--protocol",
        choices=("http/protobuf", "grpc"),
        help="the OTLP transport (default: what OTEL_EXPORTER_OTLP_PROTOCOL says, else http/protobuf)",
    )
    parser.add_argument(
        "--hold",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="keep the Prometheus endpoint up for so long after the end",
    )
    parser.add_argument("--quiet", action="store_true", help="say only where the files are")


def main(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    run(arguments)
    return 0


def run(arguments: argparse.Namespace) -> DemoResult:
    """Run the demo and return what was made and what arrived.

    Args:
        arguments: What :func:`add_arguments` declares.

    Raises:
        MissingExtraError: NumPy or scikit-learn is not installed.
        ConfigurationError: An environment variable cannot be used, or the folder for the files not be written to.
    """
    for module, name in _NEEDS.items():
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(name, "demo")
    from crucible_otel.cli.demo.session import Session

    return Session(arguments).run()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 86400")
    return value


# What argparse calls the type when the text is no number at all.
_positive.__name__ = _natural.__name__ = "whole number"
_seconds.__name__ = "number of seconds"
