"""What the engine keeps of those who recorded, once they are gone: their series."""

from __future__ import annotations

import gc
import weakref

from crucible_otel.semconv.training import STEP_EVENT

from .engines import engine, value


def test_a_series_outlives_its_handle_and_nothing_else_does() -> None:
    """Neither the last record, nor the one that became a log event, keeps its owner."""
    here, _, reports = engine()
    handle = here.handle(STEP_EVENT, ("m",), None, {})
    handle.record(loss=0.5)
    here.snapshot()
    handle.record(loss=0.25)
    handle.log_last()
    owner = weakref.ref(handle.owner)
    del handle
    here.snapshot()
    gc.collect()
    assert (None, 2) == (owner(), value(here, "crucible.training.steps"))
    assert 2 == len(reports)
