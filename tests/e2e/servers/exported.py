"""What a Collector's file exporter wrote, asked as our own receiver is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crucible_otel.testing import ReceivedLog, ReceivedMetric, ReceivedSpan, series
from crucible_otel.testing.records import Records
from tests.e2e.servers.base import until
from tests.e2e.servers.otlp_json import records


class Exported:
    """A file of the ``file`` exporter (its JSON format), read anew at every question.

    Args:
        path: The file; need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        """The spans, in the order written."""
        return tuple(span for each in self._records() for span in each.spans)

    @property
    def logs(self) -> tuple[ReceivedLog, ...]:
        """The log records and events, in the order written."""
        return tuple(log for each in self._records() for log in each.logs)

    def points(self, name: str | None = None, **attributes: Any) -> tuple[ReceivedMetric, ...]:
        """Return metric points, in the order written; of one metric, with these attributes among others."""
        return series.select((point for each in self._records() for point in each.points), name, attributes)

    def total(
        self, name: str, attributes: Mapping[str, Any] | None = None, of: series.Amount | None = None
    ) -> int | float:
        """Return what all series of a metric amount to: deltas added up, cumulative values the newest of each."""
        return series.total(self.points(name, **(attributes or {})), of)

    def wait_for(self, predicate: Callable[[Exported], object], timeout_s: float = 30.0) -> None:
        """Wait until a question about the file is answered with yes."""
        until(lambda: bool(predicate(self)), f"what {self.path} should have", timeout_s)

    def _records(self) -> list[Records]:
        if not self.path.exists():
            return []
        # A line that is still being written has no end; bytes, because text has more ends of lines than JSON escapes.
        lines = self.path.read_bytes().splitlines(keepends=True)
        return [records(json.loads(line)) for line in lines if line.endswith(b"\n")]
