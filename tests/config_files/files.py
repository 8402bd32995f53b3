"""The files of ``collector-config/``, as data."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]  # stubs for one test would be a dependency more

REPOSITORY: Final = Path(__file__).parents[2]
CONFIG: Final = REPOSITORY / "collector-config"
GUIDE: Final = REPOSITORY / "docs" / "guides" / "collector.md"
SCHEMAS: Final = Path(__file__).parent / "schemas"

COLLECTORS: Final[Mapping[str, tuple[str, ...]]] = {
    "minimal": ("minimal.yaml",),
    "compose": ("minimal.yaml", "compose/tempo-too.yaml"),
    "agent": ("agent.yaml",),
    "agent with TLS": ("agent.yaml", "agent-tls.yaml"),
    "gateway": ("gateway.yaml",),
    "gateway with TLS": ("gateway.yaml", "gateway-tls.yaml"),
}
"""What a Collector is started with: later files are merged over earlier ones."""

REFERENCE: Final = re.compile(r"\$\{env:(?P<name>[A-Z][A-Z0-9_]*):-(?P<default>[^}]*)\}")


@cache
def load(path: Path) -> Any:
    """Parse a file of one YAML document; nobody changes what is returned."""
    return yaml.safe_load(path.read_text("utf-8"))


def load_all(path: Path) -> list[Any]:
    """Parse a file of YAML documents."""
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def schema(name: str) -> dict[str, Any]:
    """Read one of the kept schemas."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    return found


@cache
def collector(name: str) -> dict[str, Any]:
    """Return a Collector's whole configuration, with the defaults of its variables; nobody changes it."""
    whole: dict[str, Any] = {}
    for file in COLLECTORS[name]:
        whole = merge(whole, load(CONFIG / file))
    resolved: dict[str, Any] = resolve(whole)
    return resolved


def collector_files() -> list[Path]:
    """Return every file that a Collector reads."""
    return sorted({CONFIG / file for files in COLLECTORS.values() for file in files})


def every_file() -> list[Path]:
    """Return all files of the folder."""
    return sorted(path for path in CONFIG.rglob("*") if path.is_file())


def variables(path: Path) -> dict[str, str]:
    """Return the variables that a Collector's file reads -> their defaults."""
    return {found["name"]: found["default"] for found in REFERENCE.finditer(path.read_text("utf-8"))}


def merge(lower: Any, upper: Any) -> Any:
    """Merge as the Collector does: maps by key, everything else is replaced."""
    if isinstance(lower, dict) and isinstance(upper, dict):
        return {key: merge(lower.get(key), upper[key]) if key in upper else lower[key] for key in {**lower, **upper}}
    return copy.deepcopy(upper)


def resolve(node: Any) -> Any:
    """Put the defaults in place of variables: a value that is nothing but one is parsed, as the Collector does."""
    if isinstance(node, dict):
        return {key: resolve(value) for key, value in node.items()}
    if isinstance(node, list):
        return [resolve(value) for value in node]
    if not isinstance(node, str):
        return node
    whole = REFERENCE.fullmatch(node)
    if whole:
        return yaml.safe_load(whole["default"]) if whole["default"] else None
    return REFERENCE.sub(lambda found: found["default"], node)


def walk(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value below a node, maps and lists too, with the way to it."""
    yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield from walk(value, (*path, str(key)))
