"""``python -m benchmarks``: measure, print a table, keep the figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.environment import ROOT, busy, machine, prepare
from benchmarks.report import TITLES, page, terminal
from benchmarks.result import Section

_LAST = ROOT / "build" / "benchmarks.json"
_PAGE = ROOT / "docs" / "performance.md"
_TOGETHER = ("hot", "loop", "instep", "whole", "spans")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 unless ``--strict`` and a target was missed."""
    options = _options(arguments)
    if options.write_docs:
        return _write_docs(options.json)
    prepare()
    found: dict[str, Any] = {"machine": machine(), "load": busy(), "quick": options.quick}
    sections, before = {}, _measured_before(options.json, found)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for name, section in _measured(options.only, options.quick):
        sections[name] = section.data()
        # A run of a quarter of an hour may be cut off.
        options.json.write_text(json.dumps(found | {"sections": _ordered(before | sections)}, indent=1) + "\n")
    print(terminal({"sections": _ordered(sections)}))
    missed = any(each["met"] is False for section in sections.values() for each in section["results"])
    return 1 if missed and options.strict else 0


def _measured_before(source: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Return the sections that an earlier run has measured on the same machine, as thoroughly."""
    try:
        kept = json.loads(source.read_text())
    except (FileNotFoundError, ValueError):  # none yet, or a write that was cut off
        return {}
    same = all(kept[name] == found[name] for name in ("machine", "quick"))
    sections: dict[str, Any] = kept["sections"] if same else {}
    return sections


def _ordered(sections: dict[str, Any]) -> dict[str, Any]:
    return {name: sections[name] for name in TITLES if name in sections}


def _measured(only: list[str], quick: bool) -> Iterator[tuple[str, Section]]:
    from benchmarks import calls, disabled, encoding, gil, importing, memory, offered, scaling, unreachable

    apart: dict[str, Callable[[bool], Section]] = {
        "calls": calls.measure,
        "scaling": scaling.measure,
        "memory": memory.measure,
        "disabled": disabled.measure,
        "import": importing.measure,
        "encoding": encoding.measure,
        "gil": gil.measure,
        "offered": offered.measure,
        "unreachable": unreachable.measure,
    }
    if set(only) & set(_TOGETHER):
        yield from _measured_together(only, quick)
    for name in only:
        if name in apart:
            _say(name)
            yield name, apart[name](quick)


def _measured_together(only: list[str], quick: bool) -> Iterator[tuple[str, Section]]:
    from benchmarks import hot, instep, loop, spans, whole
    from benchmarks.ours import setting

    together: dict[str, Callable[[Any], Section]] = {
        "hot": hot.measure,
        "loop": loop.measure,
        "instep": instep.measure,
        "whole": whole.measure,
        "spans": spans.measure,
    }
    with setting(quick) as shared:
        for name in _TOGETHER:
            if name in only:
                _say(name)
                yield name, together[name](shared)


def _say(name: str) -> None:
    print(f"measuring: {TITLES[name]}".replace("`", ""), file=sys.stderr, flush=True)


def _write_docs(source: Path) -> int:
    if not source.exists():
        print("there is no run to write about; first: python -m benchmarks", file=sys.stderr)
        return 2
    found = json.loads(source.read_text())
    missing = [name for name in TITLES if name not in found["sections"]]
    if found["quick"] or missing:
        what = "were quick" if found["quick"] else f"left out {', '.join(missing)}"
        print(f"the last runs {what}: only whole ones are written about", file=sys.stderr)
        return 2
    _PAGE.write_text(page(found))
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What telemetry costs, as ratios.")
    parser.add_argument("--only", default=list(TITLES), type=_names, help=f"some of {','.join(TITLES)}")
    parser.add_argument("--quick", action="store_true", help="coarse figures in seconds")
    parser.add_argument("--json", type=Path, default=_LAST, metavar="FILE", help="where the figures go")
    parser.add_argument("--strict", action="store_true", help="fail when a target is missed")
    parser.add_argument("--write-docs", action="store_true", help="write docs/performance.md from that file")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in TITLES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; there are {', '.join(TITLES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
