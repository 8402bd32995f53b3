"""Calls, scale and queues have their places on the page; how fast anything was is not asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.costs import COSTS, costs, table
from benchmarks.gil import OURS
from benchmarks.report import page, terminal

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ["whole", "calls", "scaling", "spans", "encoding", "gil", "offered"]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a coarse run wrote."""
    kept = tmp_path_factory.mktemp("benchmarks") / "found.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", ",".join(SECTIONS), "--json", str(kept)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert 0 == done.returncode, done.stderr
    return json.loads(kept.read_text())


def targets(found: dict[str, Any], section: str) -> dict[str, float]:
    """Return what a section promises."""
    return {
        each["name"]: each["target"] for each in found["sections"][section]["results"] if each["target"] is not None
    }


def test_calls_are_measured_until_they_are_sent(found: dict[str, Any]) -> None:
    """In three configurations, each against the SDK in the same process, with the promises on the point form."""
    of = found["sections"]["calls"]
    promised = {
        "SDK, span and 7 instruments / record, metrics only": 120.0,
        "SDK, span and 7 instruments / record, all spans": 60.0,
        "encode_spans / encoding of a call's span": 30.0,
    }

    assert promised == targets(found, "calls")
    assert {"metrics only", "all spans", "traces off"} == set(of["figures"]["process_ns"])
    for spent in of["figures"]["process_ns"].values():
        assert 7 == len(spent)
        assert min(spent.values()) > 0
    spans = of["figures"]["spans"]
    assert spans["traces off"] is None
    assert spans["all spans"]["delivered"] > 1_000 > spans["metrics only"]["delivered"]


def test_a_span_for_each_step_is_measured_with_the_whole_loop(found: dict[str, Any]) -> None:
    """By a process in which all steps have one, all of which arrived."""
    promised = targets(found, "whole")

    assert {1.0} == {promised[f"{name}, with a span per step"] for name in ("run.step", "README loop")}
    assert {"calls", "other threads", "export"} == set(
        found["sections"]["whole"]["figures"]["with_spans_us"]["run.step"]
    )


def test_scale_is_for_information(found: dict[str, Any]) -> None:
    """Threads, series, numbers and memory, of both ways to record."""
    names = [each["name"] for each in found["sections"]["scaling"]["results"]]

    assert {} == targets(found, "scaling")
    assert 2 * (3 + 2 + 2 + 1) == len(set(names)) == len(names)


def test_encoding_is_measured_on_the_same_bytes(found: dict[str, Any]) -> None:
    """Ours against the SDK's, of spans, log records and hot spans; it refuses to compare what differs."""
    section = found["sections"]["encoding"]

    assert ["span", "log record", "hot span"] == [
        each["name"].removeprefix("SDK's encoder / ours, ") for each in section["results"]
    ]
    assert 6 == len([ns for ns in section["figures"]["ns each"].values() if ns > 0])


def test_queues_are_on_the_page(found: dict[str, Any]) -> None:
    """With what is promised of them: nothing is lost without being counted."""
    lost = {each["name"]: each["value"] for each in found["sections"]["offered"]["results"]}

    assert {0} == {value for name, value in lost.items() if "unaccounted" in name or "not counted" in name}
    assert len(OURS) == list(targets(found, "gil").values()).count(1.0)


def test_the_table_of_costs_is_made_of_the_figures(found: dict[str, Any]) -> None:
    """Every line has its figure, in microseconds and as a share of a step; on the page and on the terminal."""
    measured = dict(costs(found["sections"]))
    missing = [each.what for each in COSTS if each.section in SECTIONS and each.what not in measured]
    spent = {"calls": {"figures": {"process_ns": {"all spans": {"record": 2_500.0}}}}}

    assert [] == missing
    assert [("`call.record` with a span, sent", 2.5)] == costs(spent)
    assert "| `call.record` with a span, sent | 2.50 | 0.025 % |" in table(spent).splitlines()
    assert table(found["sections"]) in page(found)
    assert [] == [what for what in measured if what.replace("`", "") not in terminal(found)]


def test_a_step_with_its_span_costs_what_its_parts_come_to() -> None:
    """The calls, the other threads and the export are added up."""
    parts = {"calls": 3.0, "other threads": 0.5, "export": 1.5}
    found = costs({"whole": {"figures": {"with_spans_us": {"run.step": parts}}}})

    assert [("`run.step` with a span, after a training step, sent", 5.0)] == found
