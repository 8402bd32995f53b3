"""The benchmarks of the queues run and say what they found; how fast anything was is not asserted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> list[str]:
    """Run a benchmark and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_every_call_that_is_offered_is_accounted_for() -> None:
    """The status says so: spans are delivered or counted as dropped, and the metrics have all calls."""
    lines = run("benchmarks.offered", "--seconds", "0.5", "--rates", "1000,20000")

    assert ["1,000", "20,000"] == [lines[at].split()[0] for at in (2, 4)]
    assert ["0", "0"] == [lines[at].split()[-1] for at in (2, 4)]


def test_the_time_that_others_wait_is_shown_for_each_way() -> None:
    """Beside a loop in which nothing is exported, the SDK's own way, and a loop that is always the same."""
    lines = run("benchmarks.gil", "--items", "1000")

    assert "1,000 items" in lines[0]
    assert 7 == len(lines[2:])
