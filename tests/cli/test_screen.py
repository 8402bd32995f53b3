"""What the demo writes, where nobody looks and on a terminal."""

from __future__ import annotations

import io

import pytest

from crucible_otel.cli.demo.screen import Glyphs, Progress, Screen


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        """Somebody looks."""
        return True


@pytest.fixture(autouse=True)
def _a_capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_file_gets_plain_text() -> None:
    """No colour and no progress line."""
    stream = io.StringIO()
    screen = Screen(stream)
    screen.heading("Title", "note")
    screen.progress("half")
    screen.line(screen.style("text", "bold"))

    assert "\x1b" not in stream.getvalue()
    assert "half" not in stream.getvalue()
    assert stream.getvalue().endswith("\ntext\n")


def test_a_closed_output_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started with ``>&-``, a process has no standard output at all."""
    monkeypatch.setattr("sys.stdout", None)
    screen = Screen()
    screen.heading("Title")
    screen.said("text")

    assert (None, False) == (screen.encoding, screen.style("text", "bold") != "text")


def test_a_terminal_gets_colour() -> None:
    """As long as it wants it."""
    assert "\x1b[1mtext\x1b[0m" == Screen(Terminal()).style("text", "bold")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the usual variables."""
    monkeypatch.setenv(name, value)

    assert "text" == Screen(Terminal()).style("text", "bold")


def test_progress_stays_below_what_is_written() -> None:
    """A line takes its place, and it is drawn again underneath."""
    stream = Terminal()
    screen = Screen(stream)
    screen.progress("1 of 2")
    screen.write("a line\n")

    assert "\r\x1b[2K1 of 2\r\x1b[2Ka line\n1 of 2" == stream.getvalue()


def test_progress_of_training_is_told_by_its_steps() -> None:
    """As far as the step is among all; an event without a total shows nothing."""
    stream = Terminal()
    progress = Progress(Screen(stream))
    progress("step", {}, {"step": 1}, None)
    assert "" == stream.getvalue()
    progress("step", {}, {"step": 30, "total_steps": 120}, None)

    assert "30/120" in stream.getvalue()


def test_quiet_lets_only_what_must_be_said_through() -> None:
    """Headings, lines and tables are dropped."""
    stream = io.StringIO()
    screen = Screen(stream, quiet=True)
    screen.heading("Title")
    screen.line("line")
    screen.table([("a",), ("b",)])
    screen.said("the file")

    assert "the file\n" == stream.getvalue()


def test_tables_are_aligned() -> None:
    """Columns are as wide as their widest cell, and no line ends in spaces."""
    stream = io.StringIO()
    Screen(stream).table([("name", "n", ""), ("a", "1", "x"), ("bbbbbb", "100", "")], right=(1,))

    assert ["  name       n", "  a          1   x", "  bbbbbb   100"] == stream.getvalue().splitlines()


def test_glyphs_fit_the_encoding() -> None:
    """ASCII where there is nothing else, or nothing known."""
    assert Glyphs() == Glyphs.of("utf-8")
    assert ["=", "=", "="] == [Glyphs.of(encoding).rule for encoding in ("ascii", None, "no-such-encoding")]
