"""Imported by what forks under test: no child of it hangs for a reason that is not ours, or for ever."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from typing import Any

CHILD_S = 90.0
"""After how long a child says where it is and ends: before the test that waits for it is given up.

One that lived on would keep the output of the tests open, and who reads that would wait for ever.
"""


def _begin_anew() -> None:
    faulthandler.dump_traceback_later(CHILD_S, exit=True, file=sys.__stderr__ or 2)
    # Coverage's tracer takes a lock at each call of a function in any thread, and leaves it locked in a child that was
    # forked meanwhile: of children forked amid four busy threads 24 in 30 hung, without any code of ours.
    coverage: Any = sys.modules.get("coverage")
    current = coverage and coverage.Coverage.current()
    if current is not None and current._collector is not None:
        current._collector.data_lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # before the hooks of what is under test
    os.register_at_fork(after_in_child=_begin_anew)
