"""The console handler: its lines, its colours, and what a hostile value or stream cannot do to it."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_otel.errors import ConfigurationError
from crucible_otel.events.handler import BuiltHandler
from crucible_otel.handlers import build
from crucible_otel.semconv.aliases import KITCHEN

GOLDEN = Path(__file__).parent / "golden" / "console.txt"
ROOT = Path(__file__).parents[2]

Event = tuple[str, dict[str, Any], dict[str, Any]]

SEED_STORY: list[Event] = [
    ("workflow.run.start", {}, {"workflow": "MyWorkflow", "run_id": "run_123"}),
    ("stage.run.start", {}, {"stage": "load_dataset", "module": "app"}),
    ("stage.run.stop", {"duration": 1_200_000_000}, {"stage": "load_dataset", "module": "app", "success": True}),
    ("training.step", {"loss": 2.5432, "lr": 0.0002, "grad_norm": 1.5}, {"step": 1, "total_steps": 1000}),
    ("training.step", {"loss": 2.4123, "lr": 0.0002}, {"step": 2, "total_steps": 1000}),
    ("training.epoch", {"epoch_loss": 2.1}, {"epoch": 1, "total_epochs": 3}),
    ("training.checkpoint", {"size_bytes": 10}, {"checkpoint_name": "epoch_1", "path": "/tmp/epoch_1"}),
    ("workflow.run.stop", {"duration": 2_718_000_000_000}, {"workflow": "MyWorkflow", "run_id": "run_123"}),
]


def kitchen(topic: str) -> str:
    """The seed's name of an event."""
    return f"crucible_kitchen.{topic}"


def tell(built: BuiltHandler, events: list[Event]) -> None:
    """Hand the events to the handler, as the bus does."""
    for topic, measurements, metadata in events:
        built.handle(kitchen(topic), measurements, metadata, built.config)


def line_of(topic: str, measurements: dict[str, Any], metadata: dict[str, Any], **options: Any) -> str:
    """What one event prints on a stream that is no terminal."""
    stream = io.StringIO()
    tell(build("console", stream=stream, **options), [(topic, measurements, metadata)])
    return stream.getvalue()


def test_the_seed_story_is_printed_byte_for_byte() -> None:
    """The block of the CrucibleKitchen guide comes out exactly."""
    stream = io.StringIO()
    tell(build("console", stream=stream), SEED_STORY)
    assert GOLDEN.read_text() == stream.getvalue()


@pytest.mark.parametrize(
    ("topic", "measurements", "metadata", "expected"),
    [
        ("workflow.run.exception", {"duration": 5}, {"workflow": "W", "error": "boom"}, "Workflow failed: W: boom"),
        ("stage.run.exception", {}, {"stage": "s", "error": ValueError("bad")}, "Stage s failed: ValueError: bad"),
        ("stage.run.stop", {"duration": 10**9}, {"stage": "s", "success": False}, "Stage s failed after 1.0s"),
        (
            "training.eval",
            {"metrics": {"accuracy": 0.91, "loss": 0.3}},
            {"split": "validation", "step": 12},
            "Evaluation validation at step 12 | accuracy=0.9100 | loss=0.3000",
        ),
        (
            "dataset.load",
            {"size": 36718, "duration": 1_200_000_000},
            {"name": "wikitext"},
            "Dataset wikitext loaded: 36718 examples in 1.2s",
        ),
        ("dataset.batch", {"batch_size": 32}, {"batch_idx": 7}, "Batch 7 | batch_size=32"),
        ("training.epoch", {}, {"epoch": 0, "total_epochs": 3}, "Epoch 0/3 complete"),
    ],
)
def test_the_lines_that_the_guide_does_not_show(
    topic: str, measurements: dict[str, Any], metadata: dict[str, Any], expected: str
) -> None:
    """Failures, evaluations and datasets print one line each."""
    assert f"[Kitchen] {expected}\n" == line_of(topic, measurements, metadata)


def test_it_subscribes_to_the_twelve_kitchen_events_under_its_id() -> None:
    """Exactly the events of the guide, by the seed's names and with the seed's fields."""
    built = build("console")
    assert ("crucible-kitchen-console", tuple(alias.name for alias in KITCHEN), "seed") == (
        built.id,
        built.events,
        built.names,
    )
    assert len(KITCHEN) == 12


def test_batches_can_be_left_out() -> None:
    """With batches=False the handler does not even subscribe to them."""
    built = build("console", batches=False)
    assert built.events is not None
    assert kitchen("dataset.batch") not in built.events
    assert len(built.events) == 11


