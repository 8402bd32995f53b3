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
    found = {"machine": machine(), "load": busy(), "quick": options.quick, "sections": {}}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for name, section in _measured(options.only, options.quick):
        measured = found["sections"] | {name: section.data()}
        found["sections"] = {each: measured[each] for each in TITLES if each in measured}
        options.json.write_text(json.dumps(found, indent=1) + "\n")  # a run of a quarter of an hour may be cut off
    print(terminal(found))
    missed = any(each["met"] is False for section in found["sections"].values() for each in section["results"])
    return 1 if missed and options.strict else 0


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
        what = "was quick" if found["quick"] else f"left out {', '.join(missing)}"
        print(f"the last run {what}: only a whole one is written about", file=sys.stderr)
        return 2
    _PAGE.write_text(page(found))
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What telemetry costs, as ratios.")
    parser.add_argument("--only", default=list(TITLES), type=_names, help=f"some of {','.join(TITLES)}")
    parser.add_argument("--quick", action="store_true", help="coarse figures in seconds")
    parser.add_argument("--json", type=Path, default=_LAST, metavar="FILE", help="where the figures go")
    parser.add_argument("--strict", action="store_true", help="fail when a target is missed")
    parser.add_argument("--write-docs", action="store_true", help="write docs/performance.md from the last run's file")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in TITLES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; there are {', '.join(TITLES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
