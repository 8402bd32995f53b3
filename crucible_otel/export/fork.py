"""Putting objects right in a forked child, without keeping them alive."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["in_child"]


def in_child(method: Callable[[], Any]) -> None:
    """Call a bound method in every forked child, for as long as its object lives.

    Hooks run in the order of their registration, and after those of the SDK objects that were built earlier.
    """
    if not hasattr(os, "register_at_fork"):
        return
    weak = weakref.WeakMethod(method)

    def after() -> None:
        if alive := weak():
            alive()

    os.register_at_fork(after_in_child=after)
