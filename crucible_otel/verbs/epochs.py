"""Epochs: the iterator, the block, and the number that can log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crucible_otel.events.context import current_context, make_current
from crucible_otel.events.scope import Scope, current
from crucible_otel.otel.values import settled
from crucible_otel.semconv.training import EPOCH_OPERATION
from crucible_otel.verbs.evaluation import flattened
from crucible_otel.verbs.given import guarded, present, whole

if TYPE_CHECKING:
    from crucible_otel.verbs.run import Run


class Epoch(int):
    """The number of an epoch, to be used as one: ``sampler.set_epoch(epoch)``."""

    _values: dict[str, Any] | None = None

    @guarded
    def log(
        self,
        loss: Any = None,
        accuracy: Any = None,
        learning_rate: Any = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Say what the epoch came to; reported when it ends.

        Args:
            loss: Mean loss.
            accuracy: Accuracy.
            learning_rate: Learning rate at its end.
            metrics: Further values, name -> number; nested maps are joined by dots.
        """
        if self._values is None:
            return
        given = present(loss=loss, accuracy=accuracy, learning_rate=learning_rate)
        self._values.update({name: settled(value) for name, value in given.items()})
        further = flattened(metrics, "epoch.log(metrics)")
        if further:
            self._values["metrics"] = {**self._values.get("metrics", {}), **further}


class OpenEpoch:
    """One epoch in progress; a ``with`` block when it was asked for by number."""

    __slots__ = ("_number", "_run", "_total", "_values", "scope")

    def __init__(self, run: Run, number: int, total: int | None) -> None:
        self._run, self._number, self._total = run, number, total
        self._values: dict[str, Any] = {}
        self.scope: Scope | None = None

    def begin(self) -> Epoch:
        """Start it and make it current."""
        run = self._run
        run.settle()
        epoch = Epoch(self._number)
        epoch._values = self._values
        outside, home = current_context(), run._home()
        if home is not None:
            make_current(home)
        try:
            self.scope = run.runtime.open(EPOCH_OPERATION, {"epoch": self._number, "total_epochs": self._total})
        except BaseException:  # a Ctrl-C in a handler
            if home is not None:
                make_current(outside)
            raise
        if home is not None:
            self.scope.prior = outside
        run.epoch_opened(self)
        return epoch

    def end(self, error: BaseException | None, at_s: float | None = None) -> None:
        """End it; ``at_s`` is when it really ended, if earlier."""
        scope, run = self.scope, self._run
        if scope is None:
            return
        if not scope.ended:
            run.epoch_ending(self)
        measurements = dict(self._values)
        if at_s is not None:
            measurements["duration"] = max(0, round((at_s - scope.started_s) * 1e9))
        run.runtime.close(scope, error=error, measurements=measurements)

    def __enter__(self) -> Epoch:
        """Start the epoch."""
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the epoch; an exception travels on."""
        self.end(error)


class Epochs:
    """Iterator over epochs; ends each when the next is asked for."""

    __slots__ = ("_next", "_open", "_run", "_total")

    def __init__(self, run: Run, start: int, total: int | None) -> None:
        self._run, self._next, self._total = run, start, total
        self._open: OpenEpoch | None = None

    def __iter__(self) -> Epochs:
        return self

    def __next__(self) -> Epoch:
        if self._open is not None:
            self._open.end(None)
            self._open = None
        if self._total is not None and self._next >= self._total:
            raise StopIteration
        opened = OpenEpoch(self._run, self._next, self._total)
        self._next += 1
        epoch = opened.begin()
        self._open = opened
        return epoch

    def __del__(self) -> None:
        opened = self._open
        if opened is not None and opened.scope is not None and not opened.scope.ended:
            self._run.epoch_dropped(opened)
            if current() is opened.scope:
                opened.scope.leave()


def planned(total: Any, otherwise: int | None) -> int | None:
    """Return how many epochs there are to be; None for as many as the loop takes.

    Something that is no number must not make an endless loop of a bounded one: without a plan to fall back on there
    are none.
    """
    if total is None or (isinstance(total, float) and total == math.inf):
        return otherwise if total is None else None
    found = whole(total, "run.epochs(total)")
    return found if found is not None else otherwise or 0
