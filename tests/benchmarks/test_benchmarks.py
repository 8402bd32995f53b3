"""The benchmarks run and say what they found; how fast anything was is not asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.measure import Figures, ratio
from benchmarks.report import TITLES, page, terminal
from benchmarks.result import Result, Section

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a coarse run of the hot loop wrote."""
    kept = tmp_path_factory.mktemp("benchmarks") / "found.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "hot", "--json", str(kept)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert 0 == done.returncode, done.stderr
    assert "six SDK instruments / run.step" in done.stdout
    return json.loads(kept.read_text())


def test_a_run_says_what_was_measured_where(found: dict[str, Any]) -> None:
    """The circumstances, and for every line its figure, its target and whether it is met."""
    assert {"machine", "load", "quick", "sections"} == set(found)
    assert {"cores", "architecture", "processor", "system", "python", "packages"} == set(found["machine"])
    assert (True, ["hot"]) == (found["quick"], list(found["sections"]))
    section = found["sections"]["hot"]
    assert {"method", "results", "figures"} == set(section)
    for each in section["results"]:
        assert {"name", "value", "unit", "better", "target", "low", "high", "note", "met"} == set(each)
        assert each["value"] > 0
        assert (each["target"] is None) == (each["met"] is None)
    assert [100.0, 100.0, 7.0, 4.0] == [each["target"] for each in section["results"] if each["target"] is not None]


def test_a_run_names_no_machine(found: dict[str, Any]) -> None:
    """Neither its host name nor a path of it."""
    import socket

    text = json.dumps(found)
    assert (False, False) == (str(ROOT) in text, f'"{socket.gethostname()}"' in text)


def test_every_result_is_in_the_table_and_on_the_page(found: dict[str, Any]) -> None:
    """What is printed and what is documented come from the same lines."""
    names = [each["name"] for each in found["sections"]["hot"]["results"]]
    table, document = terminal(found), page(found)
    assert ([], []) == (
        [name for name in names if name not in table],
        [name for name in names if f"| {name} |" not in document],
    )


def test_a_coarse_run_is_not_documented(found: dict[str, Any], tmp_path: Path) -> None:
    """Figures of the documentation come from a whole run; there must be one."""
    kept = tmp_path / "found.json"
    kept.write_text(json.dumps(found))
    assert (2, 2) == (
        main(["--write-docs", "--json", str(kept)]),
        main(["--write-docs", "--json", str(tmp_path / "missing.json")]),
    )


def test_a_section_that_is_measured_alone_joins_the_others(found: dict[str, Any], tmp_path: Path) -> None:
    """In the file, in the order of the page; not on the terminal, and not with what another machine has measured."""
    kept = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "import", "--json", str(kept)]
    for machine, expected in (({}, ["hot", "import"]), ({"cores": 1_000}, ["import"])):
        kept.write_text(json.dumps({**found, "machine": {**found["machine"], **machine}}))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert (0, False) == (done.returncode, "six SDK instruments" in done.stdout), done.stderr
        assert expected == list(json.loads(kept.read_text())["sections"])


@pytest.mark.parametrize("written", ["", '{"machine": {', '{"machine": {}, "sections": {"import": "'])
def test_a_file_that_was_cut_off_counts_as_not_measured(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured next replaces it."""
    monkeypatch.setattr("benchmarks.__main__.prepare", lambda: None)
    monkeypatch.setattr(
        "benchmarks.__main__._measured", lambda only, quick: [("import", Section(results=(), method="m"))]
    )
    kept = tmp_path / "found.json"
    kept.write_text(written)

    assert 0 == main(["--quick", "--only", "import", "--json", str(kept)])
    assert ["import"] == list(json.loads(kept.read_text())["sections"])


def test_an_unknown_benchmark_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names it, and all that exist."""
    with pytest.raises(SystemExit):
        main(["--only", "hot,warp"])
    said = capsys.readouterr().err
    assert [] == [name for name in ("warp;", *TITLES) if name not in said]


@pytest.mark.parametrize(
    ("value", "better", "met"), [(4.0, "less", True), (4.1, "less", False), (4.0, "more", True), (3.9, "more", False)]
)
def test_a_target_is_met_at_the_target_and_on_its_better_side(value: float, better: Any, met: bool) -> None:
    """Less is better or more is better; without a target nothing is promised."""
    assert met == Result(name="a", value=value, better=better, target=4.0).met
    assert None is Result(name="a", value=value, better=better).met


def test_a_ratio_is_the_median_of_the_ratios_within_the_rounds() -> None:
    """A round in which everything was slow changes nothing."""
    assert 2.0 == ratio((2.0, 200.0, 4.0), (1.0, 100.0, 2.0))[0]
    assert (2.0, 5.0) == (Figures((1.0, 2.0, 9.0), (5.0,)).ns, Figures((1.0,), (5.0,)).total_ns)


@pytest.mark.parametrize(
    ("what", "size", "expected"),
    [
        ("series", 50, {"series", "handle", "run", "parts"}),
        ("growth", 2_000, {"before_bytes", "after_bytes", "counted"}),
    ],
)
def test_memory_is_measured_in_processes_of_their_own(what: str, size: int, expected: set[str]) -> None:
    """Each measurement looks into the engine, so each is run whenever that changes."""
    command = [sys.executable, "-m", "benchmarks.memory", what, str(size)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert 0 == done.returncode, done.stderr
    assert expected == set(json.loads(done.stdout))


@pytest.mark.timeout(300)
def test_a_receiver_that_is_not_there_is_measured() -> None:
    """One pair of the shortest trainings there are; what they come to is not asserted."""
    command = [sys.executable, "-m", "benchmarks.unreachable", "--pairs", "1", "--epochs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert 0 == done.returncode, done.stderr
    said = ["training time with telemetry / without", "CPU time of the training", "from the last line to the end"]
    assert [] == [line for line in said if line not in done.stdout]
    assert "pair 1 of 1: " in done.stderr
