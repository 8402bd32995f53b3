"""Evaluations and checkpoints: blocks inside a run that are no training steps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from crucible_otel.events.names import text
from crucible_otel.events.runtime import Runtime
from crucible_otel.events.scope import Scope
from crucible_otel.otel.values import settled
from crucible_otel.semconv.training import CHECKPOINT_OPERATION, EVALUATION_OPERATION
from crucible_otel.verbs.given import guarded, mapping
from crucible_otel.verbs.managed import Managed

if TYPE_CHECKING:
    from crucible_otel.verbs.run import Run

T = TypeVar("T")
_FILES_LOOKED_AT = 10_000
_DEPTH = 8


class _InRun(Managed):
    """A block whose time is no part of a training step."""

    def __init__(self, run: Run, operation: Any, fields: dict[str, Any]) -> None:
        super().__init__(operation, fields)
        self._run = run

    def _begin(self, *, enter: bool) -> Scope | None:
        self._run.step_aside()
        scope = self._run.runtime.open(self._operation, dict(self.fields), enter=enter)
        self._open.append((self._run.runtime, scope, self))
        self._run.owned(self)
        return scope

    def _end(self, error: BaseException | None = None) -> None:
        if self._open:
            super()._end(error)
            self._run.disowned(self)
            self._run.come_back()


class Evaluation(_InRun):
    """An evaluation in progress; see ``Run.evaluate``."""

    def __init__(self, run: Run, fields: dict[str, Any]) -> None:
        super().__init__(run, EVALUATION_OPERATION, fields)

    @guarded
    def log(self, metrics: Mapping[str, Any] | None = None, **values: Any) -> None:
        """Say what it came to: ``ev.log(loss=0.3, accuracy=0.91)``; reported when it ends.

        Args:
            metrics: Name -> number; nested maps are joined by dots.
            values: The same, by keyword.
        """
        found = self._measurements.setdefault("metrics", {})
        found.update(flattened(metrics, "ev.log(metrics)"))
        found.update(flattened(values))

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        """Iterate over the batches of the evaluation; they are no training steps."""
        return iter(loader)


class Checkpoint(_InRun):
    """A checkpoint being saved; see ``Run.checkpoint``."""

    def __init__(self, run: Run, fields: dict[str, Any], size_bytes: int | None) -> None:
        super().__init__(run, CHECKPOINT_OPERATION, fields)
        self._size_bytes = size_bytes

    def _ending(self, current: Runtime, scope: Scope) -> None:
        size, path = self._size_bytes, self.fields.get("path")
        if size is None and path:
            size = size_of(path)
        if size is not None:
            self._measurements["size_bytes"] = size


def path_text(path: Any) -> str | None:
    """Return a path as text; None for none."""
    try:
        return None if path is None else os.fsdecode(path)
    except Exception:
        return text(path)


def size_of(path: str) -> int | None:
    """Return the size of a file, or of the files below a directory, in bytes; None if it cannot be read."""
    try:
        if not os.path.isdir(path):
            return os.stat(path).st_size
        total, looked_at = 0, 0
        for folder, _, names in os.walk(path):
            for name in names:
                total += os.lstat(os.path.join(folder, name)).st_size
                looked_at += 1
                if looked_at >= _FILES_LOOKED_AT:
                    return None
        return total
    except (OSError, ValueError):
        return None


def flattened(values: Any, what: str = "metrics") -> dict[str, Any]:
    """Return a map name -> number out of a map that may be nested; names are joined by dots.

    Args:
        values: The map.
        what: Verb and argument, for the refusal of anything else.
    """
    return dict(_leaves(mapping(values, what), "", _DEPTH))


def _leaves(values: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            if depth:
                yield from _leaves(mapping(value, prefix), f"{prefix}{key}.", depth - 1)
        else:
            yield f"{prefix}{key}", value if isinstance(value, (str, bool)) else settled(value)
