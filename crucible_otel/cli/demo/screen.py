"""Plain text on a terminal: colour and a progress line where somebody looks, nothing but text in a file or pipe."""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, TextIO

__all__ = ["Glyphs", "Progress", "Screen"]

_WIDEST: Final = 110
_STYLES: Final[Mapping[str, str]] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_REDRAW_S: Final = 0.05
_BAR: Final = 32


@dataclass(frozen=True, kw_only=True)
class Glyphs:
    """The characters beyond ASCII that are used, or what stands for them where the encoding has none."""

    rule: str = "━"
    rest: str = "─"
    block: str = "█"
    branch: str = "├─ "
    last: str = "└─ "
    line: str = "│  "
    dot: str = "·"

    @classmethod
    def of(cls, encoding: str | None) -> Glyphs:
        """Return those that a stream can show.

        Args:
            encoding: The stream's.
        """
        try:
            "".join(astuple(cls())).encode(encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return cls(rule="=", rest="-", block="#", branch="|- ", last="`- ", line="|  ", dot="-")
        return cls()


class Screen:
    """Where the demo writes, as the stream of the console handler too.

    Args:
        stream: The stream; standard output by default.
        quiet: Whether only what is :meth:`said` comes out.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        # A process started with its standard output closed has none.
        self._stream = stream if stream is not None else sys.stdout or io.StringIO()
        self._quiet = quiet
        self.encoding = getattr(self._stream, "encoding", None)
        self.glyphs = Glyphs.of(self.encoding)
        self._terminal = bool(getattr(self._stream, "isatty", lambda: False)()) and os.environ.get("TERM") != "dumb"
        self._colored = self._terminal and not os.environ.get("NO_COLOR")
        self._below = ""

    @property
    def width(self) -> int:
        """Columns to use."""
        return max(60, min(shutil.get_terminal_size((100, 24)).columns, _WIDEST))

    def style(self, text: str, *styles: str) -> str:
        """Return text in a style, where there is colour."""
        if not (self._colored and styles and text):
            return text
        return f"\x1b[{';'.join(_STYLES[each] for each in styles)}m{text}\x1b[0m"

    def heading(self, text: str, note: str = "") -> None:
        """Write a heading with a rule to the end of the line."""
        note = f" {self.glyphs.dot} {note}" if note else ""
        rule = self.glyphs.rule * max(2, self.width - len(text) - len(note) - 4)
        begin, end = self.style(self.glyphs.rule * 2, "cyan"), self.style(rule, "cyan")
        self.line(f"\n{begin} {self.style(text, 'bold')}{self.style(note, 'dim')} {end}\n")

    def line(self, text: str = "") -> None:
        """Write a line, unless quiet."""
        if not self._quiet:
            self.said(text)

    def said(self, text: str) -> None:
        """Write a line."""
        self.write(f"{text}\n")
        self.flush()

    def table(self, rows: Sequence[Sequence[str]], *, right: tuple[int, ...] = (), dim: tuple[int, ...] = ()) -> None:
        """Write rows in columns, the first one as the heading.

        Args:
            rows: The cells.
            right: Columns to align to the right.
            dim: Columns of less importance.
        """
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for number, row in enumerate(rows):
            cells = []
            for index, cell in enumerate(row):
                padded = cell.rjust(widths[index]) if index in right else cell.ljust(widths[index])
                padded = padded.rstrip() if index == len(row) - 1 else padded
                cells.append(self.style(padded, "dim") if number == 0 or index in dim else padded)
            self.line(f"  {'   '.join(cells)}".rstrip())

    def progress(self, text: str) -> None:
        """Show text below everything written, until there is another; only on a terminal."""
        if not self._terminal or self._quiet:
            return
        self._stream.write(f"\r\x1b[2K{text}")
        self._stream.flush()
        self._below = text

    # -- what the console handler needs of a stream ------------------------------------------------------------------

    def write(self, text: str) -> int:
        """Write text above the progress line."""
        if self._below:
            self._stream.write("\r\x1b[2K")
        self._stream.write(text)
        if self._below and text.endswith("\n"):
            self._stream.write(self._below)
        return len(text)

    def flush(self) -> None:
        """Pass it on."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether somebody looks."""
        return self._terminal

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._stream.fileno()


class Progress:
    """A handler that shows how far the training is.

    Args:
        screen: Where.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen, self._due_s = screen, 0.0
        self._began_s = time.monotonic()

    def __call__(
        self, event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any], config: object
    ) -> None:
        """Take a training step."""
        step, total = int(metadata.get("step", 0)), int(metadata.get("total_steps", 0) or 0)
        now = time.monotonic()
        if not total or now < self._due_s:
            return
        self._due_s = now + _REDRAW_S
        done, glyphs = min(_BAR, _BAR * step // total), self._screen.glyphs
        bar = self._screen.style(glyphs.rule * done, "cyan") + self._screen.style(glyphs.rest * (_BAR - done), "dim")
        rate = step / max(1e-9, now - self._began_s)
        self._screen.progress(f"  {bar}  {step}/{total}  {rate:,.0f} steps/s")
