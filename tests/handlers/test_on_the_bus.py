"""The built-in handlers attached to the real bus: canonical events in, each handler's own names and fields out."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

from crucible_otel.events.bus import Bus
from crucible_otel.events.event import Event
from crucible_otel.handlers import build
from crucible_otel.semconv.registry import EVENTS

STORY: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("workflow.start", {}, {"workflow": "MyWorkflow", "run_id": "run_123"}),
    ("stage.start", {}, {"stage": "load_dataset"}),
    ("stage.stop", {"duration": 1_200_000_000}, {"stage": "load_dataset", "result": "success"}),
    ("training.step", {"loss": 2.5432, "learning_rate": 0.0002}, {"step": 1, "total_steps": 1000}),
    ("training.step", {"loss": 2.4123, "learning_rate": 0.0002}, {"step": 2, "total_steps": 1000}),
    ("training.epoch", {"loss": 2.1}, {"epoch": 1, "total_epochs": 3}),
    ("training.checkpoint", {"size_bytes": 10}, {"checkpoint_name": "epoch_1", "path": "/tmp/epoch_1"}),
    ("workflow.stop", {"duration": 2_718_000_000_000}, {"workflow": "MyWorkflow", "run_id": "run_123"}),
]


def play(bus: Bus) -> None:
    """Deliver the story under canonical names."""
    for topic, measurements, metadata in STORY:
        name = f"crucible.{topic}"
        bus.deliver(Event(EVENTS[name], name, measurements, metadata, 0))


def test_canonical_events_print_the_guides_lines() -> None:
    """The console asks for the seed's names, and the bus translates names and fields."""
    bus, stream = Bus(), io.StringIO()
    bus.attach(build("console", stream=stream))
    play(bus)
    assert (Path(__file__).parent / "golden" / "console.txt").read_text() == stream.getvalue()
    assert {"crucible-kitchen-console": 0} == bus.failures()


class Closed(io.StringIO):
    """A stream that takes nothing."""

    def write(self, text: str, /) -> int:
        """Refuse a line."""
        raise ValueError("closed")


def test_what_each_handler_lost_is_counted_under_its_id(tmp_path: Path) -> None:
    """A full queue, a file that takes nothing, a stream that is closed; none where all arrives."""
    bus = Bus()
    os.mkfifo(tmp_path / "pipe")
    bus.attach(build("jsonl", path=tmp_path / "pipe", queue_size=1, id="full"))
    bus.attach(build("jsonl", path=tmp_path / "f" / "x", id="nowhere"))
    bus.attach(build("console", stream=Closed(), id="closed"))
    bus.attach(build("jsonl", path=tmp_path / "good", id="good"))
    (tmp_path / "f").touch()
    for _ in range(5):
        play(bus)
    everything = 5 * len(STORY)
    # The writing thread may hold some, while nobody reads, and one waits.
    assert everything - 4 <= bus.dropped()["full"] < everything
    with open(tmp_path / "pipe", "rb") as reader:
        drain = threading.Thread(target=reader.read)
        drain.start()
        assert bus.flush(60)
        dropped = bus.dropped()
        for handler_id in dropped:
            bus.detach(handler_id)
        drain.join()
    del dropped["full"]
    assert {"nowhere": everything, "closed": everything, "good": 0} == dropped


def test_a_detached_file_holds_every_event_under_the_names_asked_for(tmp_path: Path) -> None:
    """Two files at once, one with canonical names, one with the seed's; detaching writes what was accepted."""
    bus = Bus()
    ours = bus.attach(build("jsonl", path=tmp_path / "ours"))
    seeds = bus.attach(build("jsonl", path=tmp_path / "seeds", names="seed", id="seeds"))
    play(bus)
    assert bus.detach(ours)
    assert bus.detach(seeds)
    names = {
        file: [json.loads(line)["event"] for line in (tmp_path / file).read_text().splitlines()]
        for file in ("ours", "seeds")
    }
    assert [f"crucible.{topic}" for topic, _, _ in STORY] == names["ours"]
    kitchen = [
        "workflow.run.start", "stage.run.start", "stage.run.stop", "training.step", "training.step", "training.epoch",
        "training.checkpoint", "workflow.run.stop",
    ]  # fmt: skip
    assert [f"crucible_kitchen.{topic}" for topic in kitchen] == names["seeds"]