@pytest.mark.parametrize("alias", KITCHEN, ids=lambda alias: str(alias.name))
def test_missing_fields_print_a_question_mark(alias: Any) -> None:
    """An event without any field still gets its line."""
    stream = io.StringIO()
    build("console", stream=stream).handle(alias.name, {}, {}, None)
    line = stream.getvalue()
    assert line.startswith("[Kitchen] ")
    assert "?" in line
    assert 1 == line.count("\n")


@pytest.mark.parametrize(
    ("duration_ns", "expected"),
    [
        (0, "0.0ms"), (340_000_000, "340.0ms"), (999_949_999, "999.9ms"), (999_960_000, "1.0s"),
        (1_200_000_000, "1.2s"), (59_949_999_999, "59.9s"), (59_960_000_000, "1.0m"), (2_718_000_000_000, "45.3m"),
        (36_000_000_000_000, "600.0m"), (float("nan"), "nan"), (float("inf"), "inf"), (-1_000_000, "-1.0ms"),
        (None, "?"), ("soon", "soon"),
    ],
)  # fmt: skip
def test_durations_have_one_decimal_and_a_scaled_unit(duration_ns: object, expected: str) -> None:
    """Milliseconds below a second, seconds below a minute, minutes from there on, also where rounding crosses over."""
    line = line_of("workflow.run.stop", {"duration": duration_ns}, {})
    assert f"[Kitchen] Workflow completed in {expected}\n" == line


@pytest.mark.parametrize(
    ("loss", "learning_rate", "expected"),
    [
        (float("nan"), 0.1, "loss=nan | lr=0.1"),
        (float("-inf"), 1e-5, "loss=-inf | lr=1e-05"),
        (-0.5, 0.00020000000001, "loss=-0.5000 | lr=0.0002"),
        (2, 1, "loss=2.0000 | lr=1"),
        (1e300, 3e-4, "loss=1e+300 | lr=0.0003"),
        ("high", True, "loss=high | lr=True"),
        (None, [0.1, 0.2], "loss=? | lr=[0.1, 0.2]"),
        (10**400, 0.1, f"loss=<int of {(10**400).bit_length()} bits> | lr=0.1"),
    ],
)
def test_loss_and_learning_rate_are_shown_whatever_they_are(loss: object, learning_rate: object, expected: str) -> None:
    """Four decimals for the loss, the shortest form for the rate, words for what is no number."""
    line = line_of("training.step", {"loss": loss, "lr": learning_rate}, {"step": 1, "total_steps": 2})
    assert f"[Kitchen] Step 1/2 | {expected}\n" == line


def test_values_cannot_act_on_the_terminal() -> None:
    """Newlines, escapes, control characters and bidirectional overrides are shown, not sent."""
    line = line_of("workflow.run.start", {}, {"workflow": "a\nb\r\x1b[31mred\x07\x9b\u202e\u2028\ud800é漢"})
    assert "[Kitchen] Workflow started: a\\nb\\r\\x1b[31mred\\x07\\x9b\\u202e\\u2028\\ud800é漢\n" == line


def test_a_megabyte_is_cut() -> None:
    """A value keeps its first 400 characters."""
    line = line_of("workflow.run.start", {}, {"workflow": "x" * 1_000_000})
    assert f"[Kitchen] Workflow started: {'x' * 399}…\n" == line


@given(st.sampled_from(KITCHEN), st.data())
def test_any_value_gives_one_printable_line(alias: Any, data: st.DataObject) -> None:
    """Whatever stands in the fields, the event prints exactly one clean line."""
    value = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
        st.dictionaries(st.text(), st.floats()), st.lists(st.integers()), st.complex_numbers(),
    )  # fmt: skip
    fields = {name: data.draw(value) for name in (*alias.measurements, *alias.metadata)}
    stream = io.StringIO()
    build("console", stream=stream).handle(alias.name, fields, {}, None)
    assert stream.getvalue().endswith("\n")
    assert stream.getvalue()[:-1].isprintable()


def test_the_prefix_can_be_changed_and_left_out() -> None:
    """prefix= replaces the word in brackets; empty leaves nothing behind."""
    assert "demo: Stage started: s\n" == line_of("stage.run.start", {}, {"stage": "s"}, prefix="demo:")
    assert "Stage started: s\n" == line_of("stage.run.start", {}, {"stage": "s"}, prefix="")


