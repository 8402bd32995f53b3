"""What the demo hands back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crucible_otel.cli.demo.curves import Curves
from crucible_otel.cli.demo.story import Story
from crucible_otel.testing.receiver import OtlpReceiver

__all__ = ["DemoResult"]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What was made and what arrived.

    Attributes:
        story: What the program made, as it knows itself.
        receiver: What arrived, closed by now but readable; None when telemetry was sent elsewhere.
        delivered: Whether everything left in time.
        run_id: Identity of the run on the resource.
        prometheus_url: Where the metrics were to be scraped; None without an endpoint.
        scrape: What was scraped there after the first epoch; empty without an endpoint.
        curves: The curves of the picture.
        jsonl: The file with every event.
        picture: The picture of the curves; None where there is none.
        no_picture: Why there is none.
    """

    story: Story
    receiver: OtlpReceiver | None
    delivered: bool
    run_id: str
    prometheus_url: str | None
    scrape: str
    curves: Curves
    jsonl: Path
    picture: Path | None
    no_picture: str
