"""The JSONL handler: its lines, what it survives, and that nothing accepted is lost."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible_otel.errors import ConfigurationError
from crucible_otel.events.handler import BuiltHandler
from crucible_otel.handlers import build

ROOT = Path(__file__).parents[2]
START_NS = 1_705_314_600_123_456_789  # 2024-01-15T10:30:00.123456789Z
STEP = "crucible_kitchen.training.step"

SEED_LINES = """\
{"timestamp":"2024-01-15T10:30:00Z","event":"crucible_kitchen.workflow.run.start","measurements":{},"metadata":{"workflow":"MyWorkflow","run_id":"run_123"}}
{"timestamp":"2024-01-15T10:30:01Z","event":"crucible_kitchen.training.step","measurements":{"loss":2.5432,"lr":0.0002},"metadata":{"step":1,"total_steps":1000}}
"""


def refuse(constant: str) -> None:
    """Stand in for NaN and the infinities."""
    raise AssertionError(f"{constant} is not JSON")


def strict(path: Path) -> list[dict[str, Any]]:
    """Every line of the file, read by a strict parser."""
    lines = path.read_bytes().split(b"\n")
    assert b"" == lines.pop()
    return [json.loads(line.decode("utf-8"), parse_constant=refuse) for line in lines]


def status(built: BuiltHandler) -> dict[str, int]:
    """The handler's own counts."""
    return built.handle.status()  # type: ignore[attr-defined,no-any-return]


def steps(built: BuiltHandler, numbers: range) -> None:
    """Hand over a step event for each number."""
    for number in numbers:
        built.handle(STEP, {"loss": 0.5}, {"step": number}, None)


def test_the_lines_of_the_guide_are_written_byte_for_byte(tmp_path: Path) -> None:
    """Key order, separators, timestamps and empty maps are those of the CrucibleKitchen guide."""
    times = iter([START_NS, START_NS + 1_000_000_000])
    path = tmp_path / "training.jsonl"
    built = build("jsonl", path=path, clock_ns=lambda: next(times))
    workflow = {"workflow": "MyWorkflow", "run_id": "run_123"}
    built.handle("crucible_kitchen.workflow.run.start", {}, workflow, None)
    built.handle(STEP, {"loss": 2.5432, "lr": 0.0002}, {"step": 1, "total_steps": 1000}, None)
    built.close()
    assert SEED_LINES == path.read_text()


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("seconds", "2024-01-15T10:30:00Z"),
        ("milliseconds", "2024-01-15T10:30:00.123Z"),
        ("microseconds", "2024-01-15T10:30:00.123456Z"),
        ("nanoseconds", "2024-01-15T10:30:00.123456789Z"),
    ],
)
def test_timestamps_can_be_finer(tmp_path: Path, precision: str, expected: str) -> None:
    """precision= gives the seconds a fraction."""
    path = tmp_path / "x"
    built = build("jsonl", path=path, precision=precision, clock_ns=lambda: START_NS)
    steps(built, range(1))
    built.close()
    assert [expected] == [line["timestamp"] for line in strict(path)]


