"""Importing does nothing and loads little."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "crucible_otel"

# Never loaded by importing us: the SDK and its transports, and everything an extra brings.
HEAVY = (
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "opentelemetry.proto",
    "google.protobuf",
    "grpc",
    "requests",
    "prometheus_client",
    "pynvml",
    "numpy",
    "sklearn",
    "matplotlib",
    "torch",
)

# The rooms that may know the SDK, and the one that only starts programs.
ABOVE = ("export", "testing", "_setup", "cli")

# The front door itself, and the programs, which use the package as anybody does.
FREE = ("__init__.py", "cli")


def modules_below() -> list[str]:
    """Name every module that must work with the OpenTelemetry API alone."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ABOVE:
            found.append(".".join((PACKAGE.name, *parts)).removesuffix(".__init__"))
    return found


def run_python(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def loaded_by(statements: str) -> list[str]:
    """Return which of the heavy packages the statements load."""
    code = f"import json, sys\n{statements}\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    loaded: list[str] = json.loads(run_python(code))
    return loaded


def test_import_loads_nothing_heavy() -> None:
    """``import crucible_otel`` loads no SDK, no transport and no array library."""
    assert [] == loaded_by("import crucible_otel")


def test_every_room_below_setup_loads_nothing_heavy() -> None:
    """Verbs, handlers and all below them need the OpenTelemetry API alone."""
    assert [] == loaded_by("\n".join(f"import {name}" for name in modules_below()))


def test_import_works_without_the_sdk() -> None:
    """Where only the API is installed, the package and the rooms below set-up still import."""
    code = "\n".join(
        [
            "import sys",
            "class Absent:",
            "    def find_spec(self, name, path=None, target=None):",
            f"        if name in {HEAVY!r}: raise ModuleNotFoundError(name)",
            "sys.meta_path.insert(0, Absent())",
            "import crucible_otel",
            *(f"import {name}" for name in modules_below()),
            "print('imported')",
        ]
    )

    assert "imported\n" == run_python(code)


def test_import_has_no_side_effects() -> None:
    """Importing starts no thread, touches no signal, logger level or environment, and prints nothing."""
    code = """
import json, logging, os, signal, threading
import opentelemetry.trace, opentelemetry.metrics, opentelemetry._logs
def configured(log):
    return log.level or [each for each in log.handlers if not isinstance(each, logging.NullHandler)]
def state():
    loggers = logging.root.manager.loggerDict.items()
    return [
        threading.active_count(),
        [str(signal.getsignal(each)) for each in sorted(signal.valid_signals())],
        dict(os.environ),
        sorted(name for name, log in loggers if isinstance(log, logging.Logger) and configured(log)),
    ]
before = state()
import crucible_otel
print(json.dumps([before, state()]))
"""
    before, after = json.loads(run_python(code))

    assert before == after


def imports_of_the_front_door(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that import the root package, or anything by way of it that is no module of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name == PACKAGE.name for alias in node.names):
            yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            for alias in node.names:
                if not ((PACKAGE / alias.name).is_dir() or (PACKAGE / f"{alias.name}.py").is_file()):
                    yield node.lineno


def test_no_room_imports_the_front_door() -> None:
    """What lies behind the front door imports from the rooms below it, never from ``crucible_otel`` itself."""
    behind = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in FREE]

    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in behind
        for line in imports_of_the_front_door(ast.parse(path.read_text("utf-8")))
    ]

    assert [] == found


def test_the_verb_handlers_works_whatever_was_imported_first() -> None:
    """A module of the room of that name takes the verb's place in the package."""
    code = "import crucible_otel as cx\nimport crucible_otel.testing, crucible_otel.handlers.console\n"
    assert "{}" == run_python(f"{code}print(cx.handlers())").strip()
    assert "['a']" == run_python(f"{code}cx.attach_handler('a', None, print)\nprint(list(cx.handlers('')))").strip()
