"""The builder of the servers, with a stand-in for Go that notes what it is asked and writes empty programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import backends

SCRIPT = Path(__file__).parents[1] / "scripts" / "backends.py"
BUILDS = ["jaeger", "otelcol", "prometheus", "promtool"]

GO = """\
#!/bin/sh
here=$(dirname "$0")
[ "$1" = mod ] && { echo "{\\"Dir\\": \\"$here\\"}"; exit 0; }
while [ "$1" != -o ]; do shift; done
basename "$2" >> "$here/asked"
: > "$2"
"""


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """The stand-in."""
    path = tmp_path / "bin" / "go"
    path.parent.mkdir()
    path.write_text(GO)
    path.chmod(0o755)
    return path


def start(cache: Path, path: str, *names: str) -> subprocess.Popen[str]:
    """Run the builder with this cache and this PATH."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *names],
        env={**os.environ, "PATH": path, "CRUCIBLE_OTEL_BACKENDS": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def with_go(go: Path) -> str:
    """Return a PATH with the stand-in."""
    return f"{go.parent}{os.pathsep}{os.defpath}"


def test_a_machine_without_go_gets_one_clear_line(tmp_path: Path) -> None:
    """It names what is missing and what to install."""
    process = start(tmp_path, str(tmp_path))
    output, errors = process.communicate(timeout=60)

    assert (1, "", 1) == (process.returncode, output, len(errors.splitlines()))
    for word in ("otelcol 0.144.0", "jaeger 1.76.0", "prometheus 0.314.0", "https://go.dev/dl"):
        assert word in errors


def test_what_is_built_needs_no_go_any_more(tmp_path: Path, go: Path) -> None:
    """Every server is built once, and then found."""
    cache = tmp_path / "cache"
    built = start(cache, with_go(go))
    assert 3 == built.communicate(timeout=60)[0].count("built in")

    found = start(cache, str(tmp_path))

    assert ["cached"] * 3 == [line.rpartition(" ")[2] for line in found.communicate(timeout=60)[0].splitlines()]
    assert (0, 0) == (built.returncode, found.returncode)
    assert BUILDS == sorted((go.parent / "asked").read_text().split())


def test_of_two_at_once_one_builds(tmp_path: Path, go: Path) -> None:
    """The other one waits and takes what it finds."""
    both = [start(tmp_path / "cache", with_go(go)) for _ in range(2)]

    assert ["", ""] == [process.communicate(timeout=60)[1] for process in both]
    assert [0, 0] == [process.returncode for process in both]
    assert BUILDS == sorted((go.parent / "asked").read_text().split())


def test_a_build_that_fails_is_told_and_never_taken(tmp_path: Path, go: Path) -> None:
    """Even when it left a program behind; the next run builds anew."""
    cache = tmp_path / "cache"
    go.write_text(f"{GO}echo 'undefined: everything' >&2; exit 2\n")
    broken = start(cache, with_go(go), "otelcol")
    _, errors = broken.communicate(timeout=60)
    assert 1 == broken.returncode
    assert "otelcol 0.144.0 could not be built" in errors
    assert "undefined: everything" in errors

    go.write_text(GO)
    mended = start(cache, with_go(go), "otelcol")

    assert "built in" in mended.communicate(timeout=60)[0]
    assert 0 == mended.returncode


def test_a_changed_source_of_the_collector_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder in the cache carries a digest of what it is made from."""
    before = backends.COLLECTOR.folder
    for source in ("main.go", "go.mod", "go.sum"):
        (tmp_path / source).write_bytes((backends.COLLECTOR_SOURCES / source).read_bytes())
    monkeypatch.setattr(backends, "COLLECTOR_SOURCES", tmp_path)
    assert before == backends.COLLECTOR.folder

    (tmp_path / "main.go").write_text("package main\n")

    assert before != backends.COLLECTOR.folder
    assert before.parent == backends.COLLECTOR.folder.parent
