"""The guides' own commands, typed into a shell against the real servers.

Every ``console`` block of a guide says what becomes of it, in the line before it: ``<!-- run -->``; ``<!-- started by
the test bed -->``, a server that runs here at other ports; or a visible ``*Not run here: REASON.*``. In a block ``$``
begins a command; what follows is its output, in which ``...`` stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from scripts.backends import BACKENDS, PROMETHEUS
from tests.e2e.conftest import StartCollector
from tests.e2e.servers import Jaeger, Prometheus
from tests.e2e.test_environment_only import WITH_A_COLLECTOR, WITHOUT
from tests.e2e.test_restart import start_minimal
from tests.integration.programs import GIVE_UP_S, ROOT
from tests.integration.test_environment_alone import readme_loop

DOCS: Final = ROOT / "docs"
PAGES: Final = ("index.md", *sorted(f"guides/{path.name}" for path in (DOCS / "guides").glob("*.md")))
RUN: Final = "<!-- run -->"
STARTED: Final = "<!-- started by the test bed -->"
NOT_RUN: Final = re.compile(r"\*Not run here: .+\.\*")
FENCE: Final = re.compile(
    r"^(?P<before>[^\n]*)\n(?P<indent> *)```(?P<kind>\w+)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
HEADING: Final = re.compile(r"^#+ ", re.MULTILINE)
LINK: Final = re.compile(r"\]\((?!https?:)([^)#]+)")
FILE: Final = re.compile(r"<!-- file: (\S+) -->")

NOT_RUN_HERE: Final = {
    "index.md": 1,
    "guides/collector.md": 3,
    "guides/five-minutes.md": 3,
    "guides/vendors.md": 1,
}
"""Page -> how many of its blocks are not run."""

ASKS: Final = ("curl ", "promtool query")
"""What may be asked again until it answers as the page says: what was sent needs a moment to be found."""

ASKED_S: Final = 20.0
BY_COLLECTOR: Final = tuple(f"$ {line}" for line in WITH_A_COLLECTOR.strip().splitlines())


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page.

    Attributes:
        section: Which section of its page it is in.
        before: The line before it.
        kind: What stands behind the fence.
        lines: Its lines.
    """

    section: int
    before: str
    kind: str
    lines: tuple[str, ...]

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command with the lines of output that follow it."""
        found: list[tuple[str, list[str]]] = []
        for line in self.lines:
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line:
                found[-1][1].append(line)
        return found


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = (DOCS / page).read_text()
    return [
        Block(
            section=len(HEADING.findall(text[: found.start()])),
            before=found["before"].strip(),
            kind=found["kind"],
            lines=tuple(line.removeprefix(found["indent"]) for line in found["body"].splitlines()),
        )
        for found in FENCE.finditer(text)
    ]


def consoles(page: str) -> list[Block]:
    """Return the blocks of a page that are to be typed."""
    return [block for block in blocks(page) if block.kind == "console"]


def pattern(line: str) -> str:
    """Return the expression for a line of output."""
    return ".*".join(re.escape(part) for part in line.split("..."))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_becomes_of_it(page: str) -> None:
    """It is run, it is started by the test bed, or the page says to its reader that it is not run."""
    marks = [block.before for block in consoles(page)]

    assert [] == [mark for mark in marks if mark not in (RUN, STARTED) and not NOT_RUN.fullmatch(mark)]
    assert NOT_RUN_HERE.get(page, 0) == sum(NOT_RUN.fullmatch(mark) is not None for mark in marks)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Those to other files of the repository."""
    path = DOCS / page

    assert [] == [link for link in LINK.findall(path.read_text()) if not (path.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_what_the_test_bed_starts_is_a_server_that_it_has(page: str) -> None:
    """By the name of its program."""
    programs = {program for backend in BACKENDS for program in backend.programs}
    started = [command for block in consoles(page) if block.before == STARTED for command, _ in block.commands]

    assert [] == [command for command in started if command.split()[0] not in programs]


def test_the_first_page_has_the_readmes_program_and_three_lines() -> None:
    """It is the loop that everything else is tested with, and what a newcomer types."""
    program = next(block for block in blocks("index.md") if block.kind == "python")
    typed = [[command for command, _ in block.commands] for block in consoles("index.md") if block.before == RUN]

    assert readme_loop().splitlines() == list(program.lines)
    assert [WITH_A_COLLECTOR.strip().splitlines(), WITHOUT.strip().splitlines()] == typed[:2]


def type_in(block: Block, addresses: Mapping[str, str], exported: list[str], folder: Path) -> None:
    """Type a block into a shell and compare what it prints.

    Args:
        block: It.
        addresses: Where the servers are on the page -> where they are in the test.
        exported: The ``export`` commands of the section so far; those of the block are added.
        folder: Where the shell is.
    """
    for command, expected in block.commands:
        if command.startswith("export "):
            exported.append(command)
            continue
        given_up_s = time.monotonic() + (ASKED_S if command.startswith(ASKS) else 0)
        while True:
            printed = shell("\n".join([*exported, command]), addresses, folder)
            wanted = [pattern(line) for line in expected]
            if all(any(re.fullmatch(each, line) for line in printed.splitlines()) for each in wanted):
                break
            assert time.monotonic() < given_up_s, f"{command}\nprinted\n{printed}\nand not\n" + "\n".join(expected)
            time.sleep(0.2)


def shell(lines: str, addresses: Mapping[str, str], folder: Path) -> str:
    """Run lines in a shell; return what they print, with the addresses of the page."""
    for known, here in addresses.items():
        lines = lines.replace(known, here)
    environ = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(PROMETHEUS.folder), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",  # nobody reads it here, and 9464 may be somebody's
    }
    ended = subprocess.run(
        ["sh", "-e", "-c", lines], cwd=folder, env=environ, capture_output=True, text=True, timeout=GIVE_UP_S
    )
    assert (0, "") == (ended.returncode, ended.stderr), f"{lines}\n{ended.stdout}"
    printed = ended.stdout
    for known, here in addresses.items():
        printed = printed.replace(here, known)
    return printed


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.before == RUN for block in consoles(page))])
def test_the_commands_do_what_the_page_says(
    page: str, collector: StartCollector, jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path
) -> None:
    """One after the other, as a reader types them; each section in a shell of its own."""
    addresses = {
        "localhost:4317": jaeger.otlp_grpc.removeprefix("http://"),
        "localhost:4318": jaeger.otlp_http.removeprefix("http://"),
        "localhost:9090": prometheus.url.removeprefix("http://"),
        "localhost:16686": jaeger.url.removeprefix("http://"),
    }
    (tmp_path / "train.py").write_text(readme_loop())
    exported: dict[int, list[str]] = defaultdict(list)
    for block in blocks(page):
        if found := FILE.fullmatch(block.before):
            (tmp_path / found[1]).write_text("\n".join([*block.lines, ""]))
        if block.before == RUN:
            here = dict(addresses)
            if block.lines[: len(BY_COLLECTOR)] == BY_COLLECTOR:
                server = start_minimal(collector, jaeger, prometheus.take_ports())
                here["localhost:4318"] = server.otlp_http.removeprefix("http://")
            type_in(block, here, exported[block.section], tmp_path)
