"""Telemetry names are spelled in ``semconv`` and nowhere else in the package."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parents[1] / "crucible_otel"
SEMCONV = PACKAGE / "semconv"

DOTTED = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")

# Ours by its first word, known or not; also as the beginning of an f-string or a pattern.
OURS = re.compile(r"crucible\.[a-z0-9_.*{}]*")


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and value of every string that is not documentation."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def known_names() -> set[str]:
    """Return every dotted name that the semantic conventions hold: attributes, metrics, events, spans, aliases."""
    return {
        name for module in semconv_modules() for value in vars(module).values() for name in names_in(value, outer=True)
    }


def semconv_modules() -> Iterator[ModuleType]:
    """Import and yield the modules of the conventions."""
    for path in sorted(SEMCONV.glob("*.py")):
        yield importlib.import_module(f"crucible_otel.semconv.{path.stem}".removesuffix(".__init__"))


def names_in(value: object, *, outer: bool = False) -> Iterator[str]:
    """Yield the names in a constant, in a record of the conventions, or in a collection of records."""
    if isinstance(value, str):
        if DOTTED.fullmatch(value):
            yield value
    elif dataclasses.is_dataclass(value) and type(value).__module__.startswith("crucible_otel.semconv."):
        for field in dataclasses.fields(value):
            yield from names_in(getattr(value, field.name))
    elif isinstance(value, Mapping | tuple | list | frozenset):
        for each in value.values() if isinstance(value, Mapping) else value:
            # A string in a table that is no record is a piece of a name, or anything.
            if not (outer and isinstance(each, str)):
                yield from names_in(each)


def is_module_path(value: str) -> bool:
    """Whether a dotted string names a Python module, as a lazy table does."""
    return value.split(".", 1)[0] in ("crucible_otel", "opentelemetry")


def spelled(path: Path, known: set[str]) -> list[str]:
    """Return where a file spells a telemetry name itself."""
    return [
        f"{path.name}:{line}: {value}"
        for line, value in literals(path)
        if (value in known or OURS.fullmatch(value)) and not is_module_path(value)
    ]


def test_telemetry_names_are_spelled_in_semconv_only() -> None:
    """Elsewhere a name is imported, so that it cannot drift from what is documented."""
    known = known_names()
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if not path.is_relative_to(SEMCONV)]

    assert [] == [found for path in files for found in spelled(path, known)]


def test_a_spelled_name_is_found(tmp_path: Path) -> None:
    """Known names, unknown ones of ours and beginnings of one are found; documentation and module paths are not."""
    module = tmp_path / "module.py"
    module.write_text(
        '"""crucible.training.step"""\n'
        'A = "service.name"\n'
        'B = "crucible.nobody.knows"\n'
        'C = f"crucible.{A}"\n'
        'D = "crucible_otel.handlers.console"\n'
        'E = "os.path"\n'
        'D = 1\n"""service.name"""\n',
        encoding="utf-8",
    )

    assert ["module.py:2: service.name", "module.py:3: crucible.nobody.knows", "module.py:4: crucible."] == spelled(
        module, {"service.name"}
    )
