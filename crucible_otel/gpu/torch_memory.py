"""What PyTorch's allocator says, where the program has PyTorch on a GPU already: nothing is imported or begun."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["allocator_bytes", "is_loaded"]


def is_loaded() -> bool:
    """Whether the program has PyTorch."""
    return "torch" in sys.modules


def allocator_bytes(name: str) -> tuple[int, int] | None:
    """Return what the allocator of this process has given out and what it holds, in bytes.

    Args:
        name: The device as PyTorch calls it, such as ``cuda:0``.

    Returns:
        None where PyTorch is not loaded or does not use the GPUs.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not name.startswith("cuda:"):
        return None
    try:
        if not torch.cuda.is_initialized():
            return None
        number = int(name.partition(":")[2])
        return int(torch.cuda.memory_allocated(number)), int(torch.cuda.memory_reserved(number))
    except Exception:  # a torch that is being imported, or without CUDA
        return None
