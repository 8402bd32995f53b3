"""What the tests of GPUs start from besides: nothing says which are visible, and locks of their own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_devices_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove what chooses devices, and keep the lock files of other tests and of real jobs out of the way."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    private = tmp_path / "runtime"
    private.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(private))
