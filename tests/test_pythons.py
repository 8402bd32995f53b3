"""Which interpreters ``make matrix`` finds: the PATH and pyenv are stand-ins."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from scripts import pythons


def put(folder: Path, name: str, lines: str) -> Path:
    """Make a program and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_the_ends_of_what_is_on_the_path(on_path: Path) -> None:
    """One that cannot make an environment is passed over."""
    put(on_path, "python3.10", "exit 1")
    oldest, _, newest = (put(on_path, f"python3.{minor}", "exit 0") for minor in (11, 12, 13))

    assert [str(oldest), str(newest)] == [pythons.find("oldest"), pythons.find("newest")]


def test_versions_of_pyenv_count_too(on_path: Path, tmp_path: Path) -> None:
    """Of one minor version the latest; a shim on the PATH that leads nowhere is no hindrance."""
    put(on_path, "python3.10", "exit 127")
    versions = tmp_path / "versions"
    put(
        on_path,
        "pyenv",
        f'case "$1" in versions) echo 3.9.18; echo 3.10.2; echo 3.10.13;; prefix) echo {versions}/$2;; esac',
    )
    latest = put(versions / "3.10.13" / "bin", "python", "exit 0")
    put(versions / "3.10.2" / "bin", "python", "exit 0")

    assert str(latest) == pythons.find("oldest")


def test_without_any_it_is_the_one_that_runs(on_path: Path) -> None:
    """Both ends are then the same."""
    assert [sys.executable] * 2 == [pythons.find("oldest"), pythons.find("newest")]
