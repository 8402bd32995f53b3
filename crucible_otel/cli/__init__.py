"""The command line: ``crucible-otel <command>``, one module a command."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Final

from crucible_otel.errors import CrucibleOtelError

COMMANDS: Final = {
    "demo": "crucible_otel.cli.demo",
    "semconv": "crucible_otel.cli.semconv",
    "config": "crucible_otel.cli.config",
}
"""Command -> the module that has ``HELP``, ``add_arguments(parser)`` and ``main(arguments) -> int``."""

_BAD_USAGE: Final = 2
_INTERRUPTED: Final = 130
_BROKEN_PIPE: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments, without the program's name; those of the process by default.

    Returns:
        The exit status: 0 for success, 2 for what the caller can mend, 130 when interrupted, 141 when nobody reads
        the output.

    Raises:
        SystemExit: For ``--help``, ``--version`` and arguments that cannot be understood.
    """
    _tolerate_encoding()
    try:
        try:
            arguments = _parser().parse_args(argv)
            status: int = arguments.main(arguments)
        finally:
            # Here rather than at the interpreter's exit, where a closed pipe would be beyond help.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _abandon_output()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except CrucibleOtelError as error:
        print(f"crucible-otel: {error}", file=sys.stderr)
        return _BAD_USAGE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crucible-otel",
        description="OpenTelemetry-native instrumentation for AI and ML work.",
        epilog="'crucible-otel <command> --help' explains a command.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="<command>", required=True)
    for name, path in COMMANDS.items():
        module = importlib.import_module(path)
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    return parser


class _Version(argparse.Action):
    """Looks the version up when it is asked for; that takes longer than all the rest."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"crucible-otel {version('crucible-otel')}")
        except PackageNotFoundError:  # run from the sources
            print("crucible-otel, not installed")
        parser.exit()


def _tolerate_encoding() -> None:
    """Have what the output's encoding does not know escaped, instead of failing in the middle of it."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _abandon_output() -> None:
    """Point standard output at nothing, so that the interpreter's own flush does not fail again."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        return
