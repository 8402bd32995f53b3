"""Kind ``console``: the story of a run as lines for people.

The lines are those of the CrucibleKitchen telemetry guide, byte for byte; colour is added on a terminal only. Lines are
written by the thread that makes the event, as ``print`` would, so that they stand in order with the program's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from crucible_otel.errors import ConfigurationError
from crucible_otel.events.handler import BuiltHandler
from crucible_otel.events.sanitize import plain
from crucible_otel.handlers._terminal import Stream, Terminal
from crucible_otel.semconv.aliases import KITCHEN

__all__ = ["ID", "ConsoleHandler", "make"]

ID: Final = "crucible-kitchen-console"

_COLORS: Final = ("auto", "always", "never")
_BATCH: Final = "dataset.batch"

_CHARACTERS: Final = 400
_METRICS: Final = 16
_LARGE: Final = 1e9

_CYAN, _GREEN, _RED, _PLAIN = "36", "32", "31", ""

_UNITS: Final = ((1e6, 1_000, "ms"), (1e9, 60, "s"), (60e9, float("inf"), "m"))
"""Nanoseconds in the unit, from how many of it on the next one is used, its sign."""

_Values = Mapping[str, Any]


def make(
    *,
    stream: Stream | None = None,
    color: Literal["auto", "always", "never"] = "auto",
    prefix: str = "[Kitchen]",
    batches: bool = True,
) -> BuiltHandler:
    """Make a handler that prints a line for each event of a run.

    Args:
        stream: Where to; ``None`` for what ``sys.stdout`` is when a line is written.
        color: ``auto`` colours on a terminal unless ``NO_COLOR`` is set; ``always`` and ``never`` do as they say.
        prefix: What each line begins with.
        batches: Whether dataset batches get a line each.

    Raises:
        ConfigurationError: An option that cannot be used.
    """
    if stream is not None and not all(callable(getattr(stream, verb, None)) for verb in ("write", "flush")):
        raise ConfigurationError("stream", stream, "a text stream with write() and flush(), or None for sys.stdout")
    if color not in _COLORS:
        raise ConfigurationError("color", color, f"one of: {', '.join(_COLORS)}")
    if not _one_line(prefix):
        raise ConfigurationError("prefix", prefix, "a printable string on one line")
    if not isinstance(batches, bool):
        raise ConfigurationError("batches", batches, "True or False")
    names = tuple(name for name, topic in _TOPICS.items() if batches or topic != _BATCH)
    terminal = Terminal(stream, color)
    return BuiltHandler(
        id=ID,
        events=names,
        handle=ConsoleHandler(terminal, prefix=prefix),
        dropped=lambda: terminal.dropped,
        names="seed",
    )


class ConsoleHandler:
    """The handler itself; see :func:`make`."""

    def __init__(self, terminal: Terminal, *, prefix: str) -> None:
        self._terminal = terminal
        self._prefix = f"{prefix} " if prefix else ""
        self._dimmed = f"\x1b[2m{prefix}\x1b[0m " if prefix else ""

    def __call__(
        self, event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any], config: object = None
    ) -> None:
        """Print the line of an event; an event that has none is ignored."""
        write = _LINES.get(_TOPICS.get(event, ""))
        if write is None:
            return
        try:
            text, color = write({**(metadata or {}), **(measurements or {})})
        except Exception:
            self._terminal.dropped += 1
            return
        painted = f"\x1b[{color}m{text}\x1b[0m" if color else text
        self._terminal.line(self._prefix + text, self._dimmed + painted)

    def status(self) -> dict[str, int]:
        """Return how many lines were ``dropped`` because the stream did not take them."""
        return {"dropped": self._terminal.dropped}


def _one_line(prefix: object) -> bool:
    return isinstance(prefix, str) and prefix.isprintable()


def _text(value: object) -> str:
    """Show a value on one line, without anything that a terminal would act on."""
    result = plain(value, depth=2, max_string=_CHARACTERS, max_items=_METRICS)
    text = "?" if result is None or result == "" else str(result)
    if len(text) > _CHARACTERS:
        text = text[: _CHARACTERS - 1] + "…"
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _number(value: object, form: str) -> str:
    result = plain(value, depth=0, max_string=_CHARACTERS)
    if isinstance(result, bool) or not isinstance(result, (int, float)):
        return _text(value)
    return format(float(result), form if abs(result) < _LARGE else ".6g")


def _fixed(value: object) -> str:
    return _number(value, ".4f")


def _duration(value: object) -> str:
    result = plain(value, depth=0, max_string=_CHARACTERS)
    if isinstance(result, bool) or not isinstance(result, (int, float)) or not math.isfinite(result):
        return _text(result)
    fitting = (unit for unit in _UNITS if abs(round(result / unit[0], 1)) < unit[1])  # never 60.0s for a minute
    nanoseconds, _, sign = next(fitting, _UNITS[-1])
    return f"{result / nanoseconds:.1f}{sign}"


def _stage_stopped(values: _Values) -> tuple[str, str]:
    stage, duration = _text(values.get("stage")), _duration(values.get("duration"))
    if values.get("success") is False:
        return f"Stage {stage} failed after {duration}", _RED
    return f"Stage {stage} completed in {duration}", _GREEN


def _evaluated(values: _Values) -> tuple[str, str]:
    metrics = plain(values.get("metrics"), depth=1, max_string=_CHARACTERS, max_items=_METRICS)
    shown = [f"{_text(name)}={_fixed(value)}" for name, value in metrics.items()] if isinstance(metrics, dict) else []
    head = f"Evaluation {_text(values.get('split'))} at step {_text(values.get('step'))}"
    return " | ".join([head, *(shown or ["?"])]), _CYAN


_LINES: Final[dict[str, Callable[[_Values], tuple[str, str]]]] = {
    "workflow.run.start": lambda v: (f"Workflow started: {_text(v.get('workflow'))}", _CYAN),
    "workflow.run.stop": lambda v: (f"Workflow completed in {_duration(v.get('duration'))}", _GREEN),
    "workflow.run.exception": lambda v: (
        f"Workflow failed: {_text(v.get('workflow'))}: {_text(v.get('error'))}",
        _RED,
    ),
    "stage.run.start": lambda v: (f"Stage started: {_text(v.get('stage'))}", _CYAN),
    "stage.run.stop": _stage_stopped,
    "stage.run.exception": lambda v: (f"Stage {_text(v.get('stage'))} failed: {_text(v.get('error'))}", _RED),
    "training.step": lambda v: (
        f"Step {_text(v.get('step'))}/{_text(v.get('total_steps'))}"
        f" | loss={_fixed(v.get('loss'))} | lr={_number(v.get('lr'), '.6g')}",
        _PLAIN,
    ),
    "training.epoch": lambda v: (f"Epoch {_text(v.get('epoch'))}/{_text(v.get('total_epochs'))} complete", _GREEN),
    "training.checkpoint": lambda v: (f"Checkpoint saved: {_text(v.get('checkpoint_name'))}", _GREEN),
    "training.eval": _evaluated,
    "dataset.load": lambda v: (
        f"Dataset {_text(v.get('name'))} loaded: {_text(v.get('size'))} examples in {_duration(v.get('duration'))}",
        _CYAN,
    ),
    _BATCH: lambda v: (f"Batch {_text(v.get('batch_idx'))} | batch_size={_text(v.get('batch_size'))}", _PLAIN),
}
"""A kitchen event without its family -> its line and colour."""

_TOPICS: Final = {alias.name: alias.name.partition(".")[2] for alias in KITCHEN}
