"""How long log records wait."""

from __future__ import annotations

import pytest
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter

from crucible_otel.export.delivery import LogDelivery
from crucible_otel.export.queues import LogQueue
from crucible_otel.export.tally import Ledger


@pytest.mark.parametrize(("given", "delay_ms"), [(None, 5_000), ("250", 250)])
def test_the_delay_is_ours_unless_the_environment_sets_one(
    given: str | None, delay_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five seconds, or what ``OTEL_BLRP_SCHEDULE_DELAY`` says."""
    if given is not None:
        monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", given)
    ledger = Ledger()
    delivery = LogDelivery(InMemoryLogRecordExporter(), tally=ledger.open("logs", "memory"), ledger=ledger)
    queue = LogQueue(delivery, ledger)
    try:
        assert queue._batch_processor._schedule_delay_millis == delay_ms
    finally:
        queue.shutdown()
