"""The command line, in this process and as a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crucible_otel.cli import COMMANDS, main
from crucible_otel.config import reference
from crucible_otel.semconv import render
from tests.test_imports import HEAVY, run_python


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m crucible_otel``."""
    return subprocess.run(
        [sys.executable, "-m", "crucible_otel", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """With a line on each; asking for help is no failure."""
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]

    assert 0 == left.value.code
    assert [] == [name for name in COMMANDS if not any(line[:1] == [name] and line[1:] for line in lines)]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_explains_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command says what it does and what it takes."""
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])

    assert 0 == left.value.code
    assert f"usage: crucible-otel {name}" in capsys.readouterr().out


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else is done."""
    with pytest.raises(SystemExit) as left:
        main(["--version"])

    assert 0 == left.value.code
    assert capsys.readouterr().out.startswith("crucible-otel")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "<command>"),
        (["nonsense"], "nonsense"),
        (["semconv", "--format", "yaml"], "yaml"),
        (["demo", "--epochs", "0"], "--epochs"),
        (["demo", "--epochs", "many"], "many"),
        (["demo", "--batch-size", "-1"], "--batch-size"),
        (["demo", "--seed", "-1"], "--seed"),
        (["demo", "--hold", "nan"], "--hold"),
        (["demo", "--protocol", "smoke"], "smoke"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, with the usage and status 2."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = capsys.readouterr()

    assert (2, "") == (left.value.code, said.out)
    assert named in said.err
    assert said.err.startswith("usage: ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["semconv"], render.render()),
        (["semconv", "--format", "markdown"], render.render()),
        (["semconv", "--format", "prometheus"], render.render_prometheus()),
        (["config"], reference.render()),
    ],
)
def test_references_are_printed(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Byte for byte what the repository's pages hold."""
    assert 0 == main(arguments)
    assert expected == capsys.readouterr().out


def test_package_is_a_program() -> None:
    """``python -m crucible_otel`` is the same command line."""
    done = program("semconv", PYTHONIOENCODING="utf-8")

    assert (0, render.render(), "") == (done.returncode, done.stdout, done.stderr)


def test_output_that_cannot_be_encoded_is_escaped() -> None:
    """A terminal that knows ASCII alone gets the page, not a traceback."""
    done = program("semconv", PYTHONIOENCODING="ascii")

    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.isascii()


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
def test_a_closed_pipe_is_no_traceback() -> None:
    """Nobody reads: the program ends quietly, with the status of one killed by SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "crucible_otel", "semconv"],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)

    assert (141, b"") == (done.returncode, done.stderr)


def test_an_interrupted_command_says_so_by_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """130, as shells have it, and no traceback."""

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("crucible_otel.cli.config.render", interrupted)

    assert 130 == main(["config"])


def test_what_the_caller_can_mend_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it is about, its value and what would do; status 2."""
    taken = tmp_path / "file"
    taken.write_text("", encoding="utf-8")

    assert 2 == main(["demo", "--out", str(taken)])
    said = capsys.readouterr()
    assert "" == said.out
    assert ["crucible-otel: --out", "folder"] == [
        part for part in ("crucible-otel: --out", "folder") if part in said.err
    ]
    assert 1 == said.err.count("\n")


@pytest.mark.parametrize("missing", ["numpy", "sklearn"])
def test_demo_without_its_extra_says_how_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pip line, on standard error, and status 2."""
    monkeypatch.setitem(sys.modules, missing, None)

    assert 2 == main(["demo"])
    assert "pip install 'crucible-otel[demo]'" in capsys.readouterr().err


def test_command_line_loads_nothing_heavy() -> None:
    """References and help need neither the SDK nor what the demo needs."""
    code = (
        "import json, sys\nfrom crucible_otel.cli import main\nimport io\nsys.stdout = io.StringIO()\n"
        "assert 0 == main(['semconv'])\nsys.stdout = sys.__stdout__\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )

    assert [] == json.loads(run_python(code))
