"""Who reports a device: one process of the host, and the next one when it ends."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from crucible_otel.gpu import ownership
from crucible_otel.gpu.ownership import Ownership, runtime_folder

OTHER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from crucible_otel.gpu.ownership import Ownership

    print(Ownership(Path(sys.argv[1])).owns("GPU-1"), flush=True)
    """
)


def of_another_process(folder: Path) -> str:
    """Return whether another process would report the device now."""
    done = subprocess.run([sys.executable, "-c", OTHER, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_first_process_owns_a_device_until_it_lets_go(tmp_path: Path) -> None:
    """Others do not meanwhile, and do afterwards."""
    mine = Ownership(tmp_path)

    assert mine.owns("GPU-1")
    assert "False" == of_another_process(tmp_path)
    assert mine.owns("GPU-1")
    mine.release()
    assert "True" == of_another_process(tmp_path)


def test_a_forked_child_owns_nothing_and_takes_nothing_away(tmp_path: Path) -> None:
    """The lock is the parent's: the child does not have it, and closing the file there leaves it."""
    mine = Ownership(tmp_path)
    mine.owns("GPU-1")
    child = os.fork()
    if child == 0:
        mine.forget()
        os._exit(int(Ownership(tmp_path).owns("GPU-1")))

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert "False" == of_another_process(tmp_path)


def test_without_a_folder_everybody_reports() -> None:
    """Twice is better than not at all."""
    assert Ownership(None).owns("GPU-1")


def test_the_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mode 0700 and this user's, below the user's runtime folder."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    folder = runtime_folder()

    assert tmp_path / "crucible_otel" == folder
    assert 0o700 == stat.S_IMODE((tmp_path / "crucible_otel").stat().st_mode)


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link, or a folder that others may write, is passed over."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "crucible_otel").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tmp").mkdir()
    open_to_all = tmp_path / "tmp" / f"crucible_otel-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(ownership.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(ownership.os.path, "isdir", lambda place: str(place).startswith(str(tmp_path)))

    assert None is runtime_folder()