def test_it_takes_every_event_under_its_id_with_canonical_names_unless_told(tmp_path: Path) -> None:
    """The default id and names; names="seed" asks the bus for the seed's."""
    built = build("jsonl", path=tmp_path / "x")
    assert ("crucible-kitchen-jsonl", None, "canonical") == (built.id, built.events, built.names)
    assert "seed" == build("jsonl", path=tmp_path / "x", names="seed").names


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("path", None), ("path", ""), ("path", 3), ("path", "a\0b"), ("path", "directory/"), ("path", "/"),
        ("names", "both"), ("precision", "days"), ("precision", ["seconds"]),
        ("queue_size", 0), ("queue_size", 1.5), ("queue_size", True), ("clock_ns", 1), ("file", "x"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_used_is_named(tmp_path: Path, option: str, value: object) -> None:
    """The error carries the option, the value and what is accepted."""
    with pytest.raises(ConfigurationError) as caught:
        build("jsonl", **{"path": tmp_path / "x", option: value})
    assert (option, value) == (caught.value.field, caught.value.value)
    assert caught.value.accepted


def test_a_missing_path_is_an_immediate_error() -> None:
    """Nobody has to wait for the first event to hear of it."""
    with pytest.raises(ConfigurationError, match="path=None"):
        build("jsonl")


def test_parents_are_made_and_the_file_is_private(tmp_path: Path) -> None:
    """What a run tells is for its owner alone."""
    path = tmp_path / "a" / "b" / "x.jsonl"
    built = build("jsonl", path=path)
    steps(built, range(1))
    built.close()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_a_relative_path_is_the_one_at_the_time_of_attaching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its directory keeps its file."""
    monkeypatch.chdir(tmp_path)
    built = build("jsonl", path="x.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    steps(built, range(1))
    built.close()
    assert 1 == len(strict(tmp_path / "x.jsonl"))


@dataclasses.dataclass
class Config:
    name: str


def test_values_that_json_does_not_have_become_strings_and_numbers(tmp_path: Path) -> None:
    """NaN and the infinities as in protobuf's JSON; arrays, paths, errors and data classes as plain data."""
    recursive: list[Any] = []
    recursive.append(recursive)
    path = tmp_path / "x"
    built = build("jsonl", path=path)
    built.handle(STEP, {"loss": math.nan, "high": math.inf, "low": -math.inf, "big": 2**70}, {}, None)
    built.handle(
        STEP,
        {"metrics": {"auc": np.float32("nan"), 1: np.array(0.5)}, "weights": np.zeros((2, 2))},
        {
            "error": ValueError("bad"), "path": Path("/a"), "config": Config("c"), "tags": {"b", "a"}, "raw": b"ab",
            "text": "\ud800\n\u2028", "recursive": recursive, "long": "x" * 100_000, "": 1, "none": None,
        },
        None,
    )  # fmt: skip
    built.close()
    first, second = strict(path)
    assert {"loss": "NaN", "high": "Infinity", "low": "-Infinity", "big": str(2**70)} == first["measurements"]
    assert {
        "metrics": {"auc": "NaN", "1": 0.5},
        "weights": "ndarray(shape=(2, 2), dtype=float64)",
    } == second["measurements"]
    assert {
        "error": "ValueError: bad", "path": "/a", "config": {"name": "c"}, "tags": ["a", "b"], "raw": "YWI=",
        "text": "\\ud800\n\u2028", "recursive": ["<recursive>"], "long": "x" * 4095 + "…", "_": 1, "none": None,
    } == second["metadata"]  # fmt: skip


@pytest.mark.parametrize("values", [None, [1], "text", {}])
def test_measurements_and_metadata_are_always_objects(tmp_path: Path, values: Any) -> None:
    """Never null, never a list, whatever a program passes."""
    path = tmp_path / "x"
    built = build("jsonl", path=path)
    built.handle(STEP, values, values, None)
    built.close()
    (line,) = strict(path)
    assert [dict, dict] == [type(line["measurements"]), type(line["metadata"])]


scalar = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.dictionaries(st.text(st.characters()) | st.integers(), scalar | st.lists(scalar)), max_size=5))
def test_whatever_is_in_an_event_its_line_is_strict_json(tmp_path: Path, events: list[dict[Any, Any]]) -> None:
    """One event, one line, in order."""
    path = tmp_path / "x"
    path.unlink(missing_ok=True)
    built = build("jsonl", path=path)
    for number, values in enumerate(events):
        built.handle(f"my.event.{number}", values, values, None)
    built.close()
    lines = strict(path) if events else []
    assert [f"my.event.{number}" for number in range(len(events))] == [line["event"] for line in lines]


def test_what_a_program_changes_afterwards_does_not_change_the_line(tmp_path: Path) -> None:
    """An event is what it was when it happened, also where it is written later."""
    path = tmp_path / "x"
    built = build("jsonl", path=path)
    metadata: dict[str, Any] = {"step": 1}
    nested = {"metrics": {"a": 1}, "history": [1]}
    built.handle(STEP, {}, metadata, None)
    built.handle(STEP, {}, nested, None)
    metadata["step"] = 2
    nested["metrics"]["a"] = 2  # type: ignore[index]
    nested["history"].append(2)  # type: ignore[attr-defined]
    built.close()
    assert [{"step": 1}, {"metrics": {"a": 1}, "history": [1]}] == [line["metadata"] for line in strict(path)]