def test_without_a_stream_it_follows_sys_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is looked up when a line is written, not when the handler is made."""
    built = build("console")
    tell(built, SEED_STORY[:1])
    assert "[Kitchen] Workflow started: MyWorkflow\n" == capsys.readouterr().out
    sys.stdout, before = io.StringIO(), sys.stdout
    try:
        tell(built, SEED_STORY[1:2])
        assert "[Kitchen] Stage started: load_dataset\n" == sys.stdout.getvalue()
    finally:
        sys.stdout = before


class Broken:
    def write(self, text: str) -> int:
        raise OSError("gone")

    def flush(self) -> None:
        raise OSError("gone")


def closed() -> io.StringIO:
    """A stream that was closed."""
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("make_stream", [Broken, closed])
def test_a_broken_or_closed_stream_never_raises(make_stream: Callable[[], Any]) -> None:
    """The line is lost and counted."""
    built = build("console", stream=make_stream())
    tell(built, SEED_STORY)
    assert {"dropped": len(SEED_STORY)} == built.handle.status()  # type: ignore[attr-defined]


def test_no_standard_output_at_all_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a console has None there."""
    monkeypatch.setattr(sys, "stdout", None)
    built = build("console")
    tell(built, SEED_STORY)
    assert {"dropped": len(SEED_STORY)} == built.handle.status()  # type: ignore[attr-defined]


def test_an_encoding_that_lacks_a_character_gets_it_escaped() -> None:
    """A terminal in the C locale still sees the line."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    tell(build("console", stream=stream), [("workflow.run.start", {}, {"workflow": "été"})])
    assert b"[Kitchen] Workflow started: \\xe9t\\xe9\n" == raw.getvalue()


def test_a_pipe_whose_reader_left_does_not_change_the_exit_status() -> None:
    """Nothing stays in the buffer of standard output that the interpreter could not flush at its end."""
    code = (
        "import sys; from crucible_otel.handlers import build; sys.stdin.readline()\n"
        "for _ in range(100): build('console').handle('crucible_kitchen.stage.run.start', {}, {'stage': 's'}, None)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    process.communicate(b"go\n", timeout=30)
    assert 0 == process.returncode


def test_a_full_pipe_does_not_hold_the_program() -> None:
    """A reader who stopped reading costs lines, which are counted, and not the run."""
    reader, writer = os.pipe()
    try:
        with os.fdopen(writer, "w") as stream:
            os.set_blocking(writer, False)
            with contextlib.suppress(BlockingIOError):
                while os.write(writer, b"x" * 4_096):
                    pass
            os.set_blocking(writer, True)
            built = build("console", stream=stream)
            tell(built, SEED_STORY)
            assert {"dropped": len(SEED_STORY)} == built.handle.status()  # type: ignore[attr-defined]
            os.read(reader, 1 << 20)
            tell(built, SEED_STORY[:1])
            assert {"dropped": len(SEED_STORY)} == built.handle.status()  # type: ignore[attr-defined]
    finally:
        os.close(reader)


ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(**options: Any) -> str:
    """What the seed's story prints on a real pseudo-terminal."""
    master, slave = pty.openpty()
    try:
        with os.fdopen(slave, "w", encoding="utf-8") as stream:
            tell(build("console", stream=stream, **options), SEED_STORY)
            text = b""
            while text.count(b"\n") < len(SEED_STORY):
                text += os.read(master, 65_536)
        return text.decode().replace("\r\n", "\n")
    finally:
        os.close(master)


def test_a_terminal_gets_colour_and_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real pseudo-terminal there is colour; without it the lines are those of the guide."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    text = on_a_terminal()
    assert "\x1b[" in text
    assert GOLDEN.read_text() == ANSI.sub("", text)


@pytest.mark.parametrize(
    ("variable", "value", "options"),
    [("NO_COLOR", "1", {}), ("TERM", "dumb", {}), ("TERM", "xterm", {"color": "never"})],
)
def test_colour_on_a_terminal_can_be_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, options: dict[str, Any]
) -> None:
    """NO_COLOR, a dumb terminal and color="never" give plain lines."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(variable, value)
    assert GOLDEN.read_text() == on_a_terminal(**options)


def test_colour_can_be_forced() -> None:
    """color="always" colours a captured stream too."""
    line = line_of("stage.run.start", {}, {"stage": "s"}, color="always")
    assert "\x1b[" in line
    assert "[Kitchen] Stage started: s\n" == ANSI.sub("", line)


@pytest.mark.parametrize(
    ("option", "value"),
    [("color", "sometimes"), ("prefix", "a\nb"), ("prefix", 3), ("stream", 1), ("batches", 1), ("colour", "auto")],
)
def test_an_option_that_cannot_be_used_is_named(option: str, value: object) -> None:
    """The error carries the option, the value and what is accepted."""
    with pytest.raises(ConfigurationError) as caught:
        build("console", **{option: value})
    assert (option, value) == (caught.value.field, caught.value.value)
    assert caught.value.accepted
