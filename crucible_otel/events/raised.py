"""Where an exception of the user's code came from, in words that can be logged.

Its message is left out: it may quote a URL with a key in it.
"""

from __future__ import annotations

import os

__all__ = ["raised_at"]


def raised_at(error: BaseException) -> str:
    """Return the type of an exception and where it was raised: ``KeyError at train.py:12``.

    Args:
        error: Any exception; the type alone is left of one that was never raised.
    """
    name, trace = type(error).__name__, error.__traceback__
    if trace is None:
        return name
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{name} at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