def test_eight_threads_lose_and_mix_nothing(tmp_path: Path) -> None:
    """Every line of every thread is there once, whole, in the thread's order, across flushes."""
    path = tmp_path / "x"
    built = build("jsonl", path=path)

    def emit(thread: int) -> None:
        for number in range(2_000):
            metadata: dict[str, Any] = {"thread": thread, "number": number}
            if number % 7 == 0:
                metadata["list"] = [number]  # the other way through the handler
            built.handle(STEP, {}, metadata, None)
            if number % 500 == 0:
                assert built.flush(30)

    threads = [threading.Thread(target=emit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    built.close()
    seen: dict[int, list[int]] = {thread: [] for thread in range(8)}
    for line in strict(path):
        seen[line["metadata"]["thread"]].append(line["metadata"]["number"])
    assert {thread: list(range(2_000)) for thread in range(8)} == seen
    assert {"written": 16_000, "dropped": 0, "failed": 0} == status(built)


def test_a_flush_returns_when_all_that_was_accepted_is_in_the_file(tmp_path: Path) -> None:
    """Reading right after a flush finds every line."""
    path = tmp_path / "x"
    built = build("jsonl", path=path)
    for rounds in range(1, 4):
        steps(built, range(100))
        assert built.flush(30)
        assert rounds * 100 == len(strict(path))
    built.close()


def test_after_close_events_are_refused_and_counted(tmp_path: Path) -> None:
    """A late event neither raises nor reopens the file; closing twice does nothing."""
    path = tmp_path / "x"
    built = build("jsonl", path=path)
    steps(built, range(3))
    built.close()
    steps(built, range(2))
    built.close()
    assert built.flush(30)
    assert 3 == len(strict(path))
    assert {"written": 3, "dropped": 2, "failed": 0} == status(built)


def test_two_files_are_written_at_once(tmp_path: Path) -> None:
    """Two handlers, two ids, two files, each with all events."""
    built = [build("jsonl", path=tmp_path / name, id=name) for name in ("a", "b")]
    for number in range(50):
        for handler in built:
            handler.handle(STEP, {}, {"step": number}, None)
    for handler in built:
        handler.close()
    for name in ("a", "b"):
        assert list(range(50)) == [line["metadata"]["step"] for line in strict(tmp_path / name)]


def test_a_full_queue_drops_counts_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While nobody reads a pipe the program goes on; what was accepted arrives when somebody does."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    built = build("jsonl", path=path, queue_size=10)
    with caplog.at_level(logging.WARNING):
        steps(built, range(1_000))
        counts = status(built)
        assert counts["dropped"] >= 1_000 - 10 - 10
        accepted = 1_000 - counts["dropped"]
        assert not built.flush(0.01)
        with open(path, "rb") as reader:
            assert built.flush(30)
            built.close()
            lines = reader.read().splitlines()
        assert accepted == len(lines)
        assert 1 == len(caplog.records)
        assert f"too many events wait for {path}" in caplog.text


def test_memory_is_bounded_for_huge_events_too(tmp_path: Path) -> None:
    """Events of many kilobytes are bounded by their bytes, not by their number."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    built = build("jsonl", path=path)
    huge = {str(number): "x" * 4_096 for number in range(20)}
    for _ in range(1_200):
        built.handle(STEP, {}, huge, None)
    assert status(built)["dropped"] > 0
    with open(path, "rb") as reader:
        drain = threading.Thread(target=reader.read)
        drain.start()
        assert built.flush(60)
        built.close()
        drain.join()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Training goes on, however many writes fail."""
    built = build("jsonl", path="/dev/full")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            steps(built, range(10))
            assert built.flush(30)
        built.close()
    assert {"written": 0, "dropped": 0, "failed": 30} == status(built)
    assert [
        "cannot write events to /dev/full ([Errno 28] No space left on device): they are lost, training goes on"
    ] == [record.getMessage() for record in caplog.records]


def test_a_path_that_cannot_be_made_is_counted_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A parent that is a file, as a directory without permission, costs the lines and nothing else."""
    (tmp_path / "file").touch()
    built = build("jsonl", path=tmp_path / "file" / "x.jsonl")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            steps(built, range(5))
            assert built.flush(30)
        built.close()
    assert {"written": 0, "dropped": 0, "failed": 10} == status(built)
    assert 1 == len(caplog.records)


def run(code: str, *arguments: object) -> Any:
    """Run a program in a process of its own; its last line is JSON."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert 0 == result.returncode, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


FILLING = """
import json, logging, resource, sys
from crucible_otel.handlers import build
logging.disable()
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
built = build("jsonl", path=sys.argv[1])
for number in range(500):
    built.handle("my.event", {}, {"number": number}, None)
built.flush(30)
full = dict(built.handle.status())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
built.handle("my.event", {}, {"number": -1}, None)
built.close()
print(json.dumps([full, built.handle.status()]))
"""


def test_a_file_that_fills_up_holds_whole_lines_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """A line that only half fits is taken back, and counted as failed."""
    path = tmp_path / "x"
    full, end = run(FILLING, path)
    lines = [line["metadata"]["number"] for line in strict(path)]
    assert full["written"] + full["failed"] == 500
    assert full["failed"] > 0
    assert [*range(full["written"]), -1] == lines
    assert full["written"] + 1 == end["written"]


FORKING = """
import json, os, sys
from crucible_otel.handlers import build
built = build("jsonl", path=sys.argv[1])
for number in range(300):
    built.handle("my.event", {}, {"who": "parent", "number": number}, None)
children = []
for child in range(3):
    pid = os.fork()
    if not pid:
        for number in range(200):
            built.handle("my.event", {}, {"who": f"child {child}", "number": number}, None)
        done = built.flush(30)
        os._exit(0 if done and built.handle.status()["written"] == 200 else 1)
    children.append(pid)
for number in range(300, 600):
    built.handle("my.event", {}, {"who": "parent", "number": number}, None)
statuses = [os.waitpid(pid, 0)[1] for pid in children]
built.close()
print(json.dumps([statuses, built.handle.status()]))
"""


def test_a_forked_child_writes_its_own_lines_and_never_its_parents(tmp_path: Path) -> None:
    """No line twice, none lost, none torn; the child has a thread and counts of its own and does not hang."""
    path = tmp_path / "x"
    statuses, counts = run(FORKING, path)
    assert [0, 0, 0] == statuses
    assert {"written": 600, "dropped": 0, "failed": 0} == counts
    seen: dict[str, list[int]] = {}
    for line in strict(path):
        seen.setdefault(line["metadata"]["who"], []).append(line["metadata"]["number"])
    assert {"parent": list(range(600)), **{f"child {child}": list(range(200)) for child in range(3)}} == seen


WORKERS = """
import json, multiprocessing, sys
from crucible_otel.handlers import build
built = build("jsonl", path=sys.argv[1])
def work(number):
    built.handle("my.event", {}, {"number": number}, None)
if __name__ == "__main__":
    built.handle("my.event", {}, {"number": -1}, None)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(number,)) for number in range(4)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    built.close()
    print(json.dumps([worker.exitcode for worker in workers]))
"""


def test_a_multiprocessing_worker_leaves_its_lines_behind(tmp_path: Path) -> None:
    """Such a worker never reaches atexit; what it accepted is written all the same."""
    path = tmp_path / "x"
    assert [0, 0, 0, 0] == run(WORKERS, path)
    assert [-1, 0, 1, 2, 3] == sorted(line["metadata"]["number"] for line in strict(path))


WRITING = """
import sys
from crucible_otel.handlers import build
built = build("jsonl", path=sys.argv[1])
for number in range(200):
    built.handle("my.event", {}, {"who": sys.argv[2], "number": number, "fill": "x" * 3000}, None)
    if number % 10 == 0:
        built.flush(30)
built.close()
"""


def test_processes_that_share_a_file_keep_their_lines_whole(tmp_path: Path) -> None:
    """Long lines of several processes never interleave."""
    path = tmp_path / "x"
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITING, str(path), str(number)], cwd=ROOT) for number in range(3)
    ]
    assert [0, 0, 0] == [process.wait(timeout=60) for process in processes]
    seen: dict[str, list[int]] = {}
    for line in strict(path):
        seen.setdefault(line["metadata"]["who"], []).append(line["metadata"]["number"])
    assert {str(number): list(range(200)) for number in range(3)} == seen
