"""Appending to a file that others move, remove, tear or fill."""

from __future__ import annotations

from pathlib import Path

import pytest

from crucible_otel.handlers import _append
from crucible_otel.handlers._append import AppendFile


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    """An existing file keeps its content and its mode."""
    path = tmp_path / "x"
    path.write_bytes(b"old\n")
    path.chmod(0o644)
    file = AppendFile(str(path))
    assert 2 == file.append([b"a\n", b"b\n"])
    assert 1 == file.append([b"c\n"])
    file.close()
    assert b"old\na\nb\nc\n" == path.read_bytes()
    assert 0o644 == path.stat().st_mode & 0o777


@pytest.mark.parametrize("while_open", [False, True])
def test_a_line_that_somebody_left_torn_does_not_spoil_ours(tmp_path: Path, while_open: bool) -> None:
    """Where a writer died within a line, ours begins on the next one."""
    path = tmp_path / "x"
    file = AppendFile(str(path))
    if while_open:
        file.append([b"a\n"])
    with path.open("ab") as other:
        other.write(b"to")
    file.append([b"b\n"])
    file.close()
    assert (b"a\n" if while_open else b"") + b"to\nb\n" == path.read_bytes()


@pytest.mark.parametrize("gone", ["moved", "removed", "directory"])
def test_a_file_that_is_moved_or_removed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Rotation by renaming loses nothing, and a removed directory comes back."""
    monkeypatch.setattr(_append, "_LOOK_EVERY_S", 0.0)
    path = tmp_path / "logs" / "x"
    file = AppendFile(str(path))
    file.append([b"a\n"])
    path.rename(tmp_path / "x.1")
    if gone == "removed":
        (tmp_path / "x.1").unlink()
    if gone == "directory":
        path.parent.rmdir()
    assert 1 == file.append([b"b\n"])
    file.close()
    assert b"b\n" == path.read_bytes()
    if gone == "moved":
        assert b"a\n" == (tmp_path / "x.1").read_bytes()


def test_a_file_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    """The error is told, and the next batch may succeed."""
    path = tmp_path / "x"
    path.mkdir()
    file = AppendFile(str(path))
    assert 0 == file.append([b"a\n"])
    assert isinstance(file.error, IsADirectoryError)
    path.rmdir()
    assert 1 == file.append([b"b\n"])
    assert file.error is None
    file.close()
    assert b"b\n" == path.read_bytes()
