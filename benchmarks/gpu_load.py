"""Work for GPUs: matrix products by PyTorch where it is there, or a command."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import threading
from types import TracebackType
from typing import Any, Protocol

__all__ = ["Command", "Load", "Products", "available"]

SIDE = 8192
"""Rows and columns of the matrices: 128 MiB each in bfloat16."""
GIVE_UP_S = 60.0


class Load(Protocol):
    """Something that works inside its ``with`` block.

    Attributes:
        name: What it does.
        allocated_bytes: Device memory that it takes on each GPU at least.
    """

    name: str
    allocated_bytes: int

    def __enter__(self) -> Load: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def available() -> str:
    """Return why PyTorch cannot load a GPU here; empty when it can."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return "PyTorch is not installed."
    return "" if torch.cuda.is_available() else "PyTorch sees no GPU."


class Products:
    """Matrix products on every GPU, by a thread for each."""

    name = f"products of {SIDE} x {SIDE} matrices in bfloat16, PyTorch"

    def __init__(self) -> None:
        self.allocated_bytes = 2 * SIDE * SIDE * 2
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Products:
        """Begin."""
        torch: Any = importlib.import_module("torch")
        for number in range(torch.cuda.device_count()):
            self._threads.append(threading.Thread(target=self._multiply, args=(torch, number), daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""
        self._stop.set()
        for thread in self._threads:
            thread.join(GIVE_UP_S)

    def _multiply(self, torch: Any, number: int) -> None:
        device = f"cuda:{number}"
        left, right = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
        while not self._stop.is_set():
            for _ in range(20):
                left @ right
            torch.cuda.synchronize(device)


class Command:
    """A command that works until it is told to end.

    Args:
        command: As in a shell.
    """

    allocated_bytes = 0

    def __init__(self, command: str) -> None:
        self.name = command
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Command:
        """Begin."""
        self._process = subprocess.Popen(shlex.split(self.name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(GIVE_UP_S)
